"""The training loop: its noiseless limit, its invariances, and the displacement that the theory predicts for it."""

import itertools
import math

import pytest
import torch
from scipy.stats import kstest, pearsonr

from sandbox.measure.gauge import polar_displacement, polar_factor
from sandbox.student import distill as loop
from sandbox.student.denoiser import Denoiser, one_step
from sandbox.student.distill import DIVERGED, Recipe, distill, log_spaced
from sandbox.student.fake import NetworkFake
from sandbox.student.initialise import haar_rotation, linear_start
from sandbox.student.losses import NORMALISERS
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.noise import draw_noise
from sandbox.student.optimise import Adam
from sandbox.student.population import population_gradient
from sandbox.teacher.covariance import Full
from sandbox.teacher.flow import teacher_map
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins, LogUniform
from sandbox.theory.copying import displacement, settling_time
from sandbox.theory.flat import Flat


def generators(count, seed=0):
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def eye(dim):
    return torch.eye(dim, dtype=torch.float64)


def gaussian(covariance, mean=None):
    mean = torch.zeros(len(covariance), dtype=torch.float64) if mean is None else mean
    return GaussianMixture([1.0], mean[None], Full(covariance[None]))


def power_law(dim, exponent=1.5, seed=0):
    """Eigenvalues k^-1.5 of trace d in a random basis, so that nothing is diagonal by accident."""
    lam = torch.arange(1, dim + 1, dtype=torch.float64) ** -exponent
    Q = haar_rotation(dim, torch.Generator().manual_seed(seed))
    covariance = (Q * (dim * lam / lam.sum())) @ Q.mT
    return (covariance + covariance.mT) / 2


SPECTRA = {"flat": eye, "power law": power_law}


def final(teachers, students, recipe, sources):
    *_, last = distill(teachers, students, recipe, sources, checkpoints=[recipe.steps])
    return last


def starts(teacher, count, kind="teacher", bias=False, sigma_init=80.0):
    return [linear_start(kind, teacher, sigma_init, g, bias=bias)[0] for g in generators(count, seed=9)]


