"""Teachers with the law of real images: mixtures fitted to patches of photographs and to handwritten digits.

Their scores stay closed forms, since what is distilled is the fitted mixture, not the images. How well it describes
images that it has not seen is `fitted_patches(...)` and `fitted_digits(...)`. The images ship with scikit-learn (extra
`images`): nothing is downloaded.

Units. Grey values are centred by one number and scaled by one number for each dimension, such that the training data
have mean 0 over all coordinates and a mean variance of `variance` per coordinate: trace `variance` * dim, as the family
`gaussian`. An image's own brightness (its DC part) is kept, and is most of the variance: lambda_1 is about .9 d at
every side. The law of the teacher's map is off by O(lambda_1 / sigma_max^2): .04 at d = 256 with sigma_max = 80 and
variance 1, .01 with EDM's standard deviation of .5 per coordinate (Karras et al. 2022), variance .25.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from sandbox.teacher.checks import check_count, check_positive
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.mppca import fit, in_pieces, scikit_learn

SIDES = (1, 2, 3, 4, 6, 8, 12, 16)
POOLED = (1, 2, 4, 8)
REDUCTIONS = ("pooling", "components")
# Luma of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# Photographs are divided into square blocks, in pixels; a patch lies within one.
BLOCK = 42
# Patches of a block: at most so many, and so many numbers.
PATCHES, NUMBERS = 84, 5120
# The digits come in so many forms one after the other, of about 128 digits in one fixed order of labels each. Equal
# parts of the file are at most 8 digits away from them.
FORMS = 14


@dataclass(frozen=True)
class Fitted:
    """A mixture fitted to images, and how it describes images that it has not seen.

    Log-likelihoods are means over held-out points, in nats a point. Each has the standard error of a mean over clusters
    (blocks of a photograph, forms of digits), since points of one cluster are not independent.

    Attributes:
        mixture: the teacher.
        held_out, held_out_error: log-likelihood of the mixture.
        held_out_gaussian, held_out_gaussian_error: of a single Gaussian with any covariance, fitted to the same points
            with the same floor.
        gain, gain_error: of their difference.
        n_train, n_test, clusters: points fitted, points held out, and the clusters of the latter.
    """

    mixture: GaussianMixture
    held_out: float
    held_out_error: float
    held_out_gaussian: float
    held_out_gaussian_error: float
    gain: float
    gain_error: float
    n_train: int
    n_test: int
    clusters: int

    @property
    def per_coordinate(self) -> Fitted:
        """The same in nats per coordinate: every log-likelihood and its error over d."""
        numbers = {field.name for field in dataclasses.fields(self) if "held_out" in field.name or "gain" in field.name}
        return dataclasses.replace(self, **{name: getattr(self, name) / self.mixture.dim for name in numbers})


def patches(
    dim: int, modes: int = 8, rank: int = 16, variance: float = 1.0, floor: float = 1e-3, seed: int = 0
) -> GaussianMixture:
    """Square patches of the two photographs of scikit-learn (china.jpg, flower.jpg), dim = side^2, grey values.

    A coordinate is a pixel, row by row, at the photographs' own resolution. Holds the variance per coordinate fixed
    while a patch grows: lambda_1 grows as dim. With variance 1 one unit is about 80 of 255 grey levels.

    Args:
        modes: of the mixture. rank: directions of a mode that have a variance of their own; the others share
            one. From dim - 1 on, any covariance.
        variance: mean variance per coordinate of the patches to which the mixture is fitted.
        floor: the smallest variance of a mode in any direction, over `variance`. The default is a standard
            deviation of about 2.5 grey levels; flat sky would reach the rounding of grey values (1e-5) without it.
        seed: of the patches cut and of the start of the fit.
    Raises:
        ValueError: dim is no square of a side in SIDES; modes, rank < 1, variance or floor <= 0, seed < 0.
        ImportError: scikit-learn is missing.
    """
    return fitted_patches(dim, modes, rank, variance, floor, seed).mixture


def fitted_patches(
    dim: int, modes: int = 8, rank: int = 16, variance: float = 1.0, floor: float = 1e-3, seed: int = 0
) -> Fitted:
    """The teacher `patches` with its held-out log-likelihood; arguments as there. Held out is every fifth block."""
    _check(dim, modes, rank, variance, floor, seed)
    _check_side(dim, SIDES, "patches")
    return _fitted_patches(dim, modes, rank, variance, floor, seed)


@lru_cache(maxsize=64)
def _fitted_patches(dim: int, modes: int, rank: int, variance: float, floor: float, seed: int) -> Fitted:
    sample = cut_patches(math.isqrt(dim), seed).scaled(variance)
    return _fitted(sample, modes, rank, floor, seed)


def digits(
    dim: int,
    reduce: str = "pooling",
    modes: int = 5,
    rank: int = 64,
    variance: float = 1.0,
    floor: float = 1e-2,
    seed: int = 0,
) -> GaussianMixture:
    """The 1797 handwritten digits of scikit-learn, 8x8 pixels of grey values 0 .. 16, reduced to dim numbers.

    Holds the variance per coordinate fixed. A mode is not a digit's class: no labels are used. At dim = 64 the
    two reductions are one law in two bases.

    Args:
        reduce: "pooling", means over squares of pixels, dim 1, 4, 16 or 64; or "components", the leading principal
            components of the training digits, dim 1 .. 64.
        floor: as in `patches`; the default is a standard deviation of .1, and twice the variance that rounding
            to whole grey values adds to a pixel. Some pixels are always 0, and have no other variance.
        rank: as in `patches`; any covariance by default. With fewer directions the variance of the others, which pixels
            that are always 0 share with pixels that are not, describes held-out digits worse than one Gaussian does.
        modes, variance, seed: as in `patches`.
    Raises:
        ValueError: an unknown reduction, a dim that it does not have; and as in `patches`.
        ImportError: scikit-learn is missing.
    """
    return fitted_digits(dim, reduce, modes, rank, variance, floor, seed).mixture


def fitted_digits(
    dim: int,
    reduce: str = "pooling",
    modes: int = 5,
    rank: int = 64,
    variance: float = 1.0,
    floor: float = 1e-2,
    seed: int = 0,
) -> Fitted:
    """The teacher `digits` with its held-out log-likelihood; arguments as there.

    Held out is every fourth form, hence four clusters: the standard error is itself uncertain by two fifths."""
    _check(dim, modes, rank, variance, floor, seed)
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    if reduce == "pooling":
        _check_side(dim, POOLED, "pooled digits")
    elif dim > 64:
        raise ValueError(f"dim must be <= 64, the principal components of an 8x8 digit, got {dim}")
    return _fitted_digits(dim, reduce, modes, rank, variance, floor, seed)


@lru_cache(maxsize=64)
def _fitted_digits(dim: int, reduce: str, modes: int, rank: int, variance: float, floor: float, seed: int) -> Fitted:
    sample = pooled_digits(math.isqrt(dim)) if reduce == "pooling" else principal_digits(dim)
    return _fitted(sample.scaled(variance), modes, rank, floor, seed)


# -- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Training points (n, d), held-out points (m, d), and the cluster of each held-out point (m,); float64."""

    train: Tensor
    test: Tensor
    cluster: Tensor

    def scaled(self, variance: float) -> Sample:
        """Centred and scaled by one number each, so that the training points have `variance` per coordinate."""
        centre = self.train.mean()
        scale = math.sqrt(variance) / self.train.var(0, correction=0).mean().sqrt()
        return Sample((self.train - centre) * scale, (self.test - centre) * scale, self.cluster)


