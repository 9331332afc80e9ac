"""Flat spectra: the copying number on random grids, its correction, and what follows from it."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from experiments.validation.common import (
    BELOW,
    GRID_NAMES,
    LARGE,
    SIGMA_MIN,
    describe,
    exactly,
    flat_case,
    mean,
    students,
)
from sandbox.lab.cell import Cell
from sandbox.lab.predict import flat_of, predicted_onset
from sandbox.lab.validate import Case, Claim, Estimate, Tolerance
from sandbox.theory import copying, flat, matrix_sde
from sandbox.theory.flat import Flat

GRID_SEED, OTHER_GRID_SEED = 20260602, 20260603


def random_grid(count: int, seed: int = GRID_SEED) -> list[Cell]:
    """Cells drawn from wide ranges: lambda in [.25, 16], sigma_init = sigma_max in [5, 80], lr in [.005, .2], batch in
    [16, 512], d in [8, 48], all log-uniform; kept if the start is above the lowest noise level and the predicted
    displacement in [.05, .8]."""
    rng = np.random.default_rng(seed)
    found: list[Cell] = []
    while len(found) < count:
        ranges = {"variance": (0.25, 16), "sigma_init": (5, 80), "lr": (0.005, 0.2), "batch": (16, 512), "dim": (8, 48)}
        drawn = {name: float(np.exp(rng.uniform(*np.log(ends)))) for name, ends in ranges.items()}
        drawn |= {name: round(drawn[name]) for name in ("batch", "dim")}
        cell = Cell(**drawn, sigma_max=drawn["sigma_init"], sigma_min=SIGMA_MIN)
        if flat_of(cell).start < SIGMA_MIN:
            continue
        if 0.05 <= copying.displacement(flat_of(cell), cell.lr, cell.batch) <= 0.8:
            found.append(cell)
    return found


def grid_of(count: int, seeds: int, seed: int = GRID_SEED) -> list[tuple[Cell, ...]]:
    names = ("dim", "variance", "sigma_init", "sigma_max", "lr", "batch")
    return [students(seeds, **{name: getattr(cell, name) for name in names}) for cell in random_grid(count, seed)]


def update_share(cell: Cell) -> float:
    """lr f(a0) / a0: how much of the start the first update is."""
    problem = flat_of(cell)
    return float(cell.lr * problem.drift(problem.start)[0] / problem.start)


def copying_numbers(count: int, seeds: int) -> Claim:
    return Claim(
        "flat spectra",
        "rho_g = F_d(Xi)",
        "sandbox.theory.copying.displacement",
        Tolerance(absolute=0.08),
        tuple(
            flat_case(cells, *GRID_NAMES, series="random grid", known=LARGE if update_share(cells[0]) > 0.5 else "")
            for cells in grid_of(count, seeds)
        ),
    )


def finite_steps(count: int, seeds: int) -> Claim:
    """The correction for large updates, on a grid that it was not found on."""
    cases = []
    for cells in grid_of(count, seeds, OTHER_GRID_SEED):
        cell = cells[0]
        xi = copying.finite_step_number(flat_of(cell), cell.lr, cell.batch)
        value = copying.displacement(flat_of(cell), cell.lr, cell.batch, finite_steps=True)
        parameters = describe(cell, *GRID_NAMES) + f", update {update_share(cell):.2f}"
        cases.append(Case(parameters, cells, mean(cells), exactly(value), x=xi, series="another grid"))
    return Claim(
        "flat spectra, finite steps",
        "rho_g = F_d(Xi), 1/Xi = lr^2 d/B sum n(a_t)/a_(t+1)^2",
        "sandbox.theory.copying.finite_step_number",
        Tolerance(absolute=0.08),
        tuple(cases),
    )


def by_diffusion(cell: Cell, paths: int) -> Estimate:
    """The matrix diffusion's displacement for a flat cell, from its own random numbers."""
    rho, error = matrix_sde.matrix_displacement(
        flat_of(cell), cell.lr, cell.batch, paths, torch.Generator().manual_seed(cell.dim), time=cell.lr * cell.steps
    )
    return Estimate(rho, error, paths)


