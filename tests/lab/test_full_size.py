"""Every figure can be drawn at its experiment's full size, which is more than what is committed for most."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sandbox.lab.cell import Cell
from sandbox.lab.gallery import FIGURES, experiment, figure_module
from sandbox.lab.style import style

GALLERY = Path("figures/gallery")
# Working these sweeps out costs minutes: every student's number of updates, or its teacher's fit, is found first.
DEAR = ("dimension", "phase", "images", "memorisation")
QUICK = [
    name
    for name in FIGURES
    if figure_module(name).NEEDS not in DEAR and json.loads((GALLERY / f"{name}.json").read_text())["preset"] != "full"
]
FIELDS = {field.name for field in dataclasses.fields(Cell)}


def planted(name):
    """Rows of the full sweep's students, whose measures are those of random students of the committed table."""
    known = pd.read_csv(GALLERY / f"{name}.csv")
    students = experiment(figure_module(name).NEEDS, "full").students()
    table = known.sample(len(students), replace=True, random_state=np.random.default_rng(0), ignore_index=True)
    table["arm"] = [arm for arm, _ in students]
    table["key"] = [cell.key for _, cell in students]
    for field in FIELDS.intersection(table):
        table[field] = [getattr(cell, field) for _, cell in students]
    return table


@pytest.mark.parametrize("name", QUICK)
def test_it_is_drawn(name):
    table = planted(name)
    with style():
        fig = figure_module(name).draw(table)
    marks = sum(len(mark.get_offsets()) for ax in fig.axes for mark in ax.collections)
    lines = sum(len(line.get_xdata()) for ax in fig.axes for line in ax.lines)
    shares = sum(bar.get_width() for ax in fig.axes for bar in ax.patches)  # of the students of an arm
    assert marks + lines > len(table) / 2 or shares == pytest.approx(table["arm"].nunique())