def blocks() -> Iterator[tuple[np.ndarray, bool]]:
    """Grey values of each block of the photographs, (BLOCK, BLOCK) in 0 .. 255, and whether it is held out.

    Held-out blocks are every fifth, a knight's move apart, so that no two touch."""
    for photograph in scikit_learn("datasets").load_sample_images().images:
        grey = photograph @ np.array(LUMA)
        for i in range(grey.shape[0] // BLOCK):
            for j in range(grey.shape[1] // BLOCK):
                yield grey[i * BLOCK : (i + 1) * BLOCK, j * BLOCK : (j + 1) * BLOCK], (2 * i + j) % 5 == 0


def cut_patches(side: int, seed: int) -> Sample:
    """Patches of side^2 pixels, as many from each block, at places drawn without repetition; grey values 0 .. 255."""
    draw = np.random.default_rng(seed)
    count = min(PATCHES, NUMBERS // side**2)
    cut: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for block, held in blocks():
        windows = np.lib.stride_tricks.sliding_window_view(block, (side, side)).reshape(-1, side**2)
        cut[held].append(windows[draw.choice(len(windows), count, replace=False)])
    cluster = torch.arange(len(cut[True])).repeat_interleave(count)
    train, test = (torch.as_tensor(np.concatenate(cut[held])) for held in (False, True))
    return Sample(train, test, cluster)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits (n, 8, 8) and the form that each comes from (n,)."""
    images = scikit_learn("datasets").load_digits().images
    return images, np.arange(len(images)) * FORMS // len(images)


def _split(x: np.ndarray, form: np.ndarray) -> Sample:
    held = form % 4 == 1
    return Sample(torch.as_tensor(x[~held]), torch.as_tensor(x[held]), torch.as_tensor(form[held]))


def pooled_digits(side: int) -> Sample:
    """Digits as means over squares of pixels, side^2 numbers in 0 .. 16."""
    images, form = _digits()
    step = 8 // side
    pooled = images.reshape(-1, side, step, side, step).mean((2, 4))
    return _split(pooled.reshape(-1, side**2), form)


def principal_digits(dim: int) -> Sample:
    """Digits in the leading principal components of the training digits, largest first, in grey values."""
    images, form = _digits()
    sample = _split(images.reshape(len(images), -1), form)
    mean = sample.train.mean(0)
    basis = torch.linalg.eigh(torch.cov(sample.train.mT)).eigenvectors.flip(-1)[:, :dim]
    # An eigenvector's sign is the library's choice: its largest entry is made positive.
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * largest.sign()
    return Sample((sample.train - mean) @ basis, (sample.test - mean) @ basis, sample.cluster)


# -- quality ---------------------------------------------------------------------------------------------------------


def clustered_mean(values: Tensor, cluster: Tensor) -> tuple[float, float]:
    """Mean of values (n,) and its standard error when only whole clusters are independent.

    With C clusters the variance is C / (C - 1) sum_c (sum of deviations in c)^2 / n^2: for clusters of one size, that
    of the mean of the clusters' means."""
    mean = values.mean()
    sums = torch.stack([(values[cluster == c] - mean).sum() for c in cluster.unique()])
    count = len(sums)
    return mean.item(), (sums.square().sum() * count / (count - 1)).sqrt().item() / len(values)


def _fitted(sample: Sample, modes: int, rank: int, floor: float, seed: int) -> Fitted:
    dim = sample.train.shape[-1]
    mixture = fit(sample.train, modes, rank, floor, seed)
    gaussian = fit(sample.train, 1, dim, floor)
    log_p, log_g = (in_pieces(law.log_prob, sample.test) for law in (mixture, gaussian))
    p, g, gain = (clustered_mean(values, sample.cluster) for values in (log_p, log_g, log_p - log_g))
    clusters = len(sample.cluster.unique())
    return Fitted(mixture, *p, *g, *gain, len(sample.train), len(sample.test), clusters)


def _check(dim: int, modes: int, rank: int, variance: float, floor: float, seed: int) -> None:
    # Before a look at what is kept, where True and 1.0 are 1.
    check_count(dim=dim, modes=modes, rank=rank)
    check_count(0, seed=seed)
    check_positive(variance=variance, floor=floor)


def _check_side(dim: int, sides: tuple[int, ...], what: str) -> None:
    if dim not in [side**2 for side in sides]:
        raise ValueError(
            f"dim must be one of {', '.join(str(side**2) for side in sides)} ({what} of side "
            f"{', '.join(map(str, sides))}), got {dim}"
        )
