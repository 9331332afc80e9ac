"""ROC areas: against the Mann-Whitney statistic, the trapezoid under the curve, and scores whose area is known."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from sandbox.measure.fate import roc_area, roc_curve, separation


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("values", [3, 1000])  # with many ties, and hardly any
def test_the_area_is_mann_whitneys_and_the_area_under_the_curve(seed, values):
    rng = np.random.default_rng(seed)
    score, copied = rng.integers(values, size=60).astype(float), rng.random(60) < 0.3
    area = roc_area(score, copied)
    u = mannwhitneyu(score[copied], score[~copied]).statistic
    assert area == pytest.approx(u / (copied.sum() * (~copied).sum()), abs=1e-12)
    assert area == pytest.approx(np.trapezoid(*reversed(roc_curve(score, copied))), abs=1e-12)


def test_the_interval_covers_a_known_area():
    # Two normals one apart: the area is Phi(1/sqrt 2).
    truth, covered = norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        copied = np.arange(80) < 40
        found = separation(rng.standard_normal(80) + copied, copied, seed)
        covered += found.low <= truth <= found.high
    assert 34 <= covered <= 40


def test_perfect_reversed_and_absent_separation():
    copied = np.array([True] * 4 + [False] * 4)
    assert separation(np.arange(8.0)[::-1], copied).area == 1
    assert separation(np.arange(8.0), copied).area == 0
    assert separation(np.ones(8), copied).area == 0.5
    alone = separation(np.ones(8), np.ones(8, bool))
    assert np.isnan(alone.area)
    assert "8 copied, 0 did not" in str(alone)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (np.ones(3), r"must both have shape \(n,\), got \(3,\)"),
        (np.array([1.0, np.nan]), "score must be finite, got 1"),
    ],
)
def test_bad_scores_are_named(score, words):
    with pytest.raises(ValueError, match=words):
        separation(score, np.array([True, False]))
