"""What the claims are made of: fresh students, means over them, and reasons for known failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sandbox.lab.cell import Cell
from sandbox.lab.predict import predict, settled_steps, spectrum_of
from sandbox.lab.validate import Case, Estimate, Results

GAUGE = "gauge_polar"
# Seeds that no other experiment uses.
FIRST_SEED = 1000
SIGMA_MIN = 0.02

BELOW = "start below the lowest noise level"
LARGE = "one update is more than half of the start"
SMALL_XI = "Xi < .15: the speed is not constant while the student is small"


def students(count: int, **fields) -> tuple[Cell, ...]:
    """Fresh students of one condition, trained until settled unless the number of steps is given."""
    cell = Cell(**{"measures": "closed", **fields})
    if "steps" not in fields:
        cell = cell.replace(steps=settled_steps(cell))
    return tuple(cell.replace(seed=FIRST_SEED + i) for i in range(count))


def mean(cells: Sequence[Cell], name: str = GAUGE) -> Callable[[Results], Estimate]:
    return lambda results: Estimate.of(results.values(cells, name))


def exactly(value: float) -> Callable[[Results], Estimate]:
    return lambda _: Estimate(value)


def describe(cell: Cell, *names: str) -> str:
    return ", ".join(f"{name} {1.0 if getattr(cell, name) is None else getattr(cell, name):.4g}" for name in names)


def flat_case(cells: tuple[Cell, ...], *names: str, known: str = "", series: str = "", x: float | None = None) -> Case:
    found = predict(cells[0])
    return Case(
        describe(cells[0], *names),
        cells,
        mean(cells),
        exactly(found.gauge),
        known=known,
        series=series,
        x=found.xi if x is None else x,
    )


GRID_NAMES = ("dim", "variance", "sigma_init", "lr", "batch")


def mode_gauge(cells: Sequence[Cell], mode: int | None, weighted: bool = True) -> Callable[[Results], Estimate]:
    """rho_k = 1 - Q_kk of one eigenmode, or the mean of all, weighted by their variances or plain."""
    weights = np.array(spectrum_of(cells[0]).eigenvalues) if weighted else np.ones(cells[0].dim)
    share = weights / weights.sum()

    def read(results: Results) -> Estimate:
        U, _, Vh = np.linalg.svd(results.weights(cells))
        rho = 1 - np.diagonal(U @ Vh, axis1=-2, axis2=-1)
        return Estimate.of(rho @ share if mode is None else rho[:, mode])

    return read
