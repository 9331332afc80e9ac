"""Single Gaussians against azula 0.11.1: its covariances are an algebra of their own, with another low-rank inverse."""

import math

import pytest
import torch
from problems import mixture, relative_error
from torch import Tensor

pytest.importorskip("azula.denoise")

from azula.denoise import GaussianDenoiser
from azula.linalg.covariance import (
    Covariance,
    DiagonalCovariance,
    DPLRCovariance,
    FullCovariance,
    IsotropicCovariance,
)
from azula.noise import Schedule

from sandbox.teacher.covariance import LowRank
from sandbox.teacher.mixture import GaussianMixture

KINDS = ("isotropic", "diagonal", "low-rank", "full")
DIMS = (1, 16, 128)
SIGMAS = (1e-3, 1e-2, 0.1, 1.0, 30.0, 1e3)
EPS = torch.finfo(torch.float64).eps


class Exploding(Schedule):
    """x_sigma = x_0 + sigma eps, with sigma itself as the time: theirs passes through exp and log."""

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t


def build(kind: str, dim: int) -> tuple[GaussianMixture, Tensor, Covariance]:
    """Ours, and the mean and covariance that define theirs, from one set of plain parameters."""
    if kind == "low-rank":
        generator = torch.Generator().manual_seed(0)
        mean = torch.randn(dim, generator=generator, dtype=torch.float64)
        factors = torch.randn(dim, min(3, dim), generator=generator, dtype=torch.float64) / dim**0.5
        floor = torch.tensor(0.1, dtype=torch.float64)
        law = GaussianMixture([1.0], mean[None], LowRank(factors[None], floor))
        return law, mean, DPLRCovariance(floor.expand(dim), factors)
    problem = mixture(kind, dim, components=1)
    matrix = problem.matrices[0]
    if kind == "isotropic":
        return problem.law, problem.means[0], IsotropicCovariance(matrix[0, 0])
    if kind == "diagonal":
        return problem.law, problem.means[0], DiagonalCovariance(matrix.diagonal())
    # Singular vectors, so that not even the eigenvectors are ours.
    basis, spectrum, _ = torch.linalg.svd(matrix)
    return problem.law, problem.means[0], FullCovariance(basis, spectrum)


def noised(law: GaussianMixture, sigma: float) -> Tensor:
    x = law.sample(12, generator=torch.Generator().manual_seed(1))
    return x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def at_level(covariance: Covariance, sigma: float) -> Covariance:
    return covariance + IsotropicCovariance(torch.tensor(sigma, dtype=torch.float64).square())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("sigma", SIGMAS)
class TestEveryLevel:
    # Their denoiser is x + sigma^2 s, which loses eps |x|, and either starts from x - m: that is the unit. The worst
    # case found is 13 of them, a full covariance at d = 128.
    @pytest.mark.parametrize("units", [32])
    def test_denoiser(self, kind, dim, sigma, units):
        law, mean, covariance = build(kind, dim)
        x = noised(law, sigma)
        want = GaussianDenoiser(mean, covariance, Exploding())(x, torch.tensor(sigma, dtype=torch.float64)).mean
        assert want.dtype == torch.float64
        assert ((law.denoise(x, sigma) - want).norm(dim=-1) <= units * EPS * (x.norm(dim=-1) + mean.norm())).all()

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_denoiser_as_a_shrinkage(self, kind, dim, sigma, tolerance):
        """Where x + sigma^2 s cancels: m + Sigma (Sigma + sigma^2)^-1 (x - m) by their products."""
        law, mean, covariance = build(kind, dim)
        x = noised(law, sigma)
        want = mean + covariance(at_level(covariance, sigma).inv(x - mean))
        assert relative_error(law.denoise(x, sigma), want) <= tolerance

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_score(self, kind, dim, sigma, tolerance):
        law, mean, covariance = build(kind, dim)
        x = noised(law, sigma)
        assert relative_error(law.score(x, sigma), at_level(covariance, sigma).inv(mean - x)) <= tolerance

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_posterior_covariance(self, kind, dim, sigma, tolerance):
        """sigma^2 Sigma (Sigma + sigma^2)^-1, the same at every point, column by column."""
        law, _, covariance = build(kind, dim)
        x = noised(law, sigma)[:2]
        eye = torch.eye(dim, dtype=torch.float64)
        want = sigma**2 * covariance(at_level(covariance, sigma).inv(eye))
        got = law.posterior_cov(x, sigma)
        assert ((got - want).norm(dim=(-2, -1)) <= tolerance * want.norm()).all()


@pytest.mark.parametrize("kind", KINDS[1:])  # their isotropic covariance has no dimension, and so no determinant
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("tolerance", [1e-13])
def test_log_density(kind, dim, sigma, tolerance):
    law, mean, covariance = build(kind, dim)
    x = noised(law, sigma)
    level = at_level(covariance, sigma)
    square = ((x - mean) * level.inv(x - mean)).sum(-1)
    want = -0.5 * (square + level.logdet() + dim * math.log(2 * math.pi))
    # The three terms may nearly cancel: the error is relative to what is added up.
    size = 0.5 * (square + level.logdet().abs() + dim * math.log(2 * math.pi))
    assert ((law.log_prob(x, sigma) - want).abs() <= tolerance * size).all()
