"""Matrix-free triplets, ranks and curl against dense decompositions, scipy, and spectra that are known.

A linear map at n points is n independent estimates of one thing: what the standard errors are calibrated on.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, svds
from scipy.stats import kstest, t

from sandbox.measure.jacobian import (
    curl,
    effective_rank,
    jacobian,
    jacobian_spectrum,
    participation_ratio,
    stable_rank,
)
from sandbox.measure.matrix_free import Products, estimated_curl, estimated_ranks, leading_triplets
from sandbox.student.denoiser import Denoiser, OneStep
from sandbox.student.initialise import haar_rotation
from sandbox.teacher.families import ring
from sandbox.teacher.flow import teacher_jacobian, teacher_map

RANKS = {"effective_rank": effective_rank, "participation_ratio": participation_ratio, "stable_rank": stable_rank}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def bent(d_in, d_out, width=40, seed=0):
    """A smooth nonlinear map whose Jacobian differs from point to point."""
    W, V = normals(d_in, width, seed=seed) / math.sqrt(d_in), normals(width, d_out, seed=seed + 1) / math.sqrt(width)
    return lambda z: torch.tanh(z @ W) @ V + 0.1 * torch.sin(z.sum(-1, keepdim=True))


def network(dim, width=24, seed=0):
    denoiser = Denoiser(dim, width, 2, generator(seed))
    with torch.no_grad():
        denoiser.net.outward.copy_(torch.randn(dim, width, generator=generator(seed + 1)) / math.sqrt(width))
    return OneStep(denoiser)


def with_spectrum(s, seed=0):
    """A linear map between random bases, and its matrix."""
    U, V = (haar_rotation(len(s), generator(seed + i)) for i in range(2))
    A = (U * s) @ V.mT
    return (lambda z: z @ A.mT), A


def power(dim, exponent):
    return torch.arange(1, dim + 1, dtype=torch.float64) ** -exponent


@pytest.mark.parametrize(("d_in", "d_out"), [(1, 1), (6, 6), (7, 3), (3, 7)])
def test_products_are_those_of_the_jacobian(d_in, d_out):
    f, z = bent(d_in, d_out), normals(4, d_in, seed=5)
    J, products = jacobian(f, z), Products(f, z)
    v, u = normals(4, 2, d_in, seed=6), normals(4, 3, d_out, seed=7)
    torch.testing.assert_close(products.forward(v), v @ J.mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(products.adjoint(u), u @ J, rtol=1e-12, atol=1e-12)


def test_a_networks_products_are_taken_in_its_precision_and_carry_no_graph():
    f, z, v = network(10), normals(3, 10).float(), normals(3, 5, 10, seed=1)
    products = Products(f, z)
    for got, want in ((products.forward(v), v @ jacobian(f, z).mT), (products.adjoint(v), v @ jacobian(f, z))):
        assert got.dtype == torch.float64
        assert not got.requires_grad
        torch.testing.assert_close(got, want, rtol=0, atol=3e-6)
        assert (got - want).abs().max() > 0  # single precision it is


@pytest.mark.parametrize("tolerance", [1e-7])
def test_a_teachers_flow_has_products_too(tolerance):
    """Against the variational equation; the flow's own tolerance is 1e-6."""
    law, z = ring(2, radius=1.0, std=0.5), normals(2, 2, seed=3)
    products, eye = Products(lambda y: teacher_map(law, y, 5.0), z), torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    J = teacher_jacobian(law, z, 5.0)
    torch.testing.assert_close(products.forward(eye).mT, J, rtol=0, atol=tolerance)
    torch.testing.assert_close(products.adjoint(eye), J, rtol=0, atol=tolerance)


# -- leading triplets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d_in", "d_out"), [(60, 60), (80, 50), (50, 80)])
@pytest.mark.parametrize("tolerance", [1e-9])
def test_triplets_are_those_of_the_full_decomposition(d_in, d_out, tolerance):
    decay = torch.tensor(0.7, dtype=torch.float64) ** torch.arange(min(d_in, d_out), dtype=torch.float64)
    U, V = (haar_rotation(d, generator(i))[:, : len(decay)] for i, d in enumerate((d_out, d_in)))
    A = (U * decay) @ V.mT
    found = leading_triplets(lambda z: z @ A.mT + 1, normals(3, d_in), 5, generator(2))
    for s, side, want in ((found.s, found.V, V), (found.s, found.U, U)):
        torch.testing.assert_close(s, decay[:5].expand(3, 5), rtol=tolerance, atol=0)
        # Vectors up to their sign, and both of a pair with the same one, which A v = s u says.
        torch.testing.assert_close((side.mT @ want[:, :5]).abs(), torch.eye(5).double().expand(3, 5, 5), **close(1e-7))
    torch.testing.assert_close(A @ found.V, found.U * found.s[:, None], rtol=0, atol=1e-13)


