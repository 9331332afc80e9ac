"""The gauge: the remapping R = T^-1 o S of the noise that turns the teacher's map into the student's.

Two maps with one law differ by a transformation of the noise that keeps N(0, I): the part of the student that its loss
cannot see.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import chdtr, ndtr
from torch import Tensor

from sandbox.measure.pairing import SHUFFLES, WithNull, against_null, displacement, independent_distance
from sandbox.teacher.flow import teacher_encode

# Points of a mixture's flow, which costs thousands of evaluations of the score at each, and its largest error, in
# units of z: far below the fluctuation of a mean over as many points.
FLOW_POINTS, FLOW_TOLERANCE = 256, 1e-4

# Smallest over largest singular value below which a matrix is singular to rounding.
SINGULAR = 1e-14

# Normal samples that a test of normality is compared with: the central 95 % ends at about the sixth of each side.
REPEATS = 200

# The quadrature of `_distance_to_normal`: 32 nodes leave 2e-11, 64 rounding, at any dimension and radius.
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(64)


def polar_factor(A: Tensor) -> Tensor:
    """The orthogonal Q of A = (A A^T)^(1/2) Q, (*E, d, d): the noise remapping of a linear student of symmetric
    teacher.

    Raises ValueError if A is singular to rounding: its polar factor is then not unique."""
    U, s, Vh = torch.linalg.svd(A.double())
    if (s[..., -1] <= s[..., 0] * SINGULAR).any():
        raise ValueError(
            f"A must be invertible to have a polar factor, got a smallest singular value of {s[..., -1].min():g}"
        )
    return U @ Vh


def polar_displacement(A: Tensor, reference: Tensor | None = None) -> Tensor:
    """rho_g = 1 - tr(Q Q_ref^T) / d from the polar factors of two linear maps, (*E,): 0 for a copy, 1 for a random
    rotation.

    The reference is the identity's, hence any symmetric positive teacher's, by default. Equals E|R(z) - z|^2 / (2d)
    for the rotation R = Q_ref^T Q, and, unlike the displacement, does not see a difference of laws."""
    Q = polar_factor(A)
    if reference is not None:
        Q = Q @ polar_factor(reference).mT
    return 1 - torch.diagonal(Q, dim1=-2, dim2=-1).mean(-1)


def gauge_displacement(teacher, student_x: Tensor, z: Tensor, sigma_max: float, rng: np.random.Generator) -> WithNull:
    """E|R(z) - z|^2 / (2d) with R = T^-1 o S by the probability flow, beside the same for shuffled z.

    For a mixture over the first 256 points.

    Normalised by the spread that R(z) and z in fact have, so that independent pairs read 1 also where R(z) is not
    quite standard normal.

    Args:
        teacher: as for `teacher_encode`. student_x: S(z), (n, d). z: (n, d).
    """
    remapped = remapping(teacher, student_x, sigma_max)
    return displacement(remapped, z[: len(remapped)], rng)


def remapping(teacher, student_x: Tensor, sigma_max: float) -> Tensor:
    """R(z) = T^-1(S(z)) by the probability flow, (m, d): of all points for a Gaussian, of the first 256 for a mixture.

    Args and what is raised as for `teacher_encode`; student_x: S(z), (n, d)."""
    if getattr(teacher, "components", 2) > 1:
        student_x = student_x[:FLOW_POINTS]
    return teacher_encode(teacher, student_x, sigma_max, FLOW_TOLERANCE)


def normality(remapped: Tensor, seed: int = 0) -> dict[str, WithNull]:
    """Is R(z) standard normal, as it is for a student of the teacher's law? Each number beside what 200 samples of n
    points from N(0, I) read: their mean and central 95 %.

        mean              |m| / sqrt(d), m the sample's mean
        covariance        |C - I|_F / sqrt(d), C its covariance
        coordinates       Cramer-von Mises statistic against N(0, 1), mean over coordinates
        worst_coordinate  its largest
        radius            Cramer-von Mises statistic of |R|^2 against chi^2_d
        energy            2 E|R - Z| - E|R - R'| - E|Z - Z'|, in units of z, Z ~ N(0, I) not sampled but integrated out
                          (Szekely & Rizzo 2005): 0 on average for normal points, and 0 for no other law

    The teacher's own samples have the covariance I + Sigma / sigma_max^2, for the flow starts at sigma_max z.

    Args:
        remapped: R(z), (n, d). seed: of the normal samples.
    Raises:
        ValueError: a wrong shape, n < 2, non-finite points.
    """
    _check_points("remapped", remapped)
    null = _normal_null(*remapped.shape, seed)
    return {name: against_null(value, null[name]) for name, value in _departures(remapped.double()).items()}


@functools.lru_cache(maxsize=32)
def _normal_null(n: int, dim: int, seed: int) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    draws = [_departures(torch.randn(n, dim, generator=generator, dtype=torch.float64)) for _ in range(REPEATS)]
    return {name: np.array([draw[name] for draw in draws]) for name in draws[0]}


def _departures(x: Tensor) -> dict[str, float]:
    n, d = x.shape
    centred = x - x.mean(0)
    C = centred.mT @ centred / (n - 1)
    coordinates = _cramer_von_mises(ndtr(x.numpy()))
    square = x.square().sum(-1)
    # Squared distances from products: the rounding of a float64 is far below what a mean of n distances resolves.
    distance = (square[:, None] + square - 2 * x @ x.mT).clamp(min=0).sqrt().fill_diagonal_(0)
    within = distance.sum().item() / (n * (n - 1))
    normals = 2 * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    return {
        "mean": (x.mean(0).norm() / math.sqrt(d)).item(),
        "covariance": ((C - torch.eye(d, dtype=x.dtype)).norm() / math.sqrt(d)).item(),
        "coordinates": float(coordinates.mean()),
        "worst_coordinate": float(coordinates.max()),
        "radius": float(_cramer_von_mises(chdtr(d, square.numpy()))),
        "energy": 2 * float(_distance_to_normal(square.numpy(), d).mean()) - within - normals,
    }


def _cramer_von_mises(levels: np.ndarray) -> np.ndarray:
    """1/(12 n) + sum_i (F(x_(i)) - (2i - 1)/(2n))^2 of the values F(x_i), (n, ...), along the first axis."""
    n = len(levels)
    ranks = ((2 * np.arange(1, n + 1) - 1) / (2 * n)).reshape(-1, *[1] * (levels.ndim - 1))
    return 1 / (12 * n) + np.square(np.sort(levels, axis=0) - ranks).sum(0)


def _distance_to_normal(square: np.ndarray, dim: int) -> np.ndarray:
    """E|x - Z| for Z ~ N(0, I_d) from |x|^2, (n,).

    From E sqrt(Y) = pi^(-1/2) * integral over s > 0 of (1 - E exp(-s^2 Y)) / s^2, with Y = |x - Z|^2 a non-central
    chi^2. The angle arctan(s sqrt(d + |x|^2)) makes that a smooth integral over [0, pi/2]. (The confluent
    hypergeometric function that it is overflows in scipy at large d.)"""
    angle = (NODES + 1) * np.pi / 4
    square = square[:, None]
    t = np.tan(angle) ** 2 / (dim + square)
    gone = -np.expm1(-dim / 2 * np.log1p(2 * t) - square * t / (1 + 2 * t))
    return np.sqrt(np.pi * (dim + square[:, 0])) / 4 * ((gone / np.sin(angle) ** 2) @ NODE_WEIGHTS)


class Rotation(NamedTuple):
    """The orthogonal Q that is nearest to R, and how much of R's displacement it is."""

    Q: Tensor
    """argmin E|R(z) - Q z|^2, (d, d); a reflection where that is nearer."""
    angles: Tensor
    """How far Q turns, `rotation_angles`, (d,)."""
    share: WithNull
    """1 - E|R - Qz|^2 / E|R - z|^2, beside what Q's fitted to shuffled pairs read: d^2/2 numbers fit something of any
    n points. NaN for an exact copy."""
    residual: WithNull
    """E|R - Qz|^2 on the scale of `displacement`: 1 for independent pairs, before a rotation is fitted to them."""
    held_out: float
    """The share that a Q from one half of the points explains of the other: 1 for a rotation, <= 0 without one."""


