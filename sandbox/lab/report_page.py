"""The report as one HTML page: no script, nothing to fetch, in light and dark."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from sandbox.lab.claims import NO_STUDENTS, UNDECIDED, Answer, in_short

if TYPE_CHECKING:
    from sandbox.lab.effects import Effect
    from sandbox.lab.report import Chapter, Shown

TITLE = "Copying in distribution matching distillation"
QUESTION = (
    "When a diffusion model is distilled by distribution matching (DMD), why does the student copy the teacher's "
    "noise-data pairing, and where does copying begin?"
)
PREFACE = (
    "Teachers are Gaussian mixtures, whose scores and flow maps are known in closed form. The claim under study is "
    "that of Li, Jones, Tong and Bronstein (2026, arXiv 2606.02237), of which a public summary alone was at hand: the "
    "measures are this project's own. Displacement is 0 for a copy and 1 for independent pairs, mode agreement 1 and "
    "0; a student copies if its displacement is below 1/2 and remaps otherwise. A student counts only if its law is "
    "the teacher's (the law gate: every mode's mass within a factor of 2, its variance between half and twice the "
    "teacher's, and a sliced Wasserstein distance of at most twice that of two samples of the teacher). Intervals are "
    "of 95 %, by resampling clusters: a seed with all students that share its start, unless a claim says otherwise."
)
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #555; --page: #fff; --line: #d0d0d0; --wash: #f4f4f2;
  --link: #0050a0; --yes: #00603f; --no: #8c2d00; --open: #555; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #b0b0b0; --page: #161616; --line: #444;
  --wash: #222; --link: #8cc4ff; --yes: #6fd3a8; --no: #ffab7a; --open: #b0b0b0; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); }
main { max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
a { color: var(--link); } p, li { max-width: 46rem; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
td.number { white-space: nowrap; } .supported { color: var(--yes); font-weight: 600; }
.not-supported { color: var(--no); font-weight: 600; } .undecided, .no-students-yet { color: var(--open); }
figure { margin: 1.5rem 0; } figure img { display: block; max-width: 100%; height: auto; background: #fff;
  padding: .5rem; border: 1px solid var(--line); } figcaption { font-size: .85rem; color: var(--soft); }
details { font-size: .85rem; } code { font-size: .8rem; overflow-wrap: anywhere; }
"""


def page(chapters: Sequence[Chapter], versions: dict[str, str], told: Sequence[tuple[str, str]] = ()) -> str:
    """The whole page, the same for the same chapters. `told`: questions and what a person wrote was found."""
    answers = [answer for chapter in chapters for answer in chapter.answers]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{TITLE}</title><style>{STYLE}</style></head>",
            f"<body><main><h1>{TITLE}</h1>",
            f"<p><strong>{QUESTION}</strong></p><p>{escape(PREFACE)}</p>",
            *_told(told),
            '<h2 id="answers">Every question, by its rules</h2>',
            f"<p>{_standing(answers)} {escape(_sources(chapters))}</p>",
            _short(answers),
            '<h2 id="claims">Every claim, with its rule</h2>',
            _claims(answers),
            *(_chapter(chapter) for chapter in chapters),
            '<h2 id="versions">Versions</h2>',
            f"<p>This page: {_versions(versions)}.</p>",
            "</main></body></html>",
            "",
        ]
    )


def _told(told: Sequence[tuple[str, str]]) -> list[str]:
    if not told:
        return []
    rows = "\n".join(f"<tr><td>{question}</td><td>{found}</td></tr>" for question, found in told)
    return [
        '<h2 id="found">The answer so far</h2>',
        "<p class='soft'>As the README has it, written by hand from the committed tables; everything below follows "
        "from the students and the rules alone.</p>",
        f'<div class="scroll"><table><tbody>\n{rows}\n</tbody></table></div>',
    ]


def _standing(answers: Sequence[Answer]) -> str:
    after = sum(answer.question.declared == "after" for answer in answers)
    return (
        f"{len(answers)} claims; {after} of their rules were written after the first students of their experiment had "
        "been seen, the others before. Each says which."
    )


def _sources(chapters: Sequence[Chapter]) -> str:
    here = [f"{c.experiment} (preset {c.preset})" for c in chapters if c.source and not c.tables]
    smaller = [c.experiment for c in chapters if not c.tables and c.larger]
    said = f"Students of this folder: {', '.join(here)}; of all others the committed tables. " if here else ""
    if smaller:
        said += (
            f"The committed tables of {', '.join(smaller)} are larger: verdicts that your students leave undecided may "
            "be decided there (the report of an empty results folder shows them)."
        )
    return said


def _short(answers: Sequence[Answer]) -> str:
    asked: dict[str, list[Answer]] = {}
    for answer in answers:
        asked.setdefault(answer.question.asks, []).append(answer)
    rows = (f"<li><strong>{escape(asks)}</strong> {_said(mine)}</li>" for asks, mine in asked.items())
    return "<ul>\n" + "\n".join(rows) + "\n</ul>"


