"""Jacobians and effective ranks against numpy, finite differences and spectra whose rank is known."""

import math

import numpy as np
import pytest
import torch

from sandbox.measure.jacobian import (
    effective_rank,
    jacobian,
    jacobian_spectrum,
    numerical_rank,
    participation_ratio,
    stable_rank,
)
from sandbox.student.initialise import haar_rotation


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bent(d_in, d_out, seed=0):
    """A smooth nonlinear map whose Jacobian differs from point to point."""
    W, V = normals(d_in, 12, seed), normals(12, d_out, seed + 1)
    return lambda z: torch.tanh(z @ W) @ V + 0.1 * z.square().sum(-1, keepdim=True)


@pytest.mark.parametrize(("d_out", "d_in"), [(1, 1), (4, 4), (3, 7), (7, 3), (64, 64)])
def test_the_spectrum_of_a_linear_map_is_numpys(d_out, d_in):
    A = normals(d_out, d_in)
    s = jacobian_spectrum(lambda z: z @ A.mT + 1, normals(70, d_in, 1))
    want = np.linalg.svd(A.numpy(), compute_uv=False)
    assert s.shape == (70, min(d_out, d_in))
    np.testing.assert_allclose(s.numpy(), np.broadcast_to(want, s.shape), rtol=0, atol=1e-12 * want[0])


@pytest.mark.parametrize(("d_in", "d_out"), [(1, 1), (4, 4), (6, 3), (3, 6)])
def test_the_jacobian_of_a_nonlinear_map_is_its_finite_difference(d_in, d_out):
    f, z, h = bent(d_in, d_out), normals(5, d_in, 3), 1e-5
    steps = h * torch.eye(d_in, dtype=torch.float64)
    want = torch.stack([(f(z + e) - f(z - e)) / (2 * h) for e in steps], -1)
    # Central differences: h^2 of truncation and 1e-16 / h of rounding.
    torch.testing.assert_close(jacobian(f, z), want, rtol=1e-7, atol=1e-8)


def test_the_chunks_do_not_show():
    f, z = bent(3, 3), normals(11, 3)
    torch.testing.assert_close(jacobian(f, z, chunk=4), jacobian(f, z), rtol=0, atol=1e-13)


def test_a_map_without_a_derivative_is_refused():
    with pytest.raises(ValueError, match="finite Jacobian"):
        jacobian(lambda z: z.abs().sqrt(), torch.zeros(2, 2))


@pytest.mark.parametrize("dim", [2, 4, 16])
def test_rank_does_not_see_a_rotation_of_the_noise(dim):
    f, z = bent(dim, dim), normals(6, dim, 2)
    R = haar_rotation(dim, torch.Generator().manual_seed(4))
    rotated, behind = jacobian_spectrum(lambda y: f(y @ R.mT), z), jacobian_spectrum(f, z @ R.mT)
    torch.testing.assert_close(rotated, behind, rtol=1e-10, atol=1e-10)
    for rank in (effective_rank, stable_rank, participation_ratio):
        torch.testing.assert_close(rank(rotated), rank(behind), rtol=1e-10, atol=0.0)
        # The map is not linear: the ranks at z itself are others, so that the agreement is not an empty one.
        assert (rank(rotated) - rank(jacobian_spectrum(f, z))).abs().max() > 1e-4


HALF_AND_HALF = [2.0] * 3 + [0.0] * 5
GEOMETRIC = [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("rank", "spectrum", "want"),
    [
        (effective_rank, [3.0] * 7, 7.0),
        (participation_ratio, [3.0] * 7, 7.0),
        (stable_rank, [3.0] * 7, 7.0),
        (effective_rank, HALF_AND_HALF, 3.0),
        (participation_ratio, HALF_AND_HALF, 3.0),
        (stable_rank, HALF_AND_HALF, 3.0),
        (effective_rank, [5.0, 0.0], 1.0),
        (participation_ratio, [5.0, 0.0], 1.0),
        (stable_rank, [5.0, 0.0], 1.0),
        # p = 4/7, 2/7, 1/7: entropy ln 7 - (4 ln 4 + 2 ln 2) / 7
        (effective_rank, GEOMETRIC, math.exp(math.log(7) - 10 * math.log(2) / 7)),
        # (1 + 1/4 + 1/16)^2 / (1 + 1/16 + 1/256) = 441 / 273
        (participation_ratio, GEOMETRIC, 441 / 273),
        (stable_rank, GEOMETRIC, 21 / 16),
    ],
)
def test_planted_ranks(rank, spectrum, want):
    s = torch.tensor(spectrum, dtype=torch.float64)
    assert rank(s).item() == pytest.approx(want, rel=1e-12)
    # No rank knows the unit of length, and each row of a batch is its own.
    both = torch.stack([s, 1e3 * s])
    assert rank(both).tolist() == pytest.approx([want, want], rel=1e-12)


@pytest.mark.parametrize(("rtol", "want"), [(0.9, 1), (0.4, 2), (0.1, 3), (1e-4, 4)])
def test_the_numerical_rank_counts_values_above_its_threshold(rtol, want):
    assert numerical_rank(torch.tensor([10.0, 5.0, 2.0, 0.01, 0.0]), rtol).item() == want


@pytest.mark.parametrize("rtol", [0.0, 1.0, -0.1, math.nan])
def test_a_threshold_out_of_range_is_named(rtol):
    with pytest.raises(ValueError, match="rtol must be between 0 and 1"):
        numerical_rank(torch.ones(3), rtol)


@pytest.mark.parametrize("spectrum", [[1.0, -0.1], [1.0, math.nan], [0.0, 0.0]])
@pytest.mark.parametrize("rank", [effective_rank, stable_rank, participation_ratio])
def test_what_is_no_spectrum_is_refused(rank, spectrum):
    with pytest.raises(ValueError, match="s must"):
        rank(torch.tensor(spectrum))
