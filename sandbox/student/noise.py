"""The noise of a training step, every student's from its own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def draw_noise(
    generators: Sequence[torch.Generator], batch: int, dim: int, antithetic: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """z (E, batch, d), eps (E, batch, d) and uniforms (E, batch), each student from its own generator.

    Advances the generators, on whose device the numbers are drawn. One student's numbers depend on its generator alone,
    not on the pack around it. Numbers are drawn in single precision whatever the arithmetic's: that is several times
    faster, and its steps of 2^-24 in the underlying uniforms are far below any batch's own fluctuation."""
    fresh = batch // 2 if antithetic else batch
    device = generators[0].device
    normal = torch.empty(len(generators), 2, fresh, dim, device=device)
    uniform = torch.empty(len(generators), fresh, device=device)
    for i, generator in enumerate(generators):
        torch.randn(2, fresh, dim, generator=generator, out=normal[i])
        torch.rand(fresh, generator=generator, out=uniform[i])
    normal, uniform = normal.to(dtype), uniform.to(dtype)
    z, eps = normal[:, 0], normal[:, 1]
    if antithetic:
        z, eps, uniform = torch.cat([z, z], 1), torch.cat([eps, -eps], 1), torch.cat([uniform, uniform], 1)
    return z, eps, uniform
