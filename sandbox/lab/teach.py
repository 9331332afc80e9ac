"""Teacher networks: what many students start from is trained once, stored, and handed to them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sandbox.lab.cell import ALGORITHM_VERSION, Cell
from sandbox.lab.memory import fitting
from sandbox.lab.options import TEACHER_OPTIONS
from sandbox.lab.provenance import trained_on
from sandbox.lab.reference import generator
from sandbox.lab.sweep import core_seconds, network_pass
from sandbox.student.denoiser import Denoiser
from sandbox.student.distill import DIVERGED
from sandbox.student.networks import Pack
from sandbox.student.pretrain import denoiser_error, pretrain
from sandbox.teacher.mixture import GaussianMixture

# Levels at which a teacher network's relative error is recorded, and points per level.
ERROR_LEVELS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 80.0)
ERROR_POINTS = 1024
TICKS = 50

SHARED = (
    "teacher",
    "dim",
    *TEACHER_OPTIONS,
    "width",
    "depth",
    "bottleneck",
    "teacher_steps",
    "teacher_lr",
    "teacher_batch",
)


@dataclass(frozen=True)
class TeacherNetwork:
    """A denoiser fitted to a cell's teacher: everything that changes its weights, and nothing else.

    cell: a plain mlp cell that holds the fields of `SHARED`. seed: of its first weights and of its training."""

    cell: Cell
    seed: int
    algorithm_version: int = ALGORITHM_VERSION

    @property
    def key(self) -> str:
        """Its name in the store."""
        fields = {name: getattr(self.cell, name) for name in SHARED if getattr(self.cell, name) is not None}
        text = json.dumps({**fields, "seed": self.seed, "algorithm_version": self.algorithm_version}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def sigma_data(self) -> float:
        """Root mean variance of the teacher's coordinates."""
        return math.sqrt(torch.diagonal(self.cell.mixture().cov).mean().item())

    def untrained(self) -> Denoiser:
        """The network before its first update."""
        c = self.cell
        draw = generator("network", self.seed)
        return Denoiser(c.dim, c.width or 0, c.depth or 0, draw, self.sigma_data, c.bottleneck)


def network_of(cell: Cell) -> TeacherNetwork:
    """The teacher network that an mlp cell's student starts at, of its own teacher or of another.

    Raises ValueError for a cell of another student."""
    if cell.student != "mlp":
        raise ValueError(f"student must be mlp to have a teacher network, got {cell.student!r}")
    fields = {name: getattr(cell, name) for name in SHARED}
    if cell.start_teacher_seed is not None:
        fields["teacher_seed"] = cell.start_teacher_seed
    plain = Cell(**fields, student="mlp", fake_score="network")
    return TeacherNetwork(plain, cell.seed if cell.network_seed is None else cell.network_seed)


def networks_of(cells: Sequence[Cell]) -> list[TeacherNetwork]:
    """The distinct teacher networks that cells need, in order."""
    return list(dict.fromkeys(network_of(cell) for cell in cells if cell.student == "mlp"))


def network_packs(
    networks: Sequence[TeacherNetwork], size: int, memory: float = math.inf
) -> list[list[TeacherNetwork]]:
    """Networks grouped into packs of one teacher and shape, each of at most `size` and fit for so many bytes."""
    shelves: dict[Cell, list[TeacherNetwork]] = {}
    for network in networks:
        shelves.setdefault(network.cell, []).append(network)
    packs = []
    for cell, shelf in shelves.items():
        most = size if memory == math.inf else min(size, fitting(cell, memory))
        chunk = math.ceil(len(shelf) / math.ceil(len(shelf) / most))
        packs += [shelf[i : i + chunk] for i in range(0, len(shelf), chunk)]
    return packs


Trained = tuple[dict, dict[str, np.ndarray]]
"""A teacher network's record and its weights."""


def train_networks(networks: Sequence[TeacherNetwork], report=None, device: str = "cpu") -> list[Trained | ValueError]:
    """Trains a pack of teacher networks; each one's record and weights, or for one that diverged what to say of it."""
    cell = networks[0].cell
    with torch.random.fork_rng(devices=[]):
        # One teacher per network: a shared one rounds differently.
        teachers = GaussianMixture.stack([network.cell.mixture() for network in networks]).to(device)
        pack = Pack.of([network.untrained() for network in networks]).to(device)
        generators = [generator("pretraining", network.seed, device) for network in networks]
        steps = cell.teacher_steps or 0
        ticks = {steps, *range(0, steps, max(1, steps // TICKS))}
        for step, fitted in pretrain(  # noqa: B007 - the last one is the result
            teachers,
            pack,
            steps,
            generators,
            cell.teacher_lr or 0,
            cell.teacher_batch or 0,
            checkpoints=ticks,
            captured=device != "cpu",
        ):
            if report is not None and steps:
                report(step / steps)
        fitted, trained = fitted.to("cpu"), trained_on(device)
        return [_result(network, fitted, i, trained) for i, network in enumerate(networks)]


def _result(network: TeacherNetwork, fitted: Pack, i: int, trained: dict[str, str]) -> Trained | ValueError:
    weights = {name: p[i].detach().numpy() for name, p in fitted.parameters.items()}
    if not all((np.abs(w) < DIVERGED).all() for w in weights.values()):  # false for a NaN
        return ValueError(f"teacher_lr {network.cell.teacher_lr} made a teacher network diverge")
    error = denoiser_error(
        fitted.member(i), network.cell.mixture(), ERROR_LEVELS, ERROR_POINTS, generator("network error", network.seed)
    )
    record = {
        "cell": json.loads(network.cell.canonical()),
        "seed": network.seed,
        "levels": list(ERROR_LEVELS),
        "error": error.tolist(),
        "trained": trained,
    }
    return record, weights


def pack_of(networks: Sequence[TeacherNetwork], weights: Sequence[dict[str, np.ndarray]]) -> Pack:
    """The pack of trained denoisers."""
    parameters = {name: torch.stack([_tensor(w[name]) for w in weights]) for name in weights[0]}
    return Pack(networks[0].untrained(), parameters)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def cost(networks: Sequence[TeacherNetwork]) -> float:
    """A pack's training time in milliseconds of one laptop core."""
    cell = networks[0].cell
    return (cell.teacher_steps or 0) * network_pass(cell, len(networks), cell.teacher_batch)


def core_hours(cells: Sequence[Cell], size: int = 16) -> float:
    """Expected hours of one laptop core for cells and the teacher networks that they start from, in packs of `size`."""
    lessons = sum(map(cost, network_packs(networks_of(cells), size)))
    return lessons / 3.6e6 + sum(core_seconds(cell, size) for cell in cells) / 3600
