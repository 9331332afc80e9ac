"""The freedom fraction: planted fields with known shares, and numpy's least squares."""

import functools
import math

import numpy as np
import pytest
import torch

from sandbox.measure.freedom import freedom, split
from sandbox.measure.potentials import Potentials
from sandbox.student.initialise import haar_rotation
from sandbox.teacher.families import gaussian, random


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(dim, seed=0):
    basis = haar_rotation(dim, torch.Generator().manual_seed(seed))
    return (basis * torch.linspace(0.3, 3.0, dim, dtype=torch.float64)) @ basis.mT


def antisymmetric(dim, seed=1):
    K = normals(dim, dim, seed=seed)
    return K - K.mT


def points(law, n, seed=0):
    return law.sample(n, torch.Generator().manual_seed(seed))


@functools.cache
def scale(law, dim):
    """Root mean squares of the two fields below under the law."""
    x = points(law, 20000, seed=99)
    return tuple(
        f.square().sum(-1).mean().sqrt().item() for f in (x @ symmetric(dim), law.score(x) @ antisymmetric(dim))
    )


def planted(law, x, share):
    """A field with E|w|^2 / E|u|^2 = share: M x with M symmetric, a gradient, and K s(x) with K antisymmetric and s the
    score, for which div(p w) = sum_ij K_ij d_i d_j p = 0."""
    dim = x.shape[-1]
    horizontal, vertical = scale(law, dim)
    gradient, remapping = x @ symmetric(dim) / horizontal, law.score(x) @ antisymmetric(dim).mT / vertical
    return math.sqrt(1 - share) * gradient + math.sqrt(share) * remapping


def by_numpy(x, u, F=None):
    """Least squares on all gradients at once: constants, symmetric matrices, and the fields F (m, n, d)."""
    n, d = x.shape
    columns = [np.tile(e, (n, 1)) for e in np.eye(d)]
    for i in range(d):
        for j in range(i + 1):
            E = np.zeros((d, d))
            E[i, j] = E[j, i] = 1
            columns.append(x.numpy() @ E)
    columns += [] if F is None else list(F.numpy())
    design = np.stack([c.ravel() / np.linalg.norm(c) for c in columns], -1)
    return (design @ np.linalg.lstsq(design, u.numpy().ravel(), rcond=1e-9)[0]).reshape(n, d)


GAUSSIANS = {d: gaussian(d, 1.0, 1.0) for d in (2, 4, 16, 64)}
MIXTURES = {d: random(d) for d in (2, 4, 16, 64)}


class TestSplit:
    @pytest.mark.parametrize("dim", [2, 3, 5])
    @pytest.mark.parametrize("waves", [0, 6])
    def test_each_half_is_least_squares(self, dim, waves):
        x, u = 1 + normals(60, dim) @ symmetric(dim), normals(2, 60, dim, seed=1)
        F = Potentials(None, x, waves) if waves else None
        crossed, within, functions = split(x, u, F)
        for here, there in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
            for p in range(2):
                want = by_numpy(x[here], u[p, here], F and F(x[here]))
                np.testing.assert_allclose(within[p, here].numpy(), want, atol=1e-8)
                # Elsewhere the same phi: a fit to both halves of what it says there changes nothing.
                both = torch.cat([within[p, here], crossed[p, there]])
                at = torch.cat([x[here], x[there]])
                again = by_numpy(at, both, F and F(at))
                np.testing.assert_allclose(again, both.numpy(), atol=1e-8)
        assert functions == dim + dim * (dim + 1) // 2 + waves

    def test_what_a_field_does_at_a_point_does_not_move_the_fit_there(self):
        law = MIXTURES[2]
        x, u = points(law, 200), normals(1, 200, 2)
        other = u.clone()
        other[:, ::2] = normals(1, 100, 2, seed=5)
        F = Potentials(law, x)
        before, after = split(x, u, F)[0], split(x, other, F)[0]
        torch.testing.assert_close(before[:, ::2], after[:, ::2], rtol=0, atol=0)
        assert (before[:, 1::2] - after[:, 1::2]).abs().max() > 0.01

    def test_points_on_a_line_in_the_plane_have_no_gradient_across_it(self):
        # Only what the points show is fitted: one direction, and the turn that leads out of it.
        x = torch.outer(normals(50), torch.tensor([1.0, 0.0], dtype=torch.float64))
        u = torch.stack([x[:, 0], 2 * x[:, 0]], -1)[None]
        crossed, _, functions = split(x, u)
        torch.testing.assert_close(crossed, u, rtol=0, atol=1e-10)
        assert functions == 4


