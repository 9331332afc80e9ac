"""The report: every claim with its verdict, every figure, and the students behind them. Never trains."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sandbox.lab import gallery, report_page
from sandbox.lab import table as tables
from sandbox.lab.claims import Answer, answer
from sandbox.lab.provenance import versions
from sandbox.lab.store import Store, write_bytes
from sandbox.lab.sweep import Sweep
from sandbox.lab.told import told

COMMITTED = Path("figures/gallery")
README = Path("README.md")


@dataclass(frozen=True)
class Shown:
    """A drawn figure."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Chapter:
    """One experiment: its answers, its figures, and where its students are.

    Attributes:
        asks: first paragraph of the experiment's file. source: where its table is from; empty if there is none.
        tables: the committed tables that it is from, if it is. larger: whether the committed tables, not used, have
            more students.
        students, passing: in the table, and of these through the law gate. core_seconds: expected cost of all students
            of the preset, without teacher networks.
    """

    experiment: str
    asks: str
    preset: str
    source: str
    students: int
    passing: int
    core_seconds: float
    versions: dict[str, str]
    answers: tuple[Answer, ...]
    figures: tuple[Shown, ...]
    tables: tuple[str, ...] = ()
    larger: bool = False


def write_report(store: Store, preset: str, out: Path, committed: Path = COMMITTED) -> Path:
    """Writes the report as one HTML file that needs no other.

    An experiment's students are those of the store at this preset or, where it has none, of the tables committed
    beside the figures.

    Raises ValueError for an unknown preset."""
    teachers = store.teachers()
    every = [chapter(name, store, preset, committed, teachers) for name in gallery.EXPERIMENTS]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, report_page.page(every, versions(), told(README)).encode())
    return out


def chapter(name: str, store: Store, preset: str, committed: Path, teachers: set[str] | None = None) -> Chapter:
    """What the report says of one experiment. `teachers`: those of the store's students, if they are known."""
    module = importlib.import_module(f"experiments.{name}")
    sweep = gallery.experiment(name, preset)
    names = [figure for figure in gallery.FIGURES if name == gallery.figure_module(figure).NEEDS]
    table, figures, source, made_with = None, [], "", {}
    there = [committed / f"{figure}.csv" for figure in names if (committed / f"{figure}.csv").exists()]
    used, larger = False, False
    # Working a sweep out takes seconds, and minutes where teachers are fitted to images: not without need.
    teachers = store.teachers() if teachers is None else teachers
    if _may_hold(teachers, sweep) and len(found := tables.students(sweep, store)):
        table, source, made_with = found, f"{store.root.name}, preset {preset}", versions()
        figures = _drawn(names, sweep, preset, store)
        larger = bool(there) and len(pd.read_csv(there[0], usecols=["key"])) > len(found)
    elif there:
        used = True
        table = _joined([pd.read_csv(path) for path in there])
        manifest = json.loads(there[0].with_suffix(".json").read_text())
        preset, made_with = manifest["preset"], manifest["versions"]
        source = f"committed tables, preset {preset}"
        figures = [_committed(path.stem, committed) for path in there]
    answers = tuple(answer(name, question, table) for question in getattr(module, "QUESTIONS", ()))
    return Chapter(
        name,
        (module.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " "),
        preset,
        source,
        0 if table is None else table["key"].nunique(),  # arms may share students
        0 if table is None else tables.gated(table)["key"].nunique(),
        float("nan") if table is None or "core_seconds" not in table else float(table["core_seconds"].sum()),
        made_with,
        answers,
        tuple(figures),
        tuple(path.as_posix() for path in there) if used else (),
        larger,
    )


def _may_hold(teachers: set[str], sweep: Sweep) -> bool:
    """Whether students of these teachers can be a sweep's."""
    wanted = sweep.values("teacher")
    return bool(teachers if wanted is None else wanted & teachers)


def _drawn(names: list[str], sweep: Sweep, preset: str, store: Store) -> list[Shown]:
    written = gallery.draw(names, sweep, preset, store, store.root / "figures", say=lambda _: None)
    pngs = {path.stem: path for path in written if path.suffix == ".png"}
    return [Shown(name, gallery.figure_module(name).CAPTION, pngs[name].read_bytes()) for name in names]


def _committed(name: str, folder: Path) -> Shown:
    caption = json.loads((folder / f"{name}.json").read_text())["caption"]
    return Shown(name, caption, (folder / f"{name}.png").read_bytes())


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables of the same students side by side, each column once."""
    whole = parts[0]
    for part in parts[1:]:
        new = [column for column in part if column not in whole]
        whole = whole.merge(part[["arm", "key", *new]], on=["arm", "key"], how="outer", validate="one_to_one")
    return whole
