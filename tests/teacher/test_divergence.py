"""Monte-Carlo divergences against closed forms, quadrature and each other."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from problems import line, mixture

from sandbox.teacher.covariance import Full, Isotropic
from sandbox.teacher.divergence import Estimate, estimate, fisher_between, fisher_divergence, kl_between, kl_divergence
from sandbox.teacher.mixture import GaussianMixture


def gaussian(seed, dim):
    generator = torch.Generator().manual_seed(seed)
    factors = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    matrix = factors @ factors.T + 0.3 * torch.eye(dim, dtype=torch.float64)
    mean = 0.3 * torch.randn(1, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture([1.0], mean, Full(matrix[None])), torch.distributions.MultivariateNormal(mean[0], matrix)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize(("n", "standard_errors"), [(20_000, 4)])
def test_kl_of_gaussians_is_torchs(dim, n, standard_errors):
    (p, p_torch), (q, q_torch) = gaussian(0, dim), gaussian(1, dim)
    got = kl_between(p, q, n, generator=generator())
    want = torch.distributions.kl_divergence(p_torch, q_torch).item()
    assert got.n == n
    assert 0 < got.standard_error < 0.1 * want
    assert abs(got.value - want) <= standard_errors * got.standard_error


@pytest.mark.parametrize("dim", [1, 2, 8])
@pytest.mark.parametrize(("n", "standard_errors"), [(20_000, 4)])
def test_fisher_of_gaussians(dim, n, standard_errors):
    """E|(P_q - P_p) x + P_p m_p - P_q m_q|^2 for x ~ N(m_p, S_p)."""
    (p, p_torch), (q, q_torch) = gaussian(0, dim), gaussian(1, dim)
    got = fisher_between(p, q, n, generator=generator())
    M = q_torch.precision_matrix - p_torch.precision_matrix
    at_the_mean = q_torch.precision_matrix @ (p_torch.mean - q_torch.mean)
    want = ((M @ p_torch.covariance_matrix @ M.T).trace() + at_the_mean.square().sum()).item()
    assert abs(got.value - want) <= standard_errors * got.standard_error


@pytest.mark.parametrize("sigma", [0.0, 0.5])
@pytest.mark.parametrize(("n", "standard_errors"), [(50_000, 4)])
def test_mixtures_on_a_line_against_quadrature(sigma, n, standard_errors):
    p, q = line(), GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], Isotropic(0.4))

    def at(t):
        x = torch.tensor([[t]], dtype=torch.float64)
        density = p.log_prob(x, sigma).exp().item()
        ratio = (p.log_prob(x, sigma) - q.log_prob(x, sigma)).item()
        slope = (p.score(x, sigma) - q.score(x, sigma)).item()
        return density * ratio, density * slope**2

    kl, fisher = (scipy.integrate.quad(lambda t, i=i: at(t)[i], -8, 8, limit=200)[0] for i in (0, 1))
    got = kl_between(p, q, n, sigma, generator()), fisher_between(p, q, n, sigma, generator(1))
    assert abs(got[0].value - kl) <= standard_errors * got[0].standard_error
    assert abs(got[1].value - fisher) <= standard_errors * got[1].standard_error


@pytest.mark.parametrize(("low", "high", "n", "standard_errors"), [(0.3, 3.0, 40_000, 4)])
def test_fisher_is_the_derivative_of_kl(low, high, n, standard_errors):
    """KL at two noise levels against half the integral of Fisher over sigma^2 between them (Lyu 2009)."""
    p, q = mixture("isotropic", 3).law, mixture("isotropic", 3, seed=1).law
    nodes, weights = np.polynomial.legendre.leggauss(8)
    logs = np.log(low) + (nodes + 1) / 2 * np.log(high / low)
    total, variance = 0.0, 0.0
    for i, (t, w) in enumerate(zip(logs, weights)):
        sigma = math.exp(t)
        # d sigma^2 / 2 = sigma^2 d ln sigma
        factor = w / 2 * math.log(high / low) * sigma**2
        got = fisher_between(p, q, n, sigma, generator(i))
        total, variance = total + factor * got.value, variance + (factor * got.standard_error) ** 2
    ends = [kl_between(p, q, n, sigma, generator(100 + i)) for i, sigma in enumerate((low, high))]
    error = math.sqrt(variance + sum(e.standard_error**2 for e in ends))
    drop = ends[0].value - ends[1].value
    assert error < 0.05 * drop
    assert abs(total - drop) <= standard_errors * error


def test_a_law_is_no_distance_from_itself():
    law = mixture("full", 4).law
    assert kl_between(law, law, 100, 0.1, generator()) == Estimate(0.0, 0.0, 100)
    assert fisher_between(law, law, 100, 0.1, generator()) == Estimate(0.0, 0.0, 100)


@pytest.mark.parametrize(("trials", "n", "low", "high"), [(200, 400, 0.8, 1.2)])
def test_the_standard_error_is_that_of_repetition(trials, n, low, high):
    p, q = mixture("isotropic", 2).law, mixture("isotropic", 2, seed=1).law
    found = [kl_between(p, q, n, generator=generator(i)) for i in range(trials)]
    spread = np.std([f.value for f in found], ddof=1)
    assert low <= spread / np.mean([f.standard_error for f in found]) <= high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda law, x: kl_divergence(law, x, torch.zeros(3)),
            r"log_prob must have shape \(5,\) to match x, got \(3,\)",
        ),
        (lambda law, x: kl_divergence(law, x[0], torch.zeros(())), r"x must have shape \(n, d\), got \(2,\)"),
        (lambda law, x: kl_divergence(law, x[:1], torch.zeros(1)), "n must be >= 2, got 1"),
        (lambda law, x: fisher_divergence(law, x, torch.zeros(5, 1)), r"score must have shape \(5, 2\) to match x"),
        (lambda law, x: fisher_divergence(law, x, x * torch.nan), "values must be finite, got 5 of 5 that are not"),
        (lambda law, x: estimate(torch.zeros(0)), "n must be >= 2, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(mixture("isotropic", 2).law, torch.ones(5, 2, dtype=torch.float64))