class TestPlantedFields:
    @pytest.mark.parametrize("dim", [2, 4, 16, 64])
    @pytest.mark.parametrize("laws", [GAUSSIANS, MIXTURES], ids=["gaussian", "mixture"])
    def test_a_quadratic_potential_reads_zero(self, dim, laws):
        x = points(laws[dim], 512)
        found = freedom(x, planted(laws[dim], x, 0.0), Potentials(laws[dim], x, None if dim < 64 else 32))
        assert found.fraction == pytest.approx(0, abs=1e-9)
        assert found.error < 1e-9

    @pytest.mark.parametrize(
        ("dim", "tolerance"),
        # What is left is where only one half of the points shows a function's gradient, between modes: it is not
        # extrapolated. In sample next to nothing is left.
        [(2, 0.05), (4, 0.03), (16, 0.03), (64, 0.01)],
    )
    def test_gradients_that_the_mixture_suggests_read_zero(self, dim, tolerance):
        law = MIXTURES[dim]
        x = points(law, 1024 if dim < 64 else 512)
        # The denoiser at a level of its own is grad(|x|^2/2 + sigma^2 log p_sigma), a Brenier map.
        found = freedom(x, law.denoise(x, 0.4) - x, Potentials(law, x))
        assert -1e-3 < found.fraction < tolerance
        assert found.in_sample < 0.1 * tolerance

    @pytest.mark.parametrize("dim", [2, 4, 16, 64])
    @pytest.mark.parametrize("laws", [GAUSSIANS, MIXTURES], ids=["gaussian", "mixture"])
    @pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
    @pytest.mark.parametrize(("standard_errors", "resolution"), [(4, 0.1)])
    def test_a_planted_share_is_read(self, dim, laws, share, standard_errors, resolution):
        law = laws[dim]
        x = points(law, 512)
        # Quadratics alone hold the gradient at d = 64, where 256 more functions would only take time.
        found = freedom(x, planted(law, x, share), Potentials(law, x, None if dim < 64 else 32))
        assert abs(found.fraction - share) < standard_errors * found.error
        assert found.error < resolution
        assert found.in_sample < found.held_out

    # Of a vertical field only products of two fits' errors are left, which the error counts as if they were twice two.
    @pytest.mark.parametrize(("share", "size"), [(0.1, 1.0), (0.3, 1.0), (0.7, 1.0), (1.0, math.sqrt(2))])
    @pytest.mark.parametrize(("seeds", "tolerance"), [(50, 0.3)])
    def test_the_fraction_is_unbiased_between_its_bounds_and_its_error_is_its_scatter(
        self, share, size, seeds, tolerance
    ):
        law, readings = MIXTURES[4], []
        for seed in range(seeds):
            x = points(law, 256, seed)
            found = freedom(x, planted(law, x, share), Potentials(law, x, 100))
            readings.append((found.fraction, found.error, found.in_sample, found.held_out))
        fraction, error, low, high = np.array(readings).T
        assert abs(fraction.mean() - share) < 4 * fraction.std() / math.sqrt(seeds)
        # The scatter of 50 readings is known to a tenth.
        assert math.sqrt(np.square(error).mean()) / fraction.std() == pytest.approx(size, rel=tolerance)
        assert low.mean() < 0.95 * share < 1.05 * share < high.mean()

    def test_a_gradient_outside_the_span_is_an_upper_bound(self):
        # phi = (a.x)^3 / 3 is a gradient, and mostly not a quadratic's: E|u - Mx|^2 / E|u|^2 = 2/3 for a normal law,
        # by Hermite's H_2 = t^2 - 1 against E t^4 = 3.
        x = normals(4000, 4)
        u = torch.zeros_like(x)
        u[:, 0] = x[:, 0].square()
        quadratics = freedom(x, u)
        assert abs(quadratics.fraction - 2 / 3) < 4 * quadratics.error < 0.2
        more = freedom(x, u, Potentials(None, x, 200))
        assert 0 <= more.fraction < 0.5 * quadratics.fraction

    @pytest.mark.parametrize("n", [10, 500])
    def test_in_one_dimension_there_is_no_freedom(self, n):
        found = freedom(normals(n, 1), normals(3, n, 1, seed=1), Potentials(None, normals(n, 1)))
        assert found[:8] == (0,) * 8
        assert found.each.tolist() == [0, 0, 0]

    @pytest.mark.parametrize("dim", [2, 4, 16, 64])
    @pytest.mark.parametrize(("standard_errors", "resolution"), [(4, 0.1)])
    def test_a_rotation_of_a_standard_normal_is_all_freedom(self, dim, standard_errors, resolution):
        x = normals(512, dim, seed=8)
        found = freedom(x, x @ antisymmetric(dim).mT, Potentials(None, x, 32))
        assert abs(found.fraction - 1) < standard_errors * found.error < standard_errors * resolution

    # Of r readings the mean of z is known to 1/sqrt(r), and its spread to 1/sqrt(2 r) or a little more.
    @pytest.mark.parametrize(("dim", "readings", "size"), [(2, 60, 60), (16, 32, 40), (64, 24, 0)])
    @pytest.mark.parametrize("share", [0.3])
    def test_readings_scatter_by_their_errors(self, dim, readings, size, share):
        law, z = MIXTURES[dim], []
        for seed in range(readings):
            x = points(law, 400, 100 + seed)
            found = freedom(x, planted(law, x, share), Potentials(law, x, size))
            z.append((found.fraction - share) / found.error)
        assert abs(np.mean(z)) < 3 / math.sqrt(readings)
        assert abs(np.std(z) - 1) < 3 / math.sqrt(2 * readings)


