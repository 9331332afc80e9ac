"""A cell's key follows its numbers, and bad values are named."""

import dataclasses
import hashlib
import json
import math

import pytest
import torch

from sandbox.lab import cell as cells
from sandbox.lab.cell import Cell, cell_from, field_types
from sandbox.lab.options import LEAST, NEUTRAL, OPTIONS, STUDENTS, TEACHER_OPTIONS
from sandbox.teacher.families import FAMILIES, family

RING = {"teacher": "ring", "dim": 2, "modes": 5, "radius": 2.0, "std": 0.2}
RANDOM = {"teacher": "random", "dim": 2, "separation": 1.0, "teacher_seed": 1}

HELD = {"teacher": "random", "dim": 2, "hold": "trace"}
GROUPS = {"teacher": "hierarchical", "dim": 2, "modes": 12}
MANIFOLD = {"teacher": "manifold", "dim": 4}
IMAGES = {"teacher": "image_like", "dim": 4}
SHEAR = {"teacher": "shear", "dim": 2}
MEMORY = {"teacher": "memorising", "dim": 2, "points": 5}
DIGITS = {"teacher": "digits", "dim": 4, "modes": 2, "rank": 2}

ADAM = {"optimiser": "adam"}
GRID = {"sigma_law": "log-grid"}
LEARNED = {"fake_score": "levels", **GRID}
MLP = {"student": "mlp", "fake_score": "network"}
TURNED = {"start": "rotated"}
MOMENTS = {"fake_score": "moments"}

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
    "hold": (RANDOM, "lambda_max"),
    "held": (HELD, 2.0),
    "groups": (GROUPS, 3),
    "inner": (GROUPS, 0.5),
    "intrinsic": (MANIFOLD, 3),
    "floor": (MANIFOLD, 0.01),
    "share": (IMAGES, 0.5),
    "length": (SHEAR, 1.0),
    "angle": (SHEAR, 30.0),
    "points": (MEMORY, 6),
    "bandwidth": (MEMORY, 0.2),
    "population": (MEMORY, "ring"),
    "points_seed": (MEMORY, 1),
    "rank": (DIGITS, 1),
    "reduce": (DIGITS, "components"),
    "student": ({}, "affine"),
    "start": ({}, "random"),
    "start_scale": ({}, 0.2),
    "sigma_init": ({}, 40.0),
    "fake_score": (GRID, "levels"),
    "fake_lr": (LEARNED, 0.2),
    "fake_batch": (LEARNED, 32),
    "fake_updates": (LEARNED, 5),
    "fake_warmup": (MLP, 0),
    "width": (MLP, 32),
    "depth": (MLP, 1),
    "bottleneck": (MLP, 3),
    "skip": (MLP, "off"),
    "sampling_steps": (MLP, 2),
    "rotation": (TURNED, 0.5),
    "start_teacher_seed": ({**MLP, **RANDOM}, 5),
    "fake_memory": (MOMENTS, 0.5),
    "fake_weighting": (MLP, "epsilon"),
    "loss": ({}, "sid"),
    "sid_alpha": ({"loss": "sid"}, 1.0),
    "gan": (MLP, 3e-3),
    "gan_critic": ({**MLP, "gan": 3e-3}, 0.1),
    "gan_r1": ({**MLP, "gan": 3e-3}, 1.0),
    "regression": ({}, 0.25),
    "pairs": ({"regression": 0.25}, 64),
    "momentum": ({}, 0.9),
    "weight_decay": ({}, 0.01),
    "parts": ({}, 2),
    "start_error": (MLP, 0.5),
    "teacher_steps": (MLP, 100),
    "teacher_lr": (MLP, 1e-3),
    "teacher_batch": (MLP, 64),
    "network_seed": (MLP, 1),
    "real_score": (MLP, "network"),
    "reference": (MLP, "network"),
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
    "decay": ({}, 0.3),
    "clip": ({}, 1.0),
    "average": ({}, 0.9),
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


@pytest.mark.parametrize("name", TEACHER_OPTIONS)
def test_the_teacher_follows_its_options(name):
    """A field that the key follows and the law does not would give one teacher two names."""
    base, value = CHANGES[name]
    laws = [cell.mixture() for cell in (cell_from(base), cell_from({**base, name: value}))]
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(-1, 1) * torch.ones(laws[0].dim, dtype=torch.float64)
    assert not torch.equal(laws[0].score(x, 0.5), laws[1].score(x, 0.5))


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_is_a_teacher(name):
    """By its name alone, with the family's own defaults, and by options that the family lists."""
    dim = 16
    law = Cell(teacher=name, dim=dim).mixture()
    assert torch.equal(law.means, family(name, dim).means)


