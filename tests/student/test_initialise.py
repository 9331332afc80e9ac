"""Starts: a uniform rotation, the best linear denoiser, and what each kind makes of the two."""

import math

import pytest
import torch
from scipy.stats import kstest

from sandbox.student.denoiser import Denoiser, OneStep
from sandbox.student.initialise import STARTS, haar_rotation, linear_start, one_step_denoiser, with_error
from sandbox.teacher.covariance import Diagonal, Full, Isotropic
from sandbox.teacher.mixture import GaussianMixture


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def gaussian(dim, mean_scale=0.0, dtype=torch.float64):
    root = normal(dim, dim, seed=dim)
    covariance = root @ root.mT / dim + 0.1 * torch.eye(dim, dtype=torch.float64)
    return GaussianMixture([1.0], (mean_scale * normal(1, dim, seed=7)).to(dtype), Full(covariance[None].to(dtype)))


def bimodal(dim):
    means = normal(2, dim, seed=3)
    return GaussianMixture([0.3, 0.7], means, Isotropic(torch.tensor([0.2, 0.5], dtype=torch.float64)))


class TestHaarRotation:
    @pytest.mark.parametrize("dim", [1, 2, 3, 8, 64])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_is_a_rotation(self, dim, tolerance):
        for seed in range(6):
            R = haar_rotation(dim, generator(seed))
            assert R.dtype == torch.float64
            eye = torch.eye(dim, dtype=torch.float64)
            torch.testing.assert_close(R @ R.mT, eye, rtol=0, atol=tolerance)
            assert torch.linalg.det(R).item() == pytest.approx(1, abs=tolerance)

    def test_the_only_rotation_of_a_line_is_the_identity(self):
        assert {haar_rotation(1, generator(seed)).item() for seed in range(10)} == {1.0}

    @pytest.mark.parametrize("dim", [2, 3, 5])
    @pytest.mark.parametrize(("draws", "standard_errors"), [(4000, 4.5)])
    def test_moments(self, dim, draws, standard_errors):
        """E R = 0, E R_ij^2 = 1/d, E (tr R)^2 = 1 (2 at d = 2): what QR without its sign fix gets wrong."""
        g = generator(1)
        R = torch.stack([haar_rotation(dim, g) for _ in range(draws)])
        trace = torch.diagonal(R, dim1=-2, dim2=-1).sum(-1)
        second = 2.0 if dim == 2 else 1.0
        for sample, want in ((R, 0.0), (R.square(), 1 / dim), (trace, 0.0), (trace.square(), second)):
            error = sample.std(0) / math.sqrt(draws)
            assert ((sample.mean(0) - want).abs() <= standard_errors * error).all()

    @pytest.mark.parametrize(("draws", "p_value"), [(4000, 1e-3)])
    def test_angles_of_the_plane_are_uniform(self, draws, p_value):
        g = generator(2)
        R = torch.stack([haar_rotation(2, g) for _ in range(draws)])
        angle = torch.atan2(R[:, 1, 0], R[:, 0, 0]) / (2 * math.pi) + 0.5
        assert kstest(angle.numpy(), "uniform").pvalue > p_value

    def test_uses_its_generator_alone(self):
        before = torch.random.get_rng_state()
        first, second = haar_rotation(4, generator(3)), haar_rotation(4, generator(3))
        assert torch.equal(first, second)
        assert not torch.equal(first, haar_rotation(4, generator(4)))
        assert torch.equal(torch.random.get_rng_state(), before)


