"""The freedom fraction of linear students, exactly: how much of a change of x = A z remaps the noise.

For u = B z at x = A z the split u = M x + w of `freedom.py` is one of matrices. Vertical are the B with B A^T
antisymmetric, which leave A A^T as it is to first order; horizontal is M A with M symmetric (Otto 2001; for matrices,
Bhatia, Jain & Lim 2019).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sandbox.measure.gauge import SINGULAR


def linear_split(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The horizontal M A and the vertical B - M A of the change B z of x = A z, both (*E, d, d).

    M is symmetric and minimises |B - M A|_F, that is E|B z - M A z|^2: with C = A A^T it solves the Lyapunov equation
    C M + M C = B A^T + A B^T. The field is linear and the law normal, so no other phi does better; (B - M A) A^T is
    antisymmetric, so that A A^T does not change to first order.

    Args:
        A, B: (*E, d, d). Directions in which A is singular to rounding carry no points, and no M.
    Raises:
        ValueError: shapes that are not square or do not agree.
    """
    if not _square(A) or B.shape[-2:] != A.shape[-2:]:
        raise ValueError(f"A and B must have shape (d, d), got {tuple(A.shape)} and {tuple(B.shape)}")
    A, B = A.double(), B.double()
    U, s, Vh = torch.linalg.svd(A)
    s = torch.where(s > s[..., :1] * SINGULAR, s, 0.0)
    b = U.mT @ B @ Vh.mT * s[..., None, :]
    pairs = s[..., :, None].square() + s[..., None, :].square()
    M = torch.where(pairs > 0, (b + b.mT) / pairs, 0.0)
    horizontal = U @ (M * s[..., None, :]) @ Vh
    return horizontal, B - horizontal


def _square(A: Tensor) -> bool:
    return A.ndim >= 2 and A.shape[-1] == A.shape[-2]


def linear_freedom(A: Tensor, B: Tensor, offset: Tensor | None = None) -> Tensor:
    """The exact freedom fraction of the change B z + offset of A z + b, (*E,); A and B as for `linear_split`.

    An offset, (*E, d), moves the law as a whole and is horizontal. NaN for no change at all. Raises ValueError as
    `linear_split`, and for an offset of another d."""
    if offset is not None and offset.shape[-1:] != A.shape[-1:]:
        raise ValueError(f"offset must have shape (d,) with d = {A.shape[-1]}, got {tuple(offset.shape)}")
    energy = B.double().square().sum((-2, -1))
    if offset is not None:
        energy = energy + offset.double().square().sum(-1)
    return linear_split(A, B)[1].square().sum((-2, -1)) / energy


def linear_available(A: Tensor, bias: bool = False) -> Tensor:
    """E|w|^2 / E|u|^2 over isotropic directions of a linear student's parameters, (*E,), exactly.

    The share of directions that are vertical: (d-1)/(2d) at every invertible A, or (d-1)/(2(d+1)) with a bias; at rank
    r, horizontal ones number r d - r (r-1)/2. A single direction's fraction is Beta(vertical/2, horizontal/2).

    Raises ValueError for a shape that is not square."""
    if not _square(A):
        raise ValueError(f"A must have shape (d, d), got {tuple(A.shape)}")
    d = A.shape[-1]
    s = torch.linalg.svdvals(A.double())
    r = ((s > s[..., :1] * SINGULAR) & (s > 0)).sum(-1).double()
    return (d * d - r * d + r * (r - 1) / 2) / (d * d + d * bias)


class LinearNet(NamedTuple):
    """What became of a linear student A_0 that ended as A_1; each (*E,), NaN where it is not defined."""

    freedom: Tensor
    """`linear_freedom` of A_1 - A_0 halfway, as `net` reads it."""
    excess: Tensor
    """1 - W_2^2 / |A_1 - A_0|_F^2: share of the squared change that the change of the law did not need. The two laws'
    squared Bures distance is W_2^2 = |A_0|_F^2 + |A_1|_F^2 - 2 |A_1^T A_0|_* (Bhatia, Jain & Lim 2019)."""
    rotation: Tensor
    """1 - tr R / d with A_1 = H R, H the matrix of A_1's law that is nearest to A_0, R = polar(A_0^T A_1): 0 where no
    more was moved than the law needed, 1 on average for a random rotation."""


def linear_net(A0: Tensor, A1: Tensor) -> LinearNet:
    """From the start A_0 to the end A_1 of linear students, (*E, d, d).

    Raises ValueError for shapes that are not square or do not agree."""
    A0, A1 = A0.double(), A1.double()
    halfway = linear_freedom((A0 + A1) / 2, A1 - A0)
    U, s, Vh = torch.linalg.svd(A0.mT @ A1)
    change = (A1 - A0).square().sum((-2, -1))
    needed = A0.square().sum((-2, -1)) + A1.square().sum((-2, -1)) - 2 * s.sum(-1)
    turn = torch.diagonal(U @ Vh, dim1=-2, dim2=-1).mean(-1)
    unique = s[..., -1] > s[..., 0] * SINGULAR
    return LinearNet(halfway, 1 - needed / change, torch.where(unique, 1 - turn, torch.nan))
