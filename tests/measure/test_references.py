"""A student against other maps: rotated teachers, and another student."""

import math

import numpy as np
import pytest
import torch

from sandbox.measure.pairing import displacement
from sandbox.measure.references import displacements_to, nearer, rotated, student_agreement
from sandbox.measure.transport import rearranged
from sandbox.student.initialise import haar_rotation
from sandbox.teacher import families
from sandbox.teacher.covariance import Full
from sandbox.teacher.flow import teacher_map
from sandbox.teacher.mixture import GaussianMixture

N = 200


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("dim", "family"), [(1, "random"), (3, "random"), (8, "gaussian")])
def test_a_student_of_a_rotated_teacher_is_told_from_one_of_the_teacher(dim, family):
    teacher = families.family(family, dim)
    z, R = normals(24, dim), haar_rotation(dim, torch.Generator().manual_seed(4))

    def flow(z):
        return teacher_map(teacher, z, tolerance=1e-3)

    student = flow(z @ R.T) + 1e-3
    found = displacements_to(student, {"teacher": flow(z), "rotated": rotated(flow, z, R)}, rng())
    assert found["rotated"].value < 1e-5
    assert found["teacher"].value == displacement(student, flow(z), rng()).value
    if dim > 1:  # the only rotation of a line is the identity
        assert found["teacher"].value > 0.3
        # R^T instead of R would be another map, were it not for planes' own symmetry.
        assert displacement(student, flow(z @ R), rng()).value > 0.1


@pytest.mark.parametrize(
    ("R", "words"),
    [
        (torch.eye(2), r"R must have shape \(3, 3\), got \(2, 2\)"),
        (1.01 * torch.eye(3), "R must be orthogonal, got R R.T - I as large as 0.0201"),
        (torch.full((3, 3), math.nan), "R must be orthogonal"),
    ],
)
def test_what_is_no_rotation_is_named(R, words):
    with pytest.raises(ValueError, match=words):
        rotated(lambda z: z, normals(4, 3), R)


@pytest.mark.parametrize("dim", [1, 16])
def test_nearer_is_the_difference_of_two_displacements_with_its_own_error(dim):
    first, second = normals(N, dim, 1), normals(N, dim, 2)
    student = 0.8 * first + 0.6 * second
    found = nearer(student, first, second, rng())
    parts = [displacement(student, x, rng()) for x in (second, first)]
    assert found.value == pytest.approx(parts[0].value - parts[1].value, abs=1e-12)
    assert found.null == pytest.approx(parts[0].null - parts[1].null, abs=1e-12)
    # Planted: 1 - .6 less 1 - .8.
    assert abs(found.value - 0.2) < 4 * found.se
    values = [
        nearer(0.8 * a + 0.6 * b, a, b, rng())
        for a, b in ((normals(48, dim, 2 * i + 10), normals(48, dim, 2 * i + 11)) for i in range(30))
    ]
    ratio = math.sqrt(np.mean([v.se**2 for v in values])) / np.std([v.value for v in values], ddof=1)
    assert 0.65 < ratio < 1.5  # a standard deviation from 30 draws is known to 13 %


@pytest.mark.parametrize("dim", [1, 16, 256])
@pytest.mark.parametrize(("copied", "common"), [(0.3, 0.0), (0.9, 0.0), (0.3, 0.5), (0.9, 1.0)])
def test_two_students_of_one_teacher(dim, copied, common):
    # Each student is `copied` T plus a deviation; a share of its variance is common to both. In closed form, per mode:
    # rho(S, T) = 1 - copied, rho(S, S') = 1 - copied^2 - (1 - copied^2) common.
    spectrum = torch.arange(1, dim + 1).double() ** -0.5
    t, shared, own, other = (normals(N, dim, i) * spectrum for i in range(4))
    left = math.sqrt(1 - copied**2)

    def student(deviation):
        return copied * t + left * (math.sqrt(common) * shared + math.sqrt(1 - common) * deviation)

    found = student_agreement(student(own), student(other), t, rng())
    want = {
        "each_other": (1 - copied**2) * (1 - common),
        "teacher": 1 - copied,
        "closer": (1 - copied) - (1 - copied**2) * (1 - common),
        "beyond": 1 - common,
    }
    for name, value in want.items():
        measured = getattr(found, name)
        # A coefficient fitted in each direction takes 1/n of what is common, and of its square root from each.
        assert abs(measured.value - value) <= 4 * measured.se + 2 / N, name
    assert found.closer.value == pytest.approx(found.teacher.value - found.each_other.value, abs=1e-12)
    null = np.array([m.null for m in found])
    assert null == pytest.approx([1, 1, 0, 1], abs=0.1)


def test_exact_copies_have_nothing_beyond_the_teacher():
    t = normals(N, 4)
    found = student_agreement(t, 0.5 * t, t, rng())
    assert math.isnan(found.beyond.value)
    assert found.beyond.n == N
    assert found.teacher.value > 0


@pytest.mark.parametrize("dim", [6])
def test_what_the_teacher_explains_is_taken_in_the_given_directions(dim):
    # Students that copy two directions by different amounts have more in common than one coefficient for each would
    # explain; in a basis that mixes them, that would read as agreement beyond the teacher.
    lam = torch.linspace(1.0, 0.2, dim, dtype=torch.float64)
    t = normals(2000, dim, 1) * lam
    kept = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    students = [t * kept + 0.3 * normals(2000, dim, i) for i in (2, 3)]
    rotation = haar_rotation(dim, torch.Generator().manual_seed(1))
    maps = [x @ rotation.T for x in (*students, t)]
    along = student_agreement(*maps, rng(), basis=rotation).beyond
    across = student_agreement(*maps, rng()).beyond
    assert abs(along.value - 1) < 4 * along.se
    assert across.value < 1 - 4 * across.se


@pytest.mark.slow
@pytest.mark.parametrize("size", [0.0, 0.3])
def test_a_noisy_copy_of_the_teacher_is_told_from_one_of_the_optimal_transport(size):
    # Two parallel long modes, oblique to the line between them: the flow is no gradient (Lavenant & Santambrogio 2022),
    # though less than .01 of displacement away from the optimal transport of its own points. The noise is .08 of it,
    # and is in both distances alike.
    matrix = torch.tensor([[1.145, 1.105], [1.105, 1.145]], dtype=torch.float64)
    means = torch.tensor([[-1.5, 0.0], [1.5, 0.0]], dtype=torch.float64)
    law, z = GaussianMixture([0.5, 0.5], means, Full(torch.stack([matrix, matrix]))), normals(1024, 2, 5)
    t = teacher_map(law, z, tolerance=1e-3)
    optimal = rearranged(t, z)
    apart = displacement(t, optimal, rng()).value
    assert 1e-3 < apart < 1e-2
    noise = size * t.var(0).sum().sqrt() * normals(1024, 2, 6)
    copy, transport = nearer(t + noise, t, optimal, rng()), nearer(optimal + noise, optimal, t, rng())
    for found in (copy, transport):
        assert found.value > 3 * found.se
        assert found.value > found.high or size == 0
