"""What each family holds fixed while the dimension grows."""

import math
import sys

import numpy as np
import pytest
import torch

from sandbox.teacher.families import (
    FAMILIES,
    Lazy,
    family,
    gaussian,
    hierarchical,
    image_like,
    manifold,
    memorising,
    random,
    ring,
    shear,
)

DIMS = (1, 2, 3, 16, 128, 1024)
# The smallest dimension of a family, where it is not 1.
LEAST = {"shear": 2}


def between_by_numpy(law):
    """The largest eigenvalue of the between-mode covariance of equal modes, from the modes' Gram matrix."""
    centred = law.means.numpy() - law.means.numpy().mean(0)
    return np.linalg.eigvalsh(centred @ centred.T / len(centred))[-1]


def spectrum(law):
    return torch.cat([law.covariance.dense(k, law.dim).diagonal() for k in range(law.components)])


class TestGaussian:
    @pytest.mark.parametrize("variance", [1.0, 0.3])
    @pytest.mark.parametrize("exponent", [0.0, 0.5, 1.5, 3.0])
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_trace_grows_as_the_dimension(self, dim, exponent, variance, tolerance):
        law = gaussian(dim, variance=variance, exponent=exponent)
        assert (law.components, law.dim) == (1, dim)
        assert law.means.abs().max() == 0
        assert spectrum(law).sum().item() == pytest.approx(variance * dim, rel=tolerance)

    @pytest.mark.parametrize("exponent", [0.0, 0.5, 1.5, 3.0])
    @pytest.mark.parametrize(("dim", "tolerance"), [(64, 1e-13)])
    def test_power_law(self, exponent, dim, tolerance):
        lam = spectrum(gaussian(dim, exponent=exponent))
        ratios = (lam / lam[0]).tolist()
        assert ratios == pytest.approx([k**-exponent for k in range(1, dim + 1)], rel=tolerance)

    @pytest.mark.parametrize("dim", [1, 7, 128])
    def test_the_law_of_stored_results_to_the_last_bit(self, dim):
        """Results are stored under a cell's options alone: without `hold`, they stand for this arithmetic."""
        powers = torch.arange(1, dim + 1, dtype=torch.float64) ** -1.5
        assert torch.equal(gaussian(dim, 0.7, 1.5).covariance.variances[0], powers * (0.7 * dim / powers.sum()))
        assert torch.equal(gaussian(dim, 0.7).covariance.variance, torch.tensor([0.7], dtype=torch.float64))

    def test_the_leading_mode_of_an_image_like_spectrum_takes_a_fixed_share(self):
        """lambda_1 / d -> 1 / zeta(3/2) = 0.3828, from above since the truncated sum is smaller."""
        shares = [spectrum(gaussian(d, exponent=1.5))[0].item() / d for d in (256, 4096)]
        assert shares == sorted(shares, reverse=True)
        # what the sum leaves out beyond d is 2 / sqrt(d), and 1 / zeta(3/2)^2 of that moves the share
        assert shares[1] == pytest.approx(1 / 2.612375348685488 + 2 / math.sqrt(4096) / 2.612375348685488**2, rel=5e-4)


