"""A pack's work does not depend on who is in the pack."""

import numpy as np
import pytest

from sandbox.lab.cell import Cell
from sandbox.lab.work import train_pack


@pytest.mark.parametrize("dim", [2, 8, 17])
@pytest.mark.parametrize(
    "changes",
    [
        # One teacher for all, and one each: a shared teacher must not round otherwise than a pack of different ones.
        [{"seed": 0}, {"seed": 1}, {"seed": 2}],
        [{"variance": 1.0}, {"variance": 2.0}, {"variance": 0.5}],
        [{"exponent": 1.5}, {"exponent": 1.0}, {"exponent": 1.5, "seed": 1}],
        [{"teacher": "random", "student": "affine", "teacher_seed": s} for s in range(3)],
    ],
    ids=["seeds", "variances", "exponents", "mixtures"],
)
def test_a_student_alone_and_in_a_pack_is_the_same(changes, dim, monkeypatch):
    # The training is compared; measuring a mixture's students would follow its flow for seconds.
    monkeypatch.setattr(
        "sandbox.lab.work._checkpoint", lambda _, references: [{"step": 0, "gauge_polar": 0.0}] * len(references)
    )
    monkeypatch.setattr("sandbox.lab.work.reference_of", lambda cell: None)
    monkeypatch.setattr("sandbox.lab.work._finish", lambda cell, snapshot, i, *_: _weights(snapshot, i))
    cells = [Cell(dim=dim, steps=30, lr=0.05, start="random").replace(**change) for change in changes]
    together = train_pack(cells)
    for cell, expected in zip(cells, together, strict=True):
        (alone,) = train_pack([cell])
        assert alone.keys() == expected.keys()
        assert all(np.array_equal(alone[name], expected[name]) for name in alone)


def _weights(snapshot, i):
    return {name: p[i].detach().numpy() for name, p in snapshot.students.parameters.items()}
