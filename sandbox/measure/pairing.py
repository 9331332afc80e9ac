"""Pairing: does the student send the same noise to the same datum as the teacher?

All measures take the two maps' outputs S(z_i), T(z_i) at the same z_i, and come with their value on shuffled pairs,
S(z_i) against T(z_pi(i)): what independent pairing reads at this d and n. `with_error` adds the standard error over
points.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sandbox.measure.jackknife import Measured, jackknife

SHUFFLES = 64
# Share of the mean cost below which the best assignment's gain is rounding.
NO_GAP = 1e-12


class WithNull(NamedTuple):
    """A measured value beside its shuffled-pair null: the null's mean and its central 95 % range."""

    value: float
    null: float
    low: float
    high: float


def checked_pair(
    student_x: Tensor,
    teacher_x: Tensor,
    least: int = 2,
    names: tuple[str, str] = ("student_x", "teacher_x"),
) -> tuple[Tensor, Tensor]:
    """Both in float64; raises ValueError for shapes that differ, fewer than `least` or non-finite points."""
    if student_x.shape != teacher_x.shape or student_x.ndim != 2:
        raise ValueError(
            f"{names[0]} and {names[1]} must both have shape (n, d), got {tuple(student_x.shape)} and "
            f"{tuple(teacher_x.shape)}"
        )
    if len(student_x) < least:
        raise ValueError(f"n must be >= {least}, got {len(student_x)}")
    for name, x in zip(names, (student_x, teacher_x), strict=True):
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} must be finite, got {(~torch.isfinite(x)).any(-1).sum()} non-finite points")
    return student_x.double(), teacher_x.double()


def permutations(n: int, rng: np.random.Generator, shuffles: int = SHUFFLES) -> np.ndarray:
    """Uniform permutations of n points, (shuffles, n)."""
    return np.stack([rng.permutation(n) for _ in range(shuffles)])


def against_null(value: float, null: np.ndarray) -> WithNull:
    """A value beside the mean and the central 95 % of its values under shuffles."""
    low, high = np.quantile(null, [0.025, 0.975])
    return WithNull(float(value), float(null.mean()), float(low), float(high))


def _shuffled_products(s: Tensor, t: Tensor, rng: np.random.Generator) -> np.ndarray:
    """mean_i <s_i, t_pi(i)> for each shuffle pi."""
    gram = (s @ t.mT).numpy()
    rows = np.arange(len(gram))
    return np.array([gram[rows, pi].mean() for pi in permutations(len(gram), rng)])


def displacement(student_x: Tensor, teacher_x: Tensor, rng: np.random.Generator) -> WithNull:
    """rho = E|S - T|^2 / (tr Cov S + tr Cov T + |m_S - m_T|^2): 0 for a copy, 1 for independent pairs of any two laws.

    Args:
        student_x, teacher_x: (n, d). rng: for the shuffles.
    Raises:
        ValueError: shapes that differ, n < 2, non-finite points, or two constant maps.
    """
    s, t = checked_pair(student_x, teacher_x)
    independent = independent_distance(s, t).sum().item()
    if independent == 0:
        raise ValueError("student_x and teacher_x must not both be constant")
    squares = (s.square().sum(-1).mean() + t.square().sum(-1).mean()).item()
    return against_null(_displacement(s, t), (squares - 2 * _shuffled_products(s, t, rng)) / independent)


def _displacement(s: Tensor, t: Tensor) -> float:
    return ((s - t).square().sum(-1).mean() / independent_distance(s, t).sum()).item()


def independent_distance(s: Tensor, t: Tensor) -> Tensor:
    """Per coordinate, E|s - t'|^2 for independent s, t': var s + var t + (mean difference)^2, (d,)."""
    return s.var(0, correction=0) + t.var(0, correction=0) + (s.mean(0) - t.mean(0)).square()


def independent_square(s: Tensor, t: Tensor) -> float:
    """E|s - t'|^2 for independent s, t', NaN if it is 0: the sum of `independent_distance`, fast enough for resampling
    (torch's var along the first axis is not)."""
    spread = sum((x - x.mean(0)).square().sum() / len(x) for x in (s, t))
    total = (spread + (s.mean(0) - t.mean(0)).square().sum()).item()
    return total if total > 0 else float("nan")


def mode_displacement(student_x: Tensor, teacher_x: Tensor, basis: Tensor) -> Tensor:
    """The displacement along each column of an orthonormal basis (d, m), (m,): rho_k, 0 copied, 1 independent."""
    s, t = (x @ basis for x in checked_pair(student_x, teacher_x))
    return (s - t).square().mean(0) / independent_distance(s, t)


def split_displacement(
    student_x: Tensor, teacher_x: Tensor, covariance: Tensor, rng: np.random.Generator
) -> tuple[WithNull, WithNull]:
    """Displacement within the leading eigenmodes of a covariance, and within the rest.

    Leading are the fewest eigenmodes that hold at least half of the trace; the rest is NaN when nothing is left."""
    lam, Q = torch.linalg.eigh(covariance.double())
    order = lam.argsort(descending=True)
    share = lam[order].cumsum(0) / lam.sum()
    leading = int((share < 0.5 - 1e-12).sum()) + 1
    s, t = (x @ Q[:, order] for x in checked_pair(student_x, teacher_x))
    undefined = WithNull(*[float("nan")] * 4)
    lead, rest = slice(0, leading), slice(leading, None)
    return displacement(s[:, lead], t[:, lead], rng), (
        displacement(s[:, rest], t[:, rest], rng) if s[:, rest].numel() else undefined
    )


