"""The four shapes along an axis: their likelihoods against scipy's, what they recover, and what they refuse."""

import math
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import curve_fit, differential_evolution
from scipy.special import expit
from scipy.stats import bernoulli, multivariate_normal

from sandbox.measure.shapes import FORMS, PRIOR_STUDENTS, compare

DIMS = 2.0 ** np.arange(8)
U = np.log(DIMS)
NOISY = 8.0


def students(curve, rng, seeds=16, spread=0.05, shared=0.0, noisy=1.0):
    """x, y, seed (n,) of one student per seed and dimension, `noisy` times more scattered at d <= 8."""
    scale = spread * np.where(DIMS <= NOISY, noisy, 1.0)
    y = curve + scale * (rng.standard_normal((seeds, len(DIMS))) + shared * rng.standard_normal((seeds, 1)))
    return np.tile(DIMS, seeds), y.ravel(), np.repeat(np.arange(seeds), len(DIMS))


def sigmoid(middle=6.0, width=0.6, left=0.8, right=0.2):
    return left + (right - left) * expit((U - math.log(middle)) / width)


def shape(found, name):
    return next(one for one in found.table if one.name == name)


# The same curves in other parameters, with starts of their own.
OTHER = {
    "constant": (lambda u, a: a + 0 * u, [[0.4]], ([-9], [9])),
    "linear": (lambda u, a, b: a + b * u, [[0.4, 0.0]], ([-9, -9], [9, 9])),
    "broken stick": (
        lambda u, a, b, c, k: a + b * np.minimum(u - k, 0) + c * np.maximum(u - k, 0),
        [[0.4, 0.0, 0.0, k] for k in np.linspace(U[1], U[-2], 13)[1:-1]],
        ([-9, -9, -9, U[1]], [9, 9, 9, U[-2]]),
    ),
    "logistic": (
        lambda u, a, b, m, w: a + (b - a) * expit((u - m) / w),
        [[0.8, 0.2, m, w] for m in np.linspace(0.5, 4.5, 5) for w in (0.2, 0.6, 2)],
        ([-99, -99, U[0], math.log(2) / 8], [99, 99, U[-1], U[-1]]),
    ),
}


@pytest.mark.parametrize(("shared", "noisy", "kept"), [(0.0, 1.0, 1.0), (0.8, 5.0, 1.0), (0.3, 5.0, 0.7)])
def test_means_agree_with_curve_fit_on_every_student_in_their_covariance(shared, noisy, kept):
    rng = np.random.default_rng(1)
    there = rng.random(64) < kept
    x, y, seed = (v[there] for v in students(sigmoid(), rng, 8, 0.06, shared, noisy))
    found = compare(x, y, seed)
    levels = np.unique(x)
    groups = [y[x == d] for d in levels]
    freedom = np.array([len(g) - 1 for g in groups])
    own = np.array([g.var(ddof=1) for g in groups])
    common = math.exp(np.log(own).mean())
    deviation = np.sqrt((freedom * own + PRIOR_STUDENTS * common) / (freedom + PRIOR_STUDENTS))
    s = deviation[np.searchsorted(levels, x)]
    rho = found.correlation
    covariance = np.outer(s, s) * np.where(np.equal.outer(seed, seed), rho, 0) + np.diag(s**2 * (1 - rho))
    for name, (curve, starts, bounds) in OTHER.items():
        likelihoods = []
        for start in starts:
            p, _ = curve_fit(curve, np.log(x), y, start, covariance, bounds=bounds, max_nfev=2000)
            gap = y - curve(np.log(x), *p)
            scale = gap @ np.linalg.solve(covariance, gap) / len(y)
            likelihoods.append(multivariate_normal(np.zeros(len(y)), scale * covariance).logpdf(gap))
        k, n = len(starts[0]) + 1, found.points
        want = -2 * max(likelihoods) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
        assert shape(found, name).counted == k
        # curve_fit stops at relative changes of 1e-8; no start of its own may find a better fit.
        assert shape(found, name).aicc == pytest.approx(want, abs=1e-4)


# Between two values, or past a third at a knot: all shares.
SHARES = {
    "constant": (lambda a: a + 0 * U, [(0, 1)]),
    "linear": (lambda a, b: np.interp(U, U[[0, -1]], [a, b]), 2 * [(0, 1)]),
    "broken stick": (lambda a, b, c, k: np.interp(U, [U[0], k, U[-1]], [a, b, c]), [*3 * [(0, 1)], (U[1], U[-2])]),
    "logistic": (
        lambda a, b, m, w: a + (b - a) / (1 + np.exp((m - U) / w)),
        [(0, 1), (0, 1), (U[0], U[-1]), (math.log(2) / 8, U[-1])],
    ),
}


