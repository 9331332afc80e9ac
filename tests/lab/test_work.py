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
        [{"optimiser": "adam", "lr": lr} for lr in (1e-3, 1e-2, 1e-4)],
        [{"sigma_law": "log-grid", "fake_score": "levels", "lr": lr} for lr in (0.05, 0.02, 0.01)],
    ],
    ids=["seeds", "variances", "exponents", "mixtures", "adam", "learned"],
)
def test_a_student_alone_and_in_a_pack_is_the_same(changes, dim, monkeypatch):
    # The training is compared; measuring a mixture's students would follow its flow for seconds.
    monkeypatch.setattr("sandbox.lab.work._Sampled", Blind)
    monkeypatch.setattr("sandbox.lab.work._finish", lambda cell, snapshot, i, *_: _weights(snapshot, i))
    cells = [Cell(dim=dim, steps=30, lr=0.05, start="random").replace(**change) for change in changes]
    together = train_pack(cells)
    for cell, expected in zip(cells, together, strict=True):
        (alone,) = train_pack([cell])
        assert alone.keys() == expected.keys()
        assert all(np.array_equal(alone[name], expected[name]) for name in alone)


class Blind:
    """Measures nothing."""

    def __init__(self, cells):
        self.size = len(cells)

    def checkpoint(self, snapshot):
        return [{}] * self.size


def _weights(snapshot, i):
    return {name: p[i].detach().numpy() for name, p in snapshot.students.parameters.items()}


@pytest.mark.parametrize("fields", [{}, {"exponent": 1.5}, {"start": "rotated"}, {"start": "map"}], ids=str)
@pytest.mark.parametrize("tolerance", [0.05])
def test_closed_measures_are_what_the_sampled_ones_estimate(fields, tolerance):
    cells = [Cell(dim=6, steps=400, lr=0.05, measures=kind, **fields) for kind in ("all", "closed")]
    (sampled, arrays), (closed, same) = (train_pack([cell])[0] for cell in cells)
    assert np.array_equal(arrays["weight"], same["weight"])
    for name in ("gauge_polar", "covariance_error"):
        assert closed["measures"][name] == pytest.approx(sampled["measures"][name], rel=1e-9, abs=1e-12)
    # 1024 held-out points against the population.
    assert closed["measures"]["displacement"] == pytest.approx(sampled["measures"]["displacement"], abs=tolerance)
    assert closed["measures"]["law_passes"] == sampled["measures"]["law_passes"]
    for point, other in zip(closed["trajectory"], sampled["trajectory"], strict=True):
        assert point["step"] == other["step"]
        assert point["scale"] == pytest.approx(other["scale"], rel=2 * tolerance)
