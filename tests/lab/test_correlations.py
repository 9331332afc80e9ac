"""Rank correlations over students, at planted tables."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from sandbox.lab.correlations import rank_correlation, spearman
from sandbox.lab.effects import Group


def table(arms=8, seeds=6, arm_slope=0.0, own_slope=0.0, noise=1.0, rng=None):
    """Students whose y follows their arm's mean x, and their own departure from it, as asked."""
    rng = np.random.default_rng(0) if rng is None else rng
    rows = []
    for a in range(arms):
        mean, effect = rng.normal(), noise * rng.normal()
        for seed in range(seeds):
            own = rng.normal()
            y = arm_slope * mean + own_slope * own + effect + noise * rng.normal()
            rows.append({"arm": f"arm {a}", "seed": seed, "dim": 8, "x": mean + own, "y": y})
    return pd.DataFrame(rows).assign(status="done", law_passes=True).assign(key=lambda t: t.index.astype(str))


def group(frame):
    return Group("all", tuple(frame["arm"].unique()))


def test_is_spearmans_over_all_students():
    frame = table(own_slope=0.7)
    effect = rank_correlation("x", "y", group(frame), "r")(frame)
    assert effect.value == pytest.approx(spearmanr(frame["x"], frame["y"]).statistic)
    assert effect.low < effect.value < effect.high
    assert (effect.used, effect.of, effect.fewest) == (48, 48, 6)


def test_within_arms_differences_between_arms_count_for_nothing():
    frame = table(own_slope=1.0, noise=0.0)
    shifted = frame.assign(y=frame["y"] - 100 * frame["arm"].str[-1].astype(int))
    read = rank_correlation("x", "y", group(frame), "r", within=("arm",))
    assert read(shifted).value == pytest.approx(1.0)
    assert rank_correlation("x", "y", group(frame), "r")(shifted).value < 0.5


def test_students_that_failed_the_gate_or_lack_a_measure_are_left_out():
    frame = table(own_slope=1.0, noise=0.0, arm_slope=1.0)
    frame.loc[0, "law_passes"], frame.loc[1, "y"] = False, np.nan
    frame.loc[0, "y"] = 1e6
    effect = rank_correlation("x", "y", group(frame), "r")(frame)
    assert (effect.used, effect.of) == (46, 48)
    assert effect.value == pytest.approx(1.0)
    assert rank_correlation("absent", "y", group(frame), "r")(frame).used == 0


def test_few_clusters_have_no_interval():
    frame = table(arms=4)
    effect = rank_correlation("x", "y", group(frame), "r", ("arm",))(frame)
    assert math.isfinite(effect.value)
    assert math.isnan(effect.low)
    assert math.isfinite(rank_correlation("x", "y", group(frame), "r", ("seed",))(frame).low)


def test_nothing_that_varies_is_no_correlation():
    frame = table().assign(x=1.0)
    assert math.isnan(rank_correlation("x", "y", group(frame), "r")(frame).value)


@pytest.mark.parametrize(("tables", "least", "most"), [(40, 0.85, 1.0)])
def test_arms_resampled_cover_no_correlation_where_arms_differ(tables, least, most):
    """Arms of different means that have nothing to do with each other: the arm is what would be drawn again."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(tables):
        frame = table(rng=rng)
        effect = rank_correlation("x", "y", group(frame), "r", ("arm",))(frame)
        hits.append(effect.low <= 0 <= effect.high)
    assert least <= np.mean(hits) <= most


@pytest.mark.parametrize("n", [6, 7, 12, 16, 18])
def test_what_does_not_vary_correlates_with_nothing(n):
    """Seven ranks of 4 have a mean of 4 less rounding."""
    rng = np.random.default_rng(n)
    assert np.isnan(spearman(np.full(n, 8.0), rng.normal(size=n), np.zeros(n)))
    assert np.isnan(spearman(np.full(n, 8.0), np.full(n, 2.0), np.zeros(n)))
