"""Example images: where the stored student and its teacher send z, to half a grey level."""

import math

import numpy as np
import pytest
import torch
from tiny import NETWORK

from sandbox.lab.cell import Cell
from sandbox.lab.examples import COLUMNS, COUNT, RANGE, as_image, as_text, examples
from sandbox.lab.execute import run
from sandbox.lab.reference import REFERENCE_SIGMA, held_out
from sandbox.lab.store import Store
from sandbox.teacher.flow import teacher_map

pytest.importorskip("sklearn")

LINEAR = Cell(teacher="patches", dim=16, modes=1, rank=16, normaliser="off", steps=3, lr=0.05, batch=8)
MLP = NETWORK.replace(teacher="patches", dim=16, modes=1, rank=16)
HALF_LEVEL = RANGE / 255


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("results"))
    assert run([LINEAR, MLP], store, quiet=True) == 0
    return store


def images(columns, who):
    return np.stack([as_image(columns[f"example_{who}_{i}"]) for i in range(COUNT)])


def test_text_holds_an_image_to_half_a_level():
    x = torch.linspace(-RANGE, RANGE, 25, dtype=torch.float64)
    assert as_image(as_text(x)) == pytest.approx(x.reshape(5, 5).numpy(), abs=HALF_LEVEL * (1 + 1e-9))
    assert as_text(torch.tensor([-9.0, 9.0, 0.0, -9.0]))[:4] == "00ff"


@pytest.mark.parametrize("text", ["", "00ff"])
def test_text_that_is_no_square_is_refused(text):
    with pytest.raises(ValueError, match=rf"side\^2 pixels, got {len(text) // 2}"):
        as_image(text)


@pytest.mark.parametrize("cell", [LINEAR, MLP], ids=["linear", "network"])
def test_the_teachers_images_are_its_map_of_the_held_out_noise(store, cell):
    found = examples(store, cell)
    assert tuple(found) == COLUMNS
    teacher = cell.mixture()
    scale = math.sqrt(teacher.cov.diagonal().mean())
    x = teacher_map(teacher, held_out(16)[:COUNT], REFERENCE_SIGMA) / scale
    want = x.clamp(-RANGE, RANGE).reshape(COUNT, 4, 4).numpy()
    assert images(found, "teacher") == pytest.approx(want, abs=HALF_LEVEL * (1 + 1e-9))


def test_a_linear_students_images_are_its_stored_matrix_times_the_noise(store):
    A = torch.from_numpy(store.arrays(LINEAR)["weight"])
    want = (held_out(16)[:COUNT] @ A.mT).clamp(-RANGE, RANGE).reshape(COUNT, 4, 4).numpy()
    assert images(examples(store, LINEAR), "student") == pytest.approx(want, abs=HALF_LEVEL * (1 + 1e-6))


def test_a_network_student_is_not_its_teacher(store):
    found = examples(store, MLP)
    assert not np.allclose(images(found, "student"), images(found, "teacher"), atol=0.1)


def test_other_students_have_none(store):
    assert examples(store, Cell(dim=16)) == {}
    assert examples(store, LINEAR.replace(dim=9, rank=9)) == {}


def test_a_student_without_weights_is_named(store):
    missing = LINEAR.replace(seed=7)
    with pytest.warns(UserWarning, match=f"examples of student {missing.key} are left out"):
        assert examples(store, missing) == {}
