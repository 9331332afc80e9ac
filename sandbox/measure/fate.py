"""How well a number known beforehand tells students that copy from students that do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

RESAMPLES = 2000


@dataclass(frozen=True)
class Separation:
    """The area under the ROC curve: the chance that a copying student scores above one that does not, ties half.

    area: with low, high, its 95 % interval over resampled students, each group by itself. copied, others: their
    numbers. NaN where a group is empty."""

    area: float
    low: float
    high: float
    copied: int
    others: int

    def __str__(self) -> str:
        if not np.isfinite(self.area):
            return f"no area ({self.copied} copied, {self.others} did not)"
        return f"{self.area:.2f} [{self.low:.2f}, {self.high:.2f}] ({self.copied} copied, {self.others} did not)"


def roc_area(score: np.ndarray, copied: np.ndarray) -> float:
    """The area by ranks (Mann & Whitney 1947), NaN if one of the two groups is empty."""
    score, copied = np.asarray(score, float), np.asarray(copied, bool)
    n, m = int(copied.sum()), int((~copied).sum())
    if not n or not m:
        return float("nan")
    return float((rankdata(score)[copied].sum() - n * (n + 1) / 2) / (n * m))


def separation(score: np.ndarray, copied: np.ndarray, seed: int = 0) -> Separation:
    """The area of a score over students with its interval.

    Args:
        score: (n,), finite; larger where copying is expected. copied: (n,) booleans.
    Raises:
        ValueError: shapes that differ, or a score that is not finite.
    """
    score, copied = np.asarray(score, float), np.asarray(copied, bool)
    if score.shape != copied.shape or score.ndim != 1:
        raise ValueError(f"score and copied must both have shape (n,), got {score.shape} and {copied.shape}")
    if not np.isfinite(score).all():
        raise ValueError(f"score must be finite, got {int((~np.isfinite(score)).sum())} values that are not")
    yes, no = score[copied], score[~copied]
    area = roc_area(score, copied)
    if not np.isfinite(area):
        return Separation(area, area, area, len(yes), len(no))
    rng = np.random.default_rng(seed)
    n, m = len(yes), len(no)
    drawn = np.concatenate([rng.choice(yes, (RESAMPLES, n)), rng.choice(no, (RESAMPLES, m))], 1)
    areas = (rankdata(drawn, axis=1)[:, :n].sum(1) - n * (n + 1) / 2) / (n * m)
    low, high = np.quantile(areas, [0.025, 0.975])
    return Separation(area, float(low), float(high), n, m)


def roc_curve(score: np.ndarray, copied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates as the threshold falls from above the largest score, each from 0 to 1."""
    score, copied = np.asarray(score, float), np.asarray(copied, bool)
    order = np.argsort(-score, kind="stable")
    last = np.r_[np.diff(score[order]) != 0, True]  # equal scores pass the threshold together
    hits, misses = np.cumsum(copied[order])[last], np.cumsum(~copied[order])[last]
    return np.r_[0.0, misses / max(1, misses[-1])], np.r_[0.0, hits / max(1, hits[-1])]