def correlation_distance(student_x: Tensor, teacher_x: Tensor, rng: np.random.Generator) -> WithNull:
    """1 - corr(S, T), which ignores scale: 0 for a copy of any size, 1 for independent pairs."""
    s, t = checked_pair(student_x, teacher_x)
    s, t = s - s.mean(0), t - t.mean(0)
    size = _size(s, t).item()
    if size == 0:
        raise ValueError("student_x and teacher_x must not be constant")
    return against_null(1 - (s * t).sum(-1).mean().item() / size, 1 - _shuffled_products(s, t, rng) / size)


def _size(s: Tensor, t: Tensor) -> Tensor:
    """sqrt(E|s|^2 E|t|^2) of centred points."""
    return (s.square().sum(-1).mean() * t.square().sum(-1).mean()).sqrt()


def _correlation_distance(s: Tensor, t: Tensor) -> float:
    s, t = s - s.mean(0), t - t.mean(0)
    return 1 - ((s * t).sum(-1).mean() / _size(s, t)).item()


def inefficiency(student_x: Tensor, teacher_x: Tensor, rng: np.random.Generator) -> WithNull:
    """(E_pair - E_opt) / (E_rand - E_opt): 0 where no other pairing is cheaper, 1 for independent pairs.

    Costs |S(z_i) - T(z_pi(i))|^2: E_pair at the maps' own pairing, E_opt at the exact optimal assignment, E_rand over
    all pairs of different points. Normalised from both sides because E_opt itself shrinks with n only as n^(-2/d): a
    one-sided (E_rand - E_opt) / E_opt falls by more than three decades between d = 1 and d = 512 on independent pairs.

    NaN where every pairing costs the same, as for a constant map. Assignment costs O(n^3); raises ValueError as
    `displacement` and if n < 8."""
    s, t = checked_pair(student_x, teacher_x, least=8)
    cost = squared_distances(s, t)
    n = len(cost)
    optimal, gap = _best_and_gap(cost)
    rows = np.arange(n)
    null = np.array([cost[rows, pi].mean() for pi in permutations(n, rng)])
    return against_null((np.trace(cost) / n - optimal) / gap, (null - optimal) / gap)


def squared_distances(s: Tensor, t: Tensor) -> np.ndarray:
    """|s_i - t_j|^2, (n, n)."""
    return _distances(s, t).square().numpy()


def _distances(s: Tensor, t: Tensor) -> Tensor:
    # By differences: the expanded square would lose the distance of close points.
    return torch.cdist(s, t, compute_mode="donot_use_mm_for_euclid_dist")


def _best_and_gap(cost: np.ndarray) -> tuple[float, float]:
    """E_opt and E_rand - E_opt of a cost matrix; NaN for a gap that is rounding."""
    n = len(cost)
    optimal, random = cost[linear_sum_assignment(cost)].mean(), (cost.sum() - np.trace(cost)) / (n * (n - 1))
    return optimal, random - optimal if random - optimal > NO_GAP * random else math.nan


def _inefficiency(cost: np.ndarray) -> float:
    optimal, gap = _best_and_gap(cost)
    return (np.trace(cost) / len(cost) - optimal) / gap


def mode_agreement(student_modes: Tensor, teacher_modes: Tensor, modes: int, rng: np.random.Generator) -> WithNull:
    """Cohen's kappa of the component labels of S(z) and T(z), (n,) integers: 1 for a copy, 0 for independent pairs.

    NaN when both maps reach one and the same mode only: agreement by chance is then certain, and kappa not defined."""
    a, b = student_modes.numpy(), teacher_modes.numpy()
    chance = _chance_agreement(a, b, modes)
    if chance == 1:
        return WithNull(*[float("nan")] * 4)
    null = np.array([(a == b[pi]).mean() for pi in permutations(len(a), rng)])
    return against_null(((a == b).mean() - chance) / (1 - chance), (null - chance) / (1 - chance))


def _chance_agreement(a: np.ndarray, b: np.ndarray, modes: int) -> float:
    return (np.bincount(a, minlength=modes) * np.bincount(b, minlength=modes)).sum() / len(a) ** 2


def _kappa(a: np.ndarray, b: np.ndarray, modes: int) -> float:
    chance = _chance_agreement(a, b, modes)
    return ((a == b).mean() - chance) / (1 - chance) if chance < 1 else float("nan")


def rescaled(student_x: Tensor, teacher_x: Tensor) -> Tensor:
    """S(z) with the teacher's mean and total variance, (n, d): what a young, small student would be if it only grew.

    Raises ValueError as `displacement`, and for a constant student."""
    s, t = checked_pair(student_x, teacher_x)
    size = s.var(0, correction=0).sum()
    if size == 0:
        raise ValueError("student_x must not be constant")
    return t.mean(0) + (s - s.mean(0)) * (t.var(0, correction=0).sum() / size).sqrt()


