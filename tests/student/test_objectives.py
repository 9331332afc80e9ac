"""What a student descends, against the expectations of a linear student and against finite differences."""

import math

import pytest
import torch

from sandbox.measure.gauge import polar_displacement
from sandbox.student.distill import Recipe, distill
from sandbox.student.initialise import haar_rotation
from sandbox.student.networks import LinearStudent, Pack, gradients_of
from sandbox.student.objectives import DMD, Minibatch, Regression, SiD
from sandbox.teacher.covariance import Diagonal, Isotropic
from sandbox.teacher.flow import teacher_map
from sandbox.teacher.mixture import GaussianMixture

SIGMAS = (0.05, 0.7, 20.0)


def generators(count, seed=0):
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def eye(dim):
    return torch.eye(dim, dtype=torch.float64)


def gaussian(variances):
    return GaussianMixture([1.0], torch.zeros(1, len(variances)).double(), Diagonal(variances[None]))


TEACHERS = {"flat": lambda dim: torch.ones(dim).double(), "diagonal": lambda dim: torch.arange(1, dim + 1).double() / 2}


def matrix(dim):
    """A student's matrix without any symmetry."""
    return 0.5 * eye(dim) + 0.4 * normal(dim, dim, seed=100 + dim)


def design(n, dim):
    """z and eps (1, n, d) with exact second moments: both white, and orthogonal to each other."""
    columns, _ = torch.linalg.qr(normal(n, 2 * dim, seed=1))
    return math.sqrt(n) * columns[None, :, :dim], math.sqrt(n) * columns[None, :, dim:]


def minibatch(students, z, eps, sigma, real, fake):
    x = students(z)
    sigma = torch.full(z.shape[:-1], sigma, dtype=z.dtype)
    return Minibatch(z, x, sigma, x + sigma[..., None] * eps, real, fake)


def gradient(objective, A, variances, sigma, z, eps):
    """d/dA of the loss of x = A z, whose exact fake score stands still."""
    students = Pack.of([LinearStudent(A)])
    real, fake = gaussian(variances).denoise, students.law().denoise
    return gradients_of(students, lambda pack: objective(minibatch(pack, z, eps, sigma, real, fake)))["weight"][0]


def gains(A, variances, sigma):
    """C (C + sigma^2)^-1 and Sigma (Sigma + sigma^2)^-1, the matrices of the two denoisers."""
    C, noise = A @ A.mT, sigma**2 * eye(len(A))
    return C @ torch.linalg.inv(C + noise), torch.diag(variances / (variances + sigma**2))


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize(("n", "tolerance"), [(64, 1e-10)])
class TestExpectedGradient:
    """On a design of exact second moments, in which the losses of linear students and denoisers are linear."""

    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.2])
    def test_of_sid(self, alpha, dim, sigma, teacher, n, tolerance):
        """With y = x + sigma eps, D_fake = W y, D_real = K y and H = W - K the loss is
        y' H ((1 - alpha) H y - W y + x). E y y' = A A' + sigma^2 and E x y' = A A' make its expectation tr S A A' and
        a constant, S = (1 - alpha) H^2 - H W + H, whose gradient is (S + S') A."""
        A, variances = matrix(dim), TEACHERS[teacher](dim)
        W, K = gains(A, variances, sigma)
        H = W - K
        S = (1 - alpha) * H @ H - H @ W + H
        want = (S + S.mT) @ A
        assert want.norm() > 1e-9, "a vanishing gradient would compare nothing"
        got = gradient(SiD(alpha, "off"), A, variances, sigma, *design(n, dim))
        assert (got - want).norm() <= tolerance * (H @ A).norm()
        mean = gradient(SiD(alpha, "off", "mean"), A, variances, sigma, *design(n, dim))
        assert (dim * mean - want).norm() <= tolerance * (H @ A).norm()

    def test_of_dmd(self, dim, sigma, teacher, n, tolerance):
        """E (D_fake - D_real) z' = H A: nothing flows through the denoisers' argument."""
        A, variances = matrix(dim), TEACHERS[teacher](dim)
        W, K = gains(A, variances, sigma)
        want = (W - K) @ A
        got = gradient(DMD("off"), A, variances, sigma, *design(n, dim))
        assert (got - want).norm() <= tolerance * want.norm()


