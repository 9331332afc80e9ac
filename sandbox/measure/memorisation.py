"""Has a student learned the training points of a teacher that memorised them, and does it send z to the teacher's?"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from sandbox.measure.pairing import mode_agreement, named
from sandbox.teacher.covariance import Full
from sandbox.teacher.mixture import GaussianMixture

# Share of a point's own samples that count as close to it, and samples that the null is read from.
CLOSE, NULL_SAMPLES = 0.99, 4096


def memorisation(teacher: GaussianMixture, student_x: Tensor, teacher_x: Tensor, seed: int = 0) -> dict[str, float]:
    """How close samples lie to training points, and whether both maps choose the same one: a flat record.

    Args:
        teacher: n equal components of one bandwidth at its training points, grouped into modes. student_x, teacher_x:
            S(z_i), T(z_i), (m, d). seed: of shuffles and of the null's samples.
    Returns:
        memorised_share: of the S(z_i) within the radius of their nearest training point that holds 99 % of that point's
            own samples (.99 or more for the teacher's law); memorised_share_teacher: the same of the T(z_i);
            memorised_share_null: of `smoothed(teacher)`'s samples, that know the modes and not the points.
        point_agreement, with _null, _low, _high: Cohen's kappa of the nearest training points of S(z_i) and T(z_i).
        Nothing for a teacher whose components are its modes.
    """
    if teacher.mode_of is None:
        return {}
    teacher = teacher.to(torch.float64)
    ours, theirs = _nearest(teacher, student_x), _nearest(teacher, teacher_x)
    fresh = smoothed(teacher).sample(NULL_SAMPLES, torch.Generator().manual_seed(seed))
    near = teacher.smallest_std * math.sqrt(chi2.ppf(CLOSE, teacher.dim))
    shares = {
        name: (distance <= near).double().mean().item()
        for name, distance in (("", ours[0]), ("_teacher", theirs[0]), ("_null", _nearest(teacher, fresh)[0]))
    }
    agreement = mode_agreement(ours[1], theirs[1], teacher.components, np.random.default_rng(seed))
    return {f"memorised_share{name}": share for name, share in shares.items()} | named("point_agreement", agreement)


def smoothed(teacher: GaussianMixture) -> GaussianMixture:
    """The law in which each mode is one Gaussian of the mode's weight, mean and covariance; raises ValueError for a
    mode without weight."""
    weights = teacher.mode_weights
    if not (weights > 0).all():
        raise ValueError(f"every mode must have a weight > 0, got {weights.min().item():g}")
    mode_of = torch.arange(teacher.components) if teacher.mode_of is None else teacher.mode_of
    parts = []
    for m in range(teacher.modes):
        own = mode_of == m
        covariance = teacher.covariance.map(functools.partial(_chosen, own))
        parts.append(GaussianMixture(teacher.weights[own] / weights[m], teacher.means[own].double(), covariance))
    return GaussianMixture(weights, torch.stack([p.mean for p in parts]), Full(torch.stack([p.cov for p in parts])))


def _chosen(which: Tensor, t: Tensor) -> Tensor:
    return t[which].double()


def _nearest(teacher: GaussianMixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """Each point's distance to the nearest training point, and which one that is, (m,) each."""
    # By differences: the expanded square would lose the distance of close points.
    distances = torch.cdist(x.double(), teacher.means, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = distances.min(-1)
    return nearest.values, nearest.indices