def best_rotation(remapped: Tensor, z: Tensor, rng: np.random.Generator) -> Rotation:
    """Orthogonal Procrustes of R(z) on z: Q is the polar factor of E[R z^T] (Schonemann 1966).

    Args:
        remapped, z: (n, d), n >= 2 d, so that each half of the points determines a Q.
        rng: for the 64 shuffles.
    Raises:
        ValueError: shapes that differ, too few points, non-finite points.
    """
    if remapped.shape != z.shape:
        raise ValueError(f"remapped and z must have one shape, got {tuple(remapped.shape)} and {tuple(z.shape)}")
    for name, points in (("remapped", remapped), ("z", z)):
        _check_points(name, points)
    n, d = z.shape
    if n < 2 * d:
        raise ValueError(f"n must be >= 2 d = {2 * d} to fit a rotation to each half, got {n}")
    r, z = remapped.double(), z.double()
    moved, Q = _distance(r, z), _procrustes(r, z)
    if moved == 0:
        undefined = WithNull(*[math.nan] * 4)
        return Rotation(Q, rotation_angles(Q), undefined, undefined, math.nan)
    independent = independent_distance(r, z).sum().item()
    null = []
    for _ in range(SHUFFLES):
        other = z[torch.from_numpy(rng.permutation(n))]
        null.append((_distance(r, other, _procrustes(r, other)), _distance(r, other)))
    left, before = np.array(null).T
    residual, even, odd = _distance(r, z, Q), slice(0, None, 2), slice(1, None, 2)
    crossed = [_distance(r[i], z[i], _procrustes(r[j], z[j])) * len(r[i]) / n for i, j in ((even, odd), (odd, even))]
    return Rotation(
        Q,
        rotation_angles(Q),
        against_null(1 - residual / moved, 1 - left / before),
        against_null(residual / independent, left / independent),
        1 - sum(crossed) / moved,
    )


def rotation_angles(Q: Tensor) -> Tensor:
    """Angles in [0, pi] by which an orthogonal Q turns its invariant planes, descending, (*E, d): each plane's twice,
    0 for a fixed direction, pi for a reflected one."""
    return torch.linalg.eigvals(Q.double()).angle().abs().sort(dim=-1, descending=True).values


def _procrustes(r: Tensor, z: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(r.mT @ z)
    return U @ Vh


def _distance(r: Tensor, z: Tensor, Q: Tensor | None = None) -> float:
    return (r - (z if Q is None else z @ Q.mT)).square().sum(-1).mean().item()


def _check_points(name: str, points: Tensor) -> None:
    if points.ndim != 2 or len(points) < 2:
        raise ValueError(f"{name} must have shape (n, d) with n >= 2, got {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError(f"{name} must be finite, got {(~torch.isfinite(points)).any(-1).sum()} non-finite points")
