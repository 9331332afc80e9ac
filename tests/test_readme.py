"""The README's library snippet runs as printed, and what it shows is there."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from sandbox.lab import gallery
from sandbox.lab.teach import core_hours

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def test_the_snippets_run_and_say_what_the_text_says():
    """One after the other, as they would be pasted."""
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(snippets) == 2
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(snippets[0], names)
        reached = names["weights"].square().mean().item()
        exec(snippets[1], names)
    assert abs(reached - 1 / 4) < 0.05
    assert names["collapsed"] < 0.01 * reached
    record = names["record"]
    assert 0 <= record["displacement"] < record["displacement_null"]
    assert record["law_passes"]
    # the last comment: the map of N(0, I) from sigma_max = 80 is the identity up to about 1 / (2 sigma_max^2) of |z|
    assert float((names["teacher_map"](names["teacher"], names["z"]) - names["z"]).abs().max()) < 5 / (2 * 80**2)


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md"])
def test_every_picture_folder_and_section_it_names_is_there(page):
    text = (ROOT / page).read_text()
    named = re.findall(r"\]\(([^)#:]+)[)#]", text) + re.findall(r"\| `([a-z/]+)` \|", text)
    assert len(named) >= 6
    assert [path for path in named if not (ROOT / path).exists()] == []
    titles = re.findall(r"^#+ (.+)$", (ROOT / "RESULTS.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"RESULTS\.md#([^)]+)\)", text)) <= anchors


def test_results_show_every_committed_figure():
    shown = set(re.findall(r"figures/gallery/([a-z_]+)\.png", (ROOT / "RESULTS.md").read_text()))
    assert shown == {path.stem for path in (ROOT / "figures/gallery").glob("*.png")}


# Working the others out takes up to minutes: a student's number of updates, or its teacher's fit, is found first.
CHEAP = [name for name in gallery.EXPERIMENTS if name not in ("dimension", "phase", "images", "memorisation")]


def costs():
    """{experiment: preset shown, students, core hours, students of full, core hours} of the table of results."""
    text = (ROOT / "RESULTS.md").read_text().partition("## What ran")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {name: rest for name, *rest in rows[2:]}


def test_the_cost_of_every_experiment_is_written_down_for_what_is_shown():
    found = costs()
    assert list(found) == list(gallery.EXPERIMENTS)
    for name, (preset, students, *_) in found.items():
        shown = [figure for figure in gallery.FIGURES if name == gallery.figure_module(figure).NEEDS]
        for figure in shown:
            manifest = json.loads((ROOT / f"figures/gallery/{figure}.json").read_text())
            assert manifest["preset"] == preset
            assert len(manifest["cells"]) == int(students)


@pytest.mark.parametrize("name", CHEAP)
def test_the_costs_are_those_of_the_presets(name):
    preset, *numbers = costs()[name]
    expected = []
    for size in (preset, "full"):
        cells = gallery.experiment(name, size).cells()
        expected += [str(len(cells)), f"{core_hours(cells):.2g}"]
    assert numbers == expected
