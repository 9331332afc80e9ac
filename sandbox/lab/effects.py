"""Effects: one number of a table of students with its interval, and the students that it came from."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student_t

from sandbox.lab.table import gated
from sandbox.measure.onset import MANY_SEEDS, THRESHOLD

RESAMPLES = 2000
TAIL = 0.025


@dataclass(frozen=True)
class Group:
    """Students that an effect compares with others.

    Args:
        name: as the reader sees it. arms: names of arms. dims: least and largest dimension.
        where: further (column, value) that a student must have.
    """

    name: str
    arms: tuple[str, ...]
    dims: tuple[float, float] = (1, math.inf)
    where: tuple[tuple[str, float], ...] = ()

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """The group's rows."""
        rows = table["arm"].isin(self.arms) & table["dim"].between(*self.dims)
        for column, value in self.where:
            rows &= table[column] == value
        return table[rows]


@dataclass(frozen=True)
class Part:
    """One group's share in an effect: its value, the students used, how many there are in all, the clusters (by default
    seeds) that those used come from, and the conditions of which none is used: the value is that of the others."""

    name: str
    value: float
    used: int
    of: int
    clusters: int
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effect:
    """A number with its 95 % interval (NaN if there are too few students), its groups, and the cells behind it."""

    value: float
    low: float
    high: float
    unit: str
    parts: tuple[Part, ...]
    used: int
    of: int
    keys: tuple[str, ...]

    @property
    def fewest(self) -> int:
        """Independent clusters in the group that has fewest."""
        return min(part.clusters for part in self.parts)


Measure = str | Callable[[pd.DataFrame], pd.Series]
Read = Callable[[pd.DataFrame], Effect]


def copies(table: pd.DataFrame) -> pd.Series:
    """1 for a student that copies (displacement below 1/2), 0 for one that does not, NaN without a displacement."""
    displacement = table["displacement"].astype(float)
    return (displacement < THRESHOLD).astype(float).where(displacement.notna())


def of_means(
    measure: Measure,
    groups: Sequence[Group],
    statistic: Callable[[np.ndarray], np.ndarray],
    unit: str,
    cluster: Sequence[str] = ("seed",),
) -> Read:
    """A function of groups' means, over the students that pass the law gate.

    A group's mean weighs its conditions (arm and dimension) alike. Clusters, by default seeds, are resampled whole, so
    that students of one seed stay together: groups that share their seeds are compared in pairs.

    Args:
        statistic: from means (resamples, groups) to values (resamples,).
    """

    def read(table: pd.DataFrame) -> Effect:
        picked = [_usable(group.of(table), measure) for group in groups]
        used = pd.concat(picked)
        label, clusters = _clusters(used, cluster)
        times = _resamples(clusters)
        means = np.full((len(times), len(groups)), np.nan)
        first = 0
        for i, students in enumerate(picked):
            mine = label[first : first + len(students)]
            first += len(students)
            if len(students):
                level = students.groupby(["arm", "dim"]).ngroup().to_numpy()
                total, count = np.zeros((2, clusters, level.max() + 1))
                np.add.at(total, (mine, level), students["_value"].to_numpy())
                np.add.at(count, (mine, level), 1)
                with np.errstate(invalid="ignore"), warnings.catch_warnings():
                    # A resample may hold no student of a condition, or of the whole group.
                    warnings.simplefilter("ignore", RuntimeWarning)
                    means[:, i] = np.nanmean((times @ total) / (times @ count), 1)
        ends = np.cumsum([len(students) for students in picked])[:-1]
        parts = tuple(
            part_of(group, float(value), table, students, mine)
            for group, value, students, mine in zip(groups, means[0], picked, np.split(label, ends), strict=True)
        )
        return _effect(statistic(means), clusters, unit, parts, used, [group.of(table) for group in groups])

    return read


def mean(measure: Measure, group: Group, unit: str) -> Read:
    """A group's mean."""
    return of_means(measure, (group,), lambda m: m[:, 0], unit)


def difference(measure: Measure, more: Group, less: Group, unit: str) -> Read:
    """The first group's mean less the second's."""
    return of_means(measure, (more, less), lambda m: m[:, 0] - m[:, 1], unit)


# Readings of a pairing: which way copying goes, and its name. Of displacement less is copying, of mode agreement more.
READINGS = {"displacement": (-1, "displacement"), "mode_agreement": (1, "mode agreement")}
# d <= 2 is left out of a trend: the per-sample normaliser is heavy-tailed there.
FEW, MANY = (3, 4), (32, math.inf)


def copying_gained(arm: str, reading: str) -> Read:
    """How much more an arm's students copy in many dimensions (d >= 32) than in few (3 and 4), by one reading."""
    sign, name = READINGS[reading]
    groups = Group("d >= 32", (arm,), MANY), Group("d = 3, 4", (arm,), FEW)
    return of_means(reading, groups, lambda m: sign * (m[:, 0] - m[:, 1]), f"{name}, towards a copy")