class TestSiD:
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
    @pytest.mark.parametrize(("dim", "n", "tolerance"), [(4, 64, 1e-11)])
    def test_is_a_fisher_divergence_at_the_exact_fake_score(self, alpha, sigma, dim, n, tolerance):
        """(1 - alpha) E |D_real - D_fake|^2, by the law's moments."""
        A, variances = matrix(dim), TEACHERS["diagonal"](dim)
        students = Pack.of([LinearStudent(A)])
        W, K = gains(A, variances, sigma)
        divergence = ((W - K) @ (A @ A.mT + sigma**2 * eye(dim)) @ (W - K).mT).trace()
        batch = minibatch(students, *design(n, dim), sigma, gaussian(variances).denoise, students.law().denoise)
        assert abs(SiD(alpha, "off")(batch).item() - (1 - alpha) * divergence) <= tolerance * divergence

    @pytest.mark.parametrize("normaliser", ["per-sample", "batch", "off"])
    @pytest.mark.parametrize(("dim", "tolerance"), [(3, 1e-12)])
    def test_does_not_move_a_student_of_the_teachers_law(self, normaliser, dim, tolerance):
        variances = TEACHERS["diagonal"](dim)
        A = torch.diag(variances.sqrt()) @ haar_rotation(dim, torch.Generator().manual_seed(4))
        found = gradient(SiD(1.2, normaliser), A, variances, 0.7, *normal(2, 1, 16, dim, seed=3))
        assert found.abs().max() <= tolerance
        assert gradient(SiD(1.2, normaliser), 0.8 * A, variances, 0.7, *normal(2, 1, 16, dim, seed=3)).norm() > 1e-3

    @pytest.mark.parametrize("objective", [SiD(1.2, "off"), SiD(1.0, "off", "mean")], ids=["sum", "mean"])
    @pytest.mark.parametrize(("dim", "step", "tolerance"), [(2, 1e-5, 1e-8)])
    def test_flows_through_the_argument_of_curved_denoisers(self, objective, dim, step, tolerance):
        """Finite differences in every entry of the student's matrix."""
        real, fake = (
            GaussianMixture([0.3, 0.7], normal(2, dim, seed=seed), Isotropic(torch.tensor([0.2, 0.5]).double())).denoise
            for seed in (1, 2)
        )
        z, eps = normal(2, 1, 6, dim, seed=3)

        def loss(pack):
            return objective(minibatch(pack, z, eps, 0.5, real, fake))

        A = matrix(dim)
        got = gradients_of(Pack.of([LinearStudent(A)]), loss)["weight"][0]
        for i in range(dim):
            for j in range(dim):
                bump = torch.zeros_like(A)
                bump[i, j] = step
                up, down = (loss(Pack.of([LinearStudent(A + s * bump)])).item() for s in (1, -1))
                assert got[i, j].item() == pytest.approx((up - down) / (2 * step), abs=tolerance)


