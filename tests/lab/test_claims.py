"""Verdicts follow from their rules, effects from their students, and a broken arm changes the verdict."""

import importlib
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from sandbox.lab.claims import NO_STUDENTS, NOT_SUPPORTED, SUPPORTED, UNDECIDED, Question, Rule, answer, in_short
from sandbox.lab.effects import Effect, Group, Part, area, difference, mean, slope
from sandbox.lab.gallery import EXPERIMENTS, FIGURES, figure_module
from sandbox.lab.report import _joined

GALLERY = Path("figures/gallery")


def effect(low, high, clusters=10):
    parts = Part("a", 0.0, 10, 10, clusters), Part("b", 0.0, 10, 10, 10)
    return Effect((low + high) / 2, low, high, "", parts, 10, 10, ("k",))


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (Rule(low=0.1), 0.2, 0.3, SUPPORTED),
        (Rule(low=0.1), 0.0, 0.05, NOT_SUPPORTED),
        (Rule(low=0.1), 0.05, 0.15, UNDECIDED),
        (Rule(high=0.1), 0.0, 0.05, SUPPORTED),
        (Rule(high=0.1), 0.2, 0.3, NOT_SUPPORTED),
        (Rule(low=-0.1, high=0.1), -0.05, 0.05, SUPPORTED),
        (Rule(low=-0.1, high=0.1), 0.2, 0.3, NOT_SUPPORTED),
        (Rule(low=-0.1, high=0.1), -0.3, -0.2, NOT_SUPPORTED),
        (Rule(low=-0.1, high=0.1), -0.2, 0.2, UNDECIDED),
        (Rule(low=0.1), math.nan, math.nan, UNDECIDED),
    ],
)
def test_a_verdict_is_the_place_of_the_interval(rule, low, high, verdict):
    assert rule.verdict(effect(low, high)) == verdict


def test_too_few_clusters_decide_nothing():
    rule = Rule(low=0.1, fewest=5)
    assert rule.verdict(effect(0.2, 0.3, clusters=5)) == SUPPORTED
    assert rule.verdict(effect(0.2, 0.3, clusters=4)) == UNDECIDED
    assert rule.why_undecided(effect(0.2, 0.3, clusters=4)) == "a: 4 of the 5 clusters needed"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": 1.0, "high": 0.0}, "low must be < high"),
        ({"fewest": 0, "low": 0.0}, "fewest must be >= 1, got 0"),
        ({}, "low or high must be finite"),
    ],
)
def test_a_rule_that_cannot_decide_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Rule(**fields)