def test_a_memorising_teacher_and_its_twin_share_their_options():
    options = {"dim": 3, "modes": 4, "separation": 2.0, "std": 0.2, "teacher_seed": 3, "hold": "trace"}
    twin = Cell(teacher="random", **options).mixture()
    law = Cell(teacher="memorising", points=50, bandwidth=0.05, **options).mixture()
    assert torch.equal(law.means, family("memorising", 3, points=50, population=twin).means)


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


def test_the_canonical_text_of_a_network_student():
    fields = {
        "teacher": "ring",
        "dim": 2,
        "modes": 5,
        "student": "mlp",
        "width": 64,
        "depth": 2,
        "start": "teacher",
        "start_scale": 0.1,
        "start_error": 0.25,
        "sigma_init": 80.0,
        "teacher_steps": 3000,
        "teacher_lr": 0.01,
        "teacher_batch": 256,
        "network_seed": 4,
        "reference": "network",
        "fake_score": "network",
        "fake_lr": 0.001,
        "fake_batch": 128,
        "fake_updates": 5,
        "fake_warmup": 500,
        "normaliser": "per-sample",
        "reduction": "sum",
        "sigma_law": "karras",
        "sigma_min": 0.02,
        "sigma_max": 80.0,
        "antithetic": False,
        "optimiser": "adam",
        "beta1": 0.9,
        "beta2": 0.999,
        "lr": 0.02,
        "batch": 64,
        "steps": 1000,
        "clip": 10.0,
        "measures": "all",
        "seed": 3,
        "algorithm_version": 1,
    }
    given = {"teacher": "ring", "dim": 2, "modes": 5, "sigma_law": "karras", "optimiser": "adam", "clip": 10, "seed": 3}
    cell = Cell(**MLP, **given, start_error=0.25, network_seed=4, reference="network")
    assert cell.canonical() == json.dumps(fields, sort_keys=True)
    assert cell_from(json.loads(cell.canonical())) == cell


@pytest.mark.parametrize("name", NEUTRAL)
def test_a_field_at_the_value_that_changes_nothing_is_not_in_the_text(name):
    base, value = CHANGES[name]
    assert name not in json.loads(cell_from({**base, name: NEUTRAL[name]}).canonical())
    assert json.loads(cell_from({**base, name: value}).canonical())[name] == value
    # It is also the value of a cell that does not mention it.
    assert getattr(Cell(), name) == NEUTRAL[name]


def test_options_of_networks_are_not_in_a_linear_students_text():
    owned = [
        name for name, (choice, defaults) in OPTIONS.items() if choice == "student" or defaults.keys() == {"network"}
    ]
    assert {"width", "depth", "teacher_steps", "teacher_lr", "teacher_batch", "fake_warmup"} == set(owned)
    assert not set(owned) & json.loads(Cell().canonical()).keys()


def test_a_change_of_student_brings_that_students_defaults():
    mlp = Cell(**GRID, fake_score="levels", fake_lr=0.3).replace(**MLP)
    assert (mlp.width, mlp.depth, mlp.teacher_steps, mlp.fake_warmup) == (64, 2, 3000, 500)
    assert (mlp.fake_lr, mlp.fake_batch, mlp.fake_updates) == (1e-3, 128, 5)
    back = mlp.replace(student="linear", fake_score="exact")
    assert back == Cell(**GRID)
    assert back.width is back.teacher_lr is back.fake_warmup is None


@pytest.mark.parametrize("student", STUDENTS)
def test_every_kind_of_student_knows_its_own_starts(student):
    base = {**MLP, "skip": "trained"} if student == "mlp" else {"student": student}
    every = {start for starts in STUDENTS.values() for start in starts}
    for start in STUDENTS[student]:
        fields = {**base, "skip": "fixed"} if start == "residual" else base
        assert Cell(**fields, start=start).start == start
    for start in every - set(STUDENTS[student]):
        known = ", ".join(STUDENTS[student])
        with pytest.raises(ValueError, match=f"start must be one of {known} for student {student}, got '{start}'"):
            Cell(**base, start=start)