def diffusions(count: int, seeds: int, paths: int) -> Claim:
    cases = []
    for cells in grid_of(count, seeds):
        cell = cells[0]
        if update_share(cell) < 0.1:
            simulated = partial(by_diffusion, cell, paths)
            cases.append(Case(describe(cell, *GRID_NAMES), cells, mean(cells), simulated=simulated))
    return Claim(
        "matrix diffusion",
        "dA = U [f(S) dt + sqrt(lr/B) dT] V^T, where lr f(a0) < .1 a0",
        "sandbox.theory.matrix_sde.matrix_displacement",
        Tolerance(relative=0.15, errors=3),
        tuple(cases),
    )


def critical_dimensions(seeds: int) -> Claim:
    """rho at the nearest dimension to the predicted d*; the prediction there is close to one half."""
    cases = []
    for fields, known in (
        ({"lr": 0.02, "batch": 64, "sigma_min": 0.001}, ""),
        ({"lr": 0.02, "batch": 32, "sigma_min": 0.001}, ""),
        ({"variance": 4.0, "lr": 0.04, "batch": 32, "sigma_min": 0.001}, ""),
        ({"sigma_init": 20.0, "sigma_max": 20.0, "lr": 0.05, "batch": 32}, ""),
        ({"variance": 2.0, "sigma_init": 40.0, "sigma_max": 40.0, "lr": 0.08, "batch": 64}, ""),
        ({"lr": 0.02, "batch": 64}, BELOW),
        ({"lr": 0.01, "batch": 64}, BELOW),
    ):
        axis = [students(1, **fields, dim=d)[0] for d in (3, 6, 12, 24, 48, 96)]
        at = predicted_onset(axis)
        cells = students(seeds, **fields, dim=max(3, round(at)))
        cases.append(
            Case(f"d* = {at:.3g}: " + describe(cells[0], *GRID_NAMES), cells, mean(cells), exactly(0.5), known=known)
        )
    return Claim(
        "critical dimension",
        "rho_g = 1/2 at d*, d* Xi(d*) = Xi*",
        "sandbox.theory.copying.critical_dimension",
        Tolerance(absolute=0.07),
        tuple(cases),
    )


def weightings(seeds: int) -> Claim:
    rows = [
        {"dim": 8, "normaliser": "off"},
        {"dim": 16, "normaliser": "off"},
        {"dim": 32, "normaliser": "off"},
        {"dim": 16, "normaliser": "off", "batch": 1024},
        {"dim": 16, "normaliser": "batch"},
        {"dim": 8, "sigma_law": "karras", "sigma_min": 0.002},
        {"dim": 16, "sigma_law": "karras", "sigma_min": 0.002, "batch": 256},
    ]
    cases = []
    for row in rows:
        cells = students(seeds, **row)
        name = f"{cells[0].normaliser}, {cells[0].sigma_law}, "
        case = flat_case(cells, "dim", "batch", series=cells[0].normaliser)
        cases.append(Case(name + case.parameters, cells, case.measure, case.predict, x=case.x, series=case.series))
    return Claim(
        "other weightings",
        "rho_g = 1 - q(sqrt Xi) for w = 1 and the batch's mean; F_d(Xi) for Karras bins",
        "sandbox.theory.copying.displacement",
        Tolerance(absolute=0.08),
        tuple(cases),
    )


def closed_forms() -> Claim:
    """f and n of the self-averaged normaliser, the closed form against quadrature."""
    cases = []
    for variance, a in ((1.0, 0.02), (1.0, 0.5), (4.0, 0.1), (0.25, 0.4)):
        problem = Flat(math.inf, variance)
        for name, closed, found in (
            ("f", flat.drift_closed_form, problem.drift),
            ("n", flat.noise_closed_form, problem.noise),
        ):
            value = float(closed(np.array([a]), variance, problem.law)[0])
            measure = exactly(float(found(a)[0]) / value)
            cases.append(
                Case(f"{name}({a:g}) by quadrature / closed form, lambda {variance:g}", (), measure, exactly(1.0))
            )
    return Claim("closed forms", "f(a), n(a)", "sandbox.theory.flat", Tolerance(absolute=1e-10), tuple(cases))