def close(atol):
    return {"rtol": 0, "atol": atol}


def test_triplets_of_a_nonlinear_map_are_scipys():
    f, z = bent(50, 50, 30), normals(3, 50, seed=4)
    found, J = leading_triplets(f, z, 4, generator(), depth=8), jacobian(f, z).numpy()
    for s, matrix in zip(found.s, J, strict=True):
        operator = LinearOperator(matrix.shape, matvec=lambda v, M=matrix: M @ v, rmatvec=lambda u, M=matrix: M.T @ u)
        want = np.sort(svds(operator, 4, return_singular_vectors=False, rng=0))[::-1]
        np.testing.assert_allclose(s.numpy(), want, rtol=1e-7)


def test_what_has_not_converged_lies_below_and_within_its_residual():
    s = power(200, 0.3)
    f, A = with_spectrum(s)
    found = leading_triplets(f, normals(4, 200), 6, generator(1), depth=2)
    assert (found.s <= s[:6] + 1e-12).all()
    assert (found.residual / found.s).max() > 0.1
    assert ((found.s[..., None] - s).abs().amin(-1) <= found.residual).all()
    off = (A.mT @ found.U - found.V * found.s[:, None]).norm(dim=-2)
    torch.testing.assert_close(found.residual, off, rtol=1e-9, atol=1e-12)


def test_more_depth_brings_the_triplets_closer():
    s = power(200, 0.3)
    f, z = with_spectrum(s)[0], normals(2, 200)
    errors = [(s[:6] - leading_triplets(f, z, 6, generator(1), depth=depth).s).sum().item() for depth in (1, 2, 4, 8)]
    assert all(fine < 0.5 * coarse for coarse, fine in pairwise(errors))


@pytest.mark.parametrize(("dim", "rank"), [(40, 3), (40, 40), (7, 2)])
def test_an_exhausted_space_leaves_orthonormal_vectors(dim, rank):
    """A flat spectrum or a low rank is found by the first block; what follows must not repeat it."""
    s = torch.cat([torch.ones(rank), torch.zeros(dim - rank)]).double()
    found = leading_triplets(with_spectrum(s)[0], normals(2, dim), rank if rank < 9 else 4, generator(), depth=6)
    for side in (found.U, found.V):
        torch.testing.assert_close(side.mT @ side, torch.eye(side.shape[-1]).double().expand(2, -1, -1), **close(1e-12))
    torch.testing.assert_close(found.s, torch.ones_like(found.s), **close(1e-12))


# -- ranks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("d_in", "d_out"), [(1, 1), (5, 5), (12, 7), (7, 12), (16, 16)])
def test_where_the_leading_triplets_are_all_nothing_is_random(d_in, d_out):
    f, z = bent(d_in, d_out), normals(3, d_in, seed=8)
    s = jacobian_spectrum(f, z)
    for name, estimate in estimated_ranks(f, z, generator()).items():
        torch.testing.assert_close(estimate.value, RANKS[name](s), rtol=1e-9, atol=0)
        assert estimate.error.max() <= 1e-9
        assert estimate.truncation.abs().max() <= 1e-6


@pytest.mark.parametrize("dim", [40, 41])
def test_a_flat_spectrum_is_read_without_error(dim):
    R = haar_rotation(dim, generator(3))
    for estimate in estimated_ranks(lambda z: 3 * z @ R.mT, normals(2, dim), generator()).values():
        torch.testing.assert_close(estimate.value, torch.full((2,), float(dim), dtype=torch.float64), **close(1e-9))
        assert estimate.error.max() <= 1e-9


SPECTRA = {
    "power law": power(32, 0.75),
    "slow": power(32, 0.25),
    # Not 10 and 22, where the effective rank is smallest: it is then of second order in the sums' errors.
    "two levels": torch.tensor([3.0] * 22 + [1.0] * 10).double(),
    "half": torch.tensor([2.0] * 16 + [0.0] * 16).double(),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("points", "probes", "p_value", "spread"), [(300, 16, 1e-3, (0.9, 1.25))])
