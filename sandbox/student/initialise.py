"""Where a student starts."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from sandbox.student.denoiser import OneStep, Preconditioning
from sandbox.student.networks import LinearStudent
from sandbox.teacher.mixture import GaussianMixture

STARTS = ("teacher", "rotated", "random", "map")

# Entries of R R^T - I that single precision may leave.
ORTHOGONAL = 1e-5


def haar_rotation(dim: int, generator: torch.Generator) -> Tensor:
    """A rotation drawn uniformly from SO(d), (d, d) float64 (QR of a Gaussian matrix; Mezzadri 2007).

    In one dimension SO(1) holds the identity alone."""
    q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    q = q * torch.sign(torch.diagonal(r))
    if torch.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    return q


def plane_rotation(dim: int, angle: float, generator: torch.Generator) -> Tensor:
    """A rotation by one angle in each of floor(d/2) random orthogonal planes, (d, d) float64.

    R = Q B Q^T with Q uniform on SO(d) and B of 2 x 2 blocks; an odd d leaves one direction where it is.

    tr R = 2 floor(d/2) cos(angle) + (d mod 2), E|R z - z|^2 / (2d) = (1 - cos(angle)) 2 floor(d/2) / d for standard
    normal z. At angle 0, and on a line, it is the identity exactly; in the plane it turns to the left.

    Raises ValueError for an angle outside [0, pi]."""
    if not 0 <= angle <= math.pi:
        raise ValueError(f"angle must be in [0, pi], got {angle}")
    block = torch.tensor([[0.0, -math.sin(angle)], [math.sin(angle), 0.0]], dtype=torch.float64)
    # cos(angle) - 1 without cancellation: a small rotation is told from the identity.
    block -= 2 * math.sin(angle / 2) ** 2 * torch.eye(2, dtype=torch.float64)
    paired = haar_rotation(dim, generator)[:, : dim - dim % 2]
    turned = (paired.unflatten(1, (-1, 2)) @ block).flatten(1)
    return torch.eye(dim, dtype=torch.float64) + turned @ paired.mT


def one_step_denoiser(teacher: GaussianMixture, sigma_init: float) -> tuple[Tensor, Tensor]:
    """The best linear one-step denoiser z -> E[x_0 | x_sigma = sigma z] at sigma = sigma_init: its matrix and offset.

        K = C (C + sigma^2)^-1,   A = sigma K,   b = (I - K) m

    for a teacher of mean m and covariance C: exact for a Gaussian teacher, least squares for any other. A is
    symmetric, so that the start is a Brenier map, and has eigenvalues a_k = sigma lambda_k / (lambda_k + sigma^2).

    Returns: (d, d), (d,), float64. Raises ValueError if sigma_init <= 0."""
    if not sigma_init > 0:
        raise ValueError(f"sigma_init must be > 0, got {sigma_init}")
    teacher = teacher.to(torch.float64)
    lam, Q = torch.linalg.eigh(teacher.cov)
    K = (Q * (lam / (lam + sigma_init**2))) @ Q.mT
    return sigma_init * K, teacher.mean - K @ teacher.mean


def linear_start(
    kind: str,
    teacher: GaussianMixture,
    sigma_init: float,
    generator: torch.Generator,
    scale: float = 0.1,
    bias: bool = False,
    sigma_max: float = 80.0,
    angle: float | None = None,
) -> tuple[LinearStudent, Tensor]:
    """A linear student at its start, and the rotation R (d, d) that was folded into it (the identity but for
    `rotated`).

        teacher   A = A_0, the best linear one-step denoiser of the teacher at sigma_init
        rotated   A = A_0 R, R uniform on SO(d), or a `plane_rotation` by `angle`: the same law, another noise-data
                  pairing
        random    A_ij iid N(0, scale^2), no relation to the teacher
        map       A = C^(1/2) (1 + C/sigma_max^2)^(-1/2), the flow map from sigma_max: where a copy ends

    Raises ValueError for an unknown kind, sigma_init <= 0, scale <= 0, or an angle outside [0, pi] or with another kind
    than rotated."""
    if kind not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}, got {kind!r}")
    if angle is not None and kind != "rotated":
        raise ValueError(f"angle must be None for the start {kind!r}, got {angle}")
    if not scale > 0:
        raise ValueError(f"scale must be > 0, got {scale}")
    A, b = one_step_denoiser(teacher, sigma_init)
    R = torch.eye(teacher.dim, dtype=torch.float64)
    if kind == "rotated":
        R = haar_rotation(teacher.dim, generator) if angle is None else plane_rotation(teacher.dim, angle, generator)
        A = A @ R
    elif kind == "random":
        A = scale * torch.randn(teacher.dim, teacher.dim, generator=generator, dtype=torch.float64)
        b = torch.zeros_like(b)
    elif kind == "map":
        lam, Q = torch.linalg.eigh(teacher.to(torch.float64).cov)
        A = (Q * (lam / (1 + lam / sigma_max**2)).sqrt()) @ Q.mT
        b = teacher.to(torch.float64).mean
    return LinearStudent(A, b if bias else None), R


def rotated(student: OneStep, R: Tensor) -> OneStep:
    """The student z -> G(R z), the rotation folded into what it trains: its first matrix, and A of a trained skip.

    Args:
        student: not modified. R: (d, d).
    Raises:
        ValueError: an R that is not orthogonal, of another d, or a student with a fixed skip, which no parameter can
            turn.
    """
    if student.skip == "fixed":
        raise ValueError(f"skip must be trained or off for a student to be rotated, got {student.skip!r}")
    if R.shape != (student.dim, student.dim):
        raise ValueError(f"R must have shape ({student.dim}, {student.dim}), got {tuple(R.shape)}")
    R = R.double()
    excess = (R @ R.mT - torch.eye(student.dim).to(R)).abs().max().item()
    if not excess <= ORTHOGONAL:
        raise ValueError(f"R must be orthogonal, got R R^T off the identity by {excess:.3g}")
    turned = copy.deepcopy(student)
    with torch.no_grad():
        for matrix in (turned.net.inward, turned.A):
            if matrix is not None:
                matrix.copy_(matrix.double() @ R)
    return turned


def with_error(student: OneStep, size: float, points: int, generator: torch.Generator) -> OneStep:
    """The student plus a random error of known size, in its last layer and hence trainable.

    S(z) + c_out W u(z) less its mean over z, where u are the features before the last layer and W is Gaussian, scaled
    so that the error's root mean square over z, as a vector in R^d, is `size`: its own features, in random directions.

    Args:
        student: not modified. size: in the data's units, >= 0. points: z drawn to set the scale. generator: advanced.
    Raises:
        ValueError: size < 0 or not finite, or points < 2.
    """
    if not 0 <= size < math.inf:
        raise ValueError(f"size must be >= 0 and finite, got {size}")
    if points < 2:
        raise ValueError(f"points must be >= 2, got {points}")
    changed = copy.deepcopy(student)
    outward, mean = changed.net.outward, changed.net.mean
    z = torch.randn(points, student.dim, generator=generator)
    W = torch.randn(outward.shape, generator=generator)
    with torch.no_grad():
        outward.add_(W)
        error = (changed(z) - student(z)).double()
        scale = size / (error - error.mean(0)).square().sum(-1).mean().sqrt()
        out = Preconditioning.at(student.sigma_init, student.sigma_data, z).out.squeeze()
        outward.copy_(student.net.outward + scale * W)
        mean.sub_(scale * error.mean(0) / out)
    return changed
