"""What reading finished students again did to their records, in words and as a table."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sandbox.lab.cell import Cell
from sandbox.lab.pairs_file import aligned
from sandbox.lab.remeasure import Change, Unread, caveats, change, read_many, write_readings
from sandbox.lab.store import Store
from sandbox.lab.sweep import Sweep


@dataclass
class Report:
    """Finished students, each with what changed or why it was not read."""

    students: int
    """Distinct students of the sweep."""
    unfinished: int
    diverged: int
    changes: dict[Cell, Change] = field(default_factory=dict)
    unread: dict[Cell, Unread] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Students that something broke at, beside those whose weights are not there."""
        return sum(unread.failed for unread in self.unread.values())

    def table(self) -> pd.DataFrame:
        """One row per student that was read: key, dim, seed, student, differ and new (numbers of readings), and every
        reading that its record now holds, or would hold."""
        return pd.DataFrame(
            [
                {
                    "key": cell.key,
                    "dim": cell.dim,
                    "seed": cell.seed,
                    "student": cell.student,
                    "differ": len(done.differ),
                    "new": len(done.new),
                    **done.measures,
                }
                for cell, done in self.changes.items()
            ]
        )


def remeasure(
    sweep: Sweep, store: Store, extra: Sequence[str] = (), workers: int = 1, dry_run: bool = False, quiet: bool = False
) -> Report:
    """Reads every finished student of a sweep again, and writes what changed into its record, one atomic file each.

    Students whose readings are what they were are not written. dry_run: write nothing.
    Raises ValueError for workers < 1."""
    cells = sweep.cells()
    records = {cell: record for cell in cells if (record := store.get(cell)) is not None}
    finished = [cell for cell, record in records.items() if record["status"] == "done"]
    report = Report(len(cells), len(cells) - len(records), len(records) - len(finished))
    for cell, found in read_many(finished, store, extra, workers, quiet):
        if isinstance(found, Unread):
            report.unread[cell] = found
            if not quiet:
                what = "could not be read" if found.failed else "was skipped"
                print(f"student {cell.key} (d = {cell.dim}, seed {cell.seed}) {what}: {found.reason}", file=sys.stderr)
            continue
        record = store.get(cell) or records[cell]  # as it is now: reading takes a while
        report.changes[cell] = change(cell, record["measures"], found)
        if report.changes[cell] and not dry_run:
            write_readings(cell, record, report.changes[cell].measures, store)
    return report


def report_text(report: Report, dry_run: bool = False) -> str:
    """The report for a terminal: students, what changed by measure, and what to bear in mind."""
    changed = [done for done in report.changes.values() if done]
    differ = sum(len(done.differ) for done in changed)
    off = sum(bool(done.differ) for done in changed)
    skipped = len(report.unread) - report.failed
    counts = [
        f"{len(report.changes)} of {report.students} students read again",
        f"{report.unfinished} not finished" if report.unfinished else "",
        f"{report.diverged} diverged, which have nothing to read" if report.diverged else "",
        f"{skipped} without weights skipped" if skipped else "",
        f"{report.failed} failed" if report.failed else "",
    ]
    said = ["; ".join(filter(None, counts)) + "."]
    said.append(f"{differ} stored values of {off} students differ by more than rounding.")
    lines = _lines(report)
    if len(lines) > 1:
        said += ["", aligned(lines), ""]
    written = f"{len(changed)} records " + ("would change; dry run, nothing written." if dry_run else "written.")
    said.append(written if changed else "No record changed.")
    counted = Counter(sentence for cell, done in report.changes.items() for sentence in caveats(cell, done.measures))
    said += [f"caution: {count} students: {sentence}" for sentence, count in counted.items()]
    return "\n".join(said)


def _lines(report: Report) -> list[tuple[str, ...]]:
    """A line for each measure that is new, or that read otherwise than before, in any student."""
    lines: list[tuple[str, ...]] = [("measure", "new in", "differs in", "mean", "least", "largest", "largest change")]
    names = dict.fromkeys(name for done in report.changes.values() for name in (*done.differ, *done.new))
    for name in names:
        values = [done.measures[name] for done in report.changes.values() if name in done.measures]
        numbers = np.array([np.nan if v is None else v for v in values], float)
        numbers = numbers[np.isfinite(numbers)]
        summary = [f"{f(numbers):.4g}" for f in (np.mean, np.min, np.max)] if len(numbers) else ["-"] * 3
        pairs = [done.differ[name] for done in report.changes.values() if name in done.differ]
        new = sum(name in done.new for done in report.changes.values())
        lines.append((name, str(new), str(len(pairs)), *summary, _largest(pairs)))
    return lines


def _largest(pairs: list[tuple]) -> str:
    """The pair (stored, read again) that is furthest apart; a value that is not there counts as furthest."""

    def apart(pair: tuple) -> float:
        return np.inf if None in pair else abs(float(pair[0]) - float(pair[1]))

    if not pairs:
        return "-"
    return " -> ".join("none" if v is None else f"{float(v):.4g}" for v in max(pairs, key=apart))