@pytest.mark.parametrize(("name", "seed_effect"), [(form.name, effect) for form in FORMS for effect in (0.0, 1.5)])
def test_shares_reach_the_largest_likelihood_that_a_global_search_finds(name, seed_effect):
    rng = np.random.default_rng(2)
    x, latent, seed = students(1.5 * (math.log(6) - U), rng, 12, 1.0, seed_effect)
    y = (latent > 0).astype(float)
    found = compare(x, y, seed, share=True)
    curve, box = SHARES[name]
    hits = y.reshape(12, 8).sum(0)

    def loss(p):
        share = np.clip(curve(*p), 1e-12, 1 - 1e-12)
        return -2 * (hits @ np.log(share) + (12 - hits) @ np.log1p(-share))

    search = differential_evolution(loss, box, rng=3, popsize=10, tol=1e-8)
    share = np.clip(curve(*search.x), 1e-12, 1 - 1e-12)[np.searchsorted(DIMS, x)]
    assert search.fun == pytest.approx(-2 * bernoulli.logpmf(y, share).sum())
    k, n = len(box) + 1, found.points
    aicc = search.fun * n / len(y) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert (found.correlation > 0.2) == (seed_effect > 0)
    assert shape(found, name).counted == k
    assert shape(found, name).aicc == pytest.approx(aicc, abs=1e-3)


def test_weights_are_akaikes_and_the_table_is_sorted():
    found = compare(*students(sigmoid(width=1.5), np.random.default_rng(4), seeds=6, spread=0.15))
    aicc = np.array([one.aicc for one in found.table])
    likelihood = np.exp(-(aicc - aicc.min()) / 2)
    assert [one.weight for one in found.table] == pytest.approx(likelihood / likelihood.sum())
    assert (np.diff(aicc) >= 0).all()
    assert found.best == found.table[0]
    assert str(found).startswith(f"shapes by AICc weight: {found.best.name} {found.best.weight:.2f}, ")


CURVES = {
    "constant": (np.full(8, 0.45), {"value": 0.45}),
    "linear": (0.9 - 0.7 * U / U[-1], {"first": 0.9, "last": 0.2}),
    "broken stick": (
        np.interp(U, [0, math.log(9), U[-1]], [0.8, 0.2, 0.3]),
        {"first": 0.8, "at_knot": 0.2, "last": 0.3, "knot": 9.0},
    ),
    "logistic": (sigmoid(), {"left": 0.8, "right": 0.2, "middle": 6.0, "width": 0.6}),
}


@pytest.mark.parametrize("name", CURVES)
def test_a_planted_shape_is_found_with_its_parameters(name):
    curve, planted = CURVES[name]
    rng = np.random.default_rng(5)
    exact = compare(*students(curve, rng, seeds=4, spread=0.0))
    assert exact.best.name == name
    # The search for a knot or a width stops where the squared distance no longer changes, at about its root.
    assert exact.best.parameters == pytest.approx(planted, rel=1e-3)
    noisy = compare(*students(curve, rng, seeds=30, spread=0.02, noisy=3.0))
    assert noisy.best.name == name
    assert noisy.best.parameters == pytest.approx(planted, rel=0.15)


# AICc keeps the right shape in about four sweeps of five; the rest go to one with more parameters.
@pytest.mark.parametrize(
    ("name", "curve"), [("constant", np.full(8, 0.5)), ("linear", 0.7 - 0.1 * U), ("logistic", sigmoid())]
)
def test_the_best_shape_is_mostly_the_planted_one(name, curve):
    rng = np.random.default_rng(6)
    best = Counter(compare(*students(curve, rng, 16, 0.04, 0.3, 6.0)).best.name for _ in range(15))
    assert best[name] >= 9


def test_levels_that_are_well_known_decide():
    # A step of .03 between levels whose means are known to .0025, beside four levels known to .06 and flat.
    curve = np.where(DIMS <= 32, 0.40, 0.43)
    rng = np.random.default_rng(7)
    found = [compare(*students(curve, rng, 16, 0.01, 0.0, 25.0)) for _ in range(10)]
    assert sum(one.best.name != "constant" for one in found) >= 9
    assert sum(abs(shape(one, "logistic").parameters["right"] - 0.43) < 0.01 for one in found) >= 9


def test_a_shift_of_whole_seeds_does_not_hide_the_shape():
    # Seeds differ four times more than the students of one: every level is uncertain, their differences are not.
    found = compare(*students(sigmoid(), np.random.default_rng(8), seeds=12, spread=0.03, shared=4.0))
    assert found.correlation > 0.8
    assert found.best.name == "logistic"
    assert found.best.parameters["middle"] == pytest.approx(6.0, rel=0.1)


@pytest.mark.parametrize("shared", [0.0, 1.0, 3.0])
def test_the_correlation_of_a_seeds_students_is_estimated(shared):
    rng = np.random.default_rng(9)
    found = [compare(*students(np.zeros(8), rng, 100, 1.0, shared)) for _ in range(4)]
    want = shared**2 / (1 + shared**2)
    # A hundred seeds: one estimate has an error of about .05 where half of the variance is shared, four of .025.
    # Negative estimates count as 0, so that none is on average a little more than none.
    assert np.mean([one.correlation for one in found]) == pytest.approx(want, abs=0.07)
    for one in found:
        assert one.points == pytest.approx(800 / (1 + 7 * one.correlation))


