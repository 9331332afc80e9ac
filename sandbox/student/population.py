"""The noiseless limit: DMD's gradient for a linear student on a Gaussian teacher, averaged in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from sandbox.teacher.schedule import SigmaLaw


def population_gradient(A: Tensor, covariance: Tensor, law: SigmaLaw, nodes: int = 200) -> Tensor:
    """E_sigma[H] A with H = C (C + sigma^2)^-1 - Sigma (Sigma + sigma^2)^-1 and C = A A^T, (*E, d, d).

    The expectation of the minibatch gradient with the normaliser off. H is symmetric, so A^T dA/dt is: the flow carries
    A along the horizontal lift of C and adds no rotation of its own.

    Args:
        A: (*E, d, d). covariance: the teacher's Sigma, (d, d) or (*E, d, d). law: noise levels.
    """
    levels, weights = (torch.as_tensor(v, dtype=A.dtype) for v in law.nodes(nodes))

    def shrink(matrix: Tensor) -> Tensor:
        lam, Q = torch.linalg.eigh(matrix)
        mean = (weights * lam[..., None] / (lam[..., None] + levels**2)).sum(-1)
        return (Q * mean[..., None, :]) @ Q.mT

    return (shrink(A @ A.mT) - shrink(covariance)) @ A
