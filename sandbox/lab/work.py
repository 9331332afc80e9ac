"""The work of one pack: cells in, finished records out. What a worker does, wherever it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from sandbox.lab.cell import Cell
from sandbox.lab.provenance import trained_on
from sandbox.lab.readings import Networks, Readings, readings
from sandbox.lab.reference import generator
from sandbox.lab.students import Prepared, fake_on, on_cuda, prepare, recipe_of
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
    device: str = "cpu",
) -> list[tuple[dict, dict[str, np.ndarray]]]:
    """Trains and measures a pack; returns a record and arrays for each cell, in order.

    networks: weights of the teacher networks that the cells start from, by key; trained here if absent.
    unfinished: where the pack is written from time to time, and goes on if it was interrupted; not kept by default.
    device: where networks train, on a CUDA device as a CUDA graph; they are measured on the CPU, where linear students
        also train.

    Raises ValueError if the cells do not form a pack, or a teacher network that is trained here diverges."""
    device = device if cells[0].student == "mlp" else "cpu"
    with torch.random.fork_rng(devices=[]):  # nothing here may draw from, or leave a trace in, the global generator
        prepared = prepare(cells, _weights(cells, networks or {}, device), device)
        read = readings(cells, prepared.to("cpu"))
        recipe = recipe_of(cells)
        generators = [generator("training", cell.seed, device) for cell in cells]
        trajectories: list[list[dict]] = [[] for _ in cells]
        checkpoints = log_spaced(recipe.steps)
        ticks = range(0, recipe.steps, max(1, recipe.steps // TICKS))
        marks = {*checkpoints, *ticks}
        carried = None
        if unfinished is not None and (left := unfinished.read(cells)) is not None:
            carried, trajectories = left
            carried = carried.to(device)
        for snapshot in distill(
            prepared.teachers,
            prepared.students,
            recipe,
            generators,
            marks,
            prepared.fake,
            prepared.real,
            carried,
            captured=on_cuda(device),
            terms=prepared.terms,
        ):
            if snapshot.step in checkpoints:
                seen = _on_cpu(snapshot)
                for trajectory, point in zip(trajectories, read.checkpoint(seen), strict=True):
                    trajectory.append({"step": snapshot.step} | point)
            if unfinished is not None and snapshot.step < recipe.steps and unfinished.due():
                unfinished.write(cells, snapshot.carry(), trajectories)
            if report is not None:
                report(0.9 * snapshot.step / recipe.steps)
        results = []
        for i, cell in enumerate(cells):
            results.append(_finish(cell, seen, i, prepared, trajectories[i], read, device))
            if report is not None:
                report(0.9 + 0.1 * (i + 1) / len(cells))
    return results


def _on_cpu(snapshot: Snapshot) -> Snapshot:
    return replace(
        snapshot,
        students=snapshot.students.to("cpu"),
        diverged_at=snapshot.diverged_at.cpu(),
        fake=fake_on(snapshot.fake, "cpu"),
    )


def _weights(cells: Sequence[Cell], given: dict[str, Weights], device: str) -> list[Weights]:
    wanted = networks_of(cells)
    absent = [network for network in wanted if network.key not in given]
    for network in absent:
        (trained,) = train_networks([network], device=device)
        if isinstance(trained, ValueError):
            raise trained
        given = {**given, network.key: trained[1]}
    return [given[network_of(cell).key] for cell in cells] if wanted else []


def _finish(
    cell: Cell,
    snapshot: Snapshot,
    i: int,
    prepared: Prepared,
    trajectory: list[dict],
    read: Readings,
    device: str,
) -> tuple[dict, dict[str, np.ndarray]]:
    arrays = {name: p[i].detach().numpy() for name, p in snapshot.students.parameters.items()}
    if cell.student != "mlp" or cell.start == "rotated":
        arrays["rotation"] = prepared.rotations[i].numpy()
    record: dict = {"trained": trained_on(device)}
    if isinstance(read, Networks):
        record["start"] = read.start_record(i)
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
