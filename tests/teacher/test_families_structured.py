"""Teachers with two levels of modes, on a subspace, and with the spectrum of images."""

import math

import numpy as np
import pytest
import torch

from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.families import gaussian, hierarchical, image_like, manifold, random
from sandbox.teacher.mixture import GaussianMixture
from sandbox.theory.levels import speciation

DIMS = (1, 2, 3, 16, 128, 1024)


def between(means):
    """Eigenvalues of the between-mode covariance of equal modes, by numpy, ascending."""
    return np.linalg.eigvalsh(np.cov(means.numpy().T, bias=True).reshape(means.shape[-1], -1))


class TestHierarchical:
    @pytest.mark.parametrize("options", [{}, {"modes": 6, "groups": 3, "inner": 0.5}])
    def test_the_first_coordinates_do_not_depend_on_the_dimension(self, options):
        wide = hierarchical(128, seed=3, **options)
        for dim in (1, 2, 16):
            assert torch.equal(hierarchical(dim, seed=3, **options).means, wide.means[:, :dim])

    @pytest.mark.parametrize(("modes", "groups"), [(16, 4), (6, 3), (4, 1), (5, 5)])
    @pytest.mark.parametrize(("dim", "standard_errors"), [(1024, 5)])
    def test_separations_of_both_levels(self, modes, groups, dim, standard_errors):
        law = hierarchical(dim, modes, groups, separation=1.5, inner=0.4)
        inside = law.means.reshape(groups, -1, dim)
        centres = inside.mean(1)
        # Each sum of squares is a chi-squared of so many degrees of freedom.
        assert abs((centres / 1.5).square().sum() - groups * dim) < standard_errors * math.sqrt(2 * groups * dim)
        freedom = (modes - groups) * dim
        spread = ((inside - centres[:, None]) / 0.4).square().sum()
        assert abs(spread - freedom) <= standard_errors * math.sqrt(2 * freedom) + 1e-9
        if groups > 1:
            # Consecutive modes are a group: all its modes are nearer to its centre than to any other.
            assert torch.equal(torch.cdist(law.means, centres).argmin(-1), torch.arange(modes) // (modes // groups))

    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_the_levels_add_up(self, tolerance):
        """A group's mean is its centre whatever is inside, so that the two levels' covariances add up."""
        few, many = (hierarchical(5, inner=inner).means for inner in (0.1, 0.9))
        centres = few.reshape(4, 4, 5).mean(1)
        assert (many.reshape(4, 4, 5).mean(1) - centres).abs().max() < tolerance
        inside = np.mean([np.cov(group.numpy().T, bias=True) for group in many.reshape(4, 4, 5)], axis=0)
        whole = np.cov(many.numpy().T, bias=True)
        assert np.abs(np.cov(centres.numpy().T, bias=True) + inside - whole).max() < tolerance

    @pytest.mark.parametrize("dim", [2, 8, 64])
    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_two_speciation_levels(self, dim, seed, tolerance):
        """The groups' from the whole law; the modes' from each group as a law of its own."""
        law = hierarchical(dim, seed=seed)
        outer = speciation(law)[0][0].item()
        assert outer == pytest.approx(math.sqrt(between(law.means)[-1] - 0.01), rel=tolerance)
        for inside in law.means.reshape(4, 4, dim):
            alone = GaussianMixture([0.25] * 4, inside, Isotropic(0.01))
            inner = speciation(alone)[0][0].item()
            assert inner == pytest.approx(math.sqrt(between(inside)[-1] - 0.01), rel=tolerance)
            assert 0 < inner < outer / 1.5

    @pytest.mark.parametrize("dim", [64])
    def test_groups_are_decided_before_modes(self, dim):
        """Between the two levels a noised sample's group is known and its mode is not; below both, both are."""
        law = hierarchical(dim)
        outer = speciation(law)[0][0].item()
        inner = speciation(GaussianMixture([0.25] * 4, law.means[:4], Isotropic(0.01)))[0][0].item()
        g = torch.Generator().manual_seed(0)
        mode = torch.randint(16, (2000,), generator=g)
        noise = torch.randn(2000, dim, generator=g, dtype=torch.float64)

        def known(sigma):
            r = law.responsibilities(law.means[mode] + math.sqrt(sigma**2 + 0.01) * noise, sigma)
            rows = torch.arange(2000)
            return r.reshape(-1, 4, 4).sum(-1)[rows, mode // 4].mean().item(), r[rows, mode].mean().item()

        group, single = known(math.sqrt(inner * outer))
        assert group > 0.9 > 0.6 > single
        assert min(known(inner / 4)) > 0.9
        assert max(known(4 * outer)) < 0.6


class TestManifold:
    @pytest.mark.parametrize("dim", [2, 3, 16, 128])
    @pytest.mark.parametrize("intrinsic", [1, 2])
    @pytest.mark.parametrize(("std", "floor", "tolerance"), [(0.3, 1e-3, 1e-13), (0.5, 0.04, 1e-13)])
    def test_variances_along_and_across(self, dim, intrinsic, std, floor, tolerance):
        law = manifold(dim, intrinsic, modes=3, std=std, floor=floor)
        wanted = np.diag([std**2] * intrinsic + [floor] * (dim - intrinsic))
        for k in range(3):
            assert np.abs(law.covariance.dense(k, dim).numpy() - wanted).max() < tolerance * std**2
        assert law.means[:, intrinsic:].abs().sum() == 0
        assert law.smallest_std == pytest.approx(math.sqrt(floor if dim > intrinsic else std**2), rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_on_the_subspace_it_is_the_random_teacher(self, tolerance):
        law, twin = manifold(64, intrinsic=5, modes=4, separation=0.7, seed=3), random(5, 4, 0.7, seed=3)
        assert torch.equal(law.means[:, :5], twin.means)
        x = twin.sample(50, torch.Generator().manual_seed(0))
        padded = torch.nn.functional.pad(x, (0, 59))
        assert (law.score(padded, 0.4)[:, :5] - twin.score(x, 0.4)).abs().max() < tolerance

    @pytest.mark.parametrize("tolerance", [1e-11])
    def test_only_the_floor_is_added_by_a_dimension(self, tolerance):
        traces = [torch.trace(manifold(d, floor=0.01).cov).item() for d in (2, 3, 16, 128)]
        assert (np.array(traces) - traces[0]).tolist() == pytest.approx([0, 0.01, 0.14, 1.26], abs=tolerance)
        tops = [torch.linalg.eigvalsh(manifold(d, floor=0.01).cov)[-1].item() for d in (2, 3, 16, 128)]
        assert tops == pytest.approx([tops[0]] * 4, rel=tolerance)

    def test_the_first_coordinates_do_not_depend_on_the_dimension(self):
        wide = manifold(128, intrinsic=3, seed=2)
        for dim in (3, 4, 16):
            assert torch.equal(manifold(dim, intrinsic=3, seed=2).means, wide.means[:, :dim])

    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-14), (2, 1e-14), (3, 1e-14)])
    def test_a_subspace_larger_than_the_space_is_the_space(self, dim, tolerance):
        law, twin = manifold(dim, intrinsic=4, seed=2), random(dim, seed=2)
        assert torch.equal(law.means, twin.means)
        assert (law.cov - twin.cov).abs().max() < tolerance

    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_a_floor_as_high_as_the_modes(self, tolerance):
        assert (manifold(5, std=0.5, floor=0.25).covariance.dense(0, 5) - 0.25 * torch.eye(5)).abs().max() < tolerance