class TestRing:
    @pytest.mark.parametrize("dim", [d for d in DIMS if d > 1])
    @pytest.mark.parametrize("modes", [1, 2, 8, 5])
    @pytest.mark.parametrize(("radius", "std", "tolerance"), [(2.5, 0.2, 1e-14)])
    def test_the_circle_does_not_depend_on_the_dimension(self, dim, modes, radius, std, tolerance):
        law = ring(dim, modes=modes, radius=radius, std=std)
        assert law.weights.tolist() == [1 / modes] * modes
        assert law.means[:, 2:].abs().sum() == 0
        assert law.means.norm(dim=-1).tolist() == pytest.approx([radius] * modes, rel=tolerance)
        assert torch.equal(law.means[:, :2], ring(2, modes=modes, radius=radius, std=std).means)
        if modes > 1:
            neighbours = (law.means - law.means.roll(1, 0)).norm(dim=-1).tolist()
            assert neighbours == pytest.approx([2 * radius * math.sin(math.pi / modes)] * modes, rel=tolerance)

    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize(("std", "tolerance"), [(0.2, 1e-14)])
    def test_variance_of_a_mode_per_coordinate(self, dim, std, tolerance):
        law = ring(dim, std=std)
        assert spectrum(law).tolist() == pytest.approx([std**2] * (law.components * dim), rel=tolerance)

    @pytest.mark.parametrize("modes", [2, 8])
    def test_one_dimension_is_a_pair(self, modes):
        law = ring(1, modes=modes, radius=2.5)
        assert law.means.tolist() == [[-2.5], [2.5]]
        assert law.weights.tolist() == [0.5, 0.5]

    @pytest.mark.parametrize(("modes", "share"), [(2, 1.0), (3, 0.5), (8, 0.5)])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_the_between_mode_covariance_does_not_depend_on_the_dimension(self, modes, share, tolerance):
        levels = [between_by_numpy(ring(dim, modes=modes, radius=2.5)) for dim in DIMS[1:]]
        assert levels == pytest.approx([share * 2.5**2] * len(levels), rel=tolerance)


class TestRandom:
    @pytest.mark.parametrize("dim", [1, 7, 128])
    def test_the_law_of_stored_results_to_the_last_bit(self, dim):
        """As for the Gaussian."""
        source = torch.Generator().manual_seed(3)
        columns = [torch.randn(5, generator=source, dtype=torch.float64) for _ in range(dim)]
        law = random(dim, 5, 0.7, 0.2, 3)
        assert torch.equal(law.means, 0.7 * torch.stack(columns, -1))
        assert torch.equal(law.covariance.variance, torch.full((5,), 0.2**2, dtype=torch.float64))

    def test_the_first_coordinates_do_not_depend_on_the_dimension(self):
        wide = random(128, seed=3)
        for dim in (1, 2, 16):
            assert torch.equal(random(dim, seed=3).means, wide.means[:, :dim])

    @pytest.mark.parametrize(("dim", "modes", "separation", "standard_errors"), [(4096, 8, 0.7, 5)])
    def test_separation_per_coordinate(self, dim, modes, separation, standard_errors):
        law = random(dim, modes=modes, separation=separation)
        distances = torch.pdist(law.means).square() / (2 * separation**2)
        # each is a chi-squared of dim degrees of freedom
        assert ((distances - dim).abs() <= standard_errors * math.sqrt(2 * dim)).all()
        assert law.weights.tolist() == [1 / modes] * modes

    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize(("std", "tolerance"), [(0.2, 1e-14)])
    def test_variance_of_a_mode_per_coordinate(self, dim, std, tolerance):
        law = random(dim, std=std)
        assert spectrum(law).tolist() == pytest.approx([std**2] * (law.components * dim), rel=tolerance)

    def test_seeds(self):
        assert torch.equal(random(4, seed=1).means, random(4, seed=1).means)
        assert not torch.equal(random(4, seed=1).means, random(4, seed=2).means)

    def test_global_random_state_is_untouched(self):
        torch.manual_seed(0)
        before = torch.get_rng_state()
        random(4)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dim", [0, 16])
def test_by_name(name, dim):
    """At the family's smallest dimension, and at another."""
    dim = dim or LEAST.get(name, 1)
    law = family(name, dim)
    assert law.dim == dim
    assert law.means.dtype == torch.float64
    assert torch.equal(law.means, FAMILIES[name](dim).means)
    assert torch.isfinite(law.score(torch.zeros(1, dim, dtype=torch.float64), 0.5)).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_have_the_moments_of_the_law(name):
    law = family(name, 4)
    x = law.sample(20000, torch.Generator().manual_seed(1)).numpy()
    std = law.cov.diagonal().sqrt().numpy()
    # Standard errors of a mean and, the tails being no heavier than a Gaussian's, at most of a variance.
    assert (np.abs(x.mean(0) - law.mean.numpy()) < 5 * std / math.sqrt(len(x))).all()
    assert np.abs(np.cov(x.T) - law.cov.numpy()).max() < 5 * math.sqrt(2 / len(x)) * (std**2).max()


