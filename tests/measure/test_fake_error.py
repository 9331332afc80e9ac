"""The fake score's error without the true score: planted errors, the regression by numpy, and chance taken off."""

import math

import numpy as np
import pytest
import torch
from problems import line

from sandbox.measure.fake_error import fake_residual
from sandbox.teacher.families import ring


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(dim, seed=3):
    root = normals(dim, dim, seed=seed)
    return root @ root.mT / dim + 0.2 * torch.eye(dim, dtype=torch.float64)


class Students:
    """Gaussian students N(m, C) at points of their own and noised ones, with the exact D(y) = m + K (y - m)."""

    def __init__(self, packs, n, dim, sigma, seed=0):
        self.C, self.m = covariance(dim), normals(dim, seed=4)
        noised = self.C + sigma**2 * torch.eye(dim, dtype=torch.float64)
        self.K, self.noised = self.C @ torch.linalg.inv(noised), noised
        self.x = self.m + normals(packs, n, dim, seed=seed) @ torch.linalg.cholesky(self.C).mT
        self.y = self.x + sigma * normals(packs, n, dim, seed=seed + 1)
        self.exact = self.m + (self.y - self.m) @ self.K.mT

    @property
    def variance(self):
        return self.C.trace().item()

    @property
    def left(self):
        """Share of Var x that noise hides: what the residual of the exact D explains nothing of."""
        return (self.C - self.K @ self.C).trace().item() / self.variance


def within(values, want, standard_errors):
    """Is the mean of independent readings the value, and the readings fine enough to say so?"""
    error = values.std().item() / math.sqrt(len(values))
    return abs(values.mean().item() - want) <= standard_errors * error, error


class TestPlantedErrors:
    @pytest.mark.parametrize("sigma", [0.3, 3.0])
    @pytest.mark.parametrize("dim", [1, 4])
    @pytest.mark.parametrize(("delta", "offset"), [(0.5, 0.0), (-0.2, 0.0), (0.0, 0.7), (0.3, -0.4)])
    @pytest.mark.parametrize(("packs", "n", "standard_errors", "resolution"), [(400, 100, 4.5, 0.05)])
    def test_a_wrong_gain_and_offset(self, delta, offset, dim, sigma, packs, n, standard_errors, resolution):
        """D_fake = D + delta (y - m) + b reads (delta^2 tr(C + sigma^2) + |b|^2) / tr C."""
        s = Students(packs, n, dim, sigma)
        b = offset * normals(dim, seed=5)
        want = (delta**2 * s.noised.trace() + b.square().sum()).item() / s.variance
        found = fake_residual(s.x, s.exact + delta * (s.y - s.m) + b, s.y)
        close, error = within(found, want, standard_errors)
        # The sample's own Var x in the denominator leaves a bias of order 1/n.
        assert close or abs(found.mean().item() - want) <= 3 * want / n
        assert error <= resolution * want

    @pytest.mark.parametrize("dim", [1, 3])
    @pytest.mark.parametrize("delta", [0.5, -1.0, 1e-3])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_exact_where_nothing_is_left_to_chance(self, delta, dim, tolerance):
        """Without noise D(y) = y = x: the residual is all error, and so are the sample's own moments."""
        x = 2.0 + normals(5, 30, dim)
        centre = x.mean(-2, keepdim=True)
        want = delta**2 * (1 + (centre.square().sum((-2, -1)) / x.var(-2, correction=0).sum(-1)))
        torch.testing.assert_close(fake_residual(x, (1 + delta) * x, x), want, rtol=tolerance, atol=0)
        torch.testing.assert_close(
            fake_residual(x, x + delta * (x - centre), x), delta**2 * torch.ones(5).double(), rtol=tolerance, atol=0
        )

    @pytest.mark.parametrize("sigma", [0.5, 2.0])
    @pytest.mark.parametrize(("packs", "n", "standard_errors", "resolution"), [(400, 200, 4.5, 0.05)])
    def test_an_error_is_seen_by_the_functions_that_span_it(self, sigma, packs, n, standard_errors, resolution):
        """delta He_3(u), u the noised sample at unit variance, has nothing in common with u, and mean square 6."""
        x = 1.5 * normals(packs, n, 1)
        y = x + sigma * normals(packs, n, 1, seed=1)
        exact, u, delta = y * 1.5**2 / (1.5**2 + sigma**2), y / math.hypot(1.5, sigma), 0.3
        cubic = u**3 - 3 * u
        blind = fake_residual(x, exact + delta * cubic, u)
        whole = fake_residual(x, exact + delta * cubic, torch.cat([u, cubic], -1))
        want = 6 * delta**2 / 1.5**2
        close, error = within(whole, want, standard_errors)
        assert close
        assert error <= resolution * want
        assert abs(blind.mean().item()) <= 0.2 * want


