"""The dearer measures of one student as one flat record: what of its geometry sees the pairing, and how free it is.

`measurements(..., extra=(geometry,))` adds them to the others, and `python -m sandbox measure --extra
sandbox.measure.geometry:geometry` to the records of students that were trained long ago.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sandbox.measure.freedom import available
from sandbox.measure.gauge import best_rotation, normality, remapping
from sandbox.measure.jacobian import curl, jacobian, rank_record
from sandbox.measure.law import mode_labels
from sandbox.measure.modes import mode_parts
from sandbox.measure.record import JACOBIAN_POINTS, precision
from sandbox.measure.subspaces import leading_subspaces, subspace_record
from sandbox.measure.transport import brenier_distance, monotonicity_violation
from sandbox.student.networks import Pack
from sandbox.teacher.flow import teacher_jacobian, teacher_map
from sandbox.teacher.mixture import GaussianMixture

# Points of an optimal assignment, and independent samples of the student that it is averaged over.
ASSIGNED, SAMPLES = 256, 4
# Random directions of a student's parameters.
DIRECTIONS = 8


def geometry(
    student: Callable[[Tensor], Tensor],
    teacher: GaussianMixture,
    z: Tensor,
    sigma_max: float = 80.0,
    seed: int = 0,
) -> dict[str, float]:
    """Every measure that `measurements` leaves out for its price, each beside its null where it has one (name_null,
    name_low, name_high).

        <rank>_over_d, <rank>_over_teacher         of the Jacobian at 16 points (`jacobian.rank_record`)
        student_curl, teacher_curl                 |J - J^T|_F / |J|_F there
        noise_overlap, data_overlap                leading singular subspaces of student and teacher, k directions that
                                                   hold half of the teacher's squared singular values
        displacement_between, displacement_within  of modes and in modes, each over what independent pairs read
        monotonicity_violation                     share of pairs of noises that the student turns round
        brenier_distance                           to the optimal-transport map onto the student's own law
        remap_<test>                               is R = T^-1 o S standard normal?
        rotation_share, rotation_held_out          how much of R's displacement is one rotation
        available_freedom                          share of random parameter changes that leave the law as it is

    Entries that do not exist for this student are left out: modes of a single Gaussian, a rotation from too few points,
    parameters of a plain function.

    Args:
        student: (n, d) -> (n, d); its parameters are known if it is a module or has a `pack` of one.
        z: held-out standard normal points, (n, d).
        sigma_max: where the teacher's map starts. seed: of shuffles, samples and directions.
    """
    rng, z = np.random.default_rng(seed), z.double()
    kind = precision(student)

    def mapped(points: Tensor) -> Tensor:
        with torch.no_grad():
            return student(points.to(kind)).double()

    x, few = mapped(z), z[:JACOBIAN_POINTS]
    record: dict[str, float] = {}
    record |= _jacobians(jacobian(student, few.to(kind)), teacher_jacobian(teacher, few, sigma_max))
    if teacher.modes > 1:
        reference = teacher_map(teacher, z, sigma_max)
        parts = mode_parts(x, reference, mode_labels(teacher, x), mode_labels(teacher, reference), rng)
        record |= _named("displacement_between", parts.between_own) | _named("displacement_within", parts.within_own)
    some = slice(0, ASSIGNED)
    record |= _named("monotonicity_violation", monotonicity_violation(x[some], z[some], rng))
    generator = torch.Generator().manual_seed(seed)
    fresh = [mapped(torch.randn(z[some].shape, generator=generator, dtype=z.dtype)) for _ in range(SAMPLES)]
    record |= _named("brenier_distance", brenier_distance(x[some], z[some], torch.stack(fresh), rng))
    remapped = remapping(teacher, x, sigma_max)
    for test, value in normality(remapped, seed).items():
        record |= _named(f"remap_{test}", value)
    if len(remapped) >= 2 * teacher.dim:
        rotation = best_rotation(remapped, z[: len(remapped)], rng)
        record |= _named("rotation_share", rotation.share) | {"rotation_held_out": rotation.held_out}
    parametrised = getattr(student, "pack", student)
    if isinstance(parametrised, torch.nn.Module | Pack) and len(z) >= 2 * (teacher.dim + 1):
        free = available(parametrised, z, teacher, DIRECTIONS, seed)
        record |= {"available_freedom": free.fraction, "available_freedom_se": free.error}
        record |= {"available_freedom_null": free.null}
    return record


def _named(name: str, measured) -> dict[str, float]:
    """A value with its null, and its standard error where it has one."""
    parts = ("null", "low", "high", "se")
    return {name: measured.value} | {f"{name}_{p}": getattr(measured, p) for p in parts if hasattr(measured, p)}


def _jacobians(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    spectra = torch.linalg.svdvals(ours), torch.linalg.svdvals(theirs)
    record = {k: v for k, v in rank_record(*spectra).items() if "over" in k}
    record |= {"student_curl": curl(ours).mean().item(), "teacher_curl": curl(theirs).mean().item()}
    energy = spectra[1].square().mean(0)
    k = int((energy.cumsum(0) < 0.5 * energy.sum()).sum()) + 1
    if k < ours.shape[-1]:
        overlaps = subspace_record(leading_subspaces(ours, k), leading_subspaces(theirs, k))
        record |= overlaps | {"subspace_dimension": k}
    return {name: float(value) for name, value in record.items() if not math.isnan(value)}
