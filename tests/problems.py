"""Analytic problems with known answers.

A `Problem` is a mixture next to its plain parameters (weights, means, dense covariance matrices), so that a reference
can be computed from the parameters without going through the code under test.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import mpmath
import torch
from torch import Tensor

from sandbox.teacher.covariance import Diagonal, Full, Isotropic, LowRank
from sandbox.teacher.mixture import GaussianMixture

SIGMAS = (1e-3, 1e-2, 0.1, 1.0, 30.0, 1e3)
DIMS = (1, 2, 16, 128, 1024)
# atoms: the singular law of a memorising teacher. near-duplicate: two means closer than any noise level can tell apart.
KINDS = ("isotropic", "diagonal", "low-rank", "full", "near-duplicate", "atoms")


@dataclass(frozen=True)
class Problem:
    """A mixture and what defines it: weights (K,), means (K, d), matrices (K, d, d), all float64."""

    law: GaussianMixture
    weights: Tensor
    means: Tensor
    matrices: Tensor

    def points(self, sigma: float, n: int = 16, seed: int = 1) -> Tensor:
        """Samples of p_sigma, drawn from the parameters, (n, d)."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        dim = self.means.shape[-1]
        x = self.means[labels] + sigma * torch.randn(n, dim, generator=generator, dtype=torch.float64)
        eps = torch.randn(n, dim, generator=generator, dtype=torch.float64)
        roots = [_root(m) for m in self.matrices]
        return x + torch.stack([roots[k] @ e for k, e in zip(labels.tolist(), eps, strict=True)])


def _root(matrix: Tensor) -> Tensor:
    """A square root of a positive semi-definite matrix, singular or not."""
    if torch.equal(matrix, torch.diag(matrix.diagonal())):
        return matrix.sqrt()
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed:
        return factor
    spectrum, basis = torch.linalg.eigh(matrix)
    return basis * spectrum.clamp(min=0).sqrt()


@functools.cache
def mixture(kind: str, dim: int, components: int = 3, seed: int = 0) -> Problem:
    """A mixture with standard normal means, unequal weights and eigenvalues between 0.05 and about 1 (0 for atoms)."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    means = torch.randn(components, dim, generator=generator, dtype=torch.float64)
    weights = 0.2 + uniform(components)
    weights = weights / weights.sum()
    eye = torch.eye(dim, dtype=torch.float64)
    if kind == "isotropic":
        variance = 0.05 + uniform(components)
        covariance, matrices = Isotropic(variance), variance[:, None, None] * eye
    elif kind in ("diagonal", "near-duplicate"):
        variances = 0.05 + uniform(components, dim)
        if kind == "near-duplicate" and components > 1:
            means[1] = means[0]
            means[1, 0] += 1e-9
            variances[1] = variances[0]
        covariance, matrices = Diagonal(variances), torch.diag_embed(variances)
    elif kind == "low-rank":
        factors = torch.randn(components, dim, min(dim, 3), generator=generator, dtype=torch.float64) / math.sqrt(dim)
        floor = 0.05 + 0.2 * uniform(components)
        covariance = LowRank(factors, floor)
        matrices = factors @ factors.mT + floor[:, None, None] * eye
    elif kind == "full":
        factors = torch.randn(components, dim, dim, generator=generator, dtype=torch.float64) / math.sqrt(4 * dim)
        matrices = factors @ factors.mT + 0.05 * eye
        covariance = Full(matrices)
    elif kind == "atoms":
        covariance, matrices = Isotropic(0.0), torch.zeros(components, dim, dim, dtype=torch.float64)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return Problem(GaussianMixture(weights, means, covariance), weights, means, matrices)


def subspaces(dim: int, rank: int, seed: int = 0) -> Problem:
    """Two Gaussians on subspaces, without a floor. Factors are multiples of 1/64, so that the matrices are exact."""
    generator = torch.Generator().manual_seed(seed)
    factors = (torch.randn(2, dim, rank, generator=generator, dtype=torch.float64) * 64).round() / 64
    means = torch.randn(2, dim, generator=generator, dtype=torch.float64)
    weights = torch.tensor([0.4, 0.6], dtype=torch.float64)
    return Problem(GaussianMixture(weights, means, LowRank(factors, 0.0)), weights, means, factors @ factors.mT)


def line() -> GaussianMixture:
    """Three unequal, overlapping modes in one dimension: the flow's map is the monotone one, known by quantiles."""
    return GaussianMixture(
        torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
        torch.tensor([[-1.2], [0.1], [1.5]], dtype=torch.float64),
        Isotropic(torch.tensor([0.1, 0.25, 0.16], dtype=torch.float64)),
    )


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest Euclidean error of a point (last axis) over the norm of its true value."""
    error = (got.double() - want.double()).norm(dim=-1) / want.double().norm(dim=-1)
    return math.inf if error.isnan().any() else error.max().item()


def exact(problem: Problem, x: Tensor, sigma: float, digits: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """log p_sigma (n,), score and denoiser (n, d) from the definitions in `digits`-digit arithmetic; small d only."""
    n, dim = x.shape
    log_prob, score, denoised = torch.empty(n).double(), torch.empty(n, dim).double(), torch.empty(n, dim).double()
    with mpmath.workdps(digits):
        noise = mpmath.mpf(sigma) ** 2
        covariances = [mpmath.matrix(m.tolist()) for m in problem.matrices]
        precisions = [(c + noise * mpmath.eye(dim)) ** -1 for c in covariances]
        scales = [
            mpmath.mpf(w) / mpmath.sqrt(mpmath.det(2 * mpmath.pi * (c + noise * mpmath.eye(dim))))
            for w, c in zip(problem.weights.tolist(), covariances, strict=True)
        ]
        for i, point in enumerate(x.tolist()):
            offsets = [mpmath.matrix(point) - mpmath.matrix(m) for m in problem.means.tolist()]
            solved = [p * o for p, o in zip(precisions, offsets, strict=True)]
            joint = [s * mpmath.exp(-(o.T * v)[0] / 2) for s, o, v in zip(scales, offsets, solved, strict=True)]
            total = mpmath.fsum(joint)
            log_prob[i] = float(mpmath.log(total))
            for j in range(dim):
                score[i, j] = float(-mpmath.fsum(p * v[j] for p, v in zip(joint, solved, strict=True)) / total)
                # x - m - sigma^2 P (x - m) = Sigma P (x - m), which 60 digits can afford to compute by difference
                means = [point[j] - noise * v[j] for v in solved]
                denoised[i, j] = float(mpmath.fsum(p * m for p, m in zip(joint, means, strict=True)) / total)
    return log_prob, score, denoised
