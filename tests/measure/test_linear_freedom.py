"""The split of a linear student's change: scipy's Lyapunov solver, numpy's least squares, POT's Bures distance."""

import math

import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.stats
import torch

from sandbox.measure.linear_freedom import linear_available, linear_freedom, linear_net, linear_split
from sandbox.student.initialise import haar_rotation

DIMS = (1, 2, 4, 16, 64)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(dim, seed=0):
    """A positive symmetric matrix of condition number ten."""
    basis = haar_rotation(dim, torch.Generator().manual_seed(seed))
    return (basis * torch.linspace(0.3, 3.0, dim, dtype=torch.float64)) @ basis.mT


def antisymmetric(dim, seed=1):
    K = normals(dim, dim, seed=seed)
    return K - K.mT


def plane_rotation(dim, angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.block_diag(*[torch.tensor([[c, -s], [s, c]], dtype=torch.float64)] * (dim // 2))


def symmetric_basis(dim):
    """An orthonormal basis of the symmetric matrices, (dim (dim + 1) / 2, dim, dim)."""
    basis = []
    for i in range(dim):
        for j in range(i + 1):
            E = np.zeros((dim, dim))
            E[i, j] = E[j, i] = 1 if i == j else math.sqrt(0.5)
            basis.append(E)
    return np.stack(basis)


@pytest.mark.parametrize("dim", DIMS)
def test_the_horizontal_part_solves_the_lyapunov_equation(dim):
    A, B = normals(dim, dim), normals(dim, dim, seed=1)
    horizontal, vertical = linear_split(A, B)
    C, right = (A @ A.mT).numpy(), (B @ A.mT + A @ B.mT).numpy()
    M = scipy.linalg.solve_continuous_lyapunov(C, right)
    # scipy works with C, whose condition number is the square of A's.
    np.testing.assert_allclose(horizontal.numpy(), M @ A.numpy(), atol=1e-7 * np.abs(M @ A.numpy()).max())
    torch.testing.assert_close(horizontal + vertical, B, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dim", "rank"), [(1, 1), (2, 2), (4, 4), (6, 6), (4, 2), (6, 5), (3, 0)])
def test_the_split_is_least_squares_over_symmetric_matrices(dim, rank):
    # With A of low rank too, where many M do the same.
    A, B = normals(dim, rank) @ normals(rank, dim, seed=2), normals(dim, dim, seed=1)
    design = (symmetric_basis(dim) @ A.numpy()).reshape(-1, dim * dim).T
    want = design @ np.linalg.lstsq(design, B.numpy().ravel(), rcond=1e-10)[0]
    np.testing.assert_allclose(linear_split(A, B)[0].numpy().ravel(), want, atol=1e-9)


@pytest.mark.parametrize("dim", DIMS)
def test_a_vertical_change_leaves_the_law_and_a_horizontal_one_is_orthogonal_to_it(dim):
    A, B = normals(dim, dim), normals(dim, dim, seed=1)
    horizontal, vertical = linear_split(A, B)
    change = vertical @ A.mT + A @ vertical.mT
    assert change.abs().max() < 1e-10 * (A @ A.mT).norm()
    assert abs((horizontal * vertical).sum()) < 1e-10 * B.square().sum()


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_a_planted_share_is_read(dim, share):
    A = normals(dim, dim)
    horizontal = symmetric(dim) @ A
    vertical = antisymmetric(dim) @ torch.linalg.inv(A).mT
    if dim == 1:
        # Every change of a number is horizontal: there is no vertical one to plant.
        assert not vertical.any()
        assert linear_freedom(A, horizontal).item() == pytest.approx(0, abs=1e-30)
        return
    B = math.sqrt(1 - share) * horizontal / horizontal.norm() + math.sqrt(share) * vertical / vertical.norm()
    assert linear_freedom(A, B).item() == pytest.approx(share, abs=1e-10)
    # An offset carries the law along: it adds to the energy alone.
    offset = normals(dim, seed=3)
    want = share / (1 + offset.square().sum().item())
    assert linear_freedom(A, B, offset).item() == pytest.approx(want, abs=1e-10)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("kind", ["orthogonal", "unequal"])
def test_the_available_freedom_is_the_share_of_directions(dim, kind):
    # The mean over isotropic directions is that over an orthonormal basis: one entry of B after the other.
    A = 0.7 * haar_rotation(dim, torch.Generator().manual_seed(0)) if kind == "orthogonal" else normals(dim, dim)
    entries = torch.eye(dim * dim, dtype=torch.float64).unflatten(1, (dim, dim))
    vertical = sum(linear_split(A, part)[1].square().sum().item() for part in entries.split(256))
    want = (dim - 1) / (2 * dim)
    assert vertical / dim**2 == pytest.approx(want, abs=1e-10)
    assert linear_available(A).item() == pytest.approx(want, abs=1e-15)
    # A bias adds d directions, all horizontal.
    assert linear_available(A, bias=True).item() == pytest.approx(vertical / (dim**2 + dim), abs=1e-10)


@pytest.mark.parametrize(("dim", "rank"), [(2, 1), (4, 2), (6, 5), (3, 0)])
def test_the_available_freedom_at_low_rank(dim, rank):
    A = normals(dim, rank) @ normals(rank, dim, seed=1)
    entries = torch.eye(dim * dim, dtype=torch.float64).unflatten(1, (dim, dim))
    horizontal = np.linalg.matrix_rank((symmetric_basis(dim) @ A.numpy()).reshape(-1, dim * dim), tol=1e-10)
    assert linear_available(A).item() == pytest.approx(1 - horizontal / dim**2, abs=1e-15)
    assert linear_split(A, entries)[1].square().sum().item() == pytest.approx(dim**2 - horizontal, abs=1e-9)


@pytest.mark.parametrize(("dim", "p"), [(2, 1e-3), (4, 1e-3), (16, 1e-3)])
def test_the_freedom_of_one_direction_is_beta(dim, p):
    found = linear_freedom(normals(dim, dim).expand(2000, dim, dim), normals(2000, dim, dim, seed=1))
    law = scipy.stats.beta(dim * (dim - 1) / 4, dim * (dim + 1) / 4)
    assert scipy.stats.kstest(found.numpy(), law.cdf).pvalue > p


@pytest.mark.parametrize("dim", DIMS)
def test_the_law_needs_its_bures_distance(dim):
    A0, A1 = normals(dim, dim), normals(dim, dim, seed=1)
    zero = np.zeros(dim)
    bures = ot.gaussian.bures_wasserstein_distance(zero, zero, (A0 @ A0.mT).numpy(), (A1 @ A1.mT).numpy())
    want = 1 - bures**2 / (A1 - A0).square().sum().item()
    assert linear_net(A0, A1).excess.item() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("dim", [2, 4, 16, 64])
@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0, 3.0])
def test_a_rotation_behind_an_optimal_map_is_told_apart_from_it(dim, angle):
    A0 = normals(dim, dim)
    found = linear_net(A0, symmetric(dim) @ A0 @ plane_rotation(dim, angle))
    assert found.rotation.item() == pytest.approx(1 - math.cos(angle), abs=1e-9)
    if angle == 0:
        assert found.excess.item() == pytest.approx(0, abs=1e-10)
        assert found.freedom.item() == pytest.approx(0, abs=1e-10)
    else:
        assert found.excess > 1e-3


@pytest.mark.parametrize("dim", [2, 4, 16])
@pytest.mark.parametrize("angle", [0.1, 1.5, 3.0])
def test_a_finite_rotation_of_a_normal_law_is_all_freedom_halfway(dim, angle):
    A0 = 0.7 * haar_rotation(dim, torch.Generator().manual_seed(0))
    A1 = A0 @ plane_rotation(dim, angle)
    found = linear_net(A0, A1)
    assert found.freedom.item() == pytest.approx(1, abs=1e-10)
    assert found.excess.item() == pytest.approx(1, abs=1e-10)
    # At the start it would not be: cos - 1 of the turn looks like a contraction.
    assert linear_freedom(A0, A1 - A0).item() == pytest.approx((1 + math.cos(angle)) / 2, abs=1e-10)


def test_a_pack_is_read_member_by_member():
    A, B = normals(3, 4, 4), normals(3, 4, 4, seed=1)
    together = linear_net(A, B)
    for i in range(3):
        assert linear_freedom(A, B)[i] == pytest.approx(linear_freedom(A[i], B[i]).item(), rel=1e-12)
        assert [v[i].item() for v in together] == pytest.approx([v.item() for v in linear_net(A[i], B[i])], rel=1e-9)


def test_no_rotation_is_read_from_a_singular_student():
    A0 = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    found = linear_net(A0, torch.eye(2, dtype=torch.float64))
    assert found.rotation.isnan()
    assert found.excess.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [((2, 3), (2, 3)), ((3,), (3,)), ((2, 2), (3, 3))])
def test_matrices_that_do_not_fit_are_named(a, b):
    with pytest.raises(ValueError, match="A and B must have shape"):
        linear_split(torch.ones(a), torch.ones(b))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_available(torch.ones(2, 3)), r"A must have shape \(d, d\), got \(2, 3\)"),
        (lambda: linear_available(torch.ones(3)), r"A must have shape \(d, d\), got \(3,\)"),
        (
            lambda: linear_freedom(torch.eye(3), torch.eye(3), torch.ones(2)),
            r"offset must have shape \(d,\) with d = 3, got \(2,\)",
        ),
    ],
)
def test_other_bad_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
