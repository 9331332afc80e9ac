r"""What a family holds fixed while the dimension d grows, exactly at every d and for every seed.

For K equal modes of variance s^2 per coordinate, whose means have variance a^2 per coordinate, with lambda the largest
eigenvalue of the between-mode covariance, about (a^2 / K) (sqrt(d) + sqrt(K - 1))^2 for independent means:

    hold         scaled             lambda     trace           sigma_S    a         a / s
    coordinate   nothing            ~ d        ~ d             ~ sqrt(d)  fixed     fixed
    lambda_max   the means          fixed      ~ d s^2         fixed      d^(-1/2)  d^(-1/2)
    trace        the whole law      settles    fixed           settles    d^(-1/2)  fixed
    speciation   the whole law      settles    settles         fixed      d^(-1/2)  fixed

The rates are for d >> K. sigma_S^2 = lambda - s^2 is the speciation level (Biroli, Bonnaire, de Bortoli & Mezard 2024,
arXiv 2402.18491, in variance-exploding units); held at one schedule, it holds sigma_S / sigma_max. `lambda_max` and
`speciation` therefore hold the same level, the one in a geometry of modes that no longer depends on d, the other in the
geometry of `coordinate` in smaller units. The modes being isotropic, holding the between-mode lambda_max holds that of
the whole covariance, lambda + s^2, too.

What is held, and at which value, are the arguments `hold` and `held`; `held` is by default what `coordinate` has at
REFERENCE_DIM, where all the families of one name are therefore one teacher.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sandbox.teacher.checks import check_count, check_positive
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.mixture import GaussianMixture

HOLDS = ("coordinate", "lambda_max", "trace", "speciation")
REFERENCE_DIM = 8


def check_hold(hold: str, held: float | None, known: tuple[str, ...] = HOLDS) -> None:
    """Raises ValueError for an unknown hold, a held value that is not > 0, or one beside hold coordinate."""
    if hold not in known:
        raise ValueError(f"hold must be one of {', '.join(known)}, got {hold!r}")
    if held is not None:
        if hold == "coordinate":
            raise ValueError(f"held means nothing with hold coordinate, got {held}")
        check_positive(held=held)


def between(means: Tensor) -> float:
    """The largest eigenvalue of the between-mode covariance of equal modes at means (K, d)."""
    return torch.linalg.svdvals(means - means.mean(0))[0].item() ** 2 / len(means)


def trace(means: Tensor, std: float) -> float:
    """The trace of the covariance of equal modes at means (K, d), of variance std^2 per coordinate."""
    return (means - means.mean(0)).square().sum().item() / len(means) + means.shape[-1] * std**2


def speciation_square(means: Tensor, std: float) -> float:
    """sigma_S^2 of equal modes at means (K, d).

    Raises ValueError, naming std, where modes overlap so much that there is no such level."""
    level = between(means)
    if not level > std**2:
        raise ValueError(
            f"std must be < {math.sqrt(level):.3g} at dim {means.shape[-1]} for the law to have a speciation level "
            f"that can be held, got {std}"
        )
    return level - std**2


def _measured(hold: str, means: Tensor, std: float) -> float:
    """What is to be held, in squared units."""
    if hold == "lambda_max":
        return between(means)
    return trace(means, std) if hold == "trace" else speciation_square(means, std)


def equal_modes(
    means_at: Callable[[int], Tensor], dim: int, std: float, hold: str = "coordinate", held: float | None = None
) -> GaussianMixture:
    """Equal isotropic modes in dim dimensions, scaled so that the law has what is to be held.

    Args:
        means_at: the means of hold coordinate at a dimension, (K, d).
        std: standard deviation per coordinate that a mode has in hold coordinate.
        hold, held: as above; held is an eigenvalue, a trace or, for speciation, sigma_S itself.
    Raises:
        ValueError: dim < 1, std <= 0, an unknown hold, held <= 0 or beside hold coordinate, one mode where the
            between-mode covariance is to be held, modes that overlap too much for a speciation level.
    """
    check_count(dim=dim)
    check_positive(std=std)
    check_hold(hold, held)
    means = means_at(dim)
    if hold != "coordinate":
        if len(means) == 1 and hold != "trace":
            raise ValueError(f"modes must be >= 2 with hold {hold}, got 1")
        if held is None:
            wanted = _measured(hold, means_at(REFERENCE_DIM), std)
        elif hold == "speciation":
            wanted = held**2
        else:
            wanted = held
        # Exactly 1 at the reference dimension: both sides come from the same arithmetic.
        factor = math.sqrt(wanted / _measured(hold, means, std))
        means = factor * means
        std = std if hold == "lambda_max" else factor * std
    weights = torch.full((len(means),), 1 / len(means), dtype=torch.float64)
    return GaussianMixture(weights, means, Isotropic(std**2))
