r"""The probability flow in coordinates in which that of one Gaussian is a straight line.

With tau = (v + sigma^2)^(-1/2) and y = tau x, for any v >= 0,

    dx/dsigma = -sigma s(x; sigma)    becomes    dy/dtau = x + (v + sigma^2) s(x; sigma).

The right-hand side is constant for N(mu, v I): it is mu. For a mixture of such Gaussians it is sum_k r_k mu_k, the mean
of the centres as they are seen from x: nearly the law's mean while sigma is large, and one centre after the modes have
parted. Steps are needed only in between. It is the exponential integrator's variation of constants (as in Lu et al.
2022, arXiv 2206.00927, for v = 0), and analytic at both ends: there sigma = 0 is a regular point, and so is tau = 0,
sigma infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.mixture import GROUP_ELEMENTS, PRODUCT_ERROR, GaussianMixture

Velocity = Callable[[Tensor, Tensor], Tensor]

# First step: downwards as a share of the tau at which the law's spread is seen, upwards as a share of tau itself.
FIRST_DOWN, FIRST_UP = 0.5, 0.25


@dataclass(frozen=True)
class Way:
    """From one noise level to another for v, of a law of some variance in a typical direction."""

    variance: float
    spread: float
    sigma_from: float
    sigma_to: float

    @property
    def start(self) -> float:
        return (self.variance + self.sigma_from**2) ** -0.5

    @property
    def end(self) -> float:
        return (self.variance + self.sigma_to**2) ** -0.5

    @property
    def first(self) -> float:
        """Length of the first step to try."""
        return FIRST_DOWN * self.spread**-0.5 if self.sigma_to < self.sigma_from else FIRST_UP * self.start

    def weight(self, tau: Tensor) -> Tensor:
        """How far the end moves, in units of x, with y at tau: as for a Gaussian, downwards of the law's spread and
        upwards of v, where nothing contracts."""
        V = self.spread if self.sigma_to < self.sigma_from else self.variance
        return ((V + self.sigma_to**2) / (1 + (V - self.variance) * tau.square())).sqrt()


def spread(teacher) -> float:
    """The variance in a typical direction of those that hold the law's variance: tr B^2 / tr B of the centres'
    covariance B, plus that within a mode. 1 for an object that does not state its centres."""
    if not isinstance(teacher, GaussianMixture):
        return 1.0
    w, mu = teacher.weights, teacher._means64
    centred = w.sqrt()[:, None] * (mu - w @ mu)
    gram = centred @ centred.T if len(w) < mu.shape[-1] else centred.T @ centred
    between = gram.square().sum() / gram.diagonal().sum().clamp(min=1e-300)
    within = teacher._covariance64.trace(lambda v: v, slice(None), teacher.dim)[:, 0] / teacher.dim
    return (between + w @ within).item()


def point_velocity(teacher, v: float, largest: float) -> Velocity:
    """Right-hand side for points alone, (d, 1, n); largest: of |y| at the start."""
    if isinstance(teacher, GaussianMixture) and (seen := _centres_seen(teacher, v, largest)):
        return seen

    def velocity(y: Tensor, tau: Tensor) -> Tensor:
        x, variance = (y[:, 0] / tau).T.contiguous(), tau**-2
        score = teacher.score(x, (variance - v).clamp(min=0).sqrt())
        return torch.addcmul(x.T, variance, score.T)[:, None]

    return velocity


def _centres_seen(teacher: GaussianMixture, v: float, largest: float) -> Velocity | None:
    """sum_k r_k mu_k by two matrix products, if the modes are equal balls of variance v and the digits suffice.

    The exponents tau y.mu_k - tau^2 |mu_k|^2 / 2 lose eps |y| tau |mu_k|, and |y| grows by less than tau max |mu_k|."""
    covariance, mu = teacher._covariance64, teacher._means64
    if not (isinstance(covariance, Isotropic) and (covariance.variance == covariance.variance.flatten()[0]).all()):
        return None
    reach = mu.norm(dim=-1).max().item() * v**-0.5
    if not torch.finfo(torch.float64).eps * (largest + reach) * reach <= PRODUCT_ERROR:
        return None
    logs, halves, back = teacher.weights.log()[:, None], -0.5 * mu.square().sum(-1, keepdim=True), mu.T.contiguous()

    def seen(y: Tensor, tau: Tensor) -> Tensor:
        exponents = torch.addcmul(logs, (halves * tau).addmm_(mu, y), tau)
        return back @ torch.softmax(exponents, 0)

    def velocity(y: Tensor, tau: Tensor) -> Tensor:
        y, size = y[:, 0], max(1, GROUP_ELEMENTS // len(mu))
        if y.shape[-1] <= size:
            return seen(y, tau)[:, None]
        parts = zip(y.split(size, -1), tau.split(size), strict=True)
        return torch.cat([seen(*part) for part in parts], -1)[:, None]

    return velocity


def tangent_velocity(teacher, v: float, largest: float) -> Velocity:
    """Right-hand side for a point and m tangent vectors carried by the linearised flow, (d, 1 + m, n)."""
    points = point_velocity(teacher, v, largest)

    def velocity(y: Tensor, tau: Tensor) -> Tensor:
        variance = tau**-2
        x = (y / tau).permute(2, 0, 1).contiguous()
        level, J = (variance - v).clamp(min=0).sqrt(), x[..., 1:]
        if hasattr(teacher, "score_jacobian_product"):
            carried = teacher.score_jacobian_product(x[..., 0], level, J)
        else:
            carried = teacher.score_jacobian(x[..., 0], level) @ J
        carried = torch.addcmul(J, variance[:, None, None], carried)
        return torch.cat([points(y[:, :1], tau), carried.permute(1, 2, 0)], 1)

    return velocity


def volume_velocity(teacher, v: float, largest: float) -> Velocity:
    """Right-hand side for a point and the logarithm of the volume of x about it, (d + 1, 1, n), both times tau: the
    logarithm changes with sigma as x does, by the divergence in place of the score."""
    points = point_velocity(teacher, v, largest)

    def velocity(y: Tensor, tau: Tensor) -> Tensor:
        x, variance = (y[:-1, 0] / tau).T.contiguous(), tau**-2
        grown = divergence(teacher, x, (variance - v).clamp(min=0).sqrt())
        return torch.cat([points(y[:-1], tau), torch.addcmul(y[-1:] / tau, variance, grown)], 0)

    return velocity


def divergence(teacher, x: Tensor, level) -> Tensor:
    """div s, (*E, n)."""
    if hasattr(teacher, "score_divergence"):
        return teacher.score_divergence(x, level)
    return torch.diagonal(teacher.score_jacobian(x, level), dim1=-2, dim2=-1).sum(-1)
