r"""Starts other than the teacher's: rotated and random ones.

The loss and its gradient do not know which noise belongs to which datum: a student that starts at A_0 R walks in law as
one that starts at A_0, times R, at every step, for any teacher, normaliser, batch and optimiser that is equivariant
under rotations of the noise. With Q' the polar factor of the student without the rotation, 1 - rho_k = E Q'_kk in the
eigenbasis of Sigma (where reflections of single axes make E Q' diagonal), and Q = Q' R,

    against T o R       rho                                as of the teacher's start
    against T           1 - sum_k (1 - rho_k) R_kk / d     = 1 - (1 - rho) tr R / d for a flat spectrum

For R uniform on SO(d), Q is uniform too, whatever happened to Q': against T a student's displacement is 1 - tr R / d in
law. tr R has mean 0 and variance 1 for d >= 3, since the identity is the one invariant of a pair of vectors (Diaconis &
Shahshahani 1994 for all moments up to order d / 2); on SO(2) tr R / d = cos theta, of variance 1/2; SO(1) = {1}. A
Gaussian start has a polar factor uniform on O(d), of variance 1/d^2 in every d, and keeps that too.

The gauge polar(A_0) of a random start on a flat teacher is transported: without noise it does not turn, and with it a
pair of singular values turns as

    d Var Omega_ij / dt = (lr / B) (N_ij + N_ji - 2 K_ij) / (s_i + s_j)^2,     ds_i / dt = f_i(s)

(N, K, f of `matrix_sde`), so that, while these angles are small, the displacement against T o polar(A_0) is

    rho(A_0) = (1/d) sum_i (1 - exp(-1/2 sum_{j != i} Var Omega_ij))

which for equal singular values is 1 - exp(-(1 - 1/d) / (4 Xi)). What it leaves out: a smallest singular value within
reach of the noise may pass through zero, which turns an axis round and adds 2/d. Over starts that is rare and large:
use the median. A teacher that is not flat turns the gauge of a random start without any noise; see
`gaussian_flow.holonomy`.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.integrate import solve_ivp

from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.matrix_sde import gradient_moments

# First order in the angles: at this displacement the next order is of its own relative size.
LARGEST = 0.1


def rotated_displacement(rho, rotation: np.ndarray) -> float:
    """Mean displacement against T of students that start at A_0 R: 1 - sum_k (1 - rho_k) R_kk / d.

    Args:
        rho: displacement of the teacher's start, a number (flat spectrum) or one per eigenmode of Sigma, (d,).
        rotation: R, orthogonal, (d, d), in the eigenbasis of Sigma (any basis for a flat spectrum).
    Raises:
        ValueError: R is not orthogonal; a rho of another shape.
    """
    R = np.asarray(rotation, dtype=float)
    if R.ndim != 2 or R.shape[0] != R.shape[1] or not np.allclose(R @ R.T, np.eye(len(R)), rtol=0, atol=1e-8):
        raise ValueError(f"rotation must be an orthogonal matrix (d, d), got shape {R.shape}")
    rho = np.asarray(rho, dtype=float)
    if rho.shape not in ((), (len(R),)):
        raise ValueError(f"rho must be a number or have shape ({len(R)},), got {rho.shape}")
    return float(1 - ((1 - rho) * np.diagonal(R)).mean())


def plane_rotation(dim: int, angle: float, planes: int | None = None) -> np.ndarray:
    """Rotation by `angle` (radians) in each of the planes (0, 1), (2, 3), ..., by default all floor(d/2) of them, (d,
    d); tr R / d = 1 - (2 planes / d) (1 - cos angle).

    Raises ValueError if there are not that many planes."""
    most = dim // 2
    planes = most if planes is None else planes
    if not 0 <= planes <= most:
        raise ValueError(f"planes must be between 0 and {most} in dimension {dim}, got {planes}")
    R = np.eye(dim)
    for first in range(0, 2 * planes, 2):
        R[first : first + 2, first : first + 2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return R


def rotation_spread(dim: int) -> float:
    """Standard deviation of tr R / d over uniform rotations R: of rho against T over students of starts rotated at
    random.

    1/d for d >= 3, 1/sqrt 2 at d = 2, 0 at d = 1. Exact, unless d = 2 and a student's determinant changed sign: it is
    then a reflection, of trace 0. Raises ValueError if dim < 1."""
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    return {1: 0.0, 2: 0.5**0.5}.get(dim, 1 / dim)


def residual_spread(dim: int, rho: float) -> float:
    """Root mean square over uniform R of the standard deviation of rho against T among the students of one R, for a
    flat spectrum.

    The law of total variance: R explains the share (1 - rho)^2 of the variance of `rotation_spread`.

    Raises ValueError if rho is outside [0, 1]."""
    if not 0 <= rho <= 1:
        raise ValueError(f"rho must be in [0, 1], got {rho}")
    return float(rotation_spread(dim) * np.sqrt(1 - (1 - rho) ** 2))


def random_spread(dim: int) -> float:
    """Standard deviation over seeds of rho against T of Gaussian starts, whose mean is 1: 1/d, exact for every d and
    for any teacher, since the polar factor of a student stays uniform on O(d). Raises ValueError if dim < 1."""
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    return 1 / dim


def transported_displacement(
    problem: Flat, singular_values, lr: float, batch: float, longest: float = 1e4, tolerance: float = 1e-6
) -> float:
    """rho against T o polar(A_0) of a student of a flat teacher that starts at an A_0 of given singular values.

    Args:
        problem: the flat teacher; its own start plays no part. singular_values: of A_0, (d,), > 0. lr, batch: of the
            student. longest: t by which the noiseless student must have settled.
    Raises:
        ValueError: named argument out of range.
        HypothesisError: a displacement beyond `LARGEST`, where the angles are not small; a start that does not settle;
            the per-sample normaliser at d <= 2.
    """
    s0 = np.asarray(singular_values, dtype=float)
    if s0.shape != (problem.dim,):
        raise ValueError(f"singular_values must have shape ({problem.dim:g},), got {s0.shape}")
    if not (s0 > 0).all():
        raise ValueError(f"singular_values must be > 0, got {s0.min()}")
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    if batch < 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    d = len(s0)

    def rates(_, state):
        s = np.exp(state[:d])
        f, N, K = (m.numpy() for m in gradient_moments(problem, torch.from_numpy(s)))
        turning = lr / batch * (N + N.T - 2 * K) / (s[:, None] + s) ** 2
        np.fill_diagonal(turning, 0.0)
        return np.concatenate([f / s, turning.sum(1)])

    def unsettled(_, state):
        return float(np.abs(np.exp(state[:d]) / problem.end - 1).max() - 1e-3)

    unsettled.terminal = True  # type: ignore[attr-defined]
    start = np.concatenate([np.log(s0), np.zeros(d)])
    solution = solve_ivp(rates, (0, longest), start, method="DOP853", events=unsettled, rtol=tolerance, atol=tolerance)
    # A start that has the teacher's law does not move at all.
    if unsettled(0, start) > 0 and not len(solution.t_events[0]):
        raise HypothesisError(f"the noiseless student does not reach its end within t = {longest:g}")
    rho = float(-np.expm1(-solution.y[d:, -1] / 2).mean())
    if rho > LARGEST:
        raise HypothesisError(
            f"the transported gauge is derived for small angles, displacements of up to {LARGEST:g}: got {rho:.3g}"
        )
    return rho


def random_displacements(
    problem: Flat, scale: float, lr: float, batch: float, draws: int, generator: torch.Generator
) -> np.ndarray:
    """`transported_displacement` of `draws` Gaussian starts A_ij ~ N(0, scale^2), (draws,); NaN for a start outside its
    hypothesis. Their median is comparable with the median over students.

    Raises ValueError if scale <= 0 or draws < 1."""
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    if draws < 1:
        raise ValueError(f"draws must be >= 1, got {draws}")
    dim = int(problem.dim)
    starts = scale * torch.randn(draws, dim, dim, dtype=torch.float64, generator=generator)
    values = []
    for s in torch.linalg.svdvals(starts).numpy():
        try:
            values.append(transported_displacement(problem, s, lr, batch))
        except HypothesisError:
            values.append(float("nan"))
    return np.array(values)
