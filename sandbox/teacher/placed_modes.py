"""Teachers of equal isotropic modes, told apart by where the modes are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sandbox.teacher.checks import check_count, check_positive
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.scaling import equal_modes


def ring(dim: int, modes: int = 8, radius: float = 3.0, std: float = 0.3) -> GaussianMixture:
    """Equal modes on a circle in the first two coordinates: fixed separation, the noise directions grow with dim.

    For two modes or more that holds lambda_max of the between-mode covariance and sigma_S too, at every dim >= 2
    (radius^2 / 2, or radius^2 for two modes). In one dimension the circle is the pair of points -radius and +radius,
    and `modes` is not used.

    Raises ValueError if dim < 1, modes < 1, radius <= 0 or std <= 0."""
    check_count(dim=dim)
    check_count(modes=modes)
    check_positive(radius=radius, std=std)
    if dim == 1:
        means = torch.tensor([[-radius], [radius]], dtype=torch.float64)
    else:
        angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
        means = torch.zeros(modes, dim, dtype=torch.float64)
        means[:, 0], means[:, 1] = radius * torch.cos(angle), radius * torch.sin(angle)
    weights = torch.full((len(means),), 1 / len(means), dtype=torch.float64)
    return GaussianMixture(weights, means, Isotropic(std**2))


def random(
    dim: int,
    modes: int = 8,
    separation: float = 1.0,
    std: float = 0.3,
    seed: int = 0,
    hold: str = "coordinate",
    held: float | None = None,
) -> GaussianMixture:
    """Equal modes with means iid N(0, separation^2) in every coordinate.

    hold coordinate: separation per coordinate is fixed, and the distance between two modes grows as separation *
    sqrt(2 dim). The first coordinates of a teacher do not depend on dim, so that a sweep over dim adds coordinates to
    one teacher. The other holds (`scaling`) fix the largest eigenvalue of the between-mode covariance, the trace or
    the speciation level instead; the first coordinates then depend on dim by a common factor alone.

    Args:
        hold, held: what is fixed, and at which value (default: what hold coordinate has at dim 8). Where held is
            given, separation cancels for lambda_max, and the unit of separation and std for trace and speciation.
    Raises:
        ValueError: dim < 1, modes < 1, separation <= 0, std <= 0, and for hold and held as `scaling.equal_modes`.
    """
    check_count(dim=dim, modes=modes)
    check_positive(separation=separation)

    def means_at(d: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        # One draw per coordinate: a single draw of (modes, d) would change every mean with d.
        return separation * torch.stack([_normal(modes, generator) for _ in range(d)], -1)

    return equal_modes(means_at, dim, std, hold, held)


def hierarchical(
    dim: int,
    modes: int = 16,
    groups: int = 4,
    separation: float = 1.0,
    inner: float = 0.3,
    std: float = 0.1,
    seed: int = 0,
    hold: str = "coordinate",
    held: float | None = None,
) -> GaussianMixture:
    """Groups of modes: centres iid N(0, separation^2) in every coordinate, modes iid N(0, inner^2) around them.

    The modes of a group are consecutive, and their mean is the group's centre, exactly: the between-mode covariance is
    that of the centres plus the mean of the groups' own. Coming down in noise level, a sample's group is decided at the
    lambda_max of the first less what is within, then its mode at lambda_max of its group's less std^2.

    hold coordinate: both separations per coordinate are fixed, and the first coordinates of a teacher do not depend on
    dim. The other holds scale both levels alike, as in `random`.

    Args:
        modes: of all groups together, a multiple of groups; as many as groups: one level, with no inner one.
        separation, inner: standard deviations per coordinate of the centres, and of the modes around their centre
            (before they are centred, which leaves the share 1 - groups / modes of that variance).
    Raises:
        ValueError: dim < 1, groups < 1, modes no multiple of groups, separation, inner or std <= 0, and for hold and
            held as `scaling.equal_modes`.
    """
    check_count(dim=dim, modes=modes, groups=groups)
    check_positive(separation=separation, inner=inner)
    if modes % groups:
        raise ValueError(f"modes must be a multiple of groups = {groups}, got {modes}")

    def means_at(d: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        columns = []
        for _ in range(d):
            centres = _normal(groups, generator)
            around = _normal(modes, generator).reshape(groups, -1)
            around = around - around.mean(-1, keepdim=True)
            columns.append((separation * centres[:, None] + inner * around).flatten())
        return torch.stack(columns, -1)

    return equal_modes(means_at, dim, std, hold, held)


def _normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator, dtype=torch.float64)
