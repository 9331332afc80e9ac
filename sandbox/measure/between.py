"""Do two students of one teacher agree more with each other than with the teacher?

Students that leave the teacher's pairing each in its own way are further from each other than from the teacher: at a
displacement rho each, at about 1 - (1 - rho)^2 where they have its size. At less, they share something that is not the
teacher's, such as their start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sandbox.measure.arrays import Pairs, standard_error

RESAMPLES = 2000
# Fewer seeds than this have no interval: most resamples of two would hold one seed twice.
LEAST_SEEDS = 3
# Two files' noise and teacher are the same up to the rounding of float32 arithmetic, over the array's own size.
SAME = 1e-4


class Interval(NamedTuple):
    """A value and its 95 % interval, NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return "-"
        return f"{self.value:.3g}" + (f" [{self.low:.3g}, {self.high:.3g}]" if math.isfinite(self.low) else "")


def verdict(closer: Interval) -> str:
    """In words, what an interval of `closer` says."""
    if not (math.isfinite(closer.low) and math.isfinite(closer.high)):
        return "not known"
    if closer.low > 0:
        return "to each other"
    return "to the teacher" if closer.high < 0 else "neither, as far as these tell"


@dataclass(frozen=True)
class Agreement:
    """Mean displacements of the students of one teacher, and which they are closer to.

    to_teacher: from the teacher. between: from one student to another. closer: to_teacher - between, above 0 where the
    students agree more with each other. Percentile intervals, seeds resampled as clusters."""

    seeds: int
    to_teacher: Interval
    between: Interval
    closer: Interval


def displacement_matrix(maps: Tensor) -> Tensor:
    """`displacement` between all pairs of maps' outputs at the same z: (E, n, d) -> (E, E) float64.

    Raises ValueError for another shape, n < 2, points that are not finite, or constant maps."""
    if maps.ndim != 3 or maps.shape[1] < 2:
        raise ValueError(f"maps must have shape (E, n, d) with n >= 2, got {tuple(maps.shape)}")
    if not torch.isfinite(maps).all():
        raise ValueError(f"maps must be finite, got {int((~torch.isfinite(maps)).any(-1).sum())} points that are not")
    x = maps.double()
    means = x.mean(1)
    sizes = (x - means[:, None]).square().sum((1, 2)) / maps.shape[1]
    independent = sizes[:, None] + sizes[None] + (means[:, None] - means[None]).square().sum(-1)
    if (sizes == 0).any():
        raise ValueError(f"maps must not be constant, got {int((sizes == 0).sum())} of {len(maps)} that are")
    # By differences: from a matrix of products, near copies would be rounding.
    apart = torch.stack([(x - one).square().sum((1, 2)) for one in x]) / maps.shape[1]
    return apart / independent


def agreement(students: Tensor, teacher: Tensor, resamples: int = RESAMPLES, seed: int = 0) -> Agreement:
    """Students, one per seed, beside each other and beside their teacher.

    Args:
        students: S_i(z), (E, n, d), at the same z. teacher: T(z), (n, d).
        resamples, seed: of the intervals. A seed that is drawn twice is not compared with itself. From three seeds on;
            with a handful, percentile intervals are too narrow.
    Raises:
        ValueError: shapes that do not agree, fewer than two students, or as `displacement_matrix`.
    """
    if students.ndim != 3 or students.shape[1:] != teacher.shape:
        raise ValueError(
            f"students and teacher must have shapes (E, n, d) and (n, d), got {tuple(students.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    count = len(students)
    if count < 2:
        raise ValueError(f"students must be at least 2, got {count}")
    matrix = displacement_matrix(torch.cat([students.double(), teacher[None].double()])).numpy()
    to_teacher, between = matrix[:-1, -1], matrix[:-1, :-1]

    def means(weights: np.ndarray) -> np.ndarray:
        """The three means for how often each seed was drawn, (R, E) -> (3, R)."""
        own = weights @ to_teacher / weights.sum(-1)
        # The diagonal is zero, and pairs of a seed with itself are left out of the number of pairs.
        ours = ((weights @ between) * weights).sum(-1) / (weights.sum(-1) ** 2 - (weights**2).sum(-1))
        return np.stack([own, ours, own - ours])

    point = means(np.ones((1, count)))[:, 0]
    if count < LEAST_SEEDS:
        return Agreement(count, *(Interval(float(v)) for v in point))
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    drawn = drawn[(drawn > 0).sum(-1) > 1]
    low, high = np.quantile(means(drawn), [0.025, 0.975], axis=1)
    return Agreement(count, *(Interval(*map(float, v)) for v in zip(point, low, high, strict=True)))


@dataclass(frozen=True)
class Comparison:
    """Two students' displacements: from the teacher, from each other, and the mean of the first two less the third.

    Intervals are 1.96 standard errors over points, `closer`'s for the same points in all three."""

    first: Interval
    second: Interval
    between: Interval
    closer: Interval


def compared(first: Pairs, second: Pairs) -> tuple[Pairs, Comparison]:
    """The pairs of two students' outputs, the second in the teacher's place, and their displacements.

    Raises ValueError for pairs of different noise or teachers, or constant maps."""
    for name in ("z", "teacher"):
        _require_same(name, getattr(first, name), getattr(second, name))
    labelled = first.student_modes is not None and second.student_modes is not None
    between = replace(
        first,
        teacher=second.student,
        student_modes=first.student_modes if labelled else None,
        teacher_modes=second.student_modes if labelled else None,
        jacobian_teacher=second.jacobian_student,
    )
    (one, a), (other, b), (both, c) = (pairs.moments.displacement() for pairs in (first, second, between))
    closer = _over_points((one + other) / 2 - both, (a + b) / 2 - c)
    return between, Comparison(_over_points(one, a), _over_points(other, b), _over_points(both, c), closer)


def _over_points(value: float, influence: np.ndarray) -> Interval:
    half = 1.96 * standard_error(influence)
    return Interval(value, value - half, value + half)


def _require_same(name: str, one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        raise ValueError(f"{name} must be the same in both, got shapes {tuple(one.shape)} and {tuple(other.shape)}")
    rows = max(1, 2**18 // one.shape[-1])
    size = max(float(part.abs().max()) for part in one.split(rows))
    apart = sum(
        int(((a.double() - b.double()).abs() > SAME * size).any(-1).sum())
        for a, b in zip(one.split(rows), other.split(rows), strict=True)
    )
    if apart:
        raise ValueError(f"{name} must be the same in both, got {apart} of {len(one)} rows that differ")