class TestRegression:
    @pytest.mark.parametrize(("reduction", "share"), [("sum", 1.0), ("mean", 1 / 3)])
    @pytest.mark.parametrize(("dim", "weight", "tolerance"), [(3, 0.25, 1e-13)])
    def test_gradient_of_one_pair(self, reduction, share, dim, weight, tolerance):
        """weight (A - A_T) z z', whichever rows are drawn: all of them are this pair."""
        A, target, z = matrix(dim), normal(dim, dim, seed=2), normal(2, 1, dim, seed=3)
        pairs = z.expand(2, 7, dim)
        term = Regression(pairs, pairs @ target.mT, weight, 5, reduction)
        got = gradients_of(Pack.of([LinearStudent(A)] * 2), lambda pack: term(pack, generators(2)))["weight"]
        want = weight * share * (A - target) @ z.mT @ z
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("dim", "count", "pairs", "batch", "standard_errors"), [(2, 300, 5, 8, 4.5)])
    def test_gradient_on_average(self, dim, count, pairs, batch, standard_errors):
        """weight (A - A_T) where the stored pairs are white: every row is as likely as any other."""
        A, target = matrix(dim), normal(dim, dim, seed=2)
        z = design(pairs, dim)[0].expand(count, -1, -1)
        term = Regression(z, z @ target.mT, 0.25, batch)
        got = gradients_of(Pack.of([LinearStudent(A)] * count), lambda pack: term(pack, generators(count)))["weight"]
        error, want = got.std(0) / math.sqrt(count), 0.25 * (A - target)
        assert ((got.mean(0) - want).abs() <= standard_errors * error).all()
        assert error.norm() < 0.2 * want.norm()

    def test_every_student_sees_its_own_pairs(self):
        A, z = matrix(2), normal(2, 5, 2, seed=4)
        targets = torch.stack([z[0] @ A.mT, z[1] @ A.mT + 1.0])
        loss = Regression(z, targets, 1.0)(Pack.of([LinearStudent(A)] * 2), generators(2))
        torch.testing.assert_close(loss, torch.tensor([0.0, 1.0]).double(), rtol=1e-14, atol=1e-14)

    def test_of_weight_zero_leaves_the_first_update_alone(self):
        teacher, students = gaussian(TEACHERS["diagonal"](3)), Pack.of([LinearStudent(matrix(3))] * 2)
        z = normal(2, 9, 3, seed=5)

        def end(*terms):
            *_, last = distill(teacher, students, Recipe(1, 0.1, 14), generators(2), terms=terms)
            return last.students.parameters["weight"]

        assert torch.equal(end(Regression(z, 2 * z, 0.0)), end())
        assert not torch.equal(end(Regression(z, 2 * z, 0.1)), end())

    @pytest.mark.parametrize("teacher", TEACHERS)
    @pytest.mark.parametrize(
        ("dim", "count", "steps", "tolerance", "elsewhere", "of_law"), [(4, 3, 400, 0.02, 0.5, 0.15)]
    )
    def test_decides_the_pairing(self, teacher, dim, count, steps, tolerance, elsewhere, of_law):
        """From a rotated start, the law is reached with and without it, the teacher's map with it alone."""
        variances = TEACHERS[teacher](dim)
        law = gaussian(variances)
        rotations = [haar_rotation(dim, g) for g in generators(count, seed=8)]
        students = Pack.of([LinearStudent(0.5 * variances.sqrt().diag() @ R) for R in rotations])
        z = normal(count, 256, dim, seed=6)
        pairs = Regression(z, torch.stack([teacher_map(law, points) for points in z]), 1.0)
        recipe = Recipe(steps, 0.05, 128, decay=0.5)

        def displacements(*terms):
            *_, last = distill(law, students, recipe, generators(count), terms=terms)
            A = last.students.parameters["weight"]
            assert ((A @ A.mT - variances.diag()).norm(dim=(1, 2)) < of_law * variances.norm()).all()
            return polar_displacement(A)

        assert (displacements(pairs) < tolerance).all()
        assert (displacements() > elsewhere).all()


@pytest.mark.parametrize("make", [DMD, SiD])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"normaliser": "none"}, "normaliser must be one of per-sample, batch, off, got 'none'"),
        ({"reduction": "average"}, "reduction must be one of sum, mean, got 'average'"),
    ],
)
def test_unknown_names_are_refused(make, settings, words):
    with pytest.raises(ValueError, match=words):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": torch.zeros(2, 4, 3)}, r"target must have the shape of z, \(2, 5, 3\), got \(2, 4, 3\)"),
        ({"weight": -0.1}, "regression must be >= 0, got -0.1"),
        ({"weight": math.nan}, "regression must be >= 0, got nan"),
        ({"batch": 0}, "batch must be >= 1, got 0"),
        ({"reduction": "average"}, "reduction must be one of sum, mean, got 'average'"),
    ],
)
def test_bad_pairs_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        Regression(**{"z": torch.zeros(2, 5, 3), "target": torch.zeros(2, 5, 3), **settings})
