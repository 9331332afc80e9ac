"""Power-law spectra, eigenmode by eigenmode."""

from __future__ import annotations

from experiments.validation.common import exactly, mode_gauge, students
from sandbox.lab.predict import spectrum_of
from sandbox.lab.validate import Case, Claim, Tolerance
from sandbox.theory import modes

TRAILING = "trailing modes: n_k is not the pair's variance"


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
        cases.append(
            Case(f"{label}, all modes by variance", cells, mode_gauge(cells, None), exactly(total), series=label)
        )
        plain = mode_gauge(cells, None, weighted=False)
        cases.append(Case(f"{label}, plain mean over modes", cells, plain, exactly(rho.mean()), known=TRAILING))
        for k in (0, 1, 2, 4, 8, 16, 31):
            if k < cell.dim:
                known = "" if k == 0 else TRAILING
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
