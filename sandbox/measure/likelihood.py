"""The Kullback-Leibler divergence of a one-step student from its teacher, by change of variables."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sandbox.measure.jacobian import jacobian
from sandbox.teacher.mixture import GaussianMixture


def kl_change_of_variables(student: Callable[[Tensor], Tensor], teacher: GaussianMixture, z: Tensor) -> float:
    """KL(S law || teacher) = E[log N(z) - log |det J_S(z)| - log p(S(z))], in nats, over the points given.

    Exact (up to sampling) if S is one-to-one. If it is not, the density at S(z) is a sum over all z' that are sent
    there, of which this counts one: the value is then a lower bound. inf where the determinant
    vanishes; of a Jacobian that is singular but for rounding, a large number.

    Args:
        student: (n, d) -> (n, d). z: standard normal points, (n, d), also the precision of J_S.
    Raises:
        ValueError: z of another dimension than the teacher's, or a derivative that is not finite.
    """
    if z.ndim != 2 or z.shape[-1] != teacher.dim:
        raise ValueError(f"z must have shape (n, {teacher.dim}), got {tuple(z.shape)}")
    with torch.no_grad():
        x = student(z).double()
    volume = torch.linalg.slogdet(jacobian(student, z)).logabsdet
    z = z.double()
    log_normal = -z.square().sum(-1) / 2 - teacher.dim * math.log(2 * math.pi) / 2
    return (log_normal - volume - teacher.to(torch.float64).log_prob(x, 0.0)).mean().item()
