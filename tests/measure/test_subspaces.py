"""Principal angles against scipy's, overlaps against planted rotations, and the random subspace against its law."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.stats import beta, kstest, ortho_group

from sandbox.measure.jacobian import jacobian
from sandbox.measure.matrix_free import leading_triplets
from sandbox.measure.subspaces import (
    Subspaces,
    leading_subspaces,
    mean_squared_cosine,
    principal_angles,
    random_overlap,
    subspace_record,
    subspaces_of,
)
from sandbox.student.initialise import haar_rotation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def bases(n, d, k, seed=0):
    return torch.linalg.qr(normals(n, d, k, seed=seed)).Q


# -- angles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "k", "l"), [(1, 1, 1), (5, 2, 2), (5, 2, 4), (5, 4, 2), (9, 3, 1), (6, 6, 2), (30, 8, 8)]
)
@pytest.mark.parametrize("tolerance", [1e-7])
def test_angles_are_scipys(d, k, l, tolerance):
    """scipy, too, takes small angles by their sines; at shared directions either is rounding."""
    A, B = bases(4, d, k), bases(4, d, l, seed=1)
    got = principal_angles(A, B)
    assert got.shape == (4, min(k, l))
    for angles, a, b in zip(got, A, B, strict=True):
        want = np.sort(subspace_angles(a.numpy(), b.numpy()))
        np.testing.assert_allclose(angles.numpy(), want, rtol=0, atol=tolerance)
    torch.testing.assert_close(mean_squared_cosine(A, B), got.cos().square().mean(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [1e-12, 1e-8, 1e-3, 0.7, 0.8, math.pi / 2])
def test_planted_angles(angle):
    """A k-plane turned by one angle in each of its k planes; 1e-8 is below what a cosine can see."""
    c, s, eye, none = math.cos(angle), math.sin(angle), torch.eye(3).double(), torch.zeros(3, 3).double()
    A, B = torch.cat([eye, none])[None], torch.cat([c * eye, s * eye])[None]
    assert principal_angles(A, B)[0].tolist() == pytest.approx([angle] * 3, rel=1e-6)
    # Neither does the basis matter.
    R, Q = haar_rotation(3, generator(1)), haar_rotation(6, generator(2))
    assert principal_angles(Q @ A @ R, Q @ B)[0].tolist() == pytest.approx([angle] * 3, rel=1e-6, abs=1e-15)


# -- the random subspace ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d", "k"), [(2, 1), (3, 2), (8, 3), (40, 5), (40, 30)])
@pytest.mark.parametrize(("draws", "standard_errors"), [(4000, 4.5)])
def test_the_null_is_that_of_random_rotations(d, k, draws, standard_errors):
    """Simulated with scipy's uniform rotations, of the first k coordinates."""
    columns = torch.from_numpy(ortho_group.rvs(d, draws, random_state=0))[..., :k]
    axes = torch.eye(d, dtype=torch.float64)[:, :k].expand(draws, d, k)
    overlap = mean_squared_cosine(axes, columns).numpy()
    mean, sd = random_overlap(d, k)
    assert mean == k / d
    assert abs(overlap.mean() - mean) <= standard_errors * sd / math.sqrt(draws)
    squares = (overlap - mean) ** 2
    assert abs(squares.mean() - sd**2) <= standard_errors * squares.std() / math.sqrt(draws)


