"""Losses: pure functions of tensors. None but `regression_loss` knows which noise belongs to which datum."""

from __future__ import annotations

from torch import Tensor

NORMALISERS = ("per-sample", "batch", "off")
REDUCTIONS = ("sum", "mean")
WEIGHTINGS = ("edm", "epsilon")


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
    size = _residual_size(x, real, normaliser)
    return fake - real if size is None else (fake - real) / size


def _residual_size(x: Tensor, real: Tensor, normaliser: str) -> Tensor | None:
    """1/w of `dmd_direction`, (*E, n, 1) or (*E, 1, 1), None where w = 1."""
    if normaliser == "per-sample":
        return (x - real).abs().mean(-1, keepdim=True)
    if normaliser == "batch":
        return (x - real).abs().mean((-2, -1), keepdim=True)
    if normaliser == "off":
        return None
    raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}, got {normaliser!r}")


def dmd_surrogate(x: Tensor, direction: Tensor, reduction: str = "sum") -> Tensor:
    """A function of x whose gradient is `direction`, averaged over samples, (*E,).

    With reduction "sum" over coordinates it is E <g, x>, and its gradient with respect to a parameter E[g dx/dtheta].
    With "mean", as in DMD2's 0.5 mse(x, stopgrad(x - g)), that gradient is divided by d: at a fixed nominal learning
    rate plain gradient descent then moves the student d times less.

    Raises ValueError for an unknown reduction."""
    return _reduced(x * direction.detach(), reduction)


def sid_loss(
    x: Tensor, real: Tensor, fake: Tensor, alpha: float = 1.2, normaliser: str = "per-sample", reduction: str = "sum"
) -> Tensor:
    """The loss of score identity distillation (Zhou et al. 2024, arXiv 2404.04057), (*E,):

        E w <D_real - D_fake, (1 - alpha) (D_real - D_fake) + D_fake - x>

    whose gradient flows through x and through both denoisers' argument x + sigma eps, the denoisers themselves standing
    still. E[x | x_sigma] = D_fake makes it (1 - alpha) E w |D_real - D_fake|^2 where the fake score is exact: a Fisher
    divergence less alpha times an estimate of the same. w is that of `dmd_direction`, without a gradient; per-sample,
    it depends on x, and the loss is then another number (at alpha = 1 not 0).

    Args:
        x: the student's samples; real, fake: the two denoisers at x + sigma eps; all (*E, n, d).
        alpha: 1.2 is the published default.
    Raises:
        ValueError: unknown normaliser or reduction.
    """
    difference = real - fake
    product = difference * ((1 - alpha) * difference + fake - x)
    size = _residual_size(x.detach(), real.detach(), normaliser)
    return _reduced(product if size is None else product / size, reduction)


def denoising_loss(denoised: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """E lambda(sigma) |D(x + sigma eps; sigma) - x|^2 / d, (*E,): denoised, x (*E, n, d), weight (*E, n)."""
    return (weight * (denoised - x).square().mean(-1)).mean(-1)


def denoising_weight(sigma: Tensor, sigma_data: float | Tensor, weighting: str = "edm") -> Tensor:
    """lambda(sigma), as sigma:

        edm      1/sigma^2 + 1/sigma_data^2, unit weight on F (Karras et al. 2022, Table 1; DMD2's EDM variant)
        epsilon  1/sigma^2, unit weight on the predicted eps (Ho et al. 2020, L_simple)

    Raises ValueError for an unknown weighting."""
    if weighting == "edm":
        return sigma**-2 + sigma_data**-2
    if weighting == "epsilon":
        return sigma**-2
    raise ValueError(f"fake_weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")


def regression_loss(x: Tensor, target: Tensor, reduction: str = "sum") -> Tensor:
    """E |G(z) - T(z)|^2 / 2 over pairs of the teacher's own, (*E,): the loss that supervises the pairing.

    DMD (Yin et al. 2023, arXiv 2311.18828, eq. 9) with squared distance in place of LPIPS. x, target (*E, n, d).

    Raises ValueError for an unknown reduction."""
    return _reduced((x - target).square() / 2, reduction)


def _reduced(product: Tensor, reduction: str) -> Tensor:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return (product.sum(-1) if reduction == "sum" else product.mean(-1)).mean(-1)
