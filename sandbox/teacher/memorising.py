"""A teacher that has memorised its training points."""

from __future__ import annotations

import torch
from torch import Tensor

from sandbox.teacher.checks import check_count, check_positive
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.mixture import GaussianMixture

# Points that one generator draws: more points are further blocks, so that the first ones stay what they are.
BLOCK = 256
# Most blocks of one seed of points; those of the next seed follow.
BLOCKS = 2**20


def memorising(
    dim: int,
    points: int = 64,
    bandwidth: float = 0.1,
    population: str | GaussianMixture = "random",
    points_seed: int = 0,
    **options,
) -> GaussianMixture:
    """n equal components of variance bandwidth^2 at n points drawn from a population: a teacher that has learned them.

    Its modes are the population's, as far as they have points: of each mode, the points of which the population's is
    the most responsible. So at any n the modes, and whatever is said of them, are those of the twin.

    With the same options the family named by `population` is its twin, that has learned the population itself. Holds
    what the population holds. The first n points of a larger n are the same points; in a population whose first
    coordinates do not depend on dim, and whose covariances are diagonal, neither do theirs.

    Building it is cheap, its flow map is not: the price grows as n, and as bandwidth falls.

    Args:
        points: n. bandwidth: standard deviation per coordinate around a point.
        population: another family's name, or a mixture of dimension dim.
        points_seed: of the points, >= 0; `seed` is an option of the population.
        options: of the population's family.
    Raises:
        ValueError: dim < 1, points < 1, bandwidth <= 0, points_seed < 0, an unknown population, a mixture of another
            dimension or with options, and what the population's family raises.
    """
    # Here and not above: the registry of families has this one in it, and imports this module.
    from sandbox.teacher.families import FAMILIES, family

    check_count(dim=dim, points=points)
    check_count(0, points_seed=points_seed)
    check_positive(bandwidth=bandwidth)
    if isinstance(population, GaussianMixture):
        if options:
            raise ValueError(f"{next(iter(options))} means nothing where population is a mixture")
        if population.dim != dim or population.means.ndim != 2:
            raise ValueError(
                f"population must be one mixture of dimension {dim}, got means of shape {tuple(population.means.shape)}"
            )
        law = population
    else:
        known = sorted(name for name in FAMILIES if name != "memorising")
        if population not in known:
            raise ValueError(f"population must be one of {', '.join(known)}, got {population!r}")
        law = family(population, dim, **options)
    blocks = [_block(law, points_seed * BLOCKS + i) for i in range(-(-points // BLOCK))]
    weights = torch.full((points,), 1 / points, dtype=torch.float64)
    means = torch.cat(blocks)[:points]
    # By where a point lies, and not by the component that it was drawn from: where modes overlap, nothing in the law of
    # the points tells these apart. Numbered without gaps, so that no mode is empty.
    mode_of = law.to(torch.float64).mode_responsibilities(means).argmax(-1).unique(return_inverse=True)[1]
    return GaussianMixture(weights, means, Isotropic(bandwidth**2), mode_of)


def _block(law: GaussianMixture, seed: int) -> Tensor:
    """BLOCK points of a law, (BLOCK, d), drawn one coordinate after the other."""
    law, generator = law.to(torch.float64), torch.Generator().manual_seed(seed)
    uniform = torch.rand(BLOCK, generator=generator, dtype=torch.float64)
    labels = torch.searchsorted(law.weights.cumsum(0), uniform, right=True).clamp(max=law.components - 1)
    eps = torch.stack([torch.randn(BLOCK, generator=generator, dtype=torch.float64) for _ in range(law.dim)], -1)
    x = torch.empty_like(eps)
    for k in labels.unique().tolist():
        x[labels == k] = law.means[k] + law.covariance.apply(torch.sqrt, k, eps[labels == k])
    return x
