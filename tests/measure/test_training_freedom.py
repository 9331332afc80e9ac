"""What is read of every network's freedom: at planted motions, and where there is none to read."""

import math

import pytest
import torch

from sandbox import LinearStudent, families
from sandbox.measure.linear_freedom import linear_available, linear_net
from sandbox.measure.training_freedom import POINTS, path_jacobian, training_freedom, used_freedom
from sandbox.student.networks import Pack


def normals(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pack(*matrices):
    return Pack.of([LinearStudent(A) for A in matrices])


def rotation(d, angle):
    K = torch.zeros(d, d, dtype=torch.float64)
    K[0, 1], K[1, 0] = -angle, angle
    return torch.linalg.matrix_exp(K)


class TestEnds:
    @pytest.mark.parametrize("d", [2, 6])
    @pytest.mark.parametrize("standard_errors", [4])
    def test_of_linear_students_is_the_exact_one(self, d, standard_errors):
        A, B = normals(d, d, 1), normals(d, d, 2)
        z = normals(POINTS, d)
        record = training_freedom(pack(B, A), pack(A, B), 1, z, families.gaussian(d), seed=3)
        for name, want in (
            ("start_available_freedom", linear_available(A)),
            ("end_available_freedom", linear_available(B)),
            ("net_freedom", linear_net(A, B).freedom),
        ):
            assert abs(record[name] - want.item()) < standard_errors * record[f"{name}_se"], name
            assert record[f"{name}_null"] == pytest.approx(1, abs=0.05)

    def test_a_student_that_has_not_moved_has_no_net_freedom(self):
        still = pack(torch.eye(2, dtype=torch.float64))
        record = training_freedom(still, still, 0, normals(POINTS, 2), families.gaussian(2))
        assert math.isnan(record["net_freedom"])
        assert record["start_available_freedom"] == record["end_available_freedom"]

    def test_too_many_dimensions_for_the_points_are_left_open(self):
        wide = pack(torch.eye(300, dtype=torch.float64))
        record = training_freedom(wide, wide, 0, normals(POINTS, 300), families.gaussian(300))
        assert all(math.isnan(v) for v in record.values())


class TestOnTheWay:
    @pytest.mark.parametrize("d", [2, 20])
    def test_a_turned_law_is_free_and_a_grown_one_is_not(self, d):
        z, teacher = normals(POINTS, d), families.gaussian(d)
        assert used_freedom(z, z @ rotation(d, 1e-3).mT, teacher) == pytest.approx(1, abs=0.1)
        assert used_freedom(z, 1.1 * z, teacher) == pytest.approx(0, abs=1e-9)

    def test_without_motion_there_is_none(self):
        z = normals(POINTS, 2)
        assert math.isnan(used_freedom(z, z, families.gaussian(2)))

    def test_the_jacobian_is_the_matrix(self):
        A = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)) @ rotation(2, math.pi / 2)
        found = path_jacobian(lambda z: z @ A.mT, normals(16, 2))
        entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        assert found["student_effective_rank"] == pytest.approx(math.exp(entropy))
        assert found["student_curl"] == pytest.approx(4 * math.sqrt(2) / math.sqrt(10))

    def test_a_collapsed_student_has_none(self):
        found = path_jacobian(lambda z: 0 * z, normals(16, 2))
        assert all(math.isnan(v) for v in found.values())
