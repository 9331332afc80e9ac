r"""A linear student that has its flat teacher's law, C = lambda I: the weighting that its gradient sees there.

At the optimum kappa = k, and u = x - k y is the residual of the best prediction of x from y: independent of y, of
variance v_u = lambda sigma^2 / (lambda + sigma^2) per coordinate. With x = u + k y, a matrix H that is small, and the
gradient w H y z^T of one sample,

    E[w y z^T]                = w_1 A                         w_1 = E[1/nu] / sqrt v_u
    E[w^2 y_k^2 z_j^2]        = w_2 (lambda + sigma^2)        w_2 = ((1-k) E[xi^2/nu^2] + k E[1/nu^2]) / v_u   (k != j)

for the per-sample normaliser, nu the mean of d standard normals' moduli; w_1 = w, w_2 = w^2 for a weighting that all
samples share. Nothing that is still noisy at the optimum stops turning the gauge: if the increments dA A^-1 have
independent entries of total variance tau, their antisymmetric part is a Brownian motion on SO(d), and

    rho_g = 1 - exp(-(d - 1) tau / 4)
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.normaliser import ROOT_2_PI, flat_average

NODES = 400
NORMALISERS = ("per-sample", "batch", "off")


class LevelAverage(Protocol):
    """A law of noise levels: `sandbox.teacher.schedule`'s, or any other with nodes and weights."""

    def nodes(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Levels and weights such that sum(weights * h(levels)) = E[h(sigma)]."""
        ...


def turned(dim: float, spread: float) -> float:
    """rho_g after increments dA A^-1 of independent entries with total variance `spread` each; 0 at d = 1.

    Raises ValueError if dim < 1 or spread < 0."""
    if not dim >= 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    if not spread >= 0:
        raise ValueError(f"spread must be >= 0, got {spread}")
    return float(-np.expm1(-(dim - 1) / 4 * spread))


def residual_variance(variance: float, sigma) -> np.ndarray:
    """v_u = lambda sigma^2 / (lambda + sigma^2), as sigma."""
    return variance * np.square(sigma) / (variance + np.square(sigma))


def weights(dim: float, variance: float, law: LevelAverage, normaliser: str) -> tuple[np.ndarray, ...]:
    """sigma, its weights in E_sigma, and w_1 at each level, each (m,).

    Args:
        dim: d >= 1, inf for the self-averaged normaliser. variance: lambda. law: noise levels of the student's draws.
        normaliser: per-sample, batch (in the limit of a large batch) or off.
    Raises:
        ValueError: an argument out of range. HypothesisError: the per-sample normaliser at d = 1.
    """
    sigma, share, v_u = _levels(dim, variance, law, normaliser)
    if normaliser != "per-sample":
        return sigma, share, np.full_like(sigma, _shared(v_u, share, normaliser))
    return sigma, share, _average(dim, 1, False) / np.sqrt(v_u)


def square_weights(dim: float, variance: float, law: LevelAverage, normaliser: str) -> np.ndarray:
    """w_2 at each level of `weights`, (m,); arguments and errors as there, but the per-sample normaliser needs d > 2.

    E[1/nu^2] is infinite at d <= 2: the gradient then has no variance, however close the student is to its end."""
    sigma, share, v_u = _levels(dim, variance, law, normaliser)
    if normaliser != "per-sample":
        return np.full_like(sigma, _shared(v_u, share, normaliser) ** 2)
    k = variance / (variance + sigma**2)
    return ((1 - k) * _average(dim, 2, True) + k * _average(dim, 2, False)) / v_u


def _levels(dim, variance, law, normaliser) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if not dim >= 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    if not variance > 0:
        raise ValueError(f"variance must be > 0, got {variance}")
    if normaliser not in NORMALISERS:
        raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}, got {normaliser!r}")
    sigma, share = law.nodes(NODES)
    return sigma, share, residual_variance(variance, sigma)


def _shared(v_u: np.ndarray, share: np.ndarray, normaliser: str) -> float:
    return 1.0 if normaliser == "off" else float(1 / (ROOT_2_PI * (share * np.sqrt(v_u)).sum()))


def _average(dim: float, power: int, squared: bool) -> float:
    value = (np.pi / 2) ** (power / 2) if np.isinf(dim) else flat_average(float(dim), power, squared)
    if np.isinf(value):
        raise HypothesisError(f"the per-sample normaliser needs d > {power} here: E[1/nu^{power}] is infinite at {dim}")
    return float(value)
