"""The density of the flow's law, and the Jacobian's structured path."""

import math

import pytest
import torch
from problems import line, mixture

from sandbox.teacher.flow import teacher_encode, teacher_jacobian, teacher_log_prob, teacher_map
from sandbox.teacher.mixture import GaussianMixture

KINDS = ("isotropic", "diagonal", "low-rank", "full", "near-duplicate")


class Plain:
    """A user's own teacher: a score, its Jacobian, and nothing else."""

    def __init__(self, law):
        self.law, self.smallest_std = law, law.smallest_std

    def score(self, x, sigma):
        return self.law.score(x, sigma)

    def score_jacobian(self, x, sigma):
        return self.law.score_jacobian(x, sigma)


def points(law, n=6):
    return law.sample(n, torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize(("sigma_max", "tolerance"), [(2.5, 1e-8)])
def test_exact_up_to_where_the_flow_starts(kind, dim, sigma_max, tolerance):
    """From p_sigma_max in place of N(0, sigma_max^2) the flow's density is the law's own, at any sigma_max."""
    law = mixture(kind, dim).law
    x = points(law)
    got = teacher_log_prob(law, x, sigma_max, tolerance=1e-9)
    end = sigma_max * teacher_encode(law, x, sigma_max, tolerance=1e-10)
    taken = -0.5 * (end.square().sum(-1) / sigma_max**2 + dim * math.log(2 * math.pi * sigma_max**2))
    torch.testing.assert_close(got - taken + law.log_prob(end, sigma_max), law.log_prob(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("centred", "order"), [(True, 2), (False, 1)])
@pytest.mark.parametrize("margin", [0.1])
def test_close_to_the_law(centred, order, margin):
    """O(lambda / sigma_max^2) for a law about the origin, O(|mean| / sigma_max) for another."""
    law = line()
    if centred:
        law = GaussianMixture(law.weights, law.means - law.mean, law.covariance)
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None]
    near, far = (
        (teacher_log_prob(law, x, sigma_max, tolerance=1e-8) - law.log_prob(x)).abs().max().item()
        for sigma_max in (80.0, 800.0)
    )
    assert abs(math.log10(near / far) - order) <= margin


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma_max", [2.5, 80.0])
@pytest.mark.parametrize("tolerance", [1e-7])
def test_volume_is_the_determinant_of_the_jacobian(kind, sigma_max, tolerance):
    law = mixture(kind, 3).law
    z = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, J = teacher_map(law, z, sigma_max, 1e-9), teacher_jacobian(law, z, sigma_max, 1e-7)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    want = normal - torch.linalg.slogdet(J).logabsdet
    # A point's error counts by the slope of the density there.
    torch.testing.assert_close(teacher_log_prob(law, x, sigma_max, 1e-8), want, rtol=0, atol=tolerance * sigma_max)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma_max", [2.5, 80.0])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_one_gaussian_in_closed_form(kind, sigma_max, tolerance):
    """T(z) of a Gaussian is exactly Gaussian, with variances v s^2 / (v + s^2)."""
    problem = mixture(kind, 4, components=1)
    x, eye = points(problem.law), torch.eye(4, dtype=torch.float64)
    shrink = problem.matrices[0] @ torch.linalg.inv(problem.matrices[0] + sigma_max**2 * eye)
    covariance = sigma_max**2 * (shrink + shrink.T) / 2
    # sigma_max z is centred at 0 and not at the mean of p_sigma_max: T(0) is not m.
    centre = teacher_map(problem.law, torch.zeros(1, 4, dtype=torch.float64), sigma_max)[0]
    want = torch.distributions.MultivariateNormal(centre, covariance).log_prob(x)
    torch.testing.assert_close(teacher_log_prob(problem.law, x, sigma_max), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
@pytest.mark.parametrize("tolerance", [1e-8])
def test_a_users_teacher_by_its_dense_jacobian(kind, tolerance):
    law = mixture(kind, 3).law
    x = points(law)
    got = teacher_log_prob(Plain(law), x, 2.5, 1e-6)
    torch.testing.assert_close(got, teacher_log_prob(law, x, 2.5, 1e-6), rtol=0, atol=tolerance)
    J = teacher_jacobian(Plain(law), x, 2.5, 1e-6)
    torch.testing.assert_close(teacher_jacobian(law, x, 2.5, 1e-6), J, rtol=0, atol=tolerance)


def test_the_error_is_an_estimate_of_both():
    law = line()
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    got, error = teacher_log_prob(law, x, 2.5, tolerance=1e-3, return_error=True)
    fine = teacher_log_prob(law, x, 2.5, tolerance=1e-10)
    assert error.shape == (9,)
    assert (error <= 1e-3).all()
    assert ((got - fine).abs() <= error + 1e-9).all()


@pytest.mark.parametrize("components", [1, 3])
def test_packs(components):
    laws = [mixture("diagonal", 2, components, seed).law for seed in (0, 1)]
    x = torch.stack([points(law) for law in laws])
    got = teacher_log_prob(GaussianMixture.stack(laws), x, 2.5, 1e-9)
    for e, law in enumerate(laws):
        torch.testing.assert_close(got[e], teacher_log_prob(law, x[e], 2.5, 1e-9), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma_max": 0.0}, "sigma_max must be > 0, got 0"),
        ({"tolerance": 0.0}, "tolerance must be > 0, got 0"),
        ({"x": torch.zeros(3, 2)}, r"x must have shape \(n, 1\), got \(3, 2\)"),
        ({"x": torch.full((3, 1), float("nan"))}, "x must be finite"),
    ],
)
def test_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        teacher_log_prob(line(), **({"x": torch.zeros(3, 1)} | change))
