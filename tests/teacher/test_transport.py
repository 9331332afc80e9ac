"""Where the flow's map is an optimal one, against POT: Gaussians, one dimension, products of one-dimensional laws."""

import math

import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.stats
import torch
from problems import line, mixture

from sandbox.teacher.covariance import Diagonal, Full
from sandbox.teacher.flow import teacher_encode, teacher_map
from sandbox.teacher.mixture import GaussianMixture


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def optimal_map(m0, C0, m1, C1):
    """POT's affine map x -> A x + b (Knott & Smith 1984) between two Gaussians."""
    A, b = ot.gaussian.bures_wasserstein_mapping(m0, m1, C0, C1)
    return A, np.asarray(b).reshape(-1)


def assignment(x, y):
    """The index of the y that POT's exact solver gives to each x, by squared distance."""
    n = len(x)
    mass = np.full(n, 1 / n)
    plan = ot.emd(mass, mass, ot.dist(x, y, metric="sqeuclidean"))
    chosen = plan.argmax(axis=1)
    assert len(set(chosen)) == n, "the plan splits a point"
    np.testing.assert_allclose(plan[np.arange(n), chosen], 1 / n, rtol=1e-9)
    return chosen


def rotation(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


class TestGaussians:
    """The covariances that a Gaussian passes through commute, so that its flow is its optimal map."""

    @pytest.mark.parametrize("kind", ["isotropic", "diagonal", "low-rank", "full"])
    @pytest.mark.parametrize("dim", [1, 2, 16, 64])
    @pytest.mark.parametrize(("sigma_max", "tolerance"), [(0.5, 1e-12), (80.0, 1e-12)])
    def test_from_the_noised_law(self, kind, dim, sigma_max, tolerance):
        """From N(m, Sigma + sigma_max^2) to N(m, Sigma), at x = sigma_max z."""
        problem = mixture(kind, dim, components=1)
        mean, C = problem.means[0].numpy(), problem.matrices[0].numpy()
        A, b = optimal_map(mean, C + sigma_max**2 * np.eye(dim), mean, C)
        z = normals(8, dim)
        want = sigma_max * z.numpy() @ A.T + b
        np.testing.assert_allclose(teacher_map(problem.law, z, sigma_max).numpy(), want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("kind", ["isotropic", "diagonal", "low-rank", "full"])
    @pytest.mark.parametrize("dim", [1, 2, 16, 64])
    @pytest.mark.parametrize(("sigma_max", "tolerance"), [(0.5, 1e-12), (80.0, 1e-12)])
    def test_inverse(self, kind, dim, sigma_max, tolerance):
        problem = mixture(kind, dim, components=1)
        mean, C = problem.means[0].numpy(), problem.matrices[0].numpy()
        A, b = optimal_map(mean, C, mean, C + sigma_max**2 * np.eye(dim))
        x = problem.points(0.0, n=8)
        want = (x.numpy() @ A.T + b) / sigma_max
        np.testing.assert_allclose(teacher_encode(problem.law, x, sigma_max).numpy(), want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("dim", [2, 16])
    @pytest.mark.parametrize(("centred", "order"), [(True, 2), (False, 1)])
    @pytest.mark.parametrize("margin", [0.02])
    def test_from_a_standard_normal(self, dim, centred, order, margin):
        """Up to O(lambda / sigma_max^2) only, and to O(|m| / sigma_max) where the law has a mean m: sigma_max z is
        centred on 0, and not on it."""
        problem = mixture("full", dim, components=1)
        mean = torch.zeros_like(problem.means) if centred else problem.means
        law = GaussianMixture(problem.weights, mean, problem.law.covariance)
        z = normals(64, dim)
        A, b = optimal_map(np.zeros(dim), np.eye(dim), mean[0].numpy(), problem.matrices[0].numpy())
        want = z.numpy() @ A.T + b
        levels = np.array([80.0, 160.0, 320.0, 640.0])
        distances = [np.linalg.norm(teacher_map(law, z, s).numpy() - want) for s in levels]
        assert abs(np.polyfit(np.log(levels), np.log(distances), 1)[0] + order) <= margin


class TestOneDimension:
    @staticmethod
    def quantiles(law, shares, sigma):
        """By scipy's normal distribution function, (n,)."""
        weights, means = law.weights.numpy(), law.means[:, 0].numpy()
        std = np.sqrt(law.covariance.variance.numpy() + sigma**2)

        def excess(t, share):
            return (weights * scipy.stats.norm.cdf((t - means) / std)).sum() - share

        reach = np.abs(means).max() + 10 * std.max()
        return np.array([scipy.optimize.brentq(excess, -reach, reach, args=(p,), xtol=1e-13) for p in shares])

    @pytest.mark.parametrize("sigma_max", [2.5, 80.0])
    @pytest.mark.parametrize(("n", "asked", "tolerance"), [(200, 1e-10, 1e-9)])
    def test_assignment_of_quantiles(self, sigma_max, n, asked, tolerance):
        """Quantiles of the noised law and, shuffled, those of the law: POT pairs them as the map does."""
        law, shares = line(), (np.arange(n) + 0.5) / n
        x = self.quantiles(law, shares, sigma_max)
        y = np.random.default_rng(0).permutation(self.quantiles(law, shares, 0.0))
        want = y[assignment(x[:, None], y[:, None])]
        got = teacher_map(law, torch.from_numpy(x / sigma_max)[:, None], sigma_max, asked)[:, 0].numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize(("n", "seed"), [(500, 0), (500, 1)])
    def test_no_better_pairing_of_samples(self, n, seed):
        law, z = line(), normals(n, 1, seed)
        x = teacher_map(law, z).numpy()
        assert (assignment(z.numpy(), x) == np.arange(n)).all()
        cost = ot.emd2_1d(z[:, 0].numpy(), x[:, 0])
        assert cost == pytest.approx(((z.numpy() - x) ** 2).mean(), rel=1e-12)


class TestProducts:
    """Of two independent mixtures: the flow acts on each by itself, and two monotone maps make one of least cost."""

    @staticmethod
    def law():
        """The product of `line` with an unequal pair, as six modes in the plane."""
        first, means, variances = line(), (-0.8, 1.1), (0.3, 0.09)
        weights = (first.weights[:, None] * torch.tensor([0.35, 0.65], dtype=torch.float64)).flatten()
        places = torch.cartesian_prod(first.means[:, 0], torch.tensor(means, dtype=torch.float64))
        spreads = torch.cartesian_prod(first.covariance.variance, torch.tensor(variances, dtype=torch.float64))
        return GaussianMixture(weights, places, Diagonal(spreads))

    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_a_coordinate_is_a_map_of_its_own(self, tolerance):
        z = normals(16, 2)
        x = teacher_map(self.law(), z, tolerance=tolerance)
        alone = teacher_map(line(), z[:, :1], tolerance=tolerance)
        torch.testing.assert_close(x[:, :1], alone, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("angle", [0.0, 0.7])
    @pytest.mark.parametrize("n", [400])
    def test_no_better_pairing_of_samples(self, angle, n):
        """Nor of the same law turned, where no coordinate is by itself any more."""
        law, turn = self.law(), rotation(angle)
        matrices = turn @ torch.diag_embed(law.covariance.variances) @ turn.T
        turned = GaussianMixture(law.weights, law.means @ turn.T, Full((matrices + matrices.mT) / 2))
        z = normals(n, 2)
        x = teacher_map(turned, z)
        assert (assignment(z.numpy(), x.numpy()) == np.arange(n)).all()

    @pytest.mark.parametrize("n", [400])
    def test_which_is_not_so_of_every_law(self, n):
        """Three long modes, each turned against the others: the flow's map is no gradient (Lavenant & Santambrogio
        2022), and POT finds a cheaper pairing of the same points."""
        turns = [rotation(angle) for angle in (0.0, 1.2, 2.4)]
        spectrum = torch.diag(torch.tensor([1.0, 0.01], dtype=torch.float64))
        law = GaussianMixture(
            torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
            torch.tensor([[-2.0, 0.0], [1.0, 0.5], [0.5, -1.5]], dtype=torch.float64),
            Full(torch.stack([turn @ spectrum @ turn.T for turn in turns])),
        )
        z = normals(n, 2)
        x = teacher_map(law, z).numpy()
        chosen = assignment(z.numpy(), x)
        assert (chosen != np.arange(n)).any()
        assert ((z.numpy() - x[chosen]) ** 2).sum() < (1 - 1e-4) * ((z.numpy() - x) ** 2).sum()
