"""Displacement against dimension under four protocols."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.validation.common import BELOW, SMALL_XI, exactly, mean, mode_gauge, students
from sandbox.lab.predict import predict, spectrum_of
from sandbox.lab.validate import Case, Claim, Tolerance
from sandbox.theory import modes

REGIMES: dict[str, dict] = {
    "lr .02, batch 64": {"lr": lambda d: 0.02, "batch": lambda d: 64},
    "lr .02, batch 8d": {"lr": lambda d: 0.02, "batch": lambda d: 8 * d},
    "lr .32/d, batch 4d": {"lr": lambda d: 0.32 / d, "batch": lambda d: 4 * d},
}
LEADING = "power law, w = 1, lr .64/d, batch 16: leading mode"


def regimes(seeds: int, dims: Sequence[int]) -> Claim:
    cases = []
    for name, rule in REGIMES.items():
        for d in dims:
            cells = students(max(4, seeds * 8 // d), dim=d, **{field: value(d) for field, value in rule.items()})
            xi = predict(cells[0]).xi
            known = SMALL_XI if xi < 0.15 else BELOW
            value = predict(cells[0]).gauge
            cases.append(Case(f"{name}: dim {d}", cells, mean(cells), exactly(value), known=known, x=d, series=name))
    for d in dims:
        cells = students(max(4, seeds), dim=d, exponent=1.5, normaliser="off", lr=0.64 / d, batch=16)
        rho = modes.mode_displacements(spectrum_of(cells[0]), cells[0].lr, 16, cells[0].lr * cells[0].steps)
        measure = mode_gauge(cells, 0)
        cases.append(Case(f"{LEADING}: dim {d}", cells, measure, exactly(rho[0]), x=d, series=LEADING))
    return Claim(
        "four regimes in d",
        "F_d(Xi), mode equations",
        "sandbox.theory.copying, sandbox.theory.modes",
        Tolerance(absolute=0.08, errors=3),
        tuple(cases),
    )