@pytest.mark.parametrize("d", [2, 3, 17, 1024])
def test_the_null_of_a_direction_is_a_beta_law(d):
    law = beta(1 / 2, (d - 1) / 2)
    assert random_overlap(d, 1) == pytest.approx((law.mean(), law.std()), rel=1e-12)
    cosines = mean_squared_cosine(bases(500, d, 1), torch.eye(d).double()[:, :1].expand(500, d, 1))
    assert kstest(cosines.numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("d", [1, 2, 9])
def test_the_whole_space_is_always_shared(d):
    assert random_overlap(d, d) == (1.0, 0.0)


# -- two maps --------------------------------------------------------------------------------------------------------


def power_law(d, exponent=0.75, seed=0):
    U, V = haar_rotation(d, generator(seed)), haar_rotation(d, generator(seed + 1))
    return (U * torch.arange(1, d + 1, dtype=torch.float64) ** -exponent) @ V.mT


@pytest.mark.parametrize(("d", "k"), [(12, 3), (40, 4)])
@pytest.mark.parametrize(("rotations", "standard_errors"), [(300, 4.5)])
def test_a_rotation_of_the_noise_is_seen_on_the_noise_side_alone(d, k, rotations, standard_errors):
    """T∘R keeps T's directions of data, and has those of noise at random when R is."""
    T = power_law(d)
    R = torch.from_numpy(ortho_group.rvs(d, rotations, random_state=1))
    record = subspace_record(leading_subspaces(T @ R, k), leading_subspaces(T.expand(rotations, d, d), k))
    assert record["data_overlap"] == pytest.approx(1, abs=1e-9)
    spread = record["noise_overlap_null_sd"] / math.sqrt(rotations)
    assert abs(record["noise_overlap"] - k / d) <= standard_errors * spread
    assert record["noise_overlap_null"] == record["data_overlap_null"] == k / d
    assert record["student_gap_ratio"] == pytest.approx(((k + 1) / k) ** -0.75, rel=1e-9)
    assert (record["subspace_points"], record["subspace_error"]) == (1.0, 0.0)


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2])
def test_a_planted_turn_of_one_direction(angle):
    """Two of three directions shared, the third turned by an angle out of the span: (2 + cos^2) / 3."""
    s = torch.tensor([5.0, 4.0, 3.0, 1.0, 0.5]).double()
    turn = torch.eye(5).double()
    turn[2, 2] = turn[3, 3] = math.cos(angle)
    turn[2, 3], turn[3, 2] = -math.sin(angle), math.sin(angle)
    T = torch.diag(s)[None]
    record = subspace_record(leading_subspaces(T @ turn.mT, 3), leading_subspaces(T, 3))
    assert record["noise_overlap"] == pytest.approx((2 + math.cos(angle) ** 2) / 3, abs=1e-12)
    assert record["data_overlap"] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("d_out", "d_in"), [(6, 6), (4, 9), (9, 4)])
def test_the_two_sides_are_numpys(d_out, d_in):
    J = normals(3, d_out, d_in)
    found = leading_subspaces(J, 2)
    for i, matrix in enumerate(J.numpy()):
        U, s, Vh = np.linalg.svd(matrix)
        # The projections, which no sign and no basis changes.
        for side, want in ((found.data[i], U[:, :2]), (found.noise[i], Vh[:2].T)):
            np.testing.assert_allclose(side @ side.mT, want @ want.T, rtol=0, atol=1e-12)
        assert found.gap_ratio[i].item() == pytest.approx(s[2] / s[1], rel=1e-12)


# -- no leading subspace ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 7])
def test_a_flat_spectrum_has_no_leading_subspace(k):
    flat = torch.stack([haar_rotation(8, generator(i)) for i in range(4)])
    steep = torch.stack([power_law(8, seed=i) for i in range(4)])
    record = subspace_record(leading_subspaces(steep, k), leading_subspaces(flat, k))
    assert math.isnan(record["noise_overlap"])
    assert math.isnan(record["data_overlap"])
    assert record["subspace_points"] == 0
    assert record["teacher_gap_ratio"] == pytest.approx(1, abs=1e-12)
    assert record["student_gap_ratio"] < 0.95


def test_points_without_a_gap_are_left_out_and_counted():
    degenerate, gapped = torch.diag(torch.tensor([3.0, 2.0, 2.0, 1.0])), torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.5]))
    turned = gapped[:, [1, 2, 0, 3]]  # its leading two directions of noise share one with the first two axes
    student = leading_subspaces(torch.stack([degenerate, turned]), 2)
    record = subspace_record(student, leading_subspaces(torch.stack([gapped, gapped]), 2))
    assert record["noise_overlap"] == pytest.approx(0.5, abs=1e-12)
    assert record["subspace_points"] == 0.5
    assert record["student_gap_ratio"] == pytest.approx((1.0 + 0.5) / 2)
    # A gap of 1 % counts at one threshold and not at the next.
    near = leading_subspaces(torch.diag(torch.tensor([2.0, 1.98, 1.0]))[None], 1)
    assert subspace_record(near, near)["subspace_points"] == 1
    assert subspace_record(near, near, least_gap=0.02)["subspace_points"] == 0


