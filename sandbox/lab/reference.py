"""What every student of one teacher is compared with, and the random streams of a cell's purposes."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import lru_cache

import torch
from torch import Tensor

from sandbox.lab.cell import Cell
from sandbox.lab.options import TEACHER_OPTIONS
from sandbox.measure.law import Calibration, calibrate
from sandbox.measure.record import JACOBIAN_POINTS
from sandbox.teacher.flow import teacher_jacobian, teacher_map

# Held-out points of every measurement, one set per dimension for all students, and the level where the reference map
# starts. Part of the algorithm: a change of either raises ALGORITHM_VERSION.
HELD_OUT = 1024
# Points that a few-step student has fresh noise for: a measure's most.
STORED = 4096
REFERENCE_SIGMA = 80.0


def seed_of(purpose: str, number: int) -> int:
    """A generator's seed for a purpose (`training`, `start`, `held-out`, ...): streams of different purposes do not
    overlap."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{number}".encode()).digest()[:8], "big") >> 1


def generator(purpose: str, number: int, device: str = "cpu") -> torch.Generator:
    """A generator for a purpose; one seed gives other numbers on another kind of device."""
    return torch.Generator(device).manual_seed(seed_of(purpose, number))


def held_out(dim: int) -> Tensor:
    """Standard normal points that no student was trained on, (HELD_OUT, dim) float64."""
    return torch.randn(HELD_OUT, dim, generator=generator("held-out", dim), dtype=torch.float64)


def stored_noise(dim: int, steps: int) -> Tensor:
    """The fresh noise of few-step students beside the held-out points, (STORED, (steps - 1) dim) float64."""
    draw = generator("fresh noise", dim)
    return torch.randn(STORED, (steps - 1) * dim, generator=draw, dtype=torch.float64)


def teacher_pairs(cell: Cell, number: int) -> tuple[Tensor, Tensor]:
    """Noise that is not held out, (number, dim) float64, and the teacher's map of it."""
    return _teacher_pairs(_teacher_alone(cell), number)


def _teacher_alone(cell: Cell) -> Cell:
    return Cell(**{name: getattr(cell, name) for name in ("teacher", "dim", *TEACHER_OPTIONS)})


@lru_cache(maxsize=8)
def _teacher_pairs(cell: Cell, number: int) -> tuple[Tensor, Tensor]:
    z = torch.randn(number, cell.dim, generator=generator("pairs", cell.dim), dtype=torch.float64)
    return z, teacher_map(cell.mixture(), z, REFERENCE_SIGMA)


@dataclasses.dataclass(frozen=True)
class Reference:
    """What every student of one teacher is compared with."""

    z: Tensor
    x: Tensor
    spectrum: Tensor
    calibration: Calibration


def reference_of(cell: Cell) -> Reference:
    """The teacher's map, Jacobian spectrum and law calibration at the held-out points."""
    return _reference(_teacher_alone(cell))


@lru_cache(maxsize=8)
def _reference(cell: Cell) -> Reference:
    teacher, z = cell.mixture(), held_out(cell.dim)
    return Reference(
        z,
        teacher_map(teacher, z, REFERENCE_SIGMA),
        torch.linalg.svdvals(teacher_jacobian(teacher, z[:JACOBIAN_POINTS], REFERENCE_SIGMA)),
        calibrate(teacher, HELD_OUT, seed_of("calibration", cell.dim)),
    )
