"""The README's library snippet runs as printed, and what it shows is there."""

import contextlib
import io
import re
from pathlib import Path

import pytest

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
