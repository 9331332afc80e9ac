"""What each family holds fixed while the dimension grows."""

import math

import pytest
import torch

from sandbox.teacher.families import FAMILIES, family, gaussian, random, ring

DIMS = (1, 2, 3, 16, 128, 1024)


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


class TestRandom:
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
@pytest.mark.parametrize("dim", [1, 7])
def test_by_name(name, dim):
    law = family(name, dim)
    assert law.dim == dim
    assert law.means.dtype == torch.float64
    assert torch.equal(law.means, FAMILIES[name](dim).means)


def test_options_by_name():
    assert family("ring", 2, modes=3, radius=1.5).means.shape == (3, 2)
    assert torch.equal(family("random", 3, modes=4, seed=5).means, random(3, modes=4, seed=5).means)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: family("grid", 2), r"family must be one of gaussian, .*ring.*, got 'grid'"),
        (lambda: family("ring", 2, seed=1), r"seed is not an option of family 'ring'; it has modes, radius, std"),
        (lambda: family("gaussian", 2, varience=1.0), r"varience is not an option of family 'gaussian'"),
        *[
            (lambda build=build, dim=dim: build(dim), rf"dim must be an integer >= 1, got {dim}")
            for build in FAMILIES.values()
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
    ],
)
def test_bad_input_names_the_argument_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("build", FAMILIES.values())
def test_a_whole_number_of_another_type(build):
    """2.0 comes from json and numpy where 2 was meant: taken or refused by name, never an error from inside torch."""
    try:
        assert build(2.0).dim == 2
    except ValueError as error:
        assert "dim must be an integer >= 1, got 2.0" in str(error)  # noqa: PT017
