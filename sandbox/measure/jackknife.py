"""The standard error of a statistic over the points at which two maps were compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# The groups that are left out in turn; a standard error from 32 is itself known to about 1 / sqrt(2 * 32) = 13 %.
GROUPS = 32


class Measured(NamedTuple):
    """A value, the mean and central 95 % of its null, its standard error over points, their number; NaN, or 0 points,
    where there is none."""

    value: float
    null: float = math.nan
    low: float = math.nan
    high: float = math.nan
    se: float = math.nan
    n: int = 0


def jackknife(statistic: Callable[[np.ndarray], Any], n: int, rng: np.random.Generator) -> np.ndarray:
    """Standard error of a statistic of n independent points, by leaving out one of 32 random groups of them at a time
    (Shao & Tu 1995, section 2.3; single points where n < 32).

    Not the bootstrap: a point drawn twice is its own nearest neighbour, and the bootstrap's standard errors of
    nearest-neighbour statistics do not converge (Abadie & Imbens 2008).

    Args:
        statistic: the rows that are kept, an increasing integer array -> a number or an array. n: points, >= 2.
    Returns:
        The statistic's shape; NaN where it is NaN for some group.
    Raises:
        ValueError: n < 2.
    """
    if n < 2:
        raise ValueError(f"n must be >= 2, got {n}")
    groups = min(GROUPS, n)
    group = rng.permutation(n) % groups
    left = np.stack([np.asarray(statistic(np.flatnonzero(group != g)), dtype=float) for g in range(groups)])
    return np.sqrt((groups - 1) / groups * np.square(left - left.mean(0)).sum(0))
