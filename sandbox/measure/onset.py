"""Where copying begins, or ends, along an axis: the crossing of a threshold, or none in range."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from sandbox.measure.shapes import Shapes, compare

THRESHOLD = 0.5
RESAMPLES = 2000
CERTAIN = 0.95
# Of the two-sided test for any dependence on the axis: 5 % for each direction.
LEVEL = 0.10
# From so many seeds on the percentile interval is not widened.
MANY_SEEDS = 16
SIGNS = 499
EVERY_SIGN = 10
# No swept value's mean counts as more than 30 times better known than another's.
FLOOR = 1e-3
ROUNDING = 1e-12
# Numbers that one table of means may hold at a time.
BLOCK = 2_000_000


@dataclass(frozen=True)
class Onset:
    """The crossing of a threshold by a quantity's mean over seeds, as a function of the logarithm of an axis.

    kind: `begins` (the quantity falls through the threshold: copying begins), `ends` (it rises: copying ends) or
    `none`. For the share of students that copy it is the other way round: copying begins where the share rises.
    at, low, high: the crossing and its 95 % interval over seeds resampled as clusters, in the axis' units; NaN if none.
    share: share of the resamples that have this crossing in range; at least 0.95 for a crossing to be called one.
    crossings: how often the unsmoothed mean changes side; more than one says that a single crossing is a poor summary.
    p: chance of so large a dependence on the axis, of either direction, if there is none (sign changes of seeds).
    side: where everything lies if there is no crossing, `below` or `above` the threshold in 0.95 of the resamples, or
    else `undecided`; `both` if there is one.
    between: the swept values between which the monotone fit crosses; NaN if none.
    shapes: the models compared, None if they were not asked for.
    """

    kind: str
    at: float
    low: float
    high: float
    share: float
    crossings: int
    seeds: int
    p: float
    side: str
    between: tuple[float, float]
    threshold: float
    shapes: Shapes | None

    def __str__(self) -> str:
        if self.kind != "none":
            text = f"{self.kind} at {self.at:.3g} [{self.low:.3g}, {self.high:.3g}]"
        elif self.side == "undecided":
            text = f"no onset in range: no side of {self.threshold:g} is certain"
        else:
            text = f"no onset in range: {self.side} {self.threshold:g} throughout"
        return text if self.shapes is None else f"{text}\n{self.shapes}"


def _monotone_pair(y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Increasing and decreasing least-squares fits to the rows of y (B, L).

    The increasing one is at i the largest, over j <= i, of the smallest, over k >= i, of the means of y from j to k
    (Robertson, Wright & Dykstra 1988, chapter 1)."""
    rows, levels = y.shape
    total, mass = np.zeros((2, rows, levels + 1))
    np.cumsum(weight * y, 1, out=total[:, 1:])
    np.cumsum(weight, 1, out=mass[:, 1:])
    below = np.tri(levels, k=-1, dtype=bool)  # j > k or j > i
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (total[:, None, 1:] - total[:, :-1, None]) / (mass[:, None, 1:] - mass[:, :-1, None])
    fits = []
    for inner, outer, worst in ((np.minimum, np.maximum, np.inf), (np.maximum, np.minimum, -np.inf)):
        mean[:, below] = worst
        extreme = inner.accumulate(mean[:, :, ::-1], 2)[:, :, ::-1]
        extreme[:, below] = -worst
        fits.append(outer.reduce(extreme, 1))
    return fits[0], fits[1]