class TestNoiselessLimit:
    @pytest.mark.parametrize("spectrum", SPECTRA)
    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-6), (2, 1e-6), (8, 1e-6), (32, 1e-6), (128, 1e-6)])
    @pytest.mark.parametrize(("rate", "steps"), [(4.0, 60)])
    def test_a_teacher_start_ends_as_an_exact_copy(self, dim, tolerance, spectrum, rate, steps):
        """sigma_max = 1e4 for the reference, so that its own law is off by far less than the tolerance."""
        covariance = SPECTRA[spectrum](dim)
        teacher = gaussian(covariance)
        A = linear_start("teacher", teacher, 80.0, torch.Generator())[0].weight.detach()
        reference = teacher_map(teacher, eye(dim), sigma_max=1e4).mT
        before = (A - reference).square().sum() / (A.square().sum() + reference.square().sum())
        assert before > 0.1
        for _ in range(steps):
            A = A - rate * population_gradient(A, covariance, LogUniform(), nodes=60)
        assert (A @ A.mT - covariance).norm() <= tolerance * covariance.norm()
        pairs = (A - reference).square().sum() / (A.square().sum() + reference.square().sum())
        assert pairs <= tolerance
        assert polar_displacement(A).item() <= tolerance

    @pytest.mark.parametrize("dim", [2, 8])
    @pytest.mark.parametrize(("rate", "steps", "tolerance"), [(1.0, 80, 1e-3)])
    def test_any_start_keeps_its_own_pairing(self, dim, rate, steps, tolerance):
        """A law that commutes with the teacher's goes on doing so, and then the polar factor does not move."""
        rotation = haar_rotation(dim, torch.Generator().manual_seed(4))
        A = torch.diag(torch.linspace(0.1, 0.4, dim, dtype=torch.float64)) @ rotation
        for _ in range(steps):
            A = A - rate * population_gradient(A, eye(dim), LogUniform(), nodes=40)
        torch.testing.assert_close(polar_factor(A), rotation, rtol=0, atol=1e-10)
        assert (A @ A.mT - eye(dim)).norm() <= tolerance

    @pytest.mark.parametrize("law", [LogUniform(), KarrasBins()], ids=lambda law: type(law).__name__)
    @pytest.mark.parametrize(("dim", "tolerance"), [(5, 1e-13)])
    def test_is_horizontal(self, law, dim, tolerance):
        """The gradient is H A with H symmetric, whatever A."""
        A = normal(3, dim, dim, seed=2)
        H = population_gradient(A, power_law(dim), law) @ torch.linalg.inv(A)
        torch.testing.assert_close(H, H.mT, rtol=0, atol=100 * tolerance)
        assert H.abs().max() > 0.1

    @pytest.mark.parametrize("law", [LogUniform(), KarrasBins()], ids=lambda law: type(law).__name__)
    @pytest.mark.parametrize(("dim", "tolerance"), [(4, 1e-11)])
    def test_by_one_inverse_per_level(self, law, dim, tolerance):
        A, covariance = normal(dim, dim, seed=3), power_law(dim)
        C = A @ A.mT
        want = torch.zeros_like(A)
        for sigma, weight in zip(*law.nodes(200), strict=True):
            noise = float(sigma) ** 2 * eye(dim)
            fake, real = (torch.linalg.solve(matrix + noise, matrix) for matrix in (C, covariance))
            want += float(weight) * (fake - real)
        torch.testing.assert_close(population_gradient(A, covariance, law), want @ A, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("antithetic", [False, True])
    @pytest.mark.parametrize("dim", [1, 3])
    @pytest.mark.parametrize(("count", "batch", "standard_errors"), [(100, 1000, 4.0)])
    def test_is_the_average_of_the_minibatch_gradient(self, dim, antithetic, count, batch, standard_errors):
        """One step of learning rate one, from one start with many generators."""
        covariance, A = power_law(dim), 0.3 * normal(dim, dim, seed=5) + 0.4 * eye(dim)
        recipe = Recipe(1, 1.0, batch, "off", antithetic=antithetic)
        pack = Pack.of([LinearStudent(A) for _ in range(count)])
        ends = final(gaussian(covariance), pack, recipe, generators(count)).students.parameters["weight"]
        gradients = A - ends
        error = gradients.std(0) / math.sqrt(count)
        want = population_gradient(A, covariance, recipe.law)
        assert ((gradients.mean(0) - want).abs() <= standard_errors * error).all()
        assert error.norm() < 0.2 * want.norm()


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize(("count", "steps", "tolerance"), [(3, 50, 1e-10)])
def test_a_rotated_start_is_the_teachers_with_relabelled_noise(dim, normaliser, monkeypatch, count, steps, tolerance):
    """A_0 R fed z walks as A_0 fed R z: the loss does not know which noise belongs to which datum."""
    teacher = gaussian(power_law(dim))
    recipe = Recipe(steps, 0.02, 16, normaliser)
    built = [linear_start("rotated", teacher, 80.0, g) for g in generators(count, seed=3)]
    rotations = torch.stack([R for _, R in built])
    rotated = final(teacher, Pack.of([s for s, _ in built]), recipe, generators(count)).students.parameters["weight"]

    def relabelled(*arguments):
        z, eps, uniform = draw_noise(*arguments)
        return z @ rotations.mT, eps, uniform

    monkeypatch.setattr(loop, "draw_noise", relabelled)
    pack = Pack.of(starts(teacher, count))
    plain = final(teacher, pack, recipe, generators(count)).students.parameters["weight"]
    assert (plain - pack.parameters["weight"]).abs().max() > 0.01, "the students must have moved"
    torch.testing.assert_close(rotated, plain @ rotations, rtol=0, atol=tolerance)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize(("dim", "batch", "lr", "tolerance"), [(1, 6, 0.3, 1e-12), (4, 6, 0.3, 1e-12)])
def test_one_update_by_hand(dim, batch, lr, tolerance, normaliser, antithetic):
    """Sample by sample from the definitions, by linear solves, with a bias and teachers of non-zero mean."""
    covariance, mean = power_law(dim), normal(dim, seed=1)
    A, b = 0.5 * eye(dim) + 0.2 * normal(dim, dim, seed=2), normal(dim, seed=3)
    recipe = Recipe(1, lr, batch, normaliser, antithetic=antithetic)
    got = final(gaussian(covariance, mean), Pack.of([LinearStudent(A, b)]), recipe, generators(1)).students.parameters
    noise = draw_noise(generators(1), batch, dim, antithetic, torch.float64)
    differences, distances = [], []
    for z, eps, u in zip(*(t[0] for t in noise), strict=True):
        sigma = 0.02 * 4000 ** u.item()
        x = A @ z + b
        y = x + sigma * eps
        real, fake = (
            m + C @ torch.linalg.solve(C + sigma**2 * eye(dim), y - m) for m, C in ((mean, covariance), (b, A @ A.mT))
        )
        differences.append(fake - real)
        distances.append((x - real).abs().mean())
    weights = {"off": [1.0] * batch, "per-sample": distances, "batch": [sum(distances) / batch] * batch}[normaliser]
    moves = [g / w for g, w in zip(differences, weights, strict=True)]
    weight = A - lr / batch * sum(torch.outer(g, z) for g, z in zip(moves, noise[0][0], strict=True))
    torch.testing.assert_close(got["weight"][0], weight, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(got["bias"][0], b - lr / batch * sum(moves), rtol=tolerance, atol=tolerance)


class TestPack:
    """A student's numbers do not depend, to the last bit, on the pack that it is trained in."""

    def ends(self, teachers, students, recipe, seeds):
        sources = [torch.Generator().manual_seed(s) for s in seeds]
        snapshot = final(teachers, Pack.of(students), recipe, sources)
        assert (snapshot.diverged_at == -1).all()
        return snapshot.students.parameters

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("antithetic", [False, True])
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("dim", [1, 2, 5, 8, 17, 32])
    @pytest.mark.parametrize(("count", "steps"), [(16, 6)])
    def test_of_sixteen_equals_packs_of_one(self, dim, normaliser, antithetic, bias, count, steps):
        teacher = gaussian(power_law(dim), normal(dim, seed=8) if bias else None)
        # 14 is no multiple of the kernels' blocks, on purpose
        recipe = Recipe(steps, 0.02, 14, normaliser, antithetic=antithetic)
        students = starts(teacher, count, "rotated", bias)
        together = self.ends(teacher, students, recipe, range(count))
        assert set(together) == {"weight", "bias"} if bias else {"weight"}
        for i in (0, 1, 7, 15):
            for name, value in self.ends(teacher, [students[i]], recipe, [i]).items():
                assert not torch.equal(value[0], getattr(students[i], name)), "the student must have moved"
                assert torch.equal(together[name][i], value[0]), (name, i)

    @pytest.mark.parametrize("dim", [2, 17])
    @pytest.mark.parametrize(("count", "steps", "rounding"), [(16, 6, 1e-11)])
    def test_with_learning_rates_and_teachers_of_their_own(self, dim, count, steps, rounding):
        teachers = [gaussian(power_law(dim, 0.2 * (i + 1), seed=i), normal(dim, seed=i)) for i in range(count)]
        students = [linear_start("teacher", t, 80.0, torch.Generator(), bias=True)[0] for t in teachers]
        lr = torch.logspace(-3, -1, count, dtype=torch.float64)
        together = self.ends(GaussianMixture.stack(teachers), students, Recipe(steps, lr, 14), range(count))
        for i in (0, 7, 15):
            single, seeds = GaussianMixture.stack([teachers[i]]), [i]
            alone = self.ends(single, [students[i]], Recipe(steps, lr[i].item(), 14), seeds)
            # a teacher without a pack axis goes through other matrix products, that agree to rounding only
            shared = self.ends(teachers[i], [students[i]], Recipe(steps, lr[i].item(), 14), seeds)
            for name, value in alone.items():
                assert torch.equal(together[name][i], value[0]), (name, i)
                torch.testing.assert_close(shared[name][0], value[0], rtol=rounding, atol=rounding)
        # the axis must be read: with the teachers shifted by one, the ends are others
        shifted = GaussianMixture.stack(teachers[1:] + teachers[:1])
        assert not torch.equal(
            self.ends(shifted, students, Recipe(steps, lr, 14), range(count))["weight"], together["weight"]
        )

    @pytest.mark.parametrize("place", [0, 3, 5])
    @pytest.mark.parametrize(("dim", "count"), [(8, 6)])
    def test_a_student_does_not_depend_on_its_place(self, place, dim, count):
        teacher = gaussian(power_law(dim))
        students, recipe = starts(teacher, count, "rotated"), Recipe(6, 0.02, 14)
        want = self.ends(teacher, [students[0]], recipe, [0])["weight"][0]
        order = [*range(1, count)]
        order.insert(place, 0)
        got = self.ends(teacher, [students[i] for i in order], recipe, order)["weight"][place]
        assert torch.equal(got, want)

    @pytest.mark.parametrize("rate", [1e30, 1e9])
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize(("dim", "count", "steps", "victim"), [(5, 4, 12, 2)])
    def test_a_lost_student_leaves_the_others_alone(self, normaliser, rate, dim, count, steps, victim):
        teacher = gaussian(power_law(dim))
        pack = Pack.of(starts(teacher, count, "rotated"))
        calm = torch.full((count,), 0.02, dtype=torch.float64)
        wild = calm.clone()
        wild[victim] = rate
        marks = range(steps + 1)
        well, broken = (
            list(distill(teacher, pack, Recipe(steps, lr, 16, normaliser), generators(count), marks))
            for lr in (calm, wild)
        )
        others = [i for i in range(count) if i != victim]
        for a, b in zip(well, broken, strict=True):
            assert torch.equal(a.students.parameters["weight"][others], b.students.parameters["weight"][others])
            assert (b.diverged_at[others] == -1).all()
        # A snapshot's record is of its own time: nothing is lost before the first update.
        assert broken[0].diverged_at.tolist() == [-1] * count
        assert broken[-1].diverged_at[victim] == 1
        assert torch.equal(broken[-1].students.parameters["weight"][victim], pack.parameters["weight"][victim])

    @pytest.mark.parametrize(("dim", "steps", "bad"), [(3, 8, 4)])
    def test_what_is_lost_stays_lost(self, dim, steps, bad, monkeypatch):
        """One draw out of all bounds, and ordinary ones before and after it."""
        calls = []

        def spiked(*arguments):
            z, eps, uniform = draw_noise(*arguments)
            calls.append(1)
            if len(calls) == bad:
                z[1] *= 1e40
            return z, eps, uniform

        teacher, recipe = gaussian(power_law(dim)), Recipe(steps, 0.02, 16, "off")
        pack, marks = Pack.of(starts(teacher, 2)), range(steps + 1)
        undisturbed = list(distill(teacher, pack, recipe, generators(2), marks))
        monkeypatch.setattr(loop, "draw_noise", spiked)
        snapshots = list(distill(teacher, pack, recipe, generators(2), marks))
        assert [s.diverged_at.tolist() for s in snapshots] == [[-1, -1]] * bad + [[-1, bad]] * (steps + 1 - bad)
        for plain, s in zip(undisturbed, snapshots, strict=True):
            now, then = s.students.parameters["weight"], plain.students.parameters["weight"]
            assert torch.equal(now[0], then[0])
            assert torch.equal(now[1], then[1] if s.step < bad else pack.parameters["weight"][1])

    @pytest.mark.parametrize(("dim", "steps"), [(3, 10)])
    def test_the_update_of_the_loss_is_recorded(self, dim, steps):
        """The rate is chosen for the second student to pass the limit at its first update; the first never does."""
        teacher = gaussian(power_law(dim))
        lr = torch.tensor([0.01, 1e12], dtype=torch.float64)
        pack = Pack.of(starts(teacher, 2))
        snapshots = list(distill(teacher, pack, Recipe(steps, lr), generators(2), range(steps + 1)))
        assert [s.diverged_at.tolist() for s in snapshots] == [[-1, -1]] + [[-1, 1]] * steps
        for s in snapshots:
            assert (s.students.parameters["weight"].abs() < DIVERGED).all()


@pytest.mark.slow
class TestDisplacement:
    def measured(self, dim, batch, count, normaliser, antithetic=False, lr=0.02, steps=None):
        problem = Flat(dim, normaliser=normaliser)
        steps = round(settling_time(problem) / lr) if steps is None else steps
        teacher = gaussian(eye(dim))
        recipe = Recipe(steps, lr, batch, normaliser, antithetic=antithetic)
        last = final(teacher, Pack.of(starts(teacher, count)), recipe, generators(count))
        assert (last.diverged_at == -1).all()
        weight = last.students.parameters["weight"]
        # A displacement of a student that has not grown would say nothing.
        assert (weight.square().sum((1, 2)) / dim > 0.9).all()
        return polar_displacement(weight).mean().item()

    @pytest.mark.parametrize(("dim", "batch", "count", "tolerance"), [(8, 64, 16, 0.08), (32, 256, 4, 0.08)])
    def test_is_the_predicted_one(self, dim, batch, count, tolerance):
        measured = self.measured(dim, batch, count, "per-sample")
        assert measured == pytest.approx(displacement(Flat(dim), 0.02, batch), abs=tolerance)

    @pytest.mark.parametrize(("dim", "batch", "count", "ratio"), [(16, 64, 4, 0.02)])
    def test_antithetic_noise_removes_it(self, dim, batch, count, ratio):
        """With +eps and -eps at one level the part of the gradient that turns the gauge cancels at first order."""
        ordinary, paired = (self.measured(dim, batch, count, "off", a, steps=3000) for a in (False, True))
        assert ordinary > 0.2
        assert paired < ratio * ordinary


class TestDrawNoise:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("antithetic", [False, True])
    def test_shapes_and_precision(self, antithetic, dtype):
        z, eps, uniform = draw_noise(generators(3), 6, 4, antithetic, dtype)
        assert z.shape == eps.shape == (3, 6, 4)
        assert uniform.shape == (3, 6)
        assert z.dtype == eps.dtype == uniform.dtype == dtype
        assert ((uniform >= 0) & (uniform < 1)).all()

    def test_antithetic_pairs(self):
        z, eps, uniform = draw_noise(generators(3), 6, 4, True, torch.float64)
        assert torch.equal(z[:, :3], z[:, 3:])
        assert torch.equal(eps[:, :3], -eps[:, 3:])
        assert torch.equal(uniform[:, :3], uniform[:, 3:])
        assert len(z[:, :3].flatten().unique()) == 36
        assert eps.abs().min() > 0

    @pytest.mark.parametrize("antithetic", [False, True])
    def test_a_students_numbers_are_its_generators(self, antithetic):
        """Also over several draws: a pack must not advance anyone's generator but by that student's own numbers."""
        together, alone = generators(5), generators(5)
        for _ in range(3):
            packed = draw_noise(together, 6, 4, antithetic, torch.float64)
            for i in (4, 0, 2):
                single = draw_noise([alone[i]], 6, 4, antithetic, torch.float64)
                for a, b in zip(packed, single, strict=True):
                    assert torch.equal(a[i], b[0])

    @pytest.mark.parametrize("p_value", [1e-3])
    def test_distributions(self, p_value):
        z, eps, uniform = (t.flatten().numpy() for t in draw_noise(generators(4), 500, 5, False, torch.float64))
        assert kstest(z, "norm").pvalue > p_value
        assert kstest(eps, "norm").pvalue > p_value
        assert kstest(uniform, "uniform").pvalue > p_value
        assert pearsonr(z, eps).pvalue > p_value


class TestLogSpaced:
    @pytest.mark.parametrize(
        ("steps", "per_octave", "want"),
        [
            (0, 1, (0,)),
            (1, 1, (0, 1)),
            (2, 1, (0, 1, 2)),
            (8, 1, (0, 1, 2, 4, 8)),
            (10, 1, (0, 1, 2, 4, 8, 10)),
            (10, 2, (0, 1, 2, 3, 4, 6, 8, 10)),
        ],
    )
    def test_by_hand(self, steps, per_octave, want):
        assert log_spaced(steps, per_octave) == want


class TestLoop:
    def problem(self, dim=3, count=2, **changes):
        teacher = gaussian(power_law(dim))
        recipe = Recipe(**({"steps": 6, "lr": 0.02, "batch": 8} | changes))
        return teacher, Pack.of(starts(teacher, count)), recipe, generators(count)

    def test_default_checkpoints(self):
        assert [s.step for s in distill(*self.problem(steps=10))] == list(log_spaced(10))

    def test_asked_checkpoints(self):
        assert [s.step for s in distill(*self.problem(), checkpoints=[3, 0, 5])] == [0, 3, 5]

    def test_looking_changes_nothing(self):
        ends = [
            list(distill(*self.problem(), checkpoints=marks))[-1].students.parameters["weight"]
            for marks in ([6], range(7), [1, 6])
        ]
        assert torch.equal(ends[0], ends[1])
        assert torch.equal(ends[0], ends[2])

    def test_the_start_is_yielded_and_kept(self):
        teacher, pack, recipe, sources = self.problem()
        weight = pack.parameters["weight"]
        copy = weight.clone()
        snapshots = list(distill(teacher, pack, recipe, sources))
        assert torch.equal(snapshots[0].students.parameters["weight"], copy)
        assert torch.equal(weight, copy)
        assert not weight.requires_grad
        values = [s.students.parameters["weight"].detach() for s in snapshots]
        assert len({v.sum().item() for v in values}) == len(values), "a later update must not show in a snapshot"

    def test_the_global_generator_is_untouched(self):
        before = torch.random.get_rng_state()
        list(distill(*self.problem()))
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_generators_are_advanced_by_as_much_as_was_drawn(self):
        teacher, pack, recipe, sources = self.problem()
        list(distill(teacher, pack, recipe, sources))
        reference = generators(2)
        for _ in range(recipe.steps):
            draw_noise(reference, recipe.batch, teacher.dim, False, torch.float64)
        for a, b in zip(sources, reference, strict=True):
            assert torch.equal(a.get_state(), b.get_state())

    def test_reruns_are_identical(self):
        first, second = (list(distill(*self.problem()))[-1].students.parameters["weight"] for _ in range(2))
        assert torch.equal(first, second)

    @pytest.mark.parametrize("dim", [2, 4, 8])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_mean_reduction_is_a_learning_rate(self, dim, tolerance):
        """dim times smaller; the dimensions are powers of two."""
        summed, averaged = (
            list(distill(*self.problem(dim, lr=lr, reduction=reduction)))[-1].students.parameters["weight"]
            for lr, reduction in ((0.01, "sum"), (0.01 * dim, "mean"))
        )
        torch.testing.assert_close(summed, averaged, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("dim", [3])
    def test_bias_follows_the_teachers_mean(self, dim):
        mean = normal(dim, seed=8)
        teacher = gaussian(eye(dim), mean)
        student = LinearStudent(0.5 * eye(dim), torch.zeros(dim, dtype=torch.float64))
        recipe = Recipe(400, 0.1, 256, "off")
        last = final(teacher, Pack.of([student]), recipe, generators(1)).students.parameters
        torch.testing.assert_close(last["bias"][0], mean, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": -1}, r"steps must be >= 0, got -1"),
        ({"batch": 0}, r"batch must be >= 1, got 0"),
        ({"batch": 7, "antithetic": True}, r"batch must be even with antithetic noise, got 7"),
        *[({"lr": bad}, rf"lr must be > 0, got {bad}") for bad in (0.0, -0.1, math.nan)],
        ({"lr": torch.tensor([0.1, 0.0])}, r"lr must be > 0, got tensor\(\[0\.1"),
        ({"normaliser": "none"}, r"normaliser must be one of per-sample, batch, off, got 'none'"),
        ({"reduction": "max"}, r"reduction must be one of sum, mean, got 'max'"),
    ],
)
def test_bad_recipes(change, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**({"steps": 1, "lr": 0.1} | change))


def test_bad_steps_of_checkpoints():
    with pytest.raises(ValueError, match=r"steps must be >= 0, got -1"):
        log_spaced(-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generators": generators(3)}, r"generators must be one per student \(2\), got 3"),
        ({"generators": generators(1) * 2}, r"generators must be distinct"),
        ({"recipe": Recipe(1, torch.tensor([0.1, 0.2, 0.3]))}, r"lr must be .* shape \(2,\), got \(3,\)"),
        (
            {"teachers": GaussianMixture.stack([gaussian(eye(2))] * 3)},
            r"teachers must be one or one per student \(2\), got 3",
        ),
        ({"teachers": gaussian(eye(3))}, r"students must take noise of the teachers' dimension 3: "),
        (
            {"students": Pack.of([LinearStudent(torch.ones(3, 2, dtype=torch.float64))] * 2)},
            "students must make samples of the teachers' dimension 2, got 3",
        ),
    ],
)
def test_bad_packs(change, message):
    students = Pack.of([LinearStudent(eye(2))] * 2)
    arguments = {"teachers": gaussian(eye(2)), "students": students, "recipe": Recipe(1, 0.1)}
    with pytest.raises(ValueError, match=message):
        next(distill(**{**arguments, "generators": generators(2), **change}))


def test_students_of_unknown_law():
    students = Pack.of([torch.nn.Linear(2, 2, dtype=torch.float64)])
    with pytest.raises(TypeError, match="needs a linear student, got Linear"):
        next(distill(gaussian(eye(2)), students, Recipe(1, 0.1), generators(1)))


class TestSchedules:
    """Decay, clipping and averaging, against the updates of a plain run from the same noise."""

    START = 0.3 * eye(3)

    def path(self, steps=6, **settings):
        pack = Pack.of([LinearStudent(self.START)])
        recipe = Recipe(steps, 0.1, 8, **settings)
        snapshots = distill(gaussian(power_law(3)), pack, recipe, generators(1), range(steps + 1))
        return [s.students.parameters["weight"][0] for s in snapshots]

    def test_the_rate_falls_at_the_end(self):
        plain, falling = self.path(), self.path(decay=0.5)
        assert all(torch.equal(a, b) for a, b in zip(plain[:5], falling[:5], strict=True))
        assert not torch.equal(plain[5], falling[5])
        assert [Recipe(6, 0.1, decay=0.5).rate(t) for t in range(6)] == pytest.approx([1, 1, 1, 1, 2 / 3, 1 / 3])

    @pytest.mark.parametrize("norm", [0.05])
    def test_no_update_is_longer_than_the_clip(self, norm):
        moves = torch.stack([b - a for a, b in itertools.pairwise(self.path(clip=norm))])
        assert moves.flatten(1).norm(dim=1).max() <= 0.1 * norm * (1 + 1e-6)
        plain = self.path()
        assert (plain[1] - plain[0]).norm() > 0.1 * norm

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_the_average_follows_the_students(self, tolerance):
        want = self.START
        for now, averaged in zip(self.path()[1:], self.path(average=0.8)[1:], strict=True):
            want = 0.8 * want + 0.2 * now
            torch.testing.assert_close(averaged, want, rtol=tolerance, atol=tolerance)


class GaussianDenoiser(torch.nn.Module):
    """The denoiser of N(m, F F^T) as a network with parameters m and F, by one linear solve per point."""

    def __init__(self, mean, factor):
        super().__init__()
        self.mean, self.factor = torch.nn.Parameter(mean.clone()), torch.nn.Parameter(factor.clone())

    def forward(self, x, sigma):
        """x (n, d), sigma (n,) -> (n, d)."""
        C = self.factor @ self.factor.mT
        noised = C + sigma.square()[:, None, None] * torch.eye(x.shape[-1], dtype=x.dtype)
        return self.mean + torch.linalg.solve(noised, (x - self.mean)[..., None])[..., 0] @ C


class TestRealNetworks:
    """Denoiser networks in the place of the teachers' closed form."""

    def laws(self, dim, count):
        """(mean, factor) of one Gaussian for each student."""
        return [(normal(dim, seed=i), torch.linalg.cholesky(power_law(dim, 0.5 * i, seed=i))) for i in range(count)]

    def students(self, dim, count):
        return Pack.of(
            [
                LinearStudent(0.3 * eye(dim) + 0.1 * normal(dim, dim, seed=20 + i), normal(dim, seed=30 + i))
                for i in range(count)
            ]
        )

    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("dim", [1, 3])
    @pytest.mark.parametrize(("count", "steps", "tolerance"), [(3, 20, 1e-10)])
    def test_that_know_the_teachers_train_as_the_teachers_do(self, dim, normaliser, count, steps, tolerance):
        laws, students = self.laws(dim, count), self.students(dim, count)
        teachers = GaussianMixture.stack([gaussian(F @ F.mT, m) for m, F in laws])
        real = Pack.of([GaussianDenoiser(m, F) for m, F in laws])
        recipe = Recipe(steps, 0.05, 16, normaliser)
        plain, by_network = (
            list(distill(teachers, students, recipe, generators(count), real=networks)) for networks in (None, real)
        )
        for a, b in zip(plain, by_network, strict=True):
            assert (b.diverged_at == -1).all()
            for name, value in a.students.parameters.items():
                torch.testing.assert_close(b.students.parameters[name], value, rtol=0, atol=tolerance)
        moved = plain[-1].students.parameters["weight"] - students.parameters["weight"]
        assert moved.flatten(1).norm(dim=1).min() > 0.01
        # Each network belongs to its student: with one another's, the ends are others.
        swapped = Pack.of([GaussianDenoiser(m, F) for m, F in laws[1:] + laws[:1]])
        *_, last = distill(teachers, students, recipe, generators(count), real=swapped)
        apart = last.students.parameters["bias"] - plain[-1].students.parameters["bias"]
        assert apart.norm(dim=1).min() > 0.1

    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize(("dim", "batch", "lr", "tolerance"), [(3, 6, 0.3, 1e-12)])
    def test_one_update_by_hand(self, normaliser, dim, batch, lr, tolerance):
        """Sample by sample, with a network that is nobody's denoiser, by no gradient but this one."""

        class Bent(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.W = torch.nn.Parameter(normal(dim, dim, seed=11))

            def forward(self, x, sigma):
                return torch.tanh(x @ self.W.mT) / (1 + sigma[:, None])

        W, A, b = normal(dim, dim, seed=11), 0.5 * eye(dim) + 0.2 * normal(dim, dim, seed=2), normal(dim, seed=3)
        students, real = Pack.of([LinearStudent(A, b)]), Pack.of([Bent()])
        recipe = Recipe(1, lr, batch, normaliser)
        differences, distances = [], []
        noise = draw_noise(generators(1), batch, dim, False, torch.float64)
        for z, eps, u in zip(*(t[0] for t in noise), strict=True):
            sigma = 0.02 * 4000 ** u.item()
            x = A @ z + b
            y = x + sigma * eps
            target = torch.tanh(W @ y) / (1 + sigma)
            fake = b + A @ A.mT @ torch.linalg.solve(A @ A.mT + sigma**2 * eye(dim), y - b)
            differences.append(fake - target)
            distances.append((x - target).abs().mean())
        weights = {"off": [1.0] * batch, "per-sample": distances, "batch": [sum(distances) / batch] * batch}[normaliser]
        moves = [g / w for g, w in zip(differences, weights, strict=True)]
        # Whoever the teacher is: its closed form is not asked.
        for teacher in (gaussian(eye(dim)), gaussian(power_law(dim), normal(dim, seed=1))):
            *_, last = distill(teacher, students, recipe, generators(1), real=real)
            got = last.students.parameters
            weight = A - lr / batch * sum(torch.outer(g, z) for g, z in zip(moves, noise[0][0], strict=True))
            torch.testing.assert_close(got["weight"][0], weight, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(got["bias"][0], b - lr / batch * sum(moves), rtol=tolerance, atol=tolerance)
        assert torch.equal(real.parameters["W"][0], W), "the network does not train"

    @pytest.mark.parametrize(("dim", "steps", "tolerance"), [(2, 200, 0.1)])
    def test_students_end_at_the_networks_law(self, dim, steps, tolerance):
        mean, factor = torch.tensor([3.0, -1.0], dtype=torch.float64), torch.diag(torch.tensor([0.5, 1.5]).double())
        student = LinearStudent(0.8 * eye(dim), torch.zeros(dim, dtype=torch.float64))
        real = Pack.of([GaussianDenoiser(mean, factor)])
        recipe = Recipe(steps, 0.2, 256, "off", decay=0.5)
        *_, last = distill(gaussian(eye(dim)), Pack.of([student]), recipe, generators(1), real=real)
        A, b = (last.students.parameters[name][0] for name in ("weight", "bias"))
        torch.testing.assert_close(b, mean, rtol=0, atol=tolerance)
        torch.testing.assert_close(A @ A.mT, factor @ factor.mT, rtol=0, atol=tolerance)

    @pytest.mark.parametrize(("dim", "count", "steps"), [(2, 4, 4)])
    def test_a_students_numbers_do_not_depend_on_its_pack(self, dim, count, steps):
        """Students, fake score and real score all networks, to the last bit."""
        networks = [Denoiser(dim, 8, 1, g) for g in generators(count, seed=5)]
        for network, g in zip(networks, generators(count, seed=6), strict=True):
            with torch.no_grad():
                network.net.outward.add_(0.3 * torch.randn(network.net.outward.shape, generator=g))

        def ends(members):
            real = Pack.of([networks[i] for i in members])
            fake = NetworkFake.of(real, Adam(1e-3), LogUniform(), dim, batch=14, updates=2)
            teachers = GaussianMixture.stack([gaussian(eye(dim))] * len(members))
            sources = [torch.Generator().manual_seed(i) for i in members]
            *_, last = distill(teachers, one_step(real), Recipe(steps, 1e-3, 14), sources, fake=fake, real=real)
            return last.students.parameters

        together = ends(range(count))
        for i in range(count):
            for name, value in ends([i]).items():
                assert torch.equal(together[name][i], value[0]), (name, i)
            assert not torch.equal(together["net.outward"][i], networks[i].net.outward), "the student must have moved"
