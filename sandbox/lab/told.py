"""What a person wrote was found: the README's table of answers, as the report shows it above the verdicts."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

TITLE = "The answer so far"


def told(readme: Path) -> list[tuple[str, str]]:
    """The rows of a README's table of answers as HTML, (question, what was found); none if there is no such table."""
    text = readme.read_text() if readme.exists() else ""
    section = re.search(rf"^## {TITLE}$(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section[1], re.MULTILINE) if section else []
    return [(_html(question), _html(found)) for question, found in rows[1:]]  # the first is the table's head


def _html(text: str) -> str:
    """Markdown of one line, of which links lead out of the page and are left out."""
    text = escape(re.sub(r" ?\[More\]\([^)]*\)", "", text))
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
    return re.sub(r"\*(.+?)\*", r"<em>\1</em>", text)
