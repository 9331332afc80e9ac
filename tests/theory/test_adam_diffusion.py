"""Adam from the start: draws against sampled minibatches, paths against torch's Adam on students, and two limits."""

import math

import pytest
import torch

from sandbox.measure.gauge import polar_displacement
from sandbox.student.initialise import haar_rotation
from sandbox.student.losses import dmd_direction
from sandbox.student.optimise import Adam
from sandbox.teacher.schedule import LogUniform
from sandbox.theory import adam
from sandbox.theory.adam_diffusion import adam_displacement, evolve, minibatch_gradient
from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.matrix_sde import teacher_start


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def sampled_gradient(problem, A, batch, generator, antithetic=False):
    """The mean gradient of a sampled minibatch for each student, (*E, d, d)."""
    lam, draws = problem.variance, batch // 2 if antithetic else batch
    z, eps = torch.randn(2, *A.shape[:-2], draws, A.shape[-1], generator=generator, dtype=A.dtype)
    sigma = LogUniform().draw(torch.rand(*A.shape[:-2], draws, 1, generator=generator, dtype=A.dtype))
    if antithetic:
        z, eps, sigma = torch.cat([z, z], -2), torch.cat([eps, -eps], -2), torch.cat([sigma, sigma], -2)
    x = z @ A.mT
    noised = x + sigma * eps
    c, Q = torch.linalg.eigh(A @ A.mT)
    fake = (noised @ Q * (c[..., None, :] / (c[..., None, :] + sigma**2))) @ Q.mT
    return dmd_direction(x, lam / (lam + sigma**2) * noised, fake, problem.normaliser).mT @ z / batch


def trained(problem, lr, batch, steps, students, antithetic=False):
    """Mean and standard error of rho_g of students that torch.optim.Adam trains on sampled minibatches."""
    A = teacher_start(problem, students).requires_grad_()
    optimiser, generator = torch.optim.Adam([A], lr=lr), source(7)
    for _ in range(steps):
        A.grad = sampled_gradient(problem, A.detach(), batch, generator, antithetic)
        optimiser.step()
    rho = polar_displacement(A.detach())
    return rho.mean().item(), rho.std().item() / math.sqrt(students)


class TestGradient:
    # With the per-sample normaliser the moments know the mean variance only: the tolerance, a share of the mean entry,
    # is that of this approximation.
    @pytest.mark.parametrize(
        ("normaliser", "dim", "antithetic", "tolerance"),
        [("off", 4, False, 0.0), ("off", 4, True, 0.0), ("per-sample", 8, False, 0.03)],
    )
    @pytest.mark.parametrize(("draws", "batch", "standard_errors"), [(8000, 16, 5.0)])
    def test_has_the_moments_of_a_minibatch(
        self, normaliser, dim, antithetic, tolerance, draws, batch, standard_errors
    ):
        """Mean, variances and the covariance within each pair, at unequal singular values, in their frames."""
        U, V = haar_rotation(dim, source(1)), haar_rotation(dim, source(2))
        s = 0.2 * 3 ** torch.linspace(1, -1, dim, dtype=torch.float64)
        problem, A = Flat(dim, normaliser=normaliser), ((U * s) @ V.T).expand(draws, dim, dim)
        ours = U.T @ minibatch_gradient(problem, A, batch, source(3), antithetic) @ V
        want = U.T @ sampled_gradient(problem, A, batch, source(4), antithetic) @ V
        off_diagonal = ~torch.eye(dim, dtype=torch.bool)
        centred = [g - g.mean(0) for g in (ours, want)]
        for a, b, chosen in (
            (ours, want, ...),
            (centred[0] ** 2, centred[1] ** 2, ...),
            (centred[0] * centred[0].mT, centred[1] * centred[1].mT, off_diagonal),
        ):
            error = ((a.var(0) + b.var(0)) / draws).sqrt()
            apart, size = (a.mean(0) - b.mean(0)).abs(), b.mean(0).diagonal().abs().mean()
            assert (apart <= standard_errors * error + tolerance * size)[chosen].all()
            assert error.mean() < 0.1 * size

    @pytest.mark.parametrize("normaliser", ["per-sample", "batch", "off"])
    # rounding: the two entries of a pair are one number through the arcsine of a correlation of 1
    @pytest.mark.parametrize("tolerance", [1e-7])
    def test_antithetic_noise_does_not_turn_equal_singular_values(self, normaliser, tolerance):
        A = 0.3 * haar_rotation(6, source(5)).expand(8, 6, 6)
        turning = A.mT @ minibatch_gradient(Flat(6, normaliser=normaliser), A, 16, source(), antithetic=True)
        assert (turning - turning.mT).abs().max() < tolerance * turning.abs().max()


