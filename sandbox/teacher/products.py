r"""Mixtures of axis-aligned components at many points at once, through matrix products.

    |x - mu|^2 = |x|^2 - 2 x.mu + |mu|^2        sum_k c_k (mu_k - x) = (sum_k c_k mu_k) - x sum_k c_k

The differences on the left take n K d numbers through memory; on the right the same multiplications happen inside one
matrix product, in O(n (K + d)) memory. What it costs is digits. Of the first, eps (|x|^2 + |mu|^2), which counts as eps
(|x|^2 + |mu|^2) / (lambda + sigma^2) in an exponent: it is returned beside the exponents, and whoever calls goes back
to the differences where it is too much. Of the second only eps |x| / |x - mu| of itself, less than 1e-12 at a distance
of 1e-3. Everything is in float64, and about the mean of the means where the law lies far from the origin.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sandbox.teacher.covariance import Covariance, Diagonal, Isotropic

# Largest distance of a law from the origin, over the size of the law, at which points are taken as they are.
OFF_CENTRE = 4.0


class Products:
    """Exponents, scores and denoisers of a mixture; shapes and sigma^2 as in `Covariance.apply` for all components.

    Args:
        means: (*E, K, d). covariance: Isotropic or Diagonal with K components.
    Raises:
        TypeError: another kind of covariance.
    """

    def __init__(self, means: Tensor, covariance: Covariance):
        if isinstance(covariance, Isotropic):
            variances = covariance.variance[..., None]
        elif isinstance(covariance, Diagonal):
            variances = covariance.variances
        else:
            raise TypeError(f"covariance must be Isotropic or Diagonal, got {type(covariance).__name__}")
        # (*E, K or 1, 1 or d): components of one variance need each level once, not K times.
        self.variances = variances.double()
        if variances.shape[-1] == 1 and (variances == variances[..., :1, :]).all():
            self.variances = self.variances[..., :1, :]
        self.dim = means.shape[-1]
        means = means.double()
        centre = means.mean(-2, keepdim=True)
        size = (means - centre).square().sum((-2, -1)) + self.variances.expand(means.shape).sum((-2, -1))
        far = centre.square().sum((-2, -1)) > OFF_CENTRE**2 * size / means.shape[-2]
        # Of a pack, each member by itself: its numbers must not follow from its neighbours'.
        self.centre = centre * far[..., None, None] if far.any() else None
        self.means = self._centred(means)
        self.squares = self.means.square().sum(-1)  # (*E, K)

    @staticmethod
    def serves(covariance: Covariance) -> bool:
        return isinstance(covariance, Isotropic | Diagonal)

    def takes(self, s2: Tensor) -> bool:
        """Whether the metric is one along the points or along the coordinates: a product needs one of the two."""
        return s2.ndim == 0 or self.variances.shape[-1] == 1

    def _centred(self, x: Tensor) -> Tensor:
        return x if self.centre is None else x - self.centre

    def _levels(self, s2: Tensor) -> Tensor:
        """lambda + sigma^2 as (*E, K, 1, 1 or d) for one level, (*E, K, n, 1) for a level per point."""
        return self.variances[..., None, :] + s2

    def exponents(self, x: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """-|x - mu_k|^2 / 2 in the metric of Sigma_k + sigma^2, less half its log-determinant, (*E, K, n); and the
        order of its rounding error at each point, (*E, n)."""
        x, levels = self._centred(x), self._levels(s2)
        size = torch.linalg.vector_norm(x, dim=-1).square()[..., None, :]  # (*E, 1, n)
        narrowest = levels.amin((-3, -1))  # (*E, 1 or n)
        error = torch.finfo(torch.float64).eps * (size.squeeze(-2) + self.squares.amax(-1, keepdim=True)) / narrowest
        if levels.shape[-1] == 1:
            precision = levels.squeeze(-1).reciprocal()  # (*E, K, 1 or n)
            constant = -0.5 * (self.squares[..., None] * precision - self.dim * precision.log())
            one_level = precision.shape[-1] == 1
            inner = (precision * self.means) @ x.mT if one_level else (self.means @ x.mT).mul_(precision)
            return inner.add_(constant).sub_(0.5 * precision * size), error
        precision = levels.squeeze(-2).reciprocal()  # (*E, K, d)
        scaled = precision * self.means
        constant = -0.5 * ((scaled * self.means).sum(-1) - precision.log().sum(-1))
        inner = scaled @ x.mT
        return inner.add_(constant[..., None]).sub_(0.5 * precision @ x.square().mT), error

    def scores(self, shares: Tensor, x: Tensor, s2: Tensor) -> Tensor:
        """sum_k shares_k (Sigma_k + sigma^2)^-1 (mu_k - x) for shares (*E, K, n), (*E, n, d)."""
        precision = self._levels(s2).reciprocal()
        return self._sum(shares, precision, -precision, self._centred(x))

    def denoised(self, shares: Tensor, x: Tensor, s2: Tensor) -> Tensor:
        """sum_k shares_k [mu_k + Sigma_k (Sigma_k + sigma^2)^-1 (x - mu_k)], (*E, n, d)."""
        levels = self._levels(s2)
        shrink = self.variances[..., None, :] / levels
        mixed = self._sum(shares, s2 / levels, shrink, self._centred(x))
        return mixed if self.centre is None else mixed + self.centre

    def _sum(self, shares: Tensor, of_means: Tensor, of_points: Tensor, x: Tensor) -> Tensor:
        """sum_k shares_k (a_k mu_k + b_k x), for a and b (*E, K, 1 or n, 1 or d)."""
        if of_means.shape[-2] > 1:
            a, b = ((shares * c.squeeze(-1)).mT for c in (of_means, of_points))  # (*E, n, K)
            return (a @ self.means).addcmul_(x, b.sum(-1, keepdim=True))
        a = of_means.squeeze(-2) * self.means
        b = of_points.squeeze(-2).expand(*a.shape[:-1], -1)
        return (shares.mT @ a).addcmul_(x, shares.mT @ b)
