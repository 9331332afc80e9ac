"""Leading singular subspaces of two Jacobians at the same z: do student and teacher use the same directions?

The right singular vectors are directions of noise, the left ones directions of data. T∘R has at z the data side of T at
Rz, and turns the noise side by R^T. Overlaps are mean squared cosines of the principal angles: 1 for one subspace, k/d
for a random one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from sandbox.measure.matrix_free import Triplets

# Relative gap s_k - s_(k+1) to s_k below which k splits a degenerate singular value: a change of J by a thousandth of
# s_k could then turn the subspace by a right angle.
LEAST_GAP = 1e-3


class Subspaces(NamedTuple):
    """The k leading singular directions of a Jacobian at each point, and how well they are told from the rest."""

    noise: Tensor
    """Right singular vectors, (n, d_in, k)."""
    data: Tensor
    """Left singular vectors, (n, d_out, k)."""
    gap_ratio: Tensor
    """s_(k+1) / s_k, (n,): 1 where k splits a degenerate singular value, so that no leading subspace exists; 0 if k is
    all."""
    error: Tensor
    """Frobenius norm of the residuals over s_k - s_(k+1), (n,): of the order of the sine by which the subspaces found
    are off (Wedin 1972); 0 from a dense decomposition."""


def leading_subspaces(J: Tensor, k: int) -> Subspaces:
    """From Jacobians (n, d_out, d_in). Raises ValueError if J is not of this shape or not finite, or k is not in 1 ..
    min(d_in, d_out) or above the rank at some point."""
    if J.ndim != 3:
        raise ValueError(f"J must have shape (n, d_out, d_in), got {tuple(J.shape)}")
    if not torch.isfinite(J).all():
        raise ValueError("J must be finite, got a non-finite entry")
    U, s, Vh = torch.linalg.svd(J.double(), full_matrices=False)
    exact = Triplets(U, s, Vh.mT, torch.zeros_like(s))
    return subspaces_of(exact, k, max(J.shape[-2:]) * torch.finfo(torch.float64).eps)


def subspaces_of(triplets: Triplets, k: int, rtol: float = 0.0) -> Subspaces:
    """From at least k + 1 triplets, or all of them: `leading_triplets` at k + 1.

    rtol: singular values at most so many times the largest vanish. Raises ValueError for too few triplets, or if s_k
    vanishes at some point."""
    U, s, V, residual = triplets
    every = min(U.shape[-2], V.shape[-2])
    most = every if s.shape[-1] == every else s.shape[-1] - 1
    if not 1 <= k <= most:
        raise ValueError(f"k must be between 1 and {most} with {s.shape[-1]} of {every} triplets, got {k}")
    vanishing = s[:, k - 1] <= rtol * s[:, 0]
    if vanishing.any():
        raise ValueError(
            f"k must be <= the rank of the Jacobian at every z, got {k} where s_k vanishes at "
            f"{int(vanishing.sum())} of {len(s)} points"
        )
    after = s[:, k] if k < every else torch.zeros_like(s[:, 0])
    off = residual[:, :k].norm(dim=-1)
    error = torch.where(off > 0, off / (s[:, k - 1] - after), 0.0)
    return Subspaces(V[..., :k], U[..., :k], after / s[:, k - 1], error)


def principal_angles(A: Tensor, B: Tensor) -> Tensor:
    """Angles between the spans of orthonormal columns A (n, d, k) and B (n, d, l), (n, min(k, l)), ascending, in
    radians.

    By cosines where they are large angles and by sines where they are small (Björck & Golub 1973; Knyazev & Argentati
    2002): the cosine does not see an angle of 1e-8.

    Raises ValueError for shapes that do not agree or columns that are not orthonormal."""
    A, B = _bases(A, B)
    if A.shape[-1] < B.shape[-1]:
        A, B = B, A
    cosines = torch.linalg.svdvals(A.mT @ B).clamp(max=1)
    sines = torch.linalg.svdvals(B - A @ (A.mT @ B)).clamp(max=1).flip(-1)
    return torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())


def mean_squared_cosine(A: Tensor, B: Tensor) -> Tensor:
    """|A^T B|_F^2 / min(k, l) of orthonormal columns A (n, d, k) and B (n, d, l), (n,): the mean of cos^2 of the
    principal angles. Raises ValueError as `principal_angles`."""
    A, B = _bases(A, B)
    return (A.mT @ B).square().sum((-2, -1)) / min(A.shape[-1], B.shape[-1])


def random_overlap(dim: int, k: int) -> tuple[float, float]:
    """Mean and standard deviation of the mean squared cosine of a k-dimensional subspace with a uniformly random one.

        mean  k / d
        var   2 (d - k)^2 / (d^2 (d - 1) (d + 2))

    k times the overlap is tr P Q of two projections. Less their traces, P and Q are symmetric matrices of squared norm
    k (d - k) / d in a space of dimension (d - 1)(d + 2) / 2 on which rotations act irreducibly, so that a random
    rotation gives their product the second moment |P|^2 |Q|^2 over that dimension. At k = 1 these are the moments of
    Beta(1/2, (d - 1) / 2).

    Raises ValueError unless 1 <= k <= dim.

    >>> random_overlap(8, 2)[0]
    0.25
    """
    if not 1 <= k <= dim:
        raise ValueError(f"k must be between 1 and dim = {dim}, got {k}")
    if k == dim:
        return 1.0, 0.0
    return k / dim, math.sqrt(2 * (dim - k) ** 2 / (dim**2 * (dim - 1) * (dim + 2)))


def subspace_record(student: Subspaces, teacher: Subspaces, least_gap: float = LEAST_GAP) -> dict[str, float]:
    """Overlaps of two maps' leading subspaces at the same points, as one flat record:

        noise_overlap, data_overlap           mean squared cosine, over the points where both maps have a leading
                                              subspace; NaN where there is none (a flat spectrum has none)
        ..._null, ..._null_sd                 of a random subspace at one point; points of one map are not independent
        student_gap_ratio, teacher_gap_ratio  s_(k+1) / s_k, mean over all points
        subspace_error                        the larger of the two maps' errors, mean over the points used
        subspace_points                       share of points used: 1 - s_(k+1) / s_k >= least_gap for both

    Raises ValueError for shapes that differ or least_gap outside [0, 1]."""
    if not 0 <= least_gap <= 1:
        raise ValueError(f"least_gap must be between 0 and 1, got {least_gap}")
    for side in ("noise", "data"):
        a, b = getattr(student, side).shape, getattr(teacher, side).shape
        if a != b:
            raise ValueError(f"student and teacher must have {side} subspaces of one shape, got {tuple(a)}, {tuple(b)}")
    used = (1 - torch.stack([student.gap_ratio, teacher.gap_ratio]) >= least_gap).all(0)
    record: dict[str, float] = {}
    for side in ("noise", "data"):
        A, B = getattr(student, side), getattr(teacher, side)
        null, sd = random_overlap(*A.shape[-2:])
        record |= {
            f"{side}_overlap": mean_squared_cosine(A, B)[used].mean().item(),
            f"{side}_overlap_null": null,
            f"{side}_overlap_null_sd": sd,
        }
    return record | {
        "student_gap_ratio": student.gap_ratio.mean().item(),
        "teacher_gap_ratio": teacher.gap_ratio.mean().item(),
        "subspace_error": torch.maximum(student.error, teacher.error)[used].mean().item(),
        "subspace_points": used.double().mean().item(),
    }


def _bases(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    if A.ndim != 3 or B.ndim != 3 or A.shape[:-1] != B.shape[:-1]:
        raise ValueError(f"A and B must have shapes (n, d, k) and (n, d, l), got {tuple(A.shape)} and {tuple(B.shape)}")
    for name, M in (("A", A), ("B", B)):
        off = (M.mT @ M - torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)).abs().max()
        # Vectors in single precision are orthonormal to 1e-7 per entry.
        if not off < 1e-5:
            raise ValueError(f"{name} must have orthonormal columns, got an inner product off by {off:.2g}")
    return A.double(), B.double()
