"""Arrays of pairs (z, S(z), T(z)) from any model, and sums over them that are taken in chunks.

Sizes are a user's, up to 50 000 images of 3 x 64 x 64: arrays stay in the precision that they came in, and only a chunk
of them at a time is float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sandbox.measure.pairing import SHUFFLES

LEAST = 16
# Memory of a chunk of rows, small enough that the allocator keeps it, and points in a block that is shuffled.
CHUNK_BYTES = 2**22
BLOCK = 256

# The arrays that must be there, and what they may be called.
NAMES = {"z": ("z",), "student": ("student", "S"), "teacher": ("teacher", "T")}


@dataclass(frozen=True)
class Pairs:
    """Two maps' outputs at the same noise, in the precision that they came in.

    Args:
        z: noise, (n, d_z). student, teacher: S(z), T(z), (n, d). student_modes, teacher_modes: labels >= 0, (n,).
        jacobian_student, jacobian_teacher: at m points, (m, d, d_z).
    Raises:
        ValueError: shapes that differ, n < 16, points that are not finite, or one of two arrays that belong together.
    """

    z: Tensor
    student: Tensor
    teacher: Tensor
    student_modes: Tensor | None = None
    teacher_modes: Tensor | None = None
    jacobian_student: Tensor | None = None
    jacobian_teacher: Tensor | None = None

    def __post_init__(self):
        if self.student.shape != self.teacher.shape:
            raise ValueError(
                f"student and teacher must have one shape, got {tuple(self.student.shape)} and "
                f"{tuple(self.teacher.shape)}"
            )
        if self.student.ndim != 2 or self.z.ndim != 2 or len(self.z) != len(self.student):
            raise ValueError(
                f"z and student must have shapes (n, d_z) and (n, d), got {tuple(self.z.shape)} and "
                f"{tuple(self.student.shape)}"
            )
        if min(self.d, self.z.shape[-1]) < 1:
            raise ValueError(f"d must be >= 1, got {min(self.d, self.z.shape[-1])}")
        if self.n < LEAST:
            raise ValueError(f"n must be >= {LEAST}, got {self.n}")
        for name in ("z", "student", "teacher", "jacobian_student", "jacobian_teacher"):
            x = getattr(self, name)
            if x is not None and (
                bad := sum(int((~torch.isfinite(part.flatten(1))).any(-1).sum()) for part in _parts(x))
            ):
                raise ValueError(f"{name} must be finite, got {bad} of {len(x)} rows that are not")
        self._check_modes()
        self._check_jacobians()

    def _check_modes(self) -> None:
        one, other = self.student_modes, self.teacher_modes
        if one is None and other is None:
            return
        for name, labels in (("student_modes", one), ("teacher_modes", other)):
            if labels is None:
                raise ValueError(f"{name} must be there beside the other's, got none")
            if labels.shape != (self.n,):
                raise ValueError(f"{name} must have shape ({self.n},), got {tuple(labels.shape)}")
            if labels.is_floating_point() or labels.is_complex() or labels.min() < 0:
                worst = labels.dtype if labels.is_floating_point() else labels.min().item()
                raise ValueError(f"{name} must be integers >= 0, got {worst}")

    def _check_jacobians(self) -> None:
        one, other = self.jacobian_student, self.jacobian_teacher
        want = (self.d, self.z.shape[-1])
        for name, J in (("jacobian_student", one), ("jacobian_teacher", other)):
            if J is not None and (J.ndim != 3 or J.shape[1:] != want or not len(J)):
                raise ValueError(f"{name} must have shape (m, {want[0]}, {want[1]}), got {tuple(J.shape)}")

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Pairs:
        """Pairs from arrays by name: z, student (or S), teacher (or T), and the optional ones; images are flattened.

        Raises ValueError as the class does, and for an array that is missing or does not hold real numbers."""
        found = {}
        for name, names in NAMES.items():
            given = [alias for alias in names if alias in arrays]
            if len(given) != 1:
                what = "both" if given else f"only {', '.join(sorted(arrays)) or 'nothing'}"
                raise ValueError(f"{name} must be given once, as {' or '.join(names)}, got {what}")
            found[name] = _real(name, arrays[given[0]])
            found[name] = found[name].reshape(len(found[name]), -1) if len(found[name]) else found[name]
        optional = [f.name for f in fields(cls) if f.name not in NAMES]
        found |= {name: _real(name, arrays[name]) for name in optional if name in arrays}
        return cls(**found)

    @property
    def n(self) -> int:
        return len(self.student)

    @property
    def d(self) -> int:
        return self.student.shape[-1]

    def some(self, most: int, rng: np.random.Generator) -> Pairs:
        """At most so many random points, in float64: a file's order may mean something."""
        index = torch.from_numpy(rng.permutation(self.n)[:most])
        z, student, teacher = (x[index].double() for x in (self.z, self.student, self.teacher))
        ours, theirs = (None if x is None else x[index] for x in (self.student_modes, self.teacher_modes))
        return Pairs(z, student, teacher, ours, theirs, self.jacobian_student, self.jacobian_teacher)

    @cached_property
    def moments(self) -> Moments:
        return Moments.of(self.student, self.teacher)

    @cached_property
    def shuffled_products(self) -> np.ndarray:
        """mean_i <s_i - m_S, t_pi(i) - m_T> for 64 shuffles pi of a fixed stream, without a matrix of all pairs.

        A shuffle sends random blocks of 256 points to other random blocks, each shuffled by itself; the blocks are the
        same in all 64, which moves their mean by about 1/sqrt(256) of their spread."""
        m, total, rng = self.moments, np.zeros(SHUFFLES), np.random.default_rng(0)
        blocks = -(-self.n // BLOCK)
        left, right = (np.array_split(rng.permutation(self.n), blocks) for _ in range(2))
        for a, b in zip(left, right, strict=True):
            s = self.student[torch.from_numpy(a)].double() - m.student_mean
            t = self.teacher[torch.from_numpy(b)].double() - m.teacher_mean
            gram, rows = (s @ t.mT).numpy(), np.arange(len(a))
            total += [gram[rows, rng.permutation(len(a))].sum() for _ in range(SHUFFLES)]
        return total / self.n


def _real(name: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        raise ValueError(f"{name} must be an array of real numbers, got {array.dtype} of shape {array.shape}")
    if array.dtype.kind in "iub" and array.dtype != np.uint8:
        array = array.astype(np.int64)  # not every unsigned integer has a type in torch
    native = array.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64 if native.itemsize > 8 else native))


