"""Example images in tables: where a finished student and its teacher send the same few z, as text that a figure draws.

An image is one column of hexadecimal digits, two a pixel, row by row: 0 to 255 for -RANGE to RANGE, in units of the
mean standard deviation of a coordinate. In a table of thousands of students a number for each pixel would be a
million.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

import numpy as np
from torch import Tensor

from sandbox.lab.cell import Cell
from sandbox.lab.reference import REFERENCE_SIGMA, held_out
from sandbox.lab.remeasure import student_of, teacher_cell
from sandbox.lab.store import Store, StoreError
from sandbox.teacher.flow import teacher_map

COUNT = 6
# Grey values beyond are shown as the nearest. A step is RANGE / 127.5, .02.
RANGE = 3.0
# The smallest side on which there is something to see.
SMALLEST = 4
COLUMNS = tuple(f"example_{who}_{i}" for who in ("teacher", "student") for i in range(COUNT))


def examples(store: Store, cell: Cell) -> dict[str, str]:
    """The columns `example_teacher_i` and `example_student_i`, for the first held-out z, of a finished student.

    None for teachers other than patches, or patches of a side below SMALLEST, or, with a warning that names the
    student, where its weights are not stored or do not fit."""
    if cell.teacher != "patches" or cell.dim < SMALLEST**2:
        return {}
    z = held_out(cell.dim)[:COUNT]
    try:
        points = student_of(cell, store.arrays(cell))(z).detach()
    except (StoreError, ValueError) as problem:
        warnings.warn(f"the examples of student {cell.key} are left out ({problem})", stacklevel=2)
        return {}
    scale = math.sqrt(cell.mixture().cov.diagonal().mean().item())
    texts = [as_text(x / scale) for x in (*_teacher_points(teacher_cell(cell)), *points)]
    return dict(zip(COLUMNS, texts, strict=True))


@lru_cache(maxsize=16)
def _teacher_points(cell: Cell) -> Tensor:
    return teacher_map(cell.mixture(), held_out(cell.dim)[:COUNT], REFERENCE_SIGMA)


def as_text(x: Tensor) -> str:
    """A point (d,), in standard deviations, as hexadecimal digits."""
    levels = (x.double().numpy() + RANGE) * (255 / (2 * RANGE))
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8).tobytes().hex()


def as_image(text: str) -> np.ndarray:
    """The image (side, side) that a column holds, in standard deviations.

    Raises ValueError for text that is no square image."""
    levels = np.frombuffer(bytes.fromhex(text), np.uint8)
    side = math.isqrt(len(levels))
    if not side or side**2 != len(levels):
        raise ValueError(f"an example must hold side^2 pixels, got {len(levels)}")
    return levels.reshape(side, side) * (2 * RANGE / 255) - RANGE
