"""How many students fit into memory together."""

from __future__ import annotations

import os

import torch

from sandbox.lab.cell import Cell

# Share of what is free that training may take, and parameters' and numbers' bytes.
SHARE, SINGLE, DOUBLE = 0.5, 4, 8

# Arrays of a network's size that are alive at once: student, average, start, fake score, two moments each, gradients
# and what a step makes of them. Arrays of a batch's size, per block and outside them, that a backward pass keeps.
COPIES, PER_BLOCK, AROUND, POINTS = 32, 7, 5, 20
# Passes of a batch that a step with a critic keeps: denoising, real, fake, and the derivative of the real one.
CRITIC = 4
# The same for linear students: matrices, and arrays of a batch's points.
MATRICES, LINEAR_POINTS = 24, 16


def student_bytes(cell: Cell) -> float:
    """An estimate, rather too large than too small, of the memory that a student takes while its pack trains."""
    d, batch = cell.dim, max(cell.batch, cell.fake_batch or 0, cell.teacher_batch or 0)
    if cell.student != "mlp":
        levels = cell.bins or 1000 if cell.fake_score == "levels" else 0
        return DOUBLE * (MATRICES * d**2 + 4 * levels * d**2 + LINEAR_POINTS * batch * d)
    width, depth = cell.width or 1, cell.depth or 1
    parameters = 2 * width * d + depth * (2 * width**2 + 10 * width) + width + d
    kept = batch * (width * (PER_BLOCK * depth + AROUND) + POINTS * d) * (CRITIC if cell.gan else 1)
    return SINGLE * (COPIES * parameters + kept)


def free_bytes(device: str = "cpu") -> float:
    """Memory that is free now, on the device or in this machine."""
    if device.startswith("cuda"):
        return float(torch.cuda.mem_get_info()[0])
    try:
        with open("/proc/meminfo") as file:
            found = {line.split(":")[0]: int(line.split()[1]) for line in file}
        return 1024.0 * found["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):  # another system than Linux
        return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def fitting(cell: Cell, memory: float) -> int:
    """Students like this one that fit into so many bytes, at least one."""
    return max(1, int(SHARE * memory / student_bytes(cell)))
