"""Averages of the per-sample normaliser: by sampling, in arbitrary precision, and against values once sampled."""

import math

import mpmath
import numpy as np
import pytest

from sandbox.theory.normaliser import flat_average, laplace, laplace_second, spectrum_averages


def within(sample, want, standard_errors):
    return abs(sample.mean(0) - want) <= standard_errors * sample.std(0) / math.sqrt(len(sample))


class TestLaplace:
    # both sides of the change from the closed form to its series at s = 60, where each is at its worst
    @pytest.mark.parametrize("s", [0.0, 1e-6, 0.01, 0.3, 1.0, 5.0, 20.0, 40.0, 59.9, 60.1, 100.0, 1e3, 1e6])
    @pytest.mark.parametrize(("function", "power", "tolerance"), [(laplace, 0, 1e-13), (laplace_second, 2, 1e-9)])
    def test_in_forty_digits(self, function, power, tolerance, s):
        with mpmath.workdps(60):
            point = mpmath.mpf(s)
            phi = mpmath.exp(point**2 / 2) * mpmath.erfc(point / mpmath.sqrt(2)) if s < 1e3 else None
            if phi is None:
                # exp(s^2/2) erfc is out of mpmath's comfort here, and the integral is dominated by u = t / s
                def integrand(u):
                    return (u / point) ** power * mpmath.exp(-u - (u / point) ** 2 / 2) / point

                want = mpmath.sqrt(2 / mpmath.pi) * mpmath.quad(integrand, [0, 1, 5, 20, 80, 200])
            else:
                want = phi if power == 0 else (1 + point**2) * phi - point * mpmath.sqrt(2 / mpmath.pi)
            want = float(want)
        assert float(function(s)) == pytest.approx(want, rel=tolerance, abs=0)

    def test_arrays(self):
        s = np.array([[0.5, 70.0], [2.0, 3.0]])
        assert laplace_second(s).shape == s.shape
        assert laplace_second(s)[0, 1] == laplace_second(70.0)