def _parts(*arrays: Tensor) -> Iterator:
    """Chunks of rows, of one array or of several at once."""
    rows = max(1, CHUNK_BYTES // (8 * math.prod(arrays[0].shape[1:])))
    chunks = [x.split(rows) for x in arrays]
    return iter(chunks[0]) if len(arrays) == 1 else zip(*chunks, strict=True)


@dataclass(frozen=True)
class Moments:
    """Sums over coordinates, point by point and float64, of two maps' outputs less their means m_S, m_T."""

    student_mean: Tensor
    teacher_mean: Tensor
    """(d,)"""
    student_square: np.ndarray
    """|s_i|^2, (n,)"""
    teacher_square: np.ndarray
    product: np.ndarray
    """<s_i, t_i>"""
    apart: np.ndarray
    """|S(z_i) - T(z_i)|^2, means included"""
    shift: np.ndarray
    """<m_S - m_T, s_i - t_i>"""

    @classmethod
    def of(cls, student: Tensor, teacher: Tensor) -> Moments:
        means = [sum(part.double().sum(0) for part in _parts(x)) / len(x) for x in (student, teacher)]
        gap, done = means[0] - means[1], 0
        # Allocated beforehand: results that came to lie between the chunks would leave no room for the next ones.
        found = torch.empty(5, len(student), dtype=torch.float64)
        for part, other in _parts(student, teacher):
            s, t = part.double() - means[0], other.double() - means[1]
            here = found[:, done : done + len(s)]
            here[0], here[1], here[2] = (s * s).sum(-1), (t * t).sum(-1), (s * t).sum(-1)
            here[3], here[4] = (s - t + gap).square().sum(-1), (s - t) @ gap
            done += len(s)
        return cls(means[0], means[1], *found.numpy())

    @property
    def sizes(self) -> tuple[float, float]:
        """tr Cov S, tr Cov T."""
        return float(self.student_square.mean()), float(self.teacher_square.mean())

    @property
    def independent(self) -> float:
        """E|S(z) - T(z')|^2 for independent z, z'."""
        return sum(self.sizes) + (self.student_mean - self.teacher_mean).square().sum().item()

    def displacement(self) -> tuple[float, np.ndarray]:
        """E|S - T|^2 / E|S - T'|^2 and its influence function at each point (Hampel 1974), (n,): how fast it changes
        with the point's weight.

        Raises ValueError if both maps are constant."""
        whole = self.independent
        if whole == 0:
            raise ValueError("student and teacher must not both be constant")
        rho = float(self.apart.mean()) / whole
        change = self.student_square + self.teacher_square - sum(self.sizes) + 2 * self.shift
        return rho, (self.apart - self.apart.mean() - rho * change) / whole


def standard_error(influence: np.ndarray) -> float:
    """Of a smooth function of means over independent points, by its influence function (Hampel 1974): the delta
    method."""
    return float(influence.std(ddof=1) / math.sqrt(len(influence)))
