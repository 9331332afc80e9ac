"""Tables: one row per student, and one per arm."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pandas as pd

from sandbox.lab.cell import Cell
from sandbox.lab.examples import examples
from sandbox.lab.predict import Prediction, predict, predict_network, predicted_onset
from sandbox.lab.store import Store, StoreError
from sandbox.lab.sweep import Sweep, core_seconds
from sandbox.measure.onset import onset
from sandbox.theory.hypotheses import HypothesisError

# What every figure's table says of a student, beside the numbers that the figure draws.
IDENTITY = ("arm", "key", "status", "dim", "seed", "start", "student", "lr", "batch", "normaliser", "law_passes")
# What a figure of copying needs of each student: both readings, each with its null.
PAIRING = tuple(f"{name}{end}" for name in ("displacement", "mode_agreement") for end in ("", "_low", "_high"))


# Measures along training that a student's row has, as <name>_at_<update>.
PATH = (
    "displacement",
    "correlation_distance",
    "scale",
    "fake_error",
    "fake_curl",
    "used_freedom",
    "student_effective_rank",
    "student_curl",
)


def students(sweep: Sweep, store: Store, weights_up_to: int = 2) -> pd.DataFrame:
    """One row per finished student of the sweep: arm, key, status, the cell's fields, every measure, and its
    prediction.

    Predicted values are `predicted_displacement`, `predicted_gauge`, `predicted_leading`, `predicted_rest`, `xi`, NaN
    where the theory makes no prediction, with its reason in `prediction`. `<name>_at_<update>` are the measures of PATH
    along training; `core_seconds` is what the cost model expects, `trained_on` the version of torch and the processor.
    `weight_ij` are the entries of linear students of dimension <= weights_up_to, `example_<who>_<i>` images as in
    `examples`."""
    rows = []
    for arm, cell in sweep.students():
        record = store.get(cell)
        if record is None:
            continue
        row = {"arm": arm, "key": cell.key, "status": record["status"], **dataclasses.asdict(cell)}
        row |= {name: np.nan if value is None else value for name, value in record["measures"].items()}
        row["core_seconds"] = core_seconds(cell)
        row |= _path(record["trajectory"])
        trained = record.get("trained")
        row["trained_on"] = f"{trained['torch']} {trained['device']}" if trained else "not recorded"
        row |= _predicted(cell)
        if "start" in record:
            row |= predict_network(cell, record["start"])
        if cell.student == "linear" and cell.dim <= weights_up_to and record["status"] == "done":
            row |= _weights(store, cell)
        if record["status"] == "done":
            row |= examples(store, cell)
        rows.append(row)
    return pd.DataFrame(rows)


def _path(trajectory: list[dict]) -> dict:
    """What figures draw along training, one column per checkpoint."""
    found = {}
    for point in trajectory:
        for name in PATH:
            value = point.get(name)
            found[f"{name}_at_{point['step']}"] = np.nan if value is None else value
    return found


def _weights(store: Store, cell: Cell) -> dict:
    try:
        weight = store.arrays(cell)["weight"]
    except (StoreError, KeyError) as problem:
        warnings.warn(f"the weights of student {cell.key} are left out ({problem})", stacklevel=2)
        return {}
    return {f"weight_{i}{j}": weight[i, j] for i in range(cell.dim) for j in range(cell.dim)}


def _predicted(cell: Cell) -> dict:
    try:
        p = predict(cell)
    except HypothesisError as error:
        nan = float("nan")
        p = Prediction(nan, nan, nan, nan, nan, f"none: {error}")
    return {
        "predicted_displacement": p.displacement,
        "predicted_gauge": p.gauge,
        "predicted_leading": p.leading,
        "predicted_rest": p.rest,
        "xi": p.xi,
        "prediction": p.source,
    }


def gated(table: pd.DataFrame) -> pd.DataFrame:
    """The students whose law matches the teacher's: the only ones whose pairing counts."""
    # Where every student has diverged nobody has the measure.
    passes = table.get("law_passes", pd.Series(False, table.index)).eq(True)
    return table[(table["status"] == "done") & passes]


def several(table: pd.DataFrame, fewest: int) -> pd.DataFrame:
    """The gated students of dimensions at which at least `fewest` are: enough of them for a mean."""
    return gated(table).groupby("dim").filter(lambda students: len(students) >= fewest)


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """The gated students without those of the per-sample normaliser at d <= 2.

    The normaliser's gradient has an infinite variance there (and an infinite mean at d = 1): a mechanism of its own,
    which is shown but is no part of a trend with dimension."""
    table = gated(table)
    return table[~((table["normaliser"] == "per-sample") & (table["dim"] <= 2))]


def arms(sweep: Sweep, table: pd.DataFrame, value: str = "displacement") -> pd.DataFrame:
    """One row per arm: students, diverged, gate pass rate, and the onset of copying with its interval beside the
    predicted d*, and the core seconds that a student is expected to take.

    The onset is of `value` over the students of `comparable`. Columns: arm, students, diverged, gate, onset, at, low,
    high, predicted, core_seconds."""
    cells: dict[str, list] = {}
    for arm, cell in sweep.students():
        cells.setdefault(arm, []).append(cell)
    rows = []
    for arm, wanted in cells.items():
        mine = table[table["arm"] == arm] if len(table) else table
        row = {
            "arm": arm,
            "students": len(mine),
            "of": len(wanted),
            "diverged": 0,
            "gate": np.nan,
            "onset": "no students",
            "at": np.nan,
            "low": np.nan,
            "high": np.nan,
            "predicted": np.nan,
            "core_seconds": float(np.mean([core_seconds(cell) for cell in wanted])),
        }
        try:
            row["predicted"] = predicted_onset(wanted)
        except HypothesisError:
            row["predicted"] = np.nan
        if len(mine):
            good = gated(mine)
            row |= {"diverged": int((mine["status"] == "diverged").sum()), "gate": len(good) / len(mine)}
            usable = comparable(mine)
            try:
                if usable["dim"].nunique() < 2:
                    raise ValueError("needs two dimensions (above 2 with the per-sample normaliser)")
                found = onset(usable, value=value, models=False)
                row |= {"onset": found.kind, "at": found.at, "low": found.low, "high": found.high}
            except ValueError as error:
                row["onset"] = f"not estimated: {error}"
        rows.append(row)
    return pd.DataFrame(rows)


def arms_text(summary: pd.DataFrame) -> str:
    """The arms' table for a terminal."""
    words = {"begins": "copying begins", "ends": "copying ends", "none": "no onset in range"}

    def number(v: float) -> str:
        return "-" if not np.isfinite(v) else f"{v:.3g}"

    lines = [
        ("arm", "students", "gate", "core s (passing)", "onset (displacement 1/2)", "d measured [95 %]", "d* predicted")
    ]
    for row in summary.itertuples():
        interval = f"{number(row.at)} [{number(row.low)}, {number(row.high)}]" if np.isfinite(row.at) else "-"
        diverged = f" ({row.diverged} diverged)" if row.diverged else ""
        gate = "-" if not np.isfinite(row.gate) else f"{row.gate:.0%}"
        passing = row.core_seconds / row.gate if row.gate > 0 else np.nan
        lines.append(
            (
                row.arm,
                f"{row.students}/{row.of}{diverged}",
                gate,
                f"{number(row.core_seconds)} ({number(passing)})",
                words.get(row.onset, row.onset),
                interval,
                number(row.predicted),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
