"""The onset of copying in synthetic sweeps whose crossing is planted, or absent."""

import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression
from scipy.stats import norm, permutation_test
from scipy.stats import t as student_t

from sandbox.measure.onset import onset
from sandbox.measure.shapes import compare

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
    found = [onset(sweep(line(at, slope), rng), resamples=200, rng_seed=i, models=False) for i in range(SWEEPS)]
    # A percentile interval over 32 seeds covers about 93 %: fewer than 85 of 100 would be a chance of about 1 in 400.
    assert {f.kind for f in found} == {kind}
    assert sum(f.low <= at <= f.high for f in found) >= 85
    # The interval is not so wide that it holds everything.
    assert np.median([f.high / f.low for f in found]) < 4


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_flat_sweep_has_no_onset(level):
    # At level 1/2 the mean does change side, by chance, in nearly every sweep.
    rng = np.random.default_rng(2)
    found = [
        onset(sweep(np.full(len(DIMS), level), rng), resamples=200, rng_seed=i, models=False) for i in range(SWEEPS)
    ]
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


def test_a_sweep_on_the_threshold_has_no_certain_side():
    found = onset(sweep(np.full(len(DIMS), 0.5), np.random.default_rng(8), shared=0.0), resamples=200, models=False)
    assert (found.kind, found.side) == ("none", "undecided")
    assert str(found) == "no onset in range: no side of 0.5 is certain"


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
    shared = [
        onset(sweep(line(8.0, -0.2), rng, spread=0.0, shared=0.25), resamples=200, models=False) for _ in range(SWEEPS)
    ]
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


def by_hand(table, resamples, rng_seed, tails):
    """Crossing, interval and share by scipy's isotonic fit of one resample after another."""
    dim, seed, y = (np.asarray(table[name]) for name in ("dim", "seed", "displacement"))
    rows = [np.flatnonzero(seed == s) for s in np.unique(seed)]

    def crossing(chosen):
        chosen = np.concatenate(chosen)
        levels = np.unique(dim[chosen])
        mean = np.array([y[chosen][dim[chosen] == d].mean() for d in levels])
        fits = [isotonic_regression(mean, increasing=up).x for up in (True, False)]
        rising = ((fits[0] - mean) ** 2).sum() <= ((fits[1] - mean) ** 2).sum()
        fit = fits[0] if rising else -fits[1]
        target = 0.5 if rising else -0.5
        if not fit.min() < target < fit.max():
            return math.nan, rising
        i = np.flatnonzero(fit < target)[-1]
        return np.exp(np.interp(target, fit[i : i + 2], np.log(levels[i : i + 2]))), rising

    at, rising = crossing(rows)
    rng = np.random.default_rng(rng_seed)
    drawn = []
    for _ in range(resamples):
        again, same = crossing([rows[k] for k in rng.integers(len(rows), size=len(rows))])
        drawn.append(again if same == rising else math.nan)
    return at, np.exp(np.nanquantile(np.log(drawn), tails)), np.isfinite(drawn).mean()


# With few seeds the percentiles are widened: to (n/(n - 1))^(1/2) times Student's quantile, in normal quantiles.
@pytest.mark.parametrize(("seeds", "tail"), [(16, 0.025), (6, norm.sf((6 / 5) ** 0.5 * -student_t.ppf(0.025, 5)))])
def test_fits_and_intervals_are_those_of_one_resample_after_another(seeds, tail):
    rng = np.random.default_rng(9)
    table = sweep(line(9.0, -0.15), rng, spread=0.12, seeds=seeds)
    # Some students are missing, and one seed has a dimension to itself.
    kept = (rng.random(len(table["dim"])) < 0.7) & ((table["dim"] != 64) | (table["seed"] == 0))
    table = {name: column[kept] for name, column in table.items()}
    found = onset(table, resamples=300, rng_seed=5, models=False)
    at, interval, share = by_hand(table, 300, 5, [tail, 1 - tail])
    assert found.kind == "begins"
    assert [found.at, found.low, found.high] == pytest.approx([at, *interval], rel=1e-9)
    assert found.share == pytest.approx(share)
    assert found.between[0] < found.at < found.between[1]


