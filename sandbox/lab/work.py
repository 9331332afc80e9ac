"""The work of one pack: cells in, finished records out. What a worker does, wherever it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sandbox.lab.cell import Cell
from sandbox.lab.reference import REFERENCE_SIGMA, Reference, generator, reference_of, seed_of
from sandbox.measure.gauge import polar_displacement
from sandbox.measure.linear import linear_measurements
from sandbox.measure.record import measurements
from sandbox.measure.trajectory import progress
from sandbox.student.distill import Recipe, Snapshot, distill, log_spaced
from sandbox.student.fake import ExactFake, FakeScore, LevelFake
from sandbox.student.initialise import linear_start
from sandbox.student.networks import Pack
from sandbox.teacher.flow import teacher_map
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform

# Reports of progress along a pack's training.
TICKS = 50

Report = Callable[[float], None]
"""Called with the share of a pack that is done."""


def start_of(cell: Cell) -> tuple[torch.nn.Module, Tensor]:
    """The cell's student at its start, and the rotation folded into it."""
    return linear_start(
        cell.start,
        cell.mixture(),
        cell.sigma_init,
        generator("start", cell.seed),
        cell.start_scale,
        bias=cell.student == "affine",
        sigma_max=REFERENCE_SIGMA,
    )


def train_pack(cells: Sequence[Cell], report: Report | None = None) -> list[tuple[dict, dict[str, np.ndarray]]]:
    """Trains and measures a pack; returns a record and arrays for each cell, in order.

    Raises ValueError if the cells do not form a pack."""
    first = cells[0]
    with torch.random.fork_rng(devices=[]):  # nothing here may draw from, or leave a trace in, the global generator
        starts, rotations = zip(*(start_of(cell) for cell in cells), strict=True)
        read = _Closed(cells) if first.measures == "closed" else _Sampled(cells)
        recipe = Recipe(
            steps=first.steps,
            lr=torch.tensor([cell.lr for cell in cells], dtype=torch.float64),
            batch=first.batch,
            normaliser=first.normaliser,
            reduction=first.reduction,
            law=first.law(),
            antithetic=first.antithetic,
            optimiser=first.optimiser,
            beta1=first.beta1 or 0.0,
            beta2=first.beta2 or 0.0,
        )
        teachers = _teachers(cells)
        generators = [generator("training", cell.seed) for cell in cells]
        trajectories: list[list[dict]] = [[] for _ in cells]
        checkpoints = log_spaced(recipe.steps)
        ticks = range(0, recipe.steps, max(1, recipe.steps // TICKS))
        fake = _fake(cells, teachers)
        for snapshot in distill(teachers, Pack.of(starts), recipe, generators, {*checkpoints, *ticks}, fake):
            if snapshot.step in checkpoints:
                for trajectory, point in zip(trajectories, read.checkpoint(snapshot), strict=True):
                    trajectory.append({"step": snapshot.step} | point)
            if report is not None:
                report(0.9 * snapshot.step / recipe.steps)
        results = []
        for i, cell in enumerate(cells):
            results.append(_finish(cell, snapshot, i, rotations[i], trajectories[i], read))
            if report is not None:
                report(0.9 + 0.1 * (i + 1) / len(cells))
    return results


def _teachers(cells: Sequence[Cell]) -> GaussianMixture:
    """One teacher per student, also where they are all the same: a shared one rounds differently, and a student's
    numbers must not depend on which others are in its pack."""
    return GaussianMixture.stack([cell.mixture() for cell in cells])


def _fake(cells: Sequence[Cell], teachers: GaussianMixture) -> FakeScore:
    first = cells[0]
    if first.fake_score == "exact":
        return ExactFake()
    law = first.law()
    assert not isinstance(law, LogUniform)  # the cell has refused it
    return LevelFake.of_teacher(
        teachers,
        len(cells),
        law,
        lr=first.fake_lr,
        batch=first.fake_batch,
        updates=first.fake_updates,
        antithetic=first.antithetic,
    )


class _Sampled:
    """Measures at held-out points, for any student."""

    def __init__(self, cells: Sequence[Cell]):
        self.references: list[Reference] = [reference_of(cell) for cell in cells]

    def checkpoint(self, snapshot: Snapshot) -> list[dict]:
        """The trajectory's entry of every student at a checkpoint."""
        with torch.no_grad():
            x = snapshot.students(torch.stack([r.z for r in self.references]))
        polar = _polar(snapshot)
        return [
            {"gauge_polar": polar[i].item()} | {k: v.item() for k, v in progress(x[i : i + 1], reference.x).items()}
            for i, reference in enumerate(self.references)
        ]

    def finish(self, cell: Cell, snapshot: Snapshot, i: int, rotation: Tensor) -> dict:
        """Every measure of student i."""
        reference, student, teacher = self.references[i], snapshot.students.member(i), cell.mixture()
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
        A = snapshot.students.parameters["weight"][i].detach()
        measures["gauge_polar"] = _polar(snapshot)[i].item()
        measures["covariance_error"] = ((A @ A.mT - teacher.cov).norm() / teacher.cov.norm()).item()
        if cell.start == "rotated":
            # The teacher's map behind the rotation that the student started with: what it should have kept.
            with torch.no_grad():
                x = student(reference.z)
            behind = teacher_map(teacher, reference.z @ rotation.mT, REFERENCE_SIGMA)
            measures["displacement_rotated"] = progress(x[None], behind)["displacement"].item()
        return measures


class _Closed:
    """Measures that follow from a linear student's matrix."""

    def __init__(self, cells: Sequence[Cell]):
        self.variances = torch.stack([torch.diagonal(cell.mixture().cov) for cell in cells])

    def _of(self, snapshot: Snapshot, members: slice) -> dict[str, Tensor]:
        A = snapshot.students.parameters["weight"][members].detach()
        return linear_measurements(A, self.variances[members], REFERENCE_SIGMA)

    def checkpoint(self, snapshot: Snapshot) -> list[dict]:
        every = self._of(snapshot, slice(None))
        kept = ("gauge_polar", "displacement", "correlation_distance", "scale")
        return [{name: every[name][i].item() for name in kept} for i in range(len(self.variances))]

    def finish(self, cell: Cell, snapshot: Snapshot, i: int, rotation: Tensor) -> dict:
        return {name: v[0].item() for name, v in self._of(snapshot, slice(i, i + 1)).items()}


def _polar(snapshot: Snapshot) -> Tensor:
    """The polar displacement of each student, NaN for a matrix too close to singular to have a polar factor."""
    found = []
    for A in snapshot.students.parameters["weight"]:
        try:
            found.append(polar_displacement(A))
        except ValueError:
            found.append(torch.tensor(math.nan, dtype=A.dtype))
    return torch.stack(found)


def _finish(
    cell: Cell, snapshot: Snapshot, i: int, rotation: Tensor, trajectory: list[dict], read: _Sampled | _Closed
) -> tuple[dict, dict[str, np.ndarray]]:
    parameters = {name: p[i].detach() for name, p in snapshot.students.parameters.items()}
    arrays = {name: p.numpy() for name, p in parameters.items()} | {"rotation": rotation.numpy()}
    lost_at = int(snapshot.diverged_at[i])
    if lost_at >= 0:
        seen = [point for point in trajectory if point["step"] < lost_at]
        return {"status": "diverged", "diverged_at": lost_at, "measures": {}, "trajectory": _clean(seen)}, arrays
    measures = read.finish(cell, snapshot, i, rotation)
    if cell.start == "rotated":
        measures["gauge_polar_rotated"] = polar_displacement(parameters["weight"], rotation).item()
        measures["rotation_trace"] = torch.diagonal(rotation).mean().item()
    return {"status": "done", "measures": _clean(measures), "trajectory": _clean(trajectory)}, arrays


def _clean(content):
    """NaN, which JSON does not have, as null: a measure that is not defined here."""
    if isinstance(content, dict):
        return {name: _clean(v) for name, v in content.items()}
    if isinstance(content, list):
        return [_clean(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
