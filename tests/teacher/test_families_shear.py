"""A probability-flow map that is not the optimal-transport map, beside those that are."""

import math

import numpy as np
import ot
import pytest
import torch

from sandbox.teacher.families import gaussian, ring, shear
from sandbox.teacher.flow import teacher_jacobian, teacher_map


def noise(n, dim):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def asymmetry(law, n=12, tolerance=1e-2):
    """|J - J^T| / |J| of the map at n points: 0 for the gradient of a convex function (Brenier 1991)."""
    J = teacher_jacobian(law, noise(n, law.dim), tolerance=tolerance).numpy()
    return np.linalg.norm(J - J.transpose(0, 2, 1), axis=(1, 2)) / np.linalg.norm(J, axis=(1, 2))


def excess_cost(law, n=256):
    """How much dearer than the cheapest pairing of the same points the map's pairs are, over a random pairing's."""
    z = noise(n, law.dim)
    cost = ot.dist(z.numpy(), teacher_map(law, z, tolerance=1e-3).numpy())
    weights = np.full(n, 1 / n)
    cheapest, paired = ot.emd2(weights, weights, cost), np.trace(cost) / n
    return (paired - cheapest) / (cost.mean() - cheapest)


# Laws that are radial, Gaussian, or products over coordinates in some basis: their maps are optimal (Lavenant &
# Santambrogio 2022). Four modes of a ring are a product along its diagonals.
OPTIMAL = {
    "gaussian": gaussian(2, exponent=1.5),
    "one mode": ring(2, modes=1),
    "two modes": ring(2, modes=2),
    "four modes": ring(2, modes=4),
    "along the axis": shear(2, angle=0.0),
    "across the axis": shear(2, angle=90.0),
}


class TestMap:
    @pytest.mark.parametrize(("dim", "points"), [(2, 12), (3, 4)])
    def test_is_not_optimal(self, dim, points):
        found = asymmetry(shear(dim), points)
        assert found.mean() > 0.1
        assert np.median(found) > 0.1

    @pytest.mark.parametrize("name", OPTIMAL)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_optimal_where_the_law_is_simple(self, name, tolerance):
        # Symmetric at any step: a coarse one will do, and few points.
        assert asymmetry(OPTIMAL[name], n=4, tolerance=0.1).max() < tolerance

    def test_costs_more_than_the_cheapest_pairing(self):
        assert excess_cost(shear(2)) > 1e-4

    @pytest.mark.parametrize("name", ["gaussian", "two modes"])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_costs_as_much_as_the_cheapest_pairing_where_the_law_is_simple(self, name, tolerance):
        assert excess_cost(OPTIMAL[name]) < tolerance


class TestLaw:
    @pytest.mark.parametrize("angle", [0.0, 30.0, 45.0, -70.0])
    @pytest.mark.parametrize("dim", [2, 3, 64])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_a_pair_of_long_modes_and_independent_coordinates(self, angle, dim, tolerance):
        law = shear(dim, radius=2.0, length=0.9, std=0.3, angle=angle)
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        R = np.array([[c, -s], [s, c]])
        wanted = 0.09 * np.eye(dim)
        wanted[:2, :2] = R @ np.diag([0.81, 0.09]) @ R.T
        for k, side in enumerate((-2.0, 2.0)):
            assert np.abs(law.covariance.dense(k, dim).numpy() - wanted).max() < tolerance
            assert law.means[k].tolist() == [side] + [0.0] * (dim - 1)
        assert law.weights.tolist() == [0.5, 0.5]

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_the_first_coordinates_do_not_depend_on_the_dimension(self, tolerance):
        x = noise(20, 64)
        plane = shear(2).denoise(x[:, :2], 0.7)
        assert (shear(64).denoise(x, 0.7)[:, :2] - plane).abs().max() < tolerance
