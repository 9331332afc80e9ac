"""How free a network student is at the two ends of its training, how freely it moves on its way, and its Jacobian
there: few numbers, read cheaply enough for every student.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sandbox.measure.freedom import Freedom, available, net, used
from sandbox.measure.jacobian import curl, effective_rank, jacobian
from sandbox.measure.record import JACOBIAN_POINTS
from sandbox.student.networks import Pack

# Points, and random directions of the parameters, at the ends. The error is then the directions': 0.02 to 0.03 where
# half of a change is free.
POINTS, DIRECTIONS = 512, 8
# Functions that phi is sought among above this dimension, where the default number would take seconds; the fraction
# comes out larger by 0.015 at d = 32.
WIDE, FEWER = 32, 64
# Functions at a checkpoint, its points, and fewer above a dimension, where they are dear. In the plane 256 points are
# too few for 64 functions: a student whose motion is 0.45 free by 512 points read 0.82.
PATH_SIZE, PATH_POINTS, PATH_FEWER, PATH_WIDE = 64, 512, 256, 16
# The largest dimension in which a Jacobian is cheap enough for every checkpoint.
LARGEST = 128


def training_freedom(start: Pack, end: Pack, index: int, z: Tensor, teacher, seed: int = 0) -> dict[str, float]:
    """The freedom of one student before and after its training, each with its standard error (name_se) and null.

        start_available_freedom, end_available_freedom   share of random parameter changes that leave the law as it is
        net_freedom                                      of S_end - S_start, halfway: 0 where growth outweighs all else

    NaN in too many dimensions for 512 points, and for a student that has not moved or sends every z to one point.

    Args:
        start, end: packs of maps z -> x; index: the student. z: standard normal points, (n, d), n >= 512.
        teacher: whose law the potentials are adapted to. seed: of directions and random potentials.
    """
    z, size = z[:POINTS].double(), None if z.shape[-1] <= WIDE else FEWER
    record: dict[str, float] = {}
    for name, pack in (("start", start), ("end", end)):
        found = partial(available, pack, z, teacher, DIRECTIONS, seed, index, size)
        record |= _named(f"{name}_available_freedom", found)
    with torch.no_grad():
        first, last = (pack.member(index)(z.to(_kind(pack))).double() for pack in (start, end))
    return record | _named("net_freedom", lambda: net(first, last, teacher, seed, size))


def used_freedom(averaged: Tensor, current: Tensor, teacher, seed: int = 0) -> float:
    """The freedom used by the latest updates: the fraction of S(current) - S(averaged) at the points S(averaged).

    An average of weight a lags behind the weights by the latest 1 / (1 - a) updates, each weighed by a to the power of
    its age: motion along the path, with less minibatch noise than the last update's alone, and known from what training
    carries anyway. At 512 points, 256 for d > 16. NaN where both are the same (no average, no update), and for d > 127.

    Args:
        averaged, current: S(z) by the averaged and by the latest weights, both (n, d). Others: as `training_freedom`.
    """
    some = slice(0, PATH_POINTS if averaged.shape[-1] <= PATH_WIDE else PATH_FEWER)
    return _value(lambda: used(averaged[some], current[some], teacher, seed, PATH_SIZE, nulls=0).fraction)


def path_jacobian(student: Callable[[Tensor], Tensor], z: Tensor) -> dict[str, float]:
    """student_effective_rank and student_curl of dS/dz, means over the first 16 of the points z (n, d).

    NaN for d > 128, for a derivative that is not finite, or zero."""
    record = {"student_effective_rank": math.nan, "student_curl": math.nan}
    if z.shape[-1] > LARGEST:
        return record
    try:
        J = jacobian(student, z[:JACOBIAN_POINTS])
        return {
            "student_effective_rank": effective_rank(torch.linalg.svdvals(J)).mean().item(),
            "student_curl": curl(J).mean().item(),
        }
    except ValueError:
        return record


def _kind(pack: Pack) -> torch.dtype:
    return next(iter(pack.parameters.values())).dtype


def _value(measure: Callable[[], float]) -> float:
    """NaN for points or changes that have no freedom fraction."""
    try:
        return measure()
    except (ValueError, torch.linalg.LinAlgError):
        return math.nan


def _named(name: str, measure: Callable[[], Freedom]) -> dict[str, float]:
    try:
        found = measure()
    except (ValueError, torch.linalg.LinAlgError):
        return dict.fromkeys((name, f"{name}_se", f"{name}_null"), math.nan)
    return {name: found.fraction, f"{name}_se": found.error, f"{name}_null": found.null}
