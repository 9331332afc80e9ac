"""The onset of copying in synthetic sweeps whose crossing is planted, or absent."""

import math

import numpy as np
import pytest

from sandbox.measure.onset import onset

DIMS = np.array([1, 2, 4, 8, 16, 32, 64])
SEEDS = 32
SWEEPS = 100


def sweep(mean, rng, spread=0.25, shared=0.1, seeds=SEEDS):
    """One row per student: a mean at each dimension, and deviations of which a part is shared by a seed's students."""
    cluster = shared * rng.standard_normal(seeds)
    dim, seed = np.repeat(DIMS, seeds), np.tile(np.arange(seeds), len(DIMS))
    value = np.repeat(mean, seeds) + np.tile(cluster, len(DIMS)) + spread * rng.standard_normal(len(dim))
    return {"dim": dim, "seed": seed, "displacement": value}


def line(at, slope):
    """A mean that passes 1/2 at the planted dimension, linear in log d as the interpolation is."""
    return 0.5 + slope * np.log(DIMS / at)


@pytest.mark.parametrize(("at", "slope", "kind"), [(6.0, -0.2, "begins"), (20.0, -0.3, "begins"), (6.0, 0.2, "ends")])
def test_a_planted_crossing_lies_in_its_interval(at, slope, kind):
    rng = np.random.default_rng(1)
    found = [onset(sweep(line(at, slope), rng), resamples=200, rng_seed=i) for i in range(SWEEPS)]
    # A percentile interval over 32 seeds covers about 93 %: fewer than 85 of 100 would be a chance of about 1 in 400.
    assert {f.kind for f in found} == {kind}
    assert sum(f.low <= at <= f.high for f in found) >= 85
    # The interval is not so wide that it holds everything.
    assert np.median([f.high / f.low for f in found]) < 4


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_flat_sweep_has_no_onset(level):
    # At level 1/2 the mean does change side, by chance, in nearly every sweep.
    rng = np.random.default_rng(2)
    found = [onset(sweep(np.full(len(DIMS), level), rng), resamples=200, rng_seed=i) for i in range(SWEEPS)]
    assert sum(f.kind == "none" for f in found) >= 85
    assert all(math.isnan(v) for f in found if f.kind == "none" for v in (f.at, f.low, f.high))


@pytest.mark.parametrize(("at", "slope"), [(300.0, -0.3), (0.1, -0.3), (300.0, 0.3)])
def test_a_trend_that_stays_on_one_side_is_not_extrapolated(at, slope):
    found = onset(sweep(line(at, slope), np.random.default_rng(3), spread=0.01, shared=0.01), resamples=200)
    assert found.kind == "none"
    assert math.isnan(found.at)
    side = "above" if (at > DIMS[-1]) == (slope < 0) else "below"
    assert found.side == side
    assert str(found).splitlines()[0] == f"no onset in range: {side} 0.5 throughout"


def test_without_noise_the_crossing_is_exact():
    table = {"dim": [4.0, 16.0] * 2, "seed": [0, 0, 1, 1], "displacement": [0.9, 0.3] * 2}
    found = onset(table)
    # (0.9 - 0.5) / (0.9 - 0.3) of the way from log 4 to log 16
    want = 4.0 * 4.0 ** (2 / 3)
    assert (found.kind, found.share, found.crossings, found.seeds) == ("begins", 1.0, 1, 2)
    assert [found.at, found.low, found.high] == pytest.approx([want] * 3, rel=1e-12)
    assert str(found).splitlines()[0] == "begins at 10.1 [10.1, 10.1]"


def test_seeds_are_resampled_as_clusters():
    # All the noise is shared by a seed's students. Resampled one by one, students would average it out over the axis.
    rng = np.random.default_rng(4)
    shared = [onset(sweep(line(8.0, -0.2), rng, spread=0.0, shared=0.25), resamples=200) for _ in range(SWEEPS)]
    assert sum(f.low <= 8.0 <= f.high for f in shared) >= 85


def test_another_axis_value_and_threshold_can_be_named():
    table = {"batch": [1, 4, 1, 4], "student": [0, 0, 1, 1], "kappa": [0.0, 0.8, 0.0, 0.8]}
    found = onset(table, axis="batch", value="kappa", seed="student", threshold=0.4)
    assert found.kind == "ends"
    assert found.at == pytest.approx(2.0, rel=1e-12)


def test_a_curve_that_comes_back_says_how_often_it_crosses():
    mean = np.array([0.9, 0.2, 0.9, 0.2, 0.2, 0.2, 0.2])
    found = onset(sweep(mean, np.random.default_rng(5), spread=0.01, shared=0.0), resamples=200)
    assert found.crossings == 3


def test_students_without_a_value_are_left_out():
    table = sweep(line(6.0, -0.2), np.random.default_rng(6))
    holes = np.random.default_rng(7).random(len(table["dim"])) < 0.2
    kept = {name: column[~holes] for name, column in table.items()}
    assert onset({**table, "displacement": np.where(holes, np.nan, table["displacement"])}, resamples=50) == onset(
        kept, resamples=50
    )


GOOD = {"dim": [1, 2, 1, 2], "seed": [0, 0, 1, 1], "displacement": [1.0, 0.0, 1.0, 0.0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": None}, "seed.* is missing"),
        ({"displacement": None}, "displacement.* is missing"),
        ({"seed": [3, 3, 3, 3]}, "seed must take at least two values, got 1"),
        ({"dim": [2, 2, 2, 2]}, "dim must take at least two values, got 1"),
        ({"dim": [0, 2, 1, 2]}, "dim must be > 0.*got 0"),
        ({"displacement": [math.nan] * 4}, "dim must take at least two values, got 0"),
    ],
)
def test_bad_tables_are_named(change, words):
    table = {name: column for name, column in {**GOOD, **change}.items() if column is not None}
    with pytest.raises(ValueError, match=words):
        onset(table)
