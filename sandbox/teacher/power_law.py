"""Teachers with a power-law spectrum, one mode or many."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sandbox.teacher.checks import check_count, check_not_negative, check_positive
from sandbox.teacher.covariance import Diagonal, Isotropic
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.scaling import REFERENCE_DIM, check_hold

SPECTRUM_HOLDS = ("coordinate", "lambda_max", "trace")


def _power_law(dim: int, exponent: float) -> Tensor:
    """k^-exponent, k = 1 .. dim."""
    return torch.arange(1, dim + 1, dtype=torch.float64) ** -exponent


def gaussian(
    dim: int, variance: float = 1.0, exponent: float = 0.0, hold: str = "coordinate", held: float | None = None
) -> GaussianMixture:
    """N(0, Sigma) with eigenvalues lambda_k proportional to k^-exponent.

    hold coordinate: trace variance * dim. exponent 0 is the flat spectrum, Sigma = variance I: fixed variance per
    coordinate. exponent > 1 is image-like: the trace grows as dim and concentrates in the leading modes, so that
    lambda_1 grows as dim (1.5: lambda_1 -> 0.38 dim).
    hold lambda_max: lambda_1 = held; the first eigenvalues do not depend on dim, and the trace converges for
    exponent > 1 and grows without end otherwise.
    hold trace: trace = held; lambda_1 falls towards held / zeta(exponent) for exponent > 1, else to 0.
    held is by default what hold coordinate has at REFERENCE_DIM; where it is given, variance cancels.

    Raises ValueError if dim < 1, variance <= 0, exponent < 0, hold is unknown, held <= 0 or beside hold coordinate."""
    check_count(dim=dim)
    check_positive(variance=variance)
    check_not_negative(exponent=exponent)
    check_hold(hold, held, SPECTRUM_HOLDS)
    means = torch.zeros(1, dim, dtype=torch.float64)
    spectrum, reference = _power_law(dim, exponent), _power_law(REFERENCE_DIM, exponent)
    if hold == "coordinate":
        scale = variance * dim / spectrum.sum()
    elif hold == "lambda_max":
        scale = torch.as_tensor(variance * REFERENCE_DIM / reference.sum() if held is None else held)
    else:
        scale = (variance * REFERENCE_DIM if held is None else held) / spectrum.sum()
    if exponent == 0:
        return GaussianMixture([1.0], means, Isotropic([variance if hold == "coordinate" else scale.item()]))
    return GaussianMixture([1.0], means, Diagonal((spectrum * scale)[None]))


def image_like(
    dim: int, modes: int = 8, variance: float = 1.0, exponent: float = 1.5, share: float = 0.9, seed: int = 0
) -> GaussianMixture:
    """Equal modes that differ mostly along the leading eigenvectors of a power-law spectrum.

    Coordinate k has mean 0 and variance lambda_k, lambda_k proportional to k^-exponent with trace variance * dim: those
    of `gaussian` at the same variance and exponent. The modes' means make up `share` of it, from draws that are
    centred and standardised over the modes, and the rest is within each mode. One mode is `gaussian` itself.

    Holds the trace per coordinate fixed, exactly; as in `gaussian` lambda_1 grows as dim, and with it the largest
    eigenvalue of the between-mode covariance: measured at the defaults over 16 seeds, lambda_1 / dim = 0.59, 0.49 and
    0.47 at dim = 8, 128 and 1024 (standard deviation 0.03 to 0.04), between modes 0.54, 0.46 and 0.44, which is half of
    the between-mode trace. Up to one common factor, the first coordinates of a teacher do not depend on dim.

    Args:
        share: of the variance of every coordinate that is between modes, in (0, 1).
        seed: of the means.
    Raises:
        ValueError: dim < 1, modes < 1, variance <= 0, exponent < 0, share outside (0, 1).
    """
    check_count(dim=dim, modes=modes)
    check_positive(variance=variance)
    check_not_negative(exponent=exponent)
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}")
    spectrum = _power_law(dim, exponent)
    spectrum = spectrum * (variance * dim / spectrum.sum())
    weights = torch.full((modes,), 1 / modes, dtype=torch.float64)
    if modes == 1:
        return GaussianMixture(weights, torch.zeros(1, dim, dtype=torch.float64), Diagonal(spectrum[None]))
    generator = torch.Generator().manual_seed(seed)
    draws = torch.stack([torch.randn(modes, generator=generator, dtype=torch.float64) for _ in range(dim)], -1)
    centred = draws - draws.mean(0)
    standard = centred / centred.square().mean(0).sqrt()
    within = (1 - share) * spectrum
    return GaussianMixture(weights, math.sqrt(share) * spectrum.sqrt() * standard, Diagonal(within.repeat(modes, 1)))
