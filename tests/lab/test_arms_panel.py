"""Panels of arms show every student where it is, hollow if it failed, and the mean of those that pass."""

import numpy as np
import pandas as pd
import pytest

from sandbox.lab.arms_panel import COLORS, SPREAD, arms_figure


def table():
    rows = [
        {"arm": arm, "dim": dim, "seed": seed, "status": "done", "law_passes": seed != 3, "rho": 0.1 * seed + shift}
        for arm, shift in (("one", 0.0), ("two", 1.0))
        for dim in (2, 8)
        for seed in range(4)
    ]
    rows.append({"arm": "one", "dim": 2, "seed": 9, "status": "diverged", "law_passes": False, "rho": np.nan})
    return pd.DataFrame(rows).assign(rho_low=0.9, rho_high=1.1)


@pytest.fixture
def ax():
    (ax,) = arms_figure(table(), ["two", "one"], {"rho": "displacement"}, 2.0).axes
    return ax


def test_every_finished_student_is_a_mark(ax):
    marks = [m for m in ax.collections if len(m.get_offsets())]
    at = np.concatenate([m.get_offsets() for m in marks])
    assert len(at) == 16
    assert sorted(np.round(at[:, 0], 6)) == sorted(np.round(table()["rho"].dropna(), 6))
    hollow = [m for m in marks if m.get_facecolors().size == 0]
    assert sorted(np.round(np.concatenate([m.get_offsets()[:, 0] for m in hollow]), 6)) == [0.3, 0.3, 1.3, 1.3]


def test_a_row_is_an_arm_and_dimensions_lie_beside_each_other(ax):
    assert [label.get_text() for label in ax.get_yticklabels()] == ["two", "one"]
    places = {round(float(line.get_ydata()[0]), 6) for line in ax.lines if line.get_ydata()[0] == line.get_ydata()[1]}
    assert places == {round(row + side * SPREAD / 2, 6) for row in (0, 1) for side in (-1, 1)}


def test_the_mean_is_of_those_that_pass(ax):
    upright = [line for line in ax.lines if line.get_ydata()[0] != line.get_ydata()[1]]
    assert sorted(round(float(line.get_xdata()[0]), 6) for line in upright) == [0.1, 0.1, 1.1, 1.1]
    assert {line.get_color() for line in upright} == set(COLORS[:2])


def test_the_null_is_shown_where_the_table_has_it():
    def spans(frame):
        (ax,) = arms_figure(frame, ["one"], {"rho": "displacement"}, 2.0).axes
        return len(ax.patches)

    assert spans(table()) == spans(table().drop(columns=["rho_low", "rho_high"])) + 1


@pytest.mark.parametrize("count", [1, 3, 6, 9])
def test_any_number_of_dimensions_is_told_apart_and_stays_in_its_row(count):
    many = pd.concat([table().query("dim == 2").assign(dim=2**k) for k in range(count)])
    fig = arms_figure(many, ["one", "two"], {"rho": "displacement"}, 2.0)
    (ax,) = fig.axes
    marks = [m for m in ax.collections if len(m.get_offsets())]
    offsets = np.concatenate([m.get_offsets() for m in marks])
    assert len(offsets) == 8 * count
    assert np.abs(offsets[:, 1] - np.round(offsets[:, 1])).max() < 0.5
    looks = {(tuple(m.get_edgecolors()[0][:3]), m.get_paths()[0].vertices.tobytes()) for m in marks}
    assert len(looks) == count
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [f"$d$ = {2**k}" for k in range(count)]
