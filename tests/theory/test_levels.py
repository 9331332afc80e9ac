"""Levels of decision: where the exact log-density changes its curvature, and where one datum outweighs the rest."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import logsumexp

from sandbox.teacher.covariance import Full, Isotropic
from sandbox.teacher.families import ring
from sandbox.teacher.mixture import GaussianMixture
from sandbox.theory.levels import collapse_level, speciation, speciation_level


def turning_level(mixture, direction, centre):
    """Level at which direction^T Hessian(log p_sigma) direction changes sign at the centre."""

    def curvature(log_sigma):
        H = mixture.score_jacobian(centre[None], math.exp(log_sigma))[0]
        return (direction @ H @ direction).item()

    return math.exp(brentq(curvature, math.log(1e-2), math.log(1e3), xtol=1e-13))


class TestSpeciation:
    @pytest.mark.parametrize(("dim", "separation", "std"), [(1, 2.0, 0.5), (2, 1.0, 0.9), (16, 1.0, 0.3)])
    @pytest.mark.parametrize("tolerance", [1e-9])
    def test_two_symmetric_modes(self, dim, separation, std, tolerance):
        mean = torch.full((dim,), separation, dtype=torch.float64)
        mixture = GaussianMixture([0.5, 0.5], torch.stack([mean, -mean]), Isotropic([std**2] * 2))
        want = turning_level(mixture, mean / mean.norm(), torch.zeros(dim, dtype=torch.float64))
        levels, directions = speciation(mixture)
        assert levels[0].item() == pytest.approx(want, rel=tolerance)
        assert speciation_level(dim * separation**2, std**2) == pytest.approx(want, rel=tolerance)
        assert abs(directions[:, 0] @ mean).item() == pytest.approx(mean.norm().item(), rel=tolerance)
        assert (levels[1:] == 0).all()

    @pytest.mark.parametrize("modes", [3, 8])
    @pytest.mark.parametrize("tolerance", [1e-9])
    def test_ring(self, modes, tolerance):
        """Both directions of the plane at once, and none else."""
        mixture = ring(5, modes=modes)
        levels, _ = speciation(mixture)
        axis = torch.eye(5, dtype=torch.float64)[1]
        want = turning_level(mixture, axis, torch.zeros(5, dtype=torch.float64))
        assert levels.tolist() == pytest.approx([want, want, 0, 0, 0], rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_modes_of_any_one_shape(self, tolerance):
        """The direction that turns is an eigenvector of the difference, not of either covariance: the Hessian itself is
        singular there."""
        g = torch.Generator().manual_seed(1)
        factor = torch.randn(3, 3, generator=g, dtype=torch.float64)
        matrix = 0.1 * factor @ factor.mT + 0.05 * torch.eye(3, dtype=torch.float64)
        mean = torch.tensor([1.5, 0.2, -0.7], dtype=torch.float64)
        offset = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
        mixture = GaussianMixture([0.5, 0.5], torch.stack([offset + mean, offset - mean]), Full(matrix.repeat(2, 1, 1)))
        levels, _ = speciation(mixture)

        def top(log_sigma):
            return torch.linalg.eigvalsh(mixture.score_jacobian(offset[None], math.exp(log_sigma))[0])[-1].item()

        want = math.exp(brentq(top, math.log(0.05), math.log(50), xtol=1e-13))
        assert levels[0].item() == pytest.approx(want, rel=tolerance)

    def test_overlapping_modes_are_one_hump(self):
        assert speciation_level(0.2, 0.3) == 0
        mixture = GaussianMixture([0.5, 0.5], [[-0.5], [0.5]], Isotropic([0.3, 0.3]))
        assert speciation(mixture)[0].item() == 0
        H = mixture.score_jacobian(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([1e-3]))
        assert H.item() < 0

    def test_packs(self):
        mixtures = [ring(3), ring(3, radius=5.0)]
        levels, directions = speciation(GaussianMixture.stack(mixtures))
        assert directions.shape == (2, 3, 3)
        for i, mixture in enumerate(mixtures):
            torch.testing.assert_close(levels[i], speciation(mixture)[0])

    @pytest.mark.parametrize(("between", "within", "name"), [(-1.0, 0.0, "between"), (1.0, -1.0, "within")])
    def test_bad_input(self, between, within, name):
        with pytest.raises(ValueError, match=rf"{name} must be >= 0, got -1\.0"):
            speciation_level(between, within)


class TestCollapse:
    # the balance is right to O(1) nats, and a nat moves ln sigma by 1 / (d (1 - n^(-2/d))): no more is allowed
    @pytest.mark.parametrize("nats", [1.0])
    @pytest.mark.parametrize(("n", "dim"), [(512, 2), (64, 4), (256, 8), (512, 16), (512, 32), (256, 64)])
    @pytest.mark.parametrize("variance", [1.0, 9.0])
    def test_one_datum_outweighs_the_rest(self, n, dim, variance, nats):
        rng = np.random.default_rng(n + dim)
        x, eps = math.sqrt(variance) * rng.standard_normal((n, dim)), rng.standard_normal((n, dim))

        def balance(log_sigma):
            y = x + math.exp(log_sigma) * eps
            exponent = -((y[:, None] - x[None]) ** 2).sum(-1) / 2 / math.exp(2 * log_sigma)
            own = np.diag(exponent).copy()
            np.fill_diagonal(exponent, -np.inf)
            return np.median(own - logsumexp(exponent, axis=1))

        want = math.log(collapse_level(n, dim, variance))
        found = brentq(balance, want - 1, want + 1, xtol=1e-3)
        assert abs(found - want) <= nats / (dim * (1 - n ** (-2 / dim)))

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_balance_of_entropies(self, tolerance):
        square = collapse_level(1000, 12, 0.5) ** 2
        assert 6 * math.log((0.5 + square) / square) == pytest.approx(math.log(1000), rel=tolerance)

    def test_high_dimension_collapses_at_once(self):
        """sigma_C ~ sqrt(d / (2 ln n)): unless the points are exponentially many, all of the path is memory."""
        assert collapse_level(1e4, 1e5) == pytest.approx(math.sqrt(1e5 / (2 * math.log(1e4))), rel=1e-3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((1, 4), "n must be > 1, got 1"), ((9, 0), "dim must be >= 1, got 0"), ((9, 4, 0.0), "variance must be > 0")],
    )
    def test_bad_input(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            collapse_level(*arguments)
