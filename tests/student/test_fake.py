"""Fake scores: the exact one, and the one that is learned level by level."""

import pytest
import torch

from sandbox.student.denoiser import Denoiser, one_step
from sandbox.student.distill import Recipe, distill
from sandbox.student.fake import ExactFake, LevelFake, NetworkFake
from sandbox.student.initialise import linear_start
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.noise import draw_noise
from sandbox.student.optimise import Adam
from sandbox.teacher.covariance import Full
from sandbox.teacher.families import gaussian, random
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins, LogGrid, LogUniform

LAW = LogGrid(0.1, 4.0, 5)
DIM, STUDENTS = 3, 2
EYE = torch.eye(DIM, dtype=torch.float64)


def generators(count=STUDENTS, seed=0):
    return [torch.Generator().manual_seed(100 * seed + i) for i in range(count)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def teacher():
    factor = normal(DIM, DIM, seed=1)
    return GaussianMixture([1.0], torch.zeros(1, DIM).double(), Full((factor @ factor.mT + EYE)[None]))


def students():
    return Pack.of([LinearStudent(normal(DIM, DIM, seed=2 + i) / 2) for i in range(STUDENTS)])


def fake(**settings):
    return LevelFake.of_teacher(teacher(), STUDENTS, LAW, **settings)


class TestLevels:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_starts_as_the_teachers_denoiser(self, tolerance):
        x, sigma = normal(STUDENTS, 40, DIM), LAW.draw(uniform(STUDENTS, 40))
        got = fake().denoise(students(), x, sigma)
        torch.testing.assert_close(got, teacher().denoise(x, sigma), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("law", [LAW, KarrasBins(0.02, 80.0, 50, 0, 49)], ids=["grid", "karras"])
    def test_every_level_has_its_own_matrix(self, law):
        weights = torch.arange(len(law.levels)).double()[None, :, None, None] * EYE
        x = torch.ones(1, len(law.levels), DIM).double()
        got = LevelFake(weights, law).denoise(students(), x, law.levels[None])
        assert torch.equal(got[0, :, 0], torch.arange(len(law.levels)).double())

    @pytest.mark.parametrize(("updates", "batch", "tolerance"), [(3000, 500, 0.05)])
    def test_learns_the_students_own_denoiser(self, updates, batch, tolerance):
        pack = students()
        learned = fake(lr=0.05, batch=batch, updates=updates).update(pack, generators())
        A = pack.parameters["weight"]
        C = A @ A.mT
        for level, W in zip(LAW.levels, learned.weights.unbind(1), strict=True):
            want = torch.linalg.solve(C + level**2 * EYE, C)
            assert (W - want).norm() < tolerance * want.norm() * 5
            assert (W - want).abs().max() < tolerance

    def test_a_step_is_the_gradient_of_the_mean_over_each_level(self):
        """Against autograd, sample by sample."""
        pack, before = students(), fake(lr=0.2, batch=7)
        after = before.update(pack, generators())
        z, eps, uniform = draw_noise(generators(), 7, DIM, False, torch.float64)
        x, sigma = pack(z), LAW.draw(uniform)
        for e in range(STUDENTS):
            W = before.weights[e].clone().requires_grad_()
            loss = torch.zeros((), dtype=torch.float64)
            for b, level in enumerate(LAW.levels):
                here = [n for n in range(7) if torch.isclose(sigma[e, n], level)]
                for n in here:
                    y = x[e, n] + sigma[e, n] * eps[e, n]
                    loss = loss + (W[b] @ y - x[e, n]).square().sum() / 2 / len(here) / (1 + level**2)
            (gradient,) = torch.autograd.grad(loss, W)
            torch.testing.assert_close(after.weights[e], before.weights[e] - 0.2 * gradient, rtol=1e-12, atol=1e-12)

    def test_nothing_is_modified(self):
        before = fake()
        kept = before.weights.clone()
        before.update(students(), generators())
        assert torch.equal(before.weights, kept)

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"lr": 0.0}, "fake_lr must be > 0, got 0.0"),
            ({"batch": 0}, "fake_batch must be >= 1.*got 0"),
            ({"batch": 3, "antithetic": True}, "fake_batch.*even.*got 3"),
            ({"updates": 0}, "fake_updates must be >= 1, got 0"),
        ],
    )
    def test_bad_input_is_named(self, settings, words):
        with pytest.raises(ValueError, match=words):
            fake(**settings)

    def test_weights_must_fit_the_levels(self):
        with pytest.raises(ValueError, match="one matrix for each of 5 levels, got 4"):
            LevelFake(torch.zeros(1, 4, DIM, DIM), LAW)


