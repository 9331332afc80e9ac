"""How much of a map is linear in its noise."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_share(x: Tensor, z: Tensor) -> float:
    """Share of the variance of x = S(z) that least squares on z explains: 1 for a linear map, d/(n - 1) by chance.

    Args:
        x: (n, k). z: (n, d), n > d + 1.
    Raises:
        ValueError: shapes that do not agree, too few points, or a constant x.
    """
    if x.ndim != 2 or z.ndim != 2 or len(x) != len(z):
        raise ValueError(f"x and z must have shapes (n, k) and (n, d), got {tuple(x.shape)} and {tuple(z.shape)}")
    if len(z) < z.shape[-1] + 2:
        raise ValueError(f"n must be >= d + 2 = {z.shape[-1] + 2}, got {len(z)}")
    x, z = x.double(), z.double()
    # Not by the points less their mean, which rounding need not leave at zero.
    if x.var(0).sum() == 0:
        raise ValueError("x must not be constant")
    x, z = x - x.mean(0), z - z.mean(0)
    # By singular values: torch's default driver does not solve for linearly dependent columns of z.
    fit = z @ torch.linalg.lstsq(z, x, driver="gelsd").solution
    return (fit.square().sum() / x.square().sum()).item()
