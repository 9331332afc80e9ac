r"""Which part of a displacement is made in which modes: the teacher's eigenmodes, or between and within the modes of a
mixture.

With a_i, b_i the modes of S(z_i), T(z_i), c_a and c_b the mean of each map's points in a mode, and u, v the offsets
from it, S = c_a + u and T = c_b + v, so that

    S - T = B + W,      B = c_a - c_b,      W = u - v
    E|S - T|^2 = E<B, S - T> + E<W, S - T>
               = (E|B|^2 + E<B, W>) + (E|W|^2 + E<B, W>)

The parts of each line add up, and the cross term goes half to each: 2 E<B, W> = -2 E<c_a, v> - 2 E<u, c_b>, because
offsets average to zero in their own map's modes. It vanishes where the labels agree (then v averages to zero in a's
modes, and u in b's), and in the mean over pairings of independent points. It does not vanish where a point crosses
from one mode to its neighbour: there B is large although the point hardly moved, W is nearly -B, and only with the
cross term do both parts stay as small as the movement. A part is negative where it makes up for the other.

Independent pairs read E|B|^2 = tr Cov c_a + tr Cov c_b + |m_S - m_T|^2 between the modes and E|W|^2 = E|u|^2 + E|v|^2
within, which add up to the whole's (law of total variance), so that the displacement is the mean of the two calibrated
parts with these weights. In the mean over all permutations of n points both are exact, at any d and n. Labels are hard:
responsibilities are no conditioning, and offsets from soft centres would not be uncorrelated with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sandbox.measure.jackknife import Measured, jackknife
from sandbox.measure.pairing import against_null, checked_pair, independent_distance, permutations


class ModeParts(NamedTuple):
    """A displacement and its parts, whole = between + within.

    between_own, within_own: each part over what independent pairs read in it: 0 for a copy, 1 for independent pairs;
    NaN where independent pairs read 0. cross: 2 E<B, W> over the whole's denominator, half of which is in each part."""

    whole: Measured
    between: Measured
    within: Measured
    between_own: Measured
    within_own: Measured
    cross: Measured


def mode_parts(
    student_x: Tensor, teacher_x: Tensor, student_modes: Tensor, teacher_modes: Tensor, rng: np.random.Generator
) -> ModeParts:
    """The displacement between and within modes, each with its null and its standard error.

    Args:
        student_x, teacher_x: S(z_i), T(z_i), (n, d). student_modes, teacher_modes: their labels, (n,) integers >= 0.
    Raises:
        ValueError: as `displacement`, and labels of another shape, type or sign.
    """
    s, t = checked_pair(student_x, teacher_x)
    for name, labels in (("student_modes", student_modes), ("teacher_modes", teacher_modes)):
        if labels.shape != s.shape[:1] or labels.is_floating_point() or labels.min() < 0:
            raise ValueError(
                f"{name} must be {len(s)} integers >= 0, got {labels.dtype} of shape {tuple(labels.shape)}"
            )
    if independent_distance(s, t).sum() == 0:
        raise ValueError("student_x and teacher_x must not both be constant")
    n, a, b = len(s), student_modes.numpy(), teacher_modes.numpy()
    # A common origin, so that products of centres are not differences of large numbers.
    origin = (s.mean(0) + t.mean(0)) / 2
    x, y = (s - origin).numpy(), (t - origin).numpy()
    parts = _parts_by_pairing(x, y, a, b)
    value, null = parts(np.arange(n)), np.stack([parts(pi) for pi in permutations(n, rng)])

    def without(rows: np.ndarray) -> np.ndarray:
        return _parts_by_pairing(x[rows], y[rows], a[rows], b[rows])(np.arange(len(rows)))

    se = jackknife(without, n, rng)
    return ModeParts(*(Measured(*against_null(v, k), float(e), n) for v, k, e in zip(value, null.T, se, strict=True)))


def _parts_by_pairing(s: np.ndarray, t: np.ndarray, a: np.ndarray, b: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """The fields of `ModeParts` for S(z_i) against T(z_pi(i)), (6,), as a function of pi."""
    c_a, c_b = _centres(s, a), _centres(t, b)
    u, v = s - c_a, t - c_b
    alone_between = c_a.var(0).sum() + c_b.var(0).sum() + np.square(c_a.mean(0) - c_b.mean(0)).sum()
    alone_within = _product(u, u) + _product(v, v)
    alone = alone_between + alone_within
    over = np.array([alone, alone, alone, alone_between, alone_within, alone])

    def parts(pi: np.ndarray) -> np.ndarray:
        B, W = c_a - c_b[pi], u - v[pi]
        cross = 2 * _product(B, W)
        between, within = _product(B, B) + cross / 2, _product(W, W) + cross / 2
        with np.errstate(invalid="ignore", divide="ignore"):  # NaN where independent pairs read 0
            return np.array([between + within, between, within, between, within, cross]) / over

    return parts


def _product(x: np.ndarray, y: np.ndarray) -> float:
    """mean_i <x_i, y_i>."""
    return float(np.einsum("ij,ij->", x, y)) / len(x)


def _centres(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean of each point's mode, (n, d)."""
    _, mode, count = np.unique(labels, return_inverse=True, return_counts=True)
    member = np.zeros((len(count), len(x)))
    member[mode, np.arange(len(x))] = 1 / count[mode]
    return (member @ x)[mode]


def eigenmode_displacements(
    student_x: Tensor, teacher_x: Tensor, basis: Tensor, rng: np.random.Generator
) -> list[Measured]:
    """`mode_displacement` in each of the m columns of an orthonormal basis (d, m), with its null and standard error.

    Raises ValueError as `displacement`, except that a direction in which both maps are constant reads NaN."""
    s, t = (x @ basis.double() for x in checked_pair(student_x, teacher_x))

    def moved(first: Tensor, second: Tensor) -> np.ndarray:
        return (first - second).square().mean(0).numpy()

    def without(rows: np.ndarray) -> np.ndarray:
        return moved(s[rows], t[rows]) / independent_distance(s[rows], t[rows]).numpy()

    n, apart = len(s), independent_distance(s, t).numpy()
    with np.errstate(invalid="ignore"):
        null = np.stack([moved(s, t[torch.from_numpy(pi)]) / apart for pi in permutations(n, rng)])
        value, se = moved(s, t) / apart, jackknife(without, n, rng)
    return [Measured(*against_null(v, k), float(e), n) for v, k, e in zip(value, null.T, se, strict=True)]
