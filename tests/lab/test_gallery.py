"""The committed figures: each lies beside its numbers, and today's drawing code draws them."""

import json
from pathlib import Path

import pandas as pd
import pytest

from sandbox.lab.gallery import FIGURES, draw, experiment, figure_module
from sandbox.lab.store import Store

GALLERY = Path("figures/gallery")


@pytest.mark.parametrize("name", FIGURES)
def test_the_committed_table_is_what_the_figure_draws(name, tmp_path):
    module = figure_module(name)
    manifest = json.loads((GALLERY / f"{name}.json").read_text())
    table = pd.read_csv(GALLERY / f"{name}.csv")
    assert list(table.columns) == list(module.COLUMNS)
    assert manifest["caption"] == module.CAPTION
    assert manifest["students"] == len(table)
    assert set(manifest["cells"]) == set(table["key"])
    sweep = experiment(module.NEEDS, manifest["preset"])
    # Nothing is missing, and nothing is there of another experiment than today's.
    assert {cell.key for cell in sweep.cells()} == set(table["key"])
    none = Store(tmp_path / "none", create=False)
    written = draw((name,), sweep, manifest["preset"], none, tmp_path / "out", GALLERY, say=lambda _: None)
    again = {path.name: path.read_bytes() for path in written if path.suffix in (".csv", ".json")}
    assert all((GALLERY / file).read_bytes() == content for file, content in again.items())
