"""Second derivatives of a mixture's log-density: one matrix, dense, applied to vectors, or only its trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sandbox.teacher.mixture import GaussianMixture


@dataclass(frozen=True)
class SecondMoment:
    """M(x) = sum_k r_k [phi(Sigma_k) + (v_k - v)(v_k - v)^T] with v = sum_k r_k v_k: a covariance by the law of total
    variance, and hence positive semi-definite where phi is.

    Args:
        law: the mixture. x: points, (*E, n, d). s2: sigma^2, a scalar tensor or (*E, 1, n, 1).
        shares: r_k, (*E, K, n). mean: v, (*E, n, d).
        of_components: (components, x, s2) -> v_k, (*E, K, n, d). within: phi(eigenvalues, s2).
    """

    law: GaussianMixture
    x: Tensor
    s2: Tensor
    shares: Tensor
    mean: Tensor
    of_components: Callable[[slice, Tensor, Tensor], Tensor]
    within: Callable[[Tensor, Tensor], Tensor]

    def _spreads(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Groups of components, v_k - v, and r_k (v_k - v), both (*E, n, K, d)."""
        for ks in self.law._groups(self.x.numel()):
            centred = (self.of_components(ks, self.x, self.s2) - self.mean[..., None, :, :]).movedim(-3, -2)
            yield ks, centred, self.shares[..., ks, :].mT[..., None] * centred

    def dense(self) -> Tensor:
        """M, (*E, n, d, d)."""
        total = torch.zeros((), dtype=self.x.dtype, device=self.x.device)
        for ks, centred, weighted in self._spreads():
            inner = self.law.dense(lambda lam: self.within(lam, self.s2), ks, self.x)
            total = total + weighted.mT @ centred + (self.shares[..., ks, :, None, None] * inner).sum(-4)
        return total

    def product(self, v: Tensor) -> Tensor:
        """M v for vectors v (*E, n, d, m), from O(n (K + m) d) numbers.

        Raises ValueError if v does not hold m vectors at each point."""
        if v.ndim != self.x.ndim + 1 or v.shape[:-1] != self.x.shape:
            raise ValueError(f"v must have shape {(*self.x.shape, 'm')} to match x, got {tuple(v.shape)}")
        m, dim = v.shape[-1], self.law.dim
        # The vectors of one point, one after the other, as points of their own.
        s2 = self.s2 if self.s2.ndim == 0 else self.s2.repeat_interleave(m, -2)
        shares, vectors = self.shares.repeat_interleave(m, -1), v.mT.reshape(*v.shape[:-3], -1, dim)
        inner = self.law.covariance.average(lambda lam: self.within(lam, s2), shares, vectors)
        total = inner.reshape(v.mT.shape).mT
        for _, centred, weighted in self._spreads():
            total = total + weighted.mT @ (centred @ v)
        return total

    def trace(self) -> Tensor:
        """tr M, (*E, n)."""
        total = torch.zeros((), dtype=self.x.dtype, device=self.x.device)
        for ks, centred, weighted in self._spreads():
            within = self.law.covariance.trace(lambda lam: self.within(lam, self.s2), ks, self.law.dim)
            total = total + (weighted * centred).sum((-2, -1)) + (self.shares[..., ks, :] * within).sum(-2)
        return total
