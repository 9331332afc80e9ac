"""Rotations by a known angle, and starts that they are folded into."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from sandbox.student.denoiser import Denoiser, OneStep, one_step
from sandbox.student.initialise import haar_rotation, linear_start, one_step_denoiser, plane_rotation, rotated
from sandbox.student.networks import Pack
from sandbox.teacher import families

ANGLES = (0.1, 1.0, math.pi / 2, 2.5, math.pi)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64)


class TestPlaneRotation:
    @pytest.mark.parametrize("dim", [1, 2, 3, 8, 65])
    @pytest.mark.parametrize("angle", ANGLES)
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_is_a_rotation_of_the_stated_trace(self, dim, angle, tolerance):
        R = plane_rotation(dim, angle, source())
        assert R.dtype == torch.float64
        torch.testing.assert_close(R @ R.mT, torch.eye(dim, dtype=torch.float64), rtol=0, atol=tolerance)
        assert torch.linalg.det(R).item() == pytest.approx(1, abs=tolerance)
        assert R.trace().item() == pytest.approx(2 * (dim // 2) * math.cos(angle) + dim % 2, abs=dim * tolerance)

    @pytest.mark.parametrize("dim", [2, 5, 8])
    @pytest.mark.parametrize("angle", ANGLES)
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_turns_every_plane_by_the_same_angle(self, dim, angle, tolerance):
        """Eigenvalues exp(+-i angle) alone, and 1 where a direction is left over; those at -1 coalesce."""
        turned = torch.linalg.eigvals(plane_rotation(dim, angle, source(1))).angle().abs().sort().values
        want = torch.tensor([0.0] * (dim % 2) + [angle] * (dim - dim % 2), dtype=torch.float64)
        torch.testing.assert_close(turned, want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("angle", [1e-9, *ANGLES])
    @pytest.mark.parametrize("tolerance", [1e-7])
    def test_in_space_as_scipy_measures_it(self, angle, tolerance):
        magnitude = Rotation.from_matrix(plane_rotation(3, angle, source(2)).numpy()).magnitude()
        assert magnitude == pytest.approx(angle, rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-15])
    def test_in_the_plane_there_is_one(self, tolerance):
        want = torch.tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]], dtype=torch.float64)
        for seed in range(5):
            torch.testing.assert_close(plane_rotation(2, 1.0, source(seed)), want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("dim", [1, 2, 7])
    def test_by_no_angle_is_the_identity(self, dim):
        assert torch.equal(plane_rotation(dim, 0.0, source()), torch.eye(dim, dtype=torch.float64))

    @pytest.mark.parametrize(("draws", "standard_errors"), [(2000, 4.5)])
    def test_no_direction_is_preferred(self, draws, standard_errors):
        """In space: the axis a is uniform on the sphere, E a = 0 and E a_i^2 = 1/3."""
        g = source(3)
        R = torch.stack([plane_rotation(3, 1.0, g) for _ in range(draws)])
        axis = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], -1)
        axis = axis / (2 * math.sin(1.0))
        for sample, want in ((axis, 0.0), (axis.square(), 1 / 3)):
            assert ((sample.mean(0) - want).abs() <= standard_errors * sample.std(0) / math.sqrt(draws)).all()

    def test_uses_its_generator_alone(self):
        before = torch.random.get_rng_state()
        first, second = plane_rotation(4, 1.0, source(3)), plane_rotation(4, 1.0, source(3))
        assert torch.equal(first, second)
        assert not torch.equal(first, plane_rotation(4, 1.0, source(4)))
        assert torch.equal(torch.random.get_rng_state(), before)

    @pytest.mark.parametrize("bad", [-0.1, 3.2, math.nan])
    def test_a_bad_angle_is_named(self, bad):
        with pytest.raises(ValueError, match=rf"angle must be in \[0, pi\], got {bad}"):
            plane_rotation(3, bad, source())


class TestLinearStart:
    @pytest.mark.parametrize("dim", [1, 2, 8])
    @pytest.mark.parametrize("tolerance", [1e-15])
    def test_by_an_angle(self, dim, tolerance):
        teacher = families.random(dim)
        A, b = one_step_denoiser(teacher, 80.0)
        student, R = linear_start("rotated", teacher, 80.0, source(3), bias=True, angle=1.0)
        assert torch.equal(R, plane_rotation(dim, 1.0, source(3)))
        torch.testing.assert_close(student.weight.detach(), A @ R, rtol=0, atol=tolerance)
        assert torch.equal(student.bias.detach(), b)

    def test_an_angle_of_another_start_is_named(self):
        with pytest.raises(ValueError, match=r"angle must be None for the start .teacher., got 1\.0"):
            linear_start("teacher", families.random(2), 80.0, source(), angle=1.0)


class TestRotated:
    def student(self, dim=4, bottleneck=None, skip="trained", dtype=torch.float64):
        network = Denoiser(dim, 8, 2, source(1), 0.7, bottleneck)
        student = OneStep(network, 2.5, skip)
        with torch.no_grad():
            for i, p in enumerate(student.parameters()):
                p += 0.3 * normal(*p.shape, seed=50 + i).float()
        return student.to(dtype)

    @pytest.mark.parametrize("skip", ["trained", "off"])
    @pytest.mark.parametrize("bottleneck", [None, 1, 3])
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
    def test_is_the_student_at_the_rotated_point(self, bottleneck, skip, dtype, tolerance):
        student, R, z = self.student(4, bottleneck, skip, dtype), haar_rotation(4, source(5)), normal(20, 4, seed=6)
        got, want = rotated(student, R)(z.to(dtype)), student((z @ R.mT).to(dtype))
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
        assert (got - student(z.to(dtype))).abs().max() > 0.1

    @pytest.mark.parametrize(("skip", "moved"), [("trained", {"A", "net.inward"}), ("off", {"net.inward"})])
    def test_is_in_what_the_student_trains(self, skip, moved):
        student = self.student(skip=skip)
        before = {name: p.detach().clone() for name, p in student.named_parameters()}
        turned = dict(rotated(student, haar_rotation(4, source(5))).named_parameters())
        assert turned.keys() == before.keys()
        assert all(p.requires_grad for p in turned.values())
        assert {name for name, p in before.items() if not torch.equal(p, turned[name])} == moved
        assert all(torch.equal(p, before[name]) for name, p in student.named_parameters())

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_students_of_one_pack_have_their_own(self, tolerance):
        student, z = self.student(), normal(2, 9, 4, seed=6)
        rotations = [plane_rotation(4, angle, source(5)) for angle in (0.0, 2.0)]
        got = Pack.of([rotated(student, R) for R in rotations])(z)
        want = torch.stack([student(z[i] @ R.mT) for i, R in enumerate(rotations)])
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("size", [1e-2, 1.0])
    def test_takes_a_rotation_in_single_precision(self, size):
        R = plane_rotation(4, size, source())
        torch.testing.assert_close(rotated(self.student(), R.float()).A, self.student().A @ R, rtol=0, atol=1e-6)

    def test_a_fixed_skip_is_named(self):
        student = one_step(Pack.of([Denoiser(4, 8, 1, source())])).module
        with pytest.raises(ValueError, match="skip must be trained or off for a student to be rotated, got 'fixed'"):
            rotated(student, torch.eye(4))

    def test_a_bad_matrix_is_named(self):
        with pytest.raises(ValueError, match=r"R must have shape \(4, 4\), got \(3, 3\)"):
            rotated(self.student(), torch.eye(3))
        with pytest.raises(ValueError, match=r"R must be orthogonal, got R R\^T off the identity by 0\.21"):
            rotated(self.student(), 1.1 * torch.eye(4, dtype=torch.float64))
        with pytest.raises(ValueError, match=r"R must be orthogonal, got R R\^T off the identity by nan"):
            rotated(self.student(), torch.full((4, 4), math.nan))
