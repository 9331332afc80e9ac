r"""Whether a fake score can be a score at all: the exact one is a gradient field, a learned one need not be.

D = x + sigma^2 grad log p_sigma has the symmetric Jacobian I + sigma^2 grad grad log p_sigma, so that what is
antisymmetric in the Jacobian of a learned denoiser is error alone, whatever the students' law.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vmap

DenoiserFunction = Callable[[Tensor, Tensor | float], Tensor]
"""(x (*E, n, d), sigma) -> (*E, n, d), each point a function of its own alone."""

# Directions that are differentiated at once.
DIRECTIONS = 16


def denoiser_curl(denoise: DenoiserFunction, x: Tensor, sigma: Tensor | float) -> Tensor:
    r"""sqrt(E|J - J^T|^2 / E|J|^2) over the points, with J = d denoise/dx and Frobenius norms, (*E,) float64.

    0 for a gradient field and for d = 1, 2 for an antisymmetric J. Rounding in x's precision reads about 1e-7 in single
    and 1e-16 in double.

    Args:
        denoise: the denoiser, at one noise level or one for each point. x: (*E, n, d). sigma: as it takes it.
    Raises:
        ValueError: a Jacobian that is not finite, or zero at every point.
    """
    J = _jacobian(denoise, x, sigma)
    return _curl(J, J, "denoise must have a Jacobian")


def error_curl(fake: DenoiserFunction, exact: DenoiserFunction, x: Tensor, sigma: Tensor | float) -> Tensor:
    r"""The curl of the error field D_fake - D_exact, sqrt(E|J_fake - J_fake^T|^2 / E|J_fake - J_exact|^2), (*E,)
    float64.

    How much of the error's Jacobian is none of a score's: 0 where the fake is the exact score of another law, 2 where
    the error only rotates. An error at the size of rounding reads what rounding leaves.

    Args:
        fake, exact, x, sigma: as `denoiser_curl`.
    Raises:
        ValueError: a Jacobian that is not finite, or no difference between the two at any point.
    """
    J = _jacobian(fake, x, sigma)
    return _curl(J, J - _jacobian(exact, x, sigma), "fake must differ from exact in its Jacobian")


def _curl(J: Tensor, against: Tensor, need: str) -> Tensor:
    size = against.square().sum((-3, -2, -1))
    if not size.isfinite().all():
        raise ValueError(f"{need} that is finite, got a non-finite entry")
    if (size == 0).any():
        raise ValueError(f"{need}, got none at any point")
    return ((J - J.mT).square().sum((-3, -2, -1)) / size).sqrt()


def _jacobian(f: DenoiserFunction, x: Tensor, sigma: Tensor | float) -> Tensor:
    """df/dx, (*E, n, d, d) float64, all points and members of a pack at once."""

    def along(direction: Tensor) -> Tensor:
        return jvp(lambda y: f(y, sigma), (x,), (direction.expand(x.shape),))[1]

    with torch.no_grad():
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return vmap(along, out_dims=-1, chunk_size=DIRECTIONS)(eye).double()
