"""Noise levels: the Karras grid and the laws from which training draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not sigma_min > 0:
        raise ValueError(f"sigma_min must be > 0, got {sigma_min}")
    if not sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_max must be > sigma_min = {sigma_min}, got {sigma_max}")


def karras_grid(n: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """The n noise levels of Karras et al. (2022, arXiv 2206.00364, eq. 5), descending from sigma_max, (n,) float64.

    Raises ValueError if n < 2, sigma_min <= 0, sigma_max <= sigma_min or rho <= 0."""
    _check_range(sigma_min, sigma_max)
    if n < 2:
        raise ValueError(f"n must be >= 2, got {n}")
    if not rho > 0:
        raise ValueError(f"rho must be > 0, got {rho}")
    i = torch.arange(n, dtype=torch.float64) / (n - 1)
    return (sigma_max ** (1 / rho) + i * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho


@lru_cache(maxsize=16)
def _ascending(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    return karras_grid(n, sigma_min, sigma_max).flip(0)


@lru_cache(maxsize=16)
def legendre(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [-1, 1], each (count,); shared, not to be modified."""
    return np.polynomial.legendre.leggauss(count)


@dataclass(frozen=True)
class LogUniform:
    """ln sigma uniform on [ln sigma_min, ln sigma_max]."""

    sigma_min: float = 0.02
    sigma_max: float = 80.0

    def __post_init__(self):
        _check_range(self.sigma_min, self.sigma_max)

    @property
    def log_range(self) -> float:
        """L = ln(sigma_max / sigma_min)."""
        return math.log(self.sigma_max / self.sigma_min)

    def draw(self, u: Tensor) -> Tensor:
        """Noise levels from uniforms u in [0, 1), by the inverse distribution function; same shape."""
        return self.sigma_min * torch.exp(self.log_range * u)

    def nodes(self, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
        """Levels and weights, each (count,), such that sum(weights * h(levels)) = E[h(sigma)] (Gauss-Legendre)."""
        t, w = legendre(count)
        return self.sigma_min * np.exp(self.log_range * (t + 1) / 2), w / 2


@dataclass(frozen=True)
class KarrasBins:
    """Uniform over bins first .. last (inclusive) of a Karras grid counted upwards from sigma_min, as DMD2 draws them.

    DMD2 (Yin et al. 2024, arXiv 2405.14867, EDM variant) trains its student on bins 20 .. 980 of 1000."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    bins: int = 1000
    first: int = 20
    last: int = 980

    def __post_init__(self):
        _check_range(self.sigma_min, self.sigma_max)
        if not 0 <= self.first <= self.last < self.bins:
            raise ValueError(
                f"first and last must satisfy 0 <= first <= last < bins = {self.bins}, got {self.first} and {self.last}"
            )

    @property
    def levels(self) -> Tensor:
        """The noise levels, ascending, (last - first + 1,) float64."""
        return _ascending(self.bins, self.sigma_min, self.sigma_max)[self.first : self.last + 1]

    def draw(self, u: Tensor) -> Tensor:
        """Noise levels from uniforms u in [0, 1); same shape."""
        return _pick(self, u)

    def nodes(self, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Levels and weights of the exact average over the bins; `count` is not used."""
        levels = self.levels.numpy()
        return levels, np.full(len(levels), 1 / len(levels))


@dataclass(frozen=True)
class LogGrid:
    """Uniform over a few levels, evenly spaced in ln sigma from sigma_min to sigma_max inclusive."""

    sigma_min: float = 0.05
    sigma_max: float = 20.0
    bins: int = 8

    def __post_init__(self):
        _check_range(self.sigma_min, self.sigma_max)
        if self.bins < 2:
            raise ValueError(f"bins must be >= 2, got {self.bins}")

    @property
    def levels(self) -> Tensor:
        """The noise levels, ascending, (bins,) float64."""
        return torch.as_tensor(np.geomspace(self.sigma_min, self.sigma_max, self.bins))

    def draw(self, u: Tensor) -> Tensor:
        """Noise levels from uniforms u in [0, 1); same shape."""
        return _pick(self, u)

    def nodes(self, count: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Levels and weights of the exact average over the levels; `count` is not used."""
        return self.levels.numpy(), np.full(self.bins, 1 / self.bins)


def levels_beside(law: KarrasBins | LogGrid, like: Tensor) -> Tensor:
    """The law's levels, of the precision and on the device of `like`; shared, not to be modified."""
    return _moved(law, like.dtype, like.device)


@lru_cache(maxsize=64)
def _moved(law: KarrasBins | LogGrid, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept: a copy to a device in every training step would make each step wait for it.
    return law.levels.to(device, dtype)


def _pick(law: KarrasBins | LogGrid, u: Tensor) -> Tensor:
    """Levels, each with equal probability, from uniforms u in [0, 1)."""
    levels = levels_beside(law, u)
    index = (u.double() * len(levels)).long().clamp(max=len(levels) - 1)
    return levels[index]


SigmaLaw = LogUniform | KarrasBins | LogGrid
