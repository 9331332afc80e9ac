"""Every measure of one student against one teacher, as one tidy record."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from sandbox.measure.gauge import gauge_displacement
from sandbox.measure.jacobian import effective_rank, jacobian_spectrum, participation_ratio, stable_rank
from sandbox.measure.law import Calibration, calibrate, law_match, mode_labels
from sandbox.measure.memorisation import memorisation
from sandbox.measure.pairing import named, pairing, split_displacement
from sandbox.teacher.flow import teacher_jacobian, teacher_map
from sandbox.teacher.mixture import GaussianMixture

JACOBIAN_POINTS = 16

Map = Callable[[Tensor], Tensor]
Extra = Callable[[Map, object, Tensor], Mapping[str, float]]


def precision(student: Map) -> torch.dtype:
    """The precision in which a student takes its points: its own parameters', float64 for a plain function."""
    parameters = student.parameters() if isinstance(student, torch.nn.Module) else iter(())
    return next((p.dtype for p in parameters), torch.float64)


def measurements(
    student: Map,
    teacher: GaussianMixture,
    z: Tensor,
    sigma_max: float = 80.0,
    seed: int = 0,
    reference: Tensor | None = None,
    teacher_spectrum: Tensor | None = None,
    calibration: Calibration | None = None,
    extra: tuple[Extra, ...] = (),
) -> dict[str, float | bool]:
    """Pairing, gauge, Jacobian and law of a student, each beside its null or its teacher's value.

    Args:
        student: (n, d) -> (n, d). teacher: its teacher. z: held-out standard normal points, (n, d).
        sigma_max: where the teacher's map starts. seed: of shuffles and samples.
        reference, teacher_spectrum, calibration: T(z), the singular values of dT/dz at the first 16 points, and the
        law's
            calibration at n points, if they are at hand; computed otherwise.
        extra: more measures, functions (student, teacher, z) -> {name: value}; their names must be new.
    Raises:
        ValueError: z or S(z) of the wrong shape or not finite, or an extra measure whose name is taken.
    """
    z = z.double()
    if z.ndim != 2 or z.shape[-1] != teacher.dim:
        raise ValueError(f"z must have shape (n, {teacher.dim}), got {tuple(z.shape)}")
    with torch.no_grad():
        x = student(z.to(precision(student)))
    if x.shape != z.shape:
        raise ValueError(f"student must map (n, {teacher.dim}) to itself, got {tuple(x.shape)} from {tuple(z.shape)}")
    if not torch.isfinite(x).all():
        raise ValueError(
            f"student must be finite, got {(~torch.isfinite(x)).any(-1).sum()} non-finite points of {len(x)}"
        )
    x = x.double()
    few = z[:JACOBIAN_POINTS]
    if reference is None:
        reference = teacher_map(teacher, z, sigma_max)
    if teacher_spectrum is None:
        teacher_spectrum = torch.linalg.svdvals(teacher_jacobian(teacher, few, sigma_max))
    if calibration is None:
        calibration = calibrate(teacher, len(z), seed)
    labels = (mode_labels(teacher, x), mode_labels(teacher, reference)) if teacher.modes > 1 else (None, None)
    record: dict[str, float | bool] = dict(pairing(x, reference, labels[0], labels[1], seed))
    parts = split_displacement(x, reference, teacher.cov, np.random.default_rng(seed))
    for name, part in zip(("displacement_leading", "displacement_rest"), parts, strict=True):
        record |= named(name, part)
    gauge = gauge_displacement(teacher, x, z, sigma_max, np.random.default_rng(seed))
    record |= named("gauge_displacement", gauge)
    for owner, s in (
        ("student", jacobian_spectrum(student, few.to(precision(student)))),
        ("teacher", teacher_spectrum),
    ):
        record |= {
            f"{owner}_effective_rank": effective_rank(s).mean().item(),
            f"{owner}_stable_rank": stable_rank(s).mean().item(),
            f"{owner}_participation_ratio": participation_ratio(s).mean().item(),
        }
    record |= law_match(teacher, x, calibration)
    record |= memorisation(teacher, x, reference, seed)
    for measure in extra:
        more = dict(measure(student, teacher, z))
        taken = record.keys() & more.keys()
        if taken:
            raise ValueError(f"extra measures must have new names, got {', '.join(sorted(taken))}")
        record |= more
    return record
