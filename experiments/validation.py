"""The theory's predictions, each with the tolerance that it is held to, and the students that can break it.

Everything here was fixed before any student of it was trained: formulas, parameters, seeds, tolerances, and where the
theory is known to fail. `python -m sandbox validate` trains the students, and says which predictions hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from sandbox.lab.cell import Cell
from sandbox.lab.predict import predict, predicted_onset, settled_steps
from sandbox.lab.validate import Case, Claim, Estimate, Results, Tolerance
from sandbox.theory import adam, copying, flat, learned_fake, matrix_sde, modes
from sandbox.theory.flat import Flat

GAUGE = "gauge_polar"
# Seeds that no other experiment uses.
FIRST_SEED = 1000
GRID_SEED, OTHER_GRID_SEED = 20260602, 20260603
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


def flat_of(cell: Cell) -> Flat:
    return Flat(cell.dim, cell.variance or 1.0, cell.sigma_init, cell.law(), cell.normaliser)


def describe(cell: Cell, *names: str) -> str:
    return ", ".join(f"{name} {1.0 if getattr(cell, name) is None else getattr(cell, name):.4g}" for name in names)


# -- flat spectra ------------------------------------------------------------------------------------------------------


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


# -- controls ----------------------------------------------------------------------------------------------------------


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


# -- spectra -----------------------------------------------------------------------------------------------------------


def spectrum_of(cell: Cell) -> modes.Spectrum:
    lam = np.diagonal(cell.mixture().cov.numpy())
    return modes.Spectrum(tuple(lam.tolist()), cell.sigma_init, cell.law(), cell.normaliser)


def mode_gauge(cells: Sequence[Cell], mode: int | None) -> Callable[[Results], Estimate]:
    """rho_k = 1 - Q_kk of one eigenmode, or of all, weighted by their variances."""
    share = np.array(spectrum_of(cells[0]).eigenvalues) / sum(spectrum_of(cells[0]).eigenvalues)

    def read(results: Results) -> Estimate:
        U, _, Vh = np.linalg.svd(results.weights(cells))
        rho = 1 - np.diagonal(U @ Vh, axis1=-2, axis2=-1)
        return Estimate.of(rho @ share if mode is None else rho[:, mode])

    return read


def spectra(seeds: int) -> Claim:
    cases = []
    for name, fields in (
        ("DMD2", {"dim": 16, "lr": 0.02}),
        ("DMD2", {"dim": 32, "lr": 0.02}),
        ("w = 1", {"dim": 16, "lr": 0.02, "normaliser": "off"}),
        ("w = 1", {"dim": 32, "lr": 0.02, "normaliser": "off"}),
        ("DMD2, smax 20", {"dim": 32, "lr": 0.02, "sigma_init": 20.0, "sigma_max": 20.0}),
    ):
        cells = students(seeds, exponent=1.5, **fields)
        cell = cells[0]
        problem = spectrum_of(cell)
        rho = modes.mode_displacements(problem, cell.lr, cell.batch, cell.lr * cell.steps)
        label = f"{name}, d {cell.dim}"
        total = float(rho @ problem.eigenvalues / sum(problem.eigenvalues))
        cases.append(Case(f"{label}, all modes", cells, mode_gauge(cells, None), exactly(total), series=label))
        for k in (0, 1, 2, 4, 8, 16, 31):
            if k < cell.dim:
                known = "" if k == 0 else "trailing modes: n_k is not the pair's variance"
                measure = mode_gauge(cells, k)
                cases.append(
                    Case(f"{label}, mode {k + 1}", cells, measure, exactly(rho[k]), known=known, x=k + 1, series=label)
                )
    return Claim(
        "power law k^-1.5, by mode",
        "dln Q_kk/dt = -Gamma_k",
        "sandbox.theory.modes.mode_displacements",
        Tolerance(relative=0.2, errors=3),
        tuple(cases),
    )


# -- at the optimum ----------------------------------------------------------------------------------------------------

LEVELS = {"sigma_law": "log-grid", "sigma_min": 0.05, "sigma_max": 20.0, "bins": 8, "start": "map"}


def learned(seeds: int) -> Claim:
    cases = []
    for fields in (
        {"dim": 16, "batch": 128, "fake_lr": 0.02, "fake_updates": 1},
        {"dim": 16, "batch": 128, "fake_lr": 0.02, "fake_updates": 5},
        {"dim": 16, "batch": 512, "fake_lr": 0.02, "fake_updates": 1},
        {"dim": 32, "batch": 256, "fake_lr": 0.02, "fake_updates": 1, "steps": 1000},
        {"dim": 16, "batch": 256, "fake_lr": 0.05, "fake_updates": 1, "normaliser": "off"},
    ):
        cells = students(
            seeds,
            **{"steps": 2000, "lr": 0.05, **LEVELS, "fake_score": "levels", "fake_batch": fields["batch"], **fields},
        )
        cell = cells[0]
        value = learned_fake.stationary_rotation(
            cell.dim, 1.0, cell.law(), cell.normaliser, cell.lr, cell.batch, cell.fake_updates or 1, cell.steps
        )
        parameters = f"{cell.normaliser}, " + describe(cell, "dim", "fake_batch", "fake_updates", "fake_lr", "steps")
        cases.append(Case(parameters, cells, mean(cells), exactly(value)))
    return Claim(
        "learned fake score, at the optimum",
        "rho_g(N) = 1 - exp(-(d-1)/4 N lr^2/(B_f K) E[w^2 sigma^2 c/(c+sigma^2)^2])",
        "sandbox.theory.learned_fake.stationary_rotation",
        Tolerance(relative=0.25),
        tuple(cases),
    )


def frozen(seeds: int) -> Claim:
    cells = [students(seeds, dim=dim, lr=0.02, steps=2000, start="map") for dim in (4, 16)]
    return Claim(
        "exact fake score, at the optimum",
        "rho_g = 0: the gauge freezes",
        "sandbox.theory.flat",
        Tolerance(absolute=1e-4),
        tuple(Case(describe(c[0], "dim", "lr", "steps"), c, mean(c), exactly(0.0)) for c in cells),
    )


def adams(seeds: int) -> Claim:
    cases = []
    for fields in (
        {"dim": 16, "lr": 0.01, "steps": 2000},
        {"dim": 16, "lr": 0.005, "steps": 2000},
        {"dim": 16, "lr": 0.005, "steps": 4000, "batch": 256},
        {"dim": 32, "lr": 0.005, "steps": 2000},
        {"dim": 32, "lr": 0.005, "steps": 4000, "batch": 512},
        {"dim": 4, "lr": 0.01, "steps": 2000},
        {"dim": 16, "lr": 0.005, "steps": 4000, "batch": 256, "normaliser": "off"},
    ):
        cells = students(seeds, start="map", optimiser="adam", **fields)
        cell = cells[0]
        share = adam.turning_share(cell.dim, 1.0, cell.batch, cell.law(), cell.normaliser)
        value = adam.late_diffusion(cell.dim, 1.0, cell.lr, cell.steps, share)
        parameters = f"{cell.normaliser}, " + describe(cell, "dim", "lr", "batch", "steps")
        cases.append(Case(parameters, cells, mean(cells), exactly(value)))
    return Claim(
        "Adam, at the optimum (scaling)",
        "rho_g(N) = 1 - exp(-(d-1) share lr^2 N / (4 lambda)), share = 1 / (1 + c B / (d+1))",
        "sandbox.theory.adam.late_diffusion",
        Tolerance(relative=adam.ACCURACY),
        tuple(cases),
    )


# -- regimes -----------------------------------------------------------------------------------------------------------

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


# -- closed forms ------------------------------------------------------------------------------------------------------


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


def claims(grid: int, seeds: int, paths: int, line: int, dims: Sequence[int]) -> list[Claim]:
    return [
        closed_forms(),
        copying_numbers(grid, seeds),
        finite_steps(grid // 2, seeds),
        diffusions(grid, seeds, paths),
        critical_dimensions(seeds),
        weightings(seeds),
        antithetic(seeds),
        rotated(2 * seeds),
        random_start(2 * seeds),
        one_dimension(line),
        spectra(seeds),
        learned(seeds),
        frozen(4),
        adams(seeds),
        regimes(seeds, dims),
    ]


PRESETS: dict[str, Callable[[], list[Claim]]] = {
    "smoke": partial(claims, 2, 2, 2, 8, (4, 8)),
    "quick": partial(claims, 40, 10, 8, 250, (4, 8, 16, 32, 64)),
    "full": partial(claims, 120, 64, 64, 4000, (4, 8, 16, 32, 64, 128)),
}
