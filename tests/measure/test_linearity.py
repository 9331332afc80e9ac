"""The linear share against regressions of numpy and scipy, polynomials of known share, and its law under chance."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest, linregress, norm

from sandbox.measure.linearity import linear_share


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bent(z, outputs, seed=7):
    """A map with a linear part, a quadratic one and an offset."""
    A, B = normals(z.shape[-1], outputs, seed), normals(z.shape[-1], outputs, seed + 1)
    return z @ A + 0.7 * z.square() @ B + 3.0


@pytest.mark.parametrize("n", [1000])
@pytest.mark.parametrize("tolerance", [1e-12])
@pytest.mark.parametrize(("linear", "square"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-0.3, 2.0), (5.0, 0.1)])
def test_a_polynomial_has_the_share_of_its_parts(linear, square, n, tolerance):
    # On points that are symmetric about zero an odd and an even part are orthogonal in the sample itself, so that
    # no Monte Carlo error hides a factor.
    z = torch.linspace(-3, 3, n, dtype=torch.float64)[:, None]
    x = linear * z + square * (z.square() - 1)
    parts = linear**2 * z.numpy().var(), square**2 * (z.numpy() ** 2).var()
    assert linear_share(x, z) == pytest.approx(parts[0] / sum(parts), abs=tolerance)


@pytest.mark.parametrize(("n", "tolerance"), [(20_000, 2e-3)])
@pytest.mark.parametrize(("linear", "square"), [(1.0, 1.0), (1.0, 0.2), (0.3, 1.0)])
def test_of_normal_noise_a_square_weighs_two(linear, square, n, tolerance):
    """Var z = 1 and Var z^2 = 2; at the normal law's quantiles, whose moments are off by the tails cut at 1/n."""
    z = torch.from_numpy(norm.ppf((np.arange(n) + 0.5) / n))[:, None]
    x = linear * z + square * (z.square() - 1)
    assert linear_share(x, z) == pytest.approx(linear**2 / (linear**2 + 2 * square**2), abs=tolerance)


@pytest.mark.parametrize(("n", "dim", "outputs"), [(30, 1, 1), (30, 4, 1), (200, 2, 6), (40, 20, 3)])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_is_numpys_regression_with_an_intercept(n, dim, outputs, tolerance):
    z = normals(n, dim) + 2.0
    x = bent(z, outputs)
    design = np.column_stack([np.ones(n), z.numpy()])
    fitted = design @ np.linalg.lstsq(design, x.numpy(), rcond=None)[0]
    want = 1 - ((x.numpy() - fitted) ** 2).sum() / ((x.numpy() - x.numpy().mean(0)) ** 2).sum()
    assert 0.05 < want < 0.999
    assert linear_share(x, z) == pytest.approx(want, abs=tolerance)
    if dim == outputs == 1:
        assert linear_share(x, z) == pytest.approx(linregress(z[:, 0], x[:, 0]).rvalue ** 2, abs=tolerance)


@pytest.mark.parametrize(("dim", "outputs", "rank"), [(1, 1, 1), (4, 4, 4), (4, 4, 2), (8, 3, 3), (3, 8, 3)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_a_linear_map_reads_one(dim, outputs, rank, scale, tolerance):
    """Whatever its offset, its size and its rank, and whether or not the noise has a direction to spare."""
    z = normals(50, dim)
    x = scale * (z @ normals(dim, rank, 1) @ normals(rank, outputs, 2) + 5.0)
    assert linear_share(x, z) == pytest.approx(1, abs=tolerance)
    assert linear_share(x, torch.cat([z, z], -1)) == pytest.approx(1, abs=tolerance)


@pytest.mark.parametrize("tolerance", [1e-12])
def test_units_offsets_and_axes_do_not_matter(tolerance):
    z = normals(60, 3)
    x = bent(z, 3)
    want = linear_share(x, z)
    rotation = torch.linalg.qr(normals(3, 3, 4)).Q
    assert 0.1 < want < 0.9
    assert linear_share(1e3 * x @ rotation - 40.0, z) == pytest.approx(want, abs=tolerance)
    assert linear_share(x, z @ normals(3, 3, 5) + 9.0) == pytest.approx(want, abs=tolerance)


@pytest.mark.parametrize("tolerance", [1e-6])
def test_single_precision_is_read_in_double(tolerance):
    z = normals(60, 3)
    x = bent(z, 3)
    assert linear_share(x.float(), z.float()) == pytest.approx(linear_share(x, z), abs=tolerance)
    assert linear_share(x.float(), z.float()) == linear_share(x.float().double(), z.float().double())


@pytest.mark.parametrize(("n", "dim"), [(6, 4), (10, 2), (40, 8)])
@pytest.mark.parametrize(("draws", "standard_errors", "p_value"), [(600, 4.5, 1e-3)])
def test_chance_follows_the_beta_law(n, dim, draws, standard_errors, p_value):
    """R^2 of unrelated normal samples is Beta(d/2, (n - 1 - d)/2), of mean d / (n - 1)."""
    shares = np.array([linear_share(normals(n, 1, 2 * i), normals(n, dim, 2 * i + 1)) for i in range(draws)])
    assert kstest(shares, beta(dim / 2, (n - 1 - dim) / 2).cdf).pvalue > p_value
    error = shares.std() / math.sqrt(draws)
    assert abs(shares.mean() - dim / (n - 1)) <= standard_errors * error


@pytest.mark.parametrize(
    ("x", "z", "words"),
    [
        (torch.zeros(5), torch.zeros(5, 1), r"shapes \(n, k\) and \(n, d\), got \(5,\) and \(5, 1\)"),
        (torch.zeros(5, 1), torch.zeros(5), r"got \(5, 1\) and \(5,\)"),
        (torch.zeros(2, 5, 1), torch.zeros(2, 5, 1), r"got \(2, 5, 1\) and \(2, 5, 1\)"),
        (torch.zeros(5, 2), torch.zeros(6, 2), r"got \(5, 2\) and \(6, 2\)"),
        (normals(4, 3), normals(4, 3, 1), r"n must be >= d \+ 2 = 5, got 4"),
    ],
)
def test_bad_points_are_named(x, z, words):
    with pytest.raises(ValueError, match=words):
        linear_share(x, z)


@pytest.mark.parametrize("n", [7, 100, 512])
@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1000.1])
def test_a_constant_map_is_refused(n, value):
    """Also where the mean of equal numbers is not, in floating point, that number."""
    x = torch.tensor([value, -value], dtype=torch.float64).expand(n, 2)
    with pytest.raises(ValueError, match="x must not be constant"):
        linear_share(x, normals(n, 2))
