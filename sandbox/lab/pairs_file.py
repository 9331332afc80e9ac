"""A user's own pairs on disk: reads the .npz, says what was measured, writes it down."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sandbox.lab.store import write_bytes
from sandbox.measure.arrays import NAMES, Pairs
from sandbox.measure.between import Comparison, Interval, compared, verdict
from sandbox.measure.onset import THRESHOLD
from sandbox.measure.pairs import Reading, caveats, read_pairs

SUFFIXES = (".json", ".csv")


def load_pairs(path: Path) -> Pairs:
    """The pairs of an .npz; other arrays in it are left unread, and nothing in it is executed.

    Raises ValueError, naming the file, if it is not there, is no .npz, or its arrays are not pairs."""
    known = {alias for names in NAMES.values() for alias in names} | {f.name for f in dataclasses.fields(Pairs)}
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("a single array")
        with loaded as file:
            arrays = {name: file[name] for name in file.files if name in known}
    except FileNotFoundError:
        raise ValueError(f"{path} is not there") from None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ValueError(f"{path} must be an .npz of plain arrays, got {reason}") from None
    try:
        return Pairs.of(arrays)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from None


def check_out(path: Path | None) -> None:
    """Raises ValueError for a name of another kind, before anything is worked out."""
    if path is not None and path.suffix not in SUFFIXES:
        raise ValueError(f"out must end in {' or '.join(SUFFIXES)}, got {path}")
    if path is not None and not path.resolve().parent.is_dir():
        raise ValueError(f"out must lie in a folder that is there, got {path}")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Writes a table as its suffix says, atomically; a number that is not there is null, or empty.

    Raises ValueError for another suffix or a folder that is not there."""
    check_out(path)
    if path.suffix == ".csv":
        text = io.StringIO()
        table.to_csv(text, index=False)
        write_bytes(path, text.getvalue().encode())
        return
    rows = [{name: _plain(v) for name, v in row.items()} for row in table.to_dict("records")]
    write_bytes(path, (json.dumps(rows, indent=1, allow_nan=False) + "\n").encode())


def _plain(value):
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def readings_table(readings: Sequence[Reading], of: str = "student and teacher") -> pd.DataFrame:
    """One row per measure: of, name, value, error, null, low, high, n, zero, one."""
    return pd.DataFrame([{"of": of, **dataclasses.asdict(reading)} for reading in readings])


def readings_text(readings: Sequence[Reading]) -> str:
    """The measures as a table for a terminal."""
    lines = [("measure", "value", "+- 1 se", "null [95 %]", "n", "at 0", "at 1")]
    for r in readings:
        lines.append(
            (
                r.name,
                f"{r.value:.4g}",
                f"{r.error:.2g}" if math.isfinite(r.error) else "-",
                str(Interval(r.null, r.low, r.high)),
                str(r.n),
                r.zero,
                r.one,
            )
        )
    return aligned(lines)


def in_words(rho: Reading) -> str:
    """Whether the student copies: on which side of this project's threshold its displacement lies, and of the null."""
    spread = 1.96 * rho.error if math.isfinite(rho.error) else 0.0
    if rho.low <= rho.value <= rho.high:
        what = "reads as independent pairs do"
    elif rho.value + spread < THRESHOLD:
        what = "copies"
    elif rho.value - spread > THRESHOLD:
        what = "remaps"
    else:
        what = "is on neither side for certain"
    return f"in words: the student {what} (displacement {rho.value:.2g}; a copy lies below {THRESHOLD:g})"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Rows of words in columns."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(line, widths)).rstrip() for line in lines)


def measure_files(paths: Sequence[Path], seed: int = 0) -> tuple[str, pd.DataFrame]:
    """What is to be said of one file of pairs, or of two students' pairs with one teacher; and as a table.

    Raises ValueError for more than two files, a file that cannot be used, or two of different noise or teachers."""
    if len(paths) > 2:
        raise ValueError(f"files must be one or two, got {len(paths)}")
    every = [load_pairs(path) for path in paths]
    said, tables = [], []
    comparison = between = None
    of = [f"{path}: student and teacher" for path in paths]
    if len(every) == 2:
        between, comparison = compared(*every)
        every.append(between)
        of.append(f"{paths[0]}: student, and {paths[1]}: student in the teacher's place")
    for name, pairs in zip(of, every, strict=True):
        readings, left_out = read_pairs(pairs, seed)
        said += [f"{name}: n = {pairs.n}, d = {pairs.d}", "", readings_text(readings), ""]
        if pairs is not between:
            said += [in_words(r) for r in readings if r.name == "displacement"]
        said += [f"caution: {sentence}" for sentence in caveats(pairs, readings)]
        said += [f"left out: {measure}, {reason}" for measure, reason in left_out.items()] + [""]
        tables.append(readings_table(readings, name))
    if comparison is not None:
        said += [comparison_text(comparison, paths)]
        tables.append(readings_table([_closer(comparison, every[0].n)], of[-1]))
    return "\n".join(said).rstrip(), pd.concat(tables, ignore_index=True)


def _closer(found: Comparison, n: int) -> Reading:
    value, low, high = found.closer
    nan = math.nan
    return Reading("closer", value, nan, nan, nan, (high - low) / 2 / 1.96, n, "as close", "-")


def comparison_text(found: Comparison, paths: Sequence[Path]) -> str:
    """Two students' displacements, and what they say."""
    lines = [
        ("displacement [95 % over points]", ""),
        (f"{paths[0]} from the teacher", str(found.first)),
        (f"{paths[1]} from the teacher", str(found.second)),
        ("from each other", str(found.between)),
        ("closer to each other by", str(found.closer)),
    ]
    return f"{aligned(lines)}\ncloser: {verdict(found.closer)}"
