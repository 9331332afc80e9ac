"""The gauge: the remapping R = T^-1 o S of the noise that turns the teacher's map into the student's.

Two maps with one law differ by a transformation of the noise that keeps N(0, I): the part of the student that its loss
cannot see.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sandbox.measure.pairing import WithNull, displacement
from sandbox.teacher.flow import teacher_encode

# Points of a mixture's flow, which costs thousands of evaluations of the score at each, and its largest error, in
# units of z: far below the fluctuation of a mean over as many points.
FLOW_POINTS, FLOW_TOLERANCE = 256, 1e-4

# Smallest over largest singular value below which a matrix is singular to rounding.
SINGULAR = 1e-14


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
    if getattr(teacher, "components", 2) > 1:
        student_x, z = student_x[:FLOW_POINTS], z[:FLOW_POINTS]
    remapped = teacher_encode(teacher, student_x, sigma_max, FLOW_TOLERANCE)
    return displacement(remapped, z, rng)
