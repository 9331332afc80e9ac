"""Monotonicity and the optimal-transport map: against Kendall's tau, POT and closed forms."""

import itertools
import math

import numpy as np
import ot
import pytest
import torch
from scipy import stats

from sandbox.measure.pairing import displacement, inefficiency
from sandbox.measure.transport import (
    brenier_distance,
    monge_gap,
    monotonicity_violation,
    rearranged,
    relative_monge_gap,
    transport_displacement,
)
from sandbox.teacher import families
from sandbox.teacher.flow import teacher_map

N = 96


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rng(seed=0):
    return np.random.default_rng(seed)


def planes(z, angle):
    """Every plane (2k, 2k + 1) turned by the angle."""
    turned = z.clone()
    turned[:, 0::2] = math.cos(angle) * z[:, 0::2] - math.sin(angle) * z[:, 1::2]
    turned[:, 1::2] = math.sin(angle) * z[:, 0::2] + math.cos(angle) * z[:, 1::2]
    return turned


def convex_gradient(z):
    """The gradient of |z|^2 / 20 + log sum_k exp(<w_k, z>), which no linear map is."""
    w = 2 * normals(5, z.shape[-1], 77)
    return 0.1 * z + torch.softmax(z @ w.mT, -1) @ w


# ---- two points exchanged


@pytest.mark.parametrize("tolerance", [1e-12])
@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.5, 1.0])
def test_on_a_line_the_violation_is_kendalls_tau(correlation, tolerance):
    z, w = normals(N, 1, 1), normals(N, 1, 2)
    s = correlation * z + math.sqrt(1 - correlation**2) * w
    tau = stats.kendalltau(z[:, 0].numpy(), s[:, 0].numpy()).statistic
    assert monotonicity_violation(s, z, rng()).value == pytest.approx((1 - tau) / 2, abs=tolerance)


@pytest.mark.parametrize("dim", [1, 3])
def test_over_all_pairings_of_the_points_the_violation_is_one_half(dim):
    s, z = normals(5, dim, 1), normals(5, dim, 2)
    every = [monotonicity_violation(s[list(pi)], z, rng()).value for pi in itertools.permutations(range(5))]
    assert np.mean(every) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("tolerance", [1e-12])
def test_the_null_is_the_violation_of_shuffled_points(tolerance):
    s, z = normals(20, 3, 1), normals(20, 3, 2)
    found, generator = monotonicity_violation(s, z, rng(4)), rng(4)
    shuffled = [
        monotonicity_violation(s[torch.from_numpy(generator.permutation(20))], z, rng()).value for _ in range(64)
    ]
    assert found.null == pytest.approx(np.mean(shuffled), abs=tolerance)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(shuffled, [0.025, 0.975])), abs=tolerance)


@pytest.mark.parametrize("against", [0.1, 1.0, 4.0])
def test_a_saddles_violation_is_the_angle_of_its_cone(against):
    # <Delta, diag(1, -c) Delta> < 0 where |Delta_1| < sqrt(c) |Delta_2|, and the direction of Delta is uniform.
    z = normals(400, 2)
    found = monotonicity_violation(z * torch.tensor([1.0, -against], dtype=torch.float64), z, rng())
    assert abs(found.value - 2 / math.pi * math.atan(math.sqrt(against))) < 4 * found.se


@pytest.mark.parametrize("dim", [2, 16, 256])
@pytest.mark.parametrize(("angle", "violation"), [(1.5, 0.0), (1.6, 1.0)])
def test_two_points_see_the_symmetric_part_of_a_linear_map_only(dim, angle, violation):
    # <Delta, R Delta> = cos(angle) |Delta|^2: up to a right angle no pair is violated, though R is no gradient.
    z = normals(N, dim)
    assert monotonicity_violation(planes(z, angle), z, rng()).value == violation


@pytest.mark.parametrize("distance", [0.0, 1e4])
def test_close_points_of_a_monotone_map_do_not_cross_by_rounding(distance):
    z = normals(64, 2)
    z = torch.cat([z, z + 1e-6 * normals(64, 2, 1)]) + distance
    assert monotonicity_violation(3 * z + 1, z, rng()).value == 0.0


def test_a_constant_map_violates_nothing():
    found = monotonicity_violation(torch.ones(N, 2), normals(N, 2), rng())
    assert (found.value, found.null, found.se) == (0.0, 0.0, 0.0)


# ---- all points exchanged


@pytest.mark.parametrize("tolerance", [1e-9])
@pytest.mark.parametrize("dim", [1, 4, 64])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 1.0])
def test_the_monge_gap_takes_pots_exact_optimum(dim, correlation, tolerance):
    z, w = normals(N, dim, 1), normals(N, dim, 2)
    s = 2 * (correlation * z + math.sqrt(1 - correlation**2) * w) + 1
    uniform = np.full(N, 1 / N)
    cost = ot.dist(z.numpy(), s.numpy())
    own, optimal, random = np.trace(cost) / N, ot.emd2(uniform, uniform, cost), cost[~np.eye(N, dtype=bool)].mean()
    assert monge_gap(s, z) == pytest.approx(own - optimal, abs=tolerance)
    found = relative_monge_gap(s, z, rng(1))
    assert found.value == pytest.approx((own - optimal) / (random - optimal), abs=tolerance)
    assert found[:4] == tuple(inefficiency(s, z, rng(1)))
    plan = ot.emd(uniform, uniform, cost) * N
    assert rearranged(s, z).numpy() == pytest.approx(plan @ s.numpy(), abs=tolerance)


