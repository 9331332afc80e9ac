"""Adam on a linear student: against Adam itself, at the optimum, at small batches and in the limit of large ones."""

import math
from functools import cache

import numpy as np
import pytest
import scipy.linalg
import torch

from sandbox.student.losses import dmd_direction
from sandbox.teacher.schedule import LogUniform
from sandbox.theory import adam
from sandbox.theory.adam import descent_rate, late_diffusion, sign_descent, turning_share
from sandbox.theory.hypotheses import HypothesisError


@cache
def settle(dim, variance, batch, lr, steps, seeds, normaliser, betas=(0.9, 0.999), forget=1000):
    """rho_g between step 0 and `steps` of Adam at A = sqrt(lambda) I with the exact fake score, and its standard error.

    `forget` steps come first, in which v loses the memory of the first, full-sized steps."""
    g = torch.Generator().manual_seed(dim + batch)
    A = math.sqrt(variance) * torch.eye(dim).repeat(seeds, 1, 1)
    A = A + lr * torch.randn(A.shape, generator=g)  # the gradient of an exact optimum is 0/0 to Adam
    m, v = torch.zeros_like(A), torch.zeros_like(A)
    turns = []
    for t in range(1, forget + steps + 1):
        z, eps = torch.randn(2, seeds, batch, dim, generator=g)
        sigma = LogUniform().draw(torch.rand(seeds, batch, 1, generator=g))
        x = z @ A.mT
        y = x + sigma * eps
        c, Q = torch.linalg.eigh(A @ A.mT)
        fake = (y @ Q * (c[:, None] / (c[:, None] + sigma**2))) @ Q.mT
        gradient = dmd_direction(x, variance / (variance + sigma**2) * y, fake, normaliser).mT @ z / batch
        m, v = betas[0] * m + (1 - betas[0]) * gradient, betas[1] * v + (1 - betas[1]) * gradient**2
        A = A - lr * m / (1 - betas[0] ** t) / (v / (1 - betas[1] ** t)).sqrt()
        if t in (forget, forget + steps):
            U, _, Vh = torch.linalg.svd(A)
            turns.append(U @ Vh)
    rho = 1 - torch.diagonal(turns[1] @ turns[0].mT, dim1=-2, dim2=-1).mean(-1)
    return rho.mean().item(), rho.std().item() / math.sqrt(seeds)


class TestLateDiffusion:
    @pytest.mark.parametrize(("dim", "batch", "lr", "steps", "seeds"), [(16, 64, 0.005, 1500, 8)])
    @pytest.mark.parametrize("tolerance", [adam.ACCURACY])
    def test_the_scaling_prediction(self, dim, batch, lr, steps, seeds, tolerance):
        rho, error = settle(dim, 1.0, batch, lr, steps, seeds, "per-sample")
        assert "late_diffusion" in adam.SCALING_PREDICTIONS
        assert error < 0.1 * rho
        assert late_diffusion(dim, 1.0, lr, steps) == pytest.approx(rho, rel=tolerance)

    @pytest.mark.parametrize(
        ("dim", "variance", "batch", "lr", "steps", "seeds", "normaliser"),
        [
            (16, 1.0, 64, 0.005, 1500, 8, "per-sample"),
            (16, 1.0, 256, 0.01, 1000, 3, "per-sample"),
            (16, 1.0, 16, 0.005, 1500, 4, "per-sample"),
            (5, 1.0, 64, 0.005, 1500, 24, "per-sample"),
            (8, 9.0, 32, 0.015, 1500, 10, "off"),
            (16, 1.0, 256, 0.005, 1500, 3, "off"),
        ],
    )
    @pytest.mark.parametrize(("tolerance", "standard_errors"), [(0.15, 3.0)])
    def test_with_the_share_that_turns(
        self, dim, variance, batch, lr, steps, seeds, normaliser, tolerance, standard_errors
    ):
        rho, error = settle(dim, variance, batch, lr, steps, seeds, normaliser)
        share = turning_share(dim, variance, batch, LogUniform(), normaliser)
        want = late_diffusion(dim, variance, lr, steps, share)
        assert error < 0.15 * rho
        assert abs(rho - want) <= tolerance * want + standard_errors * error

    @pytest.mark.parametrize("standard_errors", [4.0])
    def test_a_large_batch_turns_less_than_the_default_share(self, standard_errors):
        rho, error = settle(16, 1.0, 256, 0.01, 1000, 3, "per-sample")
        default = late_diffusion(16, 1.0, 0.01, 1000)
        assert (1 - adam.ACCURACY) * default - rho > standard_errors * error

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_the_default_is_one_in_eight(self, tolerance):
        want = 1 - math.exp(-15 * 0.01**2 * 2000 / 8 / 4.0)
        assert late_diffusion(16, 4.0, 0.01, 2000) == pytest.approx(want, rel=tolerance)
        assert late_diffusion(1, 4.0, 0.01, 2000) == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dim": 0}, "dim must be >= 1, got 0"),
            ({"variance": 0.0}, r"variance must be > 0, got 0\.0"),
            ({"lr": -1.0}, r"lr must be > 0, got -1\.0"),
            ({"steps": -1}, "steps must be >= 0, got -1"),
            ({"share": 1.5}, r"share must be in \[0, 1\], got 1\.5"),
        ],
    )
    def test_bad_input(self, change, message):
        with pytest.raises(ValueError, match=message):
            late_diffusion(**({"dim": 4, "variance": 1.0, "lr": 0.1, "steps": 10} | change))


