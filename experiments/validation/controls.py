"""Controls: antithetic noise, rotated and random starts, and the line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from experiments.validation.common import GAUGE, describe, exactly, mean, students
from sandbox.lab.cell import Cell
from sandbox.lab.predict import predict
from sandbox.lab.validate import Case, Claim, Estimate, Results, Tolerance


def ratio(top: Sequence[Cell], bottom: Sequence[Cell]) -> Callable[[Results], Estimate]:
    def read(results: Results) -> Estimate:
        a, b = (Estimate.of(results.values(cells, GAUGE)) for cells in (top, bottom))
        value = a.value / b.value
        return Estimate(value, value * math.hypot(a.error / a.value, b.error / b.value), min(a.n, b.n))

    return read


def antithetic(seeds: int) -> Claim:
    cases = []
    for fields in (
        {"dim": 16, "normaliser": "off", "batch": 64},
        {"dim": 16, "normaliser": "off", "batch": 8},
        {"dim": 16, "normaliser": "per-sample", "batch": 64},
    ):
        plain, both = students(seeds, **fields), students(seeds, **fields, antithetic=True)
        parameters = f"{fields['normaliser']}, " + describe(plain[0], "dim", "batch")
        cases.append(Case(parameters, plain + both, ratio(both, plain), exactly(0.0)))
    return Claim(
        "antithetic epsilon",
        "rho_g(antithetic) / rho_g = 0 at first order",
        "sandbox.theory.copying.copying_number",
        Tolerance(absolute=0.02),
        tuple(cases),
    )


def rotated(seeds: int) -> Claim:
    cases = []
    for dim in (4, 8):
        plain, turned = students(seeds, dim=dim, lr=0.02), students(seeds, dim=dim, lr=0.02, start="rotated")

        def residual(results: Results, plain=plain, turned=turned) -> Estimate:
            F = Estimate.of(results.values(plain, GAUGE))
            trace = results.values(turned, "rotation_trace")
            apart = Estimate.of(results.values(turned, GAUGE) - (1 - (1 - F.value) * trace))
            return Estimate(apart.value, math.hypot(apart.error, F.error * abs(trace.mean())), apart.n)

        cases.append(
            Case(f"to T o R, d {dim}", plain + turned, mean(turned, "gauge_polar_rotated"), mean(plain), series="T o R")
        )
        cases.append(Case(f"to T, less 1 - (1-F) tr R/d, d {dim}", plain + turned, residual, exactly(0.0), series="T"))
    return Claim(
        "rotated start",
        "rho_g to T o R = F; to T = 1 - (1 - F) tr R / d",
        "sandbox.theory.starts.rotated_displacement",
        Tolerance(errors=3),
        tuple(cases),
    )


def random_start(seeds: int) -> Claim:
    cases = []
    for dim in (2, 8, 32):
        cells = students(seeds, dim=dim, start="random", normaliser="batch")
        cases.append(Case(describe(cells[0], "dim"), cells, mean(cells), exactly(1.0)))
    return Claim("random start", "E rho_g = 1", "sandbox.theory.nulls", Tolerance(errors=3), tuple(cases))


def one_dimension(seeds: int) -> Claim:
    cases = []
    for lr, batch in ((0.02, 1), (0.04, 1), (0.02, 4)):
        cells = students(seeds, dim=1, normaliser="off", lr=lr, batch=batch)
        cases.append(Case(describe(cells[0], "lr", "batch"), cells, mean(cells), exactly(predict(cells[0]).gauge)))
    return Claim(
        "one dimension, w = 1",
        "rho_g = 2 P(flip), by the scale function",
        "sandbox.theory.one_dimension.flip_displacement",
        Tolerance(errors=3),
        tuple(cases),
    )