def test_on_a_line_the_rearrangement_is_sorting():
    z, s = normals(N, 1, 1), normals(N, 1, 2) ** 3 + 1e5
    want = torch.empty_like(s)
    want[z[:, 0].argsort()] = s.sort(0).values
    assert torch.equal(rearranged(s, z), want)


@pytest.mark.parametrize("dim", [1, 2, 16, 256])
def test_gradients_of_convex_functions_read_zero_on_their_own_points(dim):
    z = normals(N, dim)
    for s in (convex_gradient(z), teacher_map(families.gaussian(dim, exponent=1.5), z)):
        assert monotonicity_violation(s, z, rng()).value == 0.0
        assert monge_gap(s, z) == pytest.approx(0, abs=1e-12 * s.square().sum(-1).mean().item())
        found = transport_displacement(s, z, rng())
        assert (found.value, found.se) == (0.0, 0.0)
        assert found.low > 0.5


@pytest.mark.parametrize("tolerance", [1e-12])
@pytest.mark.parametrize("dim", [1, 3, 16])
def test_the_displacement_to_transport_is_that_to_pots_map(dim, tolerance):
    z, s, t = (normals(N, dim, i) for i in range(3))
    s = 0.3 * z + s
    uniform = np.full(N, 1 / N)
    for target in (None, t):
        points = s if target is None else target
        plan = ot.emd(uniform, uniform, ot.dist(z.numpy(), points.numpy())) * N
        want = displacement(s, torch.from_numpy(plan @ points.numpy()), rng(2))
        found = transport_displacement(s, z, rng(2), target)
        assert found[:4] == pytest.approx(tuple(want), abs=tolerance)


@pytest.mark.parametrize(
    ("dim", "own"),
    # sqrt(2 log n / d) falls below cos(60 degrees) = .5 between d = 16 and 64 at n = 96.
    [(2, (0.4, 0.6)), (4, (0.4, 0.7)), (64, (0.0, 0.0)), (1024, (0.0, 0.0))],
)
def test_shared_points_lose_sight_of_a_rotation_that_independent_points_see(dim, own):
    z = normals(N, dim)
    s = planes(z, math.pi / 3)
    assert own[0] <= transport_displacement(s, z, rng()).value <= own[1]
    found = brenier_distance(s, z, torch.stack([normals(N, dim, i) for i in (1, 2, 3, 4)]), rng())
    # The standard error leaves out how good the n-point map is: see the flat law's bias below.
    assert abs(found.value - 0.5) < 4 * found.se + 0.03


# ---- independent points


@pytest.mark.parametrize("dim", [1, 2, 4, 16, 64, 256, 1024])
@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("bias", [0.03])
def test_the_distance_to_the_brenier_map_of_a_flat_law(dim, correlation, bias):
    # Brenier map of N(0, 4 I): 2 z. The n-point map shows its direction at any z, its length by |z|: corr(z, b) < 1.
    z, w = normals(N, dim, 1), normals(N, dim, 2)
    s = 2 * (correlation * z + math.sqrt(1 - correlation**2) * w) + 1
    found = brenier_distance(s, z, 2 * torch.stack([normals(N, dim, 3 + i) for i in range(4)]) + 1, rng())
    assert abs(found.value - (1 - correlation)) < 4 * found.se + correlation * bias
    assert found.null == pytest.approx(1, abs=0.06)
    assert (found.low <= found.value <= found.high) == (correlation == 0)


def test_the_distance_to_the_brenier_map_by_hand():
    z, s, samples = normals(40, 3, 1), normals(40, 3, 2), torch.stack([normals(40, 3, 3 + i) for i in range(2)])
    uniform = np.full(40, 1 / 40)
    a, b = ((ot.emd(uniform, uniform, ot.dist(z.numpy(), x.numpy())) * 40) @ x.numpy() for x in samples)
    a, b, c = (x - x.mean(0) for x in (a, b, s.numpy()))
    want = 1 - (c * (a + b)).sum() / 2 / math.sqrt(np.square(c).sum() * (a * b).sum())
    assert brenier_distance(s, z, samples, rng()).value == pytest.approx(want, abs=1e-12)


def test_samples_that_have_nothing_in_common_show_no_map():
    # Anti-aligned by construction: each assignment is one point set and its mirror image, E<y_1, y_2> < 0.
    z = torch.zeros(8, 2, dtype=torch.float64)
    x = normals(8, 2, 1)
    found = brenier_distance(normals(8, 2, 2), z, torch.stack([x, -x]), rng())
    assert math.isnan(found.value)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (torch.zeros(8, 2), r"samples must have shape \(M >= 2, 8, 2\), got \(8, 2\)"),
        (torch.zeros(1, 8, 2), r"got \(1, 8, 2\)"),
        (torch.zeros(2, 7, 2), r"got \(2, 7, 2\)"),
        (torch.full((2, 8, 2), math.inf), "samples must be finite, got 16 non-finite points"),
    ],
)
def test_bad_samples_are_named(samples, words):
    with pytest.raises(ValueError, match=words):
        brenier_distance(normals(8, 2), normals(8, 2, 1), samples, rng())


@pytest.mark.parametrize(
    ("student", "z", "words"),
    [
        (normals(8, 2), normals(8, 3), r"student_x and z must both have shape \(n, d\), got \(8, 2\) and \(8, 3\)"),
        (normals(8, 2), torch.full((8, 2), math.nan), "z must be finite, got 8 non-finite points"),
        (normals(1, 2), normals(1, 2), "n must be >= [28], got 1"),
    ],
)
@pytest.mark.parametrize("measure", [monotonicity_violation, relative_monge_gap, transport_displacement])
def test_points_that_do_not_pair_are_named(measure, student, z, words):
    with pytest.raises(ValueError, match=words):
        measure(student, z, rng())
