"""A cell's key follows its numbers, and bad values are named."""

import dataclasses
import hashlib
import json
import math

import pytest

from sandbox.lab import cell as cells
from sandbox.lab.cell import Cell, cell_from

RING = {"teacher": "ring", "dim": 2, "modes": 5, "radius": 2.0, "std": 0.2}
RANDOM = {"teacher": "random", "dim": 2, "separation": 1.0, "teacher_seed": 1}

ADAM = {"optimiser": "adam"}
GRID = {"sigma_law": "log-grid"}
LEARNED = {"fake_score": "levels", **GRID}

# For each field, a base cell and another value of the field.
CHANGES = {
    "teacher": ({}, "ring"),
    "dim": ({}, 9),
    "variance": ({}, 2.0),
    "exponent": ({}, 1.5),
    "modes": (RING, 6),
    "radius": (RING, 2.5),
    "separation": (RANDOM, 2.0),
    "std": (RING, 0.3),
    "teacher_seed": (RANDOM, 2),
    "student": ({}, "affine"),
    "start": ({}, "random"),
    "start_scale": ({}, 0.2),
    "sigma_init": ({}, 40.0),
    "fake_score": (GRID, "levels"),
    "fake_lr": (LEARNED, 0.2),
    "fake_batch": (LEARNED, 32),
    "fake_updates": (LEARNED, 5),
    "normaliser": ({}, "batch"),
    "reduction": ({}, "mean"),
    "sigma_law": ({}, "karras"),
    "sigma_min": ({}, 0.01),
    "sigma_max": ({}, 90.0),
    "bins": (GRID, 4),
    "antithetic": ({}, True),
    "optimiser": ({}, "adam"),
    "beta1": (ADAM, 0.5),
    "beta2": (ADAM, 0.9),
    "measures": ({}, "closed"),
    "lr": ({}, 0.01),
    "batch": ({}, 32),
    "steps": ({}, 7),
    "seed": ({}, 1),
}
# This has one value, so that no change of it can be made.
SINGLE = {"algorithm_version"}


def test_every_field_is_looked_at():
    assert set(CHANGES) | SINGLE == {f.name for f in dataclasses.fields(Cell)}


@pytest.mark.parametrize("name", CHANGES)
def test_the_key_follows_every_field(name):
    base, value = CHANGES[name]
    cell = cell_from(base)
    changed = cell.replace(**{name: value})
    assert changed.key != cell.key
    assert changed.replace(**{name: getattr(cell, name)}).key == cell.key


def test_the_key_follows_the_version_of_the_algorithm(monkeypatch):
    before = Cell().key
    monkeypatch.setattr(cells, "ALGORITHM_VERSION", 2)
    assert Cell(algorithm_version=2).key != before


def test_the_key_is_the_hash_of_the_canonical_text():
    # Written out: a changed default orphans every stored result, and should not do so silently; options that the cell
    # does not use are not in it, so that new ones orphan nothing.
    fields = {
        "teacher": "gaussian",
        "dim": 8,
        "student": "linear",
        "start": "teacher",
        "start_scale": 0.1,
        "sigma_init": 80.0,
        "fake_score": "exact",
        "normaliser": "per-sample",
        "reduction": "sum",
        "sigma_law": "log-uniform",
        "sigma_min": 0.02,
        "sigma_max": 80.0,
        "antithetic": False,
        "optimiser": "sgd",
        "lr": 0.02,
        "batch": 64,
        "steps": 1000,
        "measures": "all",
        "seed": 0,
        "algorithm_version": 1,
    }
    assert Cell().canonical() == json.dumps(fields, sort_keys=True)
    assert Cell().key == hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:20]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"sigma_max": 80}, {"sigma_max": 80.0}),
        ({"dim": 8.0}, {"dim": 8}),
        ({"steps": 1e3}, {"steps": 1000}),
        ({"variance": 1}, {"variance": 1.0}),
        ({}, {"seed": 0}),
    ],
)
def test_equal_numbers_are_one_cell(one, other):
    a, b = Cell(**one), Cell(**other)
    assert (a, a.key, hash(a)) == (b, b.key, hash(b))


def test_a_condition_is_its_seeds():
    assert Cell(seed=5).condition() == Cell(seed=9).condition() == Cell()
    assert Cell(seed=5, lr=0.1).condition() != Cell()


def test_a_cell_survives_its_canonical_text():
    cell = Cell(dim=3, variance=0.1 + 0.2, lr=1 / 3)
    assert cell_from(json.loads(cell.canonical())) == cell


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"teacher": "donut"}, "donut"),
        ({"student": "mlp"}, "mlp"),
        ({"start": "warm"}, "warm"),
        ({"normaliser": "layer"}, "layer"),
        ({"reduction": "max"}, "max"),
        ({"sigma_law": "cosine"}, "cosine"),
        ({"fake_score": "learned"}, "learned"),
        ({"optimiser": "lion"}, "lion"),
        ({"dim": 0}, "0"),
        ({"dim": -3}, "-3"),
        ({"dim": 2.5}, "2.5"),
        ({"dim": True}, "True"),
        ({"dim": "x"}, "x"),
        ({"lr": 0}, "0"),
        ({"lr": -1.0}, "-1.0"),
        ({"lr": math.nan}, "nan"),
        ({"lr": math.inf}, "inf"),
        ({"batch": 0}, "0"),
        ({"batch": 63, "antithetic": True}, "63"),
        ({"steps": 0}, "0"),
        ({"seed": -1}, "-1"),
        ({"antithetic": 1}, "1"),
        ({"start_scale": 0.0}, "0.0"),
        ({"sigma_init": -80.0}, "-80.0"),
        ({"sigma_min": 0.0}, "0"),
        ({"variance": -1.0}, "-1"),
        ({"exponent": -0.5}, "-0.5"),
        ({"modes": 0, "teacher": "ring"}, "0"),
        ({"algorithm_version": 99}, "99"),
        ({"lr": None}, "None"),
    ],
)
def test_a_bad_value_is_named_with_its_field(fields, value):
    with pytest.raises(ValueError, match="got") as caught:
        Cell(**fields)
    message, name = str(caught.value), next(iter(fields))
    # A family names its own parameter; its name is the field's, but for the family itself.
    assert message.startswith((name, "sigma")) if name.startswith("sigma_m") else message.startswith(name)
    assert value in message.split("got", 1)[1]
    assert "\n" not in message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sigma_min": 3.0, "sigma_max": 2.0}, "sigma_m.*3"),
        ({"modes": 4}, "modes.*gaussian"),
        ({"beta1": 0.5}, "beta1 means nothing with optimiser sgd, got 0.5"),
        ({"bins": 4}, "bins means nothing with sigma_law log-uniform, got 4"),
        ({"fake_lr": 0.1}, "fake_lr means nothing with fake_score exact, got 0.1"),
        ({"fake_score": "levels"}, "sigma_law must have levels.*log-uniform"),
        ({**LEARNED, "student": "affine"}, "fake_score levels needs.*affine"),
        ({"measures": "closed", "teacher": "ring"}, "measures closed needs.*ring"),
        ({"teacher": "ring", "variance": 1.0}, "variance.*ring"),
        ({"dimension": 4}, "dimension is not a field.*dim"),
        ({"Dim": 4}, "Dim is not a field"),
    ],
)
def test_fields_that_do_not_fit_together_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        cell_from(fields)
    if "dimension" in fields:
        with pytest.raises(ValueError, match=words):
            Cell().replace(**fields)