def test_options_by_name():
    assert family("ring", 2, modes=3, radius=1.5).means.shape == (3, 2)
    assert torch.equal(family("random", 3, modes=4, seed=5).means, random(3, modes=4, seed=5).means)
    law = family("memorising", 2, points=5, population="ring", radius=1.5)
    assert torch.equal(law.means, memorising(2, points=5, population=ring(2, radius=1.5)).means)


class TestLazy:
    """A family that is not imported before it is asked for."""

    @pytest.fixture
    def late(self, tmp_path, monkeypatch):
        (tmp_path / "late_family.py").write_text(
            "from sandbox.teacher.families import gaussian\n\n\ndef late(dim, variance=2.0):\n"
            "    return gaussian(dim, variance)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "late_family", raising=False)
        monkeypatch.setitem(FAMILIES, "late", Lazy("late_family", "late"))
        yield
        sys.modules.pop("late_family", None)

    def test_is_imported_when_it_is_made(self, late):
        family("gaussian", 3)
        assert "late_family" not in sys.modules
        assert family("late", 3, variance=4.0).covariance.variance.item() == 4
        assert "late_family" in sys.modules
        assert FAMILIES["late"](3).covariance.variance.item() == 2

    def test_refuses_what_is_not_its_option(self, late):
        with pytest.raises(ValueError, match="std is not an option of family 'late'; it has variance"):
            family("late", 3, std=1.0)

    def test_an_unknown_name_imports_nothing(self, late):
        with pytest.raises(ValueError, match=r"family must be one of .*late.*, got 'grid'"):
            family("grid", 2)
        assert "late_family" not in sys.modules


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: family("grid", 2), r"family must be one of digits, gaussian, .*ring.*, got 'grid'"),
        (lambda: family("ring", 2, seed=1), r"seed is not an option of family 'ring'; it has modes, radius, std"),
        (lambda: family("gaussian", 2, varience=1.0), r"varience is not an option of family 'gaussian'"),
        *[
            (
                lambda build=build, dim=dim: build(dim),
                rf"dim must be an integer >= {LEAST.get(name, 1)}, got {dim}",
            )
            for name, build in FAMILIES.items()
            for dim in (0, -3, 2.5, True, math.nan, math.inf, "two")
        ],
        (lambda: gaussian(2, variance=0.0), r"variance must be > 0, got 0\.0"),
        (lambda: gaussian(2, variance=math.inf), r"variance must be > 0, got inf"),
        (lambda: gaussian(2, variance=math.nan), r"variance must be > 0, got nan"),
        (lambda: gaussian(2, exponent=-1.0), r"exponent must be >= 0, got -1\.0"),
        (lambda: ring(2, modes=0), r"modes must be .*, got 0"),
        (lambda: ring(2, modes=2.5), r"modes must be .*, got 2\.5"),
        (lambda: ring(2, radius=-1.0), r"radius must be > 0, got -1\.0"),
        (lambda: ring(2, std=0.0), r"std must be > 0, got 0\.0"),
        (lambda: random(2, modes=-1), r"modes must be .*, got -1"),
        (lambda: random(2, modes=2.5), r"modes must be .*, got 2\.5"),
        (lambda: random(2, separation=0.0), r"separation must be > 0, got 0\.0"),
        (lambda: random(2, std=-0.1), r"std must be > 0, got -0\.1"),
        (lambda: random(2, hold="volume"), r"hold must be one of coordinate, lambda_max, trace, speciation, got 'vol"),
        (lambda: random(2, held=2.0), r"held means nothing with hold coordinate, got 2\.0"),
        (lambda: random(2, hold="trace", held=0.0), r"held must be > 0, got 0\.0"),
        (lambda: random(2, hold="speciation", held=-1.0), r"held must be > 0, got -1\.0"),
        (lambda: random(2, modes=1, hold="lambda_max"), r"modes must be >= 2 with hold lambda_max, got 1"),
        (lambda: random(2, modes=1, hold="speciation"), r"modes must be >= 2 with hold speciation, got 1"),
        (
            lambda: random(2, std=9.0, hold="speciation"),
            r"std must be < \S+ at dim 8 for .* speciation level.*got 9\.0",
        ),
        (lambda: random(1, std=2.0, hold="speciation", held=1.0), r"std must be < \S+ at dim 1 for .*, got 2\.0"),
        (
            lambda: gaussian(2, hold="speciation"),
            r"hold must be one of coordinate, lambda_max, trace, got 'speciation'",
        ),
        (lambda: gaussian(2, hold="trace", held=math.nan), r"held must be > 0, got nan"),
        (lambda: gaussian(2, held=1.0), r"held means nothing with hold coordinate, got 1\.0"),
        (lambda: hierarchical(2, groups=0), r"groups must be an integer >= 1, got 0"),
        (lambda: hierarchical(2, modes=8, groups=3), r"modes must be a multiple of groups = 3, got 8"),
        (lambda: hierarchical(2, modes=2, groups=4), r"modes must be a multiple of groups = 4, got 2"),
        (lambda: hierarchical(2, separation=0.0), r"separation must be > 0, got 0\.0"),
        (lambda: hierarchical(2, inner=-1.0), r"inner must be > 0, got -1\.0"),
        (lambda: hierarchical(2, std=0.0), r"std must be > 0, got 0\.0"),
        (lambda: manifold(2, intrinsic=0), r"intrinsic must be an integer >= 1, got 0"),
        (lambda: manifold(2, intrinsic=1.5), r"intrinsic must be an integer >= 1, got 1\.5"),
        (lambda: manifold(2, floor=0.0), r"floor must be > 0, got 0\.0"),
        (lambda: manifold(2, std=0.3, floor=0.1), r"floor must be in \(0, std\^2 = 0\.09\], got 0\.1"),
        (lambda: manifold(2, modes=0), r"modes must be an integer >= 1, got 0"),
        (lambda: manifold(2, std=0.0), r"std must be > 0, got 0\.0"),
        (lambda: image_like(2, share=1.0), r"share must be in \(0, 1\), got 1\.0"),
        (lambda: image_like(2, share=0.0), r"share must be in \(0, 1\), got 0\.0"),
        (lambda: image_like(2, modes=0), r"modes must be an integer >= 1, got 0"),
        (lambda: image_like(2, variance=0.0), r"variance must be > 0, got 0\.0"),
        (lambda: image_like(2, exponent=-0.5), r"exponent must be >= 0, got -0\.5"),
        (lambda: memorising(2, points=0), r"points must be an integer >= 1, got 0"),
        (lambda: memorising(2, bandwidth=0.0), r"bandwidth must be > 0, got 0\.0"),
        (lambda: memorising(2, points_seed=-1), r"points_seed must be an integer >= 0, got -1"),
        (lambda: memorising(2, population="grid"), r"population must be one of digits, gaussian, .*ring.*, got 'grid'"),
        (lambda: memorising(2, population="memorising"), r"population must be one of .*, got 'memorising'"),
        (lambda: memorising(2, population="ring", seed=1), r"seed is not an option of family 'ring'"),
        (lambda: memorising(2, population=ring(3)), r"population must be one mixture of dimension 2, got .*\(8, 3\)"),
        (lambda: memorising(2, population=ring(2), radius=1.0), r"radius means nothing where population is a mixture"),
        (lambda: shear(2, radius=0.0), r"radius must be > 0, got 0\.0"),
        (lambda: shear(2, length=0.1, std=0.2), r"std must be <= length = 0\.1, got 0\.2"),
        (lambda: shear(2, angle=math.inf), r"angle must be finite, got inf"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_number_of_another_type(name):
    """2.0 comes from json and numpy where 2 was meant: taken or refused by name, never an error from inside torch."""
    try:
        assert family(name, 2.0).dim == 2
    except ValueError as error:
        assert f"dim must be an integer >= {LEAST.get(name, 1)}, got 2.0" in str(error)  # noqa: PT017
