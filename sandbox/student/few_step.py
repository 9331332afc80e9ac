"""Students of a few steps: they denoise, add fresh noise at a lower level, and denoise again."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sandbox.student.denoiser import Denoiser
from sandbox.student.networks import Pack
from sandbox.teacher.schedule import karras_grid


def few_step_levels(k: int, sigma_init: float = 80.0) -> tuple[float, ...]:
    """The noise levels of k steps, descending from sigma_init: evenly spaced in the time of Karras' grid, without its
    lower end, as DMD2 takes the times 1, 3/4, 2/4, 1/4 of its schedule for four steps (Yin et al. 2024, section 4.4).

    80 and 2.5 for two steps from 80; 80, 17.5, 2.5 and 0.17 for four.

    Raises ValueError if k < 1 or sigma_init is not above the grid's lower end."""
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    return tuple(karras_grid(k + 1, sigma_max=sigma_init)[:-1].tolist())


class FewStep(nn.Module):
    """x_1 = D(sigma_1 z; sigma_1), x_(j+1) = D(x_j + sigma_(j+1) eps_j; sigma_(j+1)), and x_k is the sample (Yin et al.
    2024, arXiv 2405.14867, section 4.5, at EDM's levels).

    A deterministic map of all its noise (z, eps_1, .., eps_(k-1)). Its parameters are a copy of the denoiser's, named
    `denoiser.` and their names. A start at the exact denoiser of a Gaussian has at most k/(2(k + 1)) of its variance,
    whatever the levels: each step takes a posterior mean, and forgets that mean's own spread.

    Args:
        denoiser: D, not modified. levels: sigma_1 > .. > sigma_k.
    Raises:
        ValueError: no levels, or levels that are not positive, finite and descending.
    """

    packs = True

    def __init__(self, denoiser: Denoiser, levels: Sequence[float]):
        super().__init__()
        self.levels = tuple(map(float, levels))
        falls = all(a > b for a, b in zip((math.inf, *self.levels), (*self.levels, 0.0), strict=True))
        if not (self.levels and falls):
            raise ValueError(f"levels must be finite, descending and > 0, got {self.levels}")
        self.dim, self.noise_dim = denoiser.dim, len(self.levels) * denoiser.dim
        self.denoiser = copy.deepcopy(denoiser)

    def forward(self, noise: Tensor, stop: Tensor | None = None) -> Tensor:
        """x_k for the noise (n, k d) -> (n, d); or, given `stop`, as `partial`.

        Raises ValueError for noise of another size."""
        if stop is not None:
            return self.partial(noise, stop)
        return self.denoiser(self._inputs(noise)[-1], self.levels[-1])

    def partial(self, noise: Tensor, stop: Tensor) -> Tensor:
        """x_(stop + 1) of each sample, with the gradient of its last step alone: what DMD2 trains on, a step drawn at
        random and its input simulated by the student itself.

        Args:
            noise: (n, k d). stop: (n,) integers in 0 .. k - 1, taken on trust; one per sample, where DMD2's code draws
            one per batch.
        Returns: (n, d).
        """
        with torch.no_grad():
            inputs = torch.stack(self._inputs(noise))
            here = inputs.take_along_dim(stop[None, ..., None], 0)[0]
            # Numbers are written where they are needed: sent from the CPU, a device would have to be waited for.
            levels = torch.stack([noise.new_full((), level) for level in self.levels])
        return self.denoiser(here, levels[stop])

    def _inputs(self, noise: Tensor) -> list[Tensor]:
        """What each step denoises, k of (n, d)."""
        if noise.shape[-1] != self.noise_dim:
            raise ValueError(f"noise must have {self.noise_dim} numbers a sample, got {noise.shape[-1]}")
        z, *fresh = noise.split(self.dim, -1)
        inputs = [self.levels[0] * z]
        for above, level, eps in zip(self.levels, self.levels[1:], fresh, strict=False):
            inputs.append(self.denoiser(inputs[-1], above) + level * eps)
        return inputs


@dataclass(frozen=True)
class FewStepPack(Pack):
    """Students of a few steps. A map of all their noise when called; they train on one step at a time."""

    module: FewStep

    def samples(self, z: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """x_(stop + 1) at z (E, n, d), stop uniform on 0 .. k - 1, drawn for each sample; advances the generators."""
        steps, (n, dim) = len(self.module.levels), z.shape[1:]
        fresh = [torch.randn(n, (steps - 1) * dim, generator=g, device=g.device) for g in generators]
        stop = torch.stack([torch.randint(steps, (n,), generator=g, device=g.device) for g in generators])
        return self(torch.cat([z, torch.stack(fresh).to(z)], -1), stop)


def few_step(denoisers: Pack, levels: Sequence[float]) -> FewStepPack:
    """The pack of few-step students that start at a pack of denoisers, noise (E, n, k d) -> (E, n, d).

    Raises ValueError as `FewStep`, TypeError for a pack of anything else."""
    if not isinstance(denoisers.module, Denoiser):
        raise TypeError(f"a few-step student starts at denoisers, got {type(denoisers.module).__name__}")
    parameters = {f"denoiser.{name}": p for name, p in denoisers.parameters.items()}
    return FewStepPack(FewStep(denoisers.module, levels), parameters)


class StoredNoise(FewStep):
    """A few-step student as a map of z alone, its fresh noise stored: the first row with the first point, and so on.

    A map that displacement and law can be measured of. A Jacobian, taken point by point, is that with the first row's
    noise at every point.

    Args:
        eps: (eps_1, .., eps_(k-1)) of N points, (N, (k - 1) d). Others: as `FewStep`.
    """

    eps: Tensor

    def __init__(self, denoiser: Denoiser, levels: Sequence[float], eps: Tensor):
        super().__init__(denoiser, levels)
        if eps.ndim != 2 or eps.shape[1] != self.noise_dim - self.dim:
            raise ValueError(f"eps must have shape (N, {self.noise_dim - self.dim}), got {tuple(eps.shape)}")
        self.register_buffer("eps", eps, persistent=False)

    def forward(self, z: Tensor, stop: Tensor | None = None) -> Tensor:
        """(n, d) -> (n, d) for n <= N; with a pack's parameters (E, ...), (E, n, d) -> (E, n, d).

        Raises ValueError for more points than there is noise for."""
        n = z.shape[-2]
        if n > len(self.eps):
            raise ValueError(f"z must hold at most {len(self.eps)} points, those with stored noise, got {n}")
        fresh = self.eps[:n].to(z).expand(*z.shape[:-1], -1)
        return super().forward(torch.cat([z, fresh], -1), stop)


def at_stored_noise(students: FewStepPack, eps: Tensor) -> Pack:
    """The same students as maps of z alone, (E, n, d) -> (E, n, d); eps (N, (k - 1) d), as `StoredNoise`."""
    module = StoredNoise(students.module.denoiser, students.module.levels, eps)
    return Pack(module, students.parameters)
