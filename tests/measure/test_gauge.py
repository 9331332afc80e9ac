"""The remapping of the noise: polar factors of linear students, and the encoder for any teacher."""

import math

import numpy as np
import pytest
import torch

from sandbox.measure.gauge import gauge_displacement, polar_displacement, polar_factor
from sandbox.student.initialise import haar_rotation
from sandbox.teacher.families import gaussian, random, ring
from sandbox.teacher.flow import teacher_map

SIGMA_MAX = 80.0


def normals(n, dim, seed=0):
    z = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z - z.mean(0)


def plane_rotation(dim, angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.block_diag(*[torch.tensor([[c, -s], [s, c]], dtype=torch.float64)] * (dim // 2))


def symmetric(dim, seed=0):
    """A positive symmetric matrix of condition number about ten."""
    basis = haar_rotation(dim, torch.Generator().manual_seed(seed))
    return (basis * torch.linspace(0.3, 3.0, dim, dtype=torch.float64)) @ basis.mT


@pytest.mark.parametrize("dim", [1, 2, 4, 16, 64])
def test_a_symmetric_map_has_no_remapping(dim):
    assert polar_displacement(symmetric(dim)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("dim", "angle"), [(2, 0.4), (4, 1.3), (16, math.pi / 2), (64, 3.0)])
def test_the_polar_displacement_reads_the_angle_behind_any_symmetric_map(dim, angle):
    A = symmetric(dim) @ plane_rotation(dim, angle)
    assert polar_displacement(A).item() == pytest.approx(1 - math.cos(angle), abs=1e-12)
    # Measured from another rotation, only the angle between the two is left.
    other = symmetric(dim, seed=1) @ plane_rotation(dim, 0.25)
    assert polar_displacement(A, other).item() == pytest.approx(1 - math.cos(angle - 0.25), abs=1e-12)


def test_the_polar_factor_is_orthogonal_and_leaves_a_symmetric_factor():
    A = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    Q = polar_factor(A)
    eye = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    torch.testing.assert_close(Q @ Q.mT, eye, rtol=0, atol=1e-12)
    P = A @ Q.mT
    torch.testing.assert_close(P, P.mT, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(P).min() > 0


@pytest.mark.parametrize("smallest", [0.0, 1e-16])
def test_a_singular_map_has_no_polar_factor(smallest):
    A = torch.diag(torch.tensor([1.0, 0.5, smallest], dtype=torch.float64))
    with pytest.raises(ValueError, match="A must be invertible"):
        polar_factor(A)


@pytest.mark.parametrize(("dim", "exponent", "angle"), [(2, 0.0, 0.7), (4, 0.0, 2.0), (16, 0.0, 1.2)])
def test_the_encoder_reads_the_planted_angle_of_a_linear_student(dim, exponent, angle):
    teacher, z = gaussian(dim, 1.5, exponent), normals(64, dim)
    student = math.sqrt(1.5) * z @ plane_rotation(dim, angle).mT
    found = gauge_displacement(teacher, student, z, SIGMA_MAX, np.random.default_rng(0))
    assert found.value == pytest.approx(1 - math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(("dim", "exponent", "seed"), [(2, 1.0, 0), (4, 1.5, 1), (16, 1.5, 2)])
def test_the_encoder_agrees_with_the_polar_factor_of_a_linear_student(dim, exponent, seed):
    # A student with the teacher's law and a random remapping. The two measures are one expectation and one trace:
    # they differ by the fluctuation of tr(R Cov z) over n = 4000 points, at most 1 / sqrt(n).
    teacher, z = gaussian(dim, 1.0, exponent), normals(4000, dim, seed)
    A = teacher.cov.diagonal().sqrt()[:, None] * haar_rotation(dim, torch.Generator().manual_seed(seed))
    found = gauge_displacement(teacher, z @ A.mT, z, SIGMA_MAX, np.random.default_rng(0))
    want = polar_displacement(A).item()
    assert want > 0.1
    assert found.value == pytest.approx(want, abs=3 / math.sqrt(4000))


@pytest.mark.parametrize(
    ("teacher", "angle"),
    [
        (ring(2), 0.5),
        (ring(2, modes=5), 1.7),
        (ring(4), 1.0),
        (random(4, modes=4), 0.8),
    ],
)
def test_the_encoder_reads_the_planted_angle_behind_a_mixture(teacher, angle):
    z = normals(64, teacher.dim)
    student = teacher_map(teacher, z @ plane_rotation(teacher.dim, angle).mT, SIGMA_MAX)
    found = gauge_displacement(teacher, student, z, SIGMA_MAX, np.random.default_rng(0))
    # The map and its inverse are each solved to 1e-6 of the data's scale, which contraction onto modes of std 0.3
    # enlarges on the way back.
    assert found.value == pytest.approx(1 - math.cos(angle), abs=1e-4)
    assert found.low < 1 < found.high
