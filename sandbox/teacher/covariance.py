"""Covariances of mixture components: one algebra, the spectral calculus.

Every operation that a mixture needs is a function of a symmetric matrix, phi(Sigma) = Q phi(lambda) Q^T. A covariance
therefore only says how to apply such a function to a vector and what its eigenvalues are; noise levels enter through
phi alone, so that one eigendecomposition serves every sigma.

Shapes: K components, dimension d, optional leading pack axes *E (one teacher per student).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

SpectralFunction = Callable[[Tensor], Tensor]

# An eigenvalue of a positive semi-definite matrix computed in floating point may come out this far below zero,
# relative to the largest one.
ROUNDING = 1e-10


def _as_float(values, name: str) -> Tensor:
    tensor = torch.as_tensor(values) if hasattr(values, "dtype") else torch.as_tensor(values, dtype=torch.float64)
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.float64)
    if not torch.isfinite(tensor).all():
        raise ValueError(
            f"{name} must be finite, got {tensor.tolist() if tensor.numel() <= 8 else 'non-finite entries'}"
        )
    return tensor


def _require_non_negative(tensor: Tensor, name: str) -> None:
    if (tensor < 0).any():
        raise ValueError(f"{name} must be >= 0, got {tensor.min().item():g}")


class Covariance(ABC):
    """The covariances Sigma_1 .. Sigma_K of a mixture's components."""

    @abstractmethod
    def apply(self, phi: SpectralFunction, k: int | slice, delta: Tensor) -> Tensor:
        """phi(Sigma_k) delta for points delta (*E, n, d); for a slice of components, delta (*E, K, n, d).

        phi maps eigenvalues of shape (*E, 1, m), or (*E, K, 1, m), to values that broadcast against (*E, n, m), or (*E,
        K, n, m), so that it may depend on a noise level per point."""

    @abstractmethod
    def trace(self, phi: SpectralFunction, k: int | slice, dim: int) -> Tensor:
        """tr phi(Sigma_k), shape (*E, n) or (*E, 1), with K before n for a slice of components; phi as in `apply`."""

    @abstractmethod
    def smallest(self) -> Tensor:
        """Smallest eigenvalue of each component, (*E, K)."""

    @property
    @abstractmethod
    def fields(self) -> tuple[str, ...]:
        """Names of the tensors that define the covariance, each (*E, K, ...)."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Covariance:
        """The covariance with `function` applied to each of its tensors (casts, moves, expansions)."""
        other = object.__new__(type(self))
        for name in self.fields:
            setattr(other, name, function(getattr(self, name)))
        return other

    @classmethod
    def stack(cls, covariances: Sequence[Covariance]) -> Covariance:
        """Covariances of one type and shape along a new leading pack axis.

        Raises TypeError when the types differ."""
        if any(type(c) is not cls for c in covariances):
            raise TypeError(f"a pack holds one covariance type, got {sorted({type(c).__name__ for c in covariances})}")
        other = object.__new__(cls)
        for name in covariances[0].fields:
            setattr(other, name, torch.stack([getattr(c, name) for c in covariances]))
        return other

    def quadratic(self, phi: SpectralFunction, k: int | slice, delta: Tensor) -> Tensor:
        """delta^T phi(Sigma_k) delta as a sum of squares, (*E, n); phi and delta as in `apply`.

        Not delta . (phi(Sigma_k) delta) where the basis mixes large and small eigenvalues: that product cancels."""
        return (delta * self.apply(phi, k, delta)).sum(-1)

    def average(self, phi: SpectralFunction, shares: Tensor, delta: Tensor) -> Tensor:
        """sum_k shares_k phi(Sigma_k) delta over all components, for shares (*E, K, n) and points (*E, n, d); phi as in
        `apply` for a slice of components."""
        total = torch.zeros_like(delta)
        for k in range(shares.shape[-2]):
            one = slice(k, k + 1)
            total = total + (shares[..., one, :, None] * self.apply(phi, one, delta[..., None, :, :])).squeeze(-3)
        return total

    @abstractmethod
    def noised(self, variance: float) -> Covariance:
        """Sigma_k + variance I: noise of standard deviation sigma adds sigma^2."""

    def solve(self, k: int | slice, delta: Tensor, variance: float | Tensor = 0.0) -> Tensor:
        """(Sigma_k + variance I)^-1 delta; points as in `apply`."""
        return self.apply(lambda lam: 1 / (lam + variance), k, delta)

    def shrink(self, k: int | slice, delta: Tensor, variance: float | Tensor) -> Tensor:
        """Sigma_k (Sigma_k + variance I)^-1 delta, the posterior mean of a centred Gaussian; points as in `apply`."""
        return self.apply(lambda lam: lam / (lam + variance), k, delta)

    def root(self, k: int | slice, delta: Tensor) -> Tensor:
        """Sigma_k^(1/2) delta, which has covariance Sigma_k for standard normal delta; points as in `apply`."""
        return self.apply(torch.sqrt, k, delta)

    def logdet(self, k: int | slice, dim: int, variance: float | Tensor = 0.0) -> Tensor:
        """ln det(Sigma_k + variance I); shape as of `trace`."""
        return self.trace(lambda lam: torch.log(lam + variance), k, dim)

    def dense(self, k: int, dim: int) -> Tensor:
        """Sigma_k as a matrix, (*E, d, d)."""
        first = getattr(self, self.fields[0])
        eye = torch.eye(dim, dtype=first.dtype, device=first.device)
        return self.apply(lambda lam: lam, k, eye)

    def _with(self, **tensors: Tensor) -> Covariance:
        """The covariance with some of its tensors replaced."""
        other = self.map(lambda t: t)
        for name, tensor in tensors.items():
            setattr(other, name, tensor)
        return other


class Isotropic(Covariance):
    """Sigma_k = variance_k I.

    Args:
        variance: (*E, K), or a scalar shared by all components; >= 0.
    Raises:
        ValueError: a negative or non-finite variance.
    """

    fields = ("variance",)

    def __init__(self, variance):
        self.variance = _as_float(variance, "variance")
        _require_non_negative(self.variance, "variance")

    def _of(self, k: int | slice) -> Tensor:
        return self.variance[..., k, None, None]

    def apply(self, phi, k, delta):
        return phi(self._of(k)) * delta

    def trace(self, phi, k, dim):
        return dim * phi(self._of(k)).squeeze(-1)

    def average(self, phi, shares, delta):
        return (shares[..., None] * phi(self._of(slice(None)))).sum(-3) * delta

    def noised(self, variance):
        return self._with(variance=self.variance + variance)

    def smallest(self):
        return self.variance


class Diagonal(Covariance):
    """Sigma_k = diag(variances_k).

    Args:
        variances: (*E, K, d), >= 0.
    Raises:
        ValueError: a negative or non-finite variance.
    """

    fields = ("variances",)

    def __init__(self, variances):
        self.variances = _as_float(variances, "variances")
        _require_non_negative(self.variances, "variances")

    def _of(self, k: int | slice) -> Tensor:
        return self.variances[..., k, None, :]

    def apply(self, phi, k, delta):
        return phi(self._of(k)) * delta

    def trace(self, phi, k, dim):
        return phi(self._of(k)).sum(-1)

    def average(self, phi, shares, delta):
        coefficients = phi(self._of(slice(None)))
        if coefficients.shape[-2] == 1:
            return (shares.mT @ coefficients.squeeze(-2)) * delta
        return (shares[..., None] * coefficients).sum(-3) * delta

    def noised(self, variance):
        return self._with(variances=self.variances + variance)

    def smallest(self):
        return self.variances.amin(-1)


class LowRank(Covariance):
    """Sigma_k = factors_k factors_k^T + floor_k I, never formed: O(d r) a point.

    Args:
        factors: (*E, K, d, r).
        floor: (*E, K), or a scalar shared by all components; >= 0.
    Raises:
        ValueError: a negative or non-finite entry.
    """

    fields = ("directions", "spectrum", "floor")

    def __init__(self, factors, floor):
        factors = _as_float(factors, "factors")
        floor = _as_float(floor, "floor").to(factors.dtype)
        _require_non_negative(floor, "floor")
        self.directions, singular, _ = torch.linalg.svd(factors, full_matrices=False)
        self.floor = floor.expand(factors.shape[:-2]).contiguous()
        self.spectrum = singular.square() + self.floor[..., None]

    def _of(self, k: int | slice) -> tuple[Tensor, Tensor, Tensor]:
        return self.directions[..., k, :, :], self.spectrum[..., k, None, :], self.floor[..., k, None, None]

    def apply(self, phi, k, delta):
        U, lam, floor = self._of(k)
        rest = phi(floor)
        return rest * delta + ((phi(lam) - rest) * (delta @ U)) @ U.mT

    def quadratic(self, phi, k, delta):
        U, lam, floor = self._of(k)
        along = delta @ U
        across = (delta - along @ U.mT).square().sum(-1, keepdim=True)
        return (phi(lam) * along.square()).sum(-1) + (phi(floor) * across).squeeze(-1)

    def trace(self, phi, k, dim):
        U, lam, floor = self._of(k)
        return phi(lam).sum(-1) + (dim - U.shape[-1]) * phi(floor).squeeze(-1)

    def noised(self, variance):
        return self._with(spectrum=self.spectrum + variance, floor=self.floor + variance)

    def smallest(self):
        d, r = self.directions.shape[-2:]
        return self.floor if r < d else self.spectrum.amin(-1)


class Full(Covariance):
    """Sigma_k any symmetric positive semi-definite matrix; one eigendecomposition per component.

    Args:
        matrices: (*E, K, d, d).
    Raises:
        ValueError: not square, not symmetric, or not positive semi-definite.
    """

    fields = ("basis", "spectrum")

    def __init__(self, matrices):
        matrices = _as_float(matrices, "matrices")
        if matrices.ndim < 3 or matrices.shape[-1] != matrices.shape[-2]:
            raise ValueError(f"matrices must have shape (K, d, d), got {tuple(matrices.shape)}")
        scale = matrices.abs().amax().item()
        asymmetry = (matrices - matrices.mT).abs().amax().item()
        if asymmetry > 1e-6 * scale:
            raise ValueError(f"matrices must be symmetric, got an asymmetry of {asymmetry:g}")
        spectrum, self.basis = torch.linalg.eigh(matrices)
        floor = -max(ROUNDING, 10 * torch.finfo(matrices.dtype).eps) * scale
        if (spectrum < floor).any():
            raise ValueError(f"matrices must be positive semi-definite, got an eigenvalue of {spectrum.min().item():g}")
        self.spectrum = spectrum.clamp(min=0.0)

    @classmethod
    def gram(cls, factors: Tensor) -> Full:
        """Sigma = factors factors^T, positive semi-definite by construction and therefore not checked: (*E, K, d,
        d)."""
        other = object.__new__(cls)
        spectrum, other.basis = torch.linalg.eigh(factors @ factors.mT)
        other.spectrum = spectrum.clamp(min=0.0)
        return other

    def _of(self, k: int | slice) -> tuple[Tensor, Tensor]:
        return self.basis[..., k, :, :], self.spectrum[..., k, None, :]

    def apply(self, phi, k, delta):
        Q, lam = self._of(k)
        return (phi(lam) * (delta @ Q)) @ Q.mT

    def quadratic(self, phi, k, delta):
        Q, lam = self._of(k)
        return (phi(lam) * (delta @ Q).square()).sum(-1)

    def trace(self, phi, k, dim):
        return phi(self._of(k)[1]).sum(-1)

    def noised(self, variance):
        return self._with(spectrum=self.spectrum + variance)

    def smallest(self):
        return self.spectrum.amin(-1)
