"""Effects by hand: weights of conditions, clusters, dimensions, and the width of an interval of few seeds."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t

from sandbox.lab.effects import Group, area, copying_gained, mean, slope


def table(rows):
    """rows: (arm, dim, seed, value, ...) with further columns by name."""
    t = pd.DataFrame(rows)
    return t.assign(key=[str(i) for i in range(len(t))], status="done", law_passes=True)


def normal(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def test_conditions_count_alike_however_many_students_they_have():
    rows = [{"arm": "a", "dim": d, "seed": s, "rho": v} for d, n, v in ((2, 1, 1.0), (8, 9, 0.0)) for s in range(n)]
    assert mean("rho", Group("a", ("a",)), "")(table(rows)).value == pytest.approx(0.5, abs=1e-12)


def test_a_group_is_where_it_is_said_to_be():
    rows = [{"arm": "a", "dim": 2, "seed": s, "rho": e, "error": e} for e in (0.0, 1.0) for s in range(3)]
    group = Group("a", ("a",), where=(("error", 1.0),))
    found = mean("rho", group, "")(table(rows))
    assert (found.value, found.used, found.of) == (1.0, 3, 3)


@pytest.mark.parametrize("seeds", [5, 8, 40])
def test_an_interval_of_few_seeds_is_expanded(seeds):
    """The quantiles of the same resamples, drawn here once more (Hesterberg 2015, section 4.2)."""
    v = normal(seeds)
    found = mean("rho", Group("a", ("a",)), "")(
        table([{"arm": "a", "dim": 2, "seed": s, "rho": x} for s, x in enumerate(v)])
    )
    means = v[np.random.default_rng(0).integers(seeds, size=(2000, seeds))].mean(1)
    tail = 0.025 if seeds >= 16 else norm.cdf((seeds / (seeds - 1)) ** 0.5 * student_t.ppf(0.025, seeds - 1))
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [tail, 1 - tail]), abs=1e-12)


@pytest.mark.parametrize("few", [4, 8])
def test_copies_of_a_student_under_its_seed_make_no_interval_narrower(few):
    v, w = normal(20), normal(20, 1)

    def width(times, effect):
        rows = [
            {
                "arm": "a",
                "dim": d,
                "seed": s,
                "teacher_steps": 1,
                "rho": v[s] * np.log2(d),
                "displacement": float(s % 2),
                "score": w[s],
            }
            for d in (2, few)
            for s in range(20)
            for _ in range(times)
        ]
        found = effect(table(rows))
        return found.high - found.low

    group = Group("a", ("a",))
    for effect in (slope("rho", group, ""), area("score", group, ("teacher_steps", "seed"), "")):
        assert width(5, effect) == pytest.approx(width(1, effect), rel=1e-9)


def test_an_area_compares_students_of_one_dimension():
    rows = [
        {"arm": "a", "dim": d, "seed": s, "displacement": float(s), "score": 10.0 * d - s}
        for d in (2, 8)
        for s in (0, 1)
    ]
    assert area("score", Group("a", ("a",)), ("seed", "dim"), "")(table(rows)).value == 1.0


@pytest.mark.parametrize(("reading", "sign"), [("displacement", -1), ("mode_agreement", 1)])
def test_towards_a_copy_is_less_displacement_and_more_agreement(reading, sign):
    rows = [{"arm": "a", "dim": d, "seed": s, reading: float(d == 32)} for d in (4, 32) for s in range(3)]
    assert copying_gained("a", reading)(table(rows)).value == sign
