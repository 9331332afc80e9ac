r"""What every pairing measure reads for independent pairs.

S(z_i) against T(z_pi(i)) with pi uniform over permutations of n points: mean and standard deviation follow from
Hoeffding (1951), E[sum_i M_{i pi(i)}] = n mean(M) and Var = sum_ij Mc_ij^2 / (n - 1), Mc the matrix centred by rows and
columns, for Mc_ij = <s_i, t_j>, [a_i = b_j] and [t_j nearest to s_i]. With C_s, C_t the covariances (divisor n),

    displacement           1,  2 sqrt(tr C_s C_t / (n-1)) / (tr C_s + tr C_t + |m_s - m_t|^2)
    correlation distance   1,  sqrt(tr C_s C_t / ((n-1) tr C_s tr C_t))
    mode agreement         0,  sqrt((p_e + p_e^2 - sum_k p_k q_k (p_k + q_k)) / (n-1)) / (1 - p_e)
    retrieval              1/n,  sqrt((n^2 - sum_j c_j^2) / (n (n-1))) / n,  c_j how often t_j is nearest

exact given the points; with the covariances, shares and counts of the laws instead of the points', the standard
deviation is right to O(1/n) of itself. Directions: 1/d is the variance of a coordinate of a random unit vector, and the
overlaps are those of the Grassmannian.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Null(NamedTuple):
    """Mean and standard deviation of a measure on independent pairs."""

    mean: float
    sd: float


def displacement(student_cov, teacher_cov, n: int, offset: float = 0.0) -> Null:
    """Of `pairing.displacement`.

    Args:
        student_cov, teacher_cov: (d, d). n: pairs, >= 2. offset: |m_S - m_T|^2.
    Raises:
        ValueError: shapes that differ, n < 2, offset < 0, or no spread at all.
    """
    product, trace_s, trace_t = _traces(student_cov, teacher_cov, n)
    if not offset >= 0:
        raise ValueError(f"offset must be >= 0, got {offset}")
    if not trace_s + trace_t + offset > 0:
        raise ValueError("student_cov and teacher_cov must not both be 0 at offset 0")
    return Null(1.0, 2 * np.sqrt(product / (n - 1)) / (trace_s + trace_t + offset))


def correlation_distance(student_cov, teacher_cov, n: int) -> Null:
    """Of `pairing.correlation_distance`; arguments as `displacement`. Flat spectra: 1 / sqrt(d (n-1))."""
    product, trace_s, trace_t = _traces(student_cov, teacher_cov, n)
    if not trace_s * trace_t > 0:
        raise ValueError("student_cov and teacher_cov must not be 0")
    return Null(1.0, np.sqrt(product / ((n - 1) * trace_s * trace_t)))


def inefficiency(student_cov, teacher_cov, n: int, gain: float) -> Null:
    """Of `pairing.inefficiency`; to O(1/n) of the mean too, whose E_rand leaves out the pairs themselves.

    Args:
        gain: E_rand - E_opt > 0, the mean over all pairs less the optimal assignment's, of the same points.
    """
    product, _, _ = _traces(student_cov, teacher_cov, n)
    if not gain > 0:
        raise ValueError(f"gain must be > 0, got {gain}")
    return Null(1.0, 2 * np.sqrt(product / (n - 1)) / gain)


def mode_agreement(student_shares, teacher_shares, n: int) -> Null:
    """Of `pairing.mode_agreement`, Cohen's (1960) kappa; Fleiss, Cohen & Everitt (1969) with their n replaced by n - 1,
    which makes it exact for fixed margins.

    Args:
        student_shares, teacher_shares: p, q, the share of the labels in each mode, (K,). n: pairs.
    Raises:
        ValueError: shares that are negative, do not sum to 1 or differ in shape; n < 2; both maps in one and the same
        mode, where kappa is not defined.
    """
    _check_pairs(n)
    p, q = (np.asarray(v, dtype=float) for v in (student_shares, teacher_shares))
    if p.shape != q.shape or p.ndim != 1:
        raise ValueError(f"student_shares and teacher_shares must both have shape (K,), got {p.shape} and {q.shape}")
    for name, v in (("student_shares", p), ("teacher_shares", q)):
        if (v < 0).any() or abs(v.sum() - 1) > 1e-9:
            raise ValueError(f"{name} must be >= 0 and sum to 1, got {v}")
    chance = (p * q).sum()
    if chance == 1:
        raise ValueError("student_shares and teacher_shares must not both be in one mode: kappa is not defined")
    variance = (chance + chance**2 - (p * q * (p + q)).sum()) / (n - 1)
    return Null(0.0, np.sqrt(max(variance, 0.0)) / (1 - chance))


def retrieval(n: int, counts=None) -> Null:
    """Of `pairing.retrieval`.

    Args:
        n: points. counts: c_j, how often each teacher point is nearest to a student point, (n,); by default those of
        random labels, which makes the hits binomial. Hubs, frequent in high dimension, make the null narrower.
    Raises:
        ValueError: n < 2, or counts that are not n numbers with sum n.
    """
    _check_pairs(n)
    squares = 2 * n - 1.0
    if counts is not None:
        c = np.asarray(counts, dtype=float)
        if c.shape != (n,) or c.sum() != n:
            raise ValueError(f"counts must be {n} numbers with sum {n}, got shape {c.shape} and sum {c.sum():g}")
        squares = np.square(c).sum()
    return Null(1 / n, np.sqrt((n**2 - squares) / (n * (n - 1))) / n)


def polar_displacement(dim: int) -> Null:
    """Of `gauge.polar_displacement`, 1 - tr Q / d for Q uniform on SO(d). Exact: E tr Q = 0 and E (tr Q)^2 = 1 for d >=
    3, 2 for d = 2 (a plane's rotation has no partner of the opposite sense); SO(1) is the identity alone.

    Raises ValueError if dim < 1."""
    _check_dim(dim)
    if dim == 1:
        return Null(0.0, 0.0)
    return Null(1.0, np.sqrt(0.5) if dim == 2 else 1 / dim)


def subspace_overlap(dim: int, rank: int) -> Null:
    """Mean squared cosine of the principal angles between two random k-dimensional subspaces, tr(P P') / k. Exact.

    Raises ValueError unless 1 <= rank <= dim."""
    _check_dim(dim)
    if not 1 <= rank <= dim:
        raise ValueError(f"rank must be between 1 and dim = {dim}, got {rank}")
    if rank == dim:
        return Null(1.0, 0.0)
    return Null(rank / dim, np.sqrt(2 / ((dim - 1) * (dim + 2))) * (dim - rank) / dim)


def cosine(dim: int) -> Null:
    """<u, v> / (|u| |v|) of independent vectors, one of them of random direction. Exact.

    Raises ValueError if dim < 1."""
    _check_dim(dim)
    return Null(0.0, dim**-0.5)


def _traces(student_cov, teacher_cov, n: int) -> tuple[float, float, float]:
    """tr C_s C_t, tr C_s, tr C_t, after checking the arguments."""
    _check_pairs(n)
    s, t = (np.asarray(v, dtype=float) for v in (student_cov, teacher_cov))
    if s.shape != t.shape or s.ndim != 2 or s.shape[0] != s.shape[1]:
        raise ValueError(f"student_cov and teacher_cov must both have shape (d, d), got {s.shape} and {t.shape}")
    return float((s * t).sum()), float(np.trace(s)), float(np.trace(t))


def _check_pairs(n: int) -> None:
    if not n >= 2:
        raise ValueError(f"n must be >= 2, got {n}")


def _check_dim(dim: int) -> None:
    if not dim >= 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