class TestChance:
    @pytest.mark.parametrize(("dim", "n"), [(2, 256), (16, 256)])
    @pytest.mark.parametrize("seed", [0, 3])
    def test_points_of_the_same_seed_are_none_of_the_random_fields(self, dim, n, seed):
        # x itself is a gradient and would read 0, which is far below what any field of 32 does.
        found = freedom(normals(n, dim, seed=seed), normals(n, dim, seed=9), seed=seed)
        assert found.low > 0.9
        assert found.null == pytest.approx(1, abs=0.02)

    @pytest.mark.parametrize(("dim", "n"), [(2, 256), (4, 256), (16, 256), (64, 512)])
    def test_random_fields_read_one(self, dim, n):
        law = MIXTURES[dim]
        x = points(law, n)
        found = freedom(x, normals(n, dim, seed=3), Potentials(law, x, 20))
        # 32 fields: the standard error of their mean, from their range of about four standard deviations.
        assert abs(found.null - 1) < 4 * (found.high - found.low) / 4 / math.sqrt(32)
        assert found.low < 1 < found.high
        assert abs(found.fraction - 1) < 4 * found.error

    @pytest.mark.parametrize(("dim", "n"), [(2, 200), (16, 400), (64, 800)])
    def test_in_sample_the_functions_fit_some_of_the_noise(self, dim, n):
        u = normals(40, n, dim, seed=1)
        found = freedom(normals(n, dim), u)
        assert found.functions == dim + dim * (dim + 1) // 2
        # Each half has n d / 2 equations; the share that is left is a mean of 80 chi^2 variables over them.
        lost = found.functions / (n * dim / 2)
        assert found.in_sample == pytest.approx(1 - lost, abs=4 * math.sqrt(2 * lost / (40 * n * dim)))
        assert found.held_out > 1 + lost / 2

    def test_many_fields_are_pooled_by_energy(self):
        x, u = normals(300, 3), normals(2, 300, 3, seed=1) * torch.tensor([1.0, 3.0])[:, None, None]
        both = freedom(x, u)
        energy = u.square().sum((1, 2))
        assert both.each.tolist() == pytest.approx([freedom(x, one).fraction for one in u], abs=1e-12)
        assert both.fraction == pytest.approx(((both.each * energy).sum() / energy.sum()).item(), abs=1e-12)


@pytest.mark.parametrize(
    ("x", "u", "message"),
    [
        (torch.zeros(10, 2), torch.ones(10, 3), r"x and u must have shapes \(n, d\) and \(P, n, d\)"),
        (torch.zeros(10), torch.ones(10), r"x and u must have shapes"),
        (torch.zeros(10, 2), torch.ones(0, 10, 2), r"x and u must have shapes"),
        (torch.zeros(5, 2), torch.ones(5, 2), r"n must be >= 2 \(d \+ 1\) = 6, got 5"),
        (torch.full((10, 2), torch.nan), torch.ones(10, 2), "x must be finite, got 20 non-finite numbers"),
        (torch.ones(10, 2), torch.full((10, 2), torch.inf), "u must be finite, got 20 non-finite numbers"),
        (torch.ones(10, 2), torch.zeros(10, 2), "u must not be zero everywhere"),
    ],
)
def test_bad_input_is_named(x, u, message):
    with pytest.raises(ValueError, match=message):
        freedom(x, u)
