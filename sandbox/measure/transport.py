r"""Is a map the optimal transport of its noise? Cyclical monotonicity and the Brenier map, from points.

A map S with z ~ N(0, I) is the optimal transport between N(0, I) and its own law, for squared distance, if and only if
it is the gradient of a convex function (Brenier 1991), hence cyclically monotone (Rockafellar 1966): no permutation of
points lowers sum_i |z_i - S(z_pi(i))|^2. What can be read off n points:

    violation      two points exchanged: the share of pairs with <z_i - z_j, S_i - S_j> < 0
    Monge gap      all of them: mean |z_i - S_i|^2 less that of the optimal assignment
    displacement   from S to the map that the optimal assignment makes of the same points
    distance       1 - corr(S, b), b the assignment of *independent* points of the same law

Shared points decide less and less as d grows. An assignment of a map's own points moves none of them as soon as
<z_i, S_i> exceeds the largest of n products <z_i, S_j> with strangers. For flat spectra and a correlation c of S with
z these are about c d and sqrt(2 d log n), so that S reads as the Brenier map from c = sqrt(2 log n / d) on: from .2 at
n = 256 and d = 256. The first three hence say that a map is *not* the Brenier map, never that it is. Independent points
do not know S, so that the last does not saturate; see `brenier_distance`.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sandbox.measure.jackknife import Measured, jackknife
from sandbox.measure.pairing import (
    against_null,
    checked_pair,
    displacement,
    independent_square,
    inefficiency,
    permutations,
    squared_distances,
    with_error,
)

# Elements of the differences between points that are held at once.
DIFFERENCES = 2**24
NAMES = ("student_x", "z")


def monotonicity_violation(student_x: Tensor, z: Tensor, rng: np.random.Generator) -> Measured:
    """Share of pairs of points with <z_i - z_j, S_i - S_j> < 0: 0 for a monotone map, 1/2 for independent pairs.

    The null is 1/2 at any d and n: exchanging S_i and S_j alone is as likely a pairing and changes the sign (pairs with
    product 0, as where S is constant, count as no violation). In one dimension this is (1 - Kendall's tau) / 2. Of a
    linear map it sees the symmetric part only: a rotation by less than a right angle violates nothing.

    Args:
        student_x: S(z), (n, d). z: (n, d).
    Raises:
        ValueError: as `displacement`.
    """
    s, z = checked_pair(student_x, z, names=NAMES)
    n = len(s)
    violated = _violated(s, z)

    def share(rows: np.ndarray) -> float:
        return violated[np.ix_(rows, rows)].sum() / (len(rows) * (len(rows) - 1))

    def shuffled(pi: np.ndarray) -> float:
        products = gram[:, pi]
        own = np.diagonal(products)
        return (products + products.T > own[:, None] + own).sum() / (n * (n - 1))

    gram = (z @ s.mT).numpy()
    null = np.array([shuffled(pi) for pi in permutations(n, rng)])
    return Measured(*against_null(share(np.arange(n)), null), float(jackknife(share, n, rng)), n)


def _violated(s: Tensor, z: Tensor) -> np.ndarray:
    """<z_i - z_j, S_i - S_j> < 0, (n, n). By differences: a monotone map's close points must not cross by rounding."""
    size = max(1, DIFFERENCES // s.numel())
    rows = [((z[i : i + size, None] - z) * (s[i : i + size, None] - s)).sum(-1) < 0 for i in range(0, len(s), size)]
    return torch.cat(rows).numpy()


def monge_gap(student_x: Tensor, z: Tensor) -> float:
    """mean |z_i - S(z_i)|^2 - min_pi mean |z_i - S(z_pi(i))|^2 >= 0, in the data's units squared: the Monge gap of
    Uscidda & Cuturi (2023) of a sample, for the squared distance and without entropy.

    Args:
        student_x: S(z), (n, d). z: (n, d).
    Raises:
        ValueError: as `displacement`. Costs O(n^3).
    """
    s, z = checked_pair(student_x, z, names=NAMES)
    cost = squared_distances(z, s)
    return float(np.trace(cost) / len(cost) - cost[linear_sum_assignment(cost)].mean())


def relative_monge_gap(student_x: Tensor, z: Tensor, rng: np.random.Generator) -> Measured:
    """The Monge gap over that of a random pairing: 0 where no pairing of z with S's points is cheaper, 1 for
    independent pairs.

    The `inefficiency` of S against z itself; raises as it does. Near 0 for most maps at large d, as the module says."""
    s, z = checked_pair(student_x, z, least=8, names=NAMES)
    return with_error(inefficiency, s, z, rng=rng)


def rearranged(x: Tensor, z: Tensor) -> Tensor:
    """The points x in the order that is the discrete Brenier map z_i -> x_pi(i), pi minimising sum |z_i - x_pi(i)|^2,
    (n, d).

    Raises ValueError as `displacement`. Costs O(n^3)."""
    x, z = checked_pair(x, z, names=("x", "z"))
    # |z_i|^2 and |x_j|^2 are in every pairing; without them nothing is lost to a distant mean.
    return x[torch.from_numpy(linear_sum_assignment((-(z - z.mean(0)) @ (x - x.mean(0)).mT).numpy())[1])]


def transport_displacement(
    student_x: Tensor, z: Tensor, rng: np.random.Generator, target: Tensor | None = None
) -> Measured:
    """Displacement from S to the discrete Brenier map of z to S's own points, or to those of a target.

    0 where S is cyclically monotone on these points, at any d and n, 1 for points that do not depend on z. With T(z) as
    target it is the displacement to the optimal transport of the teacher's points, which is T itself as soon as T is
    cyclically monotone on them. The module says what it cannot tell at large d. The standard error counts that points
    left out change the assignment of the others, and is up to 1.7 times too large.

    Args:
        student_x: S(z), (n, d). z: (n, d). target: (n, d).
    Raises:
        ValueError: as `displacement`. Costs O(n^3) for each of 32 groups left out.
    """
    s, z = checked_pair(student_x, z, names=NAMES)
    x = s if target is None else checked_pair(s, target, names=("student_x", "target"))[1]
    found = displacement(s, rearranged(x, z), rng)

    def without(rows: np.ndarray) -> float:
        a, b = s[rows], rearranged(x[rows], z[rows])
        return (a - b).square().sum(-1).mean().item() / independent_square(a, b)

    return Measured(*found, float(jackknife(without, len(s), rng)), len(s))


def brenier_distance(student_x: Tensor, z: Tensor, samples: Tensor, rng: np.random.Generator) -> Measured:
    r"""1 - corr(S, b), b the Brenier map as n points show it: 0 for the Brenier map, 1 for independent pairs.

    Each sample, independent of z, is assigned optimally to z: y_m(z_i), and b(z) = E[y_m | z]. An assignment in high
    dimension is mostly noise, <y_m, y_l> << |y|^2, but independent noise: with M samples

        corr(S, b) = E<S, mean_m y_m> / sqrt(E|S|^2 E<y_m, y_l>),    m != l,  all centred,

    is the correlation that is left when the noise is divided out (Spearman 1904). b is the Brenier map drawn towards
    its mean. For a flat Gaussian law it has the Brenier map's direction at every z, and the Brenier map reads less than
    .03; where eigenvalues differ, n points show leading modes better than others, and it reads more (.08 for
    eigenvalues k^-1.5 at n = 256, d = 1024). An estimate, not a distance: noise can take it below 0. NaN where the
    samples have nothing in common.

    Args:
        student_x: S(z), (n, d). z: (n, d). samples: (M, n, d), M >= 2: the law of S, at other noise.
    Raises:
        ValueError: as `displacement`, and samples of another shape or fewer than 2. Costs M assignments, O(n^3).
    """
    s, z = checked_pair(student_x, z, names=NAMES)
    if samples.ndim != 3 or samples.shape[1:] != s.shape or len(samples) < 2:
        raise ValueError(f"samples must have shape (M >= 2, {len(s)}, {s.shape[-1]}), got {tuple(samples.shape)}")
    if not torch.isfinite(samples).all():
        raise ValueError(f"samples must be finite, got {(~torch.isfinite(samples)).any(-1).sum()} non-finite points")
    y = torch.stack([rearranged(x, z) for x in samples])
    y = y - y.mean(1, keepdim=True)
    s, total, many = s - s.mean(0), y.sum(0), len(y)
    common = (total.square() - y.square().sum(0)).sum(-1) / (many * (many - 1))
    size = s.square().sum(-1)

    def distance(products: Tensor, rows) -> float:
        return (1 - products.mean() / (size[rows].mean() * common[rows].mean()).sqrt()).item()

    products = (s * total).sum(-1) / many
    null = [distance((s[torch.from_numpy(pi)] * total).sum(-1) / many, slice(None)) for pi in permutations(len(s), rng)]
    se = jackknife(lambda rows: distance(products[rows], rows), len(s), rng)
    return Measured(*against_null(distance(products, slice(None)), np.array(null)), float(se), len(s))
