"""The remapping of the noise: polar factors of linear students, and the encoder for any teacher."""

import math

import mpmath
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from sandbox.measure.gauge import (
    best_rotation,
    gauge_displacement,
    normality,
    polar_displacement,
    polar_factor,
    remapping,
    rotation_angles,
)
from sandbox.measure.pairing import displacement
from sandbox.student.initialise import haar_rotation
from sandbox.teacher.families import gaussian, random, ring
from sandbox.teacher.flow import teacher_map

SIGMA_MAX = 80.0


def normals(n, dim, seed=0):
    z = torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z - z.mean(0)


def plane_rotation(dim, angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.block_diag(*[torch.tensor([[c, -s], [s, c]], dtype=torch.float64)] * (dim // 2))


def symmetric(dim, seed=0):
    """A positive symmetric matrix of condition number about ten."""
    basis = haar_rotation(dim, torch.Generator().manual_seed(seed))
    return (basis * torch.linspace(0.3, 3.0, dim, dtype=torch.float64)) @ basis.mT


@pytest.mark.parametrize("dim", [1, 2, 4, 16, 64])
def test_a_symmetric_map_has_no_remapping(dim):
    assert polar_displacement(symmetric(dim)).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("dim", "angle"), [(2, 0.4), (4, 1.3), (16, math.pi / 2), (64, 3.0)])
def test_the_polar_displacement_reads_the_angle_behind_any_symmetric_map(dim, angle):
    A = symmetric(dim) @ plane_rotation(dim, angle)
    assert polar_displacement(A).item() == pytest.approx(1 - math.cos(angle), abs=1e-12)
    # Measured from another rotation, only the angle between the two is left.
    other = symmetric(dim, seed=1) @ plane_rotation(dim, 0.25)
    assert polar_displacement(A, other).item() == pytest.approx(1 - math.cos(angle - 0.25), abs=1e-12)


def test_the_polar_factor_is_orthogonal_and_leaves_a_symmetric_factor():
    A = torch.randn(3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    Q = polar_factor(A)
    eye = torch.eye(5, dtype=torch.float64).expand(3, 5, 5)
    torch.testing.assert_close(Q @ Q.mT, eye, rtol=0, atol=1e-12)
    P = A @ Q.mT
    torch.testing.assert_close(P, P.mT, rtol=0, atol=1e-12)
    assert torch.linalg.eigvalsh(P).min() > 0


@pytest.mark.parametrize("smallest", [0.0, 1e-16])
def test_a_singular_map_has_no_polar_factor(smallest):
    A = torch.diag(torch.tensor([1.0, 0.5, smallest], dtype=torch.float64))
    with pytest.raises(ValueError, match="A must be invertible"):
        polar_factor(A)


@pytest.mark.parametrize(("dim", "exponent", "angle"), [(2, 0.0, 0.7), (4, 0.0, 2.0), (16, 0.0, 1.2)])
def test_the_encoder_reads_the_planted_angle_of_a_linear_student(dim, exponent, angle):
    teacher, z = gaussian(dim, 1.5, exponent), normals(64, dim)
    student = math.sqrt(1.5) * z @ plane_rotation(dim, angle).mT
    found = gauge_displacement(teacher, student, z, SIGMA_MAX, np.random.default_rng(0))
    assert found.value == pytest.approx(1 - math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(("dim", "exponent", "seed"), [(2, 1.0, 0), (4, 1.5, 1), (16, 1.5, 2)])
def test_the_encoder_agrees_with_the_polar_factor_of_a_linear_student(dim, exponent, seed):
    # A student with the teacher's law and a random remapping. The two measures are one expectation and one trace:
    # they differ by the fluctuation of tr(R Cov z) over n = 4000 points, at most 1 / sqrt(n).
    teacher, z = gaussian(dim, 1.0, exponent), normals(4000, dim, seed)
    A = teacher.cov.diagonal().sqrt()[:, None] * haar_rotation(dim, torch.Generator().manual_seed(seed))
    found = gauge_displacement(teacher, z @ A.mT, z, SIGMA_MAX, np.random.default_rng(0))
    want = polar_displacement(A).item()
    assert want > 0.1
    assert found.value == pytest.approx(want, abs=3 / math.sqrt(4000))


@pytest.mark.parametrize(
    ("teacher", "angle"),
    [
        (ring(2), 0.5),
        (ring(2, modes=5), 1.7),
        (ring(4), 1.0),
        (random(4, modes=4), 0.8),
    ],
)
def test_the_encoder_reads_the_planted_angle_behind_a_mixture(teacher, angle):
    z = normals(64, teacher.dim)
    student = teacher_map(teacher, z @ plane_rotation(teacher.dim, angle).mT, SIGMA_MAX)
    found = gauge_displacement(teacher, student, z, SIGMA_MAX, np.random.default_rng(0))
    # The map and its inverse are each solved to 1e-6 of the data's scale, which contraction onto modes of std 0.3
    # enlarges on the way back.
    assert found.value == pytest.approx(1 - math.cos(angle), abs=1e-4)
    assert found.low < 1 < found.high


def test_the_remapping_is_what_its_displacement_is_read_from():
    teacher = ring(2, modes=3)
    z = normals(300, 2)
    student = teacher_map(teacher, z @ plane_rotation(2, 0.6).mT, SIGMA_MAX)
    remapped = remapping(teacher, student, SIGMA_MAX)
    # A mixture's flow is run for the first 256 points.
    torch.testing.assert_close(remapped, z[:256] @ plane_rotation(2, 0.6).mT, rtol=0, atol=1e-3)
    want = gauge_displacement(teacher, student, z, SIGMA_MAX, np.random.default_rng(3))
    assert displacement(remapped, z[:256], np.random.default_rng(3)) == want


def distance_to_normal(square, dim):
    """E|x - Z| for a standard normal Z, as mpmath has it."""
    half = mpmath.mpf(dim) / 2
    ratio = mpmath.gamma(half + 0.5) / mpmath.gamma(half)
    return float(mpmath.sqrt(2) * ratio * mpmath.hyp1f1(-0.5, half, -mpmath.mpf(square) / 2))


def fresh(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestNormality:
    # scipy's own confluent hypergeometric function is infinite at d = 512 and |x|^2 = 512.
    @pytest.mark.parametrize(("dim", "size"), [(1, 1.0), (2, 0.5), (5, 3.0), (16, 1.2), (512, 1.0), (3, 1e3)])
    def test_each_number_is_its_definition(self, dim, size):
        x = size * fresh(20, dim)
        found = {name: read.value for name, read in normality(x).items()}
        y = x.numpy()
        assert found["mean"] == pytest.approx(np.sqrt(np.square(y.mean(0)).mean()), rel=1e-12)
        off = np.atleast_2d(np.cov(y, rowvar=False)) - np.eye(dim)
        assert found["covariance"] == pytest.approx(np.linalg.norm(off) / math.sqrt(dim), rel=1e-12)
        each = [scipy.stats.cramervonmises(column, "norm").statistic for column in y.T]
        assert found["coordinates"] == pytest.approx(np.mean(each), rel=1e-9)
        assert found["worst_coordinate"] == pytest.approx(np.max(each), rel=1e-9)
        squares = np.square(y).sum(1)
        want = scipy.stats.cramervonmises(squares, "chi2", args=(dim,)).statistic
        assert found["radius"] == pytest.approx(want, rel=1e-9)
        to_normal = np.mean([distance_to_normal(s, dim) for s in squares])
        between = float(2 * mpmath.gamma(mpmath.mpf(dim + 1) / 2) / mpmath.gamma(mpmath.mpf(dim) / 2))
        want = 2 * to_normal - pdist(y).mean() - between
        assert found["energy"] == pytest.approx(want, abs=1e-10 * (1 + size) * math.sqrt(dim))

    @pytest.mark.parametrize(("n", "dim"), [(64, 1), (128, 4), (256, 64)])
    @pytest.mark.parametrize(("standard_errors", "draws"), [(4, 200)])
    def test_the_null_has_its_known_means(self, n, dim, standard_errors, draws):
        found = normality(fresh(n, dim, seed=7))

        def close(name, want):
            # Scatter of the mean of 200 draws, from their central 95 %.
            error = (found[name].high - found[name].low) / 4 / math.sqrt(draws)
            return abs(found[name].null - want) < standard_errors * error

        # A Cramer-von Mises statistic is 1/6 on average at any n, and an unbiased energy distance 0.
        assert close("coordinates", 1 / 6)
        assert close("radius", 1 / 6)
        assert close("energy", 0)
        # The mean's length is a chi's, and E|C - I|_F^2 = d (d + 1) / (n - 1); its root is lower, less so at large d.
        chi = float(mpmath.sqrt(2) * mpmath.gamma(mpmath.mpf(dim + 1) / 2) / mpmath.gamma(mpmath.mpf(dim) / 2))
        assert close("mean", chi / math.sqrt(n * dim))
        root = math.sqrt((dim + 1) / (n - 1))
        assert found["covariance"].null < root
        assert dim < 64 or close("covariance", root)

    def test_normal_points_lie_in_the_range(self):
        # A range between the sixth of 200 samples from each end leaves out 12 in 201, give or take its own error.
        reads = [normality(fresh(64, 3, seed=1000 + i)) for i in range(200)]
        for name in reads[0]:
            outside = sum(not r[name].low <= r[name].value <= r[name].high for r in reads)
            assert 1 <= outside <= 25

    @pytest.mark.parametrize(
        ("kind", "seen", "unseen"),
        [
            ("shifted", {"mean", "coordinates", "energy"}, {"covariance"}),
            ("wide", {"covariance", "coordinates", "worst_coordinate", "radius", "energy"}, {"mean"}),
            ("one wide", {"covariance", "worst_coordinate"}, {"mean"}),
            ("correlated", {"covariance", "energy"}, {"mean", "coordinates", "worst_coordinate"}),
            # x_2 = +-x_1: normal coordinates without correlation.
            ("dependent", {"radius", "energy"}, {"mean", "coordinates", "worst_coordinate"}),
            # On a sphere: the right covariance, and coordinates and distances that differ little from normal.
            ("sphere", {"radius"}, {"mean"}),
        ],
    )
    def test_each_departure_is_seen_by_its_measure(self, kind, seen, unseen):
        n, dim = 400, 2 if kind == "dependent" else 8
        x = fresh(n, dim)
        if kind == "shifted":
            x = x + 0.3
        elif kind == "wide":
            x = 1.3 * x
        elif kind == "one wide":
            x[:, 2] *= 2
        elif kind == "correlated":
            x = x @ torch.linalg.cholesky(0.5 + 0.5 * torch.eye(dim, dtype=torch.float64)).mT
        elif kind == "dependent":
            x[:, 1] = x[:, 0] * torch.sign(x[:, 1])
        else:
            x = x * math.sqrt(dim) / x.norm(dim=1, keepdim=True)
        found = normality(x)
        above = {name for name, read in found.items() if read.value > read.high}
        assert seen <= above
        assert not unseen & above

    def test_the_teachers_own_samples_are_sent_back_to_normal_points(self):
        teacher = ring(2, modes=3)
        x = teacher.sample(256, torch.Generator().manual_seed(0))
        for factor, normal in ((1.0, True), (1.15, False)):
            found = normality(remapping(teacher, factor * x, SIGMA_MAX))
            assert all(read.value <= read.high for read in found.values()) == normal

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (torch.zeros(5), r"remapped must have shape \(n, d\) with n >= 2, got \(5,\)"),
            (torch.zeros(1, 3), r"remapped must have shape \(n, d\) with n >= 2, got \(1, 3\)"),
            (torch.full((4, 2), torch.nan), "remapped must be finite, got 4 non-finite points"),
        ],
    )
    def test_bad_input_is_named(self, x, message):
        with pytest.raises(ValueError, match=message):
            normality(x)


class TestBestRotation:
    @pytest.mark.parametrize("dim", [1, 2, 3, 16, 64])
    def test_it_is_the_orthogonal_procrustes_solution(self, dim):
        z, r = (
            fresh(200, dim),
            fresh(200, dim, seed=1) + 0.5 * fresh(200, dim) @ haar_rotation(dim, torch.Generator().manual_seed(2)),
        )
        found = best_rotation(r, z, np.random.default_rng(0))
        # scipy solves for |z Q^T - r|.
        Q = scipy.linalg.orthogonal_procrustes(z.numpy(), r.numpy())[0].T
        np.testing.assert_allclose(found.Q.numpy(), Q, atol=1e-10)
        before, after = (np.square(r.numpy() - z.numpy() @ K.T).sum() for K in (np.eye(dim), Q))
        assert found.share.value == pytest.approx(1 - after / before, abs=1e-10)
        given = displacement(r, z, np.random.default_rng(0)).value
        assert found.residual.value == pytest.approx(given * after / before, rel=1e-10)
        halves, crossed = (slice(0, None, 2), slice(1, None, 2)), 0.0
        for here, there in (halves, halves[::-1]):
            Q = scipy.linalg.orthogonal_procrustes(z[there].numpy(), r[there].numpy())[0].T
            crossed += np.square(r[here].numpy() - z[here].numpy() @ Q.T).sum()
        assert found.held_out == pytest.approx(1 - crossed / before, abs=1e-10)

    @pytest.mark.parametrize("seed", range(4))
    def test_in_space_it_turns_about_an_axis(self, seed):
        turn = Rotation.random(random_state=seed)
        z = fresh(100, 3, seed)
        r = torch.from_numpy(turn.apply(z.numpy())) + 0.1 * fresh(100, 3, seed + 10)
        found = best_rotation(r, z, np.random.default_rng(0))
        best, _ = Rotation.align_vectors(r.numpy(), z.numpy())
        np.testing.assert_allclose(found.Q.numpy(), best.as_matrix(), atol=1e-10)
        np.testing.assert_allclose(found.angles.numpy(), [best.magnitude()] * 2 + [0], atol=1e-7)

    @pytest.mark.parametrize(("dim", "angle"), [(2, 0.3), (4, 2.0), (16, 1.0)])
    def test_a_rotation_is_explained_to_the_last(self, dim, angle):
        z = fresh(100, dim)
        found = best_rotation(z @ plane_rotation(dim, angle).mT, z, np.random.default_rng(0))
        torch.testing.assert_close(found.Q, plane_rotation(dim, angle), rtol=0, atol=1e-12)
        assert found.angles.tolist() == pytest.approx([angle] * dim, abs=1e-7)
        assert (found.share.value, found.residual.value, found.held_out) == pytest.approx((1, 0, 1), abs=1e-12)

    @pytest.mark.parametrize(("dim", "n", "kept", "tolerance"), [(2, 4000, 0.6, 0.03), (16, 4000, 0.6, 0.01)])
    def test_what_a_rotation_leaves_is_read(self, dim, n, kept, tolerance):
        # R = c Q z + sqrt(1 - c^2) eps: E|R - z|^2 = 2 d (1 - c cos), of which 2 d (1 - c) is no rotation's.
        angle, z = 1.2, fresh(n, dim)
        r = kept * z @ plane_rotation(dim, angle).mT + math.sqrt(1 - kept**2) * fresh(n, dim, seed=1)
        found = best_rotation(r, z, np.random.default_rng(0))
        share = 1 - (1 - kept) / (1 - kept * math.cos(angle))
        assert found.residual.value == pytest.approx(1 - kept, abs=tolerance)
        assert found.share.value == pytest.approx(share, abs=tolerance)
        assert found.held_out == pytest.approx(share, abs=tolerance)
        assert found.held_out < found.share.value
        assert found.share.value > found.share.high

    @pytest.mark.parametrize(("dim", "n", "tolerance"), [(2, 256, 0.02), (32, 4096, 0.005), (64, 4096, 0.005)])
    def test_independent_points_show_what_a_fit_makes_of_them(self, dim, n, tolerance):
        r, z = fresh(n, dim, seed=3), fresh(n, dim)
        found = best_rotation(r, z, np.random.default_rng(0))
        # E[R z^T] of n independent pairs has entries of variance 1/n; the singular values of a d x d matrix of normals
        # have the quarter circle's mean 8 sqrt(d) / (3 pi) at large d.
        draws = 2000 if dim == 2 else 50
        singular = np.linalg.svd(np.random.default_rng(1).normal(size=(draws, dim, dim)), compute_uv=False).mean()
        if dim >= 32:
            assert singular == pytest.approx(8 * math.sqrt(dim) / (3 * math.pi), rel=0.01)
        assert found.residual.null == pytest.approx(1 - singular / math.sqrt(n), abs=tolerance)
        assert found.held_out == pytest.approx(0, abs=0.05)

    @pytest.mark.parametrize(("dim", "n"), [(2, 64), (8, 64)])
    def test_independent_points_lie_in_the_range_of_shuffled_pairs(self, dim, n):
        # The ends of 64 shuffles' central 95 % leave out about one in thirteen.
        reads = [best_rotation(fresh(n, dim, i), fresh(n, dim, 500 + i), np.random.default_rng(i)) for i in range(40)]
        for measure in ("share", "residual"):
            outside = sum(not m.low <= m.value <= m.high for m in (getattr(r, measure) for r in reads))
            assert outside <= 9
        assert sum(r.share.value > r.share.null for r in reads) >= 8

    def test_a_reflection_is_taken_where_it_is_nearer(self):
        z, flip = fresh(50, 3), torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
        found = best_rotation(flip * z, z, np.random.default_rng(0))
        torch.testing.assert_close(found.Q, torch.diag(flip), rtol=0, atol=1e-12)
        assert found.angles.tolist() == pytest.approx([math.pi, 0, 0], abs=1e-7)

    def test_a_copy_has_no_share(self):
        z = fresh(50, 3)
        found = best_rotation(z, z.clone(), np.random.default_rng(0))
        torch.testing.assert_close(found.Q, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
        assert all(math.isnan(v) for v in (*found.share, *found.residual, found.held_out))

    def test_the_angles_of_a_pack(self):
        Q = torch.stack([plane_rotation(4, angle) for angle in (0.2, 3.0)])
        want = torch.tensor([[0.2] * 4, [3.0] * 4], dtype=torch.float64)
        torch.testing.assert_close(rotation_angles(Q), want, rtol=0, atol=1e-7)

    @pytest.mark.parametrize(
        ("r", "z", "message"),
        [
            (torch.ones(9, 2), torch.ones(9, 3), r"one shape, got \(9, 2\) and \(9, 3\)"),
            (torch.ones(5, 3), torch.ones(5, 3), r"n must be >= 2 d = 6 to fit a rotation to each half, got 5"),
            (torch.ones(9, 2), torch.full((9, 2), torch.inf), "z must be finite, got 9 non-finite points"),
        ],
    )
    def test_bad_input_is_named(self, r, z, message):
        with pytest.raises(ValueError, match=message):
            best_rotation(r, z, np.random.default_rng(0))