class TestOneStepDenoiser:
    @pytest.mark.parametrize("sigma", [0.3, 2.5, 80.0])
    @pytest.mark.parametrize("mean_scale", [0.0, 3.0])
    @pytest.mark.parametrize("dim", [1, 2, 8])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_the_denoiser_of_a_gaussian(self, dim, mean_scale, sigma, tolerance):
        teacher = gaussian(dim, mean_scale)
        A, b = one_step_denoiser(teacher, sigma)
        z = normal(20, dim, seed=1)
        torch.testing.assert_close(z @ A.mT + b, teacher.denoise(sigma * z, sigma), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("sigma", [0.5, 80.0])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_singular_values(self, sigma, tolerance):
        lam = torch.tensor([4.0, 1.0, 0.25, 0.01], dtype=torch.float64)
        teacher = GaussianMixture([1.0], torch.zeros(1, 4, dtype=torch.float64), Diagonal(lam[None]))
        A, b = one_step_denoiser(teacher, sigma)
        torch.testing.assert_close(A, torch.diag(sigma * lam / (lam + sigma**2)), rtol=tolerance, atol=1e-18)
        assert torch.equal(b, torch.zeros(4, dtype=torch.float64))

    @pytest.mark.parametrize("sigma", [0.5, 3.0])
    @pytest.mark.parametrize(("dim", "n", "standard_errors"), [(3, 40_000, 4.5)])
    def test_is_the_best_linear_fit_for_a_mixture(self, sigma, dim, n, standard_errors):
        """Regression of clean on noised samples; its normal equations hold at (A, b) up to sampling error."""
        teacher = bimodal(dim)
        A, b = one_step_denoiser(teacher, sigma)
        x = teacher.sample(n, generator(5))
        noised = x + sigma * normal(n, dim, seed=6)
        residual = x - noised @ A.mT / sigma - b
        for equation in (residual, (residual[:, :, None] * noised[:, None, :]).flatten(1)):
            error = equation.std(0) / math.sqrt(n)
            assert (equation.mean(0).abs() <= standard_errors * error).all()

    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_is_a_brenier_map(self, tolerance):
        A, _ = one_step_denoiser(bimodal(4), 1.0)
        torch.testing.assert_close(A, A.mT, rtol=0, atol=tolerance)
        assert (torch.linalg.eigvalsh(A) > 0).all()

    def test_in_double_precision_whatever_the_teachers(self):
        A, b = one_step_denoiser(gaussian(3, 1.0, torch.float32), 2.0)
        assert A.dtype == b.dtype == torch.float64


class TestLinearStart:
    def test_teacher(self):
        teacher = gaussian(5, 2.0)
        A, b = one_step_denoiser(teacher, 80.0)
        student, R = linear_start("teacher", teacher, 80.0, generator(), bias=True)
        assert torch.equal(student.weight, A)
        assert torch.equal(student.bias, b)
        assert torch.equal(R, torch.eye(5, dtype=torch.float64))

    @pytest.mark.parametrize("dim", [1, 2, 8])
    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_rotated_has_the_teachers_law_and_another_pairing(self, dim, tolerance):
        teacher = gaussian(dim, 2.0)
        A, b = one_step_denoiser(teacher, 80.0)
        student, R = linear_start("rotated", teacher, 80.0, generator(3), bias=True)
        W = student.weight.detach()
        assert torch.equal(W, A @ R)
        torch.testing.assert_close(W @ W.mT, A @ A.mT, rtol=0, atol=tolerance)
        assert torch.equal(student.bias, b)
        assert torch.equal(R, haar_rotation(dim, generator(3)))
        assert torch.equal(W, A) == (dim == 1)

    @pytest.mark.parametrize("scale", [0.1, 0.5])
    @pytest.mark.parametrize(("dim", "standard_errors"), [(64, 4.5)])
    def test_random(self, scale, dim, standard_errors):
        student, R = linear_start("random", gaussian(dim, 2.0), 80.0, generator(4), scale=scale, bias=True)
        W = student.weight.detach() / scale
        assert abs(W.mean().item()) <= standard_errors / dim
        assert abs(W.square().mean().item() - 1) <= standard_errors * math.sqrt(2) / dim
        assert abs((W.mT @ W / dim - torch.eye(dim)).mean().item()) <= standard_errors / dim**1.5
        assert student.bias.abs().max() == 0
        assert torch.equal(R, torch.eye(dim, dtype=torch.float64))

    def test_random_knows_nothing_of_the_teacher(self):
        starts = [linear_start("random", t, 80.0, generator(4))[0].weight for t in (gaussian(3), bimodal(3))]
        assert torch.equal(*starts)

    @pytest.mark.parametrize("kind", STARTS)
    def test_no_bias_unless_asked(self, kind):
        assert linear_start(kind, gaussian(3, 1.0), 80.0, generator())[0].bias is None

    @pytest.mark.parametrize("kind", STARTS)
    def test_leaves_the_global_generator_alone(self, kind):
        before = torch.random.get_rng_state()
        linear_start(kind, gaussian(3), 80.0, generator())
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "haar"}, r"start must be one of teacher, rotated, random, map, got 'haar'"),
        *[
            ({"kind": kind, "sigma_init": bad}, rf"sigma_init must be > 0, got {bad}")
            for kind in STARTS
            for bad in (0.0, -1.0, math.nan)
        ],
        *[({"kind": "random", "scale": bad}, rf"scale must be > 0, got {bad}") for bad in (0.0, -0.1, math.nan)],
    ],
)
def test_bad_input_names_the_argument_and_the_value(change, message):
    arguments = {"kind": "teacher", "teacher": gaussian(2), "sigma_init": 80.0, "generator": generator()} | change
    with pytest.raises(ValueError, match=message):
        linear_start(**arguments)


