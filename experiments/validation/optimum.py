"""At the optimum: exact and learned fake scores, and Adam."""

from __future__ import annotations

from experiments.validation.common import describe, exactly, mean, students
from sandbox.lab.validate import Case, Claim, Tolerance
from sandbox.theory import adam, learned_fake

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
