"""Gaussian mixtures: every closed form, at every noise level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sandbox.teacher.covariance import Covariance, Isotropic


class GaussianMixture:
    r"""p(x) = sum_k w_k N(x; mu_k, Sigma_k), and its noised laws p_sigma = p * N(0, sigma^2 I).

    With responsibilities r_k(x), P_k = (Sigma_k + sigma^2 I)^{-1} and g_k = P_k (mu_k - x):

        score      s(x)    = sum_k r_k g_k
        denoiser   D(x)    = sum_k r_k [mu_k + Sigma_k P_k (x - mu_k)]          (= x + sigma^2 s, Tweedie)
        Hessian    grad s  = sum_k r_k [g_k g_k^T - P_k] - s s^T
        posterior  Cov     = sum_k r_k [sigma^2 Sigma_k P_k + m_k m_k^T] - D D^T    (= sigma^2 dD/dx)

    each evaluated in the form that does not cancel: the score needs no division by sigma^2, and the denoiser no
    difference of large numbers. Log-responsibilities are always computed in float64, whatever the points' precision.

    Noise levels follow the variance-exploding convention of Karras et al. (2022): x_sigma = x_0 + sigma eps. `sigma` is
    a float or a tensor that broadcasts against (*E, n).

    Args:
        weights: (*E, K), >= 0, summing to 1.
        means: (*E, K, d).
        covariance: one of Isotropic, Diagonal, LowRank, Full with K components (an Isotropic scalar is shared).
    Raises:
        ValueError: weights that are negative or do not sum to 1, shapes that do not agree, non-finite means.

    >>> law = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], Isotropic(0.25))
    >>> law.score(torch.zeros(1, 1, dtype=torch.float64)).item()
    0.0
    """

    def __init__(self, weights, means, covariance: Covariance):
        means = torch.as_tensor(means)
        means = means if means.is_floating_point() else means.to(torch.float64)
        weights = torch.as_tensor(weights, dtype=torch.float64, device=means.device)
        if means.ndim < 2:
            raise ValueError(f"means must have shape (K, d), got {tuple(means.shape)}")
        if weights.shape != means.shape[:-1]:
            raise ValueError(f"weights must have shape {tuple(means.shape[:-1])} to match means, got {tuple(weights.shape)}")
        if not torch.isfinite(means).all():
            raise ValueError("means must be finite")
        if not (weights >= 0).all():
            raise ValueError(f"weights must be >= 0, got {weights.min().item():g}")
        total = weights.sum(-1)
        if not (total - 1).abs().amax() < 1e-6:
            raise ValueError(f"weights must sum to 1, got {total.flatten()[(total - 1).abs().argmax()].item():g}")
        if isinstance(covariance, Isotropic) and covariance.variance.ndim == 0:
            covariance = covariance.map(lambda v: v.expand(weights.shape))
        if covariance.smallest().shape[-1] != weights.shape[-1]:
            raise ValueError(f"covariance must have {weights.shape[-1]} components, got {covariance.smallest().shape[-1]}")
        widths = {getattr(covariance, f).shape[-1] for f in ("variances", "basis") if hasattr(covariance, f)}
        widths |= {covariance.directions.shape[-2]} if hasattr(covariance, "directions") else set()
        if widths - {means.shape[-1]}:
            raise ValueError(f"covariance must have dimension {means.shape[-1]} to match means, got {widths.pop()}")
        self.weights, self.means = weights, means
        self.covariance = covariance.map(lambda t: t.to(means))
        # Responsibilities are softmaxes of numbers as large as |x - mu|^2 / sigma^2, which float32 cannot resolve.
        self._means64 = means.double()
        self._covariance64 = covariance.map(lambda t: t.to(means.device, torch.float64))
        self._singular = bool((covariance.smallest() <= 0).any())

    # -- the object itself -------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        return self.means.shape[-1]

    @property
    def components(self) -> int:
        return self.means.shape[-2]

    @property
    def smallest_std(self) -> float:
        """The smallest standard deviation of any component in any direction: the scale on which the score varies."""
        return math.sqrt(self._covariance64.smallest().min().item())

    def to(self, *target) -> GaussianMixture:
        """The same law with its tensors in another dtype or on another device, as in `torch.Tensor.to`."""
        move = torch.zeros((), dtype=self.means.dtype, device=self.means.device).to(*target)
        return GaussianMixture(
            self.weights.to(move.device), self._means64.to(move), self._covariance64.map(lambda t: t.to(move.device))
        )

    @classmethod
    def stack(cls, mixtures: Sequence[GaussianMixture]) -> GaussianMixture:
        """One mixture per student along a new leading pack axis; all of one shape and covariance type."""
        shapes = {tuple(m.means.shape) for m in mixtures}
        if len(shapes) != 1:
            raise ValueError(f"mixtures in a pack must have one shape, got {sorted(shapes)}")
        covariances = [m._covariance64 for m in mixtures]
        return cls(
            torch.stack([m.weights for m in mixtures]),
            torch.stack([m.means for m in mixtures]),
            type(covariances[0]).stack(covariances),
        )

    @property
    def mean(self) -> Tensor:
        """E[x], (*E, d)."""
        return (self.weights[..., None] * self._means64).sum(-2).to(self.means)

    @property
    def cov(self) -> Tensor:
        """Cov[x] = sum_k w_k [Sigma_k + (mu_k - m)(mu_k - m)^T], (*E, d, d)."""
        centred = self._means64 - (self.weights[..., None] * self._means64).sum(-2, keepdim=True)
        between = (self.weights[..., None] * centred).mT @ centred
        within = sum(
            self.weights[..., k, None, None] * self._covariance64.dense(k, self.dim) for k in range(self.components)
        )
        return (between + within).to(self.means)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent points, (*E, n, d).

        Raises ValueError if n < 1."""
        if n < 1:
            raise ValueError(f"n must be >= 1, got {n}")
        batch = self.means.shape[:-2]
        flat = self.weights.reshape(-1, self.components)
        labels = torch.multinomial(flat, n, replacement=True, generator=generator).reshape(*batch, n)
        eps = torch.randn(*batch, n, self.dim, generator=generator, dtype=self.means.dtype, device=self.means.device)
        x = torch.zeros_like(eps)
        for k in range(self.components):
            chosen = (labels == k)[..., None]
            draw = self.means[..., k, None, :] + self.covariance.apply(torch.sqrt, k, eps)
            x = torch.where(chosen, draw, x)
        return x

    # -- closed forms ------------------------------------------------------------------------------------------------

    def _noise_variance(self, x: Tensor, sigma, dtype: torch.dtype) -> Tensor:
        """sigma^2 as (*E, n, 1) or a scalar tensor, after checking that the noised law has a density."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"x must have last dimension {self.dim}, got shape {tuple(x.shape)}")
        level = torch.as_tensor(sigma, dtype=dtype, device=x.device)
        if isinstance(sigma, (int, float)) and not sigma >= 0:
            raise ValueError(f"sigma must be >= 0, got {sigma}")
        if self._singular and (level.square() + self._covariance64.smallest().min() <= 0).any():
            raise ValueError("sigma must be > 0 for a singular law (a component has a zero variance), got 0; "
                             "pass sigma > 0 or give the covariance a floor")
        return level.square()[..., None]

    def _log_joint(self, x: Tensor, sigma) -> Tensor:
        """log w_k + log N(x; mu_k, Sigma_k + sigma^2 I), (*E, n, K), in float64."""
        x = x.double()
        s2 = self._noise_variance(x, sigma, torch.float64)
        terms = []
        for k in range(self.components):
            delta = x - self._means64[..., k, None, :]
            solved = self._covariance64.apply(lambda lam: 1 / (lam + s2), k, delta)
            logdet = self._covariance64.trace(lambda lam: torch.log(lam + s2), k, self.dim)
            terms.append(-0.5 * ((delta * solved).sum(-1) + logdet))
        shape = np.broadcast_shapes(*(t.shape for t in terms))
        joint = torch.stack([t.expand(shape) for t in terms], -1) + torch.log(self.weights)[..., None, :]
        return joint - 0.5 * self.dim * math.log(2 * math.pi)

    def log_prob(self, x: Tensor, sigma=0.0) -> Tensor:
        """log p_sigma(x) in nats, (*E, n)."""
        return torch.logsumexp(self._log_joint(x, sigma), -1).to(x.dtype)

    def responsibilities(self, x: Tensor, sigma=0.0) -> Tensor:
        """r_k(x) = P(component k | x_sigma = x), (*E, n, K)."""
        if self.components == 1:
            self._noise_variance(x, sigma, torch.float64)
            batch = np.broadcast_shapes(x.shape[:-2], self.means.shape[:-2])
            return x.new_ones(*batch, x.shape[-2], 1)
        return torch.softmax(self._log_joint(x, sigma), -1).to(x.dtype)

    def score(self, x: Tensor, sigma=0.0) -> Tensor:
        """grad log p_sigma(x), (*E, n, d)."""
        s2 = self._noise_variance(x, sigma, x.dtype)
        r = self.responsibilities(x, sigma)
        return sum(r[..., k, None] * self._component_score(k, x, s2) for k in range(self.components))

    def _component_score(self, k: int, x: Tensor, s2: Tensor) -> Tensor:
        return self.covariance.apply(lambda lam: 1 / (lam + s2), k, self.means[..., k, None, :] - x)

    def denoise(self, x: Tensor, sigma) -> Tensor:
        """D(x; sigma) = E[x_0 | x_sigma = x], (*E, n, d)."""
        s2 = self._noise_variance(x, sigma, x.dtype)
        r = self.responsibilities(x, sigma)
        return sum(r[..., k, None] * self._component_mean(k, x, s2) for k in range(self.components))

    def _component_mean(self, k: int, x: Tensor, s2: Tensor) -> Tensor:
        mu = self.means[..., k, None, :]
        return mu + self.covariance.apply(lambda lam: lam / (lam + s2), k, x - mu)

    def _eye(self, x: Tensor) -> Tensor:
        return torch.eye(self.dim, dtype=x.dtype, device=x.device)

    def _dense(self, phi, k: int, x: Tensor) -> Tensor:
        """phi(Sigma_k) as (*E, n, d, d), where phi takes eigenvalues (*E, 1, m) to (*E, n, m)."""
        columns = [
            self.covariance.apply(phi, k, e.expand(*x.shape[:-1], self.dim)) for e in self._eye(x)
        ]
        return torch.stack(columns, -1)

    def posterior_cov(self, x: Tensor, sigma) -> Tensor:
        """Cov[x_0 | x_sigma = x] = sigma^2 dD/dx, symmetric positive semi-definite, (*E, n, d, d)."""
        s2 = self._noise_variance(x, sigma, x.dtype)
        r = self.responsibilities(x, sigma)
        mean = self.denoise(x, sigma)
        total = 0
        for k in range(self.components):
            centred = self._component_mean(k, x, s2) - mean
            within = self._dense(lambda lam: s2 * lam / (lam + s2), k, x)
            total = total + r[..., k, None, None] * (within + centred[..., :, None] * centred[..., None, :])
        return total

    def score_jacobian(self, x: Tensor, sigma=0.0) -> Tensor:
        """Hessian of log p_sigma at x, symmetric, (*E, n, d, d)."""
        s2 = self._noise_variance(x, sigma, x.dtype)
        r = self.responsibilities(x, sigma)
        score = self.score(x, sigma)
        total = 0
        for k in range(self.components):
            centred = self._component_score(k, x, s2) - score
            precision = self._dense(lambda lam: 1 / (lam + s2), k, x)
            total = total + r[..., k, None, None] * (centred[..., :, None] * centred[..., None, :] - precision)
        return total
