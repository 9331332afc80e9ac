"""Teachers as functions of the dimension; each says what it holds fixed while the dimension grows."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Integral

import torch

from sandbox.teacher.covariance import Diagonal, Isotropic
from sandbox.teacher.mixture import GaussianMixture


def _check_dim(dim: int) -> None:
    _check_count(dim=dim)


def _check_count(**values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be an integer >= 1, got {value}")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be > 0, got {value}")


def gaussian(dim: int, variance: float = 1.0, exponent: float = 0.0) -> GaussianMixture:
    """N(0, Sigma) with eigenvalues lambda_k proportional to k^-exponent and trace variance * dim.

    exponent 0 is the flat spectrum, Sigma = variance I: fixed variance per coordinate. exponent > 1 is image-like: the
    trace grows as dim and concentrates in the leading modes, so that lambda_1 grows as dim (1.5: lambda_1 -> 0.38 dim).

    Raises ValueError if dim < 1, variance <= 0 or exponent < 0."""
    _check_dim(dim)
    _check_positive(variance=variance)
    if not (exponent >= 0 and math.isfinite(exponent)):
        raise ValueError(f"exponent must be >= 0, got {exponent}")
    means = torch.zeros(1, dim, dtype=torch.float64)
    if exponent == 0:
        return GaussianMixture([1.0], means, Isotropic([variance]))
    spectrum = torch.arange(1, dim + 1, dtype=torch.float64) ** -exponent
    return GaussianMixture([1.0], means, Diagonal((spectrum * (variance * dim / spectrum.sum()))[None]))


def ring(dim: int, modes: int = 8, radius: float = 3.0, std: float = 0.3) -> GaussianMixture:
    """Equal modes on a circle in the first two coordinates: fixed separation, the noise directions grow with dim.

    In one dimension the circle is the pair of points -radius and +radius, and `modes` is not used.

    Raises ValueError if dim < 1, modes < 1, radius <= 0 or std <= 0."""
    _check_dim(dim)
    _check_count(modes=modes)
    _check_positive(radius=radius, std=std)
    if dim == 1:
        means = torch.tensor([[-radius], [radius]], dtype=torch.float64)
    else:
        angle = 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
        means = torch.zeros(modes, dim, dtype=torch.float64)
        means[:, 0], means[:, 1] = radius * torch.cos(angle), radius * torch.sin(angle)
    weights = torch.full((len(means),), 1 / len(means), dtype=torch.float64)
    return GaussianMixture(weights, means, Isotropic(std**2))


def random(dim: int, modes: int = 8, separation: float = 1.0, std: float = 0.3, seed: int = 0) -> GaussianMixture:
    """Equal modes with means iid N(0, separation^2) in every coordinate.

    Holds separation per coordinate fixed: the distance between two modes grows as separation * sqrt(2 dim). The
    first coordinates of a teacher do not depend on dim, so that a sweep over dim adds coordinates to one teacher.

    Raises ValueError if dim < 1, modes < 1, separation <= 0 or std <= 0."""
    _check_dim(dim)
    _check_count(modes=modes)
    _check_positive(separation=separation, std=std)
    generator = torch.Generator().manual_seed(seed)
    # One draw per coordinate: a single draw of (modes, dim) would change every mean with dim.
    columns = [torch.randn(modes, generator=generator, dtype=torch.float64) for _ in range(dim)]
    weights = torch.full((modes,), 1 / modes, dtype=torch.float64)
    return GaussianMixture(weights, separation * torch.stack(columns, -1), Isotropic(std**2))


FAMILIES: dict[str, Callable[..., GaussianMixture]] = {"gaussian": gaussian, "ring": ring, "random": random}


def family(name: str, dim: int, **options) -> GaussianMixture:
    """The teacher `name` at `dim`.

    Raises ValueError for an unknown name or an option that the family does not have."""
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(sorted(FAMILIES))}, got {name!r}")
    constructor = FAMILIES[name]
    known = set(list(inspect.signature(constructor).parameters)[1:])
    for option in options:
        if option not in known:
            raise ValueError(f"{option} is not an option of family {name!r}; it has {', '.join(sorted(known))}")
    return constructor(dim, **options)
