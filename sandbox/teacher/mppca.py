r"""Mixtures of probabilistic principal component analysers, fitted to points by maximum likelihood.

    p(x) = sum_k w_k N(x; mu_k, W_k W_k^T + s_k^2 I),    W_k (d, rank)

(Tipping & Bishop 1999, Neural Computation 11(2), 443-482), which is a GaussianMixture with LowRank covariances. Both
steps of expectation maximisation are closed: the responsibilities r_k(x) are the mixture's own, and given them, with
N_k = sum_n r_nk,

    w_k = N_k / N,    mu_k = sum_n r_nk x_n / N_k                               (Bishop 2006, eqs. 9.26 and 9.24)
    s_k^2 = mean of the d - rank smallest eigenvalues lambda_j of S_k           (Bishop 2006, eq. 12.46)
    W_k = U (Lambda - s_k^2 I)^(1/2), of the rank largest                       (Bishop 2006, eq. 12.45)

where S_k = sum_n r_nk (x_n - mu_k)(x_n - mu_k)^T / N_k (eq. 9.25). A component that shrinks onto a point, or onto a
plane, would send the likelihood to infinity; therefore s_k^2 has a floor. Where the floor is above that mean, s_k^2 is
the floor and W_k the same expression with negative eigenvalues of Lambda - s_k^2 I set to 0: this is the maximum under
the constraint, since each log-likelihood falls in s_k^2 above the mean of the eigenvalues that s_k^2 replaces. So the
likelihood never falls, with the floor or without.
"""

from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from sandbox.teacher.checks import check_count, check_positive
from sandbox.teacher.covariance import LowRank
from sandbox.teacher.mixture import GaussianMixture

# Steps between two looks at the likelihood, which costs as much as a step, and the most looks.
ROUND, ROUNDS = 10, 20
# Points whose arrays are held at once.
PIECE = 1024
# A share of a point this small is lost in the rounding of the sums over points.
NEGLIGIBLE = 1e-16


def scikit_learn(module: str) -> ModuleType:
    """A module of scikit-learn.

    Raises ImportError, naming the extra that brings it, where it is not installed."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ImportError('teachers fitted to images need scikit-learn: pip install "dmd-sandbox[images]"') from error


def in_pieces(function, x: Tensor) -> Tensor:
    """function(x) for a function of each point, on a few points at a time."""
    return torch.cat([function(piece) for piece in x.split(PIECE)])


def maximise(x: Tensor, r: Tensor, rank: int, least: float) -> GaussianMixture:
    """The mixture that maximises sum_nk r_nk log(w_k p_k(x_n)) for responsibilities r (n, K) of points x (n, d).

    rank: columns of each W_k, 0 .. d - 1. least: the smallest s_k^2, > 0."""
    parts = [_component(x, r[:, k], rank, least) for k in range(r.shape[1])]
    means, factors, floors = (torch.stack(part) for part in zip(*parts, strict=True))
    mass = r.sum(0)
    return GaussianMixture(mass / mass.sum(), means, LowRank(factors, floors))


def _component(x: Tensor, r: Tensor, rank: int, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """mu (d,), W (d, rank) and s^2 of the points x (n, d) with shares r (n,)."""
    counted = r > NEGLIGIBLE
    x, r = x[counted], r[counted]
    shares = r / r.sum()
    mu = shares @ x
    centred = shares.sqrt()[:, None] * (x - mu)
    spectrum, basis = torch.linalg.eigh(centred.mT @ centred)
    rest = x.shape[-1] - rank
    floor = spectrum[:rest].mean().clamp(min=least)
    return mu, basis[:, rest:] * (spectrum[rest:] - floor).clamp(min=0.0).sqrt(), floor


def em_step(law: GaussianMixture, x: Tensor, rank: int, least: float) -> GaussianMixture:
    """One step of expectation maximisation from `law` on points x (n, d); `rank` and `least` as in `maximise`."""
    return maximise(x, in_pieces(law.responsibilities, x), rank, least)


def start(x: Tensor, components: int, seed: int) -> Tensor:
    """Responsibilities 0 and 1 by k-means (scikit-learn's, from a k-means++ draw), (n, K) float64."""
    labels = np.zeros(len(x), int)
    if components > 1:
        means = scikit_learn("cluster").KMeans(components, n_init=1, random_state=seed)
        # Sums of several threads are added up in the order in which these finish.
        with importlib.import_module("threadpoolctl").threadpool_limits(1):
            labels = means.fit_predict(x.numpy())
    return torch.nn.functional.one_hot(torch.as_tensor(labels).long(), components).double()


def fit(
    x: Tensor, components: int, rank: int, floor: float = 1e-3, seed: int = 0, tolerance: float = 2e-3
) -> GaussianMixture:
    """The mixture of `components` analysers of `rank` directions each that fits points x, in float64.

    Args:
        x: points, (n, d).
        rank: directions of a component that have a variance of their own; from d - 1 on its covariance is any matrix.
        floor: the smallest variance of a component in any direction, over the mean variance of a coordinate of x.
        seed: of the k-means from which it starts.
        tolerance: ends when ten steps add no more to the mean log-likelihood, nats per coordinate.
    Raises:
        ValueError: components, rank < 1 or more components than points, seed < 0, floor or tolerance <= 0, points
            that are not finite, not (n, d) or all the same. ImportError: scikit-learn is missing.
    """
    check_count(components=components, rank=rank)
    check_count(0, seed=seed)
    check_positive(floor=floor, tolerance=tolerance)
    if x.ndim != 2 or not torch.isfinite(x).all():
        raise ValueError(f"x must be finite and have shape (n, d), got shape {tuple(x.shape)}")
    if components > len(x):
        raise ValueError(f"components must be <= the number of points, {len(x)}, got {components}")
    x = x.double()
    dim = x.shape[-1]
    least = floor * x.var(0, correction=0).mean().item()
    if not least > 0:
        raise ValueError(f"x must hold points that differ, got {len(x)} times the same")
    rank = min(rank, dim - 1)
    law = maximise(x, start(x, components, seed), rank, least)
    if components == 1:
        return law
    before = in_pieces(law.log_prob, x).mean()
    for _ in range(ROUNDS):
        for _ in range(ROUND):
            law = em_step(law, x, rank, least)
        now = in_pieces(law.log_prob, x).mean()
        if now - before <= tolerance * dim:
            break
        before = now
    return law
