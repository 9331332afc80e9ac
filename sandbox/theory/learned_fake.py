r"""A learned linear fake score: its own minibatch noise keeps turning a student that has its teacher's law.

One free matrix W_b per noise level, by gradient descent on |W_b y - x|^2 / 2, y = x + sigma_b eps. At the optimum its
residual W_b y - x is independent of y and has variance c sigma^2 / (c + sigma^2) per coordinate, c = lambda the
student's variance, so that the gradient noise of n_b samples has independent entries of variance c sigma^2 / n_b; the
restoring rate is c + sigma^2. Whatever the step, the sum of the error delta W_b over M updates therefore has entries of
variance M c sigma^2 / (n_b (c + sigma^2)^2). The student moves by -lr E_sigma[w_1 delta W] A a step, and with n_b the
share of the fake score's batch B_f at that level and K updates for each of the student's N steps

    rho_g(N) = 1 - exp(-(d - 1)/4 * N * lr^2 / (B_f K) * E_sigma[w_1^2 sigma^2 c / (c + sigma^2)^2])

which does not know the fake score's learning rate. For the per-sample normaliser the expectation is
E_sigma[E[1/nu]^2 / (c + sigma^2)]. With the exact fake score there is no such rotation.

Next order, eta_b = lr_f / (1 + sigma_b^2) the rate, s = c + sigma^2 and V_b = eta_b c sigma^2 / (n_b s (2 - eta_b s
(1 + (d+1)/n_b))) the stationary variance of an entry of W_b: the fluctuation of y y^T multiplies delta W_b, which adds
V_b s^2 (d+1) / n_b to the noise c sigma^2 / n_b; the student's own minibatch of B samples sees delta W_b, which adds
lr^2/B E_sigma[w_2 s d V_b / c] a step; and where the number n of samples at a level is random while the gradient is
averaged over those that fell there, 1/n_b becomes E[1/n; n > 0] / P(n > 0)^2. An average over the whole batch, with its
zeros, keeps 1/n_b exactly.

Fresh samples are assumed for the student's step. On the very samples of the fake score's last update, delta W holds
-eta_b times their noise, which pulls the student inwards (`shared_sample_bias`); the gauge sees this at second order
only.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binom

from sandbox.teacher.schedule import LogUniform
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.normaliser import flat_average
from sandbox.theory.optimum import LevelAverage, residual_variance, square_weights, turned, weights


def stationary_rotation(
    dim: float,
    variance: float,
    law: LevelAverage,
    normaliser: str,
    lr: float,
    fake_batch: float,
    fake_updates: int,
    steps: float,
) -> float:
    """rho_g after `steps` student steps from a student and a fake score at their optimum, to leading order.

    Within about 25 % where 16 samples and more fall on each level and lr_f <= 0.1; see `finite_rate_rotation`.

    Args:
        dim: d >= 1. variance: lambda, all of the teacher's eigenvalues.
        law: noise levels, of the student's and of the fake score's draws alike.
        normaliser: per-sample, batch or off. lr: the student's rate, per unit of the summed gradient.
        fake_batch: samples of a fake score's update, over all levels. fake_updates: per student step.
    Raises:
        ValueError: an argument out of range. HypothesisError: the per-sample normaliser at d = 1.
    """
    _check(lr, fake_batch, fake_updates, steps)
    sigma, share, w = weights(dim, variance, law, normaliser)
    bracket = (share * w**2 * sigma**2 * variance / (variance + sigma**2) ** 2).sum()
    return turned(dim, steps * lr**2 / (fake_batch * fake_updates) * bracket)


def finite_rate_rotation(
    dim: float,
    variance: float,
    law: LevelAverage,
    normaliser: str,
    lr: float,
    fake_batch: float,
    fake_updates: int,
    steps: float,
    fake_lr: float,
    batch: float,
    random_counts: bool = True,
) -> float:
    """rho_g as `stationary_rotation`, to the next order in the fake score's rate and in 1/n_b.

    Args:
        law: its nodes are the levels, one matrix each. fake_lr: lr_f, the step at a level being lr_f / (1 + sigma^2).
        batch: B, samples of a student's step.
        random_counts: levels are drawn sample by sample and averaged over those that fell on one; else n_b is fixed.
    Raises:
        ValueError: as there. HypothesisError: as there; levels that are not discrete; a rate at which the fake score
        diverges; the per-sample normaliser at d <= 2, where the student's gradient has no variance.
    """
    _check(lr, fake_batch, fake_updates, steps, fake_lr=fake_lr, batch=batch)
    if isinstance(law, LogUniform):
        raise HypothesisError("one matrix per level needs a law over discrete levels, not LogUniform")
    sigma, share, w1 = weights(dim, variance, law, normaliser)
    w2 = square_weights(dim, variance, law, normaliser)
    n, s, c = share * fake_batch, variance + sigma**2, variance
    eta = fake_lr / (1 + sigma**2)
    margin = 2 - eta * s * (1 + (dim + 1) / n)
    if (margin <= 0).any():
        raise HypothesisError(f"the fake score must be stable, but diverges at fake_lr = {fake_lr}")
    noise = c * sigma**2 * (_inverse_count(fake_batch, share) if random_counts else 1 / n)
    V = eta * noise / (s * margin)
    integrated = (noise + V * s**2 * (dim + 1) / n) / s**2
    spread = lr**2 * (share**2 * w1**2 * integrated / fake_updates + share * w2 * s * dim * V / c / batch).sum()
    return turned(dim, steps * spread)


def shared_sample_bias(
    dim: float, variance: float, law: LevelAverage, normaliser: str, fake_batch: float, fake_lr: float
) -> float:
    """c - lambda, to first order in lr_f d / n_b, of a student that steps on the samples of the fake score's last
    update.

    E[-eta_b (r y^T) y z^T] / n_b with r = -u gives -eta_b d sigma^2 / n_b against the restoring (c - lambda) sigma^2 /
    (lambda + sigma^2)^2, both weighted: by E[xi^2/nu] where u itself is the factor, by E[1/nu] where y is. One fake
    update per student step, all samples of a level used by both. Arguments and errors as `finite_rate_rotation`."""
    _check(1.0, fake_batch, 1, 0, fake_lr=fake_lr)
    if isinstance(law, LogUniform):
        raise HypothesisError("one matrix per level needs a law over discrete levels, not LogUniform")
    sigma, share, w = weights(dim, variance, law, normaliser)
    of_u = w
    if normaliser == "per-sample":
        of_u = flat_average(float(dim), 1, True) / np.sqrt(residual_variance(variance, sigma))
    pull = (of_u * fake_lr / (1 + sigma**2) * sigma**2).sum() * dim / fake_batch
    return float(-pull / (share * w * sigma**2 / (variance + sigma**2) ** 2).sum())


def _inverse_count(batch: float, share: np.ndarray) -> np.ndarray:
    """E[1/n; n > 0] / P(n > 0)^2 for n binomial, at each level's share of the draws."""
    counts = np.arange(1, int(batch) + 1)
    probability = binom.pmf(counts, int(batch), share[:, None])
    return (probability / counts).sum(-1) / probability.sum(-1) ** 2


def _check(lr: float, fake_batch: float, fake_updates: int, steps: float, **positive: float) -> None:
    for name, value in {"lr": lr, **positive}.items():
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")
    for name, value in {"fake_batch": fake_batch, "fake_updates": fake_updates}.items():
        if not value >= 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if not steps >= 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