def students(arms=("a", "b"), seeds=20, dims=(2, 8), shift=0.3, noise=0.05, seed=0):
    """Students whose value is that of their arm and seed: the second arm's is `shift` larger."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=seeds)
    rows = [
        {
            "arm": arm,
            "dim": dim,
            "seed": s,
            "key": f"{arm}{dim}{s}",
            "status": "done",
            "law_passes": True,
            "rho": common[s] + shift * i + noise * rng.normal(),
            "displacement": 0.5 * i + 0.25,
        }
        for i, arm in enumerate(arms)
        for dim in dims
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)


def test_a_difference_is_paired_by_seed():
    table = students()
    found = difference("rho", Group("b", ("b",)), Group("a", ("a",)), "")(table)
    per_seed = table.pivot_table(index="seed", columns="arm", values="rho")
    gaps = (per_seed["b"] - per_seed["a"]).to_numpy()
    want = bootstrap((gaps,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1))
    assert found.value == pytest.approx(gaps.mean(), abs=1e-12)
    width = want.confidence_interval.high - want.confidence_interval.low
    assert abs(found.low - want.confidence_interval.low) < 0.15 * width
    assert abs(found.high - want.confidence_interval.high) < 0.15 * width
    assert (found.used, found.of, found.fewest) == (80, 80, 20)


def test_failed_students_are_counted_and_not_used():
    table = students()
    table.loc[table["seed"] < 5, "law_passes"] = False
    table.loc[table["seed"] < 5, "rho"] = 100.0
    found = mean("rho", Group("a", ("a",)), "")(table)
    assert abs(found.value) < 2
    assert (found.used, found.of) == (30, 40)
    assert not any(key.endswith(("20", "21")) and key[-2] == "2" and len(key) == 3 for key in found.keys)


def test_conditions_that_the_gate_empties_are_named():
    table = students()
    table.loc[(table["arm"] == "a") & (table["dim"] == 8), "law_passes"] = False
    found = mean("rho", Group("both", ("a", "b")), "")(table)
    assert found.parts[0].lost == ("a at d = 8",)
    assert mean("rho", Group("both", ("a", "b")), "")(students()).parts[0].lost == ()


def test_a_slope_is_that_of_least_squares():
    table = students(dims=(2, 4, 8, 16), noise=0.0)
    table["rho"] = 0.2 * np.log2(table["dim"]) + (table["arm"] == "b")
    assert slope("rho", Group("both", ("a", "b")), "")(table).value == pytest.approx(0.2, abs=1e-12)


def test_an_area_is_the_share_of_pairs_in_order():
    table = students(dims=(2,), seeds=10)
    table["score"] = [*range(10), *range(5, 15)]  # arm a copies, b does not
    pairs = [(x > y) + 0.5 * (x == y) for x in range(10) for y in range(5, 15)]
    found = area("score", Group("both", ("a", "b")), ("arm", "seed"), "")(table)
    assert found.value == pytest.approx(np.mean(pairs), abs=1e-12)


def test_no_students_are_no_verdict():
    question = Question("q", "?", "c", "w", ("a",), mean("rho", Group("a", ("a",)), ""), Rule(low=0.0), "before")
    assert answer("e", question, None).verdict == NO_STUDENTS
    assert answer("e", question, students(arms=("x",))).verdict == NO_STUDENTS
    assert answer("e", question, students()).effect is not None


def test_a_group_that_fails_the_gate_as_a_whole_decides_nothing():
    table = students()
    table.loc[table["arm"] == "a", "law_passes"] = False
    question = Question(
        "q",
        "?",
        "c",
        "w",
        ("a", "b"),
        difference("rho", Group("b", ("b",)), Group("a", ("a",)), ""),
        Rule(low=0.0),
        "before",
    )
    assert answer("e", question, table).verdict == UNDECIDED


def test_in_short_counts_verdicts():
    question = Question("q", "?", "c", "w", ("a",), mean("rho", Group("a", ("a",)), ""), Rule(low=-9.0), "before")
    yes, none = answer("e", question, students()), answer("e", question, None)
    assert in_short([yes]) == "Yes (supported 1, of 1 claims)."
    assert in_short([yes, none]) == "Yes, where it is decided (supported 1, no students yet 1, of 2 claims)."
    assert in_short([none]).startswith("Not decided yet")


# -- the experiments' own --------------------------------------------------------------------------------------------


def committed(experiment):
    names = [name for name in FIGURES if experiment == figure_module(name).NEEDS]
    return _joined([pd.read_csv(GALLERY / f"{name}.csv") for name in names])


def questions(experiment):
    return getattr(importlib.import_module(f"experiments.{experiment}"), "QUESTIONS", ())


@pytest.fixture(scope="module")
def dimension():
    return committed("dimension")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_question_is_about_arms_that_are_there(experiment):
    asked = questions(experiment)
    presets = importlib.import_module(f"experiments.{experiment}").PRESETS
    arms = {arm for preset in ("quick", "full") for arm in presets[preset].arms}
    assert len({question.name for question in asked}) == len(asked)
    for question in asked:
        assert set(question.arms) <= arms
        assert re.fullmatch(r"[a-z0-9.-]+", question.name)


@pytest.mark.parametrize("experiment", [e for e in EXPERIMENTS if any(e == figure_module(f).NEEDS for f in FIGURES)])
def test_every_question_can_be_answered_from_the_committed_tables(experiment):
    table = committed(experiment)
    for question in questions(experiment):
        found = answer(experiment, question, table)
        assert found.effect is not None
        assert found.effect.of > 0
        assert set(found.effect.keys) <= set(table["key"])


def verdict(table, name):
    (question,) = [q for q in questions("dimension") if q.name == name]
    return answer("dimension", question, table).verdict


def test_arms_with_each_others_labels_change_the_verdict(dimension):
    other = {"teacher start, lr .01": "random start, lr .01", "random start, lr .01": "teacher start, lr .01"}
    swapped = dimension.assign(arm=dimension["arm"].replace(other))
    assert verdict(dimension, "start-at-few-dimensions") == SUPPORTED
    assert verdict(swapped, "start-at-few-dimensions") == NOT_SUPPORTED


def test_shuffled_students_change_the_verdict(dimension):
    rng = np.random.default_rng(0)
    mine = dimension["arm"] == "teacher start, lr ~ 1/d, batch ~ d"
    shuffled = dimension.copy()
    shuffled.loc[mine, "displacement"] = rng.permutation(dimension.loc[mine, "displacement"].to_numpy())
    assert verdict(dimension, "begins-3-displacement") == SUPPORTED
    assert verdict(shuffled, "begins-3-displacement") != SUPPORTED


def test_shuffled_pairs_change_the_verdict(dimension):
    """Every student with the displacement that its null has: nobody copies."""
    shuffled = dimension.assign(displacement=(dimension["displacement_low"] + dimension["displacement_high"]) / 2)
    assert verdict(shuffled, "start-at-few-dimensions") == NOT_SUPPORTED