def test_students_that_repeat_each_other_count_once():
    # Every student of a seed is the same but for its level's scale: forty students, five seeds.
    deviation = np.random.default_rng(10).standard_normal((5, 1)) * np.where(DIMS <= NOISY, 0.2, 0.02)
    found = compare(np.tile(DIMS, 5), (sigmoid() + deviation).ravel(), np.repeat(np.arange(5), 8))
    assert found.points == pytest.approx(5, abs=0.1)
    assert set(found.left_out) == {"broken stick", "logistic"}
    assert found.left_out["logistic"] == "needs more than 6 independent students, got 5.0"


@pytest.mark.parametrize(
    ("levels", "seeds", "left_out"),
    [
        (2, 6, {"broken stick": "needs 4 axis values, got 2", "logistic": "needs 4 axis values, got 2"}),
        (3, 6, {"broken stick": "needs 4 axis values, got 3", "logistic": "needs 4 axis values, got 3"}),
        (4, 6, {}),
        (
            1,
            6,
            {
                name: f"needs {n} axis values, got 1"
                for name, n in (("linear", 2), ("broken stick", 4), ("logistic", 4))
            },
        ),
    ],
)
@pytest.mark.parametrize("share", [False, True])
def test_a_shape_that_cannot_be_told_is_left_out_and_named(levels, seeds, left_out, share):
    rng = np.random.default_rng(11)
    y = rng.random((seeds, levels))
    y = (y < 0.5).astype(float) if share else y
    found = compare(np.tile(DIMS[:levels], seeds), y.ravel(), np.repeat(np.arange(seeds), levels), share=share)
    assert found.left_out == left_out
    assert {one.name for one in found.table} == {form.name for form in FORMS} - left_out.keys()
    assert ("not fitted: " in str(found)) == bool(left_out)


def test_with_few_students_nothing_can_be_compared():
    found = compare([1.0, 2.0], [0.1, 0.4], [0, 1])
    assert found.best is None
    # Two students, none repeated: every seed counts as one.
    assert found.points == 2
    assert found.left_out["constant"] == "needs more than 3 independent students, got 2.0"
    assert str(found).startswith("shapes by AICc weight: none (2 students count as 2); not fitted: constant, ")


def test_without_repeated_axis_values_every_seed_counts_as_one():
    x = np.arange(1.0, 41.0)
    found = compare(x, np.log(x) + 0.1 * np.random.default_rng(15).standard_normal(40), np.repeat(np.arange(10), 4))
    assert (found.points, found.correlation) == (10, 0)
    assert found.best.name == "linear"


def test_rounding_is_not_scatter():
    # The mean of three times .1 is not .1, and all students would deviate from it alike.
    found = compare(np.tile(DIMS, 3), np.full(24, 0.1), np.repeat(np.arange(3), 8))
    assert (found.points, found.correlation, found.best.name) == (24, 0, "constant")


def test_units_do_not_matter():
    x, y, seed = students(sigmoid(), np.random.default_rng(12), noisy=4.0)
    here, there = compare(x, y, seed), compare(1000 * x, 3 * y - 7, seed)
    for one in here.table:
        other = shape(there, one.name)
        assert other.weight == pytest.approx(one.weight, abs=1e-4)
        for name, v in one.parameters.items():
            want = {"knot": 1000 * v, "middle": 1000 * v, "width": v}.get(name, 3 * v - 7)
            assert other.parameters[name] == pytest.approx(want, rel=1e-3)


def test_seeds_may_have_any_labels_and_rows_any_order():
    x, y, seed = students(sigmoid(), np.random.default_rng(13), shared=1.0)
    order = np.random.default_rng(14).permutation(len(x))
    here, there = compare(x, y, seed), compare(x[order], y[order], np.array([f"run {s}" for s in seed])[order])
    assert there.points == pytest.approx(here.points)
    assert [one.aicc for one in there.table] == pytest.approx([one.aicc for one in here.table], abs=1e-6)


def test_a_share_that_is_all_or_nothing_is_a_step_between_two_values():
    y = np.tile(DIMS < 12, 8).astype(float)
    found = compare(np.tile(DIMS, 8), y, np.repeat(np.arange(8), 8), share=True)
    assert found.best.name == "logistic"
    assert 8 < found.best.parameters["middle"] < 16
    assert (found.best.parameters["left"], found.best.parameters["right"]) == pytest.approx((1, 0), abs=1e-3)


@pytest.mark.parametrize(
    ("x", "y", "seed", "share", "words"),
    [
        (
            [1, 2],
            [0.1, 0.2],
            [0],
            False,
            r"x, y and seed must have one shape \(n,\), n >= 1, got \(2,\), \(2,\), \(1,\)",
        ),
        ([], [], [], False, r"got \(0,\), \(0,\), \(0,\)"),
        ([1, -2], [0.1, 0.2], [0, 0], False, "x must be > 0 for a logarithmic axis, got -2"),
        ([1, 2], [0.1, math.nan], [0, 0], False, "y must be finite, got 1 values that are not"),
        ([1, 2], [1, 0.2], [0, 0], True, "y must be 0 or 1 for a share, got 0.2"),
    ],
)
def test_bad_students_are_named(x, y, seed, share, words):
    with pytest.raises(ValueError, match=words):
        compare(x, y, seed, share=share)
