"""Pairing: does the student send the same noise to the same datum as the teacher?

All measures take the two maps' outputs S(z_i), T(z_i) at the same z_i, and come with their value on shuffled pairs,
S(z_i) against T(z_pi(i)): what independent pairing reads at this d and n.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

SHUFFLES = 64


class WithNull(NamedTuple):
    """A measured value beside its shuffled-pair null: the null's mean and its central 95 % range."""

    value: float
    null: float
    low: float
    high: float


def _pair(student_x: Tensor, teacher_x: Tensor, least: int = 2) -> tuple[Tensor, Tensor]:
    if student_x.shape != teacher_x.shape or student_x.ndim != 2:
        raise ValueError(
            f"student_x and teacher_x must both have shape (n, d), got {tuple(student_x.shape)} and "
            f"{tuple(teacher_x.shape)}"
        )
    if len(student_x) < least:
        raise ValueError(f"n must be >= {least}, got {len(student_x)}")
    for name, x in (("student_x", student_x), ("teacher_x", teacher_x)):
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} must be finite, got {(~torch.isfinite(x)).any(-1).sum()} non-finite points")
    return student_x.double(), teacher_x.double()


def _permutations(n: int, rng: np.random.Generator, shuffles: int = SHUFFLES) -> np.ndarray:
    return np.stack([rng.permutation(n) for _ in range(shuffles)])


def _with_null(value: float, null: np.ndarray) -> WithNull:
    low, high = np.quantile(null, [0.025, 0.975])
    return WithNull(float(value), float(null.mean()), float(low), float(high))


def _shuffled_products(s: Tensor, t: Tensor, rng: np.random.Generator) -> np.ndarray:
    """mean_i <s_i, t_pi(i)> for each shuffle pi."""
    gram = (s @ t.mT).numpy()
    rows = np.arange(len(gram))
    return np.array([gram[rows, pi].mean() for pi in _permutations(len(gram), rng)])


def displacement(student_x: Tensor, teacher_x: Tensor, rng: np.random.Generator) -> WithNull:
    """rho = E|S - T|^2 / (tr Cov S + tr Cov T + |m_S - m_T|^2): 0 for a copy, 1 for independent pairs of any two laws.

    Args:
        student_x, teacher_x: (n, d). rng: for the shuffles.
    Raises:
        ValueError: shapes that differ, n < 2, non-finite points, or two constant maps.
    """
    s, t = _pair(student_x, teacher_x)
    independent = _independent_distance(s, t).sum().item()
    if independent == 0:
        raise ValueError("student_x and teacher_x must not both be constant")
    value = (s - t).square().sum(-1).mean().item() / independent
    squares = (s.square().sum(-1).mean() + t.square().sum(-1).mean()).item()
    return _with_null(value, (squares - 2 * _shuffled_products(s, t, rng)) / independent)


def _independent_distance(s: Tensor, t: Tensor) -> Tensor:
    """Per coordinate, E|s - t'|^2 for independent s, t': var s + var t + (mean difference)^2, (d,)."""
    return s.var(0, correction=0) + t.var(0, correction=0) + (s.mean(0) - t.mean(0)).square()


def mode_displacement(student_x: Tensor, teacher_x: Tensor, basis: Tensor) -> Tensor:
    """The displacement along each column of an orthonormal basis (d, m), (m,): rho_k, 0 copied, 1 independent."""
    s, t = (x @ basis for x in _pair(student_x, teacher_x))
    return (s - t).square().mean(0) / _independent_distance(s, t)


def split_displacement(
    student_x: Tensor, teacher_x: Tensor, covariance: Tensor, rng: np.random.Generator
) -> tuple[WithNull, WithNull]:
    """Displacement within the leading eigenmodes of a covariance, and within the rest.

    Leading are the fewest eigenmodes that hold at least half of the trace; the rest is NaN when nothing is left."""
    lam, Q = torch.linalg.eigh(covariance.double())
    order = lam.argsort(descending=True)
    share = lam[order].cumsum(0) / lam.sum()
    leading = int((share < 0.5 - 1e-12).sum()) + 1
    s, t = (x @ Q[:, order] for x in _pair(student_x, teacher_x))
    undefined = WithNull(*[float("nan")] * 4)
    lead, rest = slice(0, leading), slice(leading, None)
    return displacement(s[:, lead], t[:, lead], rng), (
        displacement(s[:, rest], t[:, rest], rng) if s[:, rest].numel() else undefined
    )


