"""Teachers fitted to photographs and digits: what they are cut from, their units, and how well they describe images."""

import dataclasses
import importlib.util
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn import datasets, decomposition

from sandbox.teacher import images, mppca
from sandbox.teacher.flow import teacher_map
from sandbox.teacher.images import (
    BLOCK,
    FORMS,
    LUMA,
    SIDES,
    Sample,
    clustered_mean,
    cut_patches,
    digits,
    fitted_digits,
    fitted_patches,
    patches,
    pooled_digits,
    principal_digits,
)

HEIGHT, WIDTH = 427, 640


def teacher_of(name, dim, **options):
    return {"patches": patches, "digits": digits}[name](dim, **options)


@pytest.fixture
def numbered(monkeypatch):
    """Two photographs whose grey values are the numbers of their pixels."""
    pixels = np.arange(2 * HEIGHT * WIDTH, dtype=float).reshape(2, HEIGHT, WIDTH, 1).repeat(3, -1)
    monkeypatch.setattr(datasets, "load_sample_images", lambda: SimpleNamespace(images=list(pixels)))


def places(points):
    """Photograph, row and column of each pixel of points cut from numbered photographs, (n, d) each."""
    number = points.round().long()
    assert (number - points).abs().max() < 1e-6
    return number // (HEIGHT * WIDTH), number // WIDTH % HEIGHT, number % WIDTH


