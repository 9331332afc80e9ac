"""Every measure of a user's pairs (z, S(z), T(z)) that needs neither the student nor the teacher, with its null.

What costs n goes over all points; what costs n^2 or n^3 takes a random part of them, and its reading says how many. A
new measure joins by an entry in `MEASURES`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from sandbox.measure.arrays import Pairs, standard_error
from sandbox.measure.jackknife import Measured
from sandbox.measure.jacobian import effective_rank, participation_ratio, stable_rank
from sandbox.measure.law import DISTANCE_RATIO, MASS_FACTOR, VARIANCE_RATIO, sliced_w2
from sandbox.measure.linearity import linear_share
from sandbox.measure.pairing import WithNull, inefficiency, mode_agreement, retrieval, with_error

# Fewer points per dimension than this leave covariances, and with them the law gate, poorly known.
ENOUGH = 8
# As many points as stored students are read with, so that numbers compare: retrieval and assignment depend on n.
ASSIGNED, LAW_POINTS = 256, 2048
# Splits of the points into halves that are compared as laws.
SPLITS = 8
# Least squares on more coordinates of z than this are left out.
LINEAR_DIM = 1024


Read = Callable[[Pairs, np.random.Generator], WithNull | Measured]


@dataclass(frozen=True)
class Measure:
    """A named measure of pairs.

    zero, one: what 0 and 1 say. most: points that it is given at most. needs: optional arrays, without which it is not
    read."""

    name: str
    read: Read
    zero: str
    one: str
    most: int | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What a measure read, over n points."""

    name: str
    value: float
    null: float
    low: float
    high: float
    error: float
    n: int
    zero: str
    one: str


def _against(value: float, null: np.ndarray, error: float = math.nan) -> Measured:
    low, high = np.quantile(null, [0.025, 0.975])
    return Measured(value, float(null.mean()), float(low), float(high), error)


def _displacement(pairs: Pairs, rng: np.random.Generator) -> Measured:
    rho, influence = pairs.moments.displacement()
    null = 1 - 2 * pairs.shuffled_products / pairs.moments.independent
    return _against(rho, null, standard_error(influence))


def _correlation_distance(pairs: Pairs, rng: np.random.Generator) -> Measured:
    m, (ours, theirs) = pairs.moments, pairs.moments.sizes
    if ours * theirs == 0:
        raise ValueError("student and teacher must not be constant")
    size = math.sqrt(ours * theirs)
    r = m.product.mean() / size
    influence = m.product / size - r * (m.student_square / ours + m.teacher_square / theirs) / 2
    return _against(1 - float(r), 1 - pairs.shuffled_products / size, standard_error(influence))


def _retrieval(pairs: Pairs, rng: np.random.Generator) -> Measured:
    found = retrieval(pairs.student, pairs.teacher, rng)
    return Measured(*found, math.sqrt(found.value * (1 - found.value) / pairs.n))  # type: ignore[call-arg]


def _labels(pairs: Pairs) -> tuple[np.ndarray, np.ndarray, int]:
    assert pairs.student_modes is not None
    assert pairs.teacher_modes is not None
    a, b = pairs.student_modes.numpy(), pairs.teacher_modes.numpy()
    return a, b, int(max(a.max(), b.max())) + 1


def _mode_agreement(pairs: Pairs, rng: np.random.Generator) -> Measured:
    a, b, modes = _labels(pairs)
    found = mode_agreement(torch.from_numpy(a), torch.from_numpy(b), modes, rng)
    p, q = (np.bincount(labels, minlength=modes) / len(a) for labels in (a, b))
    chance, same = (p * q).sum(), (a == b).mean()
    if chance == 1:
        raise ValueError("modes must be more than one, got one and the same for every point")
    influence = ((a == b) - same) / (1 - chance) - (1 - same) / (1 - chance) ** 2 * (q[a] + p[b] - 2 * chance)
    return Measured(*found, standard_error(influence))  # type: ignore[call-arg]


def _mass_ratio(pairs: Pairs, rng: np.random.Generator) -> Measured:
    a, b, modes = _labels(pairs)
    ours, theirs = (np.bincount(labels, minlength=modes) for labels in (a, b))
    there = ours + theirs > 0
    return Measured(float((np.minimum(ours, theirs)[there] / np.maximum(ours, theirs)[there]).min()))


def _variance_ratio(pairs: Pairs, rng: np.random.Generator) -> Measured:
    m, (ours, theirs) = pairs.moments, pairs.moments.sizes
    if theirs == 0:
        raise ValueError("teacher must not be constant")
    ratio = ours / theirs
    return Measured(ratio, se=standard_error((m.student_square - ratio * m.teacher_square) / theirs))


def _law_distance(pairs: Pairs, rng: np.random.Generator) -> Measured:
    """Between halves of the points: S(z) and T(z) of one z are not independent samples."""
    ours, real = [], []
    for split in range(SPLITS):
        one, other = np.array_split(rng.permutation(pairs.n), 2)
        ours.append(sliced_w2(pairs.student[one], pairs.teacher[other], split))
        real.append(sliced_w2(pairs.teacher[one], pairs.teacher[other], split))
    whole = np.mean(real)
    if whole == 0:
        raise ValueError("teacher must not be constant")
    return _against(float(np.mean(ours) / whole), np.array(real) / whole)


