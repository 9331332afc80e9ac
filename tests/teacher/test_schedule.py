"""Noise levels: the published grid, and draws against their own nodes."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from sandbox.teacher.schedule import KarrasBins, LogGrid, LogUniform, karras_grid

LAWS = [
    LogUniform(),
    LogUniform(0.5, 0.6),
    KarrasBins(),
    KarrasBins(bins=10, first=0, last=9),
    KarrasBins(first=7, last=7),
]


def uniforms(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestGrid:
    @pytest.mark.parametrize("n", [2, 18, 1000])
    @pytest.mark.parametrize(
        ("sigma_min", "sigma_max", "rho"), [(0.002, 80.0, 7.0), (0.02, 2.5, 7.0), (0.1, 10.0, 1.0)]
    )
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_end_points_and_order(self, n, sigma_min, sigma_max, rho, tolerance):
        grid = karras_grid(n, sigma_min, sigma_max, rho)
        assert grid.shape == (n,)
        assert grid.dtype == torch.float64
        assert grid[0].item() == pytest.approx(sigma_max, rel=tolerance)
        assert grid[-1].item() == pytest.approx(sigma_min, rel=tolerance)
        assert (grid.diff() < 0).all()

    @pytest.mark.parametrize(("rho", "tolerance"), [(7.0, 1e-12)])
    def test_equal_steps_in_the_root(self, rho, tolerance):
        steps = (karras_grid(18, rho=rho) ** (1 / rho)).diff()
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=tolerance, atol=0)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_levels_computed_by_hand(self, tolerance):
        """i = 6 and 12 of EDM's 18 levels, from eq. 5 in 30-digit arithmetic."""
        grid = karras_grid(18)
        for i in (6, 12):
            want = _equation_5(i, 18)
            assert grid[i].item() == pytest.approx(want, rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_rho_one_is_linear(self, tolerance):
        np.testing.assert_allclose(karras_grid(5, 1.0, 9.0, rho=1.0).numpy(), [9, 7, 5, 3, 1], rtol=tolerance)


def _equation_5(i, n, sigma_min="0.002", sigma_max="80", rho=7):
    import mpmath

    with mpmath.workdps(30):
        low, high = (mpmath.root(mpmath.mpf(s), rho) for s in (sigma_min, sigma_max))
        return float((high + mpmath.mpf(i) / (n - 1) * (low - high)) ** rho)


@pytest.mark.parametrize("law", LAWS, ids=str)
class TestLaws:
    @pytest.mark.parametrize("function", [np.log, np.square, np.reciprocal, np.ones_like], ids=lambda f: f.__name__)
    @pytest.mark.parametrize(("n", "standard_errors", "rounding"), [(100_000, 5.0, 1e-12)])
    def test_draws_average_to_the_nodes(self, law, function, n, standard_errors, rounding):
        values = function(law.draw(uniforms(n)).numpy())
        levels, weights = law.nodes()
        want = (weights * function(levels)).sum()
        error = standard_errors * values.std() / math.sqrt(n)
        assert abs(values.mean() - want) <= error + rounding * abs(want)

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_weights_sum_to_one(self, law, tolerance):
        assert law.nodes()[1].sum() == pytest.approx(1, rel=tolerance)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_draws_keep_shape_and_precision_and_stay_in_range(self, law, dtype):
        u = torch.tensor([[0.0, 0.25, 0.5], [0.75, 1 - 2**-24, 1.0]], dtype=dtype)
        levels = law.draw(u)
        assert levels.shape == u.shape
        assert levels.dtype == dtype
        assert (levels >= law.sigma_min * (1 - 1e-6)).all()
        assert (levels <= law.sigma_max * (1 + 1e-6)).all()
        assert (levels.flatten().diff() >= 0).all(), "an inverse distribution function does not decrease"


class TestLogUniform:
    @pytest.mark.parametrize(("n", "p_value"), [(20_000, 1e-3)])
    def test_distribution_function(self, n, p_value):
        law = LogUniform(0.02, 80.0)
        logs = law.draw(uniforms(n)).log().numpy()
        uniform = scipy.stats.uniform(math.log(0.02), math.log(80.0) - math.log(0.02))
        assert scipy.stats.kstest(logs, uniform.cdf).pvalue > p_value

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_end_points(self, tolerance):
        low, high = LogUniform(0.02, 80.0).draw(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        assert low == pytest.approx(0.02, rel=tolerance)
        assert high == pytest.approx(80.0, rel=tolerance)

    def test_log_range(self):
        assert LogUniform(0.02, 80.0).log_range == pytest.approx(math.log(4000), rel=1e-15)

    # E[sigma^p] = (b^p - a^p) / (p ln(b / a)), E[1 / (1 + sigma^2)] by the primitive ln sigma - ln(1 + sigma^2) / 2
    @pytest.mark.parametrize(("power", "tolerance"), [(1, 1e-12), (2, 1e-12), (-1, 1e-12), (-2, 1e-12)])
    @pytest.mark.parametrize(("low", "high"), [(0.02, 80.0)])
    def test_moments_of_the_nodes(self, power, tolerance, low, high):
        levels, weights = LogUniform(low, high).nodes()
        want = (high**power - low**power) / (power * math.log(high / low))
        assert (weights * levels ** float(power)).sum() == pytest.approx(want, rel=tolerance)

    @pytest.mark.parametrize(("low", "high", "tolerance"), [(0.02, 80.0, 1e-12)])
    def test_a_sigmoid_of_the_nodes(self, low, high, tolerance):
        levels, weights = LogUniform(low, high).nodes()
        primitive = [math.log(s) - 0.5 * math.log1p(s**2) for s in (low, high)]
        want = (primitive[1] - primitive[0]) / math.log(high / low)
        assert (weights / (1 + levels**2)).sum() == pytest.approx(want, rel=tolerance)

    @pytest.mark.parametrize("count", [1, 50])
    def test_number_of_nodes(self, count):
        levels, weights = LogUniform().nodes(count)
        assert levels.shape == weights.shape == (count,)


class TestKarrasBins:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_the_published_bins(self, tolerance):
        """Bins count upwards from sigma_min: bin 20 is entry 979 of the descending grid, bin 980 is entry 19."""
        levels, weights = KarrasBins().nodes()
        assert len(levels) == len(weights) == 961
        assert levels[0] == pytest.approx(_equation_5(979, 1000), rel=tolerance)
        assert levels[-1] == pytest.approx(_equation_5(19, 1000), rel=tolerance)

    @pytest.mark.parametrize(("n", "p_value"), [(50_000, 1e-3)])
    def test_every_bin_is_equally_likely(self, n, p_value):
        law = KarrasBins(bins=12, first=2, last=9)
        drawn, counts = law.draw(uniforms(n)).unique(return_counts=True)
        torch.testing.assert_close(drawn, karras_grid(12).flip(0)[2:10], rtol=0, atol=0)
        assert scipy.stats.chisquare(counts.numpy()).pvalue > p_value

    def test_the_first_and_last_uniform(self):
        law = KarrasBins(bins=12, first=2, last=9)
        grid = karras_grid(12).flip(0)
        ends = law.draw(torch.tensor([0.0, 1 - 1e-12], dtype=torch.float64))
        assert torch.equal(ends, grid[[2, 9]])

    def test_count_is_not_used(self):
        assert len(KarrasBins().nodes(3)[0]) == 961


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: karras_grid(1), r"n must be >= 2, got 1"),
        (lambda: karras_grid(4, rho=0.0), r"rho must be > 0, got 0\.0"),
        (lambda: karras_grid(4, rho=math.nan), r"rho must be > 0, got nan"),
        *[
            (lambda build=build, low=low, high=high: build(low, high), message)
            for build in (lambda low, high: karras_grid(4, low, high), LogUniform, KarrasBins)
            for low, high, message in (
                (0.0, 1.0, r"sigma_min must be > 0, got 0\.0"),
                (-1.0, 1.0, r"sigma_min must be > 0, got -1\.0"),
                (math.nan, 1.0, r"sigma_min must be > 0, got nan"),
                (2.0, 1.0, r"sigma_max must be > sigma_min = 2\.0, got 1\.0"),
                (2.0, 2.0, r"sigma_max must be > sigma_min = 2\.0, got 2\.0"),
                (2.0, math.inf, r"sigma_max must be .*, got inf"),
            )
        ],
        (lambda: KarrasBins(first=-1), r"first and last must satisfy .*bins = 1000, got -1 and 980"),
        (lambda: KarrasBins(last=1000), r"first and last must satisfy .*bins = 1000, got 20 and 1000"),
        (lambda: KarrasBins(first=30, last=29), r"first and last must satisfy .*got 30 and 29"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("law", [LogUniform(), KarrasBins()])
def test_laws_are_values(law):
    """Equal settings are equal laws, with one hash, so that a law can be part of a configuration."""
    assert law == type(law)()
    assert hash(law) == hash(type(law)())


class TestLogGrid:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_levels_are_even_in_the_logarithm(self, tolerance):
        levels = LogGrid(0.05, 20.0, 8).levels.numpy()
        np.testing.assert_allclose(np.diff(np.log(levels)), np.log(400) / 7, rtol=tolerance)
        assert (levels[0], levels[-1]) == pytest.approx((0.05, 20.0), rel=tolerance)

    def test_draws_are_uniform_over_the_levels(self):
        law = LogGrid(0.05, 20.0, 4)
        u = (torch.arange(4000) + 0.5).double() / 4000
        drawn, counts = law.draw(u).unique(return_counts=True)
        assert torch.equal(drawn, law.levels)
        assert (counts == 1000).all()
        assert torch.equal(law.draw(torch.tensor([1.0 - 2**-24])), law.levels[-1:].float())

    def test_nodes_are_the_levels(self):
        levels, weights = LogGrid(0.05, 20.0, 4).nodes(7)
        assert len(levels) == 4
        assert weights.sum() == pytest.approx(1, rel=1e-14)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [((0.0, 1.0, 4), "sigma_min must be > 0, got 0.0"), ((0.1, 1.0, 1), "bins must be >= 2, got 1")],
    )
    def test_bad_input_is_named(self, arguments, words):
        with pytest.raises(ValueError, match=words):
            LogGrid(*arguments)
