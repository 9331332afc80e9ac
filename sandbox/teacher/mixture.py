"""Gaussian mixtures: every closed form, at every noise level."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from sandbox.teacher.covariance import Covariance, Isotropic
from sandbox.teacher.products import Products
from sandbox.teacher.second_moment import SecondMoment

# Elements of one group of components' arrays.
GROUP_ELEMENTS = 2**18
# Numbers n K d of one mixture from which its closed forms go through matrix products, and the rounding error of an
# exponent that they may have at a point.
PRODUCT_ELEMENTS, PRODUCT_ERROR = 2**19, 1e-10


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
        mode_of: (*E, K) integers >= 0, the mode that each component is part of, where modes are made of several; by
            default every component is a mode. No closed form depends on it.
    Raises:
        ValueError: weights that are negative or do not sum to 1, shapes that do not agree, non-finite means, modes that
            are no integers >= 0.

    >>> law = GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], Isotropic(0.25))
    >>> law.score(torch.zeros(1, 1, dtype=torch.float64)).item()
    0.0
    """

    def __init__(self, weights, means, covariance: Covariance, mode_of=None):
        means = torch.as_tensor(means) if hasattr(means, "dtype") else torch.as_tensor(means, dtype=torch.float64)
        means = means if means.is_floating_point() else means.to(torch.float64)
        weights = torch.as_tensor(weights, dtype=torch.float64, device=means.device)
        if means.ndim < 2:
            raise ValueError(f"means must have shape (K, d), got {tuple(means.shape)}")
        if weights.shape != means.shape[:-1]:
            raise ValueError(
                f"weights must have shape {tuple(means.shape[:-1])} to match means, got {tuple(weights.shape)}"
            )
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
            raise ValueError(
                f"covariance must have {weights.shape[-1]} components, got {covariance.smallest().shape[-1]}"
            )
        widths = {getattr(covariance, f).shape[-1] for f in ("variances", "basis") if hasattr(covariance, f)}
        widths |= {covariance.directions.shape[-2]} if hasattr(covariance, "directions") else set()
        if widths - {means.shape[-1]}:
            raise ValueError(f"covariance must have dimension {means.shape[-1]} to match means, got {widths.pop()}")
        if mode_of is not None:
            mode_of = torch.as_tensor(mode_of, device=means.device)
            if mode_of.shape != weights.shape or mode_of.is_floating_point() or mode_of.min() < 0:
                raise ValueError(
                    f"mode_of must be integers >= 0 of shape {tuple(weights.shape)}, got {mode_of.dtype} of shape "
                    f"{tuple(mode_of.shape)}"
                )
        self.weights, self.means, self.mode_of = weights, means, mode_of
        self.covariance = covariance.map(lambda t: t.to(means))
        # Responsibilities are softmaxes of numbers as large as |x - mu|^2 / sigma^2, which float32 cannot resolve.
        self._means64 = means.double()
        self._covariance64 = covariance.map(lambda t: t.to(means.device, torch.float64))
        self._singular = bool((covariance.smallest() <= 0).any())
        self._products = Products(self._means64, self._covariance64) if Products.serves(covariance) else None

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
            self.weights.to(move.device),
            self._means64.to(move),
            self._covariance64.map(lambda t: t.to(move.device)),
            self.mode_of,
        )

    @classmethod
    def stack(cls, mixtures: Sequence[GaussianMixture]) -> GaussianMixture:
        """One mixture per student along a new leading pack axis; all of one shape and covariance type."""
        shapes = {tuple(m.means.shape) for m in mixtures}
        if len(shapes) != 1:
            raise ValueError(f"mixtures in a pack must have one shape, got {sorted(shapes)}")
        covariances = [m._covariance64 for m in mixtures]
        grouped = any(m.mode_of is not None for m in mixtures)
        return cls(
            torch.stack([m.weights for m in mixtures]),
            torch.stack([m.means for m in mixtures]),
            type(covariances[0]).stack(covariances),
            torch.stack([m._modes() for m in mixtures]) if grouped else None,
        )

    @property
    def modes(self) -> int:
        """The number of modes, of a pack the largest."""
        return self.components if self.mode_of is None else int(self.mode_of.max()) + 1

    @property
    def mode_weights(self) -> Tensor:
        """The weights of the modes, (*E, M)."""
        return self.weights if self.mode_of is None else self._by_mode(self.weights, self.mode_of)

    def mode_responsibilities(self, x: Tensor, sigma=0.0) -> Tensor:
        """P(mode m | x_sigma = x), (*E, n, M)."""
        r = self.responsibilities(x, sigma)
        return r if self.mode_of is None else self._by_mode(r, self.mode_of[..., None, :].expand_as(r))

    def _by_mode(self, shares: Tensor, mode_of: Tensor) -> Tensor:
        return shares.new_zeros(*shares.shape[:-1], self.modes).scatter_add(-1, mode_of, shares)

    def _modes(self) -> Tensor:
        each = torch.arange(self.components, device=self.means.device).expand(self.weights.shape)
        return each if self.mode_of is None else self.mode_of

    @property
    def mean(self) -> Tensor:
        """E[x], (*E, d)."""
        return (self.weights[..., None] * self._means64).sum(-2).to(self.means)

    @property
    def cov(self) -> Tensor:
        """Cov[x] = between + within, (*E, d, d)."""
        return (self._between + self._within).to(self.means)

    @property
    def between(self) -> Tensor:
        """The covariance of the modes' centres, sum_k w_k (mu_k - m)(mu_k - m)^T, (*E, d, d)."""
        return self._between.to(self.means)

    @property
    def within(self) -> Tensor:
        """The mean covariance of a mode, sum_k w_k Sigma_k, (*E, d, d)."""
        return self._within.to(self.means)

    @property
    def _between(self) -> Tensor:
        centred = self._means64 - (self.weights[..., None] * self._means64).sum(-2, keepdim=True)
        return (self.weights[..., None] * centred).mT @ centred

    @property
    def _within(self) -> Tensor:
        weights, dense = self.weights[..., None, None], self._covariance64.dense
        return torch.as_tensor(sum(weights[..., k, :, :] * dense(k, self.dim) for k in range(self.components)))

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
    # Components are a batch axis before the points: (*E, K, n, d). They are taken in groups, so that memory grows as n
    # (K + d) and a group's arrays stay in cache.

    def _groups(self, points: int, within: slice | None = None) -> Iterator[slice]:
        """Components, of all or of a slice, in groups that for so many numbers each are not too large."""
        first, last = (0, self.components) if within is None else (within.start, within.stop)
        size = max(1, GROUP_ELEMENTS // max(1, points))
        for k in range(first, last, size):
            yield slice(k, min(k + size, last))

    def _noise_variance(self, x: Tensor, sigma, dtype: torch.dtype) -> Tensor:
        """sigma^2 as (*E, 1, n, 1) or a scalar tensor, after checking that the noised law has a density."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"x must have last dimension {self.dim}, got shape {tuple(x.shape)}")
        # Sending a number to a GPU, or reading one from there, would stall a training step: it is written there, and
        # levels that live there are taken on trust.
        number = isinstance(sigma, float | int)
        level = (
            torch.full((), sigma, dtype=dtype, device=x.device)
            if number
            else torch.as_tensor(sigma, dtype=dtype, device=x.device)
        )
        if level.device.type == "cpu" and not (level >= 0).all():
            raise ValueError(f"sigma must be >= 0, got {level[~(level >= 0)].flatten()[0].item():g}")
        if self._singular and (level.square() + self._covariance64.smallest().min() <= 0).any():
            raise ValueError(
                "sigma must be > 0 for a singular law (a component has a zero variance), got 0; "
                "pass sigma > 0 or give the covariance a floor"
            )
        return level.square() if level.ndim == 0 else level.square()[..., None, :, None]

    def _many(self, x: Tensor, s2: Tensor) -> bool:
        """Whether the points are so many that matrix products pay; on a GPU, where it would wait for a look at their
        error, never."""
        elements = math.prod(x.shape[-2:]) * self.components
        fits = self._products is not None and self._products.takes(s2)
        return fits and elements >= PRODUCT_ELEMENTS and x.device.type == "cpu"

    def _log_joint(self, x: Tensor, sigma) -> Tensor:
        """log w_k + log N(x; mu_k, Sigma_k + sigma^2 I), (*E, K, n), in float64."""
        x = x.double()
        s2 = self._noise_variance(x, sigma, torch.float64)
        if self._products is None or not self._many(x, s2):
            joint = self._exponents(x, s2)
        else:
            joint, error = self._products.exponents(x, s2)
            rough = error > PRODUCT_ERROR
            where = rough.reshape(-1, rough.shape[-1]).any(0).nonzero().squeeze(-1)
            if len(where):
                level = s2 if s2.ndim == 0 or s2.shape[-2] == 1 else s2[..., where, :]
                exact = self._exponents(x[..., where, :], level)
                joint[..., where] = torch.where(rough[..., None, where], exact, joint[..., where])
        constant = torch.log(self.weights) - 0.5 * self.dim * math.log(2 * math.pi)
        return joint + constant[..., None]

    def _exponents(self, x: Tensor, s2: Tensor) -> Tensor:
        terms = []
        for ks in self._groups(x.numel()):
            delta = x[..., None, :, :] - self._means64[..., ks, None, :]
            square = self._covariance64.quadratic(lambda lam: 1 / (lam + s2), ks, delta)
            logdet = self._covariance64.trace(lambda lam: torch.log(lam + s2), ks, self.dim)
            terms.append(-0.5 * (square + logdet))
        return torch.cat(terms, -2)

    def log_prob(self, x: Tensor, sigma=0.0) -> Tensor:
        """log p_sigma(x) in nats, (*E, n)."""
        return torch.logsumexp(self._log_joint(x, sigma), -2).to(x.dtype)

    def responsibilities(self, x: Tensor, sigma=0.0) -> Tensor:
        """r_k(x) = P(component k | x_sigma = x), (*E, n, K)."""
        return self._shares(x, sigma).mT

    def _shares(self, x: Tensor, sigma) -> Tensor:
        """The responsibilities as (*E, K, n)."""
        if self.components == 1:
            self._noise_variance(x, sigma, torch.float64)
            batch = np.broadcast_shapes(x.shape[:-2], self.means.shape[:-2])
            return x.new_ones(*batch, 1, x.shape[-2])
        return torch.softmax(self._log_joint(x, sigma), -2).to(x.dtype)

    def score(self, x: Tensor, sigma=0.0) -> Tensor:
        """grad log p_sigma(x), (*E, n, d)."""
        return self._mixed(self._component_scores, Products.scores, x, sigma)

    def denoise(self, x: Tensor, sigma) -> Tensor:
        """D(x; sigma) = E[x_0 | x_sigma = x], (*E, n, d)."""
        return self._mixed(self._component_means, Products.denoised, x, sigma)

    def _mixed(self, of_components, through_products, x: Tensor, sigma) -> Tensor:
        """sum_k r_k v_k for vectors v_k (*E, K, n, d) of the components."""
        s2 = self._noise_variance(x, sigma, x.dtype)
        r = self._shares(x, sigma)
        if self._products is not None and self.components > 1 and self._many(x, s2):
            s2 = self._noise_variance(x, sigma, torch.float64)
            return through_products(self._products, r.double(), x.double(), s2).to(x.dtype)
        total: Tensor | float = 0.0
        # The order of a sum must not follow the size of the pack: what is added up together is set by one member's
        # points, and only what is computed together by all of them.
        for together in self._groups(math.prod(x.shape[-2:])):
            terms = [r[..., ks, :, None] * of_components(ks, x, s2) for ks in self._groups(x.numel(), together)]
            total = total + (torch.cat(terms, -3) if len(terms) > 1 else terms[0]).sum(-3)
        return torch.as_tensor(total)

    def _component_scores(self, ks: slice, x: Tensor, s2: Tensor) -> Tensor:
        return self.covariance.apply(lambda lam: 1 / (lam + s2), ks, self.means[..., ks, None, :] - x[..., None, :, :])

    def _component_means(self, ks: slice, x: Tensor, s2: Tensor) -> Tensor:
        mu = self.means[..., ks, None, :]
        return mu + self.covariance.apply(lambda lam: lam / (lam + s2), ks, x[..., None, :, :] - mu)

    def dense(self, phi, ks: slice, x: Tensor) -> Tensor:
        """phi(Sigma_k) as matrices: (*E, K, 1, d, d) if phi is the same at every point, (*E, K, n, d, d) otherwise.

        phi takes eigenvalues (*E, K, 1, m) to (*E, K, 1 or n, m)."""
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        probe = phi(torch.ones_like(self.weights[..., ks, None, None], dtype=x.dtype))
        if probe.shape[-2] == 1:
            return self.covariance.apply(phi, ks, eye)[..., None, :, :]
        columns = [self.covariance.apply(phi, ks, e.expand(probe.shape[-2], self.dim)) for e in eye]
        return torch.stack(columns, -1)

    # -- second derivatives ------------------------------------------------------------------------------------------

    def _posterior(self, x: Tensor, sigma) -> SecondMoment:
        s2 = self._noise_variance(x, sigma, x.dtype)
        within = lambda lam, s2: s2 * lam / (lam + s2)  # noqa: E731
        return SecondMoment(self, x, s2, self._shares(x, sigma), self.denoise(x, sigma), self._component_means, within)

    def _curvature(self, x: Tensor, sigma) -> SecondMoment:
        s2 = self._noise_variance(x, sigma, x.dtype)
        within = lambda lam, s2: -1 / (lam + s2)  # noqa: E731
        return SecondMoment(self, x, s2, self._shares(x, sigma), self.score(x, sigma), self._component_scores, within)

    def posterior_cov(self, x: Tensor, sigma) -> Tensor:
        """Cov[x_0 | x_sigma = x] = sigma^2 dD/dx, symmetric positive semi-definite, (*E, n, d, d)."""
        return self._posterior(x, sigma).dense()

    def score_jacobian(self, x: Tensor, sigma=0.0) -> Tensor:
        """Hessian of log p_sigma at x, symmetric, (*E, n, d, d)."""
        return self._curvature(x, sigma).dense()

    def posterior_cov_product(self, x: Tensor, sigma, v: Tensor) -> Tensor:
        """Cov[x_0 | x_sigma = x] v for vectors v (*E, n, d, m), without the matrix: `posterior_cov(x, sigma) @ v`.

        Raises ValueError if v does not hold m vectors at each point."""
        return self._posterior(x, sigma).product(v)

    def score_jacobian_product(self, x: Tensor, sigma, v: Tensor) -> Tensor:
        """(Hessian of log p_sigma at x) v for vectors v (*E, n, d, m), without the matrix: `score_jacobian(x, sigma) @
        v`.

        Raises ValueError if v does not hold m vectors at each point."""
        return self._curvature(x, sigma).product(v)

    def score_divergence(self, x: Tensor, sigma=0.0) -> Tensor:
        """div s, the trace of the Hessian of log p_sigma at x, without the matrix, (*E, n)."""
        return self._curvature(x, sigma).trace()
