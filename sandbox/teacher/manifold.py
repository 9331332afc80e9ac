"""Teachers of low intrinsic dimension in a space of any dimension."""

from __future__ import annotations

import math

import torch

from sandbox.teacher.checks import check_count, check_positive
from sandbox.teacher.covariance import LowRank
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.placed_modes import random


def manifold(
    dim: int,
    intrinsic: int = 2,
    modes: int = 8,
    separation: float = 1.0,
    std: float = 0.3,
    floor: float = 1e-3,
    seed: int = 0,
) -> GaussianMixture:
    """The law `random` has in `intrinsic` dimensions, on the first coordinates of a space of dim dimensions.

    Across that subspace every direction has the variance `floor`, within every mode: what a mode has is std^2 along
    the first `intrinsic` coordinates and floor along the others. Holds the law on the subspace fixed, and with it
    lambda_max, sigma_S and the separation of modes; the trace grows by floor a dimension. The first coordinates of a
    teacher do not depend on dim. With floor = std^2 the subspace holds the means alone; one mode is a single Gaussian.

    Where dim < intrinsic the subspace is the whole space, and the law `random` has there.

    Args:
        intrinsic: k, the dimension of the subspace. floor: variance off the subspace, in (0, std^2]; it must not be 0,
            or the law would have no density.
        modes, separation, std, seed: as in `random`.
    Raises:
        ValueError: dim, intrinsic or modes < 1, separation or std <= 0, floor outside (0, std^2].
    """
    check_count(dim=dim, intrinsic=intrinsic)
    check_positive(std=std, floor=floor)
    if not floor <= std**2:
        raise ValueError(f"floor must be in (0, std^2 = {std**2:g}], got {floor}")
    inside = min(intrinsic, dim)
    law = random(inside, modes, separation, std, seed)
    means = torch.nn.functional.pad(law.means, (0, dim - inside))
    along = math.sqrt(std**2 - floor) * torch.eye(dim, inside, dtype=torch.float64)
    return GaussianMixture(law.weights, means, LowRank(along.repeat(modes, 1, 1), floor))
