"""The divergence by change of variables against torch's and scipy's, for maps whose law is known."""

import math

import numpy as np
import pytest
import torch
from problems import line
from scipy import stats
from scipy.integrate import quad
from scipy.special import logsumexp
from torch.distributions import MultivariateNormal, kl_divergence

from sandbox.measure.likelihood import kl_change_of_variables
from sandbox.student.networks import LinearStudent
from sandbox.teacher.covariance import Full, Isotropic
from sandbox.teacher.families import gaussian
from sandbox.teacher.mixture import GaussianMixture


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(n, dim, seed=0):
    """Points of mean zero and covariance one to rounding: on them the mean of a quadratic function is exact."""
    z = normals(n, dim, seed=seed)
    z = z - z.mean(0)
    return torch.linalg.qr(z).Q * math.sqrt(n)


def covariance(dim, seed):
    root = normals(dim, dim, seed=seed)
    return root @ root.mT / dim + 0.2 * torch.eye(dim, dtype=torch.float64)


class TestLinear:
    @pytest.mark.parametrize("dim", [1, 2, 8])
    @pytest.mark.parametrize("size", [1e-2, 1.0, 10.0])
    @pytest.mark.parametrize("tolerance", [1e-11])
    def test_is_the_divergence_of_two_gaussians(self, dim, size, tolerance):
        """Any matrix, also one that is not symmetric or turns space inside out: only its law counts."""
        A, b = size * (normals(dim, dim, seed=1) + torch.eye(dim, dtype=torch.float64)), normals(dim, seed=2)
        m, C = normals(dim, seed=3), covariance(dim, 4)
        want = kl_divergence(MultivariateNormal(b, A @ A.mT), MultivariateNormal(m, C)).item()
        teacher, z = GaussianMixture([1.0], m[None], Full(C[None])), whitened(100, dim)
        mirror = torch.ones(dim, dtype=torch.float64)
        mirror[0] = -1
        for matrix in (A, A * mirror):
            found = kl_change_of_variables(LinearStudent(matrix, b), teacher, z)
            assert found == pytest.approx(want, rel=tolerance, abs=tolerance)

    @pytest.mark.parametrize("dim", [1, 5, 64])
    @pytest.mark.parametrize("tolerance", [1e-11])
    def test_is_zero_for_the_teachers_own_law(self, dim, tolerance):
        m, C = normals(dim, seed=3), covariance(dim, 4)
        teacher = GaussianMixture([1.0], m[None], Full(C[None]))
        student = LinearStudent(torch.linalg.cholesky(C), m)
        # Not only on average: the densities agree at every point.
        assert kl_change_of_variables(student, teacher, normals(1, dim)) == pytest.approx(0, abs=tolerance)
        assert kl_change_of_variables(student, teacher, normals(70, dim)) == pytest.approx(0, abs=tolerance)

    @pytest.mark.parametrize(("scale", "tolerance"), [(0.5, 1e-5)])
    def test_takes_a_student_of_single_precision(self, scale, tolerance):
        teacher, z = gaussian(3), whitened(100, 3)
        want = 3 * (scale**2 / 2 - 0.5 - math.log(scale))
        for student in (lambda z: (scale * z.float()).double(), lambda z: scale * z.float()):
            assert kl_change_of_variables(student, teacher, z) == pytest.approx(want, abs=tolerance)
        single = kl_change_of_variables(lambda z: scale * z, teacher.to(torch.float32), z.float())
        assert single == pytest.approx(want, abs=tolerance)


def line_log_prob(x):
    """log density of `line`, from its parameters."""
    weights, means, variances = [0.2, 0.5, 0.3], np.array([-1.2, 0.1, 1.5]), np.array([0.1, 0.25, 0.16])
    return logsumexp(stats.norm.logpdf(x, means, np.sqrt(variances)), b=weights)


def by_quadrature(law):
    """KL(law || line) for a law of scipy."""
    low, high = law.support()
    low, high = max(low, law.ppf(1e-15)), min(high, law.isf(1e-15))
    value, _ = quad(
        lambda x: law.pdf(x) * (law.logpdf(x) - line_log_prob(x)), low, high, epsabs=1e-10, epsrel=1e-10, limit=500
    )
    return value


def average(student, teacher, nodes, weights):
    """The value as a mean over all z, by a rule for the normal law: at one point it is the integrand."""
    points = torch.as_tensor(nodes, dtype=torch.float64)[:, None]
    values = [kl_change_of_variables(student, teacher, z[None]) for z in points]
    return float(np.dot(weights * stats.norm.pdf(nodes), values))


# A smooth one-to-one map of the line beside the law that it has.
MAPS = {
    "logarithm of a normal": (lambda z: torch.exp(0.5 * z + 0.1), stats.lognorm(0.5, scale=math.exp(0.1))),
    "Johnson's": (lambda z: 0.2 + torch.sinh(0.7 * z), stats.johnsonsu(0, 1 / 0.7, loc=0.2)),
    "uniform": (lambda z: 3 * torch.special.ndtr(z) - 1, stats.uniform(-1, 3)),
    "logistic": (lambda z: 0.5 * torch.logit(torch.special.ndtr(z)), stats.logistic(0, 0.5)),
}


