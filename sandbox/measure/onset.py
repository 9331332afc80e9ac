"""Where copying begins, or ends, along an axis: the crossing of displacement 1/2, or none in range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

THRESHOLD = 0.5
RESAMPLES = 2000
CERTAIN = 0.95


@dataclass(frozen=True)
class Onset:
    """The crossing of a threshold by a quantity's mean over seeds, as a function of the logarithm of an axis.

    kind: `begins` (the quantity falls through the threshold: copying begins), `ends` (it rises: copying ends) or
    `none`. at, low, high: the crossing and its percentile interval over seeds resampled as clusters, in the axis'
    units; NaN if none.
    share: share of the resamples that have this crossing in range; at least 0.95 for a crossing to be called one.
    crossings: how often the unsmoothed mean changes side; more than one says that a single crossing is a poor summary.
    """

    kind: str
    at: float
    low: float
    high: float
    share: float
    crossings: int
    seeds: int

    def __str__(self) -> str:
        if self.kind == "none":
            return "no onset in range"
        return f"{self.kind} at {self.at:.3g} [{self.low:.3g}, {self.high:.3g}]"


def _monotone(y: np.ndarray) -> tuple[np.ndarray, bool]:
    """The closer of the increasing and the decreasing least-squares fit, and whether it increases."""
    fits = {rising: isotonic_regression(y, increasing=rising).x for rising in (True, False)}
    rising = bool(np.square(fits[True] - y).sum() <= np.square(fits[False] - y).sum())
    return fits[rising], rising


def _crossing(log_x: np.ndarray, fit: np.ndarray, threshold: float) -> float:
    """Where a monotone piecewise-linear curve passes the threshold, NaN if it does not; no extrapolation."""
    side = fit - threshold
    if not (side.min() < 0 < side.max()):
        return float("nan")
    i = int(np.flatnonzero(np.sign(side[:-1]) != np.sign(side[1:]))[0])
    return float(log_x[i] - side[i] * (log_x[i + 1] - log_x[i]) / (side[i + 1] - side[i]))


def onset(
    table,
    axis: str = "dim",
    value: str = "displacement",
    seed: str = "seed",
    threshold: float = THRESHOLD,
    resamples: int = RESAMPLES,
    rng_seed: int = 0,
) -> Onset:
    """The onset of copying along `axis`, from one row per student.

    Means over seeds are fitted by a monotone curve (isotonic regression), linear between the swept values in log(axis),
    whose crossing of the threshold is unique. Seeds are resampled as clusters: a resampled seed brings all of its
    students along the axis. A crossing is called one only if the fit crosses and at least 95 % of the resamples cross
    the same way.

    Args:
        table: mapping or DataFrame with columns axis (> 0), value and seed.
    Raises:
        ValueError: a missing column, an axis value <= 0, fewer than two axis values or fewer than two seeds.
    """
    try:
        x, y, s = (np.asarray(table[c]) for c in (axis, value, seed))
    except KeyError as missing:
        raise ValueError(f"table must have columns {axis}, {value}, {seed}; {missing} is missing") from None
    x, y = x.astype(float), y.astype(float)
    if not (x > 0).all():
        raise ValueError(f"{axis} must be > 0 for a logarithmic axis, got {x.min():g}")
    finite = np.isfinite(y)
    x, y, s = x[finite], y[finite], s[finite]
    levels, seeds = np.unique(x), np.unique(s)
    if len(levels) < 2:
        raise ValueError(f"{axis} must take at least two values, got {len(levels)}")
    if len(seeds) < 2:
        raise ValueError(f"{seed} must take at least two values, got {len(seeds)}")
    total = np.zeros((len(seeds), len(levels)))
    count = np.zeros_like(total)
    np.add.at(total, (np.searchsorted(seeds, s), np.searchsorted(levels, x)), y)
    np.add.at(count, (np.searchsorted(seeds, s), np.searchsorted(levels, x)), 1)
    log_x = np.log(levels)

    mean = total.sum(0) / count.sum(0)
    fit, rising = _monotone(mean)
    point = _crossing(log_x, fit, threshold)
    sides = np.sign(mean - threshold)
    crossings = int((sides[:-1] * sides[1:] < 0).sum())

    rng = np.random.default_rng(rng_seed)
    drawn = np.full(resamples, np.nan)
    for b in range(resamples):
        weight = np.bincount(rng.integers(len(seeds), size=len(seeds)), minlength=len(seeds))
        counts = weight @ count
        present = counts > 0
        if present.sum() < 2:
            continue
        again, same = _monotone((weight @ total)[present] / counts[present])
        if same == rising:
            drawn[b] = _crossing(log_x[present], again, threshold)
    share = float(np.isfinite(drawn).mean())
    if not np.isfinite(point) or share < CERTAIN:
        nan = float("nan")
        return Onset("none", nan, nan, nan, share, crossings, len(seeds))
    low, high = np.exp(np.nanquantile(drawn, [0.025, 0.975]))
    return Onset(
        "ends" if rising else "begins", float(np.exp(point)), float(low), float(high), share, crossings, len(seeds)
    )
