"""Standard errors over points: against the mean's, and against the scatter of new points."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sandbox.measure.jackknife import GROUPS, jackknife
from sandbox.measure.pairing import (
    STATISTICS,
    correlation_distance,
    displacement,
    inefficiency,
    mode_agreement,
    retrieval,
    with_error,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def pairs(n, dim, correlation, seed):
    z, w = (torch.from_numpy(rng((seed, i)).standard_normal((n, dim))) for i in range(2))
    return correlation * z + math.sqrt(1 - correlation**2) * w, z


@pytest.mark.parametrize("tolerance", [1e-12])
@pytest.mark.parametrize("n", [2, 7, GROUPS])
def test_single_points_left_out_give_the_standard_error_of_a_mean(n, tolerance):
    x = rng().standard_normal(n)
    assert jackknife(lambda rows: x[rows].mean(), n, rng()) == pytest.approx(stats.sem(x), rel=tolerance)


@pytest.mark.parametrize(("n", "tolerance"), [(GROUPS * 40, 0.06)])
def test_groups_left_out_give_it_on_average(n, tolerance):
    x = rng().standard_normal((n, 3)) * [1.0, 2.0, 30.0]
    # 40 ways to group know the mean square to 5 %; a statistic with many values is as many statistics.
    found = np.sqrt(np.mean([jackknife(lambda rows: x[rows].mean(0), n, rng(i)) ** 2 for i in range(40)], 0))
    assert found == pytest.approx(stats.sem(x), rel=tolerance)


def test_sorted_points_are_grouped_at_random():
    # Contiguous groups of sorted points differ by all of the spread, interleaved ones by none of it.
    x = np.sort(rng().standard_normal(640))
    assert jackknife(lambda rows: x[rows].mean(), 640, rng()) == pytest.approx(stats.sem(x), rel=0.4)


def test_too_few_points_are_named():
    with pytest.raises(ValueError, match="n must be >= 2, got 1"):
        jackknife(len, 1, rng())


@pytest.mark.parametrize("dim", [pytest.param(1, marks=pytest.mark.slow), 16])
@pytest.mark.parametrize(
    # From 40 draws a standard deviation is known to 11 %. Retrieval's standard error counts the hits that a deleted
    # rival brings, and is too large where hits are few and by chance.
    ("measure", "correlation", "low", "high"),
    [
        (displacement, 0.6, 0.7, 1.4),
        (correlation_distance, 0.6, 0.7, 1.4),
        (inefficiency, 0.6, 0.7, 1.4),
        (retrieval, 0.6, 0.8, 1.8),
        (mode_agreement, 0.6, 0.7, 1.4),
    ],
)
def test_standard_errors_are_what_new_points_scatter_by(measure, correlation, low, high, dim):
    values, squares = [], []
    for i in range(40):
        s, t = pairs(64, dim, correlation, i)
        if measure is mode_agreement:
            s, t = ((x[:, 0] > 0).long() for x in (s, t))
        found = with_error(measure, s, t, *([2] if measure is mode_agreement else []), rng=rng(i))
        values.append(found.value)
        squares.append(found.se**2)
    assert low < math.sqrt(np.mean(squares)) / np.std(values, ddof=1) < high


@pytest.mark.parametrize("measure", [m for m in STATISTICS if m is not mode_agreement])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_null_are_the_measures_own(measure, dtype):
    s, t = (x.to(dtype) for x in pairs(40, 3, 0.5, 1))
    found = with_error(measure, s, t, rng=rng(3))
    assert found[:4] == tuple(measure(s, t, rng(3)))
    assert found.n == 40
    # The statistic whose scatter is taken is the measure: with all points kept it is the value itself.
    assert STATISTICS[measure](s.double(), t.double())(np.arange(40)) == pytest.approx(found.value, rel=1e-12)


def test_kappas_value_and_null_are_its_own():
    a, b = (torch.from_numpy(rng(i).integers(3, size=50)) for i in range(2))
    found = with_error(mode_agreement, a, b, 3, rng=rng(3))
    assert found[:4] == tuple(mode_agreement(a, b, 3, rng(3)))
    assert STATISTICS[mode_agreement](a, b, 3)(np.arange(50)) == pytest.approx(found.value, rel=1e-12)
    one = torch.zeros(50, dtype=torch.int64)
    assert all(math.isnan(x) for x in with_error(mode_agreement, one, one, 3, rng=rng())[:5])


def test_a_measure_without_a_standard_error_is_named():
    with pytest.raises(ValueError, match=r"measure must be one of .*retrieval, got sem"):
        with_error(stats.sem, *pairs(10, 2, 0.5, 1), rng=rng())
