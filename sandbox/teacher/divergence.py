r"""How far a law is from a teacher: Monte-Carlo divergences with their standard errors.

    KL(p | q)     = E_p[log p - log q]                       in nats
    Fisher(p | q) = E_p |grad log p - grad log q|^2          (Hyvarinen 2005; what a denoising loss measures)

q is the teacher at a noise level, p any law of which there are samples and, at the samples, a density or a score:
another mixture's, a flow's change of variables, a user's own. Both vanish only if p = q, and along the noise levels one
is the other's derivative (Lyu 2009, theorem 1):

    KL(p_s | q_s) - KL(p_t | q_t) = 1/2 int_{s^2}^{t^2} Fisher(p_sigma | q_sigma) d sigma^2
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sandbox.teacher.mixture import GaussianMixture


class Estimate(NamedTuple):
    """A mean over n independent points with its standard error."""

    value: float
    standard_error: float
    n: int


def estimate(values: Tensor) -> Estimate:
    """The mean of independent values (n,), n >= 2.

    Raises ValueError for fewer or for values that are not finite."""
    values = values.double().flatten()
    n = len(values)
    if n < 2:
        raise ValueError(f"n must be >= 2, got {n}")
    if not torch.isfinite(values).all():
        raise ValueError(f"values must be finite, got {int((~torch.isfinite(values)).sum())} of {n} that are not")
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(n), n)


def kl_divergence(teacher: GaussianMixture, x: Tensor, log_prob: Tensor, sigma: float = 0.0) -> Estimate:
    """KL(p | p_sigma of the teacher) in nats.

    Args:
        x: samples of p, (n, d). log_prob: log p at them, in nats, (n,).
    Raises:
        ValueError: shapes that do not agree, n < 2, or values that are not finite.
    """
    _check(x, log_prob, x.shape[:-1], "log_prob")
    return estimate(log_prob.double() - teacher.log_prob(x.double(), sigma))


def fisher_divergence(teacher: GaussianMixture, x: Tensor, score: Tensor, sigma: float = 0.0) -> Estimate:
    """E_p|grad log p - s_sigma|^2 against the teacher's score at sigma, in units of 1 / x^2.

    Args:
        x: samples of p, (n, d). score: grad log p at them, (n, d).
    Raises:
        ValueError: as `kl_divergence`.
    """
    _check(x, score, x.shape, "score")
    return estimate((score.double() - teacher.score(x.double(), sigma)).square().sum(-1))


def kl_between(
    law: GaussianMixture, teacher: GaussianMixture, n: int, sigma: float = 0.0, generator: torch.Generator | None = None
) -> Estimate:
    """KL(law_sigma | teacher_sigma) in nats, over n samples of the law at noise level sigma."""
    x = _noised(law, n, sigma, generator)
    return kl_divergence(teacher, x, law.log_prob(x, sigma), sigma)


def fisher_between(
    law: GaussianMixture, teacher: GaussianMixture, n: int, sigma: float = 0.0, generator: torch.Generator | None = None
) -> Estimate:
    """Fisher divergence of the law at noise level sigma from the teacher there, over n samples."""
    x = _noised(law, n, sigma, generator)
    return fisher_divergence(teacher, x, law.score(x, sigma), sigma)


def _noised(law: GaussianMixture, n: int, sigma: float, generator: torch.Generator | None) -> Tensor:
    x = law.to(torch.float64).sample(n, generator)
    return x + sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


def _check(x: Tensor, values: Tensor, shape: torch.Size, name: str) -> None:
    if x.ndim != 2:
        raise ValueError(f"x must have shape (n, d), got {tuple(x.shape)}")
    if values.shape != shape:
        raise ValueError(f"{name} must have shape {tuple(shape)} to match x, got {tuple(values.shape)}")
