"""The copying number and its scaling functions: against the universal process, random matrices, and exact cases."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.integrate import simpson, solve_ivp
from scipy.special import erfc

from sandbox.measure.gauge import polar_factor
from sandbox.teacher.schedule import LogUniform
from sandbox.theory.copying import (
    constant_speed,
    copying_number,
    critical_dimension,
    displacement,
    exponential_growth,
    finite_step_number,
    free_polar,
    pair_displacement,
    settling_time,
)
from sandbox.theory.flat import Flat
from sandbox.theory.universal import half_copying_point, interpolation_constant, universal_displacement


class TestConstantSpeed:
    # Stated errors of the interpolation; the simulation's own standard error comes on top.
    @pytest.mark.parametrize("standard_errors", [3.0])
    @pytest.mark.parametrize("xi", [0.1, 0.2, 0.33, 1.0, 3.0])
    @pytest.mark.parametrize(
        ("dim", "paths", "tolerance"),
        [
            (2, 2000, 0.035),
            (3, 1500, 0.035),
            (4, 800, 0.025),
            (8, 300, 0.02),
        ],
    )
    def test_interpolates_the_universal_process(self, dim, paths, tolerance, xi, standard_errors):
        generator = torch.Generator().manual_seed(int(100 * xi) + dim)
        mean, error = universal_displacement(dim, xi, paths, generator, step=0.04, horizon=100.0)
        assert error < 0.015
        assert abs(mean - constant_speed(dim, xi)) <= tolerance + standard_errors * error

    @pytest.mark.parametrize(("xi", "paths", "standard_errors"), [(0.2, 4000, 4.0), (0.5, 4000, 4.0), (1.0, 4000, 4.0)])
    def test_the_process_on_a_line_is_exact(self, xi, paths, standard_errors):
        mean, error = universal_displacement(1, xi, paths, torch.Generator().manual_seed(1), step=0.005, horizon=20.0)
        assert abs(mean - math.exp(-2 * xi)) <= standard_errors * error

    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-12), (2, 1e-4), (3, 1e-4), (8, 1e-4), (512, 1e-4)])
    @pytest.mark.parametrize("xi", [1e-3])
    def test_small_copying_number(self, dim, tolerance, xi):
        """1 - 2 Xi, and O(Xi^2) after it."""
        assert constant_speed(dim, xi) == pytest.approx(1 - 2 * xi if dim > 1 else math.exp(-2 * xi), abs=tolerance)

    @pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-3), (3, 1e-3), (8, 1e-3), (512, 1e-3)])
    @pytest.mark.parametrize("xi", [1e4])
    def test_large_copying_number(self, dim, tolerance, xi):
        assert 4 * xi * constant_speed(dim, xi) == pytest.approx(1 - 1 / dim, abs=tolerance)

    @pytest.mark.parametrize("dim", [1, 2, 3, 3.5, 8, 512])
    def test_falls_from_one_to_zero(self, dim):
        values = constant_speed(dim, np.concatenate([[0.0], np.geomspace(1e-3, 300, 50), [np.inf]]))
        assert values[0] == 1
        assert values[-1] == 0
        assert (np.diff(values) < 0).all()

    @pytest.mark.parametrize(
        ("dim", "tolerance"), [(2, 0.04), (3, 0.04), (4, 0.04), (8, 0.02), (32, 0.01), (512, 0.01)]
    )
    def test_half_copying_point(self, dim, tolerance):
        """.33 in every dimension; low ones miss it by the interpolation's error over its slope there."""
        assert half_copying_point(dim) == pytest.approx(0.33, abs=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-3])
    def test_half_copying_point_of_a_line(self, tolerance):
        assert half_copying_point(1) == pytest.approx(math.log(2) / 2, abs=tolerance)

    @pytest.mark.parametrize(("dim", "planted", "tolerance"), [(2, 0.9, 1e-3), (3, 1.3, 1e-3), (16, 1.9, 1e-3)])
    def test_the_constant_is_recovered(self, dim, planted, tolerance):
        xi = np.array([0.1, 0.3, 0.5, 1.0, 3.0])
        values = 1 / (1 + 2 * xi + (4 * dim / (dim - 1) - 2) * xi * (1 - np.exp(-planted * xi)))
        assert interpolation_constant(dim, xi, values) == pytest.approx(planted, abs=tolerance)

    @pytest.mark.parametrize(("dim", "paths", "xi"), [(0, 10, 1.0), (2, 1, 1.0), (2, 10, 0.0)])
    def test_bad_input_of_the_process(self, dim, paths, xi):
        with pytest.raises(ValueError, match=rf"needed, got {dim}, {paths}, {xi}"):
            universal_displacement(dim, xi, paths, torch.Generator())


