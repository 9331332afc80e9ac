"""Does the student's law match the teacher's? Calibrated real against real, at the same dimension and sample size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ot
import torch
from torch import Tensor

from sandbox.teacher.mixture import GaussianMixture

# The gate of this project; pass rates are reported, these are never tuned.
MASS_FACTOR = 2.0
VARIANCE_RATIO = (0.5, 2.0)
DISTANCE_RATIO = 2.0

PROJECTIONS = 64
REPEATS = 16


@dataclass(frozen=True)
class Calibration:
    """What independent samples of the teacher read against each other at (d, n): the null of the law measures."""

    samples: Tensor
    """(n, d): the sample that students are compared with."""
    distance: float
    """Mean sliced 2-Wasserstein distance between two independent samples of n points."""


def sliced_w2(x: Tensor, y: Tensor, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance between two samples (n, d) over a fixed set of random directions (POT).

    Raises ValueError for non-finite points or samples of different dimension."""
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"samples must have one dimension, got {x.shape[-1]} and {y.shape[-1]}")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("samples must be finite")
    return float(
        ot.sliced_wasserstein_distance(x.double().numpy(), y.double().numpy(), n_projections=PROJECTIONS, seed=seed)
    )


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two samples, in the data's units (Szekely & Rizzo 2013): 0 on average for
    samples of one law, >= 0 for the laws themselves.

    Args:
        x: (n, d). y: (m, d). n, m >= 2; pairs of a point with itself are left out.
    Raises:
        ValueError: samples of different dimension, or too few points.
    """
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"samples must have one dimension, got {x.shape[-1]} and {y.shape[-1]}")
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"n must be >= 2, got {min(n, m)}")
    x, y = x.double(), y.double()
    within = torch.pdist(x).mean() + torch.pdist(y).mean()
    return (2 * torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").mean() - within).item()


def calibrate(teacher: GaussianMixture, n: int, seed: int = 0, repeats: int = REPEATS) -> Calibration:
    """Real-against-real values at the teacher's dimension and n points.

    Raises ValueError if n < 2."""
    if n < 2:
        raise ValueError(f"n must be >= 2, got {n}")
    generator = torch.Generator().manual_seed(seed)
    teacher = teacher.to(torch.float64)
    reference = teacher.sample(n, generator)
    distances = [sliced_w2(teacher.sample(n, generator), reference, seed=i) for i in range(repeats)]
    return Calibration(reference, float(np.mean(distances)))


def mode_labels(teacher: GaussianMixture, x: Tensor) -> Tensor:
    """The most responsible mode of each point, (n,) int64."""
    return teacher.mode_responsibilities(x).argmax(-1)


def law_match(teacher: GaussianMixture, student_x: Tensor, calibration: Calibration) -> dict[str, float | bool]:
    """The student's law against the teacher's, and the gate.

    Args:
        student_x: S(z), (n, d), z standard normal and independent of the calibration's samples.
    Returns:
        sliced_w2, sliced_w2_null; mass_ratio_low/high: smallest and largest share of a mode over its weight;
        variance_ratio_low/high: smallest and largest within-mode variance over the real samples' of that mode;
        law_passes: every mode's mass within a factor 2, within-mode variance ratio in [0.5, 2] and sliced W2 at most
        twice its null.
    """
    real = calibration.samples
    distance = sliced_w2(student_x, real)
    student_labels, real_labels = mode_labels(teacher, student_x.double()), mode_labels(teacher, real)
    mass, variance, weights = [], [], teacher.mode_weights
    for k in weights.nonzero().flatten().tolist():  # what has no weight can be neither kept nor lost
        ours, theirs = student_x[student_labels == k].double(), real[real_labels == k]
        mass.append(len(ours) / len(student_x) / weights[k].item())
        if len(ours) > 1 and len(theirs) > 1:
            variance.append((ours.var(0).sum() / theirs.var(0).sum()).item())
        else:
            variance.append(0.0 if len(theirs) > 1 else 1.0)
    passes = (
        min(mass) >= 1 / MASS_FACTOR
        and max(mass) <= MASS_FACTOR
        and VARIANCE_RATIO[0] <= min(variance)
        and max(variance) <= VARIANCE_RATIO[1]
        and distance <= DISTANCE_RATIO * calibration.distance
    )
    return {
        "sliced_w2": distance,
        "sliced_w2_null": calibration.distance,
        "mass_ratio_low": min(mass),
        "mass_ratio_high": max(mass),
        "variance_ratio_low": min(variance),
        "variance_ratio_high": max(variance),
        "law_passes": bool(passes),
    }