def test_an_axis_may_have_a_value_for_every_student():
    # A reading such as the start's error, which no two students share: two hundred values, three or four to a seed.
    rng = np.random.default_rng(17)
    x = np.exp(rng.uniform(0, 4, 200))
    y = 0.5 - 0.15 * (np.log(x) - 1.5) + 0.1 * rng.standard_normal(200)
    table = {"dim": x, "seed": np.arange(200) % 60, "displacement": y}
    found = onset(table, resamples=100, rng_seed=5)
    at, interval, share = by_hand(table, 100, 5, [0.025, 0.975])
    assert (found.kind, found.share) == ("begins", share)
    assert [found.at, found.low, found.high] == pytest.approx([at, *interval], rel=1e-9)
    assert (len(found.shapes.table), found.shapes.points) == (4, 60)
    assert found.shapes.table[-1].name == "constant"


def test_rows_beyond_one_block_are_fitted_alike(monkeypatch):
    table = sweep(line(6.0, -0.1), np.random.default_rng(18), seeds=6)
    want = onset(table, resamples=100, models=False)
    monkeypatch.setattr("sandbox.measure.onset.BLOCK", 49 * 7)
    assert onset(table, resamples=100, models=False) == want


def test_resamples_that_cross_the_other_way_do_not_count():
    table = sweep(line(6.0, -0.02), np.random.default_rng(15), seeds=6)
    found = onset(table, resamples=300, rng_seed=5, models=False)
    _, _, share = by_hand(table, 300, 5, [0.025, 0.975])
    assert 0.5 < share < 0.95
    assert found.share == pytest.approx(share)
    assert found.kind == "none"


@pytest.mark.parametrize("slope", [0.0, 0.06])
@pytest.mark.parametrize("seeds", [4, 6, 9])
def test_two_values_are_compared_as_scipy_compares_pairs(seeds, slope):
    # With two values the statistic grows with the mean difference alone: the sign test of pairs by their mean.
    rng = np.random.default_rng(10)
    y = 0.5 + slope * np.array([[-1.0], [1.0]]) + np.array([[0.1], [0.02]]) * rng.standard_normal((2, seeds))
    table = {"dim": np.repeat([2, 32], seeds), "seed": np.tile(np.arange(seeds), 2), "displacement": y.ravel()}
    pairs = permutation_test((y[1] - y[0],), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert onset(table, resamples=20, models=False).p == pytest.approx(pairs.pvalue)


def test_a_difference_in_scatter_is_no_dependence():
    # Flat, and thirty times more scattered at d = 1 than elsewhere: permuted labels would reject in one sweep of three.
    rng = np.random.default_rng(11)
    p = []
    for _ in range(200):
        table = sweep(np.full(len(DIMS), 0.5), rng, spread=0.0, shared=0.1, seeds=8)
        table["displacement"] += np.where(table["dim"] == 1, 0.3, 0.01) * rng.standard_normal(len(table["dim"]))
        p.append(onset(table, resamples=1, models=False).p)
    # A level of 10 % with an error of 2 %, and of 5 % with 1.5 %.
    assert np.mean(np.array(p) <= 0.10) == pytest.approx(0.10, abs=0.06)
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.045)


def test_scatter_at_one_value_does_not_hide_a_trend_over_the_others():
    rng = np.random.default_rng(16)
    p = []
    for _ in range(20):
        table = sweep(line(8.0, 0.01), rng, spread=0.0, shared=0.1, seeds=8)
        table["displacement"] += np.where(table["dim"] == 1, 0.5, 0.01) * rng.standard_normal(len(table["dim"]))
        p.append(onset(table, resamples=1, models=False).p)
    # The smallest that eight seeds can give is 2^-7.
    assert np.mean(np.array(p) <= 2**-6) > 0.9


