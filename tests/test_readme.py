"""The README's library snippet runs as printed, and what it shows is there."""

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


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


def test_every_picture_and_folder_it_names_is_there():
    text = README.read_text()
    named = re.findall(r"\]\(([^)]+\.png)\)", text) + re.findall(r"\| `([a-z/]+)` \|", text)
    assert len(named) >= 6
    assert [path for path in named if not (README.parent / path).exists()] == []