class TestFlatAverage:
    # alpha = E[xi^2/nu], beta = E[1/nu], alpha_2 = E[xi^2/nu^2], themselves once found by Monte Carlo
    @pytest.mark.parametrize(
        ("dim", "alpha", "beta", "alpha_2", "tolerance"),
        [
            (2, 0.996, 1.985, 1.273, 0.01),
            (4, 1.121, 1.488, 1.433, 0.01),
            (8, 1.187, 1.352, 1.507, 0.01),
            (16, 1.221, 1.298, 1.539, 0.01),
            (32, 1.238, 1.273, 1.555, 0.01),
        ],
    )
    def test_tabled_values(self, dim, alpha, beta, alpha_2, tolerance):
        got = [flat_average(dim, 1, True), flat_average(dim, 1, False), flat_average(dim, 2, True)]
        np.testing.assert_allclose(got, [alpha, beta, alpha_2], rtol=0, atol=tolerance)

    # E[1/nu^2] needs E[1/nu^4] for its standard error: five dimensions and more
    @pytest.mark.parametrize(
        ("dim", "power", "squared"),
        [
            (1, 1, True),
            (3, 1, False),
            (3, 1, True),
            (3, 2, True),
            (5, 2, False),
            (8, 1, False),
            (8, 2, True),
            (20, 2, True),
        ],
    )
    @pytest.mark.parametrize(("draws", "standard_errors"), [(200_000, 4.0)])
    def test_by_sampling(self, dim, power, squared, draws, standard_errors):
        xi = np.random.default_rng(dim).standard_normal((draws, dim))
        sample = (xi[:, 0] ** 2 if squared else 1) / np.abs(xi).mean(1) ** power
        assert within(sample, flat_average(dim, power, squared), standard_errors)

    # at d = 1 nu = |xi|: E xi^2/|xi| = E|xi| and E xi^2/xi^2 = 1. At d = 2, with nu = (sqrt 2 / 2) r cos(theta - pi/4)
    # on the first quadrant, E[1/nu] = sqrt(2) sqrt(pi/2) (4/pi) ln(1 + sqrt 2) and E[xi^2/nu^2] = 4/pi.
    @pytest.mark.parametrize(
        ("dim", "power", "squared", "want", "tolerance"),
        [
            (1, 1, True, math.sqrt(2 / math.pi), 1e-9),
            (1, 2, True, 1.0, 1e-9),
            (2, 1, False, 4 / math.sqrt(math.pi) * math.log(1 + math.sqrt(2)), 1e-9),
            (2, 2, True, 4 / math.pi, 1e-9),
        ],
    )
    def test_by_hand(self, dim, power, squared, want, tolerance):
        assert flat_average(dim, power, squared) == pytest.approx(want, rel=tolerance)

    @pytest.mark.parametrize(("dim", "power"), [(1, 1), (1, 2), (2, 2), (1.5, 2)])
    def test_where_it_diverges(self, dim, power):
        assert math.isinf(flat_average(dim, power, False))

    @pytest.mark.parametrize(("dim", "power"), [(1.05, 1), (2.05, 2)])
    def test_is_large_but_finite_just_above(self, dim, power):
        """The divergence is a pole of residue of order one, so its value is known to be of order 1 / distance."""
        assert 5 < flat_average(dim, power, False) < 1000

    @pytest.mark.parametrize("power", [1, 2])
    @pytest.mark.parametrize("squared", [False, True])
    @pytest.mark.parametrize("tolerance", [3e-3])
    def test_self_averages_in_high_dimension(self, power, squared, tolerance):
        """The first correction is O(1/d): halved, to its own next order, when d doubles."""
        limit = (math.pi / 2) ** (power / 2)
        errors = [flat_average(d, power, squared) / limit - 1 for d in (1000, 2000)]
        assert abs(errors[0]) < tolerance
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)

    @pytest.mark.parametrize("dim", [2, 4, 9])
    @pytest.mark.parametrize("tolerance", [1e-9])
    def test_sum_rule(self, dim, tolerance):
        """d E[xi^2/nu] = E[|xi|^2/nu]; nu depends on the direction, |xi|^2 on the length, and so
        E[xi^2/nu] = (d - 1) / d E[1/nu] for d > 1: lengths average to E r / E[1/r] = d - 1."""
        ratio = flat_average(dim, 1, True) / flat_average(dim, 1, False)
        assert ratio == pytest.approx((dim - 1) / dim, rel=tolerance)

    def test_interpolates_between_integers(self):
        values = [flat_average(d, 1, False) for d in (4, 4.5, 5)]
        assert values[0] > values[1] > values[2]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((0.5, 1, True), r"dim must be >= 1, got 0\.5"), ((3, 3, True), r"power must be 1 or 2, got 3")],
    )
    def test_bad_input(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            flat_average(*arguments)


class TestSpectrumAverages:
    @pytest.mark.parametrize("deviation", [1e-3, 1.0, 30.0])
    @pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-4), (4, 1e-4), (16, 1e-4), (64, 1e-4)])
    def test_equal_deviations(self, dim, tolerance, deviation):
        inverse, first, second = spectrum_averages(np.full((1, dim), deviation))
        assert inverse * deviation == pytest.approx(flat_average(dim, 1, False), rel=tolerance)
        np.testing.assert_allclose(first * deviation, flat_average(dim, 1, True), rtol=tolerance)
        np.testing.assert_allclose(second * deviation**2, flat_average(dim, 2, True), rtol=tolerance)

    @pytest.mark.parametrize(
        "deviations", [[1.0, 0.2, 0.7], [3.0, 1.0, 0.3, 0.1, 0.1], [1.0] * 4 + [0.5] * 12], ids=len
    )
    @pytest.mark.parametrize(("draws", "standard_errors"), [(200_000, 4.0)])
    def test_by_sampling(self, deviations, draws, standard_errors):
        deviations = np.array(deviations)
        xi = np.random.default_rng(len(deviations)).standard_normal((draws, len(deviations)))
        nu = np.abs(xi * deviations).mean(1, keepdims=True)
        inverse, first, second = spectrum_averages(deviations[None])
        assert within(1 / nu[:, 0], inverse[0], standard_errors)
        assert within(xi**2 / nu, first[0], standard_errors).all()
        assert within(xi**2 / nu**2, second[0], standard_errors).all()

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_rows_are_independent(self, tolerance):
        rows = np.array([[1.0, 0.2, 0.7], [5.0, 5.0, 0.1]])
        together = spectrum_averages(rows)
        for i in range(2):
            for a, b in zip(together, spectrum_averages(rows[i : i + 1]), strict=True):
                np.testing.assert_allclose(a[i], b[0], rtol=tolerance)