def test_standard_errors_are_calibrated(name, points, probes, p_value, spread):
    """Of jackknifed means of m samples the errors over their standard errors follow Student's t of m - 1, with the
    standard deviation sqrt((m - 1) / (m - 3)) = 1.07 at 16, which 300 scores know to 5 %. Here Lanczos takes enough
    steps to leave no truncation, and the leading triplets are of the largest values alone."""
    s = SPECTRA[name]
    found = estimated_ranks(
        lambda z: z * s, normals(points, len(s)), generator(5), 4, 6, probes, probes, 24, chunk=points
    )
    for rank, estimate in found.items():
        score = ((estimate.value - RANKS[rank](s)) / estimate.error).numpy()
        assert spread[0] <= score.std() <= spread[1], (rank, score.mean(), score.std())
        assert kstest(score, t(probes - 1).cdf).pvalue > p_value, rank


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(("points", "standard_errors"), [(400, 4.5)])
def test_sums_of_squares_are_unbiased_whatever_the_leading_vectors(depth, points, standard_errors):
    """Vectors that have not converged are coupled to the rest, which the participation ratio must count: of a slow
    spectrum and a single block the coupling is several per cent of sum s^4."""
    s = power(64, 0.3)
    found = estimated_ranks(lambda z: z * s, normals(points, 64), generator(6), 8, depth, 200, 2, 2, chunk=points)
    estimate = found["participation_ratio"]
    off = (estimate.value - participation_ratio(s)).mean() / (estimate.value.std() / math.sqrt(points))
    # The ratio of means has a bias of its own, of order 1 / probes of its variance.
    assert abs(off) <= standard_errors


@pytest.mark.parametrize(
    ("exponent", "steps", "tolerance"), [(0.5, 6, 0.02), (0.75, 8, 0.02), (1.0, 10, 0.02), (2.0, 10, 0.03)]
)
def test_the_truncation_covers_what_few_steps_leave(exponent, steps, tolerance):
    """Effective ranks along the same directions; many steps leave a hundredth of a steep spectrum's."""
    s, points = power(256, exponent), 4
    few, many = (
        estimated_ranks(lambda z: z * s, normals(points, 256), generator(7), 16, 4, 16, 16, n)["effective_rank"]
        for n in (steps, 40)
    )
    assert (few.value > many.value).all()
    assert (few.value - many.value <= few.truncation).all()
    assert (many.truncation < few.truncation).all()
    assert (many.value.mean() / effective_rank(s) - 1).abs() <= tolerance


@pytest.mark.parametrize("dim", [1024])
@pytest.mark.parametrize(("exponent", "tolerance"), [(0.0, 1e-9), (0.25, 0.02), (0.5, 0.02), (0.75, 0.02)])
def test_known_spectra_at_the_defaults(dim, exponent, tolerance):
    """Per point, root mean square over eight; the largest error is a power law's participation ratio."""
    s = power(dim, exponent)
    for name, estimate in estimated_ranks(lambda z: z * s, normals(8, dim), generator(8)).items():
        want = RANKS[name](s)
        assert ((estimate.value / want - 1).square().mean().sqrt()) <= tolerance, name


def test_a_networks_ranks_are_those_of_its_spectrum():
    f, z = network(96), normals(24, 96, seed=2).float()
    s = jacobian_spectrum(f, z)
    for name, estimate in estimated_ranks(f, z, generator(9), probes=64, paths=32, steps=40).items():
        score = (estimate.value - RANKS[name](s)) / estimate.error
        # A mean of 24 scores, each of a standard deviation near one.
        assert abs(score.mean()) <= 4.5 / math.sqrt(24), name
        assert (estimate.error / estimate.value).max() <= 0.1


# -- curl ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
@pytest.mark.parametrize(("points", "probes", "p_value", "spread"), [(400, 16, 1e-3, (0.9, 1.2))])
def test_a_planted_curl_and_its_standard_error(share, points, probes, p_value, spread):
    G = normals(24, 24, seed=4)
    symmetric, antisymmetric = G + G.mT, G - G.mT
    J = symmetric / symmetric.norm() + share * antisymmetric / antisymmetric.norm()
    want = 2 * share / math.sqrt(1 + share**2)
    found = estimated_curl(lambda z: z @ J.mT, normals(points, 24), generator(1), probes, chunk=points)
    score = ((found.value - want) / found.error).numpy()
    assert spread[0] <= score.std() <= spread[1]
    assert kstest(score, t(probes - 1).cdf).pvalue > p_value
    assert (found.error / want).mean() <= 0.1
    assert curl(J).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("tolerance", [1e-12])
