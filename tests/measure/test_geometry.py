"""The dearer measures as one record: which entries there are, and what planted students read in them."""

import numpy as np
import pytest
import torch

from sandbox import GaussianMixture, Isotropic, LinearStudent, families, geometry, measurements, teacher_map
from sandbox.measure.law import mode_labels
from sandbox.measure.linear_freedom import linear_available
from sandbox.measure.modes import mode_parts


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(matrix):
    return LinearStudent(matrix)


class TestAStudentOfAMixture:
    @pytest.fixture(scope="class")
    @classmethod
    def record(cls):
        return geometry(linear(torch.eye(2, dtype=torch.float64)), families.random(2), normals(300, 2), seed=3)

    def test_parts_are_mode_parts_own(self, record):
        teacher, z = families.random(2), normals(300, 2)
        x = teacher_map(teacher, z)
        want = mode_parts(z, x, mode_labels(teacher, z), mode_labels(teacher, x), np.random.default_rng(3))
        for name, part in (("between", want.between_own), ("within", want.within_own)):
            got = [record[f"displacement_{name}{end}"] for end in ("", "_null", "_low", "_high", "_se")]
            assert got == list(part[:5])

    def test_the_identity_is_a_gradient_and_its_own_brenier_map(self, record):
        assert record["student_curl"] == 0 < record["teacher_curl"]
        assert record["monotonicity_violation"] == 0
        assert record["monotonicity_violation_null"] == pytest.approx(0.5, abs=0.05)
        assert abs(record["brenier_distance"]) < 0.03
        assert record["brenier_distance_low"] > 0.5

    def test_another_law_is_not_normal_behind_the_encoder(self, record):
        assert record["remap_energy"] > 3 * record["remap_energy_high"]

    def test_a_plain_function_has_no_parameters(self):
        record = geometry(lambda z: z, families.gaussian(2), normals(64, 2))
        assert "available_freedom" not in record
        assert "student_curl" in record


class TestARotatedGaussian:
    angle = 1.0

    @pytest.fixture(scope="class")
    @classmethod
    def record(cls):
        """T∘R of a Gaussian teacher with a leading direction, R a rotation by one radian in the first plane."""
        teacher = families.gaussian(4, exponent=1.5)
        R = torch.eye(4, dtype=torch.float64)
        c, s = np.cos(cls.angle), np.sin(cls.angle)
        R[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        K = teacher_map(teacher, torch.eye(4, dtype=torch.float64))
        return geometry(linear(K @ R), teacher, normals(400, 4))

    def test_rank_and_data_side_see_nothing(self, record):
        assert record["effective_rank_over_teacher"] == pytest.approx(1, abs=1e-9)
        assert record["data_overlap"] == pytest.approx(1, abs=1e-9)

    def test_the_noise_side_curl_and_gauge_see_it(self, record):
        assert record["subspace_dimension"] == 1
        assert record["noise_overlap"] == pytest.approx(np.cos(self.angle) ** 2, abs=1e-9)
        assert record["student_curl"] > 0.5 > record["teacher_curl"] + 0.49
        assert record["rotation_share"] == pytest.approx(1, abs=1e-6)
        assert record["rotation_held_out"] == pytest.approx(1, abs=1e-6)
        assert record["rotation_share_high"] < 0.5, "far below what a rotation reads"

    def test_its_law_is_the_teachers(self, record):
        assert record["remap_covariance"] <= record["remap_covariance_high"]
        assert record["remap_energy"] <= 2 * record["remap_energy_high"]

    def test_freedom_is_the_closed_form(self, record):
        want = linear_available(torch.eye(4, dtype=torch.float64)).item()
        assert abs(record["available_freedom"] - want) <= 4 * record["available_freedom_se"]
        assert record["available_freedom_se"] < want / 2


def test_joins_the_other_measures():
    teacher = families.gaussian(2)
    record = measurements(linear(torch.eye(2, dtype=torch.float64)), teacher, normals(64, 2), extra=(geometry,))
    assert {"displacement", "student_curl", "brenier_distance"} <= record.keys()
    assert "displacement_between" not in record, "one Gaussian has no modes"
    assert all(np.isfinite(v) for k, v in record.items() if not k.startswith("displacement_rest"))


def test_a_flat_teacher_has_no_leading_subspace():
    teacher = GaussianMixture([1.0], torch.zeros(1, 3, dtype=torch.float64), Isotropic(1.0))
    record = geometry(linear(torch.eye(3, dtype=torch.float64)), teacher, normals(64, 3))
    assert record["subspace_points"] == 0
    assert "noise_overlap" not in record