def test_all_directions_have_no_gap_to_keep():
    J = normals(2, 3, 3)
    record = subspace_record(leading_subspaces(J, 3), leading_subspaces(J.mT, 3))
    assert record["noise_overlap"] == pytest.approx(1, abs=1e-12)
    assert (record["noise_overlap_null"], record["noise_overlap_null_sd"]) == (1, 0)
    assert record["student_gap_ratio"] == 0
    one = leading_subspaces(torch.full((2, 1, 1), -2.0), 1)
    assert subspace_record(one, one)["data_overlap"] == 1


# -- without the matrix ----------------------------------------------------------------------------------------------


def test_subspaces_from_products_are_those_of_the_matrix():
    W, V = normals(60, 60) / 8, power_law(60, 1.5, seed=3)

    def f(z):
        return torch.tanh(z @ W) @ V.mT

    z = normals(4, 60, seed=2)
    found = subspaces_of(leading_triplets(f, z, 5, generator(), depth=7), 4)
    exact = leading_subspaces(jacobian(f, z), 4)
    torch.testing.assert_close(found.gap_ratio, exact.gap_ratio, rtol=1e-6, atol=0)
    for side in ("noise", "data"):
        assert principal_angles(getattr(found, side), getattr(exact, side)).max() < 1e-6
    assert found.error.max() < 1e-4
    assert exact.error.max() == 0


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_error_bounds_how_far_the_subspace_is_off(depth):
    T = power_law(60, 0.5)
    found = subspaces_of(leading_triplets(lambda z: z @ T.mT, normals(6, 60), 6, generator(1), depth, 0), 3)
    sines = principal_angles(found.noise, leading_subspaces(T.expand(6, 60, 60), 3).noise).sin()
    assert (sines.norm(dim=-1) <= found.error).all()
    assert sines.max() > 1e-3


# -- what is refused -------------------------------------------------------------------------------------------------

STEEP = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0]))[None]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: leading_subspaces(STEEP, 0), "k must be between 1 and 4 with 4 of 4 triplets, got 0"),
        (lambda: leading_subspaces(STEEP, 5), "k must be between 1 and 4 with 4 of 4 triplets, got 5"),
        (lambda: leading_subspaces(STEEP, 4), "rank of the Jacobian at every z, got 4 where s_k vanishes at 1 of 1"),
        (lambda: leading_subspaces(torch.zeros(3, 2, 2), 1), "got 1 where s_k vanishes at 3 of 3 points"),
        (lambda: leading_subspaces(STEEP[0], 1), r"J must have shape \(n, d_out, d_in\), got \(4, 4\)"),
        (lambda: leading_subspaces(STEEP / 0, 1), "J must be finite"),
        (
            lambda: subspaces_of(leading_triplets(torch.tanh, normals(1, 6), 2, generator()), 2),
            "k must be between 1 and 1 with 2 of 6 triplets, got 2",
        ),
        (lambda: random_overlap(3, 4), "k must be between 1 and dim = 3, got 4"),
        (lambda: random_overlap(3, 0), "k must be between 1 and dim = 3, got 0"),
        (lambda: principal_angles(bases(1, 3, 2)[0], bases(1, 3, 2)[0]), r"shapes \(n, d, k\) .* got \(3, 2\)"),
        (lambda: principal_angles(bases(1, 3, 2), bases(2, 3, 2)), r"got \(1, 3, 2\) and \(2, 3, 2\)"),
        (lambda: mean_squared_cosine(bases(1, 3, 2), 2 * bases(1, 3, 2)), "B must have orthonormal columns"),
        (lambda: mean_squared_cosine(normals(1, 3, 2), bases(1, 3, 2)), "A must have orthonormal columns"),
        (
            lambda: subspace_record(leading_subspaces(STEEP, 1), leading_subspaces(STEEP, 2)),
            r"noise subspaces of one shape, got \(1, 4, 1\), \(1, 4, 2\)",
        ),
        (
            lambda: subspace_record(leading_subspaces(STEEP, 1), leading_subspaces(STEEP, 1), 1.5),
            "least_gap must be between 0 and 1, got 1.5",
        ),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_record_needs_no_more_than_the_subspaces():
    """A user's own, with neither a matrix nor a map."""
    own = Subspaces(bases(2, 5, 2), bases(2, 5, 2, seed=1), torch.full((2,), 0.5), torch.zeros(2))
    assert subspace_record(own, own)["noise_overlap"] == pytest.approx(1, abs=1e-12)
