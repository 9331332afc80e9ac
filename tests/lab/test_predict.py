"""Predictions for cells: the theory is handed the cell's own parameters, and says where it does not apply."""

import math

import pytest

from sandbox.lab.cell import Cell
from sandbox.lab.predict import flat_of, predict, predicted_onset, settled_steps
from sandbox.theory import copying
from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"teacher": "ring"}, "linear theory needs a Gaussian teacher, not 'ring'"),
        ({"teacher": "random"}, "linear theory needs a Gaussian teacher, not 'random'"),
        ({"student": "affine"}, "linear theory needs a linear student, not 'affine'"),
    ],
)
@pytest.mark.parametrize("ask", [predict, settled_steps, lambda cell: predicted_onset([cell])])
def test_a_failing_hypothesis_is_named(ask, fields, words):
    with pytest.raises(HypothesisError, match=words):
        ask(Cell(**fields))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("fake_score", "learned", "the exact fake score, not 'learned'"),
        ("optimiser", "adam", "plain gradient descent, not 'adam'"),
    ],
)
def test_hypotheses_about_choices_that_cells_do_not_have_yet(field, value, words):
    cell = Cell()
    object.__setattr__(cell, field, value)
    with pytest.raises(HypothesisError, match=words):
        settled_steps(cell)


@pytest.mark.parametrize("dim", [1, 2, 8, 64])
@pytest.mark.parametrize("start", ["random", "rotated"])
def test_a_start_without_a_relation_to_the_teacher_predicts_independent_pairs(start, dim):
    found = predict(Cell(dim=dim, start=start, normaliser="batch"))
    if start == "rotated" and dim == 1:
        # The only rotation of the line is none: this is a teacher start.
        assert found == predict(Cell(dim=1, normaliser="batch"))
        return
    assert (found.displacement, found.gauge, found.leading) == (1.0, 1.0, 1.0)
    assert math.isnan(found.rest) if dim == 1 else found.rest == 1.0
    assert found.source == "independent start"


@pytest.mark.parametrize(
    ("fields", "rate", "batch", "anti"),
    [
        ({"lr": 0.04}, 0.04, 64, False),
        ({"lr": 0.32, "reduction": "mean"}, 0.04, 64, False),
        ({"lr": 0.04, "batch": 16}, 0.04, 16, False),
        ({"lr": 0.04, "antithetic": True}, 0.04, 64, True),
    ],
)
def test_a_flat_teacher_start_reads_the_copying_number(fields, rate, batch, anti):
    cell = Cell(dim=8, **fields)
    problem = Flat(8, 1.0, cell.sigma_init, cell.law(), cell.normaliser)
    found = predict(cell)
    assert found.source == "F_d(Xi)"
    assert found.xi == pytest.approx(copying.copying_number(problem, rate, batch, anti), rel=1e-12)
    assert found.gauge == pytest.approx(copying.displacement(problem, rate, batch, anti), rel=1e-12)
    assert found.leading == found.rest == found.displacement
    # The reference map starts at sigma = 80: its scale differs from the student's by 80 / sqrt(80^2 + 1).
    assert found.displacement == pytest.approx(found.gauge, abs=1e-3)


def test_a_prediction_belongs_to_the_condition():
    assert predict(Cell(seed=7, lr=0.03)) == predict(Cell(lr=0.03))
    assert predict(Cell(lr=0.03)) != predict(Cell(lr=0.06))


def test_more_noise_predicts_less_copying():
    rates = [predict(Cell(dim=16, lr=lr, steps=4000)).displacement for lr in (0.005, 0.02, 0.08)]
    batches = [predict(Cell(dim=16, batch=b, steps=4000)).displacement for b in (256, 64, 16)]
    assert rates == sorted(rates)
    assert batches == sorted(batches)
    assert all(0 < v < 1.1 for v in rates + batches)
    assert rates[0] < rates[-1]


