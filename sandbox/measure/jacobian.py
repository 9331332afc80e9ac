"""The Jacobian of a noise-data map: singular spectra and effective ranks.

Rank sees contraction, not pairing: T∘R has at z the singular values that T has at Rz. Report it beside a displacement.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap


def jacobian(f: Callable[[Tensor], Tensor], z: Tensor, chunk: int = 64) -> Tensor:
    """df/dz at each point, (n, d_out, d_in), computed in z's precision and returned in float64, by forward or reverse
    mode, whichever needs fewer passes.

    Args:
        f: (n, d_in) -> (n, d_out), each row a function of its own row alone.
        z: (n, d_in).
        chunk: points differentiated at once.
    Raises:
        ValueError: f returned a non-finite derivative.
    """

    def one(point: Tensor) -> Tensor:
        return f(point[None])[0]

    mode = jacrev if f(z[:1]).shape[-1] < z.shape[-1] else jacfwd
    J = torch.cat([vmap(mode(one))(part) for part in z.split(chunk)])
    if not torch.isfinite(J).all():
        raise ValueError("f must have a finite Jacobian at every z, got a non-finite one")
    return J.detach().double()


def jacobian_spectrum(f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Singular values of df/dz at each point, descending, (n, min(d_in, d_out)) float64; as `jacobian`."""
    return torch.linalg.svdvals(jacobian(f, z))


def _checked(s: Tensor) -> Tensor:
    s = torch.as_tensor(s).double()
    if (s < 0).any() or not torch.isfinite(s).all():
        raise ValueError("s must be finite singular values >= 0")
    if (s.sum(-1) == 0).any():
        raise ValueError("s must have a positive entry in every row, got a zero matrix's spectrum")
    return s


def effective_rank(s: Tensor) -> Tensor:
    """exp of the entropy of s / sum(s), between 1 and the number of singular values (Roy & Vetterli 2007); (..., m) ->
    (...).

    >>> round(effective_rank(torch.ones(7)).item(), 12)
    7.0
    """
    s = _checked(s)
    p = s / s.sum(-1, keepdim=True)
    return torch.exp(-torch.special.xlogy(p, p).sum(-1))


def participation_ratio(s: Tensor) -> Tensor:
    """(sum s^2)^2 / sum s^4; (..., m) -> (...)."""
    s2 = _checked(s).square()
    return s2.sum(-1).square() / s2.square().sum(-1)


def stable_rank(s: Tensor) -> Tensor:
    """|J|_F^2 / |J|_2^2; (..., m) -> (...)."""
    s2 = _checked(s).square()
    return s2.sum(-1) / s2.amax(-1)


def numerical_rank(s: Tensor, rtol: float) -> Tensor:
    """Number of singular values above rtol times the largest; (..., m) -> (...) int64.

    Raises ValueError unless 0 < rtol < 1."""
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol}")
    s = _checked(s)
    return (s > rtol * s.amax(-1, keepdim=True)).sum(-1)
