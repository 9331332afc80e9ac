r"""Noise levels at which a mixture's flow decides, in the variance-exploding convention x_sigma = x_0 + sigma eps.

Speciation: coming down in sigma, the class of a sample is decided where log p_sigma ceases to be concave at the
centroid. With S = Sigma_within + sigma^2, responsibilities equal to the weights there, and modes of one shape,

    Hessian = S^-1 Sigma_between S^-1 - S^-1,    singular at    sigma_S^2 = eigenvalues of Sigma_between - Sigma_within

which is lambda - s^2 for modes of variance s^2 (Biroli, Bonnaire, de Bortoli & Mezard 2024, arXiv 2402.18491, in
variance-exploding units). Exact for equal modes at equal distance from the centroid, two modes and the ring among them.

Collapse: a teacher that has memorised n points of variance s^2 per coordinate sends a sample to one of them below the
level at which n spheres of entropy (d/2) ln sigma^2 cease to fill the law's (d/2) ln(s^2 + sigma^2):

    ln n = (d/2) ln((s^2 + sigma_C^2) / sigma_C^2),    sigma_C^2 = s^2 / (n^(2/d) - 1)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sandbox.teacher.mixture import GaussianMixture


def speciation_level(between: float, within: float) -> float:
    """sigma_S = sqrt(lambda - s^2) of one eigenvalue of the between-mode covariance; 0 if lambda <= s^2: one hump at
    every level.

    Raises ValueError if between or within is negative."""
    for name, value in {"between": between, "within": within}.items():
        if not value >= 0:
            raise ValueError(f"{name} must be >= 0, got {value}")
    return math.sqrt(max(between - within, 0.0))


def speciation(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """sigma_S along every direction of a mixture, descending, and the directions.

    Modes of unlike shapes enter with their mean covariance.

    Returns: levels (*E, d), 0 where the law has one hump at every level; directions (*E, d, d), one a column."""
    mixture = mixture.to(torch.float64)
    squares, directions = torch.linalg.eigh(mixture.between - mixture.within)
    return squares.clamp(min=0).sqrt().flip(-1), directions.flip(-1)


def collapse_level(n: float, dim: float, variance: float = 1.0) -> float:
    """sigma_C of a memorising teacher: below it, a noised sample's nearest datum outweighs all the others together.

    The balance of ln weights is exact to O(1) nats out of d, hence sigma_C to about a share 1 / (d (1 - n^(-2/d))).

    Args:
        n: points memorised, > 1. dim: d >= 1. variance: s^2 per coordinate of the law that they were drawn from.
    Raises:
        ValueError: an argument out of range.
    """
    if not n > 1:
        raise ValueError(f"n must be > 1, got {n}")
    if not dim >= 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    if not variance > 0:
        raise ValueError(f"variance must be > 0, got {variance}")
    return math.sqrt(variance / math.expm1(2 / dim * math.log(n)))
