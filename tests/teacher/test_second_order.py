"""Second derivatives without the matrix: products and divergences against their dense twins."""

import pytest
import torch
from problems import KINDS, SIGMAS, mixture

from sandbox.teacher.mixture import GaussianMixture

PRODUCTS = {
    "posterior_cov": lambda law, x, sigma, v: law.posterior_cov_product(x, sigma, v),
    "score_jacobian": lambda law, x, sigma, v: law.score_jacobian_product(x, sigma, v),
}


def vectors(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("method", PRODUCTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("dim", [1, 2, 16])
@pytest.mark.parametrize("tolerance", [1e-12])
class TestProducts:
    def test_dense_twin(self, method, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        x, v = problem.points(sigma, n=6), vectors(6, dim, 3)
        dense = getattr(problem.law, method)(x, sigma)
        got = PRODUCTS[method](problem.law, x, sigma, v)
        assert got.shape == v.shape
        scale = dense.norm(dim=(-2, -1)) * v.norm(dim=(-2, -1))
        assert ((got - dense @ v).norm(dim=(-2, -1)) <= tolerance * scale).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("dim", [1, 2, 16, 128])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_divergence_is_the_trace(kind, dim, sigma, tolerance):
    problem = mixture(kind, dim)
    x = problem.points(sigma, n=6)
    dense = problem.law.score_jacobian(x, sigma)
    got = problem.law.score_divergence(x, sigma)
    assert got.shape == (6,)
    assert (
        (got - dense.diagonal(dim1=-2, dim2=-1).sum(-1)).abs() <= tolerance * dense.norm(dim=(-2, -1)) * dim**0.5
    ).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("step", "tolerance"), [(1e-4, 1e-6)])
def test_product_is_the_derivative_of_the_score(kind, step, tolerance):
    problem = mixture(kind, 5)
    x, v = problem.points(0.5, n=6), vectors(6, 5, 1)
    difference = (problem.law.score(x + step * v[..., 0], 0.5) - problem.law.score(x - step * v[..., 0], 0.5)) / (
        2 * step
    )
    got = problem.law.score_jacobian_product(x, 0.5, v)[..., 0]
    assert (got - difference).abs().max() <= tolerance * got.abs().max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tolerance", [1e-13])
def test_packs_and_levels(kind, tolerance):
    members = [mixture(kind, 4, seed=seed) for seed in (0, 1)]
    pack = GaussianMixture.stack([m.law for m in members])
    x, v = torch.stack([m.points(0.5, n=5) for m in members]), vectors(2, 5, 4, 3)
    levels = torch.logspace(-1, 2, 10, dtype=torch.float64).reshape(2, 5)
    for sigma in (0.5, levels):
        for method in PRODUCTS.values():
            got = method(pack, x, sigma, v)
            for e, member in enumerate(members):
                want = method(member.law, x[e], sigma if isinstance(sigma, float) else sigma[e], v[e])
                torch.testing.assert_close(got[e], want, rtol=tolerance, atol=tolerance * want.abs().amax().item())
        divergence = pack.score_divergence(x, sigma)
        for e, member in enumerate(members):
            want = member.law.score_divergence(x[e], sigma if isinstance(sigma, float) else sigma[e])
            torch.testing.assert_close(divergence[e], want, rtol=tolerance, atol=tolerance * want.abs().amax().item())


def test_nothing_of_d_squared_numbers():
    """At d = 16384 one dense matrix of one point is 2 GiB; a product is a few vectors."""
    dim = 16384
    law = mixture("isotropic", 1024).law
    wide = GaussianMixture(law.weights, law.means.repeat(1, 16), law.covariance)
    x, v = vectors(2, dim), vectors(2, dim, 1)
    got = wide.score_jacobian_product(x, 30.0, v)
    # Far above the modes the law is one Gaussian of variance about sigma^2.
    torch.testing.assert_close(got, -v / 900, rtol=0.05, atol=0.05 / 900)


@pytest.mark.parametrize("method", PRODUCTS)
def test_vectors_must_match_the_points(method):
    law = mixture("isotropic", 3).law
    with pytest.raises(ValueError, match=r"v must have shape \(4, 3, 'm'\) to match x, got \(4, 3\)"):
        PRODUCTS[method](law, torch.zeros(4, 3), 0.5, torch.zeros(4, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [1, 5])
@pytest.mark.parametrize("tolerance", [1e-14])
def test_between_and_within(kind, dim, tolerance):
    """The law of total covariance, from the parameters."""
    problem = mixture(kind, dim)
    centred = problem.means - problem.weights @ problem.means
    between = torch.einsum("k,ki,kj->ij", problem.weights, centred, centred)
    within = torch.einsum("k,kij->ij", problem.weights, problem.matrices)
    torch.testing.assert_close(problem.law.between, between, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(problem.law.within, within, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(problem.law.cov, between + within, rtol=tolerance, atol=tolerance)
