r"""Averages of the per-sample normaliser nu = mean_j |u_j| over independent Gaussian coordinates.

With phi(s) = E exp(-s|xi|) = erfcx(s / sqrt 2) and 1/nu^p = int_0^inf t^(p-1) exp(-t nu) dt, every average of 1/nu^p is
a one-dimensional integral of a product over coordinates, at any dimension and without sampling:

    E[1/nu^p]        = int t^(p-1) prod_j phi(t s_j / d) dt,                 s_j the standard deviation of u_j
    E[xi_k^2/nu^p]   = int t^(p-1) phi''(t s_k / d) prod_{j != k} phi(t s_j / d) dt
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.integrate import quad
from scipy.special import erfcx

from sandbox.teacher.schedule import legendre

ROOT_2_PI = np.sqrt(2 / np.pi)


def laplace(s):
    """phi(s) = E exp(-s |xi|), xi standard normal."""
    return erfcx(np.asarray(s) / np.sqrt(2))


def laplace_second(s):
    """phi''(s) = E xi^2 exp(-s |xi|) = (1 + s^2) phi(s) - s sqrt(2/pi)."""
    s = np.asarray(s, dtype=float)
    exact = (1 + s**2) * laplace(s) - s * ROOT_2_PI
    # The two terms cancel to their last digits at large s, where the asymptotic series is as good as they are.
    far = np.maximum(s, 1.0)
    series = ROOT_2_PI * (2 / far**3 - 12 / far**5 + 90 / far**7 - 840 / far**9 + 9450 / far**11)
    return np.where(s > 35, series, exact)


@lru_cache(maxsize=1024)
def flat_average(dim: float, power: int, squared: bool) -> float:
    """E[1/nu^p], or E[xi_1^2/nu^p] if `squared`, for nu the mean of |xi_j| over dim standard normals; inf where it
    diverges.

    dim may be any real number >= 1: the integral interpolates."""
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    if power not in (1, 2):
        raise ValueError(f"power must be 1 or 2, got {power}")
    # phi decays as 1/s and phi'' as 1/s^3.
    if (dim + 2 if squared else dim) <= power:
        return float("inf")

    def integrand(t: float) -> float:
        s = t / dim
        head = laplace_second(s) * laplace(s) ** (dim - 1) if squared else laplace(s) ** dim
        return float(t ** (power - 1) * head)

    near, _ = quad(integrand, 0, 10, epsabs=0, epsrel=1e-12, limit=400)
    far, _ = quad(integrand, 10, np.inf, epsabs=1e-13, epsrel=1e-10, limit=400)
    return near + far


def spectrum_averages(deviations: np.ndarray, nodes: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """E[1/nu], E[xi_k^2/nu] and E[xi_k^2/nu^2] for u_j of standard deviations (m, d): shapes (m,), (m, d), (m, d).

    Gauss-Legendre in x with t = c x / (1 - x), c the scale of 1/nu, so that algebraic tails are integrated too. E[1/nu]
    at d = 1 is infinite and comes out as a large number: ask for d >= 2."""
    d = deviations.shape[-1]
    x, w = legendre(nodes)
    x, w = (x + 1) / 2, w / 2
    scale = 1 / (ROOT_2_PI * deviations.mean(-1))  # (m,)
    t = scale[:, None] * x / (1 - x)  # (m, nodes)
    measure = scale[:, None] * w / (1 - x) ** 2
    s = t[..., None] * deviations[:, None, :] / d  # (m, nodes, d)
    phi = laplace(s)
    everything = np.exp(np.log(phi).sum(-1))  # (m, nodes)
    ratio = laplace_second(s) / phi * everything[..., None]
    return (
        (measure * everything).sum(-1),
        (measure[..., None] * ratio).sum(1),
        ((measure * t)[..., None] * ratio).sum(1),
    )
