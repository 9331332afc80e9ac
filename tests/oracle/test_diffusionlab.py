"""The denoiser and score of mixtures against diffusionlab 3.0.4 (JAX), an independent implementation."""

import numpy as np
import pytest
import torch
from problems import mixture, relative_error

jax = pytest.importorskip("jax")
pytest.importorskip("diffusionlab.distributions.gmm", reason="4.x dropped the mixtures")
# Before any array exists: JAX computes in float32 unless told otherwise, and would agree to six digits only.
jax.config.update("jax_enable_x64", True)

from diffusionlab.distributions.gmm import gmm, iso_gmm, low_rank_gmm  # noqa: E402
from diffusionlab.dynamics import VarianceExplodingProcess  # noqa: E402

from sandbox.teacher.covariance import Full, Isotropic, LowRank  # noqa: E402
from sandbox.teacher.mixture import GaussianMixture  # noqa: E402

DIMS = (1, 2, 16, 128)
SIGMAS = (1e-3, 1e-2, 0.1, 1.0, 30.0, 1e3)
PROCESS = VarianceExplodingProcess(sigma=lambda t: t)


def low_rank(dim, rank=3):
    """Their low-rank laws have no floor: each component lies on a subspace, and only noise gives it a density."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(3, dim, min(rank, dim), generator=generator, dtype=torch.float64) / dim**0.5
    means = torch.randn(3, dim, generator=generator, dtype=torch.float64)
    return torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64), means, factors


def build(kind, dim):
    """Ours, theirs, and clean points of the law."""
    if kind == "low-rank":
        weights, means, factors = low_rank(dim)
        ours = GaussianMixture(weights, means, LowRank(factors, 0.0))
        theirs = low_rank_gmm.LowRankGMM(*(jax.numpy.asarray(t.numpy()) for t in (means, factors, weights)))
        return ours, theirs, ours.sample(12, generator=torch.Generator().manual_seed(1))
    problem = mixture("full" if kind == "full" else "isotropic", dim)
    # Their constructor asks for a sum within one eps of 1.
    weights = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    clean = problem.points(0.0, n=12)
    if kind == "full":
        ours = GaussianMixture(weights, problem.means, Full(problem.matrices))
        theirs = gmm.GMM(*(jax.numpy.asarray(t.numpy()) for t in (problem.means, problem.matrices, weights)))
    else:
        variances = problem.matrices[:, 0, 0]
        ours = GaussianMixture(weights, problem.means, Isotropic(variances))
        theirs = iso_gmm.IsoGMM(*(jax.numpy.asarray(t.numpy()) for t in (problem.means, variances, weights)))
    return ours, theirs, clean


def noised(clean, sigma):
    eps = torch.randn(clean.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return clean + sigma * eps


def evaluate(method, x, sigma):
    level = jax.numpy.asarray(sigma)
    out = jax.vmap(lambda point: method(point, level, PROCESS))(jax.numpy.asarray(x.numpy()))
    assert out.dtype == np.float64, "the comparison would be in single precision"
    return torch.from_numpy(np.array(out))


# (kind, smallest sigma, tolerance). Their score is (D - x) / sigma^2, and their low-rank denoiser is reached through
# (x - F (...)) / sigma^2: either loses eps |x| / sigma^2, so that the difference below these levels is theirs. (Against
# 60-digit arithmetic at d = 1, sigma = 1e-3, their isotropic score is wrong by 1e-8 of itself, ours by 6e-15.)
DENOISER = [("isotropic", 1e-3, 1e-12), ("full", 1e-3, 1e-12), ("low-rank", 0.1, 1e-12)]
SCORE = [("isotropic", 0.1, 1e-12), ("full", 0.1, 1e-12), ("low-rank", 1.0, 1e-12)]


def levels(table):
    return [(kind, sigma, tolerance) for kind, lowest, tolerance in table for sigma in SIGMAS if sigma >= lowest]


def lower_levels(table):
    return [(kind, sigma) for kind, lowest, _ in table for sigma in SIGMAS if sigma < lowest]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("kind", "sigma", "tolerance"), levels(DENOISER))
def test_denoiser(kind, dim, sigma, tolerance):
    ours, theirs, clean = build(kind, dim)
    x = noised(clean, sigma)
    assert relative_error(ours.denoise(x, sigma), evaluate(theirs.x0, x, sigma)) <= tolerance


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("kind", "sigma", "tolerance"), levels(SCORE))
def test_score(kind, dim, sigma, tolerance):
    ours, theirs, clean = build(kind, dim)
    x = noised(clean, sigma)
    assert relative_error(ours.score(x, sigma), evaluate(theirs.score, x, sigma)) <= tolerance


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("kind", "sigma"), lower_levels(SCORE))
@pytest.mark.parametrize("units", [64])
def test_score_up_to_their_cancellation(kind, dim, sigma, units):
    """In units of what they lose: eps |x| / sigma^2 for the division, and 1 / sigma^2 again for the low-rank solve."""
    ours, theirs, clean = build(kind, dim)
    x = noised(clean, sigma)
    unit = np.finfo(np.float64).eps * x.norm(dim=-1) / sigma ** (4 if kind == "low-rank" else 2)
    assert ((ours.score(x, sigma) - evaluate(theirs.score, x, sigma)).norm(dim=-1) <= units * unit).all()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("kind", "sigma"), lower_levels(DENOISER))
@pytest.mark.parametrize("units", [64])
def test_denoiser_up_to_their_cancellation(kind, dim, sigma, units):
    ours, theirs, clean = build(kind, dim)
    x = noised(clean, sigma)
    unit = np.finfo(np.float64).eps * x.norm(dim=-1) / sigma**2
    assert ((ours.denoise(x, sigma) - evaluate(theirs.x0, x, sigma)).norm(dim=-1) <= units * unit).all()