class TestNonlinear:
    @pytest.mark.parametrize("name", MAPS)
    @pytest.mark.parametrize(("step", "tolerance"), [(0.2, 1e-4)])
    def test_is_the_divergence_of_the_line_by_quadrature(self, name, step, tolerance):
        student, law = MAPS[name]
        want = by_quadrature(law)
        assert want > 0.2
        # Equal steps over the whole line converge geometrically for a smooth integrand.
        assert average(student, line(), np.arange(-8, 8, step), step) == pytest.approx(want, abs=tolerance)

    @pytest.mark.parametrize("name", MAPS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_a_falling_map_reads_what_the_rising_one_does(self, name, tolerance):
        student, z = MAPS[name][0], normals(20, 1)
        want = kl_change_of_variables(student, line(), z)
        assert kl_change_of_variables(lambda z: student(-z), line(), -z) == pytest.approx(want, abs=tolerance)

    @pytest.mark.parametrize("bend", [0.3, 1.0])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_a_bent_plane(self, bend, tolerance):
        """x = (z_1, z_2 + c z_1^2) keeps volumes, so that KL to the standard normal is E[|x|^2 - |z|^2] / 2 = 3 c^2/2;
        by the Gauss-Hermite rule, exact for polynomials."""
        t, w = np.polynomial.hermite_e.hermegauss(6)
        w = w / w.sum()

        def student(z):
            return torch.stack([z[:, 0], z[:, 1] + bend * z[:, 0].square()], -1)

        points = [(a, b, u * v) for a, u in zip(t, w, strict=True) for b, v in zip(t, w, strict=True)]
        total = sum(
            weight * kl_change_of_variables(student, gaussian(2), torch.tensor([[a, b]], dtype=torch.float64))
            for a, b, weight in points
        )
        assert total == pytest.approx(1.5 * bend**2, abs=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_of_many_points_is_the_mean_of_each(self, tolerance):
        student, _ = MAPS["Johnson's"]
        z = normals(70, 1)  # more than are differentiated at once
        each = [kl_change_of_variables(student, line(), z[i : i + 1]) for i in range(len(z))]
        assert kl_change_of_variables(student, line(), z) == pytest.approx(np.mean(each), abs=tolerance)


def folded(shift):
    """KL(|z + shift| || line), from the folded normal density."""
    law = stats.foldnorm(shift)
    value, _ = quad(lambda x: law.pdf(x) * (law.logpdf(x) - line_log_prob(x)), 0, 9 + shift, epsabs=1e-10, limit=500)
    return value


class TestNotOneToOne:
    @pytest.mark.parametrize("shift", [0.0, 0.4, 1.5])
    @pytest.mark.parametrize(("points", "tolerance"), [(40, 1e-3)])
    def test_a_fold_reads_less_by_log_two_at_most(self, shift, points, tolerance):
        """Two points go to one, and one of their densities is counted: half of the sum where they are equal."""
        t, w = np.polynomial.legendre.leggauss(points)
        # The integrand is smooth on either side of the fold, where the rule is therefore split.
        parts = [((low + high) / 2, (high - low) / 2) for low, high in ((-8, -shift), (-shift, 8))]
        nodes = np.concatenate([middle + half * t for middle, half in parts])
        found = average(lambda z: (z + shift).abs(), line(), nodes, np.concatenate([half * w for _, half in parts]))
        lost = folded(shift) - found
        if shift == 0:
            assert lost == pytest.approx(math.log(2), abs=tolerance)
        else:
            assert 20 * tolerance < lost < math.log(2) - 20 * tolerance

    @pytest.mark.parametrize(
        ("student", "dim"),
        [
            (lambda z: 0 * z + 1, 1),
            (lambda z: z * torch.tensor([1.0, 0.0], dtype=torch.float64), 2),
            (lambda z: z[:, :1].expand(-1, 2), 2),
            (lambda z: torch.relu(z), 2),
        ],
        ids=["constant", "flat", "diagonal", "flat in half of space"],
    )
    def test_a_map_that_loses_a_direction_is_infinitely_far(self, student, dim):
        assert kl_change_of_variables(student, gaussian(dim), normals(20, dim)) == math.inf


@pytest.mark.parametrize(
    ("student", "z", "words"),
    [
        (lambda z: z, torch.zeros(4, 3), r"z must have shape \(n, 2\), got \(4, 3\)"),
        (lambda z: z, torch.zeros(2), r"z must have shape \(n, 2\), got \(2,\)"),
        (lambda z: z, torch.zeros(1, 4, 2), r"z must have shape \(n, 2\), got \(1, 4, 2\)"),
        (lambda z: z.abs().sqrt(), torch.zeros(4, 2), "finite Jacobian"),
        (lambda z: z * math.nan, torch.ones(4, 2), "finite Jacobian"),
    ],
)
def test_bad_input_is_named(student, z, words):
    teacher = GaussianMixture([1.0], torch.zeros(1, 2, dtype=torch.float64), Isotropic(1.0))
    with pytest.raises(ValueError, match=words):
        kl_change_of_variables(student, teacher, z)