class TestChance:
    @pytest.mark.parametrize("sigma", [0.3, 1.0, 10.0])
    @pytest.mark.parametrize(("dim", "n"), [(1, 12), (1, 30), (3, 12), (8, 40)])
    @pytest.mark.parametrize(("packs", "standard_errors", "share"), [(4000, 4.5, 0.25)])
    def test_an_exact_fake_score_reads_zero(self, dim, n, sigma, packs, standard_errors, share):
        s = Students(packs, n, dim, sigma)
        found = fake_residual(s.x, s.exact, s.y)
        # What a regression on d functions and the constant explains by chance, and would have shown.
        by_chance = (dim + 1) / n * s.left
        # What is explained is unbiased; its share of Var x is so up to 1/n of chance, as both are of one sample.
        close, error = within(found * s.x.var(-2, correction=0).sum(-1) / s.variance, 0.0, standard_errors)
        assert close
        assert error <= by_chance / 10
        assert found.mean().abs() <= share * by_chance

    @pytest.mark.parametrize(
        ("teacher", "level", "n"), [(line(), 1.0, 40), (ring(2), 1.0, 40), (ring(2), 3.0, 60), (ring(1), 0.3, 40)]
    )
    @pytest.mark.parametrize(("packs", "share"), [(3000, 0.3)])
    def test_little_of_it_is_left_where_the_noise_hides_more_in_some_places(self, teacher, level, n, packs, share):
        """Chance is the regression's exactly if Var[x | y] is the same at every y, as for Gaussian students."""
        dim = teacher.dim
        sigma = level * math.sqrt(torch.diagonal(teacher.cov).mean().item())
        x = teacher.sample(packs * n, torch.Generator().manual_seed(0)).reshape(packs, n, dim)
        y = x + sigma * normals(packs, n, dim, seed=1)
        exact = teacher.denoise(y.reshape(-1, dim), sigma).reshape(x.shape)
        left = (x - exact).square().sum(-1).mean() / x.var((0, 1)).sum()
        found = fake_residual(x, exact, y)
        by_chance = (dim + 1) / n * left
        assert found.std() / math.sqrt(packs) <= 0.1 * by_chance
        assert found.mean().abs() <= share * by_chance

    @pytest.mark.parametrize(("packs", "n", "dim"), [(50, 30, 3)])
    @pytest.mark.parametrize("tolerance", [1e-9])
    def test_functions_that_say_nothing_new_change_nothing(self, packs, n, dim, tolerance):
        """Copies, mixtures, a constant, or another unit: only the directions that they span are counted."""
        s = Students(packs, n, dim, 1.0)
        fake = s.exact + 0.1 * (s.y - s.m) @ covariance(dim, 9)
        want = fake_residual(s.x, fake, s.y)
        assert want.abs().min() > 1e-8
        constant = torch.full((packs, n, 1), 0.1, dtype=torch.float64)
        zero = torch.zeros(packs, n, 2, dtype=torch.float64)
        for features in (
            torch.cat([s.y, s.y], -1),
            torch.cat([s.y, s.exact, s.y.sum(-1, keepdim=True)], -1),
            torch.cat([s.y, constant], -1),
            torch.cat([zero, s.y], -1),
            s.y @ covariance(dim, 8) + 40.0,
            s.y * torch.logspace(-9, 9, dim, dtype=torch.float64),
        ):
            torch.testing.assert_close(fake_residual(s.x, fake, features), want, rtol=tolerance, atol=tolerance)
        # A direction of its own is counted.
        more = fake_residual(s.x, fake, torch.cat([s.y, normals(packs, n, 1, seed=6)], -1))
        assert (more - want).abs().min() > 1e-8


@pytest.mark.parametrize(("n", "dim", "features"), [(5, 1, 3), (30, 2, 2), (30, 3, 9), (12, 4, 1), (9, 2, 0)])
@pytest.mark.parametrize("tolerance", [1e-10])
def test_is_numpys_regression_with_its_degrees_of_freedom(n, dim, features, tolerance):
    """Sum of squares explained less (k + 1) residual mean squares, as in an analysis of variance."""
    x, fake, f = normals(n, dim) + 1.0, 0.6 * normals(n, dim, seed=1), normals(n, features, seed=2) - 2.0
    design = np.column_stack([np.ones(n), f.numpy()])
    residual = (x - fake).numpy()
    fitted = design @ np.linalg.lstsq(design, residual, rcond=None)[0]
    mean_square = ((residual - fitted) ** 2).sum() / (n - features - 1)
    want = ((fitted**2).sum() - (features + 1) * mean_square) / ((x.numpy() - x.numpy().mean(0)) ** 2).sum()
    found = fake_residual(x, fake, f)
    assert found.shape == ()
    assert found.item() == pytest.approx(want, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("tolerance", [1e-12])
def test_every_student_of_a_pack_is_read_for_itself(tolerance):
    x, fake, f = normals(2, 3, 20, 2), normals(2, 3, 20, 2, seed=1), normals(2, 3, 20, 5, seed=2)
    f[1, 2, :, 3:] = f[1, 2, :, :2]  # of less rank than its pack-mates
    found = fake_residual(x, fake, f)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = fake_residual(x[i, j], fake[i, j], f[i, j])
            assert found[i, j].item() == pytest.approx(alone.item(), abs=tolerance)


@pytest.mark.parametrize("tolerance", [1e-5])
def test_single_precision_is_read_in_double(tolerance):
    x, fake, f = normals(20, 2), normals(20, 2, seed=1), normals(20, 3, seed=2)
    found = fake_residual(x.float(), fake.float(), f.float())
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(fake_residual(x, fake, f).item(), abs=tolerance)


@pytest.mark.parametrize(
    ("x", "features", "words"),
    [
        (normals(4, 2), normals(4, 3), r"n must be >= k \+ 2 = 5, got 4"),
        (normals(3, 4, 2), normals(3, 4, 3), r"n must be >= k \+ 2 = 5, got 4"),
        (torch.zeros(6, 2), normals(6, 2), "x must not be constant"),
        (torch.full((7, 2), 0.1, dtype=torch.float64), normals(7, 2), "x must not be constant"),
        (torch.cat([normals(1, 9, 2), torch.ones(1, 9, 2)]), normals(2, 9, 2), "x must not be constant"),
    ],
    ids=["few points", "few points in a pack", "zero", "constant", "one of a pack"],
)
def test_bad_students_are_named(x, features, words):
    with pytest.raises(ValueError, match=words):
        fake_residual(x, torch.zeros_like(x), features)
