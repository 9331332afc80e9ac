"""Losses of an adversarial pair: pure functions of logits, which are large where a classifier takes a point as real."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from sandbox.student.denoiser import LANES


def student_loss(fake: Tensor) -> Tensor:
    """E softplus(-l_fake), minus the log-probability that the student's sample is real, (*E,).

    The loss that does not saturate of Goodfellow et al. (2014, arXiv 1406.2661, section 3).

    Args:
        fake: logits l_fake at the student's samples, (*E, n).
    """
    return _softplus(-fake).mean(-1)


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """E softplus(-l_real) + E softplus(l_fake), (*E,): the cross-entropy of telling real from fake.

    With p_real and p_fake known it is least at l = ln p_real - ln p_fake (Goodfellow et al. 2014, arXiv 1406.2661,
    proposition 1), where it is 2 ln 2 less twice the Jensen-Shannon divergence.

    Args:
        real, fake: logits at samples of both, (*E, n).
    """
    return _softplus(-real).mean(-1) + _softplus(fake).mean(-1)


def r1_penalty(real: Tensor, x: Tensor, gamma: float) -> Tensor:
    """R1 = (gamma / 2) E |grad_x l(x)|^2 at real samples, (*E,) (Mescheder et al. 2018, arXiv 1801.04406, eq. 9).

    Differentiable once more: by what the logits were computed from.

    Args:
        real: logits l(x), (*E, n), each of its own point. x: the points, (*E, n, d), of which they are functions.
    """
    (slope,) = torch.autograd.grad(real.sum(), x, create_graph=True)
    return gamma / 2 * slope.square().sum(-1).mean(-1)


def _softplus(v: Tensor) -> Tensor:
    """ln(1 + e^v), (*E, n); in whole vectors of the processor's, as `denoiser.activation`."""
    n = v.shape[-1]
    return torch.nn.functional.softplus(pad(v, (0, -n % LANES)))[..., :n]
