"""Adam from the teacher's start: sizes over the batch, and the two signs that are opposite to gradient descent's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from experiments.validation.common import describe, exactly, mean, students
from sandbox.lab.cell import Cell
from sandbox.lab.predict import flat_of
from sandbox.lab.validate import Case, Claim, Estimate, Results, Tolerance
from sandbox.student.optimise import Adam
from sandbox.theory import adam, adam_diffusion

ERRORS = 3


class Sweep(NamedTuple):
    """Learning rates at d = 16 (and 12) and at d = 8, and batches at d = 16."""

    lr: float
    lr_8: float
    batches: Sequence[int]


def grown(count: int, **fields) -> tuple[Cell, ...]:
    """Students under Adam that have grown: entries move by lr a step, at small batches by half of that."""
    distance = 2 if fields["batch"] < 32 else 1
    return students(count, optimiser="adam", steps=math.ceil(distance / fields["lr"]), **fields)


def by_diffusion(cell: Cell, paths: int) -> Estimate:
    """The displacement of the matrix diffusion with Adam's update, from its own random numbers."""
    optimiser = Adam(cell.lr, cell.beta1 or 0.0, cell.beta2 or 0.0)
    source = torch.Generator().manual_seed(cell.dim + cell.batch)
    found = adam_diffusion.adam_displacement(
        flat_of(cell), optimiser, cell.batch, cell.steps, paths, source, cell.antithetic
    )
    return Estimate(*found, paths)


def over_the_batch(seeds: int, paths: int, sweep: Sweep) -> Claim:
    conditions = [{"dim": 16, "lr": sweep.lr, "batch": batch} for batch in sweep.batches]
    conditions += [{"dim": 8, "lr": sweep.lr_8, "batch": batch} for batch in (8, 64)]
    conditions += [{"dim": 12, "lr": sweep.lr, "batch": 64, "antithetic": both} for both in (False, True)]
    cases = []
    for fields in conditions:
        cells = grown(seeds, **fields)
        name = describe(cells[0], "dim", "lr", "batch") + (", antithetic" if cells[0].antithetic else "")
        series = f"Adam, d {cells[0].dim}" + (", antithetic" if cells[0].antithetic else "")
        simulated = partial(by_diffusion, cells[0], paths)
        cases.append(Case(name, cells, mean(cells), simulated=simulated, x=cells[0].batch, series=series))
    return Claim(
        "Adam from the start, over the batch",
        "A <- Adam(A, U [-f(S) + dT / sqrt B] V^T)",
        "sandbox.theory.adam_diffusion.adam_displacement",
        Tolerance(relative=adam.ACCURACY, errors=ERRORS),
        tuple(cases),
    )


def sign(of: Sequence[Cell], less: Sequence[Cell]) -> Callable[[Results], Estimate]:
    """The sign of a difference of means, 0 if it is within 3 standard errors."""

    def read(results: Results) -> Estimate:
        a, b = mean(of)(results), mean(less)(results)
        clear = abs(a.value - b.value) > ERRORS * math.hypot(a.error, b.error)
        return Estimate(float(np.sign(a.value - b.value) * clear), 0.0, min(a.n, b.n))

    return read


def signs(seeds: int, sweep: Sweep) -> Claim:
    large, small = (grown(seeds, dim=16, lr=sweep.lr, batch=batch) for batch in (512, 32))
    both, plain = (grown(seeds, dim=12, lr=sweep.lr, batch=64, antithetic=a) for a in (True, False))
    descent = [students(seeds, dim=16, batch=batch) for batch in (512, 32)]
    halved = [students(seeds, dim=12, antithetic=a) for a in (True, False)]
    rows = {
        "Adam: rho_g at B 512 less that at B 32, d 16": (large, small, 1.0),
        "Adam: rho_g of antithetic less independent eps, d 12": (both, plain, 1.0),
        "descent: rho_g at B 512 less that at B 32, d 16": (*descent, -1.0),
        "descent: rho_g of antithetic less independent eps, d 12": (*halved, -1.0),
    }
    return Claim(
        "Adam from the start, signs",
        "sign of a difference of rho_g, 0 within 3 se: + under Adam, - under gradient descent",
        "sandbox.theory.adam_diffusion",
        Tolerance(absolute=0.5),
        tuple(Case(name, a + b, sign(a, b), exactly(value)) for name, (a, b, value) in rows.items()),
    )
