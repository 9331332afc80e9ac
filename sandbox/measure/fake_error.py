"""How far a learned fake score is from the score of the students that it is meant to know."""

from __future__ import annotations

import torch
from torch import Tensor


def fake_residual(x: Tensor, fake: Tensor, features: Tensor) -> Tensor:
    """What the error x - D_fake(x + sigma eps) still has in common with functions of x + sigma eps, (*E,).

    For the exact D = E[x | x + sigma eps], E[(x - D) f] = 0 for every f. So the share of Var x that regression of
    x - D_fake on some functions f explains is a part of E|D_fake - D|^2 / Var x that needs no knowledge of D: all of
    it where D_fake - D lies in their span. The part that a regression on k functions explains by chance is taken off,
    so that an exact fake score reads 0 on average; it
    is taken as if Var[x | x + sigma eps] were one everywhere, and leaves a small offset where that is not so.

    Args:
        x: the students' clean samples; fake: D_fake at their noised ones; both (*E, n, d).
        features: f at the noised samples, (*E, n, k), without the constant, which is added; n > k + 1.
    Raises:
        ValueError: too few points, or students that are constant.
    """
    n, k = features.shape[-2:]
    if n < k + 2:
        raise ValueError(f"n must be >= k + 2 = {k + 2}, got {n}")
    x, residual, features = x.double(), (x - fake).double(), features.double()
    variance = x.var(-2, correction=0).sum(-1)
    if not (variance > 0).all():
        raise ValueError("x must not be constant")
    mean = residual.mean(-2, keepdim=True)
    features = features - features.mean(-2, keepdim=True)
    # Features on one scale and a full set of directions: theirs may differ by decades, and be linearly dependent.
    U, s, _ = torch.linalg.svd(features / features.norm(dim=-2, keepdim=True).clamp(min=1e-300), full_matrices=False)
    U = U * (s > 1e-10 * s[..., :1])[..., None, :]
    rank = (s > 1e-10 * s[..., :1]).sum(-1).double()
    explained = (U.mT @ (residual - mean)).square().sum((-2, -1)) / n + mean.square().sum((-2, -1))
    rest = residual.square().sum((-2, -1)) / n - explained
    chance = (rank + 1) / (n - rank - 1) * rest
    return (explained - chance) / variance