def _linear_share(owner: str, pairs: Pairs, rng: np.random.Generator) -> Measured:
    if pairs.z.shape[-1] > LINEAR_DIM:
        raise ValueError(f"z must have at most {LINEAR_DIM} coordinates, got {pairs.z.shape[-1]}")
    return Measured(linear_share(getattr(pairs, owner), pairs.z), null=pairs.z.shape[-1] / (pairs.n - 1))


def _rank(owner: str, rank: Callable[[Tensor], Tensor], pairs: Pairs, rng: np.random.Generator) -> Measured:
    found = rank(torch.linalg.svdvals(getattr(pairs, f"jacobian_{owner}").double())).numpy()
    error = math.nan if len(found) < 2 else float(found.std(ddof=1) / math.sqrt(len(found)))
    return Measured(float(found.mean()), se=error)


LABELS = ("student_modes", "teacher_modes")
MEASURES: tuple[Measure, ...] = (
    Measure("displacement", _displacement, "a copy", "independent pairs"),
    Measure("correlation_distance", _correlation_distance, "a copy of any size", "independent pairs"),
    Measure(
        "inefficiency",
        lambda pairs, rng: with_error(inefficiency, pairs.student, pairs.teacher, rng=rng),
        "no cheaper pairing",
        "independent pairs",
        ASSIGNED,
    ),
    Measure("retrieval", _retrieval, "never nearest to its own", "a copy", ASSIGNED),
    Measure("mode_agreement", _mode_agreement, "independent pairs", "a copy", needs=LABELS),
    Measure("mass_ratio", _mass_ratio, "a mode is missing", "the teacher's modes", needs=LABELS),
    Measure("variance_ratio", _variance_ratio, "collapsed", "the teacher's variance"),
    Measure("law_distance", _law_distance, "-", "two samples of one law", LAW_POINTS),
    *(
        Measure(
            f"{owner}_linear_share", partial(_linear_share, owner), "nothing linear in z", "linear in z", LAW_POINTS
        )
        for owner in ("student", "teacher")
    ),
    *(
        Measure(
            f"{owner}_{rank.__name__}", partial(_rank, owner, rank), "-", "one direction", needs=(f"jacobian_{owner}",)
        )
        for owner in ("student", "teacher")
        for rank in (effective_rank, stable_rank, participation_ratio)
    ),
)


def read_pairs(
    pairs: Pairs, seed: int = 0, measures: Sequence[Measure] = MEASURES
) -> tuple[list[Reading], dict[str, str]]:
    """Every measure that the arrays allow, and by name why a measure was left out.

    seed: of shuffles and of the points where not all are used; each measure has a stream of its own, so that one more
    measure changes no other."""
    found, left_out = [], {}
    for measure in measures:
        absent = [name for name in measure.needs if getattr(pairs, name) is None]
        if absent:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(measure.name.encode())])
        here = pairs if measure.most is None else pairs.some(measure.most, rng)
        try:
            read = measure.read(here, rng)
        except ValueError as reason:
            left_out[measure.name] = str(reason)
            continue
        jacobian = next((getattr(pairs, name) for name in measure.needs if name.startswith("jacobian")), None)
        n = here.n if jacobian is None else len(jacobian)
        error = getattr(read, "se", math.nan)
        found.append(Reading(measure.name, *read[:4], error, n, measure.zero, measure.one))
    return found, left_out


def caveats(pairs: Pairs, readings: Sequence[Reading]) -> list[str]:
    """What to bear in mind with these numbers, a sentence each: the law gate first, as pairings count only where the
    law matches."""
    by_name, said = {r.name: r for r in readings}, []
    low, high = VARIANCE_RATIO
    distance, ratio, mass = (by_name.get(name) for name in ("law_distance", "variance_ratio", "mass_ratio"))
    if distance is not None and distance.value > DISTANCE_RATIO:
        said.append(f"law gate failed: law_distance {distance.value:.3g} is above {DISTANCE_RATIO:g}")
    if ratio is not None and not low <= ratio.value <= high:
        said.append(f"law gate failed: variance_ratio {ratio.value:.3g} is not in [{low:g}, {high:g}]")
    if mass is not None and mass.value < 1 / MASS_FACTOR:
        said.append(f"law gate failed: mass_ratio {mass.value:.3g} is below {1 / MASS_FACTOR:g}")
    if said:
        said.append("a pairing counts only where the student's law is the teacher's: correlation_distance ignores size")
    if pairs.n < ENOUGH * pairs.d:
        said.append(f"n = {pairs.n} is below {ENOUGH} d = {ENOUGH * pairs.d}: the law is seen in few directions only")
    part = [r for r in readings if r.n < pairs.n and not r.name.endswith(("rank", "ratio"))]
    if part:
        names = ", ".join(f"{r.name} ({r.n})" for r in part)
        said.append(f"a random part of the {pairs.n} points, as the cost grows faster than n: {names}")
    return said