class TestExponentialGrowth:
    @pytest.mark.parametrize(("x", "tolerance"), [(0.3, 0.012), (0.7, 0.012), (1.0, 0.012), (1.5, 0.012), (3.0, 0.012)])
    @pytest.mark.parametrize("dim", [200])
    def test_is_the_polar_factor_of_a_random_matrix(self, x, tolerance, dim):
        rng = np.random.default_rng(int(10 * x))
        traces = []
        for _ in range(2):
            G = rng.standard_normal((dim, dim)) / math.sqrt(dim)
            traces.append(np.trace(scipy.linalg.polar(x * np.eye(dim) + G)[0]) / dim)
        assert free_polar(x) == pytest.approx(np.mean(traces), abs=tolerance)

    @pytest.mark.parametrize(("x", "tolerance"), [(1.0, 1e-5), (1.2, 1e-5), (2.0, 1e-5), (5.0, 1e-5), (20.0, 1e-5)])
    def test_closed_form_above_one(self, x, tolerance):
        assert free_polar(x) == pytest.approx(1 - 1 / (4 * x**2), abs=tolerance)

    @pytest.mark.parametrize(("x", "tolerance"), [(1e-3, 1e-2), (1e-2, 1e-2)])
    def test_linear_at_zero(self, x, tolerance):
        assert free_polar(x) == pytest.approx(8 / (3 * math.pi) * x, rel=tolerance)

    def test_nothing_is_kept_of_no_signal(self):
        assert free_polar(0.0) == 0
        assert exponential_growth(64, 0.0) == 1
        assert exponential_growth(64, np.inf) == 0

    @pytest.mark.parametrize(("xi", "tolerance"), [(0.0, 1e-12), (0.05, 1e-12), (0.5, 1e-12), (4.0, 1e-12)])
    def test_on_a_line(self, xi, tolerance):
        """A(t) grows as e^(gamma t) (sqrt(Xi) + G): it ends on the wrong side with P(G < -sqrt(Xi)), half of erfc."""
        assert exponential_growth(1, xi) == pytest.approx(erfc(math.sqrt(xi / 2)), abs=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_is_a_function_of_the_square_root(self, tolerance):
        got = exponential_growth(64, np.array([0.25, 4.0]))
        np.testing.assert_allclose(got, [1 - free_polar(0.5), 1 / 16], rtol=0, atol=tolerance)


NORMALISERS = ["per-sample", "batch", "off"]


class TestCopyingNumber:
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_depends_on_learning_rate_over_batch_alone(self, normaliser, tolerance):
        problem = Flat(8, normaliser=normaliser)
        first = copying_number(problem, 0.02, 64)
        assert copying_number(problem, 0.08, 256) == pytest.approx(first, rel=tolerance)
        assert copying_number(problem, 0.01, 64) == pytest.approx(2 * first, rel=tolerance)

    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_by_another_quadrature(self, normaliser, tolerance):
        """Simpson's rule in a itself; n / f vanishes with the gap at the end, where it cannot be evaluated."""
        problem = Flat(8, normaliser=normaliser)
        a = problem.start + (problem.end - problem.start) * np.linspace(0, 1, 4001) ** 3
        values = np.zeros_like(a)
        values[:-1] = problem.noise(a[:-1]) / (a[:-1] ** 2 * problem.drift(a[:-1]))
        total = simpson(values, x=a)
        assert copying_number(problem, 0.02, 64) == pytest.approx(64 / (0.02 * 8 * total), rel=tolerance)

    @pytest.mark.parametrize("tolerance", [0.03])
    def test_closed_form_of_a_wide_range(self, tolerance):
        """sqrt(pi/2) a0 B / (lr d (ln(lambda/a0^2) - 2.6)) for smin << a0 << sqrt(lambda)."""
        # so many dimensions that the normaliser has self-averaged
        problem = Flat(1e6, law=LogUniform(1e-4, 80.0))
        a0 = problem.start
        want = math.sqrt(math.pi / 2) * a0 * 64 / (0.02 * 1e6 * (math.log(1 / a0**2) - 2.632))
        assert copying_number(problem, 0.02, 64) == pytest.approx(want, rel=tolerance)

    def test_antithetic_noise_has_no_gauge_noise(self):
        assert math.isinf(copying_number(Flat(8), 0.02, 64, antithetic=True))
        assert displacement(Flat(8), 0.02, 64, antithetic=True) == 0
        assert displacement(Flat(8, normaliser="off"), 0.02, 64, antithetic=True) == 0

    def test_a_larger_dimension_copies_less(self):
        values = [displacement(Flat(d), 0.02, 64) for d in (2, 4, 8, 32, 128)]
        assert values == sorted(values)
        assert values[0] < 0.1
        assert values[-1] > 0.8

    def test_the_class_is_that_of_the_weighting(self):
        for normaliser, scaling in (("per-sample", constant_speed), ("batch", exponential_growth)):
            problem = Flat(8, normaliser=normaliser)
            want = scaling(8, copying_number(problem, 0.02, 64))
            assert displacement(problem, 0.02, 64) == pytest.approx(float(want), rel=1e-12)

    # once measured without a fitted constant at d = 8, 32, 16 by an independent implementation: mean and standard error
    @pytest.mark.parametrize(
        ("dim", "batch", "measured", "tolerance"),
        [(8, 64, 0.289, 0.04), (32, 64, 0.636, 0.04), (16, 1024, 0.0323, 0.04)],
    )
    def test_measured_values_without_a_normaliser(self, dim, batch, measured, tolerance):
        assert displacement(Flat(dim, normaliser="off"), 0.02, batch) == pytest.approx(measured, abs=tolerance)

    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("tolerance", [1e-3])
    def test_settling_time(self, normaliser, tolerance):
        """Against the equation of motion."""
        problem = Flat(8, normaliser=normaliser)
        time = settling_time(problem, share=0.9, margin=1.0)
        a = np.geomspace(problem.start, problem.end, 4000)
        f = problem.drift(a)
        path = solve_ivp(lambda _, now: np.interp(now, a, f), (0, time), [problem.start], rtol=1e-8, atol=1e-10)
        assert path.y[0, -1] == pytest.approx(0.9 * problem.end, rel=tolerance)
        assert settling_time(problem, share=0.9, margin=1.5) == pytest.approx(1.5 * time)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((Flat(4), 0.0, 64), r"lr must be > 0, got 0\.0"),
            ((Flat(4), math.nan, 64), r"lr must be > 0, got nan"),
            ((Flat(4), 0.1, 0), r"batch must be >= 1, got 0"),
        ],
    )
    def test_bad_input(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            copying_number(*arguments)


class TestPairDisplacement:
    @pytest.mark.parametrize("tolerance", [1e-12])
    @pytest.mark.parametrize(("variance", "sigma_max"), [(1.0, 80.0), (1.0, 2.5), (4.0, 1.0)])
    @pytest.mark.parametrize("dim", [2, 5])
    def test_against_the_maps(self, dim, variance, sigma_max, tolerance):
        """E|S - T|^2 = |S - T|_F^2 for linear maps of standard normal noise."""
        Q = polar_factor(torch.randn(dim, dim, generator=torch.Generator().manual_seed(dim), dtype=torch.float64))
        eye = torch.eye(dim, dtype=torch.float64)
        S = math.sqrt(variance) * Q
        T = sigma_max * torch.linalg.inv(torch.linalg.cholesky((variance + sigma_max**2) * eye)) * math.sqrt(variance)
        want = (S - T).square().sum() / (S.square().sum() + T.square().sum())
        rho_g = 1 - Q.trace().item() / dim
        assert pair_displacement(rho_g, variance, sigma_max) == pytest.approx(want.item(), rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_floor(self, tolerance):
        """(1 - a_T / sqrt(lambda))^2 / 2 to leading order, .0026 at sigma_max = 2.5."""
        assert pair_displacement(0.0, 1.0, 2.5) == pytest.approx(0.00275, abs=2e-4)
        assert pair_displacement(0.0, 1.0, 1e4) == pytest.approx(0, abs=tolerance)
        assert pair_displacement(1.0, 1.0, 80.0) == 1


class TestCriticalDimension:
    @pytest.mark.parametrize("tolerance", [1e-3])
    @pytest.mark.parametrize("planted", [2.5, 17.0, 1000.0])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_recovers_a_planted_crossing(self, planted, sign, tolerance):
        got = critical_dimension(lambda d: 1 / (1 + (d / planted) ** sign))
        assert got == pytest.approx(planted, rel=tolerance)

    @pytest.mark.parametrize("planted", [1.5, 5000.0])
    def test_no_crossing_in_range(self, planted):
        assert math.isnan(critical_dimension(lambda d: 1 / (1 + d / planted)))

    @pytest.mark.parametrize(("low", "high"), [(10.0, 13.0), (15.5, 4096.0)])
    def test_the_range_is_the_callers(self, low, high):
        assert math.isnan(critical_dimension(lambda d: 1 / (1 + d / 15), low, high)) == (not low < 15 < high)

    @pytest.mark.parametrize(("lr", "batch", "low", "high"), [(0.02, 64, 13.0, 16.0)])
    def test_of_the_default_problem(self, lr, batch, low, high):
        assert low <= critical_dimension(lambda d: displacement(Flat(d), lr, batch)) <= high


class TestFiniteSteps:
    @pytest.mark.parametrize(("lr", "tolerance"), [(1e-3, 0.02), (1e-4, 0.002)])
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    def test_small_steps_are_the_integral(self, normaliser, lr, tolerance):
        problem = Flat(8, normaliser=normaliser, sigma_init=20.0)
        want = copying_number(problem, lr, 64)
        assert finite_step_number(problem, lr, 64) == pytest.approx(want, rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-3])
    def test_by_its_definition(self, tolerance):
        problem, lr, total = Flat(8, sigma_init=10.0, law=LogUniform(0.02, 10.0)), 0.1, 0.0
        a = problem.start
        while a < problem.end * (1 - 1e-4):
            after = a + lr * problem.drift(a)[0]
            total += lr**2 * 8 / 64 * problem.noise(a)[0] / after**2
            a = after
        assert finite_step_number(problem, lr, 64) == pytest.approx(1 / total, rel=tolerance)

    def test_a_large_update_copies_more_than_the_integral_says(self):
        # Found where a random grid had broken F(Xi): the integral reads .75, students .62.
        problem = Flat(31, 0.388, 6.741, LogUniform(0.02, 6.741))
        plain, finite = (displacement(problem, 0.1829, 28, finite_steps=f) for f in (False, True))
        assert finite < plain - 0.05