def test_seeds_that_are_not_shared_between_values_are_compared_with_the_common_mean():
    rng = np.random.default_rng(12)
    flat, trend = [], []
    for _ in range(60):
        table = {"dim": np.repeat(DIMS, 6), "seed": np.arange(42), "displacement": 0.5 + 0.1 * rng.standard_normal(42)}
        flat.append(onset(table, resamples=1, models=False).p <= 0.1)
        table["displacement"] += 0.1 * np.log(table["dim"] / 8)
        trend.append(onset(table, resamples=1, models=False).p <= 0.01)
    assert sum(flat) <= 14
    assert all(trend)


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_students_that_are_all_the_same_depend_on_nothing(level):
    table = sweep(np.full(len(DIMS), level), np.random.default_rng(13), spread=0.0, shared=0.0)
    found = onset(table, resamples=20)
    assert (found.kind, found.p, found.shapes.best.name) == ("none", 1.0, "constant")
    # Neither does one that is different by a seed's own shift.
    assert onset(sweep(np.full(len(DIMS), level), np.random.default_rng(13), spread=0.0), resamples=20).p == 1.0


def test_the_share_that_copies_has_an_onset_of_its_own():
    # Of four seeds copy 4, 4, 3, 1, 0: three quarters to one quarter between 4 and 8, so half at their middle.
    copies = np.array([4, 4, 3, 1, 0])
    table = {
        "dim": np.tile([1, 2, 4, 8, 16], 4),
        "seed": np.repeat(np.arange(4), 5),
        "displacement": np.where(np.arange(4)[:, None] < copies, 0.1, 0.7).ravel(),
    }
    found = onset(table, below=0.5)
    assert found.kind == "ends"
    assert found.at == pytest.approx(32**0.5)
    assert found.between == (4.0, 8.0)
    assert found.low <= 4.1
    assert found.high >= 7.8
    # Read the other way round, remapping begins there; and copying is where displacement is small.
    assert onset({**table, "displacement": 1 - table["displacement"]}, below=0.5).kind == "begins"
    assert onset(table, models=False).kind == "ends"
    assert {one.name for one in found.shapes.table} == {"constant", "linear", "broken stick", "logistic"}


def test_between_two_values_the_place_of_a_step_in_shares_is_unknown():
    y = np.where(DIMS < 6, 0.1, 0.9)
    table = {"dim": np.tile(DIMS, 6), "seed": np.repeat(np.arange(6), 7), "displacement": np.tile(y, 6)}
    found = onset(table, below=0.5, models=False)
    assert found.at == pytest.approx(32**0.5)
    # 95 % of the stretch between 4 and 8, in the logarithm.
    want = [4 * 2**0.025, 4 * 2**0.975]
    assert [found.low, found.high] == pytest.approx(want, rel=0.01)


def test_shares_weigh_by_their_students():
    # 30 of 40 at d = 2 and 1 of 4 at d = 1 violate the order: pooled they are 31 of 44, and not (3/4 + 1/4)/2.
    students = {1: (1, 4), 2: (30, 40), 4: (2, 40), 8: (0, 40)}
    rows = [(d, s, 0.1 if s < hits else 0.9) for d, (hits, n) in students.items() for s in range(n)]
    table = dict(zip(("dim", "seed", "displacement"), map(np.array, zip(*rows))))
    found = onset(table, below=0.5, resamples=50, models=False)
    pooled, after = 31 / 44, 2 / 40
    assert found.at == pytest.approx(2 * 2 ** ((pooled - 0.5) / (pooled - after)))


def test_a_stretch_on_the_threshold_is_crossed_in_its_middle():
    table = {"dim": [1, 2, 8, 16] * 3, "seed": np.repeat([0, 1, 2], 4), "displacement": [0.9, 0.5, 0.5, 0.1] * 3}
    found = onset(table, models=False)
    assert found.at == pytest.approx(4.0)
    assert found.between == (1.0, 16.0)


def test_the_shapes_are_those_of_the_same_students():
    table = sweep(line(6.0, -0.1), np.random.default_rng(14), seeds=6)
    found = onset(table, resamples=20)
    assert found.shapes == compare(table["dim"], table["displacement"], table["seed"])
    copies = (table["displacement"] < 0.4).astype(float)
    assert onset(table, resamples=20, below=0.4).shapes == compare(table["dim"], copies, table["seed"], share=True)


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resamples": 0}, "resamples must be >= 1, got 0"),
        ({"below": 0.5, "threshold": 1.0}, "threshold must be between 0 and 1 for a share, got 1"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        onset(GOOD, **options)
