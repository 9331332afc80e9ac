"""Losses: pure functions of tensors. None of them knows which noise belongs to which datum."""

from __future__ import annotations

from torch import Tensor

NORMALISERS = ("per-sample", "batch", "off")
REDUCTIONS = ("sum", "mean")


def dmd_direction(x: Tensor, real: Tensor, fake: Tensor, normaliser: str = "per-sample") -> Tensor:
    """The direction g = w (D_fake - D_real)(x_sigma) that the student's samples are moved against, (*E, n, d).

    D_fake - D_real = sigma^2 (s_fake - s_real), so g is the gradient of sigma^2 KL(p_fake,sigma || p_real,sigma) with
    respect to the sample, times w:

        per-sample   w = 1 / mean_j |x - D_real|_j          DMD2 (Yin et al. 2024, arXiv 2405.14867)
        batch        w = 1 / mean over samples and coordinates of |x - D_real|
        off          w = 1                                  Diff-Instruct (Luo et al. 2023) with weight sigma^2

    Args:
        x: the student's samples; real, fake: the two denoisers at x + sigma eps; all (*E, n, d).
    Raises:
        ValueError: unknown normaliser.
    """
    difference = fake - real
    if normaliser == "per-sample":
        return difference / (x - real).abs().mean(-1, keepdim=True)
    if normaliser == "batch":
        return difference / (x - real).abs().mean((-2, -1), keepdim=True)
    if normaliser == "off":
        return difference
    raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}, got {normaliser!r}")


def dmd_surrogate(x: Tensor, direction: Tensor, reduction: str = "sum") -> Tensor:
    """A function of x whose gradient is `direction`, averaged over samples, (*E,).

    With reduction "sum" over coordinates it is E <g, x>, and its gradient with respect to a parameter E[g dx/dtheta].
    With "mean", as in DMD2's 0.5 mse(x, stopgrad(x - g)), that gradient is divided by d: at a fixed nominal learning
    rate plain gradient descent then moves the student d times less.

    Raises ValueError for an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    product = x * direction.detach()
    return (product.sum(-1) if reduction == "sum" else product.mean(-1)).mean(-1)
