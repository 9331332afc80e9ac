"""The work of one pack: cells in, finished records out. What a worker does, wherever it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from sandbox.lab.cell import Cell
from sandbox.lab.readings import Networks, Readings, readings
from sandbox.lab.reference import generator
from sandbox.lab.students import Prepared, prepare, recipe_of
from sandbox.lab.teach import network_of, networks_of, train_networks
from sandbox.lab.unfinished import Unfinished
from sandbox.student.distill import Snapshot, distill, log_spaced

# Reports of progress along a pack's training.
TICKS = 50

Report = Callable[[float], None]
"""Called with the share of a pack that is done."""

Weights = dict[str, np.ndarray]


def train_pack(
    cells: Sequence[Cell],
    report: Report | None = None,
    networks: dict[str, Weights] | None = None,
    unfinished: Unfinished | None = None,
) -> list[tuple[dict, dict[str, np.ndarray]]]:
    """Trains and measures a pack; returns a record and arrays for each cell, in order.

    networks: weights of the teacher networks that the cells start from, by key; trained here if absent.
    unfinished: where the pack is written from time to time, and goes on if it was interrupted; not kept by default.

    Raises ValueError if the cells do not form a pack, or a teacher network that is trained here diverges."""
    with torch.random.fork_rng(devices=[]):  # nothing here may draw from, or leave a trace in, the global generator
        prepared = prepare(cells, _weights(cells, networks or {}))
        read = readings(cells, prepared)
        recipe = recipe_of(cells)
        generators = [generator("training", cell.seed) for cell in cells]
        trajectories: list[list[dict]] = [[] for _ in cells]
        checkpoints = log_spaced(recipe.steps)
        ticks = range(0, recipe.steps, max(1, recipe.steps // TICKS))
        marks = {*checkpoints, *ticks}
        carried = None
        if unfinished is not None and (left := unfinished.read(cells)) is not None:
            carried, trajectories = left
        for snapshot in distill(
            prepared.teachers, prepared.students, recipe, generators, marks, prepared.fake, prepared.real, carried
        ):
            if snapshot.step in checkpoints:
                for trajectory, point in zip(trajectories, read.checkpoint(snapshot), strict=True):
                    trajectory.append({"step": snapshot.step} | point)
            if unfinished is not None and snapshot.step < recipe.steps and unfinished.due():
                unfinished.write(cells, snapshot.carry(), trajectories)
            if report is not None:
                report(0.9 * snapshot.step / recipe.steps)
        results = []
        for i, cell in enumerate(cells):
            results.append(_finish(cell, snapshot, i, prepared, trajectories[i], read))
            if report is not None:
                report(0.9 + 0.1 * (i + 1) / len(cells))
    return results


def _weights(cells: Sequence[Cell], given: dict[str, Weights]) -> list[Weights]:
    wanted = networks_of(cells)
    absent = [network for network in wanted if network.key not in given]
    for network in absent:
        (trained,) = train_networks([network])
        if isinstance(trained, ValueError):
            raise trained
        given = {**given, network.key: trained[1]}
    return [given[network_of(cell).key] for cell in cells] if wanted else []


def _finish(
    cell: Cell, snapshot: Snapshot, i: int, prepared: Prepared, trajectory: list[dict], read: Readings
) -> tuple[dict, dict[str, np.ndarray]]:
    arrays = {name: p[i].detach().numpy() for name, p in snapshot.students.parameters.items()}
    if cell.student != "mlp":
        arrays["rotation"] = prepared.rotations[i].numpy()
    record: dict = {"start": read.start_record(i)} if isinstance(read, Networks) else {}
    lost_at = int(snapshot.diverged_at[i])
    if lost_at >= 0:
        seen = [point for point in trajectory if point["step"] < lost_at]
        record |= {"status": "diverged", "diverged_at": lost_at, "measures": {}, "trajectory": _clean(seen)}
    else:
        measures = read.finish(cell, snapshot, i)
        record |= {"status": "done", "measures": _clean(measures), "trajectory": _clean(trajectory)}
    return record, arrays


def _clean(content):
    """NaN, which JSON does not have, as null: a measure that is not defined here."""
    if isinstance(content, dict):
        return {name: _clean(v) for name, v in content.items()}
    if isinstance(content, list):
        return [_clean(v) for v in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
