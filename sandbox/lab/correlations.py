"""How two measures of students go together: rank correlations with bootstrap intervals, as effects for a rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from sandbox.lab.effects import RESAMPLES, Effect, Group, Measure, Read, _clusters, _effect, _usable, part_of

# Clusters below which resampling them says nothing of their scatter.
FEWEST_CLUSTERS = 5


def rank_correlation(
    measure: Measure,
    other: Measure,
    group: Group,
    unit: str,
    cluster: Sequence[str] = ("seed",),
    within: Sequence[str] = (),
) -> Read:
    """Spearman's rank correlation of two measures over the students that pass the law gate.

    Clusters of students are resampled whole, 2000 times, and ranked anew each time. Which clusters says what would be
    drawn again: arms, where students of one arm stand for one way of training; seeds, where only the students do. No
    interval for fewer than 5 clusters.

    Args:
        within: columns; ranks are then taken among the students that agree in these, each set's over its number, less
            their mean, so that differences between sets count for nothing. Sets of one student say nothing.
    """

    def read(table: pd.DataFrame) -> Effect:
        mine = group.of(table)
        used = _usable(mine, measure).rename(columns={"_value": "_one"})
        used = _usable(used, other)
        label, clusters = _clusters(used, cluster)
        level = used.groupby(list(within)).ngroup().to_numpy() if within else np.zeros(len(used), dtype=int)
        one, two = used["_one"].to_numpy(), used["_value"].to_numpy()
        members = [np.flatnonzero(label == c) for c in range(clusters)]
        rng = np.random.default_rng(0)
        draws = np.full(1 + RESAMPLES, np.nan)
        draws[0] = spearman(one, two, level)
        for i in range(RESAMPLES if clusters >= FEWEST_CLUSTERS else 0):
            rows = np.concatenate([members[c] for c in rng.integers(clusters, size=clusters)])
            draws[1 + i] = spearman(one[rows], two[rows], level[rows])
        part = part_of(group, float(draws[0]), table, used, label)
        return _effect(draws, clusters, unit, (part,), used, [mine])

    return read


def spearman(x: np.ndarray, y: np.ndarray, level: np.ndarray) -> float:
    """The correlation of the ranks of x and y among those of one level, (n,) each; NaN if either does not vary.

    >>> spearman(np.array([1.0, 2.0, 9.0]), np.array([0.0, 5.0, 6.0]), np.zeros(3))
    1.0
    """
    ranks = np.zeros((2, len(x)))
    for value in np.unique(level):
        rows = level == value
        for rank, values in zip(ranks, (x, y), strict=True):
            # By the ranks' exact mean: ranks that all tie are 0, not rounding.
            rank[rows] = (rankdata(values[rows]) - (rows.sum() + 1) / 2) / rows.sum()
    size = np.square(ranks).sum(1).prod()
    return float(ranks.prod(0).sum() / math.sqrt(size)) if size > 0 else math.nan