def slope(
    measure: Measure, group: Group, unit: str, within: Measure = "arm", cluster: Sequence[str] = ("seed",)
) -> Read:
    """Least-squares slope of a measure per doubling of the dimension, with an intercept for each value of `within`.

    Students whose intercept holds no other dimension say nothing of a slope and are not counted; nor are those where
    `within` is NaN. Clusters, by default seeds, are resampled whole."""

    def read(table: pd.DataFrame) -> Effect:
        used = _usable(group.of(table), measure)
        used = used.assign(_level=within(used) if callable(within) else used[within])
        used = used[used.groupby("_level")["dim"].transform("nunique").gt(1)]
        label, clusters = _clusters(used, cluster)
        x, y = np.log2(used["dim"].to_numpy(float)), used["_value"].to_numpy()
        level = used.groupby("_level").ngroup().to_numpy()
        times = _resamples(clusters)
        sums = np.zeros((5, clusters, level.max(initial=0) + 1))
        for total, v in zip(sums, (np.ones_like(x), x, y, x * x, x * y), strict=True):
            np.add.at(total, (label, level), v)
        with np.errstate(invalid="ignore", divide="ignore"):
            n, sx, sy, sxx, sxy = times @ sums
            spread = np.nansum(sxx - sx * sx / n, 1)
            # A resample of one dimension has no slope; its spread is rounding.
            draws = np.nansum(sxy - sx * sy / n, 1) / np.where(spread > 1e-9 * sxx.sum(1), spread, np.nan)
        part = part_of(group, float(draws[0]), table, used, label)
        return _effect(draws, clusters, unit, (part,), used, [group.of(table)])

    return read


def area(score: str, group: Group, cluster: Sequence[str], unit: str) -> Read:
    """The chance that, of two students of one dimension of which one copies, that one has the larger score before
    training: the area under the ROC curve by ranks (Mann & Whitney 1947), pairs of all dimensions together.

    Clusters are resampled whole, as students that share a start."""

    def read(table: pd.DataFrame) -> Effect:
        used = _usable(group.of(table), score)
        used = used[copies(used).notna()]
        label, clusters = _clusters(used, cluster)
        times = _resamples(clusters)
        copied, dim, s = copies(used).to_numpy() == 1, used["dim"].to_numpy(), used["_value"].to_numpy()
        wins, pairs = np.zeros((2, clusters, clusters))
        for d in np.unique(dim):
            yes, no = (dim == d) & copied, (dim == d) & ~copied
            above = (s[yes][:, None] > s[no]) + 0.5 * (s[yes][:, None] == s[no])
            at = label[yes][:, None], label[no][None, :]
            np.add.at(wins, at, above)
            np.add.at(pairs, at, 1)
        with np.errstate(invalid="ignore"):
            draws = ((times @ wins) * times).sum(1) / ((times @ pairs) * times).sum(1)
        parts = tuple(
            Part(f"{group.name}, {name}", math.nan, int(mine.sum()), len(group.of(table)), len(np.unique(label[mine])))
            for name, mine in (("copied", copied), ("did not", ~copied))
        )
        return _effect(draws, clusters, unit, parts, used, [group.of(table)])

    return read


def part_of(group: Group, value: float, table: pd.DataFrame, used: pd.DataFrame, label: np.ndarray) -> Part:
    """A group's share in an effect, from its students that are used and the cluster of each."""
    every = group.of(table)
    left = set(zip(used["arm"], used["dim"], strict=True))
    gone = [c for c in every[["arm", "dim"]].drop_duplicates().itertuples(index=False, name=None) if c not in left]
    lost = tuple(f"{arm} at d = {dim:g}" for arm, dim in gone)
    return Part(group.name, value, len(used), len(every), len(np.unique(label)), lost)


def _usable(table: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """The gated students that have the measure, with it as column _value."""
    good = gated(table)
    # Stored students may be older than a measure.
    value = measure(good) if callable(measure) else good.get(measure, pd.Series(np.nan, good.index))
    good = good.assign(_value=value.astype(float))
    return good[np.isfinite(good["_value"])]


def _clusters(table: pd.DataFrame, columns: Sequence[str]) -> tuple[np.ndarray, int]:
    label = table.groupby(list(columns), dropna=False).ngroup().to_numpy()
    return label, int(label.max(initial=-1)) + 1


def _resamples(clusters: int) -> np.ndarray:
    """How often each cluster is drawn, (1 + RESAMPLES, clusters); the first row is the sample itself."""
    drawn = np.random.default_rng(0).integers(max(clusters, 1), size=(RESAMPLES, clusters))
    times = [np.bincount(row, minlength=clusters) for row in drawn]
    return np.vstack([np.ones((1, clusters)), np.reshape(times, (RESAMPLES, clusters))])


def _effect(draws: np.ndarray, clusters: int, unit: str, parts, used: pd.DataFrame, every) -> Effect:
    """The effect from its value and resampled values.

    The percentiles of fewer than 16 clusters are those of the expanded interval (Hesterberg 2015, section 4.2), as for
    an onset."""
    low = high = math.nan
    finite = draws[1:][np.isfinite(draws[1:])]
    if clusters > 1 and len(finite) and np.isfinite(draws[0]):
        tail = TAIL
        if clusters < MANY_SEEDS:
            tail = norm.cdf((clusters / (clusters - 1)) ** 0.5 * student_t.ppf(TAIL, clusters - 1))
        low, high = (float(v) for v in np.quantile(finite, [tail, 1 - tail]))
    everyone = len(pd.concat(every).drop_duplicates(["arm", "key"]))
    keys = tuple(sorted(set(used["key"])))
    distinct = len(used.drop_duplicates(["arm", "key"]))
    return Effect(float(draws[0]), low, high, unit, tuple(parts), distinct, everyone, keys)