def _monotone(y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The closer of the increasing and the decreasing fit to each row of y (B, L), and whether it increases (B,)."""
    fits = np.empty_like(y)
    rises = np.empty(len(y), bool)
    step = max(1, BLOCK // y.shape[1] ** 2)
    for rows in (slice(i, i + step) for i in range(0, len(y), step)):
        up, down = _monotone_pair(y[rows], weight[rows])
        worse = (weight[rows] * (np.square(up - y[rows]) - np.square(down - y[rows]))).sum(1)
        rises[rows] = worse <= 0
        fits[rows] = np.where(rises[rows, None], up, down)
    return fits, rises


def _crossing(u: np.ndarray, fit: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where monotone piecewise-linear curves (B, L) over u (L,) pass the threshold, and the u before and after it.

    NaN where they do not; no extrapolation. Of a stretch at the threshold the middle."""
    side = fit - threshold
    side[np.abs(side) < ROUNDING] = 0
    passes = (side.min(1) < 0) & (side.max(1) > 0)
    side = np.where((side[:, -1] < side[:, 0])[:, None], -side, side)[passes]
    rows, i, j = np.arange(len(side)), (side < 0).sum(1) - 1, side.shape[1] - (side > 0).sum(1)
    first = u[i] - side[rows, i] * (u[i + 1] - u[i]) / (side[rows, i + 1] - side[rows, i])
    last = u[j] - side[rows, j] * (u[j] - u[j - 1]) / (side[rows, j] - side[rows, j - 1])
    found = np.full((3, len(fit)), np.nan)
    found[:, passes] = (first + last) / 2, u[i], u[j]
    return found[0], found[1], found[2]


@dataclass(frozen=True)
class _Crossings:
    """Of each of B resamples: the crossing and the swept u about it (NaN if none), whether the fit rises, and its least
    and largest value."""

    at: np.ndarray
    before: np.ndarray
    after: np.ndarray
    rises: np.ndarray
    least: np.ndarray
    largest: np.ndarray


def _crossings(u: np.ndarray, total: np.ndarray, count: np.ndarray, binomial: bool, threshold: float) -> _Crossings:
    """From sums and numbers of students (B, L). Means weigh alike, shares by their number of students (the binomial
    likelihood's monotone maximum). A resample without students at a level has no such level."""
    found = np.full((6, len(total)), np.nan)
    patterns, member = np.unique(count > 0, axis=0, return_inverse=True)
    for i, present in enumerate(patterns):
        rows = np.flatnonzero(member.ravel() == i)
        if present.sum() < 2:
            continue
        n = count[np.ix_(rows, present)].astype(float)
        fit, rises = _monotone(total[np.ix_(rows, present)] / n, n if binomial else np.ones_like(n))
        found[:, rows] = *_crossing(u[present], fit, threshold), rises, fit.min(1), fit.max(1)
    return _Crossings(*found)


def _deviations(total: np.ndarray, count: np.ndarray, binomial: bool) -> tuple[np.ndarray, np.ndarray]:
    """What each seed's students add to the mean deviation at each swept value (seeds, L), and the values' weights (L,).

    Deviations from the seed's weighted mean, or from the common one if no seed has students at two swept values.
    Shares weigh by number of students: their variance is one if they do not depend on the axis. Means weigh by the
    inverse squares of deviations from the seed's median, which scatter at one swept value does not reach."""
    number = count.sum(0)
    common = not ((count > 0).sum(1) > 1).any()

    def deviations(centre: np.ndarray) -> np.ndarray:
        return (total - count * np.reshape(centre, (-1, 1))) / number

    weight = number
    if not binomial:
        value = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        square = np.square(deviations(np.nanmedian(value) if common else np.nanmedian(value, 1))).sum(0)
        if square.max() > 0:
            weight = 1 / np.maximum(square, FLOOR * square.max())
    student = weight / number
    mass, sums = (count * student).sum(1), (total * student).sum(1)
    return deviations(sums.sum() / mass.sum() if common else sums / mass), weight


def _dependence(total: np.ndarray, count: np.ndarray, binomial: bool, rng: np.random.Generator) -> tuple[float, float]:
    """A p-value for any dependence on the axis, and the level of significance that it can be held to.

    If there is none, a seed's deviations from its own mean are as likely with the opposite signs, whatever their
    variances along the axis: the statistic is compared with its values under sign changes of whole seeds (randomisation
    under symmetry with few clusters: Canay, Romano & Shaikh 2017), which leave the weights alone. Permuting the axis'
    labels within seeds instead would take differences in variance for dependence. Statistic: the weighted sum of
    squares of the monotone fit to the mean deviations (Barlow et al. 1972, chapter 3). With s seeds no p is below
    2^(1 - s): with four or fewer the largest statistic is what can be asked for.

    Args:
        total, count: sums and numbers of students, (seeds, L).
    """
    z, weight = _deviations(total, count, binomial)
    z = z[np.abs(z).max(1) > ROUNDING * np.abs(total).max()]
    if not len(z):
        return 1.0, LEVEL
    if len(z) <= EVERY_SIGN:
        signs = np.array([(1.0, *rest) for rest in product((1, -1), repeat=len(z) - 1)])
    else:
        signs = np.r_[np.ones((1, len(z))), rng.choice((-1.0, 1.0), (SIGNS, len(z)))]
    mean = signs @ z
    fit, _ = _monotone(mean, np.broadcast_to(weight, mean.shape))
    statistic = np.square(fit - np.average(mean, axis=1, weights=weight)[:, None]) @ weight
    return float((statistic >= statistic[0] * (1 - 1e-9)).mean()), max(LEVEL, 2.0 ** (1 - len(z)))


def _interval(found: _Crossings, counted: np.ndarray, seeds: int, binomial: bool, rng: np.random.Generator):
    """The 95 % interval of log(axis) from the resamples that are counted.

    Means: percentiles; with fewer than 16 seeds those of the expanded percentile interval (Hesterberg 2015, section
    4.2), normal levels replaced by Student's and by n/(n - 1) in the variance. Shares: a share says on which side of
    the threshold a swept value lies, and between two of them the curve may be a step: each resample's crossing is drawn
    uniformly between its two, and the percentiles are not widened further.
    """
    before, after = found.before[counted], found.after[counted]
    drawn = before + rng.random(len(before)) * (after - before) if binomial else found.at[counted]
    tail = 0.025
    if not binomial and seeds < MANY_SEEDS:
        tail = float(norm.cdf(np.sqrt(seeds / (seeds - 1)) * student_t.ppf(tail, seeds - 1)))
    return np.quantile(drawn, [tail, 1 - tail])


def _students(table, axis: str, value: str, seed: str, below: float | None):
    """Columns x, y and labels (n,) of the students that have a value; y is 1 or 0 with `below`."""
    try:
        x, y, s = (np.asarray(table[c]) for c in (axis, value, seed))
    except KeyError as missing:
        raise ValueError(f"table must have columns {axis}, {value}, {seed}; {missing} is missing") from None
    x, y = x.astype(float), y.astype(float)
    if not (x > 0).all():
        raise ValueError(f"{axis} must be > 0 for a logarithmic axis, got {x.min():g}")
    finite = np.isfinite(y)
    x, y, s = x[finite], y[finite], s[finite]
    if len(np.unique(x)) < 2:
        raise ValueError(f"{axis} must take at least two values, got {len(np.unique(x))}")
    if len(np.unique(s)) < 2:
        raise ValueError(f"{seed} must take at least two values, got {len(np.unique(s))}")
    return x, y if below is None else (y < below).astype(float), s


def onset(
    table,
    axis: str = "dim",
    value: str = "displacement",
    seed: str = "seed",
    threshold: float = THRESHOLD,
    resamples: int = RESAMPLES,
    rng_seed: int = 0,
    below: float | None = None,
    models: bool = True,
) -> Onset:
    """The onset of copying along `axis`, from one row per student.

    Means over seeds are fitted by a monotone curve (isotonic regression), linear between the swept values in log(axis),
    whose crossing of the threshold is unique. Seeds are resampled as clusters: a resampled seed brings all of its
    students along the axis. A crossing is called one only if the fit crosses, at least 95 % of the resamples cross the
    same way, and the quantity depends on the axis at all: at a level that is the threshold itself a mean changes side
    by chance, with a few seeds often in most resamples.

    Args:
        table: mapping or DataFrame with columns axis (> 0), value and seed. Students without a finite value are left
            out.
        below: if given, the quantity is the share of students whose value is below this (1/2 of a displacement: those
            that copy) instead of the mean.
        models: whether to compare the shapes too.
    Raises:
        ValueError: a missing column, an axis value <= 0, fewer than two axis values or fewer than two seeds, no
            resamples, or a share's threshold that is not between 0 and 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be >= 1, got {resamples}")
    binomial = below is not None
    if binomial and not 0 < threshold < 1:
        raise ValueError(f"threshold must be between 0 and 1 for a share, got {threshold:g}")
    x, y, labels = _students(table, axis, value, seed, below)
    swept, level = np.unique(x, return_inverse=True)
    clusters, cluster = np.unique(labels, return_inverse=True)
    u, seeds = np.log(swept), len(clusters)
    total, count = np.zeros((2, seeds, len(u)))
    np.add.at(total, (cluster, level), y)
    np.add.at(count, (cluster, level), 1)

    mean = total.sum(0) / count.sum(0)
    sides = np.sign(mean - threshold)
    crossings = int((sides[:-1] * sides[1:] < 0).sum())
    point = _crossings(u, total.sum(0)[None], count.sum(0)[None], binomial, threshold)

    rng = np.random.default_rng(rng_seed)
    drawn = rng.integers(seeds, size=(resamples, seeds))
    times = np.stack([np.bincount(row, minlength=seeds) for row in drawn]).astype(float)
    again = _crossings(u, times @ total, times @ count, binomial, threshold)
    counted = np.isfinite(again.at) & (again.rises == point.rises)
    share = float(counted.mean())
    p, attainable = _dependence(total, count, binomial, rng)
    shapes = compare(x, y, labels, share=binomial) if models else None

    nan = float("nan")
    if not np.isfinite(point.at[0]) or share < CERTAIN or p > attainable:
        if (again.largest < threshold).mean() >= CERTAIN:
            side = "below"
        else:
            side = "above" if (again.least > threshold).mean() >= CERTAIN else "undecided"
        return Onset("none", nan, nan, nan, share, crossings, seeds, p, side, (nan, nan), threshold, shapes)
    at = float(np.exp(point.at[0]))
    low, high = (float(v) for v in np.exp(_interval(again, counted, seeds, binomial, rng)))
    before, after = (float(swept[np.searchsorted(u, v[0])]) for v in (point.before, point.after))
    kind = "ends" if bool(point.rises[0]) != binomial else "begins"
    return Onset(kind, at, low, high, share, crossings, seeds, p, "both", (before, after), threshold, shapes)
