"""A network student's start: signal and error by sampling, optimiser noise and growth against Adam itself."""

import math

import numpy as np
import pytest
import torch

from sandbox.student.initialise import one_step_denoiser
from sandbox.student.optimise import falling
from sandbox.teacher.families import gaussian, random
from sandbox.theory import network_start
from sandbox.theory.adam import late_diffusion
from sandbox.theory.network_start import (
    copying_number,
    expected_displacement,
    growth_steps,
    late_copying_number,
    late_noise,
    optimiser_noise,
    pooled_number,
    signal_to_error,
    squared_rates,
    start_cosine,
    start_signal,
    subspace_cosine,
)


def adam_walk(gradients, lr, steps, betas=(0.9, 0.999)):
    """Sum of Adam's steps for a function t -> gradients of a fixed shape."""
    theta = np.zeros_like(gradients(0))
    m, v = np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, steps + 1):
        g = gradients(t)
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
        theta -= lr * m / (1 - betas[0] ** t) / np.sqrt(v / (1 - betas[1] ** t))
    return theta


class TestSignal:
    @pytest.mark.parametrize("sigma_init", [0.5, 2.5, 80.0])
    @pytest.mark.parametrize("tolerance", [1e-10])
    def test_is_the_spectrum_of_the_exact_start(self, sigma_init, tolerance):
        teacher = gaussian(6, exponent=1.5)
        A, _ = one_step_denoiser(teacher, sigma_init)
        want = torch.linalg.eigvalsh(A).flip(0).numpy()
        np.testing.assert_allclose(start_signal(np.diag(teacher.cov.numpy()), sigma_init), want, rtol=tolerance)

    @pytest.mark.parametrize("tolerance", [0.02])
    def test_is_the_spread_of_a_mixtures_denoiser(self, tolerance):
        """At high noise the exact denoiser of a mixture is linear in sigma z but for O(lambda / sigma)."""
        teacher = random(3, seed=1)
        z = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        lam, Q = torch.linalg.eigh(teacher.cov)
        spread = (teacher.denoise(80 * z, 80.0) @ Q).std(0)
        np.testing.assert_allclose(start_signal(lam.numpy(), 80.0), spread.numpy(), rtol=tolerance)

    @pytest.mark.parametrize(
        ("variance", "sigma", "message"),
        [([1.0, -1.0], 80.0, "variance must be >= 0"), ([1.0], 0.0, r"sigma_init must be > 0, got 0\.0")],
    )
    def test_bad_input(self, variance, sigma, message):
        with pytest.raises(ValueError, match=message):
            start_signal(variance, sigma)


class TestCosine:
    @pytest.mark.parametrize("ratio", [0.0, 0.2, 1.0, 5.0])
    @pytest.mark.parametrize(("draws", "standard_errors"), [(100_000, 4.0)])
    def test_correlation_with_an_independent_error(self, ratio, draws, standard_errors):
        g = np.random.default_rng(int(10 * ratio))
        signal, error = 0.3 * ratio * g.standard_normal(draws), 0.3 * g.standard_normal(draws)
        exact = g.standard_normal(draws) if ratio == 0 else signal
        got = float(start_cosine(signal_to_error(0.3 * ratio, 0.3)))
        assert abs(np.corrcoef(signal + error, exact)[0, 1] - got) <= standard_errors / math.sqrt(draws)

    @pytest.mark.parametrize("weighting", ["start", "teacher"])
    @pytest.mark.parametrize(("draws", "standard_errors"), [(50_000, 4.0)])
    def test_several_modes(self, weighting, draws, standard_errors):
        g = np.random.default_rng(0)
        lam = np.array([4.0, 1.0, 0.3])
        a, e = start_signal(lam, 10.0), np.array([0.1, 0.2, 0.0])
        weight = None if weighting == "start" else lam / a**2
        exact = a * g.standard_normal((draws, 3))
        start = exact + e * g.standard_normal((draws, 3))
        W = np.ones(3) if weight is None else weight
        want = (W * exact * start).sum() / math.sqrt((W * exact**2).sum() * (W * start**2).sum())
        assert abs(subspace_cosine(a, e, weight) - want) <= standard_errors / math.sqrt(draws)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_one_mode(self, tolerance):
        assert subspace_cosine([0.3], [0.4], [7.0]) == pytest.approx(0.6, abs=tolerance)
        assert start_cosine(0.75) == pytest.approx(0.6, abs=tolerance)

    def test_ends(self):
        assert np.isinf(signal_to_error(1.0, 0.0))
        assert np.isnan(signal_to_error(0.0, 0.0))
        assert start_cosine(np.inf) == 1

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"error must be >= 0, got -1\.0"):
            signal_to_error(1.0, -1.0)
        with pytest.raises(ValueError, match=r"one shape \(m,\)"):
            subspace_cosine([1.0, 2.0], [1.0])
        with pytest.raises(ValueError, match="signal must not be 0"):
            subspace_cosine([0.0, 2.0], [1.0, 1.0], [1.0, 0.0])


