"""A teacher that has memorised points of a population, and its twin that has learned the population."""

import math
import time

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from sandbox.teacher.covariance import Full, Isotropic
from sandbox.teacher.families import family, memorising
from sandbox.teacher.mixture import GaussianMixture


class TestPoints:
    @pytest.mark.parametrize("population", ["random", "ring", "gaussian"])
    def test_more_points_keep_the_first_ones(self, population):
        most = memorising(3, points=1500, population=population).means
        for n in (1, 7, 64, 256, 257, 1000):
            law = memorising(3, points=n, population=population)
            assert torch.equal(law.means, most[:n])
            assert law.weights.tolist() == pytest.approx([1 / n] * n, rel=1e-14)
        assert len(most.unique(dim=0)) == 1500

    @pytest.mark.parametrize("population", ["random", "ring", "hierarchical"])
    def test_the_first_coordinates_do_not_depend_on_the_dimension(self, population):
        wide = memorising(64, points=300, population=population).means
        for dim in (2, 3, 16):
            assert torch.equal(memorising(dim, points=300, population=population).means, wide[:, :dim])

    def test_seeds(self):
        law = memorising(3, points=300)
        assert torch.equal(law.means, memorising(3, points=300, points_seed=0).means)
        other = memorising(3, points=300, points_seed=1)
        assert not (law.means[:, None] == other.means[None]).any()
        # The population's seed moves the population's means, and with them the same draws around them.
        moved = memorising(3, points=300, seed=1)
        shift = (moved.means - law.means).numpy()
        assert len(np.unique(shift.round(9), axis=0)) == 8

    def test_global_random_state_is_untouched(self):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        memorising(4)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("dim", [1, 5])
    @pytest.mark.parametrize(("bandwidth", "tolerance"), [(0.1, 1e-14), (0.02, 1e-14)])
    def test_bandwidth(self, dim, bandwidth, tolerance):
        law = memorising(dim, points=3, bandwidth=bandwidth)
        assert law.covariance.variance.tolist() == pytest.approx([bandwidth**2] * 3, rel=tolerance)
        assert law.smallest_std == pytest.approx(bandwidth, rel=tolerance)

    @pytest.mark.parametrize(("points", "dim", "seconds"), [(4096, 128, 5)])
    def test_many_points_are_cheap(self, points, dim, seconds):
        """0.2 s of one core when this was written."""
        before = time.process_time()
        assert memorising(dim, points=points).means.shape == (points, dim)
        assert time.process_time() - before < seconds


# Populations that differ in number, weights and shape of their modes, with modes far apart.
POPULATIONS = {
    "random": {"separation": 9.0, "modes": 4, "std": 0.4, "seed": 2},
    "ring": {"radius": 9.0, "modes": 5, "std": 0.3},
    "gaussian": {"exponent": 1.5, "variance": 0.7},
    "image_like": {"modes": 3, "share": 0.999, "exponent": 0.3},
    "manifold": {"intrinsic": 2, "modes": 3, "separation": 9.0},
    "shear": {"radius": 9.0, "length": 0.8},
}


def unequal():
    g = torch.Generator().manual_seed(0)
    factors = torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    means = 40 * torch.randn(3, 4, generator=g, dtype=torch.float64)
    return GaussianMixture([0.6, 0.3, 0.1], means, Full(factors @ factors.mT))


@pytest.mark.parametrize("name", [*POPULATIONS, "a mixture of unequal modes"])
@pytest.mark.parametrize(("points", "level"), [(4096, 1e-4)])
def test_points_are_samples_of_exactly_that_population(name, points, level):
    """Labels in the proportion of the weights, and around a mode, whitened by its covariance, a standard normal in
    every direction. By chance one p-value in 1 / level is lower; draws are fixed, so a test that passes stays so."""
    if name in POPULATIONS:
        law = memorising(4, points=points, population=name, **POPULATIONS[name])
        population = family(name, 4, **POPULATIONS[name])
    else:
        population = unequal()
        law = memorising(4, points=points, population=population)
    x, labels = law.means, population.responsibilities(law.means).argmax(-1)
    counts = np.bincount(labels.numpy(), minlength=population.components)
    if population.components > 1:
        assert chisquare(counts, points * population.weights.numpy()).pvalue > level
    white = torch.empty_like(x)
    for k in range(population.components):
        L = torch.linalg.cholesky(population.covariance.dense(k, 4))
        white[labels == k] = torch.linalg.solve_triangular(L, (x[labels == k] - population.means[k]).mT, upper=False).mT
    for column in white.mT:
        assert kstest(column.numpy(), "norm").pvalue > level
    correlation = np.corrcoef(white.numpy().T) - np.eye(4)
    assert np.abs(correlation).max() < 5 / math.sqrt(points)
    # Neither are successive points related, nor a point to its place in the blocks that they are drawn in.
    assert np.abs([(white[lag:] * white[:-lag]).mean() for lag in (1, 256)]).max() < 5 / math.sqrt(4 * (points - 256))
    runs = torch.stack([labels[1:], labels[:-1]]).double().numpy()
    if population.components > 1:
        assert abs(np.corrcoef(runs)[0, 1]) < 5 / math.sqrt(points)


class TestModes:
    @pytest.mark.parametrize("points", [8, 64, 1024])
    @pytest.mark.parametrize("dim", [2, 16])
    def test_are_the_populations_as_far_as_they_have_points(self, dim, points):
        law, population = memorising(dim, points=points), family("random", dim)
        label = population.responsibilities(law.means).argmax(-1)
        present = label.unique()
        assert torch.equal(present[law.mode_of], label)
        assert law.modes == len(present)
        want = label.bincount(minlength=8)[present] / points
        torch.testing.assert_close(law.mode_weights, want.double(), rtol=1e-12, atol=0)

    def test_of_a_single_gaussian_are_one(self):
        law = memorising(2, points=16, population="gaussian")
        assert (law.modes, law.mode_weights.tolist()) == (1, pytest.approx([1.0], rel=1e-14))

    def test_of_memorised_points_of_a_memorised_law_are_the_first_ones(self):
        """A population that is itself made of points has modes of its own."""
        first = memorising(2, points=200, bandwidth=0.3)
        law = memorising(2, points=300, population=first)
        label = first.mode_responsibilities(law.means).argmax(-1)
        assert torch.equal(label.unique()[law.mode_of], label)


def test_a_mode_without_weight_has_no_points():
    population = GaussianMixture([0.0, 1.0, 0.0], [[-50.0], [0.0], [50.0]], Isotropic(1.0))
    assert memorising(1, points=2000, population=population).means.abs().max() < 10


@pytest.mark.parametrize("points", [256])
def test_above_the_points_spacing_the_denoiser_is_the_populations(points):
    """But for the sampling error of a mean over so many points; below it, only the memorised point comes back."""
    law, twin = memorising(2, points=points, bandwidth=1e-3), family("random", 2)
    g = torch.Generator().manual_seed(0)
    x = 8 * torch.randn(100, 2, generator=g, dtype=torch.float64)
    error = (law.denoise(x, 8.0) - twin.denoise(x, 8.0)).square().sum(-1).mean().sqrt().item()
    assert error < 3 * math.sqrt(torch.trace(twin.cov).item() / points)
    x = law.means[:100] + 0.01 * torch.randn(100, 2, generator=g, dtype=torch.float64)
    lost = [(teacher.denoise(x, 0.01) - law.means[:100]).norm(dim=-1).median().item() for teacher in (law, twin)]
    assert lost[0] < 1e-3 < 5e-3 < lost[1]