def test_the_per_sample_normaliser_has_no_prediction_on_the_line():
    with pytest.raises(HypothesisError, match="per-sample normaliser has no prediction at d = 1"):
        predict(Cell(dim=1))
    assert settled_steps(Cell(dim=1)) == settled_steps(Cell(dim=2))


@pytest.mark.parametrize(
    ("dim", "exponent", "source"),
    [
        (1, 0.0, "sign flips"),
        (1, 1.5, "sign flips"),
        (8, 1.5, "mode equations"),
    ],
)
def test_every_arm_says_where_its_prediction_comes_from(dim, exponent, source):
    found = predict(Cell(dim=dim, exponent=exponent, steps=3000, normaliser="batch" if dim == 1 else "per-sample"))
    assert found.source == source
    assert math.isnan(found.xi)
    assert math.isnan(found.rest) is (dim == 1)
    assert 0 <= found.displacement <= 2


def test_the_power_laws_parts_bound_the_whole():
    found = predict(Cell(dim=16, exponent=1.5, steps=3000))
    assert min(found.leading, found.rest) <= found.displacement <= max(found.leading, found.rest)


def test_settled_steps_scale_with_the_rate():
    steps = settled_steps(Cell(dim=4, lr=0.01))
    assert settled_steps(Cell(dim=4, lr=0.02)) == pytest.approx(steps / 2, abs=1)
    assert settled_steps(Cell(dim=4, lr=0.01, start="random")) == steps
    assert settled_steps(Cell(dim=4, lr=0.04, reduction="mean")) == steps


DIMS = (2, 4, 8, 16, 32, 64)


def test_a_predicted_onset_is_where_the_prediction_passes_one_half():
    # Fixed rate and batch: noise grows with d, and copying ends.
    cells = [Cell(dim=d, lr=0.01, steps=4000) for d in DIMS]
    at = predicted_onset(cells)
    below, above = (max(d for d in DIMS if d <= at), min(d for d in DIMS if d >= at))
    values = {d: predict(Cell(dim=d, lr=0.01, steps=4000)).displacement for d in (below, above)}
    assert min(values.values()) <= 0.5 <= max(values.values())
    # Seeds do not enter.
    assert predicted_onset([cell.replace(seed=s) for cell in cells for s in range(2)]) == at


@pytest.mark.parametrize(
    "cells",
    [
        [Cell(dim=d, start="random") for d in DIMS],
        [Cell(dim=d, lr=1e-5, steps=4_000_000) for d in DIMS],
        [Cell(dim=8)],
        [Cell(dim=1), Cell(dim=2)],
    ],
    ids=["constant", "below", "one dimension", "the line and one more"],
)
def test_a_prediction_that_does_not_pass_one_half_in_range_has_no_onset(cells):
    assert math.isnan(predicted_onset(cells))


def test_a_student_that_has_not_grown_up_has_no_prediction():
    grown = settled_steps(Cell(dim=8))
    assert predict(Cell(dim=8, steps=grown)).displacement > 0
    with pytest.raises(HypothesisError, match="grown to its end"):
        predict(Cell(dim=8, steps=grown // 2))


def test_antithetic_noise_cannot_flip_a_sign_in_one_dimension():
    cell = Cell(dim=1, normaliser="off", lr=0.04, batch=8, steps=4000)
    assert predict(cell).gauge > 0.05
    assert predict(cell.replace(antithetic=True)).gauge == 0


@pytest.mark.parametrize(
    ("hold", "held", "variance"), [("trace", None, 0.25), ("trace", 3.0, 0.1875), ("lambda_max", 2.0, 2.0)]
)
def test_the_flat_problem_has_the_teachers_own_variance(hold, held, variance):
    """Whatever the teacher holds fixed: variance 0.5 per coordinate at the reference dimension 8."""
    cell = Cell(dim=16, variance=0.5, hold=hold, held=held)
    assert flat_of(cell).variance == pytest.approx(variance, rel=1e-15)
    assert flat_of(Cell(dim=16, variance=0.5)).variance == 0.5