def retrieval(student_x: Tensor, teacher_x: Tensor, rng: np.random.Generator) -> WithNull:
    """Share of z_i for which T(z_i) is the nearest of all teacher samples to S(z_i); 1/n for independent pairs."""
    s, t = checked_pair(student_x, teacher_x)
    nearest = _distances(s, t).argmin(-1).numpy()
    null = np.array([(nearest == pi).mean() for pi in permutations(len(nearest), rng)])
    return against_null((nearest == np.arange(len(nearest))).mean(), null)


# For each measure, its value alone as a function of the rows that are kept.
Kept = Callable[[np.ndarray], float]


def _displacement_of(s: Tensor, t: Tensor) -> Kept:
    def value(rows: np.ndarray) -> float:
        a, b = s[rows], t[rows]
        return (a - b).square().sum(-1).mean().item() / independent_square(a, b)

    return value


def _correlation_distance_of(s: Tensor, t: Tensor) -> Kept:
    return lambda rows: _correlation_distance(s[rows], t[rows])


def _inefficiency_of(s: Tensor, t: Tensor) -> Kept:
    cost = squared_distances(s, t)
    return lambda rows: _inefficiency(cost[np.ix_(rows, rows)])


def _retrieval_of(s: Tensor, t: Tensor) -> Kept:
    cost = _distances(s, t).numpy()
    return lambda rows: float((cost[np.ix_(rows, rows)].argmin(-1) == np.arange(len(rows))).mean())


def _mode_agreement_of(a: Tensor, b: Tensor, modes: int) -> Kept:
    first, second = a.numpy(), b.numpy()
    return lambda rows: _kappa(first[rows], second[rows], modes)


STATISTICS: dict[Callable, Callable[..., Kept]] = {
    displacement: _displacement_of,
    correlation_distance: _correlation_distance_of,
    inefficiency: _inefficiency_of,
    retrieval: _retrieval_of,
    mode_agreement: _mode_agreement_of,
}


def with_error(
    measure: Callable[..., WithNull], student: Tensor, teacher: Tensor, *settings, rng: np.random.Generator
) -> Measured:
    """A pairing measure with its standard error: `with_error(displacement, S(z), T(z), rng=rng)`.

    Value and null are those of measure(student, teacher, *settings, rng). The standard error is over points z_i, for
    the pair of maps at hand; other students of the same teacher scatter by more. It is 0 where every point says the
    same, as for a copy. That of retrieval is too large, by a factor of 1.2 to 1.5: a hit that a deleted rival brings
    counts as one that the points brought.

    Args:
        measure: displacement, correlation_distance, inefficiency, retrieval or mode_agreement.
        student, teacher: what it takes. settings: what else it takes before rng.
    Raises:
        ValueError: a measure without a standard error, and what the measure raises.
    """
    if measure not in STATISTICS:
        names = ", ".join(sorted(known.__name__ for known in STATISTICS))
        raise ValueError(f"measure must be one of {names}, got {getattr(measure, '__name__', measure)}")
    found = measure(student, teacher, *settings, rng)
    # Labels are integers, and stay so.
    columns = (x.double() if x.is_floating_point() else x for x in (student, teacher))
    se = jackknife(STATISTICS[measure](*columns, *settings), len(student), rng)
    return Measured(*found, float(se), len(student))


def named(name: str, measured: WithNull) -> dict[str, float]:
    """A measured value and its null as entries of a flat record: name, name_null, name_low, name_high."""
    return {name: measured.value} | {f"{name}_{part}": getattr(measured, part) for part in ("null", "low", "high")}


def pairing(
    student_x: Tensor,
    teacher_x: Tensor,
    student_modes: Tensor | None = None,
    teacher_modes: Tensor | None = None,
    seed: int = 0,
    assignment: int = 256,
) -> dict[str, float]:
    """Every pairing measure of two maps' outputs at the same z, each with its null: a flat record.

    Args:
        student_x, teacher_x: S(z_i), T(z_i), (n, d).
        student_modes, teacher_modes: component labels (n,), if the teacher has modes.
        seed: of the shuffles. assignment: points used where the cost grows as n^3.
    Returns:
        name, name_null, name_low, name_high for displacement, correlation_distance, inefficiency, retrieval and, with
        labels, mode_agreement.
    """
    rng = np.random.default_rng(seed)
    few = slice(0, assignment)
    measured = {
        "displacement": displacement(student_x, teacher_x, rng),
        "correlation_distance": correlation_distance(student_x, teacher_x, rng),
        "inefficiency": inefficiency(student_x[few], teacher_x[few], rng),
        "retrieval": retrieval(student_x[few], teacher_x[few], rng),
    }
    if student_modes is not None and teacher_modes is not None:
        modes = int(max(student_modes.max(), teacher_modes.max())) + 1
        measured["mode_agreement"] = mode_agreement(student_modes, teacher_modes, modes, rng)
    record: dict[str, float] = {}
    for name, m in measured.items():
        record |= named(name, m)
    return record
