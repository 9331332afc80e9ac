"""The whole record of a student: complete, finite, open to more, and clear about students that cannot be measured."""

import math

import pytest
import torch

from sandbox.measure.record import measurements
from sandbox.student.networks import LinearStudent
from sandbox.teacher.families import gaussian, ring
from sandbox.teacher.flow import teacher_map

PAIRED = (
    "displacement",
    "displacement_leading",
    "displacement_rest",
    "correlation_distance",
    "inefficiency",
    "retrieval",
    "gauge_displacement",
)
PLAIN = {
    "sliced_w2",
    "sliced_w2_null",
    "mass_ratio_low",
    "mass_ratio_high",
    "variance_ratio_low",
    "variance_ratio_high",
    "law_passes",
    *(
        f"{who}_{rank}"
        for who in ("student", "teacher")
        for rank in ("effective_rank", "stable_rank", "participation_ratio")
    ),
}


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def names(*paired):
    return PLAIN | {f"{name}{part}" for name in paired for part in ("", "_null", "_low", "_high")}


def copy_of(teacher):
    """The closed form of a flat Gaussian teacher's map, as a student."""
    return LinearStudent(80 / math.sqrt(80**2 + 1) * torch.eye(teacher.dim, dtype=torch.float64))


@pytest.mark.parametrize("dim", [2, 16])
def test_a_copy_of_a_gaussian_teacher(dim):
    teacher = gaussian(dim)
    record = measurements(copy_of(teacher), teacher, normals(256, dim))
    assert set(record) == names(*PAIRED)
    assert all(math.isfinite(v) for v in record.values())
    zero = (
        "displacement",
        "displacement_leading",
        "displacement_rest",
        "correlation_distance",
        "inefficiency",
        "gauge_displacement",
    )
    assert {name: record[name] for name in zero} == pytest.approx(dict.fromkeys(zero, 0.0), abs=1e-9)
    assert record["retrieval"] == 1.0
    assert record["law_passes"] is True
    for rank in ("effective_rank", "stable_rank", "participation_ratio"):
        assert record[f"student_{rank}"] == pytest.approx(dim, rel=1e-9)
        assert record[f"teacher_{rank}"] == pytest.approx(dim, rel=1e-6)


def test_a_teacher_with_modes_also_reads_their_agreement():
    teacher = ring(2)
    record = measurements(copy_of(teacher), teacher, normals(64, 2), extra=(lambda S, T, z: {"mine": float(len(z))},))
    assert set(record) == names(*PAIRED, "mode_agreement") | {"mine"}
    assert all(math.isfinite(v) for v in record.values())
    assert record["mine"] == 64.0
    # A narrow Gaussian in the ring's empty middle keeps the angles, hence the modes, but not the law.
    assert record["mode_agreement"] > record["mode_agreement_high"]
    assert record["law_passes"] is False


def test_what_is_at_hand_is_not_computed_again():
    teacher, z = gaussian(2, exponent=1.0), normals(64, 2)
    whole = measurements(copy_of(teacher), teacher, z)
    again = measurements(copy_of(teacher), teacher, z, reference=teacher_map(teacher, z))
    assert whole == again
    # A reference that is given is the one used.
    moved = measurements(copy_of(teacher), teacher, z, reference=teacher_map(teacher, z).flip(0))
    assert moved["displacement"] > whole["displacement"] + 0.1


@pytest.mark.parametrize(
    ("student", "z", "words"),
    [
        (LinearStudent(torch.ones(3, 2, dtype=torch.float64)), normals(32, 2), r"student must map \(n, 2\).*\(32, 3\)"),
        (lambda z: z * math.nan, normals(32, 2), "student must be finite, got 32"),
        (lambda z: z, normals(32, 3), r"z must have shape \(n, 2\), got \(32, 3\)"),
        (lambda z: z, normals(32, 2)[0], r"z must have shape \(n, 2\), got \(2,\)"),
    ],
)
@pytest.mark.parametrize("teacher", [gaussian(2), ring(2)], ids=["gaussian", "ring"])
def test_students_that_cannot_be_measured_are_named(teacher, student, z, words):
    with pytest.raises(ValueError, match=words):
        measurements(student, teacher, z)


def test_an_extra_measure_must_have_a_new_name():
    with pytest.raises(ValueError, match="new names, got displacement"):
        measurements(lambda z: z, gaussian(2), normals(32, 2), extra=(lambda *_: {"displacement": 0.0},))
