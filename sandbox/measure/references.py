"""A student against other maps than its teacher: rotated teachers, its own start, another student.

What copies the teacher is near T and far from the rest; what only has the teacher's law is far from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sandbox.measure.jackknife import Measured, jackknife
from sandbox.measure.pairing import (
    against_null,
    checked_pair,
    correlation_distance,
    displacement,
    independent_square,
    permutations,
    with_error,
)

ROTATION_ERROR = 1e-6
# Share of a student's variance below which what the teacher does not explain is rounding.
NO_RESIDUAL = 1e-20


def rotated(map: Callable[[Tensor], Tensor], z: Tensor, R: Tensor) -> Tensor:
    """(map ∘ R)(z_i) = map(R z_i), (n, d): a map of the same law with another pairing.

    Args:
        map: (n, d) -> (n, d). z: (n, d). R: orthogonal, (d, d).
    Raises:
        ValueError: R of the wrong shape or not orthogonal.
    """
    dim = z.shape[-1]
    if R.shape != (dim, dim):
        raise ValueError(f"R must have shape ({dim}, {dim}), got {tuple(R.shape)}")
    R = R.to(z)
    off = (R @ R.mT - torch.eye(dim, dtype=R.dtype)).abs().max().item()
    if not off <= ROTATION_ERROR:
        raise ValueError(f"R must be orthogonal, got R R^T - I as large as {off:g}")
    return map(z @ R.mT)


def displacements_to(
    student_x: Tensor, references: Mapping[str, Tensor], rng: np.random.Generator
) -> dict[str, Measured]:
    """Displacement from S(z) to each of several maps at the same z, by name; raises ValueError as `displacement`."""
    return {name: with_error(displacement, student_x, x, rng=rng) for name, x in references.items()}


def nearer(student_x: Tensor, first_x: Tensor, second_x: Tensor, rng: np.random.Generator) -> Measured:
    """rho(S, second) - rho(S, first): above 0 where S is nearer to the first map, 0 for points independent of both.

    The standard error is that of the difference at the same points. Raises ValueError as `displacement`."""
    s, first = checked_pair(student_x, first_x, names=("student_x", "first_x"))
    second = checked_pair(student_x, second_x, names=("student_x", "second_x"))[1]
    n = len(s)

    def difference(a: Tensor, b: Tensor, c: Tensor, apart: list[float]) -> float:
        return _moved(a, c) / apart[1] - _moved(a, b) / apart[0]

    def without(rows: np.ndarray) -> float:
        a, b, c = s[rows], first[rows], second[rows]
        return difference(a, b, c, [independent_square(a, b), independent_square(a, c)])

    apart = [independent_square(s, first), independent_square(s, second)]  # the same for every pairing
    orders = (torch.from_numpy(pi) for pi in permutations(n, rng))
    null = [difference(s, first[pi], second[pi], apart) for pi in orders]
    value = difference(s, first, second, apart)
    return Measured(*against_null(value, np.array(null)), float(jackknife(without, n, rng)), n)


def _moved(s: Tensor, t: Tensor) -> float:
    return (s - t).square().sum(-1).mean().item()


class Agreement(NamedTuple):
    """Two students of one teacher.

    each_other: displacement from one to the other. teacher: mean displacement of the two to the teacher.
    closer: teacher - each_other, above 0 where students agree more with each other than with the teacher.
    beyond: correlation distance of what the teacher does not explain linearly in each: 1 where the students have
    nothing in common but the teacher, 0 where they deviate from it alike; NaN where nothing is left to explain."""

    each_other: Measured
    teacher: Measured
    closer: Measured
    beyond: Measured


def student_agreement(
    first_x: Tensor, second_x: Tensor, teacher_x: Tensor, rng: np.random.Generator, basis: Tensor | None = None
) -> Agreement:
    """Do two students of one teacher agree more with each other than with the teacher?

    Students that deviate from the teacher independently are *farther* from each other than from it: 1 - rho is then the
    product of theirs in each eigenmode. So `closer` > 0 needs a common deviation, and `beyond` < 1 shows one also where
    `closer` < 0. All nulls shuffle the three maps against each other.

    Args:
        first_x, second_x, teacher_x: S_1(z_i), S_2(z_i), T(z_i), (n, d).
        basis: orthonormal (d, d), the directions in each of which T explains its own multiple; by default coordinates.
    Raises:
        ValueError: as `displacement`.
    """
    first, t = checked_pair(first_x, teacher_x, names=("first_x", "teacher_x"))
    second = checked_pair(second_x, teacher_x, names=("second_x", "teacher_x"))[0]
    n = len(t)

    def distances(a: Tensor, b: Tensor, c: Tensor, apart: list[float]) -> np.ndarray:
        each_other, one, two = (_moved(x, y) / q for (x, y), q in zip(((a, b), (a, c), (b, c)), apart, strict=True))
        return np.array([each_other, (one + two) / 2, (one + two) / 2 - each_other])

    def alone(a: Tensor, b: Tensor, c: Tensor) -> list[float]:
        return [independent_square(a, b), independent_square(a, c), independent_square(b, c)]

    def without(rows: np.ndarray) -> np.ndarray:
        maps = first[rows], second[rows], t[rows]
        return distances(*maps, alone(*maps))

    apart = alone(first, second, t)  # the same for every pairing
    orders = (torch.from_numpy(permutations(n, rng)) for _ in range(2))
    null = np.stack([distances(first[i], second[j], t, apart) for i, j in zip(*orders, strict=True)])
    se, value = jackknife(without, n, rng), distances(first, second, t, apart)
    each_other, teacher, closer = (
        Measured(*against_null(v, k), float(e), n) for v, k, e in zip(value, null.T, se, strict=True)
    )
    return Agreement(each_other, teacher, closer, _beyond(first, second, t, rng, basis))


def _beyond(first: Tensor, second: Tensor, t: Tensor, rng: np.random.Generator, basis: Tensor | None) -> Measured:
    if basis is not None:
        first, second, t = (x @ basis.double() for x in (first, second, t))
    left = [_unexplained(x, t) for x in (first, second)]
    if any(r.square().sum() <= NO_RESIDUAL * x.var(0).sum() * len(x) for r, x in zip(left, (first, second))):
        nan = float("nan")
        return Measured(nan, nan, nan, nan, nan, len(t))
    return with_error(correlation_distance, left[0], left[1], rng=rng)


def _unexplained(x: Tensor, t: Tensor) -> Tensor:
    """Residuals of x on t, a coefficient for each coordinate, centred, (n, d)."""
    x, t = x - x.mean(0), t - t.mean(0)
    variance = t.square().sum(0)
    return x - t * torch.where(variance > 0, (x * t).sum(0) / variance, 0.0)
