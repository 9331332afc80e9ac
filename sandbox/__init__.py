"""A laboratory for distribution matching distillation with exact teachers.

>>> from sandbox import families, teacher_map
>>> import torch
>>> teacher_map(families.ring(2), torch.zeros(1, 2)).abs().max().item() < 1e-6
True
"""

import os

# MKL chooses its kernels by the alignment of its operands unless told not to, so that one student's sums would depend
# on its place in the pack. Read at MKL's first call, hence before torch is imported; an explicit setting wins.
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")

from sandbox.measure.gauge import gauge_displacement, polar_displacement
from sandbox.measure.geometry import geometry
from sandbox.measure.jacobian import (
    effective_rank,
    jacobian_spectrum,
    numerical_rank,
    participation_ratio,
    stable_rank,
)
from sandbox.measure.onset import onset
from sandbox.measure.pairing import pairing
from sandbox.measure.record import measurements
from sandbox.student.distill import Recipe, distill
from sandbox.student.initialise import linear_start
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.objectives import DMD, Minibatch, Regression, SiD
from sandbox.teacher import families
from sandbox.teacher.covariance import Diagonal, Full, Isotropic, LowRank
from sandbox.teacher.divergence import fisher_divergence, kl_divergence
from sandbox.teacher.flow import teacher_encode, teacher_jacobian, teacher_log_prob, teacher_map
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins, LogUniform, karras_grid

__all__ = [
    "DMD",
    "Diagonal",
    "Full",
    "GaussianMixture",
    "Isotropic",
    "KarrasBins",
    "LinearStudent",
    "LogUniform",
    "LowRank",
    "Minibatch",
    "Pack",
    "Recipe",
    "Regression",
    "SiD",
    "distill",
    "effective_rank",
    "families",
    "fisher_divergence",
    "gauge_displacement",
    "geometry",
    "jacobian_spectrum",
    "karras_grid",
    "kl_divergence",
    "linear_start",
    "measurements",
    "numerical_rank",
    "onset",
    "pairing",
    "participation_ratio",
    "polar_displacement",
    "stable_rank",
    "teacher_encode",
    "teacher_jacobian",
    "teacher_log_prob",
    "teacher_map",
]