class TestOptimiser:
    LR = 1e-3

    @pytest.mark.parametrize(("steps", "students", "tolerance"), [(400, 2000, 0.02)])
    @pytest.mark.parametrize("standard_errors", [4.0])
    def test_noise_walks(self, steps, students, tolerance, standard_errors):
        """Parameters of unlike gradients, none of which has a mean: y = <phi, theta>. Momentum holds back the last few
        of the steps."""
        g = np.random.default_rng(0)
        phi, sizes = g.standard_normal(12), np.geomspace(1e-3, 10, 12)
        theta = adam_walk(lambda t: sizes * g.standard_normal((students, 12)), self.LR, steps)
        got = (theta @ phi).std()
        want = optimiser_noise(steps, self.LR, np.linalg.norm(phi))
        assert abs(got - want) <= tolerance * want + standard_errors * want / math.sqrt(2 * students)

    @pytest.mark.parametrize("noise_share", [0.0, 0.5, 0.9])
    @pytest.mark.parametrize(("steps", "students", "tolerance"), [(400, 500, 0.03)])
    @pytest.mark.parametrize("standard_errors", [4.0])
    def test_signal_and_noise_share_the_step(self, noise_share, steps, students, tolerance, standard_errors):
        g = np.random.default_rng(1)
        phi = g.standard_normal(8)
        size = math.sqrt(noise_share / (1 - noise_share))
        theta = adam_walk(lambda t: -np.sign(phi) + size * g.standard_normal((students, 8)), self.LR, steps)
        grown = (theta @ phi).mean()
        spread = (theta @ phi).std()
        want = optimiser_noise(steps, self.LR, np.linalg.norm(phi), noise_share)
        assert growth_steps(grown, self.LR, np.abs(phi).sum(), noise_share) == pytest.approx(steps, rel=tolerance)
        assert abs(spread - want) <= 2 * tolerance * want + standard_errors * want / math.sqrt(2 * students) + 1e-12

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: growth_steps(1.0, 0.0, 1.0), r"lr must be > 0, got 0\.0"),
            (lambda: growth_steps(1.0, 0.1, 0.0), r"gain must be > 0, got 0\.0"),
            (lambda: growth_steps(1.0, 0.1, 1.0, 1.0), r"noise_share must be in \[0, 1\), got 1\.0"),
            (lambda: optimiser_noise(-1, 0.1, 1.0), "steps must be >= 0, got -1"),
            (lambda: optimiser_noise(1, 0.1, 1.0, 1.5), r"noise_share must be in \[0, 1\], got 1\.5"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


ARGUMENTS = {"signal": 0.02, "error": 0.01, "lr": 1e-4, "gain": 30.0, "sensitivity": 2.0, "noise_share": 0.8}


class TestCopyingNumber:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_without_noise_is_the_starts_ratio(self, tolerance):
        got = copying_number(**(ARGUMENTS | {"noise_share": 0.0}))
        assert got == pytest.approx(2.0, rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_without_error_is_speed_times_start_over_diffusion(self, tolerance):
        speed, diffusion = 1e-4 * 30 * math.sqrt(0.2), 1e-8 * 4 * 0.8
        got = copying_number(**(ARGUMENTS | {"error": 0.0}))
        assert got**2 == pytest.approx(0.02 * speed / diffusion, rel=tolerance)

    @pytest.mark.parametrize("scale", [None, 1.0])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_adds_inverse_squares(self, scale, tolerance):
        parts = [{"noise_share": 0.0}, {"error": 0.0}]
        alone = [copying_number(**(ARGUMENTS | part), scale=scale) for part in parts]
        both = copying_number(**ARGUMENTS, scale=scale)
        assert both**-2 == pytest.approx(alone[0] ** -2 + alone[1] ** -2, rel=tolerance)

    @pytest.mark.parametrize("xi", [3.0, 10.0, 30.0])
    @pytest.mark.parametrize(("paths", "tolerance", "standard_errors"), [(150, 0.06, 3.0)])
    def test_counts_the_noise_that_turns_a_growing_mode(self, xi, paths, tolerance, standard_errors):
        """A vector that grows along itself at speed v, dy = v y/|y| dt, with noise of variance D a step spread over all
        other directions: in many dimensions it loses 1 / (1 + 2 X^2) of the cosine with its start, whatever it grows
        to."""
        g, m, a = np.random.default_rng(0), 40, 0.1
        lr, gain, share = 1e-4, 10.0, 0.5
        speed = lr * gain * math.sqrt(1 - share)
        sensitivity = math.sqrt(a * speed / xi / (lr**2 * share))
        X = copying_number(a, 0.0, lr, gain, sensitivity, share)
        y = np.zeros((paths, m))
        y[:, 0] = a
        for _ in range(int(40 * a / speed)):
            y += speed * y / np.linalg.norm(y, axis=1, keepdims=True)
            y += lr * sensitivity * math.sqrt(share / (m - 1)) * g.standard_normal(y.shape)
        lost = 1 - y[:, 0] / np.linalg.norm(y, axis=1)
        error = lost.std() / math.sqrt(paths)
        assert abs(lost.mean() - 1 / (1 + 2 * X**2)) <= tolerance / (2 * X**2) + standard_errors * error

    def test_modes_are_broadcast(self):
        got = copying_number(**(ARGUMENTS | {"signal": np.array([0.01, 0.02, 0.04])}))
        assert got.shape == (3,)
        assert (np.diff(got) > 0).all()

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"signal must be > 0, got 0\.0"):
            copying_number(**(ARGUMENTS | {"signal": 0.0}))


@pytest.mark.parametrize("tolerance", [0.02])
@pytest.mark.parametrize("cosine", [1.0, 0.4, -0.7])
@pytest.mark.parametrize(("gain", "noise", "eta"), [(20.0, 1.0, 0.9), (5.0, 2.0, 0.99)])
def test_the_kept_cosine_is_the_one_of_noise_added_at_constant_speed(cosine, gain, noise, eta, tolerance):
    """A start that grows at v along its own direction while noise diffuses around it, summed by hand: each step's noise
    counts by its share of what the start has become. To leading order in D / (v a)."""
    size, lr = 1.0, 1e-3
    v, D = lr * gain * np.sqrt(1 - eta), lr**2 * noise**2 * eta
    t = np.arange(1, 2_000_000)
    angle2 = (D / (size + v * t) ** 2).sum()
    expected = cosine * np.exp(-angle2 / 2)
    kept = network_start.kept_cosine(cosine, size, lr, gain, noise, eta)
    assert kept == pytest.approx(expected, abs=tolerance)


def test_a_quiet_optimiser_keeps_the_angle_and_bad_angles_are_named():
    assert network_start.kept_cosine(-0.3, 1.0, 1e-12, 1.0, 1.0, 0.5) == pytest.approx(-0.3, abs=1e-9)
    with pytest.raises(ValueError, match=r"cosine must be in \[-1, 1\], got 1.2"):
        network_start.kept_cosine(1.2, 1.0, 1e-3, 1.0, 1.0, 0.5)


class TestLateDrift:
    @pytest.mark.parametrize(("steps", "decay"), [(1000, 0.0), (1000, 0.5), (3000, 1.0)])
    @pytest.mark.parametrize("tolerance", [2e-3])
    def test_squared_rates_are_those_of_the_schedule(self, steps, decay, tolerance):
        summed = sum(falling(t, steps, decay) ** 2 for t in range(steps))
        assert squared_rates(steps, decay) == pytest.approx(summed, rel=tolerance)

    @pytest.mark.parametrize("dim", [2, 3, 8])
    @pytest.mark.parametrize("decay", [0.0, 0.5])
    @pytest.mark.parametrize(("students", "tolerance", "standard_errors"), [(300, 0.1, 3.0)])
    def test_is_what_random_steps_turn_a_map_whose_law_is_kept(self, dim, decay, students, tolerance, standard_errors):
        """Linear maps at the optimum, entries moved by lr at random; after each step the law is put right along the
        shortest way, by the polar factor. To leading order in the displacement, here .05; g_2 of A z is |z|."""
        g, lam, steps = np.random.default_rng(dim), 2.0, 200
        squared = squared_rates(steps, decay)
        want = 0.05
        lr = math.sqrt(4 * lam * want / ((dim - 1) * squared))
        A = np.broadcast_to(math.sqrt(lam) * np.eye(dim), (students, dim, dim))
        for t in range(steps):
            A = A + lr * falling(t, steps, decay) * g.choice([-1.0, 1.0], A.shape)
            U, _, V = np.linalg.svd(A)
            A = math.sqrt(lam) * U @ V
        lost = 1 - np.trace(A, axis1=1, axis2=2) / (dim * math.sqrt(lam))
        late = late_noise(lam, lr, math.sqrt(dim), squared, dim)
        expected = expected_displacement(late_copying_number(np.inf, late))
        assert late / 2 == pytest.approx(want, rel=1e-12)
        assert abs(lost.mean() - expected) <= tolerance * want + standard_errors * lost.std() / math.sqrt(students)

    @pytest.mark.parametrize("dim", [2, 5, 32])
    @pytest.mark.parametrize("tolerance", [0.01])
    def test_a_linear_student_whose_steps_all_turn(self, dim, tolerance):
        """The leading order of Adam's late diffusion of a linear student, of which every step turns."""
        late = late_noise(3.0, 1e-4, math.sqrt(dim), 5000, dim)
        assert late / 2 == pytest.approx(late_diffusion(dim, 3.0, 1e-4, 5000, share=1.0), rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_has_no_unit(self, tolerance):
        late = late_noise(2.0, 1e-3, 5.0, 1000, 4)
        # The data's unit, and the parameters'.
        assert late_noise(2.0 * 9, 1e-3, 5.0 * 3, 1000, 4) == pytest.approx(late, rel=tolerance)
        assert late_noise(2.0, 1e-3 * 7, 5.0 / 7, 1000, 4) == pytest.approx(late, rel=tolerance)

    def test_limits(self):
        assert late_noise(2.0, 1e-3, 5.0, 1000, 1) == 0
        assert late_noise(2.0, 1e-3, 5.0, 0, 4) == 0
        assert late_copying_number(3.0, 0.0) == pytest.approx(3.0, rel=1e-12)
        assert late_copying_number(3.0, 1e12) == pytest.approx(1e-6, rel=1e-6)
        assert late_copying_number(np.inf, 0.25) == pytest.approx(2.0, rel=1e-12)
        assert late_copying_number(0.0, 0.25) == 0

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: squared_rates(-1), "steps must be >= 0, got -1"),
            (lambda: squared_rates(1, 1.5), r"decay must be in \[0, 1\], got 1.5"),
            (lambda: late_noise(0.0, 1.0, 1.0, 1, 2), r"variance must be > 0, got 0\.0"),
            (lambda: late_noise(1.0, 1.0, 1.0, 1, 0), "dim must be >= 1, got 0"),
            (lambda: late_copying_number(1.0, -1.0), r"late must be >= 0, got -1\.0"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()


class TestPooledNumber:
    @pytest.mark.parametrize("number", [0.0, 0.3, 1.0, 20.0])
    @pytest.mark.parametrize("tolerance", [1e-9])
    def test_of_like_modes_is_theirs(self, number, tolerance):
        assert pooled_number([number, number], [3.0, 1.0]) == pytest.approx(number, rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_has_the_mean_of_the_modes_displacements(self, tolerance):
        X, W = np.array([0.1, 1.0, 7.0]), np.array([1.0, 2.0, 5.0])
        got = expected_displacement(pooled_number(X, W))
        assert got == pytest.approx(np.average(expected_displacement(X), weights=W), rel=tolerance)

    def test_ends_and_bad_input(self):
        assert pooled_number([np.inf], [1.0]) > 1e12
        with pytest.raises(ValueError, match=r"one shape \(m,\)"):
            pooled_number([1.0, 2.0], [1.0])
        with pytest.raises(ValueError, match="weight must not be 0"):
            pooled_number([1.0], [0.0])
