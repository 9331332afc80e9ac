"""Choices of a cell that are good each for itself, but not together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from sandbox.lab.options import NEUTRAL
from sandbox.student.network_flow import SIGMA_MIN

if TYPE_CHECKING:
    from sandbox.lab.cell import Cell

# What only a network has.
NETWORK_FIELDS = (
    "real_score",
    "reference",
    "start_error",
    "start_teacher_seed",
    "network_seed",
    "bottleneck",
    "skip",
    "sampling_steps",
    "fake_weighting",
    "gan",
)
# Whose learned fake score knows students of this kind.
FAKE_SCORES_OF = {
    "linear": ("exact", "levels", "moments", "none"),
    "affine": ("exact", "levels", "moments", "none"),
    "mlp": ("network", "moments", "none"),
}


def check_combinations(cell: Cell) -> None:
    """Raises ValueError, naming the field and its value, for choices that exclude each other."""
    for name in ("measures", "fake_score"):
        value = getattr(cell, name)
        if value in ("closed", "levels") and (cell.teacher, cell.student) != ("gaussian", "linear"):
            raise ValueError(
                f"{name} {value} needs a gaussian teacher and a linear student, got {cell.teacher} and {cell.student}"
            )
    if cell.fake_score == "levels" and cell.sigma_law == "log-uniform":
        raise ValueError("sigma_law must have levels (karras, log-grid) with fake_score levels, got 'log-uniform'")
    known = FAKE_SCORES_OF[cell.student]
    if cell.fake_score not in known:
        raise ValueError(
            f"fake_score must be one of {', '.join(known)} for student {cell.student}, got {cell.fake_score!r}"
        )
    _check_training(cell)
    _check_start(cell)
    if cell.student == "mlp":
        _check_network(cell)
        return
    for name in NETWORK_FIELDS:
        if _is_set(cell, name):
            raise ValueError(f"{name} {getattr(cell, name)} needs student mlp, got {cell.student!r}")


def _is_set(cell: Cell, name: str) -> bool:
    return getattr(cell, name) not in (None, NEUTRAL.get(name))


def _check_training(cell: Cell) -> None:
    if cell.momentum and cell.optimiser != "sgd":
        raise ValueError(f"momentum {cell.momentum} needs optimiser sgd (adam has beta1), got {cell.optimiser!r}")
    if cell.batch % cell.parts:
        raise ValueError(f"parts must divide the batch of {cell.batch}, got {cell.parts}")
    if cell.parts > 1 and cell.normaliser == "batch":
        raise ValueError(f"parts must be 1 with the batch's own normaliser, got {cell.parts}")
    if _is_set(cell, "pairs") and not cell.regression:
        raise ValueError(f"pairs means nothing with regression 0, got {cell.pairs}")
    for name in ("gan_critic", "gan_r1"):
        if _is_set(cell, name) and not cell.gan:
            raise ValueError(f"{name} means nothing with gan 0, got {getattr(cell, name)}")
    for name in ("real_score", "reference"):
        if cell.regression and _is_set(cell, name):
            raise ValueError(f"{name} network means other pairs than regression teaches, the analytic map's")
    if cell.gan and cell.fake_score != "network":
        raise ValueError(f"gan {cell.gan} needs fake_score network, whose features it reads, got {cell.fake_score!r}")
    if _is_set(cell, "fake_weighting") and cell.fake_score != "network":
        raise ValueError(f"fake_weighting {cell.fake_weighting} needs fake_score network, got {cell.fake_score!r}")


def _check_start(cell: Cell) -> None:
    if cell.rotation is not None:
        if cell.start != "rotated":
            raise ValueError(f"rotation {cell.rotation} needs start rotated, got {cell.start!r}")
        if not cell.rotation <= math.pi:
            raise ValueError(f"rotation must be in [0, pi], got {cell.rotation}")
    if cell.start_teacher_seed is not None:
        replace(
            cell, teacher_seed=cell.start_teacher_seed, start_teacher_seed=None
        )  # may raise: a family without seeds
        for name in ("real_score", "reference"):
            if _is_set(cell, name):
                raise ValueError(f"{name} network needs a start from the teacher's own network, not start_teacher_seed")


def _check_network(cell: Cell) -> None:
    if cell.start_error and cell.start != "teacher":
        raise ValueError(f"start_error {cell.start_error} needs start teacher, got {cell.start!r}")
    if cell.bottleneck is not None and cell.bottleneck > cell.dim:
        raise ValueError(f"bottleneck must be <= dim {cell.dim}, got {cell.bottleneck}")
    if cell.start == "rotated" and cell.skip == "fixed":
        raise ValueError("skip must be trained or off for a start that is rotated, got 'fixed'")
    if _is_set(cell, "skip") and cell.start == "residual":
        raise ValueError(
            f"skip {cell.skip} needs another start than residual, whose linear path is the exact denoiser's"
        )
    if cell.sampling_steps > 1:
        if cell.skip != "fixed" or cell.start_error or cell.start != "teacher":
            raise ValueError(
                f"sampling_steps {cell.sampling_steps} needs start teacher with skip fixed and no start_error"
            )
        if not cell.sigma_init > SIGMA_MIN:
            raise ValueError(
                f"sigma_init must be > {SIGMA_MIN} with sampling_steps {cell.sampling_steps}, got {cell.sigma_init}"
            )
        if cell.antithetic or cell.regression:
            raise ValueError(f"sampling_steps {cell.sampling_steps} is not there with antithetic noise or regression")