class TestDisplacement:
    @pytest.mark.parametrize(
        ("normaliser", "dim", "batch", "antithetic"),
        [
            ("off", 4, 16, False),
            ("off", 4, 256, False),
            ("per-sample", 6, 32, False),
            ("per-sample", 6, 512, False),
            ("per-sample", 6, 64, True),
        ],
    )
    @pytest.mark.parametrize(("lr", "steps", "students"), [(4e-3, 250, 32)])
    @pytest.mark.parametrize(("tolerance", "standard_errors"), [(0.1, 3.0)])
    def test_students(self, normaliser, dim, batch, antithetic, lr, steps, students, tolerance, standard_errors):
        problem = Flat(dim, normaliser=normaliser)
        measured, error = trained(problem, lr, batch, steps, students, antithetic)
        mean, own = adam_displacement(problem, Adam(lr), batch, steps, 2 * students, source(), antithetic)
        spread = math.hypot(error, own)
        assert spread < 0.15 * measured
        assert abs(mean - measured) <= tolerance * measured + standard_errors * spread

    @pytest.mark.parametrize(("dim", "lr", "batch", "paths"), [(8, 5e-3, 1e5, 24), (16, 5e-3, 1e5, 12)])
    @pytest.mark.parametrize(("tolerance", "standard_errors"), [(0.05, 3.0)])
    def test_a_large_batch_is_sign_descent(self, dim, lr, batch, paths, tolerance, standard_errors):
        """`adam.sign_descent` is for signs that stay: while the student grows, and steps of lr beyond its start."""
        mean, error = adam_displacement(Flat(dim), Adam(lr), batch, 100, paths, source())
        want = adam.sign_descent(dim)
        assert abs(mean - want) <= tolerance * want + standard_errors * error

    @pytest.mark.parametrize(
        ("dim", "batch", "lr", "steps", "paths", "normaliser"),
        [(16, 64, 0.005, 600, 8, "per-sample"), (8, 32, 0.005, 600, 24, "off")],
    )
    @pytest.mark.parametrize(("tolerance", "standard_errors"), [(0.15, 3.0)])
    def test_late_diffusion(self, dim, batch, lr, steps, paths, normaliser, tolerance, standard_errors):
        """From the optimum, once v has forgotten the first steps: the closed form of `adam.late_diffusion`."""
        problem, generator, optimiser = Flat(dim, normaliser=normaliser), source(dim), Adam(lr)
        A = torch.eye(dim, dtype=torch.float64).repeat(paths, 1, 1)
        # the gradient of an exact optimum is 0/0 to Adam
        A = A + lr * torch.randn(A.shape, generator=generator, dtype=A.dtype)
        settled, state = evolve(problem, A, optimiser, batch, 1000, generator)
        later, _ = evolve(problem, settled, optimiser, batch, steps, generator, state=state)
        rho = polar_displacement(later, settled)
        error = rho.std().item() / math.sqrt(paths)
        share = adam.turning_share(dim, 1.0, batch, LogUniform(), normaliser)
        want = adam.late_diffusion(dim, 1.0, lr, steps, share)
        assert error < 0.15 * want
        assert abs(rho.mean().item() - want) <= tolerance * want + standard_errors * error

    @pytest.mark.parametrize("standard_errors", [3.0])
    def test_beyond_a_minimum_it_grows_with_the_batch(self, standard_errors):
        small, large = (adam_displacement(Flat(8), Adam(2e-3), batch, 500, 24, source()) for batch in (32, 1024))
        assert large[0] - small[0] > standard_errors * math.hypot(small[1], large[1])


class TestState:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_two_walks_are_one(self, tolerance):
        problem, optimiser, generator = Flat(3, normaliser="off"), Adam(1e-3), source()
        A, state = evolve(problem, teacher_start(problem, 2), optimiser, 8, 5, generator)
        A, _ = evolve(problem, A, optimiser, 8, 7, generator, state=state)
        once, _ = evolve(problem, teacher_start(problem, 2), optimiser, 8, 12, source())
        torch.testing.assert_close(A, once, rtol=tolerance, atol=0)


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"batch": 0}, "batch must be >= 1, got 0"),
            ({"batch": 1, "antithetic": True}, "batch must be >= 2, got 1"),
            ({"steps": -1}, "steps must be >= 0, got -1"),
            ({"paths": 1}, "paths must be >= 2, got 1"),
        ],
    )
    def test_is_named(self, change, message):
        arguments = {"optimiser": Adam(1e-3), "batch": 8, "steps": 2, "paths": 2, "generator": source()} | change
        with pytest.raises(ValueError, match=message):
            adam_displacement(Flat(4), **arguments)

    def test_infinite_variance(self):
        with pytest.raises(HypothesisError, match="infinite at d <= 2"):
            adam_displacement(Flat(2), Adam(1e-3), 8, 2, 2, source())