@pytest.mark.usefixtures("numbered")
class TestPatchesAreCut:
    @pytest.mark.parametrize("side", SIDES)
    def test_as_squares_of_neighbours_row_by_row(self, side):
        sample = cut_patches(side, seed=0)
        for points in (sample.train, sample.test):
            photograph, row, column = (p.reshape(-1, side, side) for p in places(points))
            down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
            assert (photograph == photograph[:, :1, :1]).all()
            assert (row == row[:, :1, :1] + down).all()
            assert (column == column[:, :1, :1] + right).all()
            assert len(points.unique(dim=0)) == len(points)

    @pytest.mark.parametrize("side", SIDES)
    def test_from_blocks_that_are_held_out_whole_and_do_not_touch(self, side):
        sample = cut_patches(side, seed=0)
        blocks = []
        for points in (sample.train, sample.test):
            photograph, row, column = places(points)
            block = torch.stack([photograph, row // BLOCK, column // BLOCK])
            assert (block == block[..., :1]).all()
            blocks.append(block[..., 0].T)
        train, test = ({tuple(b) for b in block.tolist()} for block in blocks)
        around = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
        touching = [(p, a + i, b + j) in test for p, a, b in test for i, j in around if (i, j) != (0, 0)]
        assert not any(touching)
        assert not train & test
        assert len(train | test) == 2 * (HEIGHT // BLOCK) * (WIDTH // BLOCK)
        assert len(test) / len(train | test) == pytest.approx(1 / 5)
        # clusters are blocks
        assert len({(c, *b) for c, b in zip(sample.cluster.tolist(), blocks[1].tolist(), strict=True)}) == len(test)
        assert len(sample.cluster.unique()) == len(test)

    def test_anywhere_in_a_block(self):
        _, row, column = places(cut_patches(4, seed=0).train)
        for offset in (row[:, 0] % BLOCK, column[:, 0] % BLOCK):
            assert offset.unique().tolist() == list(range(BLOCK - 4 + 1))

    def test_by_a_seed(self):
        one, two, other = (cut_patches(3, seed).train for seed in (1, 1, 2))
        assert torch.equal(one, two)
        assert not torch.equal(one, other)


def test_grey_values_are_pillows_luma():
    """Pillow rounds its own to whole numbers."""
    from PIL import Image

    photograph = datasets.load_sample_images().images[0]
    assert photograph.shape == (HEIGHT, WIDTH, 3)
    want = np.asarray(Image.fromarray(photograph).convert("L"), dtype=float)
    assert np.abs(photograph @ np.array(LUMA) - want).max() <= 1
    first = next(images.blocks())[0]
    np.testing.assert_array_equal(first, (photograph @ np.array(LUMA))[:BLOCK, :BLOCK])


class TestDigitsAreReduced:
    @pytest.mark.parametrize("side", [1, 2, 4, 8])
    def test_pooling_is_torchs(self, side):
        raw = torch.as_tensor(datasets.load_digits().images)[:, None]
        want = torch.nn.functional.avg_pool2d(raw, 8 // side).flatten(1)
        sample = pooled_digits(side)
        form = torch.arange(len(raw)) * FORMS // len(raw)
        torch.testing.assert_close(sample.test, want[form % 4 == 1], rtol=0, atol=1e-12)
        torch.testing.assert_close(sample.train, want[form % 4 != 1], rtol=0, atol=1e-12)

    @pytest.mark.parametrize("dim", [1, 5, 64])
    def test_principal_components_are_scikit_learns(self, dim):
        whole, sample = pooled_digits(8), principal_digits(dim)
        pca = decomposition.PCA(dim, svd_solver="full").fit(whole.train.numpy())
        for got, pixels in ((sample.train, whole.train), (sample.test, whole.test)):
            want = pca.transform(pixels.numpy())
            # The last directions have no variance, and no order; the others are alike up to their sign.
            kept = pca.explained_variance_ > 1e-9
            np.testing.assert_allclose(got.abs()[:, kept], np.abs(want)[:, kept], rtol=0, atol=1e-8)

    def test_forms_are_held_out_whole(self):
        """Every form repeats one order of labels; its first half holds 9556509 in the same place."""
        labels = "".join(map(str, datasets.load_digits().target))
        anchors = [i for i in range(len(labels)) if labels.startswith("9556509", i)]
        assert len(anchors) == FORMS
        parts = np.arange(len(labels)) * FORMS // len(labels)
        edges = np.flatnonzero(np.diff(parts, prepend=-1))
        assert np.abs(edges - (np.array(anchors) - anchors[0])).max() <= 8


class TestUnits:
    @pytest.mark.parametrize(
        ("name", "options"), [("patches", {}), ("digits", {}), ("digits", {"reduce": "components"})]
    )
    @pytest.mark.parametrize("variance", [1.0, 0.25])
    @pytest.mark.parametrize("dim", [1, 16])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_mean_and_variance_per_coordinate(self, name, options, variance, dim, tolerance):
        law = teacher_of(name, dim, modes=3, variance=variance, **options)
        assert law.dim == dim
        assert law.mean.mean().item() == pytest.approx(0, abs=tolerance)
        # Where the floor binds, it adds at most itself.
        floor = {"patches": 1e-3, "digits": 1e-2}[name]
        assert variance * (1 - tolerance) <= law.cov.trace().item() / dim <= variance * (1 + floor)
        assert law.smallest_std >= math.sqrt(floor * variance) * (1 - tolerance)

    @pytest.mark.parametrize("tolerance", [1e-9])
    def test_variance_only_scales(self, tolerance):
        one, other = patches(4, modes=3), patches(4, modes=3, variance=0.25)
        torch.testing.assert_close(0.5 * one.means, other.means, rtol=0, atol=tolerance)
        torch.testing.assert_close(0.25 * one.covariance.spectrum, other.covariance.spectrum, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("dim", [4, 16])
    # Components of few directions replace their smallest variances by the mean of these.
    @pytest.mark.parametrize("tolerance", [0.01])
    def test_leading_variances_are_the_patches_own(self, dim, tolerance):
        train = cut_patches(math.isqrt(dim), seed=0).scaled(1.0).train
        want = decomposition.PCA(3).fit(train.numpy()).explained_variance_
        got = torch.linalg.eigvalsh(patches(dim, modes=3).cov).flip(0)[:3]
        np.testing.assert_allclose(got, want, rtol=tolerance)

    def test_the_leading_variance_grows_as_the_dimension(self):
        """Brightness is common to a patch: lambda_1 / d falls slowly, far above the 1 / d of independent pixels."""
        shares = [torch.linalg.eigvalsh(patches(d, modes=3).cov)[-1].item() / d for d in (1, 4, 16)]
        assert shares == sorted(shares, reverse=True)
        assert shares[-1] > 0.9

    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_sixty_four_pixels_are_sixty_four_principal_components(self, tolerance):
        one, other = fitted_digits(64, "pooling"), fitted_digits(64, "components")
        assert one.held_out == pytest.approx(other.held_out, rel=tolerance)
        assert not torch.allclose(one.mixture.means, other.mixture.means)


class TestHeldOut:
    def test_standard_error_of_equal_clusters_is_that_of_their_means(self):
        values = torch.as_tensor(np.random.default_rng(0).standard_normal((7, 30))) + torch.arange(7)[:, None]
        mean, error = clustered_mean(values.flatten(), torch.arange(7).repeat_interleave(30))
        assert mean == pytest.approx(values.mean().item(), rel=1e-13)
        assert error == pytest.approx(scipy.stats.sem(values.mean(1)), rel=1e-12)

    @pytest.mark.parametrize(("repeats", "tolerance"), [(4000, 0.08)])
    def test_standard_error_of_unequal_clusters(self, repeats, tolerance):
        """Against the spread of the mean over repeated draws of 40 clusters of 5 to 40 points with a common part."""
        draw = np.random.default_rng(1)
        sizes = draw.integers(5, 41, 40)
        cluster = torch.as_tensor(np.repeat(np.arange(40), sizes))
        common = draw.standard_normal((repeats, 40)).repeat(sizes, axis=1)
        values = common + draw.standard_normal((repeats, sizes.sum()))
        errors = [clustered_mean(torch.as_tensor(v), cluster)[1] for v in values[:200]]
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(values.mean(1).std(), rel=tolerance)

    @pytest.mark.parametrize(("name", "dim"), [("patches", 1), ("patches", 16), ("digits", 16)])
    def test_are_log_likelihoods_of_points_not_fitted(self, name, dim):
        """Against scipy's density of the Gaussian, and the law's own of points cut again."""
        if name == "patches":
            sample, result, floor = cut_patches(math.isqrt(dim), seed=0).scaled(1.0), fitted_patches(dim, 3), 1e-3
        else:
            sample, result, floor = pooled_digits(math.isqrt(dim)).scaled(1.0), fitted_digits(dim), 1e-2
        train, test = sample.train.numpy(), sample.test.numpy()
        spectrum, basis = np.linalg.eigh(np.atleast_2d(np.cov(train.T, ddof=0)))
        cov = (basis * spectrum.clip(min=floor * train.var(0).mean())) @ basis.T
        log_g = np.atleast_1d(scipy.stats.multivariate_normal(train.mean(0), cov).logpdf(test))
        log_p = result.mixture.log_prob(sample.test).numpy()
        assert (result.n_train, result.n_test) == (len(train), len(test))
        assert result.held_out_gaussian == pytest.approx(log_g.mean(), rel=1e-9)
        assert result.held_out == pytest.approx(log_p.mean(), rel=1e-9)
        assert result.gain == pytest.approx((log_p - log_g).mean(), rel=1e-9)
        clusters = [np.sum((log_p - log_g - result.gain)[sample.cluster.numpy() == c]) for c in sample.cluster.unique()]
        count = len(clusters)
        assert result.clusters == count
        # the variance of a sum of `count` independent sums
        assert result.gain_error == pytest.approx(math.sqrt(count * np.var(clusters, ddof=1)) / len(test), rel=1e-3)

    def test_one_component_of_any_covariance_is_the_gaussian(self):
        result = fitted_patches(4, modes=1, rank=3)
        assert result.gain == pytest.approx(0, abs=1e-12)
        assert result.held_out == result.held_out_gaussian

    @pytest.mark.parametrize(
        ("name", "dim", "modes"),
        [
            ("patches", 1, 3),
            ("patches", 16, 3),
            pytest.param("patches", 256, 8, marks=pytest.mark.slow),
            ("digits", 16, 5),
            ("digits", 64, 5),
        ],
    )
    def test_a_mixture_describes_images_better_than_a_gaussian(self, name, dim, modes):
        result = {"patches": fitted_patches, "digits": fitted_digits}[name](dim, modes=modes)
        assert result.gain > 3 * result.gain_error

    def test_per_coordinate(self):
        result = fitted_patches(4, modes=2)
        divided = result.per_coordinate
        for field in dataclasses.fields(result):
            got, want = getattr(divided, field.name), getattr(result, field.name)
            if isinstance(want, float):
                assert got == pytest.approx(want / 4, rel=1e-15)
            else:
                assert got is want or got == want


def test_a_teacher_is_fitted_once(monkeypatch):
    law = patches(4, modes=2)
    monkeypatch.setattr(images, "fit", None)
    assert patches(4, 2) is law
    assert fitted_patches(4, modes=2).mixture is law


def test_seeds():
    one, other = (patches(4, modes=2, seed=seed) for seed in (1, 2))
    assert not torch.equal(one.means, other.means)
    again = images._fitted_patches.__wrapped__(4, 2, 16, 1.0, 1e-3, 1).mixture
    assert again is not one
    assert torch.equal(again.means, one.means)


@pytest.mark.parametrize(
    ("name", "dim", "modes"),
    [("patches", 4, 2), ("digits", 4, 2), pytest.param("patches", 64, 8, marks=pytest.mark.slow)],
)
def test_the_flow_ends(name, dim, modes):
    """Thin components beside wide ones: the map reaches sigma = 0 within its tolerance, on the law's support."""
    law = teacher_of(name, dim, modes=modes)
    z = torch.randn(4, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x, error = teacher_map(law, z, return_error=True)
    assert error.max() <= 1e-6
    typical = law.log_prob(law.sample(4000, torch.Generator().manual_seed(1)))
    assert (law.log_prob(x) > typical.min()).all()


@pytest.mark.parametrize("build", [patches, digits, fitted_patches, fitted_digits])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"dim": dim}, rf"dim must be an integer >= 1, got {dim}") for dim in (0, -4, 2.5, True, math.nan, "two")],
        ({"dim": 4, "modes": 0}, r"modes must be an integer >= 1, got 0"),
        ({"dim": 4, "modes": True}, r"modes must be an integer >= 1, got True"),
        ({"dim": 4, "rank": 0}, r"rank must be an integer >= 1, got 0"),
        ({"dim": 4, "variance": 0.0}, r"variance must be > 0, got 0\.0"),
        ({"dim": 4, "floor": -1.0}, r"floor must be > 0, got -1\.0"),
        ({"dim": 4, "seed": -1}, r"seed must be an integer >= 0, got -1"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(build, options, message):
    build(4, modes=1)  # what is kept must not answer for True or 4.0
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: patches(5), r"1, 4, 9, 16, 36, 64, 144, 256 \(patches of side 1, 2, 3, 4, 6, 8, 12, 16\), got 5"),
        (lambda: patches(25), r"dim must be one of 1, 4, .*, got 25"),
        (lambda: digits(9), r"dim must be one of 1, 4, 16, 64 \(pooled digits of side 1, 2, 4, 8\), got 9"),
        (lambda: digits(65, "components"), r"dim must be <= 64, .*, got 65"),
        (lambda: digits(4, "cropping"), r"reduce must be one of pooling, components, got 'cropping'"),
    ],
)
def test_dimensions_that_images_do_not_have(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    images._fitted_digits.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'need scikit-learn: pip install "dmd-sandbox\[images\]"'):
        digits(4)


@pytest.mark.parametrize("module", [images, mppca])
def test_scikit_learn_is_imported_by_a_teacher_alone(monkeypatch, module):
    """Everything else works without it: the modules load where importing it fails."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("sklearn", "threadpoolctl")]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("a_copy", module.__file__)
    copy = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "a_copy", copy)
    spec.loader.exec_module(copy)
    assert copy.scikit_learn


def test_a_sample_is_scaled_by_its_training_points():
    generator = torch.Generator().manual_seed(0)
    train, test = (3 + 5 * torch.randn(50, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    got = Sample(train, test, torch.zeros(50)).scaled(2.0)
    assert got.train.numpy().var(0).mean() == pytest.approx(2.0, rel=1e-13)
    slope = (got.train[1] - got.train[0]) / (train[1] - train[0])
    torch.testing.assert_close(slope, slope[:1].expand(4), rtol=1e-12, atol=0)
    torch.testing.assert_close(got.test, (test - train.mean()) * slope[0], rtol=1e-12, atol=1e-12)