def correlation_distance(student_x: Tensor, teacher_x: Tensor, rng: np.random.Generator) -> WithNull:
    """1 - corr(S, T), which ignores scale: 0 for a copy of any size, 1 for independent pairs."""
    s, t = _pair(student_x, teacher_x)
    s, t = s - s.mean(0), t - t.mean(0)
    size = (s.square().sum(-1).mean() * t.square().sum(-1).mean()).sqrt().item()
    if size == 0:
        raise ValueError("student_x and teacher_x must not be constant")
    return _with_null(1 - (s * t).sum(-1).mean().item() / size, 1 - _shuffled_products(s, t, rng) / size)


def inefficiency(student_x: Tensor, teacher_x: Tensor, rng: np.random.Generator) -> WithNull:
    """(E_pair - E_opt) / (E_rand - E_opt): 0 where no other pairing is cheaper, 1 for independent pairs.

    Costs |S(z_i) - T(z_pi(i))|^2: E_pair at the maps' own pairing, E_opt at the exact optimal assignment, E_rand over
    all pairs of different points. Normalised from both sides because E_opt itself shrinks with n only as n^(-2/d): a
    one-sided (E_rand - E_opt) / E_opt falls by more than three decades between d = 1 and d = 512 on independent pairs.

    Assignment costs O(n^3); raises ValueError as `displacement` and if n < 8."""
    s, t = _pair(student_x, teacher_x, least=8)
    cost = torch.cdist(s, t, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    n = len(cost)
    optimal = cost[linear_sum_assignment(cost)].mean()
    random = (cost.sum() - np.trace(cost)) / (n * (n - 1))
    rows = np.arange(n)
    null = np.array([cost[rows, pi].mean() for pi in _permutations(n, rng)])
    return _with_null((np.trace(cost) / n - optimal) / (random - optimal), (null - optimal) / (random - optimal))


def mode_agreement(student_modes: Tensor, teacher_modes: Tensor, modes: int, rng: np.random.Generator) -> WithNull:
    """Cohen's kappa of the component labels of S(z) and T(z), (n,) integers: 1 for a copy, 0 for independent pairs.

    NaN when both maps reach one and the same mode only: agreement by chance is then certain, and kappa not defined."""
    a, b = student_modes.numpy(), teacher_modes.numpy()
    chance = (np.bincount(a, minlength=modes) * np.bincount(b, minlength=modes)).sum() / len(a) ** 2
    if chance == 1:
        return WithNull(*[float("nan")] * 4)
    null = np.array([(a == b[pi]).mean() for pi in _permutations(len(a), rng)])
    return _with_null(((a == b).mean() - chance) / (1 - chance), (null - chance) / (1 - chance))


def rescaled(student_x: Tensor, teacher_x: Tensor) -> Tensor:
    """S(z) with the teacher's mean and total variance, (n, d): what a young, small student would be if it only grew.

    Raises ValueError as `displacement`, and for a constant student."""
    s, t = _pair(student_x, teacher_x)
    size = s.var(0, correction=0).sum()
    if size == 0:
        raise ValueError("student_x must not be constant")
    return t.mean(0) + (s - s.mean(0)) * (t.var(0, correction=0).sum() / size).sqrt()


def retrieval(student_x: Tensor, teacher_x: Tensor, rng: np.random.Generator) -> WithNull:
    """Share of z_i for which T(z_i) is the nearest of all teacher samples to S(z_i); 1/n for independent pairs."""
    s, t = _pair(student_x, teacher_x)
    nearest = torch.cdist(s, t, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1).numpy()
    null = np.array([(nearest == pi).mean() for pi in _permutations(len(nearest), rng)])
    return _with_null((nearest == np.arange(len(nearest))).mean(), null)


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