def _said(answers: Sequence[Answer]) -> str:
    """In short, with the effect where there is one claim, and a link to the first claim."""
    first, said = answers[0], in_short(answers)
    if len(answers) == 1 and first.effect is not None and math.isfinite(first.effect.value):
        said += f" {_effect(first.effect)}, {first.effect.unit}."
    return f'{escape(said)} <a href="#{first.experiment}-{first.question.name}">{first.experiment}</a>'


def _claims(answers: Sequence[Answer]) -> str:
    head = ("Claim", "Arms", "Effect [95 %]", "Students", "Verdict")
    rows = "\n".join(_row(answer) for answer in answers)
    cells = "".join(f'<th scope="col">{name}</th>' for name in head)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'


def _row(answer: Answer) -> str:
    question, effect = answer.question, answer.effect
    name = f"{answer.experiment}-{question.name}"
    if effect is None:
        number, students = "none yet", "0"
    else:
        number = _effect(effect)
        number += f'<br><span class="soft">{escape(effect.unit)}</span>'
        share = effect.used / effect.of if effect.of else math.nan
        students = f'<a href="#{name}-cells">{effect.used} of {effect.of}</a>'
        students += f'<br><span class="soft">{share:.0%} pass the gate</span>'
    why = f" {escape(question.rule.why_undecided(effect))}." if effect and answer.verdict == UNDECIDED else ""
    return (
        f'<tr id="{name}"><td>{escape(question.claim)}<br><span class="soft">{escape(question.whose)}; '
        f'<a href="#experiment-{answer.experiment}">{answer.experiment}</a></span></td>'
        f"<td>{'<br>'.join(map(escape, answer.arms or question.arms))}</td>"
        f'<td class="number">{number}</td><td class="number">{students}</td>'
        f'<td><span class="{answer.verdict.replace(" ", "-")}">{answer.verdict}</span>{why}<br>'
        f'<span class="soft">{escape(str(question.rule))} Rule written {question.declared} its runs.</span></td></tr>'
    )


def _chapter(chapter: Chapter) -> str:
    cost = "" if math.isnan(chapter.core_seconds) else f" Expected cost: {chapter.core_seconds / 3600:.1f} core hours."
    if chapter.source:
        said = (
            f"{chapter.students} students ({escape(chapter.source)}), {chapter.passing} pass the law gate.{cost} "
            f"With {_versions(chapter.versions)}. Every student: {_where(chapter)}."
        )
    else:
        said = f"{NO_STUDENTS.capitalize()}: <code>python -m sandbox run --experiment {chapter.experiment}</code>"
    parts = [
        f'<section id="experiment-{chapter.experiment}"><h2>{chapter.experiment}</h2>',
        f"<p>{escape(chapter.asks)}</p><p class='soft'>{said}</p>",
        *(_figure(figure) for figure in chapter.figures),
        *(_cells(answer) for answer in chapter.answers if answer.effect is not None),
        "</section>",
    ]
    return "\n".join(parts)


def _where(chapter: Chapter) -> str:
    """Where the students are that a chapter's numbers come from."""
    if chapter.tables:
        return ", ".join(f"<code>{escape(path)}</code>" for path in chapter.tables) + " (column <code>key</code>)"
    command = f"python -m sandbox table --experiment {chapter.experiment} --preset {chapter.preset} --csv"
    return f"<code>{command}</code>, and as <code>cells/&lt;key&gt;.json</code> in the results folder"


def _figure(figure: Shown) -> str:
    data = base64.b64encode(figure.png).decode()
    return (
        f'<figure id="figure-{figure.name}"><img alt="Figure {figure.name}: see its caption." '
        f'src="data:image/png;base64,{data}"><figcaption>{escape(figure.caption)}</figcaption></figure>'
    )


def _cells(answer: Answer) -> str:
    effect = answer.effect
    assert effect is not None
    groups = "; ".join(
        f"{escape(p.name)}: {_number(p.value)}, {p.used} of {p.of} used"
        + (f", none of {escape(', '.join(p.lost))}" if p.lost else "")
        for p in effect.parts
    )
    name = f"{answer.experiment}-{answer.question.name}"
    return (
        f'<details id="{name}-cells"><summary><a href="#{name}">{escape(answer.question.claim)}</a> '
        f"{groups}</summary><p><code>{' '.join(effect.keys)}</code></p></details>"
    )


def _effect(effect: Effect) -> str:
    return f"{_number(effect.value)} [{_number(effect.low)}, {_number(effect.high)}]"


def _number(v: float) -> str:
    return "-" if not math.isfinite(v) else f"{v:.2f}" if abs(v) < 100 else f"{v:.0f}"


def _versions(versions: dict[str, str]) -> str:
    pairs = itertools.chain((f"{name} {number}" for name, number in sorted(versions.items())))
    return escape(", ".join(pairs))