@pytest.mark.parametrize("name", LEAST)
def test_a_value_below_the_least_is_named(name):
    base, _ = CHANGES[name]
    kind, _ = field_types()[name]
    bad = LEAST[name] - 1 if kind is int else LEAST[name] - 0.5
    with pytest.raises(ValueError, match=f"{name} must be >= {LEAST[name]}, got {bad}"):
        cell_from({**base, name: bad})
    if kind is int and name != "dim":
        assert getattr(cell_from({**base, name: LEAST[name]}), name) == LEAST[name]


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
        ({"student": "conv"}, "conv"),
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
        ({"hold": "volume", "teacher": "random"}, "volume"),
        ({"hold": "speciation"}, "speciation"),
        ({"held": 0.0, "hold": "trace"}, "0.0"),
        ({"groups": 0, "teacher": "hierarchical"}, "0"),
        ({"inner": -1.0, "teacher": "hierarchical"}, "-1.0"),
        ({"intrinsic": 1.5, "teacher": "manifold"}, "1.5"),
        ({"floor": 0.0, "teacher": "manifold"}, "0.0"),
        ({"share": 1.0, "teacher": "image_like"}, "1.0"),
        ({"length": 0.0, "teacher": "shear"}, "0.0"),
        ({"angle": math.nan, "teacher": "shear"}, "nan"),
        ({"dim": 1, "teacher": "shear"}, "1"),
        ({"points": 0, "teacher": "memorising"}, "0"),
        ({"bandwidth": 0.0, "teacher": "memorising"}, "0.0"),
        ({"population": "donut", "teacher": "memorising"}, "donut"),
        ({"points_seed": -1, "teacher": "memorising"}, "-1"),
        ({"algorithm_version": 99}, "99"),
        ({"lr": None}, "None"),
        ({"decay": 1.01}, "1.01"),
        ({"decay": -0.1}, "-0.1"),
        ({"average": 1.0}, "1.0"),
        ({"average": -0.5}, "-0.5"),
        ({"clip": -1.0}, "-1.0"),
        ({"clip": math.inf}, "inf"),
        ({"start": "map", **MLP}, "map"),
        ({"start": "residual"}, "residual"),
        ({"width": 0, **MLP}, "0"),
        ({"depth": 1.5, **MLP}, "1.5"),
        ({"teacher_steps": -1, **MLP}, "-1"),
        ({"teacher_lr": 0.0, **MLP}, "0.0"),
        ({"teacher_batch": 0, **MLP}, "0"),
        ({"network_seed": -1, **MLP}, "-1"),
        ({"start_error": -0.1, **MLP}, "-0.1"),
        ({"fake_lr": 0, **MLP}, "0"),
        ({"fake_updates": 0, **MLP}, "0"),
        ({"fake_warmup": -1, **MLP}, "-1"),
        ({"fake_batch": 7, "antithetic": True, **MLP}, "7"),
        ({"fake_batch": 7, "antithetic": True, **LEARNED}, "7"),
        ({"real_score": "student", **MLP}, "student"),
        ({"reference": "student", **MLP}, "student"),
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
        ({"held": 2.0}, "held means nothing with hold coordinate, got 2.0"),
        ({"points": 4}, "points is not an option of family 'gaussian'"),
        ({"teacher": "memorising", "population": "ring", "separation": 1.0}, "separation is not an option of .*'ring'"),
        ({"beta1": 0.5}, "beta1 means nothing with optimiser sgd, got 0.5"),
        ({"bins": 4}, "bins means nothing with sigma_law log-uniform, got 4"),
        ({"fake_lr": 0.1}, "fake_lr means nothing with fake_score exact, got 0.1"),
        ({"fake_score": "levels"}, "sigma_law must have levels.*log-uniform"),
        ({**LEARNED, "student": "affine"}, "fake_score levels needs.*affine"),
        ({"measures": "closed", "teacher": "ring"}, "measures closed needs.*ring"),
        ({"measures": "closed", **MLP}, "measures closed needs a gaussian teacher and a linear student.*mlp"),
        ({**MLP, **LEARNED}, "fake_score levels needs a gaussian teacher and a linear student.*mlp"),
        ({"student": "mlp"}, "fake_score must be one of network, moments, none for student mlp, got 'exact'"),
        (
            {"fake_score": "network"},
            "fake_score must be one of exact, levels, moments, none for student linear, got 'network'",
        ),
        (
            {"fake_score": "network", "student": "affine"},
            "fake_score must be one of exact, levels, moments, none for student affine, got 'network'",
        ),
        ({"width": 64}, "width means nothing with student linear, got 64"),
        ({"teacher_lr": 0.1, "student": "affine"}, "teacher_lr means nothing with student affine, got 0.1"),
        ({"fake_warmup": 5, **LEARNED}, "fake_warmup means nothing with fake_score levels, got 5"),
        ({"real_score": "network"}, "real_score network needs student mlp, got 'linear'"),
        ({"reference": "network"}, "reference network needs student mlp, got 'linear'"),
        ({"start_error": 0.5}, "start_error 0.5 needs student mlp, got 'linear'"),
        ({"network_seed": 0}, "network_seed 0 needs student mlp, got 'linear'"),
        ({"start_error": 0.5, "start": "residual", **MLP}, "start_error 0.5 needs start teacher, got 'residual'"),
        ({"start_error": 0.5, "start": "random", **MLP}, "start_error 0.5 needs start teacher, got 'random'"),
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
