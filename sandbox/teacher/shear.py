"""A teacher whose probability-flow map is not the optimal-transport map."""

from __future__ import annotations

import math

import torch

from sandbox.teacher.checks import check_count, check_positive
from sandbox.teacher.covariance import LowRank
from sandbox.teacher.mixture import GaussianMixture


def shear(dim: int, radius: float = 1.5, length: float = 1.5, std: float = 0.2, angle: float = 45.0) -> GaussianMixture:
    """Two equal modes at -radius and +radius on the first axis, both long in one direction of the first plane.

    Where the long direction is along an axis (angle 0 or 90) the law is a product over coordinates, and its
    probability-flow map, one coordinate at a time, is the optimal-transport map from the noise. Any other angle shears
    that product: the flow turns points as noise levels fall, its Jacobian J is not symmetric (mean |J - J^T| / |J| 0.15
    at the defaults and dim 2), and the map is no gradient of a convex function (that flow maps need not be optimal:
    Lavenant & Santambrogio 2022). The further coordinates are independent Gaussians of variance std^2, and all else is
    fixed while dim grows. Nothing is drawn at random, and the first coordinates do not depend on dim.

    Args:
        dim: >= 2: in one dimension every increasing map is optimal.
        length, std: standard deviations of a mode along and across its long direction, 0 < std <= length.
        angle: of the long direction to the first axis, in degrees.
    Raises:
        ValueError: dim < 2, radius, length or std <= 0, std > length, an angle that is not finite.
    """
    check_count(2, dim=dim)
    check_positive(radius=radius, length=length, std=std)
    if not std <= length:
        raise ValueError(f"std must be <= length = {length}, got {std}")
    if not math.isfinite(angle):
        raise ValueError(f"angle must be finite, got {angle}")
    means = torch.zeros(2, dim, dtype=torch.float64)
    means[:, 0] = torch.tensor([-radius, radius], dtype=torch.float64)
    along = torch.zeros(dim, 1, dtype=torch.float64)
    along[:2, 0] = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64)
    return GaussianMixture([0.5, 0.5], means, LowRank(math.sqrt(length**2 - std**2) * along.repeat(2, 1, 1), std**2))
