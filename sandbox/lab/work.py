"""The work of one pack: cells in, finished records out. What a worker does, wherever it runs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sandbox.lab.cell import TEACHER_OPTIONS, Cell
from sandbox.measure.gauge import polar_displacement
from sandbox.measure.law import Calibration, calibrate
from sandbox.measure.record import JACOBIAN_POINTS, measurements
from sandbox.measure.trajectory import progress
from sandbox.student.distill import Recipe, Snapshot, distill, log_spaced
from sandbox.student.initialise import linear_start
from sandbox.student.networks import Pack
from sandbox.teacher.flow import teacher_jacobian, teacher_map
from sandbox.teacher.mixture import GaussianMixture

# Held-out points of every measurement, one set per dimension for all students, and the level where the reference map
# starts. Part of the algorithm: a change of either raises ALGORITHM_VERSION.
HELD_OUT = 1024
REFERENCE_SIGMA = 80.0

# Reports of progress along a pack's training.
TICKS = 50

Report = Callable[[float], None]
"""Called with the share of a pack that is done."""


def seed_of(purpose: str, number: int) -> int:
    """A generator's seed for a purpose (`training`, `start`, `held-out`, ...): streams of different purposes do not
    overlap."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{number}".encode()).digest()[:8], "big") >> 1


def generator(purpose: str, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(purpose, number))


def start_of(cell: Cell) -> tuple[torch.nn.Module, Tensor]:
    """The cell's student at its start, and the rotation folded into it."""
    return linear_start(
        cell.start,
        cell.mixture(),
        cell.sigma_init,
        generator("start", cell.seed),
        cell.start_scale,
        bias=cell.student == "affine",
    )


def held_out(dim: int) -> Tensor:
    """Standard normal points that no student was trained on, (HELD_OUT, dim) float64."""
    return torch.randn(HELD_OUT, dim, generator=generator("held-out", dim), dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What every student of one teacher is compared with."""

    z: Tensor
    x: Tensor
    spectrum: Tensor
    calibration: Calibration


def reference_of(cell: Cell) -> Reference:
    """The teacher's map, Jacobian spectrum and law calibration at the held-out points."""
    return _reference(Cell(**{name: getattr(cell, name) for name in ("teacher", "dim", *TEACHER_OPTIONS)}))


@lru_cache(maxsize=8)
def _reference(cell: Cell) -> Reference:
    teacher, z = cell.mixture(), held_out(cell.dim)
    return Reference(
        z,
        teacher_map(teacher, z, REFERENCE_SIGMA),
        torch.linalg.svdvals(teacher_jacobian(teacher, z[:JACOBIAN_POINTS], REFERENCE_SIGMA)),
        calibrate(teacher, HELD_OUT, seed_of("calibration", cell.dim)),
    )


def train_pack(cells: Sequence[Cell], report: Report | None = None) -> list[tuple[dict, dict[str, np.ndarray]]]:
    """Trains and measures a pack; returns a record and arrays for each cell, in order.

    Raises ValueError if the cells do not form a pack."""
    first = cells[0]
    with torch.random.fork_rng(devices=[]):  # nothing here may draw from, or leave a trace in, the global generator
        starts, rotations = zip(*(start_of(cell) for cell in cells), strict=True)
        references = [reference_of(cell) for cell in cells]
        recipe = Recipe(
            steps=first.steps,
            lr=torch.tensor([cell.lr for cell in cells], dtype=torch.float64),
            batch=first.batch,
            normaliser=first.normaliser,
            reduction=first.reduction,
            law=first.law(),
            antithetic=first.antithetic,
        )
        generators = [generator("training", cell.seed) for cell in cells]
        trajectories: list[list[dict]] = [[] for _ in cells]
        checkpoints = log_spaced(recipe.steps)
        ticks = range(0, recipe.steps, max(1, recipe.steps // TICKS))
        for snapshot in distill(_teachers(cells), Pack.of(starts), recipe, generators, {*checkpoints, *ticks}):
            if snapshot.step in checkpoints:
                for trajectory, point in zip(trajectories, _checkpoint(snapshot, references), strict=True):
                    trajectory.append(point)
            if report is not None:
                report(0.9 * snapshot.step / recipe.steps)
        results = []
        for i, cell in enumerate(cells):
            results.append(_finish(cell, snapshot, i, rotations[i], trajectories[i], references[i]))
            if report is not None:
                report(0.9 + 0.1 * (i + 1) / len(cells))
    return results


def _teachers(cells: Sequence[Cell]) -> GaussianMixture:
    """One teacher per student, also where they are all the same: a shared one rounds differently, and a student's
    numbers must not depend on which others are in its pack."""
    return GaussianMixture.stack([cell.mixture() for cell in cells])


def _checkpoint(snapshot: Snapshot, references: Sequence[Reference]) -> list[dict]:
    """The trajectory's entry of every student at a checkpoint."""
    points: list[dict] = []
    with torch.no_grad():
        x = snapshot.students(torch.stack([r.z for r in references]))
    polar = _polar(snapshot)
    for i, reference in enumerate(references):
        values = {name: v.item() for name, v in progress(x[i : i + 1], reference.x).items()}
        points.append({"step": snapshot.step, "gauge_polar": polar[i].item()} | values)
    return points


def _polar(snapshot: Snapshot) -> Tensor:
    """The polar displacement of each student, NaN for a matrix too close to singular to have a polar factor."""
    found = []
    for A in snapshot.students.parameters["weight"]:
        try:
            found.append(polar_displacement(A))
        except ValueError:
            found.append(torch.tensor(math.nan, dtype=A.dtype))
    return torch.stack(found)


def _finish(cell: Cell, snapshot: Snapshot, i: int, rotation: Tensor, trajectory: list[dict], reference: Reference):
    parameters = {name: p[i].detach() for name, p in snapshot.students.parameters.items()}
    arrays = {name: p.numpy() for name, p in parameters.items()} | {"rotation": rotation.numpy()}
    lost_at = int(snapshot.diverged_at[i])
    if lost_at >= 0:
        seen = [point for point in trajectory if point["step"] < lost_at]
        return {"status": "diverged", "diverged_at": lost_at, "measures": {}, "trajectory": _clean(seen)}, arrays
    teacher, student = cell.mixture(), snapshot.students.member(i)
    measures = measurements(
        student,
        teacher,
        reference.z,
        REFERENCE_SIGMA,
        seed_of("shuffles", cell.seed) % 2**32,
        reference.x,
        reference.spectrum,
        reference.calibration,
    )
    A = parameters["weight"]
    measures["gauge_polar"] = trajectory[-1]["gauge_polar"]
    measures["covariance_error"] = ((A @ A.mT - teacher.cov).norm() / teacher.cov.norm()).item()
    if cell.start == "rotated":
        # The teacher's map behind the rotation that the student started with: what it should have kept.
        with torch.no_grad():
            x = student(reference.z)
        behind = teacher_map(teacher, reference.z @ rotation.mT, REFERENCE_SIGMA)
        measures["displacement_rotated"] = progress(x[None], behind)["displacement"].item()
        measures["gauge_polar_rotated"] = polar_displacement(A, rotation).item()
        measures["rotation_trace"] = torch.diagonal(rotation).mean().item()
    return {"status": "done", "measures": _clean(measures), "trajectory": _clean(trajectory)}, arrays


def _clean(content):
    """NaN, which JSON does not have, as null: a measure that is not defined here."""
    if isinstance(content, dict):
        return {name: _clean(v) for name, v in content.items()}
    if isinstance(content, list):
        return [_clean(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
