"""Predictions held against fresh students: what was declared before the run, what came out, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import pandas as pd
from scipy import stats

from sandbox.lab.cell import Cell
from sandbox.lab.store import Store

HOLDS, BROKEN, KNOWN, OPEN = "holds", "BROKEN", "known failure", "no students"
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error (0 if it is exact) and the number of students or paths behind it."""

    value: float
    error: float = 0.0
    n: int = 0

    @classmethod
    def of(cls, values: Iterable[float]) -> Estimate:
        """The mean of independent values; NaN if there are none or if one of them is not finite."""
        v = np.asarray(list(values), dtype=float)
        if not len(v):
            return cls(math.nan, math.nan, 0)
        return cls(float(v.mean()), float(v.std(ddof=1) / len(v) ** 0.5) if len(v) > 1 else math.nan, len(v))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean, by Student's t."""
        if not self.error or self.n < 2:
            return self.value, self.value
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, self.n - 1)) * self.error
        return self.value - half, self.value + half


@dataclass(frozen=True)
class Tolerance:
    """How far a measurement may lie from its prediction; any one of the bounds suffices.

    absolute: in the quantity's units. relative: of the prediction. errors: in standard errors of the difference."""

    absolute: float = 0.0
    relative: float = 0.0
    errors: float = 0.0

    def allows(self, predicted: Estimate, measured: Estimate) -> bool:
        apart = abs(measured.value - predicted.value)
        spread = math.hypot(predicted.error, measured.error) if self.errors else 0.0
        bounds = (self.absolute, self.relative * abs(predicted.value), self.errors * spread)
        return any(apart <= bound for bound in bounds if bound > 0)

    def __str__(self) -> str:
        parts = [f"{self.absolute:g}"] if self.absolute else []
        parts += [f"{100 * self.relative:g} %"] if self.relative else []
        parts += [f"{self.errors:g} se"] if self.errors else []
        return " or ".join(parts)


class Results:
    """What stored students measured."""

    def __init__(self, store: Store):
        self.store = store

    def values(self, cells: Sequence[Cell], name: str) -> np.ndarray:
        """A measure of every cell's student, (cells,); NaN for one that diverged or did not have it.

        Raises LookupError for a student that is not there."""
        found = []
        for cell in cells:
            record = self.store.get(cell)
            if record is None:
                raise LookupError(cell.key)
            value = record["measures"].get(name)
            found.append(math.nan if value is None else float(value))
        return np.array(found)

    def weights(self, cells: Sequence[Cell]) -> np.ndarray:
        """The trained matrices of linear students, (cells, d, d)."""
        return np.stack([self.store.arrays(cell)["weight"] for cell in cells])


Read = Callable[[Results], Estimate]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        parameters: what distinguishes the case, for the reader. cells: the students that it needs.
        predict, measure: the two numbers, from results; a prediction from theory alone does not read them.
        simulated: a prediction that has to be simulated, and may be worked out in another process instead of `predict`.
        known: why the theory is known to fail here; the row is then reported and counts neither way.
        x: a number to draw the row against (Xi, dimension, mode), with the series that it belongs to.
    """

    parameters: str
    cells: tuple[Cell, ...]
    measure: Read
    predict: Read | None = None
    simulated: Callable[[], Estimate] | None = None
    known: str = ""
    x: float = math.nan
    series: str = ""


@dataclass(frozen=True)
class Claim:
    """A prediction, where it comes from, and how far off it may be."""

    name: str
    formula: str
    source: str
    tolerance: Tolerance
    cases: tuple[Case, ...]


def cells_of(claims: Sequence[Claim]) -> list[Cell]:
    """The students that the claims need, each once."""
    return list(dict.fromkeys(cell for claim in claims for case in claim.cases for cell in case.cells))


def simulate(claims: Sequence[Claim], workers: int) -> dict[Case, Estimate]:
    """The predictions that have to be simulated, in as many processes as there are workers."""
    cases = [case for claim in claims for case in claim.cases if case.simulated is not None]
    jobs = [case.simulated for case in cases if case.simulated is not None]
    if workers < 2 or len(jobs) < 2:
        return {case: job() for case, job in zip(cases, jobs, strict=True)}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        return dict(zip(cases, pool.map(_call, jobs), strict=True))


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _call(job: Callable[[], Estimate]) -> Estimate:
    return job()


def table(claims: Sequence[Claim], store: Store, simulated: dict[Case, Estimate]) -> pd.DataFrame:
    """One row per case: claim, formula, source, parameters, predicted, measured with its interval and n, tolerance,
    verdict.

    The verdict is `holds`, `BROKEN`, `known failure` (declared in the case, and the tolerance is in fact broken) or `no
    students`."""
    results = Results(store)
    rows = []
    for claim in claims:
        for case in claim.cases:
            try:
                measured = case.measure(results)
                predicted = simulated[case] if case.predict is None else case.predict(results)
            except LookupError:
                measured = predicted = Estimate(math.nan)
            low, high = measured.interval
            rows.append(
                {
                    "claim": claim.name,
                    "formula": claim.formula,
                    "source": claim.source,
                    "parameters": case.parameters,
                    "predicted": predicted.value,
                    "predicted_error": predicted.error,
                    "measured": measured.value,
                    "error": measured.error,
                    "low": low,
                    "high": high,
                    "n": measured.n,
                    "tolerance": str(claim.tolerance),
                    "verdict": _verdict(claim, case, predicted, measured),
                    "known": case.known,
                    "x": case.x,
                    "series": case.series,
                    "key": case.cells[0].key if case.cells else "",
                }
            )
    return pd.DataFrame(rows)


def _verdict(claim: Claim, case: Case, predicted: Estimate, measured: Estimate) -> str:
    if not (math.isfinite(predicted.value) and math.isfinite(measured.value)):
        return OPEN
    if claim.tolerance.allows(predicted, measured):
        return HOLDS
    return KNOWN if case.known else BROKEN


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per claim: cases, how many hold, fail as known, are broken, and the largest and typical deviation."""
    found = []
    for name, group in rows.groupby("claim", sort=False):
        apart = (group["measured"] - group["predicted"]).abs()
        counts = group["verdict"].value_counts()
        found.append(
            {
                "claim": name,
                "cases": len(group),
                **{verdict: int(counts.get(verdict, 0)) for verdict in (HOLDS, KNOWN, BROKEN, OPEN)},
                "median |m - p|": apart.median(),
                "largest |m - p|": apart.max(),
                "tolerance": group["tolerance"].iloc[0],
            }
        )
    return pd.DataFrame(found)


def text(rows: pd.DataFrame) -> str:
    """The table for a terminal, one block per claim."""
    lines = []
    for name, group in rows.groupby("claim", sort=False):
        first = group.iloc[0]
        lines += [f"{name}: {first['formula']}", f"    {first['source']}; tolerance {first['tolerance']}"]
        width = max(len(p) for p in group["parameters"])
        for row in group.itertuples():
            interval = f"[{row.low:.4g}, {row.high:.4g}]" if row.low < row.high else ""
            spread = f" +- {row.predicted_error:.2g}" if row.predicted_error else ""
            note = f" ({row.known})" if row.known and row.verdict == KNOWN else ""
            lines.append(
                f"    {row.parameters:{width}s}  predicted {row.predicted:.4g}{spread}, measured {row.measured:.4g} "
                f"{interval} n {row.n}: {row.verdict}{note}"
            )
        lines.append("")
    return "\n".join(lines)