def test_curls_that_every_direction_sees_alike(tolerance):
    z, A = normals(3, 8), normals(8, 8)
    for J, want in ((A + A.mT, 0.0), (A - A.mT, 2.0)):
        found = estimated_curl(lambda z, J=J: z @ J.mT, z, generator())
        torch.testing.assert_close(found.value, torch.full((3,), want, dtype=torch.float64), **close(tolerance))
        assert found.error.max() <= tolerance
    one = estimated_curl(torch.tanh, normals(3, 1), generator())
    assert one.value.tolist() == one.error.tolist() == [0.0] * 3


def test_the_curl_of_a_nonlinear_map_is_that_of_its_jacobian():
    f, z = bent(12, 12), normals(50, 12, seed=2)
    found = estimated_curl(f, z, generator(3), probes=400)
    assert ((found.value - curl(jacobian(f, z))) / found.error).abs().max() <= 4.5
    assert (found.error / found.value).max() <= 0.05


MEASURES = {
    "ranks": lambda f, z, g, chunk: torch.stack(
        [part for found in estimated_ranks(f, z, g, 2, 2, 4, 2, 4, chunk).values() for part in found]
    ),
    "triplets": lambda f, z, g, chunk: leading_triplets(f, z, 2, g, depth=1, chunk=chunk).s,
    "curl": lambda f, z, g, chunk: torch.stack(estimated_curl(f, z, g, 4, chunk)),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_generator_decides_and_the_chunks_do_not_show(measure):
    f, z = bent(24, 24), normals(5, 24)
    first = measure(f, z, generator(1), 5)
    assert torch.equal(measure(f, z, generator(1), 5), first)
    torch.testing.assert_close(measure(f, z, generator(1), 2), first, rtol=1e-10, atol=1e-10)
    assert (measure(f, z, generator(2), 5) - first).abs().max() > 1e-9


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize(
    ("f", "words"),
    [
        (torch.zeros_like, "not zero at any z, got a zero one"),
        (lambda z: 0 * z, "not zero at any z, got a zero one"),
        (lambda z: z * (z[:, :1] > 0), "not zero at any z, got a zero one"),
        (lambda z: (z - z.detach()).abs().sqrt(), "finite Jacobian at every z, got a non-finite one"),
    ],
    ids=["constant", "zero", "zero at some z", "not finite"],
)
def test_a_map_without_a_jacobian_to_measure_is_refused(measure, f, words):
    with pytest.raises(ValueError, match=words):
        measure(f, normals(6, 4), generator(), 16)


@pytest.mark.parametrize(("rank", "k"), [(2, 3), (1, 2), (3, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rank_below_k_is_named(rank, k, dtype):
    A = (normals(6, rank) @ normals(rank, 6, seed=1)).to(dtype)
    with pytest.raises(
        ValueError, match=f"k must be <= the rank of the Jacobian at every z, got {k} where it is {rank}"
    ):
        leading_triplets(lambda z: z @ A, normals(2, 6).to(dtype), k, generator())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f, z, g: leading_triplets(f, z, 0, g), "k must be >= 1, got 0"),
        (lambda f, z, g: leading_triplets(f, z, 5, g), r"k must be <= min\(d_in, d_out\) = 4, got 5"),
        (lambda f, z, g: leading_triplets(f, z, 1, g, depth=0), "depth must be >= 1, got 0"),
        (lambda f, z, g: leading_triplets(f, z, 1, g, oversample=-1), "oversample must be >= 0, got -1"),
        (lambda f, z, g: leading_triplets(f, z, 1, g, chunk=0), "chunk must be >= 1, got 0"),
        (lambda f, z, g: leading_triplets(f, z[0], 1, g), r"z must have shape \(n, d\) .* got \(4,\)"),
        (lambda f, z, g: leading_triplets(f, z[:0], 1, g), r"z must have shape \(n, d\) .* got \(0, 4\)"),
        (lambda f, z, g: estimated_ranks(f, z, g, leading=0), "leading must be >= 1, got 0"),
        (lambda f, z, g: estimated_ranks(f, z, g, paths=1), "paths must be >= 2, got 1"),
        (lambda f, z, g: estimated_ranks(f, z, g, steps=1), "steps must be >= 2, got 1"),
        (lambda f, z, g: estimated_ranks(f, z, g, probes=7), "probes must be >= 8, got 7"),
        (lambda f, z, g: estimated_curl(f, z, g, probes=1), "probes must be >= 2, got 1"),
        (lambda f, z, g: estimated_curl(lambda z: f(z)[:, :2], z, g), "d_in = d_out to have a curl, got 4 and 2"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(lambda z: z, normals(3, 4), generator())