@pytest.mark.parametrize(("steps", "tolerance"), [(400, 0.2)])
def test_a_student_with_a_learned_fake_score_reaches_the_law(steps, tolerance):
    law = LogGrid(0.05, 20.0, 8)
    starts = [linear_start("teacher", gaussian(4), 20.0, g)[0] for g in generators()]
    learned = LevelFake.of_teacher(gaussian(4), STUDENTS, law, lr=0.1, batch=128, updates=5)
    recipe = Recipe(steps, 0.05, 128, law=law)
    *_, last = distill(gaussian(4), Pack.of(starts), recipe, generators(), fake=learned)
    A = last.students.parameters["weight"]
    assert ((A @ A.mT - torch.eye(4)).norm(dim=(-2, -1)) < tolerance * 2).all()
    assert last.fake is not learned


def test_the_exact_fake_score_needs_a_linear_student():
    pack = Pack.of([torch.nn.Linear(2, 2).double()])
    with pytest.raises(TypeError, match="the exact fake score needs a linear student, got Linear"):
        next(distill(random(2), pack, Recipe(1, 0.1), generators(1)))


def test_the_exact_fake_score_is_the_students_law():
    pack = students()
    x, sigma = normal(STUDENTS, 10, DIM), uniform(STUDENTS, 10) + 0.1
    got = ExactFake().denoise(pack, x, sigma)
    for e in range(STUDENTS):
        A = pack.parameters["weight"][e]
        C = A @ A.mT
        for n in range(10):
            want = C @ torch.linalg.solve(C + sigma[e, n] ** 2 * EYE, x[e, n])
            torch.testing.assert_close(got[e, n], want, rtol=1e-10, atol=1e-12)


class TestNetwork:
    LAW = LogUniform(0.05, 5.0)

    def networks(self, count=STUDENTS, first=0):
        return Pack.of([Denoiser(DIM, 16, 1, torch.Generator().manual_seed(first + i)).double() for i in range(count)])

    def fake(self, pack, **settings):
        return NetworkFake.of(pack, Adam(5e-3), self.LAW, DIM, batch=64, **settings)

    def test_an_update_is_adams_step_on_the_weighted_denoising_loss(self):
        """Against a module, torch's optimiser and the same noise, for each member."""
        pack = students()
        after = self.fake(self.networks(), updates=3).update(pack, generators()).networks
        for e in range(STUDENTS):
            network = Denoiser(DIM, 16, 1, torch.Generator().manual_seed(e)).double()
            optimiser, source = torch.optim.Adam(network.parameters(), 5e-3), generators()[e]
            for _ in range(3):
                z, eps, uniform = (v[0] for v in draw_noise([source], 64, DIM, False, torch.float64))
                x, sigma = z @ pack.parameters["weight"][e].mT, self.LAW.draw(uniform)
                error = (network(x + sigma[:, None] * eps, sigma) - x).square().mean(-1)
                optimiser.zero_grad()
                ((1 / sigma**2 + 1) * error).mean().backward()
                optimiser.step()
            for name, p in network.named_parameters():
                torch.testing.assert_close(after.parameters[name][e], p.detach(), rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize(("updates", "share"), [(400, 0.3)])
    def test_learns_the_students_own_denoiser(self, updates, share):
        pack = students()
        before = self.fake(self.networks())
        after = before.warmed(pack, generators(), updates)
        z, eps, uniform = draw_noise(generators(seed=5), 2000, DIM, False, torch.float64)
        sigma = self.LAW.draw(uniform)
        x = pack(z) + sigma[..., None] * eps
        want = ExactFake().denoise(pack, x, sigma)
        start, end = ((f.denoise(pack, x, sigma) - want).square().mean((1, 2)) for f in (before, after))
        assert (end < share * start).all()
        assert after.updates == before.updates

    def test_distills_and_a_lost_student_leaves_its_pack_mate_alone(self):
        """Bitwise; in single precision, as networks train."""
        teacher = random(DIM, 2)

        def run(rates, members):
            nets = [Denoiser(DIM, 16, 1, torch.Generator().manual_seed(i)) for i in members]
            pack, sources = Pack.of(nets), [torch.Generator().manual_seed(i) for i in members]
            fake = NetworkFake.of(pack, Adam(1e-3), self.LAW, DIM, batch=16, updates=2)
            recipe = Recipe(20, torch.tensor(rates), 16, law=self.LAW, optimiser="adam")
            *_, last = distill(teacher, one_step(pack, 5.0), recipe, sources, fake=fake)
            return last

        together, alone = run([1e-3, 1e9], (0, 1)), run([1e-3], (0,))
        assert together.diverged_at.tolist()[0] == -1
        assert together.diverged_at.tolist()[1] > 0
        for name, p in alone.students.parameters.items():
            assert torch.equal(together.students.parameters[name][0], p[0])
            assert torch.isfinite(p).all()
