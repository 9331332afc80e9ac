"""The gradient at the optimum: its two weights by sampling, and the rotation that noise there adds up to."""

import math

import numpy as np
import pytest
import torch

from sandbox.student.losses import dmd_direction
from sandbox.teacher.schedule import LogUniform
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.optimum import residual_variance, square_weights, turned, weights

NORMALISERS = ["per-sample", "batch", "off"]


class OneLevel:
    """All draws at one level."""

    def __init__(self, sigma):
        self.sigma = sigma

    def nodes(self, count):
        return np.array([self.sigma]), np.array([1.0])


class TestWeights:
    # E[1/nu^2] needs E[1/nu^4] for its standard error: more than four dimensions
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("sigma", [0.3, 1.5, 6.0])
    @pytest.mark.parametrize(("dim", "variance"), [(6, 1.0), (10, 4.0)])
    @pytest.mark.parametrize(("draws", "standard_errors"), [(60_000, 4.0)])
    def test_by_sampling_the_gradient(self, dim, variance, sigma, normaliser, draws, standard_errors):
        """For H = e_i e_k^T the direction is w y_k e_i: its gradient against z_j has the moments that define w_1,
        w_2."""
        g = torch.Generator().manual_seed(dim)
        z, eps = torch.randn(2, draws, dim, generator=g, dtype=torch.float64)
        x = math.sqrt(variance) * z
        y = x + sigma * eps
        real = variance / (variance + sigma**2) * y
        w_y = dmd_direction(x, real, real + y, normaliser)
        _, _, w1 = weights(dim, variance, OneLevel(sigma), normaliser)
        w2 = square_weights(dim, variance, OneLevel(sigma), normaliser)
        mean = w_y[:, 0] * z[:, 0] / math.sqrt(variance)
        square = (w_y[:, 0] * z[:, 1]) ** 2 / (variance + sigma**2)
        for sample, want in ((mean, w1[0]), (square, w2[0])):
            assert abs(sample.mean().item() - want) <= standard_errors * sample.std().item() / math.sqrt(draws)
            assert sample.std().item() / math.sqrt(draws) < 0.05 * want

    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_self_average_in_high_dimension(self, tolerance):
        args = (2.0, LogUniform(), "per-sample")
        sigma, _, w1 = weights(math.inf, *args)
        np.testing.assert_allclose(w1, math.sqrt(math.pi / 2) / np.sqrt(residual_variance(2.0, sigma)), rtol=tolerance)
        np.testing.assert_allclose(square_weights(math.inf, *args), w1**2, rtol=tolerance)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0.5, 1.0, LogUniform(), "off"), r"dim must be >= 1, got 0\.5"),
            ((4, 0.0, LogUniform(), "off"), r"variance must be > 0, got 0\.0"),
            ((4, 1.0, LogUniform(), "none"), r"normaliser must be one of .* got 'none'"),
        ],
    )
    @pytest.mark.parametrize("function", [weights, square_weights])
    def test_bad_input(self, function, arguments, message):
        with pytest.raises(ValueError, match=message):
            function(*arguments)

    def test_where_the_averages_diverge(self):
        with pytest.raises(HypothesisError, match="d > 1"):
            weights(1, 1.0, LogUniform(), "per-sample")
        with pytest.raises(HypothesisError, match="d > 2"):
            square_weights(2, 1.0, LogUniform(), "per-sample")


class TestTurned:
    @pytest.mark.parametrize(("dim", "spread"), [(2, 0.5), (3, 1.0), (8, 0.2)])
    @pytest.mark.parametrize(("paths", "steps", "standard_errors"), [(1500, 60, 4.0)])
    def test_is_a_walk_on_the_rotations(self, dim, spread, paths, steps, standard_errors):
        """Products of exact rotations exp((G - G^T)/2)."""
        g = torch.Generator().manual_seed(dim)
        Q = torch.eye(dim, dtype=torch.float64).repeat(paths, 1, 1)
        for _ in range(steps):
            G = torch.randn(paths, dim, dim, generator=g, dtype=torch.float64) * math.sqrt(spread / steps)
            Q = torch.linalg.matrix_exp((G - G.mT) / 2) @ Q
        rho = 1 - torch.diagonal(Q, dim1=-2, dim2=-1).mean(-1)
        error = rho.std().item() / math.sqrt(paths)
        assert error < 0.05 * rho.mean().item()
        assert abs(turned(dim, spread) - rho.mean().item()) <= standard_errors * error

    def test_ends(self):
        assert turned(1, 5.0) == 0
        assert turned(7, 0.0) == 0
        assert turned(7, math.inf) == 1

    @pytest.mark.parametrize(("dim", "spread", "message"), [(0, 1.0, "dim must be"), (3, -1.0, r"spread .* got -1\.0")])
    def test_bad_input(self, dim, spread, message):
        with pytest.raises(ValueError, match=message):
            turned(dim, spread)
