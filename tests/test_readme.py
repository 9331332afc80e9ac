"""The README's library snippet runs as printed, and what it shows is there."""

import contextlib
import io
import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_snippet_runs_and_says_what_the_text_says():
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        names: dict = {}
        exec(snippet, names)
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
