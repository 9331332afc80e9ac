"""What a student descends: a loss of a minibatch, and terms beside it that draw their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sandbox.student.losses import NORMALISERS, REDUCTIONS, dmd_direction, dmd_surrogate, regression_loss, sid_loss
from sandbox.student.networks import Pack

Denoise = Callable[[Tensor, Tensor], Tensor]
"""x (E, n, d), sigma (E, n) -> (E, n, d); differentiable in x."""


@dataclass(frozen=True)
class Minibatch:
    """What a loss sees of one minibatch of a pack.

    Attributes:
        z: the noise, (E, n, d), or wider for a student that takes several steps.
        x: the students' samples, (E, n, d); carries the gradient to their parameters.
        sigma: noise levels, (E, n). noised: x + sigma eps, (E, n, d).
        real, fake: the two denoisers.
    """

    z: Tensor
    x: Tensor
    sigma: Tensor
    noised: Tensor
    real: Denoise
    fake: Denoise


Loss = Callable[[Minibatch], Tensor]
"""Each student's own loss, (E,)."""

Term = Callable[[Pack, Sequence[torch.Generator]], Tensor]
"""A further part of each student's loss, (E,), with draws of its own; advances the generators."""


@dataclass(frozen=True)
class DMD:
    """Distribution matching (DMD, DMD2); see `losses.dmd_direction` and `losses.dmd_surrogate`.

    Raises ValueError for an unknown normaliser or reduction."""

    normaliser: str = "per-sample"
    reduction: str = "sum"

    def __post_init__(self):
        _check_choices(self.normaliser, self.reduction)

    def __call__(self, batch: Minibatch) -> Tensor:
        with torch.no_grad():
            noised = batch.noised.detach()
            real, fake = batch.real(noised, batch.sigma), batch.fake(noised, batch.sigma)
            direction = dmd_direction(batch.x, real, fake, self.normaliser)
        return dmd_surrogate(batch.x, direction, self.reduction)


@dataclass(frozen=True)
class SiD:
    """Score identity distillation; see `losses.sid_loss`.

    Raises ValueError for an unknown normaliser or reduction."""

    alpha: float = 1.2
    normaliser: str = "per-sample"
    reduction: str = "sum"

    def __post_init__(self):
        _check_choices(self.normaliser, self.reduction)

    def __call__(self, batch: Minibatch) -> Tensor:
        real, fake = batch.real(batch.noised, batch.sigma), batch.fake(batch.noised, batch.sigma)
        return sid_loss(batch.x, real, fake, self.alpha, self.normaliser, self.reduction)


@dataclass(frozen=True)
class Regression:
    """weight x `losses.regression_loss` on stored pairs of the teachers, a random part of them in every update.

    Args:
        z: (E, N, d). target: the teachers' maps of them, (E, N, d). weight: >= 0, DMD's is 0.25. batch: pairs of an
        update. reduction: sum or mean over coordinates.
    Raises:
        ValueError: shapes that differ, weight < 0, batch < 1 or an unknown reduction.
    """

    z: Tensor
    target: Tensor
    weight: float = 0.25
    batch: int = 64
    reduction: str = "sum"

    def __post_init__(self):
        if self.z.shape != self.target.shape:
            raise ValueError(f"target must have the shape of z, {tuple(self.z.shape)}, got {tuple(self.target.shape)}")
        if not self.weight >= 0:
            raise ValueError(f"regression must be >= 0, got {self.weight}")
        if self.batch < 1:
            raise ValueError(f"batch must be >= 1, got {self.batch}")
        _check_choices("off", self.reduction)

    def __call__(self, students: Pack, generators: Sequence[torch.Generator]) -> Tensor:
        size = self.z.shape[1]
        drawn = [torch.randint(size, (self.batch,), generator=g, device=g.device) for g in generators]
        rows = torch.stack(drawn)[..., None].expand(-1, -1, self.z.shape[-1])
        loss = regression_loss(students(self.z.gather(1, rows)), self.target.gather(1, rows), self.reduction)
        return self.weight * loss


def _check_choices(normaliser: str, reduction: str) -> None:
    if normaliser not in NORMALISERS:
        raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}, got {normaliser!r}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
