"""Pairing measures against pairs whose answer is planted: copies, rotated noise, independent pairs."""

import math

import numpy as np
import ot
import pytest
import torch

from sandbox.measure.pairing import (
    correlation_distance,
    displacement,
    inefficiency,
    mode_agreement,
    mode_displacement,
    pairing,
    rescaled,
    retrieval,
    split_displacement,
)
from sandbox.measure.trajectory import progress

DIMS = (1, 2, 4, 16, 64)
N = 192
DRAWS = 40


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rng(seed=0):
    return np.random.default_rng(seed)


def plane_rotation(dim, angle):
    """Turns every plane (2k, 2k + 1) by the angle, so that <Rz, z> = cos(angle) |z|^2 for every z."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.block_diag(*[torch.tensor([[c, -s], [s, c]], dtype=torch.float64)] * (dim // 2))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    ("measure", "value", "tolerance"),
    [
        (displacement, 0.0, 0.0),
        (correlation_distance, 0.0, 1e-12),
        (inefficiency, 0.0, 0.0),
        (retrieval, 1.0, 0.0),
    ],
)
def test_a_copy_reads_its_fixed_point(measure, value, tolerance, dim):
    x = normals(N, dim)
    found = measure(x, x, rng())
    assert abs(found.value - value) <= tolerance
    # The same points read something else once they are shuffled, or the value above would say nothing.
    assert not found.low <= value <= found.high


@pytest.mark.parametrize(
    ("dim", "angle"),
    [
        (2, 0.3),
        (2, 1.0),
        (2, math.pi / 2),
        (4, 0.3),
        (4, 2.5),
        (16, 1.0),
        (64, 0.3),
        (64, math.pi),
    ],
)
def test_a_rotation_of_the_noise_reads_one_minus_its_cosine(dim, angle):
    # T stretches each plane by its own factor, which a rotation within the planes does not see. With centred noise the
    # identity holds for the sample itself, so that no Monte Carlo error hides a factor.
    z = normals(N, dim)
    z = z - z.mean(0)
    stretch = torch.linspace(0.5, 3.0, dim // 2, dtype=torch.float64).repeat_interleave(2)
    teacher, student = z * stretch, (z @ plane_rotation(dim, angle).mT) * stretch
    want = 1 - math.cos(angle)
    found = {
        "displacement": displacement(student, teacher, rng()).value,
        "correlation_distance": correlation_distance(student, teacher, rng()).value,
        "progress": progress(student[None], teacher)["displacement"].item(),
    }
    parts = mode_displacement(student, teacher, torch.eye(dim, dtype=torch.float64))
    # In a plane the two coordinates are exchanged by the rotation; their sum is what is planted.
    moved = (student - teacher).square().mean(0).sum()
    independent = (student.square().mean(0) + teacher.square().mean(0)).sum()
    assert found == pytest.approx(dict.fromkeys(found, want), abs=1e-12)
    assert moved / independent == pytest.approx(want, abs=1e-12)
    assert parts.shape == (dim,)


def test_a_flip_of_the_line_reads_two():
    z = normals(N, 1)
    z = z - z.mean(0)
    assert displacement(-z, z, rng()).value == pytest.approx(2.0, abs=1e-12)
    assert correlation_distance(-z, z, rng()).value == pytest.approx(2.0, abs=1e-12)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    ("measure", "null", "tolerance"),
    [
        (displacement, 1.0, 0.03),
        (correlation_distance, 1.0, 0.03),
        (inefficiency, 1.0, 0.06),
    ],
)
def test_independent_pairs_read_one_within_the_null(measure, null, tolerance, dim):
    # Two different laws: the value of independence must not depend on their being the same. 95 % intervals from 64
    # shuffles hold a little less than 95 % of new pairs: of 40, fewer than 32 would be a chance of under one percent.
    inside, values = 0, []
    for draw in range(DRAWS):
        student = 2.0 * normals(96, dim, 2 * draw) + 0.5
        teacher = normals(96, dim, 2 * draw + 1)
        found = measure(student, teacher, rng(draw))
        inside += found.low <= found.value <= found.high
        values.append(found.value)
        assert abs(found.null - null) < 3 * tolerance
    assert inside >= 32
    assert np.mean(values) == pytest.approx(null, abs=tolerance)


@pytest.mark.parametrize("dim", DIMS)
def test_retrieval_of_independent_pairs_is_one_in_n(dim):
    n, draws = 64, 100
    hits = sum(retrieval(normals(n, dim, 2 * i), normals(n, dim, 2 * i + 1), rng(i)).value * n for i in range(draws))
    # About one hit per draw, Poisson: 100 +- 10, and three standard deviations of it.
    assert 70 <= hits <= 130
    null = np.mean([retrieval(normals(n, dim, 2 * i), normals(n, dim, 2 * i + 1), rng(i)).null for i in range(5)])
    # 5 x 64 shuffles of 64 points: 1/64 +- 1/64/sqrt(320)
    assert null == pytest.approx(1 / n, rel=0.2)


def test_kappa_of_independent_labels_is_zero_within_the_null():
    generator = rng(3)
    values, inside = [], 0
    for draw in range(DRAWS):
        a, b = (torch.from_numpy(generator.choice(4, 200, p=p)) for p in ((0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4)))
        found = mode_agreement(a, b, 4, rng(draw))
        values.append(found.value)
        inside += found.low <= found.value <= found.high
    # One kappa has a standard deviation of about 0.035 here, the mean of 40 a sixth of that.
    assert np.mean(values) == pytest.approx(0, abs=0.02)
    assert inside >= 32


@pytest.mark.parametrize(("scale", "offset"), [(0.01, 0.0), (0.5, 3.0), (40.0, -7.0)])
def test_a_scaled_copy_has_no_correlation_distance_but_a_displacement(scale, offset):
    x = normals(N, 4)
    assert correlation_distance(scale * x + offset, x, rng()).value == pytest.approx(0, abs=1e-12)
    assert displacement(scale * x + offset, x, rng()).value > 0.05


@pytest.mark.parametrize("offset", [0.0, 0.3, 5.0])
def test_displacement_is_its_definition_when_the_means_differ(offset):
    s, t = 1.7 * normals(N, 3, 1) + offset, normals(N, 3, 2) - 1.0
    a, b = s.numpy(), t.numpy()
    traces = np.cov(a.T, bias=True).trace() + np.cov(b.T, bias=True).trace()
    want = ((a - b) ** 2).sum(1).mean() / (traces + ((a.mean(0) - b.mean(0)) ** 2).sum())
    assert displacement(s, t, rng()).value == pytest.approx(want, rel=1e-12)
    assert progress(s[None], t)["displacement"].item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("dim", [1, 4, 64])
def test_inefficiency_takes_the_exact_optimal_transport(dim):
    t = normals(N, dim, 1)
    s = t + 0.8 * normals(N, dim, 2)
    cost = ((s.numpy()[:, None] - t.numpy()[None]) ** 2).sum(-1)
    uniform = np.full(N, 1 / N)
    optimal = ot.emd2(uniform, uniform, cost)
    pairs = np.trace(cost) / N
    random = cost[~np.eye(N, dtype=bool)].mean()
    found = inefficiency(s, t, rng())
    assert found.value == pytest.approx((pairs - optimal) / (random - optimal), abs=1e-9)


def test_inefficiency_reads_zero_for_any_monotone_map_of_the_line():
    z = normals(N, 1)
    # Another law but the same order: no pairing is cheaper than the maps' own, though the displacement is large.
    student = torch.exp(z) + 3
    assert inefficiency(student, z, rng()).value == pytest.approx(0, abs=1e-12)
    assert displacement(student, z, rng()).value > 0.3


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        # rows: student's label, columns: teacher's; kappa = (p_o - p_e) / (1 - p_e) worked out by hand
        ([[20, 5], [10, 15]], 0.4),  # p_o = .7, p_e = .5
        ([[45, 15], [25, 15]], 0.13043478260869565),  # Fleiss & Cohen's example: p_o = .6, p_e = .54
        ([[10, 0, 0], [0, 10, 0], [0, 0, 10]], 1.0),
        ([[0, 10], [10, 0]], -1.0),
    ],
)
def test_mode_agreement_is_cohens_kappa(table, kappa):
    counts = np.array(table)
    pairs = [(i, j) for i, row in enumerate(table) for j, c in enumerate(row) for _ in range(c)]
    a, b = (torch.tensor(labels) for labels in zip(*pairs, strict=True))
    assert mode_agreement(a, b, len(counts), rng()).value == pytest.approx(kappa, abs=1e-12)


def test_mode_agreement_is_undefined_for_one_shared_mode():
    labels = torch.zeros(20, dtype=torch.int64)
    assert all(math.isnan(v) for v in mode_agreement(labels, labels, 3, rng()))
    # The student in one mode, the teacher in another: chance agreement is impossible, and so is agreement.
    assert mode_agreement(labels, labels + 1, 3, rng()).value == 0.0


@pytest.mark.parametrize(
    ("spectrum", "leading"),
    [
        ((8.0, 1.0, 1.0, 1.0), 1),
        ((1.0, 1.0, 1.0, 1.0), 2),
        ((2.0, 1.5, 1.0, 0.5), 2),
        ((1.0,), 1),
    ],
)
def test_mode_and_split_displacements_add_up(spectrum, leading):
    dim = len(spectrum)
    basis = torch.linalg.qr(normals(dim, dim, 5)).Q
    lam = torch.tensor(spectrum, dtype=torch.float64)
    t = (normals(N, dim, 1) * lam.sqrt()) @ basis.mT
    s = t + (normals(N, dim, 2) * torch.linspace(0.2, 1.5, dim, dtype=torch.float64)) @ basis.mT
    rho = mode_displacement(s, t, basis)
    a, b = s @ basis, t @ basis
    weight = a.var(0, correction=0) + b.var(0, correction=0) + (a.mean(0) - b.mean(0)).square()
    whole = displacement(s, t, rng()).value
    # The displacement is the mean of those of the modes, weighted by what independent pairs would read in each.
    assert (weight @ rho / weight.sum()).item() == pytest.approx(whole, rel=1e-10)
    first, rest = (part.value for part in split_displacement(s, t, basis @ torch.diag(lam) @ basis.mT, rng()))
    if dim == 1:
        assert first == pytest.approx(whole, rel=1e-10)
        assert math.isnan(rest)
        return
    # A spectrum without a gap leaves the choice of leading eigenvectors open: only bounds on the parts are defined.
    if spectrum[leading - 1] > spectrum[leading]:
        parts = [(weight * rho)[part].sum() / weight[part].sum() for part in (slice(leading), slice(leading, None))]
        assert [first, rest] == pytest.approx([part.item() for part in parts], rel=1e-8)
    else:
        assert min(first, rest) <= whole <= max(first, rest)


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 3), r"shape.*\(4, 2\).*\(4, 3\)"),
        (torch.zeros(1, 2), torch.zeros(1, 2), "n must be >= 2, got 1"),
        (torch.full((4, 2), math.nan), torch.ones(4, 2), "student_x must be finite, got 4"),
        (torch.ones(4, 2), torch.tensor([[0.0, math.inf]]).expand(4, 2), "teacher_x must be finite, got 4"),
        (torch.ones(4, 2), torch.ones(4, 2), "constant"),
    ],
)
def test_bad_pairs_are_named(student, teacher, words):
    with pytest.raises(ValueError, match=words):
        displacement(student, teacher, rng())


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("scale", "offset"), [(1e-3, 0.0), (0.1, 5.0), (30.0, -2.0)])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_a_rescaled_student_has_the_teachers_place_and_size_and_its_own_shape(scale, offset, dim, tolerance):
    stretch = torch.linspace(0.5, 2.0, dim, dtype=torch.float64)
    t = 3.0 * normals(N, dim, 1) * stretch + 1.0
    s = scale * (normals(N, dim, 2) + 0.3 * t) + offset
    found = rescaled(s, t).numpy()
    np.testing.assert_allclose(found.mean(0), t.numpy().mean(0), rtol=0, atol=tolerance)
    assert np.trace(np.atleast_2d(np.cov(found.T))) == pytest.approx(
        np.trace(np.atleast_2d(np.cov(t.T))), rel=tolerance
    )
    # Every difference of two points grew by one and the same positive factor, however small or far away it was.
    growth = (found[1:] - found[:1]) / (s[1:] - s[:1]).numpy()
    assert growth.min() > 0
    np.testing.assert_allclose(growth, growth[0, 0], rtol=1e4 * tolerance)
    np.testing.assert_allclose(rescaled(1.7 * s - 4.0, t), found, rtol=0, atol=1e4 * tolerance)
    want = correlation_distance(s, t, rng()).value
    assert displacement(torch.from_numpy(found), t, rng()).value == pytest.approx(want, abs=1e2 * tolerance)


@pytest.mark.parametrize("tolerance", [1e-12])
def test_a_copy_of_another_size_is_rescaled_to_the_copy(tolerance):
    t = normals(N, 4)
    torch.testing.assert_close(rescaled(0.01 * t + 3.0, t), t, rtol=0, atol=tolerance)
    assert rescaled(t.float(), t.float()).dtype == torch.float64


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 3), r"shape.*\(4, 2\).*\(4, 3\)"),
        (torch.zeros(1, 2), torch.zeros(1, 2), "n must be >= 2, got 1"),
        (torch.full((4, 2), math.nan), torch.ones(4, 2), "student_x must be finite, got 4"),
        (normals(4, 2), torch.full((4, 2), math.inf), "teacher_x must be finite, got 4"),
        (torch.ones(4, 2), normals(4, 2), "student_x must not be constant"),
        (torch.full((7, 2), 0.1, dtype=torch.float64), normals(7, 2), "student_x must not be constant"),
    ],
)
def test_what_cannot_be_rescaled_is_named(student, teacher, words):
    with pytest.raises(ValueError, match=words):
        rescaled(student, teacher)


def test_too_few_points_for_an_assignment_are_named():
    with pytest.raises(ValueError, match="n must be >= 8, got 7"):
        inefficiency(normals(7, 2), normals(7, 2, 1), rng())


def test_the_record_is_complete_and_reproducible():
    s, t = normals(64, 3, 1), normals(64, 3, 2)
    labels = torch.arange(64) % 3
    record = pairing(s, t, labels, labels.flip(0), seed=7)
    names = ("displacement", "correlation_distance", "inefficiency", "retrieval", "mode_agreement")
    assert set(record) == {f"{name}{part}" for name in names for part in ("", "_null", "_low", "_high")}
    assert record == pairing(s, t, labels, labels.flip(0), seed=7)
    assert record != pairing(s, t, labels, labels.flip(0), seed=8)
    assert set(pairing(s, t)) == {key for key in record if not key.startswith("mode_agreement")}


def test_progress_reads_every_student_of_a_pack():
    t = normals(N, 3)
    students = torch.stack([t, 0.1 * t, normals(N, 3, 1), -t + 2])
    found = progress(students, t)
    for i, s in enumerate(students):
        assert found["displacement"][i].item() == pytest.approx(displacement(s, t, rng()).value, abs=1e-12)
        want = correlation_distance(s, t, rng()).value
        assert found["correlation_distance"][i].item() == pytest.approx(want, abs=1e-12)
    assert found["scale"][:2].tolist() == pytest.approx([1.0, 0.01], rel=1e-12)
    with pytest.raises(ValueError, match=r"\(E, 192, 3\).*\(192, 3\)"):
        progress(t, t)


def test_a_constant_map_has_no_inefficiency():
    """Every pairing costs the same, and rounding must not decide."""
    t = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = inefficiency(torch.ones_like(t), t, np.random.default_rng(0))
    assert all(math.isnan(value) for value in found)
