r"""Adam (Kingma & Ba 2015) on a linear student: entrywise steps lr m / sqrt(v), which do not shrink at the optimum.

For an entry of A with mean gradient M and noise variance V, v -> M^2 + V, and sums of m are sums of gradients. Hence

    noise dominates, M^2 << V = n/B    gradient descent at the rate lr / sqrt(n/B)
    no noise, B -> inf                 steps of size lr and the sign of M: A = a (I + signs off the diagonal)
    at the optimum                     entries walk by lr sqrt(V / (M^2 + V)) a step, for ever: the gauge never freezes

At the optimum the student is off by D = C - lambda I of the size of lr, and both M and V are of its order: with
h = sigma^2 / (lambda + sigma^2)^2 = dkappa/dc, M = E_sigma[h w_1] D A and V_ij = E_sigma[h^2 w_2 (lambda + sigma^2)]
(D D^T)_ii / B. M is symmetric and does not turn the gauge, but it takes its share of v. As D has d + 1 times as much in
a row as in one entry off the diagonal (a diagonal one has twice the variance), the share of the steps that turns is

    share = V / (M^2 + V) = 1 / (1 + c B / (d + 1)),    c = lambda E[h w_1]^2 / E[h^2 w_2 (lambda + sigma^2)]
    rho_g(N) = 1 - exp(-(d - 1) share lr^2 N / (4 lambda))

c is 2 / L for the self-averaged per-sample normaliser and 1 / L for a weighting that all samples share, L the range of
ln sigma for log-uniform levels that reach far to both sides of sqrt(lambda): .24 and .12 from .02 to 80. Were D
isotropic, M would vanish off the diagonal and the part of the noise that comes from x would be symmetric: the share
would be that of eps, one half for the per-sample normaliser, whatever d and B.
"""

from __future__ import annotations

import numpy as np

from sandbox.theory.copying import free_polar
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.optimum import LevelAverage, square_weights, turned, weights

SCALING_PREDICTIONS = frozenset({"late_diffusion", "sign_descent"})
"""Functions whose direction and exponents are derived, and whose size holds to ACCURACY only."""

ACCURACY = 0.35

ISOTROPIC_SHARE = 0.5


def late_diffusion(dim: float, variance: float, lr: float, steps: float, share: float = ISOTROPIC_SHARE) -> float:
    """rho_g of a student that Adam keeps at its optimum for `steps` more steps. A scaling prediction.

    With the default share, 1 - exp(-(d - 1) lr^2 N / (8 lambda)): right for an isotropic D, and where B happens to be
    about (d + 1) L / 2. With `turning_share`, within 15 % for B / (d + 1) from 1 to 16. Needs lr d^(3/2) <<
    sqrt(lambda), so that D has no mean to speak of, and more steps than v remembers, 1 / (1 - beta_2): v holds the
    larger gradients of the past until then.

    Args:
        dim: d >= 1. variance: lambda. lr: Adam's. steps: N. share: of the variance of a step that turns, in [0, 1].
    Raises:
        ValueError: an argument out of range.
    """
    if not variance > 0:
        raise ValueError(f"variance must be > 0, got {variance}")
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    if not steps >= 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], got {share}")
    return turned(dim, share * lr**2 * steps / variance)


def turning_share(dim: float, variance: float, batch: float, law: LevelAverage, normaliser: str) -> float:
    """V / (M^2 + V) at the optimum with the exact fake score, for independent eps: the share of Adam's steps that turns
    the gauge.

    Args:
        dim: d >= 2. variance: lambda. batch: B. law: noise levels. normaliser: per-sample, batch or off.
    Raises:
        ValueError: an argument out of range. HypothesisError: d = 1; the per-sample normaliser at d <= 2, whose
        gradient has no variance.
    """
    if not batch >= 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    sigma, share, w1 = weights(dim, variance, law, normaliser)
    if dim < 2:
        raise HypothesisError(f"there is a gauge to turn from d = 2 on, not at {dim}")
    w2 = square_weights(dim, variance, law, normaliser)
    s = variance + sigma**2
    h = sigma**2 / s**2
    c = variance * (share * h * w1).sum() ** 2 / (share * h**2 * w2 * s).sum()
    return float(1 / (1 + c * batch / (dim + 1)))


def sign_descent(dim: float) -> float:
    """rho_g in the limit of a large batch, 1 - q(1/sqrt d): every entry grows at one speed, off the diagonal with a
    random sign. A scaling prediction, for large d; at d = 4 it is too low.

    Raises HypothesisError if dim < 2: there is nothing off the diagonal."""
    if not dim >= 2:
        raise HypothesisError(f"random signs off the diagonal need d >= 2, got {dim}")
    return 1 - free_polar(float(dim) ** -0.5)


def descent_rate(lr: float, noise: float, batch: float) -> float:
    """The learning rate of gradient descent that Adam amounts to at small batches, lr / sqrt(n / B).

    Args:
        lr: Adam's. noise: n, variance of an entry of one sample's gradient. batch: B, with B M^2 << n.
    Raises:
        ValueError: an argument out of range.
    """
    for name, value in {"lr": lr, "noise": noise, "batch": batch}.items():
        if not (value > 0 and np.isfinite(value)):
            raise ValueError(f"{name} must be > 0, got {value}")
    return float(lr / np.sqrt(noise / batch))
