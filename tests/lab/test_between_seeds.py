"""Seeds of a condition beside each other, from stored weights that were planted."""

import math

import numpy as np
import pytest
import torch

from sandbox.lab.between_seeds import between_seeds, between_seeds_text
from sandbox.lab.cell import Cell
from sandbox.lab.reference import REFERENCE_SIGMA, held_out
from sandbox.lab.store import Store
from sandbox.lab.sweep import Sweep
from sandbox.measure.pairing import displacement

ANGLES = {"near": (0.9, 1.0, 1.1, 1.2), "own": (1.0, -1.0, 0.9, -0.9), "two": (0.1, 0.3), "none": ()}
SCALE = 1 / math.sqrt(1 + 1 / REFERENCE_SIGMA**2)
SWEEP = Sweep(
    "planted",
    {"dim": 2, "steps": 1},
    {name: {"lr": 0.1 + 0.1 * i} for i, name in enumerate(ANGLES)},
    {"seed": range(4)},
)


def turned(angle):
    c, s = math.cos(angle), math.sin(angle)
    return SCALE * np.array([[c, -s], [s, c]])


@pytest.fixture
def store(tmp_path):
    """Students that turn the teacher's noise by an angle each; the third of `own` fails the gate."""
    made = Store(tmp_path)
    for arm, cell in SWEEP.students():
        if cell.seed >= len(ANGLES[arm]):
            continue
        passes = not (arm == "own" and cell.seed == 2)
        record = {"status": "done", "measures": {"law_passes": passes}, "trajectory": []}
        made.put(cell, record, {"weight": turned(ANGLES[arm][cell.seed]), "rotation": np.eye(2)})
    return made


def rows(store):
    return {row["arm"]: row for row in between_seeds(SWEEP, store).to_dict("records")}


def by_pairs(angles):
    """Mean displacement from the teacher and between students, by the measure itself."""
    z = held_out(2)
    maps = [z @ torch.from_numpy(turned(a)).mT for a in angles]
    rng = np.random.default_rng(0)
    own = [displacement(x, SCALE * z, rng).value for x in maps]
    between = [displacement(x, y, rng).value for i, x in enumerate(maps) for y in maps[:i]]
    return np.mean(own), np.mean(between)


@pytest.mark.parametrize("tolerance", [1e-9])
def test_means_are_those_of_the_planted_students(store, tolerance):
    found = rows(store)
    for arm, angles in (("near", ANGLES["near"]), ("own", (1.0, -1.0, -0.9)), ("two", ANGLES["two"])):
        own, between = by_pairs(angles)
        assert found[arm]["to_teacher"] == pytest.approx(own, abs=tolerance)
        assert found[arm]["between"] == pytest.approx(between, abs=tolerance)
        assert found[arm]["closer"] == pytest.approx(own - between, abs=tolerance)
    assert [found[arm]["passing"] for arm in ANGLES] == [4, 3, 2, 0]
    assert [found[arm]["students"] for arm in ANGLES] == [4, 4, 2, 0]


def test_intervals_are_there_from_three_seeds_on(store):
    found = rows(store)
    assert 0 < found["near"]["closer_low"] < found["near"]["closer"] < found["near"]["closer_high"]
    assert found["own"]["closer_low"] < found["own"]["closer"] < 0
    assert math.isnan(found["two"]["closer_low"])
    assert math.isnan(found["none"]["to_teacher"])


def test_the_text_says_who_is_close(store):
    said = between_seeds_text(between_seeds(SWEEP, store))
    (near,) = [line for line in said.splitlines() if line.startswith("near")]
    assert near.endswith("to each other")
    assert "4/4" in near
    (own,) = [line for line in said.splitlines() if line.startswith("own")]
    assert "3/4" in own
    assert "1 of 4 conditions have fewer than two students that pass the law gate" in said


def test_weights_that_cannot_be_used_are_named_and_left_out(store):
    (lost, bent, *_) = [cell for arm, cell in SWEEP.students() if arm == "near"]
    (store.folder / f"{lost.key}.npz").unlink()
    np.savez(store.folder / f"{bent.key}.npz", weight=np.eye(3))
    with pytest.warns(UserWarning, match="was skipped") as said:
        found = rows(store)["near"]
    assert (found["students"], found["passing"]) == (4, 2)
    assert [cell.key in str(w.message) for cell, w in zip((lost, bent), said, strict=True)] == [True, True]


def test_conditions_of_one_arm_and_dimension_are_told_apart(tmp_path):
    sweep = Sweep("more", {"steps": 1}, axes={"dim": (2, 3), "lr": (0.1, 0.2), "seed": (0,)})
    sweep = sweep.narrowed({"batch": (64,)})
    found = between_seeds(sweep, Store(tmp_path))
    assert list(found["condition"]) == ["lr 0.1", "lr 0.2"] * 2
    assert set(between_seeds(Sweep("one", {"dim": 2}, axes={"seed": (0, 1)}), Store(tmp_path))["condition"]) == {""}


def test_students_of_two_teachers_are_compared_with_their_own(tmp_path):
    store = Store(tmp_path)
    cells = [Cell(dim=2, steps=1, variance=v, seed=s) for v in (1.0, 9.0) for s in (0, 1)]
    for cell in cells:
        weight = math.sqrt(cell.variance) * turned(0.0) / SCALE
        store.put(cell, {"status": "done", "measures": {"law_passes": True}, "trajectory": []}, {"weight": weight})
    sweep = Sweep("two", {"dim": 2, "steps": 1}, {"a": {"variance": 1.0}, "b": {"variance": 9.0}}, {"seed": (0, 1)})
    found = between_seeds(sweep, store)
    assert (found["to_teacher"] < 1e-5).all()
    assert (found["between"] == 0).all()