class TestTurningShare:
    # M^2 / V = c B / (d + 1) with c = 2 / L and 1 / L for levels far to both sides of sqrt(lambda)
    @pytest.mark.parametrize(("normaliser", "size"), [("per-sample", 2.0), ("batch", 1.0), ("off", 1.0)])
    @pytest.mark.parametrize("variance", [1.0, 4.0])
    @pytest.mark.parametrize("tolerance", [2e-3])
    def test_closed_form_of_a_wide_range(self, variance, normaliser, size, tolerance):
        law = LogUniform(1e-4, 1e4)
        share = turning_share(1000, variance, 4096, law, normaliser)
        want = size / law.log_range * 4096 / 1001
        # at d = 1000 the per-sample normaliser's averages have self-averaged to O(1/d)
        assert 1 / share - 1 == pytest.approx(want, rel=tolerance)

    def test_falls_with_the_batch_and_grows_with_the_dimension(self):
        by_batch = [turning_share(16, 1.0, b, LogUniform(), "per-sample") for b in (1, 16, 256, 4096)]
        by_dim = [turning_share(d, 1.0, 64, LogUniform(), "per-sample") for d in (3, 8, 64, 512)]
        assert by_batch == sorted(by_batch, reverse=True)
        assert by_dim == sorted(by_dim)
        assert by_batch[0] > 0.95
        assert by_batch[-1] < 0.05

    def test_outside_the_hypotheses(self):
        with pytest.raises(HypothesisError, match="gauge to turn"):
            turning_share(1, 1.0, 64, LogUniform(), "off")
        with pytest.raises(HypothesisError, match="d > 2"):
            turning_share(2, 1.0, 64, LogUniform(), "per-sample")
        with pytest.raises(ValueError, match="batch must be >= 1, got 0"):
            turning_share(4, 1.0, 0, LogUniform(), "off")


class TestSignDescent:
    # finite size: the semicircle law's corrections are O(1/d)
    @pytest.mark.parametrize(("dim", "draws", "tolerance"), [(8, 200, 0.02), (16, 100, 0.01), (64, 10, 0.005)])
    @pytest.mark.parametrize("standard_errors", [3.0])
    def test_is_the_polar_factor_of_random_signs(self, dim, draws, tolerance, standard_errors):
        rng = np.random.default_rng(dim)
        rho = []
        for _ in range(draws):
            A = rng.choice([-1.0, 1.0], (dim, dim))
            np.fill_diagonal(A, 1.0)
            rho.append(1 - np.trace(scipy.linalg.polar(A)[0]) / dim)
        error = np.std(rho) / math.sqrt(draws)
        assert abs(np.mean(rho) - sign_descent(dim)) <= tolerance + standard_errors * error

    # measured of Adam at batches of 4096 and 2048, mean and standard error .750 +- .014 and, one student, .825
    @pytest.mark.parametrize(("dim", "measured"), [(8, 0.750), (32, 0.825)])
    @pytest.mark.parametrize("tolerance", [0.1])
    def test_measured_students(self, dim, measured, tolerance):
        assert "sign_descent" in adam.SCALING_PREDICTIONS
        assert sign_descent(dim) == pytest.approx(measured, rel=tolerance)

    def test_needs_off_diagonal_entries(self):
        with pytest.raises(HypothesisError, match="d >= 2, got 1"):
            sign_descent(1)


class TestDescentRate:
    @pytest.mark.parametrize(("batch", "steps", "tolerance"), [(4, 2000, 0.02), (64, 2000, 0.02)])
    def test_adam_on_a_noisy_slope(self, batch, steps, tolerance):
        """A slope f with noise of variance n / B: where n / B >> f^2 the parameter moves as under descent."""
        lr, noise, slope = 1e-3, 9.0, 0.02
        rng = np.random.default_rng(batch)
        theta, m, v = np.zeros(2000), np.zeros(2000), np.zeros(2000)
        for t in range(1, steps + 1):
            gradient = slope + math.sqrt(noise / batch) * rng.standard_normal(theta.shape)
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            theta -= lr * m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.999**t))
        want = -descent_rate(lr, noise, batch) * slope * steps
        error = theta.std() / math.sqrt(len(theta))
        assert abs(theta.mean() - want) <= tolerance * abs(want) + 3 * error
        assert error < 0.2 * abs(want)

    @pytest.mark.parametrize("name", ["lr", "noise", "batch"])
    def test_bad_input(self, name):
        with pytest.raises(ValueError, match=rf"{name} must be > 0, got 0\.0"):
            descent_rate(**({"lr": 0.1, "noise": 1.0, "batch": 4} | {name: 0.0}))
