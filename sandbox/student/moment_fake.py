r"""A fake score without lag: a Gaussian mixture with the moments that the students' samples have now.

What a learned fake score gets wrong comes from following late (it was fitted to what the students were) or from the
geometry of the student's law (what no fit of its kind can hold). This one does not follow: it is set to the samples'
moments at every update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sandbox.student.networks import Pack
from sandbox.teacher.covariance import Full
from sandbox.teacher.mixture import GaussianMixture

# Noise level over the teacher's standard deviation that stands for zero in its responsibilities: at zero itself those
# of a singular component do not exist.
FLOOR = 1e-3
# Samples' worth of the students' common covariance that every component's covariance is given.
PRIOR = 1.0
# Of the squares that a covariance is left over from, a variance that is added: above their rounding, so that samples
# that agree keep a covariance.
ROUNDING = 1e-13


@dataclass(frozen=True)
class MomentFake:
    r"""The score of a mixture with the moments of the students' samples x = G(z), told apart by the teacher's
    responsibilities r_k(x) at a noise level of 1e-3 of the teacher's standard deviation, which stands for zero.

    With N_k = sum r_k, sums over the samples seen, a sample's weight falling by `memory` at every update:

        w_k = N_k / N        m_k = sum r_k x / N_k        S_k = sum r_k (x - m_k)(x - m_k)^T
        C_k = (S_k + W) / (N_k + 1),        W = sum_k S_k / N

    W, the covariance within components, counts as one sample of each: few samples make no singular covariance, and
    a component without any has C_k = W at the teacher's own centre. The overall covariance in its place would widen
    narrow modes by their distance. One component has C = S / N: there is nothing to tell apart.

    Moments are summed about the teacher's centres mu_k, in float64; S_k is lifted by 1e-13 sum r_k |x - mu_k|^2, above
    what rounding leaves of it.

    Args:
        sums: sum r_k y y^T for y = (1, x - mu_k), (E, K, d + 1, d + 1) float64.
        teachers: one each, with a pack axis E.
        batch: samples of an update. memory: weight of what was seen before an update; 0 leaves only its own samples.
    Raises:
        ValueError: a number out of range.
    """

    sums: Tensor
    teachers: GaussianMixture
    batch: int = 256
    memory: float = 0.0

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError(f"fake_batch must be >= 1, got {self.batch}")
        if not 0 <= self.memory < 1:
            raise ValueError(f"fake_memory must be in [0, 1), got {self.memory}")

    @classmethod
    def of(
        cls,
        teachers: GaussianMixture,
        students: Pack,
        generators: Sequence[torch.Generator],
        batch: int = 256,
        memory: float = 0.0,
    ) -> MomentFake:
        """The fake score that has seen one batch of these students; advances the generators.

        Raises ValueError unless there is one teacher for all, or one per student."""
        size = len(students)
        if teachers.means.ndim == 2:
            teachers = GaussianMixture.stack([teachers] * size)
        if len(teachers.means) != size:
            raise ValueError(f"teachers must be one or one per student ({size}), got {len(teachers.means)}")
        side = teachers.dim + 1
        nothing = teachers.means.new_zeros(size, teachers.components, side, side, dtype=torch.float64)
        return cls(nothing, teachers, batch, memory).update(students, generators)

    def learned(self) -> Tensor:
        return self.sums

    def with_learned(self, state: Tensor) -> MomentFake:
        here = self.teachers.means.device == state.device
        return replace(self, sums=state, teachers=self.teachers if here else self.teachers.to(state.device))

    @cached_property
    def law(self) -> GaussianMixture:
        """The mixture with these moments, with a pack axis, in float64."""
        count, first, second = self.sums[..., 0, 0], self.sums[..., 0, 1:], self.sums[..., 1:, 1:]
        offset = first / count.clamp(min=torch.finfo(count.dtype).tiny)[..., None]
        lift = ROUNDING * second.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        scatter = second - first[..., :, None] * offset[..., None, :]
        scatter = scatter + lift * torch.eye(self.teachers.dim, dtype=lift.dtype, device=lift.device)
        total = count.sum(-1, keepdim=True)
        within = scatter.sum(-3, keepdim=True) / total[..., None, None]
        covariances = (scatter + PRIOR * within) / (count + PRIOR)[..., None, None]
        return GaussianMixture(count / total, self.teachers.means.double() + offset, Full(covariances))

    def denoise(self, students: Pack, x: Tensor, sigma: Tensor) -> Tensor:
        return self.law.denoise(x.double(), sigma).to(x.dtype)

    def update(self, students: Pack, generators: Sequence[torch.Generator]) -> MomentFake:
        first, dim = next(iter(students.parameters.values())), self.teachers.dim
        draws = [torch.randn(self.batch, dim, generator=g, device=g.device) for g in generators]
        with torch.no_grad():
            x = students.samples(torch.stack(draws).to(first.dtype), generators).double()
            std = self.teachers.cov.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).sqrt()
            r = self.teachers.responsibilities(x, FLOOR * std).mT[..., None]  # (E, K, n, 1)
            y = x[:, None] - self.teachers.means.double()[:, :, None]
            y = torch.cat([torch.ones_like(y[..., :1]), y], -1)
            fresh = (r * y).mT @ y
            # A student that is being lost must not take its pack with it.
            well = fresh.isfinite().flatten(1).all(1)[:, None, None, None]
            return replace(self, sums=torch.where(well, self.memory * self.sums + fresh, self.sums))
