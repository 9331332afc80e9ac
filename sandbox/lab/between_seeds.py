"""Stored students of one condition beside each other: are its seeds closer to one another than to the teacher?"""

from __future__ import annotations

import dataclasses
import warnings

import pandas as pd
import torch
from torch import Tensor

from sandbox.lab.cell import Cell
from sandbox.lab.pairs_file import aligned
from sandbox.lab.reference import REFERENCE_SIGMA, held_out
from sandbox.lab.remeasure import student_of, teacher_cell
from sandbox.lab.store import Store, StoreError
from sandbox.lab.sweep import Sweep
from sandbox.measure.between import Agreement, Interval, agreement, verdict
from sandbox.teacher.flow import teacher_map

MEANS = ("to_teacher", "between", "closer")


def between_seeds(sweep: Sweep, store: Store) -> pd.DataFrame:
    """One row per arm and condition, from the students that pass the law gate, at the held-out points of every
    measurement; the teacher is the analytic one also where students start from networks of their own.

    Columns: arm, dim, condition (what else tells it from others of the arm and dimension), students (finished), passing
    (the seeds that are compared), and to_teacher, between, closer, each with _low and _high, as `Agreement` has them;
    NaN for fewer than two passing students. Students whose weights cannot be used are named in a warning and left out.
    """
    conditions: dict[tuple[str, Cell], list[Cell]] = {}
    for arm, cell in sweep.students():
        conditions.setdefault((arm, cell.condition()), []).append(cell)
    maps: dict[Cell, Tensor] = {}
    rows = []
    for (arm, condition), cells in conditions.items():
        records = {cell: record for cell in cells if (record := store.get(cell)) is not None}
        passing = [cell for cell, record in records.items() if record["measures"].get("law_passes") is True]
        students = _outputs(passing, store)
        found = None
        if len(students) > 1:
            teacher = teacher_cell(condition)
            if teacher not in maps:
                maps[teacher] = teacher_map(teacher.mixture(), held_out(teacher.dim), REFERENCE_SIGMA)
            found = agreement(torch.stack(students), maps[teacher])
        others = [c for a, c in conditions if a == arm and c.dim == condition.dim]
        row = {"arm": arm, "dim": condition.dim, "condition": _told_apart(condition, others)}
        rows.append({**row, "students": len(records), "passing": len(students), **_columns(found)})
    return pd.DataFrame(rows)


def _outputs(cells: list[Cell], store: Store) -> list[Tensor]:
    """S(z) of each at the held-out points; those whose weights cannot be used are named and left out."""
    found = []
    for cell in cells:
        try:
            with torch.no_grad():
                found.append(student_of(cell, store.arrays(cell))(held_out(cell.dim)))
        except (StoreError, ValueError) as problem:
            warnings.warn(f"student {cell.key} (seed {cell.seed}) was skipped: {problem}", stacklevel=2)
    return found


def _told_apart(condition: Cell, others: list[Cell]) -> str:
    fields = [f.name for f in dataclasses.fields(Cell) if len({getattr(cell, f.name) for cell in others}) > 1]
    return ", ".join(f"{name} {getattr(condition, name)}" for name in fields)


def _columns(found: Agreement | None) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name in MEANS:
        value, low, high = Interval(float("nan")) if found is None else getattr(found, name)
        columns |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return columns


def between_seeds_text(table: pd.DataFrame) -> str:
    """The table for a terminal; conditions with less than two passing students are only counted."""
    head = ("arm", "d", "condition", "passing", "to the teacher", "between seeds", "closer to each other by", "closer")
    lines: list[tuple[str, ...]] = [head]
    few = 0
    for row in table.to_dict("records"):
        if row["passing"] < 2:
            few += 1
            continue
        means = [Interval(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in MEANS]
        lines.append(
            (
                row["arm"],
                str(row["dim"]),
                row["condition"] or "-",
                f"{row['passing']}/{row['students']}",
                *map(str, means),
                verdict(means[-1]),
            )
        )
    said = [aligned(lines)] if len(lines) > 1 else []
    if few:
        said.append(f"{few} of {len(table)} conditions have fewer than two students that pass the law gate")
    return "\n".join(
        [*said, "Mean displacements; in brackets, 95 % over seeds resampled as clusters, from three passing seeds on."]
    )