class TestWithError:
    def student(self, dim=3, width=16, sigma_init=80.0, stir=0.3):
        """A one-step student away from its network's start, so that no term of it is zero."""
        network = Denoiser(dim, width, 2, generator(1), 0.7)
        with torch.no_grad():
            for i, p in enumerate(network.parameters()):
                p += stir * normal(*p.shape, seed=50 + i).float()
        return OneStep(network, sigma_init)

    def error(self, student, changed, n=20_000, seed=8):
        """The error at points of its own, (n, d) float64."""
        z = torch.randn(n, student.dim, generator=generator(seed))
        with torch.no_grad():
            return changed(z).double() - student(z).double()

    @pytest.mark.parametrize("sigma_init", [0.5, 80.0])
    @pytest.mark.parametrize("dim", [1, 3, 16])
    @pytest.mark.parametrize("size", [1e-2, 1.0, 20.0])
    @pytest.mark.parametrize(("points", "tolerance"), [(8192, 0.05)])
    def test_adds_a_centred_error_of_the_size_asked_for(self, size, dim, sigma_init, points, tolerance):
        student = self.student(dim, sigma_init=sigma_init)
        error = self.error(student, with_error(student, size, points, generator(2)))
        assert error.square().sum(-1).mean().sqrt().item() == pytest.approx(size, rel=tolerance)
        # Points of its own set the mean, that of others is off by two sampling errors.
        assert error.mean(0).norm().item() <= tolerance * size

    @pytest.mark.parametrize("size", [0.1, 3.0])
    @pytest.mark.parametrize(("points", "tolerance"), [(500, 1e-4)])
    def test_is_exact_on_the_points_that_set_it(self, size, points, tolerance):
        """The first numbers of its generator."""
        student = self.student()
        changed = with_error(student, size, points, generator(2))
        z = torch.randn(points, student.dim, generator=generator(2))
        with torch.no_grad():
            error = (changed(z) - student(z)).double()
        assert error.square().sum(-1).mean().sqrt().item() == pytest.approx(size, rel=tolerance)
        assert error.mean(0).norm().item() <= tolerance * size

    @pytest.mark.parametrize("tolerance", [1e-4])
    def test_grows_in_proportion_to_its_size(self, tolerance):
        student = self.student()
        small, large = (self.error(student, with_error(student, size, 500, generator(2))) for size in (0.5, 2.0))
        torch.testing.assert_close(large, 4 * small, rtol=0, atol=tolerance)
        assert small.square().sum(-1).mean() > 0.1

    def test_of_size_zero_is_the_same_map(self):
        student = self.student()
        assert self.error(student, with_error(student, 0.0, 500, generator(2))).abs().max() == 0

    def test_leaves_the_student_alone(self):
        student = self.student()
        before = {name: p.detach().clone() for name, p in student.named_parameters()}
        changed = with_error(student, 1.0, 500, generator(2))
        with torch.no_grad():
            for p in changed.parameters():
                p.add_(1.0)
        assert all(torch.equal(p, before[name]) for name, p in student.named_parameters())

    def test_is_in_the_last_layer_and_trains(self):
        student = self.student()
        changed = dict(with_error(student, 1.0, 500, generator(2)).named_parameters())
        moved = {name for name, p in student.named_parameters() if not torch.equal(p, changed[name])}
        assert moved == {"net.outward", "net.mean"}
        assert changed.keys() == dict(student.named_parameters()).keys()
        assert all(p.requires_grad and p.dtype == torch.float32 for p in changed.values())

    @pytest.mark.parametrize(("width", "points", "tolerance"), [(16, 2000, 1e-6)])
    def test_is_a_combination_of_the_features_before_the_last_layer(self, width, points, tolerance):
        """Regression on them leaves nothing; each is seen by a last layer that passes it alone."""
        student, probe = self.student(width=width), self.student(width=width)
        z = torch.randn(points, student.dim, generator=generator(8))
        seen = []
        with torch.no_grad():
            for row in torch.cat([torch.zeros(1, width), torch.eye(width)]):
                probe.net.outward.copy_(row.expand_as(probe.net.outward))
                seen.append(probe(z)[:, :1].double())
        features = torch.cat([feature - seen[0] for feature in seen[1:]] + [torch.ones_like(seen[0])], -1)
        error = self.error(student, with_error(student, 1.0, 500, generator(2)), points)
        rest = error - features @ torch.linalg.lstsq(features, error, driver="gelsd").solution
        assert rest.square().sum() <= tolerance * error.square().sum()
        # The student's own input does not explain it: the features bend.
        x = torch.cat([z.double(), torch.ones_like(seen[0])], -1)
        rest = error - x @ torch.linalg.lstsq(x, error, driver="gelsd").solution
        assert rest.square().sum() > 0.01 * error.square().sum()

    def test_uses_its_generator_alone(self):
        student, source = self.student(), generator(2)
        before = torch.random.get_rng_state()
        first, second = with_error(student, 1.0, 500, generator(2)), with_error(student, 1.0, 500, source)
        third = with_error(student, 1.0, 500, source)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(first.net.outward, second.net.outward)
        a, b = self.error(student, first), self.error(student, third)
        # Another draw is another direction: at 48 weights, a correlation of about 0.15.
        assert abs((a * b).sum() / (a.norm() * b.norm())) < 0.6

    @pytest.mark.parametrize("bad", [-1.0, -1e-9, math.nan])
    def test_a_bad_size_is_named(self, bad):
        with pytest.raises(ValueError, match=f"size must be >= 0 and finite, got {bad}"):
            with_error(self.student(), bad, 500, generator())