class TestImageLike:
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize(("modes", "share"), [(2, 0.5), (8, 0.9)])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_mean_and_variances_are_the_gaussian_teachers(self, dim, modes, share, tolerance):
        law, twin = image_like(dim, modes, 0.7, 1.2, share, seed=1), gaussian(dim, 0.7, 1.2)
        between, within = law.means.numpy().var(0), law.covariance.variances.numpy()
        lam = twin.covariance.dense(0, dim).diagonal().numpy()
        assert np.abs(law.mean.numpy()).max() < tolerance
        assert between.tolist() == pytest.approx((share * lam).tolist(), rel=tolerance)
        assert within.tolist() == [pytest.approx(((1 - share) * lam).tolist(), rel=tolerance)] * modes
        assert between.sum() + within.mean(0).sum() == pytest.approx(0.7 * dim, rel=tolerance)

    @pytest.mark.parametrize("exponent", [0.0, 1.5])
    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-14), (16, 1e-14)])
    def test_one_mode_is_the_gaussian_teacher(self, exponent, dim, tolerance):
        law, twin = image_like(dim, 1, 0.7, exponent), gaussian(dim, 0.7, exponent)
        assert law.components == 1
        assert (law.cov - twin.cov).abs().max() < tolerance
        assert law.mean.abs().max() == 0

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("tolerance", [0.05])
    def test_the_leading_eigenvalue_grows_as_the_dimension(self, seed, tolerance):
        """As the Gaussian's, which falls by 1 / sqrt(dim) of its limit on the way: by 0.04 from 128 to 512."""
        for eigenvalues in (lambda law: between(law.means), lambda law: np.linalg.eigvalsh(law.cov.numpy())):
            shares = [eigenvalues(image_like(dim, seed=seed))[-1] / dim for dim in (128, 512)]
            assert shares[1] == pytest.approx(shares[0], rel=tolerance)
            assert 0.3 < shares[1] < 0.6

    @pytest.mark.parametrize(("dim", "leading"), [(128, 4)])
    def test_modes_differ_mostly_along_the_leading_eigenvectors(self, dim, leading):
        """More so by far than those of a flat spectrum, seven directions of which are as good as any others."""

        def share(exponent):
            means = image_like(dim, exponent=exponent, seed=2).means
            return (means[:, :leading].square().sum() / means.square().sum()).item()

        powers = np.arange(1, dim + 1) ** -1.5
        assert share(1.5) == pytest.approx(powers[:leading].sum() / powers.sum(), rel=1e-12)
        assert share(1.5) > 0.6 > 0.05 > share(0.0)

    @pytest.mark.parametrize("dim", [1, 2, 16])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_the_first_coordinates_depend_on_the_dimension_by_one_factor(self, dim, tolerance):
        ratios = (image_like(dim, seed=3).means / image_like(128, seed=3).means[:, :dim]).flatten().numpy()
        assert np.ptp(ratios) < tolerance * abs(ratios[0])

    def test_seeds(self):
        assert torch.equal(image_like(4, seed=1).means, image_like(4, seed=1).means)
        assert not torch.equal(image_like(4, seed=1).means, image_like(4, seed=2).means)
