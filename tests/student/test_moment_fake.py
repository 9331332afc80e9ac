"""The fake score that has the moments of the students' samples."""

import math

import numpy as np
import pytest
import torch
from problems import mixture
from scipy.stats import multivariate_normal

from sandbox.student.distill import Recipe, distill
from sandbox.student.fake import ExactFake
from sandbox.student.initialise import linear_start
from sandbox.student.moment_fake import FLOOR, PRIOR, MomentFake
from sandbox.student.networks import LinearStudent, Pack
from sandbox.teacher.covariance import Full, Isotropic
from sandbox.teacher.families import gaussian
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform

STUDENTS = 3


def generators(count=STUDENTS, seed=0):
    return [torch.Generator().manual_seed(100 * seed + i) for i in range(count)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def levels(*shape, seed=0):
    return 0.1 + 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Samples(torch.nn.Module):
    """A student whose samples are given, whatever the noise."""

    def __init__(self, x):
        super().__init__()
        self.x = torch.nn.Parameter(x)

    def forward(self, z):
        return self.x[: len(z)]


def given(*samples):
    return Pack.of([Samples(x) for x in samples])


def linear(dim, count=STUDENTS):
    return Pack.of([LinearStudent(normal(dim, dim, seed=i + 1)) for i in range(count)])


def seen(teachers, *samples, memory=0.0):
    return MomentFake.of(teachers, given(*samples), generators(len(samples)), len(samples[0]), memory)


def two_modes(distance=8.0, dim=2):
    means = torch.zeros(2, dim).double()
    means[:, 0] = torch.tensor([-distance / 2, distance / 2])
    return GaussianMixture([0.5, 0.5], means, Isotropic(torch.ones(2).double()))


class TestMoments:
    @pytest.mark.parametrize(("dim", "kind"), [(1, "full"), (3, "full"), (3, "isotropic"), (5, "low-rank")])
    def test_are_those_of_numpy_under_scipys_responsibilities(self, dim, kind):
        problem, x = mixture(kind, dim), normal(60, dim, seed=3)
        law = seen(problem.law, x).law
        total = problem.law.cov.trace() / dim
        covs = [m + FLOOR**2 * total * torch.eye(dim) for m in problem.matrices]
        joint = np.stack(
            [
                math.log(w) + np.atleast_1d(multivariate_normal(m.numpy(), c.numpy()).logpdf(x.numpy()))
                for w, m, c in zip(problem.weights, problem.means, covs, strict=True)
            ]
        )
        r = np.exp(joint - np.logaddexp.reduce(joint, 0))
        count = r.sum(1)
        own = np.stack([np.atleast_2d(np.cov(x.T, aweights=row, ddof=0)) for row in r])
        within = (count[:, None, None] * own).sum(0) / 60
        want = (count[:, None, None] * own + PRIOR * within) / (count + PRIOR)[:, None, None]
        np.testing.assert_allclose(law.weights[0], count / 60, rtol=1e-9)
        np.testing.assert_allclose(law.means[0], (r @ x.numpy()) / count[:, None], rtol=1e-9, atol=1e-12)
        got = [law.covariance.dense(k, dim)[0] for k in range(3)]
        np.testing.assert_allclose(np.stack(got), want, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("dim", [1, 4])
    def test_samples_with_the_students_own_moments_give_the_exact_fake_score(self, dim):
        """x = +-sqrt(d) A e_i has the mean 0 and the covariance A A^T, without sampling error."""
        pack, teachers = linear(dim), gaussian(dim)
        corners = math.sqrt(dim) * pack.parameters["weight"].mT
        fake = seen(teachers, *torch.cat([corners, -corners], 1))
        x, sigma = normal(STUDENTS, 20, dim), levels(STUDENTS, 20)
        want = ExactFake().denoise(pack, x, sigma)
        torch.testing.assert_close(fake.denoise(pack, x, sigma), want, rtol=1e-10, atol=1e-11)

    @pytest.mark.parametrize(("batches", "slack"), [((400, 40_000), 2.5)])
    def test_a_linear_students_error_is_the_sampling_error(self, batches, slack):
        """|C' - C| = sqrt((d + 1) / n) |C| for a flat C in Gaussian sampling, and so for the denoiser about it."""
        dim, errors = 4, []
        pack = Pack.of([LinearStudent(torch.linalg.qr(normal(dim, dim, seed=i + 1)).Q) for i in range(STUDENTS)])
        x, sigma = math.sqrt(2) * normal(STUDENTS, 400, dim), torch.ones(STUDENTS, 400).double()
        want = ExactFake().denoise(pack, x, sigma)
        for n in batches:
            fake = MomentFake.of(gaussian(dim), pack, generators(), n)
            error = (fake.denoise(pack, x, sigma) - want).square().sum((1, 2)).mean().sqrt()
            errors.append((error / want.square().sum((1, 2)).mean().sqrt()).item())
            # dD = (C + 1)^-1 dC (C + 1)^-1 x = dC x / 4, D = x / 2; the mean's error adds 1 / d of that of dC.
            assert errors[-1] < slack * math.sqrt((dim + 2) / n) / 2
        assert errors[0] / errors[1] > math.sqrt(batches[1] / batches[0]) / slack

    @pytest.mark.parametrize(("n", "tolerance"), [(1_000, 0.3), (100_000, 0.03)])
    def test_a_student_with_the_teachers_law_gets_its_score(self, n, tolerance):
        """Overlapping components, with full covariances: the truth is a fixed point of the moments."""
        law = mixture("full", 3).law
        x, sigma = law.sample(500, generators(1)[0])[None], 0.5
        fake = seen(law, law.sample(n, generators(1, seed=1)[0]))
        y = x + sigma * normal(1, 500, 3)
        error = fake.denoise(None, y, torch.full((1, 500), sigma).double()) - law.denoise(y, sigma)
        assert error.square().mean().sqrt() < tolerance * (law.denoise(y, sigma) - y).square().mean().sqrt()

    @pytest.mark.parametrize(("n", "tolerance"), [(1_000, 0.3), (100_000, 0.03)])
    def test_a_student_with_another_law_gets_that_ones(self, n, tolerance):
        """Modes of other shares, places and shapes, each of them where the teacher sees one mode."""
        factors = torch.tensor([[[0.5, 0.0], [0.4, 0.2]], [[1.0, 0.0], [0.0, 0.3]]]).double()
        means = torch.tensor([[-3.0, 1.0], [5.0, 0.0]]).double()
        law = GaussianMixture([0.3, 0.7], means, Full(factors @ factors.mT))
        fake = seen(two_modes(), law.sample(n, generators(1)[0]))
        sigma = 0.5
        y = law.sample(500, generators(1, seed=1)[0])[None] + sigma * normal(1, 500, 2)
        error = fake.denoise(None, y, torch.full((1, 500), sigma).double()) - law.denoise(y, sigma)
        assert error.square().mean().sqrt() < tolerance * (law.denoise(y, sigma) - y).square().mean().sqrt()

    @pytest.mark.parametrize("memory", [0.0, 0.5])
    def test_the_past_is_forgotten_at_the_stated_rate(self, memory):
        """As if earlier samples counted less: three batches against numpy's weighted moments of all of them."""
        batches = [normal(20, 2, seed=i) + i for i in range(3)]
        teacher = gaussian(2)
        fake = seen(teacher, batches[0], memory=memory)
        for x in batches[1:]:
            fake = fake.update(given(x), generators(1))
        weights = np.repeat([memory**2, memory, 1.0], 20)
        every = torch.cat(batches).numpy()
        np.testing.assert_allclose(fake.law.mean[0], np.average(every, 0, weights), rtol=1e-12)
        want = np.cov(every.T, aweights=weights, ddof=0)
        np.testing.assert_allclose(fake.law.cov[0], want, rtol=1e-10, atol=1e-12)


class TestFewSamples:
    def test_a_component_without_samples_has_the_others_covariance_at_the_teachers_centre(self):
        teacher = two_modes(distance=400.0)
        law = seen(teacher, teacher.means[0] + normal(50, 2)).law
        assert law.weights[0].tolist() == [1.0, 0.0]
        assert torch.equal(law.means[0, 1], teacher.means[1])
        torch.testing.assert_close(law.covariance.dense(1, 2), law.covariance.dense(0, 2), rtol=1e-9, atol=1e-12)

    def test_a_component_with_one_sample_has_half_the_others_covariance(self):
        teacher = two_modes(distance=400.0)
        x = torch.cat([teacher.means[0] + normal(50, 2), teacher.means[1:]])
        law = seen(teacher, x).law
        within = 50 * np.cov(x[:50].T, ddof=0) / 51
        np.testing.assert_allclose(law.covariance.dense(1, 2)[0], within / 2, rtol=1e-9)

    @pytest.mark.parametrize("n", [1, 2, 100])
    @pytest.mark.parametrize("dim", [1, 3])
    def test_a_collapsed_student_is_denoised_to_its_point(self, n, dim):
        point = 30 * normal(dim, seed=5)
        fake = seen(mixture("full", dim).law, point.expand(n, dim).clone())
        x, sigma = point + normal(1, 20, dim), levels(1, 20)
        torch.testing.assert_close(fake.denoise(None, x, sigma), point.expand(1, 20, dim), rtol=0, atol=1e-6)

    def test_a_singular_teacher_tells_samples_apart_by_the_nearest_atom(self):
        problem, x = mixture("atoms", 3), normal(40, 3, seed=2)
        nearest = torch.cdist(x, problem.means).argmin(1)
        law = seen(problem.law, x).law
        want = torch.bincount(nearest, minlength=3).double() / 40
        torch.testing.assert_close(law.weights[0], want, rtol=0, atol=1e-9)

    @pytest.mark.filterwarnings("error")
    def test_a_student_that_is_lost_leaves_its_pack_alone(self):
        pack = linear(2)
        before = MomentFake.of(gaussian(2), pack, generators(), 64, 0.5)
        weight = pack.parameters["weight"].clone()
        weight[1] = math.nan
        after = before.update(pack.with_parameters({"weight": weight}), generators())
        well = before.update(pack, generators())
        assert torch.equal(after.sums[1], before.sums[1])
        assert torch.equal(after.sums[[0, 2]], well.sums[[0, 2]])


class TestDenoiser:
    @pytest.mark.parametrize("kind", ["full", "isotropic"])
    def test_its_derivative_is_autograds(self, kind):
        """SiD differentiates through the fake score's points."""
        fake = seen(mixture(kind, 3).law, normal(30, 3), normal(30, 3, seed=1))
        x, sigma = normal(2, 4, 3).requires_grad_(), levels(2, 4)
        assert torch.autograd.gradcheck(lambda x: fake.denoise(None, x, sigma), (x,))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("dim", "components", "n"), [(1, 1, 5), (1, 3, 64), (2, 1, 1), (3, 2, 7), (8, 8, 64)])
    def test_a_pack_of_one_has_the_numbers_of_a_larger_pack(self, dim, components, n, dtype):
        laws = [mixture("full", dim, components, seed=i).law for i in range(STUDENTS)]
        pack, x, sigma = linear(dim), normal(STUDENTS, n, dim).to(dtype), levels(STUDENTS, n).to(dtype)

        def numbers(members):
            some = Pack.of([LinearStudent(pack.parameters["weight"][i].to(dtype)) for i in members])
            teachers = GaussianMixture.stack([laws[i] for i in members]).to(dtype)
            source = [generators()[i] for i in members]
            fake = MomentFake.of(teachers, some, source, 32, 0.5).update(some, source)
            return fake.sums, fake.denoise(some, x[members], sigma[members])

        for whole, *parts in zip(numbers([0, 1, 2]), *(numbers([i]) for i in range(STUDENTS)), strict=True):
            assert torch.equal(whole, torch.cat(parts))

    @pytest.mark.parametrize("tolerance", [2e-6])
    def test_single_precision_costs_its_own_rounding_only(self, tolerance):
        """Narrow modes far from the origin, whose squares single precision could not hold."""
        teacher = GaussianMixture([0.5, 0.5], torch.tensor([[99.0, 0.0], [101.0, 0.0]]).double(), Isotropic(1e-2))
        samples = teacher.sample(200, generators(1)[0]).float()
        double = seen(teacher, samples.double())
        single = seen(teacher.to(torch.float32), samples)
        y, sigma = samples[None, :50] + 0.1 * normal(1, 50, 2).float(), torch.full((1, 50), 0.1)
        got = single.denoise(None, y, sigma)
        assert got.dtype == torch.float32
        want = double.denoise(None, y.double(), sigma.double())
        assert ((got - want).norm(dim=-1) / want.norm(dim=-1)).max() < tolerance

    def test_nothing_is_modified(self):
        pack = linear(2)
        before = MomentFake.of(gaussian(2), pack, generators(), 16)
        kept = before.sums.clone()
        after = before.update(pack, generators(seed=1))
        assert torch.equal(before.sums, kept)
        assert not torch.equal(after.sums, kept)
        assert torch.equal(before.with_learned(after.learned()).law.means, after.law.means)


class ExactBesides(ExactFake):
    """The exact fake score, which draws the numbers that a `MomentFake` would."""

    def update(self, students, generators):
        for generator in generators:
            torch.randn(TestTraining.BATCH, 4, generator=generator)
        return self


class TestTraining:
    BATCH = 4096

    def run(self, exact=False, checkpoints=(0, 20, 40), carried=None):
        source, teacher, law = generators(), gaussian(4), LogUniform(0.05, 20.0)
        pack = Pack.of([linear_start("teacher", teacher, 20.0, g)[0] for g in source])
        fake = ExactBesides().update(pack, source) if exact else MomentFake.of(teacher, pack, source, self.BATCH)
        recipe = Recipe(40, 0.05, 64, law=law)
        return [(s, s.carry()) for s in distill(teacher, pack, recipe, source, checkpoints, fake, carried=carried)]

    @pytest.mark.parametrize("share", [0.05])
    def test_a_linear_student_goes_the_way_of_the_exact_fake_score(self, share):
        """With the same noise, so that they differ by the moments' sampling error alone."""
        (start, _), *_, (last, _) = self.run()
        *_, (exact, _) = self.run(exact=True)
        A0, A, B = (s.students.parameters["weight"] for s in (start, last, exact))
        assert (last.diverged_at == -1).all()
        assert ((A - B).norm(dim=(1, 2)) < share * (B - A0).norm(dim=(1, 2))).all()

    def test_an_interrupted_training_goes_on_to_the_same_bits(self):
        _, (_, carry), (whole, _) = self.run()
        ((resumed, _),) = self.run(carried=carry)
        assert torch.equal(whole.students.parameters["weight"], resumed.students.parameters["weight"])
        assert torch.equal(whole.fake.sums, resumed.fake.sums)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch": 0}, "fake_batch must be >= 1, got 0"),
        ({"memory": 1.0}, r"fake_memory must be in \[0, 1\), got 1.0"),
        ({"memory": -0.1}, r"fake_memory must be in \[0, 1\), got -0.1"),
    ],
)
def test_bad_input_is_named(settings, words):
    with pytest.raises(ValueError, match=words):
        MomentFake.of(gaussian(2), linear(2), generators(), **settings)


def test_teachers_must_be_one_or_one_each():
    teachers = GaussianMixture.stack([gaussian(2)] * 2)
    with pytest.raises(ValueError, match=r"teachers must be one or one per student \(3\), got 2"):
        MomentFake.of(teachers, linear(2), generators())
