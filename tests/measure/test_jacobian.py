"""Jacobians and effective ranks against numpy, finite differences and spectra whose rank is known."""

import math

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from sandbox.measure.jacobian import (
    capped_spectrum,
    compared_ranks,
    curl,
    effective_rank,
    jacobian,
    jacobian_spectrum,
    numerical_rank,
    participation_ratio,
    points_within,
    rank_cap,
    rank_record,
    ranks,
    stable_rank,
)
from sandbox.student.denoiser import Correction, Denoiser, OneStep
from sandbox.student.initialise import haar_rotation
from sandbox.student.networks import LinearStudent


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


# -- memory ----------------------------------------------------------------------------------------------------------


def network(dim, width, kind=OneStep, seed=0, **options):
    """With an output, which a network at its start has not, and with a mean, which its Jacobian does not see."""
    student = kind(Denoiser(dim, width, 2, torch.Generator().manual_seed(seed)), **options)
    with torch.no_grad():
        student.net.outward.copy_(normals(dim, width, seed + 1) / math.sqrt(width))
        student.net.mean.copy_(normals(1, dim, seed + 2)[0])
    return student


def most_bytes(call):
    """The most that tensors held at once while it ran, by the allocator's own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize(("dim", "width"), [(64, 256), (128, 32), (8, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_bytes", [2**22, 2**24])
def test_a_spectrum_stays_within_its_bytes(dim, width, dtype, max_bytes):
    f, z = network(dim, width).to(dtype), normals(48, dim).to(dtype)
    at_once = points_within(f, z, max_bytes)
    used = most_bytes(lambda: jacobian_spectrum(f, z, max_bytes))
    # The bound holds, and is not so loose as to be none: where it cuts the points up, a fifth of it is used.
    assert used <= max_bytes
    if 1 < at_once < len(z):
        assert used >= max_bytes / 5


def test_the_widest_layer_counts_and_a_weight_does_not():
    z = normals(2, 8)
    narrow = points_within(network(8, 32).double(), z, 2**24)
    assert points_within(network(8, 128).double(), z, 2**24) < narrow / 3
    # A weight of 8 x 10^4 numbers that is only looked at, transposed, is no layer.
    weight = normals(1000, 8)
    assert points_within(lambda x: (x @ weight.mT[:, :8]) + weight.mT.sum(), z, 2**24) >= narrow


def test_the_bytes_do_not_show():
    f, z = bent(9, 6), normals(11, 9)
    want = jacobian_spectrum(f, z)
    for max_bytes in (1, 20_000, 2**30):
        torch.testing.assert_close(jacobian_spectrum(f, z, max_bytes), want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("max_bytes", [0, -1, math.nan])
def test_no_bytes_at_all_are_refused(max_bytes):
    with pytest.raises(ValueError, match="max_bytes must be >= 1"):
        jacobian_spectrum(bent(2, 2), normals(1, 2), max_bytes)


# -- curl ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [2, 5, 32])
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.3, 1.0])
def test_a_planted_curl(dim, share):
    """Of symmetric and antisymmetric parts of norms 1 and share: |J - J^T| = 2 share and |J|^2 = 1 + share^2."""
    G = normals(dim, dim)
    parts = G + G.mT, G - G.mT
    J = parts[0] / parts[0].norm() + share * parts[1] / parts[1].norm()
    want = 2 * share / math.sqrt(1 + share**2)
    assert curl(J).item() == pytest.approx(want, rel=1e-9, abs=1e-15)
    assert curl(-7 * J.mT).item() == pytest.approx(want, rel=1e-9, abs=1e-15)
    R = haar_rotation(dim, torch.Generator().manual_seed(1))
    assert curl(R @ J @ R.mT).item() == pytest.approx(want, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("angle", [0.1, 1.0, math.pi / 2])
def test_the_curl_of_a_turned_identity(angle):
    """Of a rotation by an angle in the plane, |R - R^T|^2 = 8 sin^2 and |R|^2 = 2."""
    c, s = math.cos(angle), math.sin(angle)
    assert curl(torch.tensor([[c, -s], [s, c]])).item() == pytest.approx(2 * s, rel=1e-6)


def test_one_dimension_and_gradients_have_no_curl():
    assert curl(torch.tensor([[-3.0]])).item() == 0
    z, potential = normals(4, 6), bent(6, 1)
    hessians = jacobian(torch.func.vmap(torch.func.grad(lambda y: potential(y[None]).sum())), z)
    assert curl(hessians).tolist() == pytest.approx([0.0] * 4, abs=1e-13)
    assert curl(jacobian(bent(6, 6), z)).min() > 0.1


@pytest.mark.parametrize(
    ("J", "words"),
    [
        (torch.zeros(2, 3, 3), "not be zero, got a zero matrix"),
        (torch.stack([torch.eye(2), torch.zeros(2, 2)]), "not be zero"),
        (torch.ones(2, 3), r"shape \(..., d, d\) to have a curl, got \(2, 3\)"),
        (torch.ones(3), r"got \(3,\)"),
        (torch.full((2, 2), math.inf), "must be finite"),
    ],
)
def test_what_has_no_curl_is_refused(J, words):
    with pytest.raises(ValueError, match=words):
        curl(J)


# -- the student's ranks beside its teacher's ------------------------------------------------------------------------


def test_the_record_of_two_spectra():
    student, teacher = torch.tensor([[2.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]), torch.ones(2, 4)
    record = rank_record(student, teacher, rtol=0.1)
    for name in ("effective_rank", "participation_ratio", "stable_rank", "numerical_rank"):
        assert record[f"student_{name}"] == pytest.approx(3, rel=1e-12)
        assert record[f"teacher_{name}"] == pytest.approx(4, rel=1e-12)
        assert record[f"student_{name}_over_d"] == pytest.approx(0.75, rel=1e-12)
        assert record[f"teacher_{name}_over_d"] == pytest.approx(1, rel=1e-12)
        assert record[f"{name}_over_teacher"] == pytest.approx(0.75, rel=1e-12)
    assert len(record) == 20


def test_the_ratio_is_taken_at_the_same_noise():
    """The mean of ratios, not the ratio of means."""
    student, teacher = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert rank_record(student, teacher)["stable_rank_over_teacher"] == pytest.approx((1 / 2 + 2 / 1) / 2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rank_record(torch.ones(2, 3), torch.ones(2, 4)), r"got \(2, 3\) and \(2, 4\)"),
        (lambda: rank_record(torch.ones(3), torch.ones(3)), r"shape \(n, d\), got \(3,\) and \(3,\)"),
        (lambda: rank_record(torch.zeros(1, 3), torch.ones(1, 3)), "got a zero matrix's spectrum"),
        (lambda: rank_record(torch.ones(1, 3), torch.ones(1, 3), 2.0), "rtol must be between 0 and 1, got 2.0"),
        (lambda: compared_ranks(ranks(torch.ones(1, 3)), {}, 3), "the same ranks, got .*'stable_rank'.* and"),
        (
            lambda: compared_ranks({"a": torch.ones(2)}, {"a": torch.ones(3)}, 3),
            r"got \(2,\) and \(3,\)",
        ),
        (lambda: compared_ranks({}, {}, 0), "dim must be >= 1, got 0"),
    ],
)
def test_what_cannot_be_compared_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# -- what a width says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "sigma_init"), [(OneStep, 80.0), (OneStep, 2.0), (Correction, 80.0)])
@pytest.mark.parametrize(("dim", "width"), [(24, 5), (24, 11)])
def test_a_jacobian_is_its_skip_and_a_matrix_of_capped_rank(kind, sigma_init, dim, width):
    student, z = network(dim, width, kind, sigma_init=sigma_init).double(), normals(6, dim)
    cap, J = rank_cap(student), jacobian(student, z)
    beyond = torch.linalg.svdvals(J - cap.skip * torch.eye(dim, dtype=torch.float64))
    assert cap.rank == width
    assert (beyond[:, width:] <= 1e-12 * beyond[:, :1]).all()
    # Less one: the output is normalised, and so does not see the size of the last features (to their FLOOR).
    assert (beyond[:, width - 2] > 1e-4 * beyond[:, 0]).all()
    s = torch.linalg.svdvals(J)
    assert ((s > cap.skip + 1e-12).sum(-1) <= width).all()
    assert (((s - cap.skip).abs() < 1e-12).sum(-1) >= dim - 2 * width).all()
    # No cap on the rank itself, but where there is no skip.
    assert numerical_rank(s, 1e-9).tolist() == [dim if cap.skip else width] * 6


def test_a_width_above_the_dimension_caps_nothing():
    assert rank_cap(network(4, 9)) == rank_cap(network(4, 100)) == pytest.approx((80 / 6401, 4))
    assert rank_cap(network(4, 9, Correction)) == (0.0, 4)


@pytest.mark.parametrize("kind", [OneStep, Correction])
@pytest.mark.parametrize(("dim", "width"), [(40, 8), (40, 19), (40, 20), (6, 12), (1, 4)])
def test_the_capped_spectrum_is_the_whole_one(kind, dim, width):
    student, z = network(dim, width, kind, sigma_init=3.0).double(), normals(5, dim)
    want = torch.linalg.svdvals(jacobian(student, z))
    torch.testing.assert_close(capped_spectrum(student, z, chunk=2), want, rtol=0, atol=1e-13)


def test_the_capped_spectrum_of_a_single_precision_network():
    student, z = network(40, 8), normals(5, 40).float()
    torch.testing.assert_close(capped_spectrum(student, z), jacobian_spectrum(student, z), rtol=0, atol=1e-5)


def test_a_map_of_unknown_layers_has_no_cap():
    for call in (rank_cap, lambda student: capped_spectrum(student, normals(2, 3))):
        with pytest.raises(ValueError, match="a OneStep or a Correction to have a known cap, got LinearStudent"):
            call(LinearStudent(torch.eye(3)))
