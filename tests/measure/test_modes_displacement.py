"""Displacement between and within modes: the parts add up, and each is calibrated by what independent pairs read."""

import itertools
import math

import numpy as np
import pytest
import torch

from sandbox.measure.modes import ModeParts, eigenmode_displacements, mode_parts
from sandbox.measure.pairing import displacement, mode_displacement

N = 120


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rng(seed=0):
    return np.random.default_rng(seed)


def labels(n, modes, seed):
    return torch.from_numpy(rng(seed).integers(modes, size=n))


def pairs(dim, agree, n=N, modes=4, seed=0):
    """Two maps whose labels agree at a share of the points and whose offsets are correlated by 1/2."""
    centres = 2 * normals(modes, dim, 99)
    a = labels(n, modes, seed)
    b = torch.where(torch.from_numpy(rng(seed + 1).random(n) < agree), a, labels(n, modes, seed + 2))
    u, w = normals(n, dim, seed + 3), normals(n, dim, seed + 4)
    student, teacher = 1.3 * centres[a] + 0.4 * (0.5 * u + math.sqrt(0.75) * w) + 0.2, centres[b] + 0.3 * u
    return student, teacher, a, b


def by_hand(s, t, a, b):
    """The parts from their definition, point by point in numpy."""
    s, t, a, b = (x.numpy() for x in (s, t, a, b))
    between = within = cross = 0.0
    for i in range(len(s)):
        c_a, c_b = s[a == a[i]].mean(0), t[b == b[i]].mean(0)
        B, W = c_a - c_b, (s[i] - c_a) - (t[i] - c_b)
        between, within, cross = between + B @ B, within + W @ W, cross + 2 * B @ W
    between, within, cross = (x / len(s) for x in (between, within, cross))
    total = s.var(0).sum() + t.var(0).sum() + np.square(s.mean(0) - t.mean(0)).sum()
    inner = sum(np.square(x[m == k] - x[m == k].mean(0)).sum() for x, m in ((s, a), (t, b)) for k in set(m)) / len(s)
    first, second = between + cross / 2, within + cross / 2
    return [
        (first + second) / total,
        first / total,
        second / total,
        first / (total - inner),
        second / inner,
        cross / total,
    ]


@pytest.mark.parametrize("tolerance", [1e-12])
@pytest.mark.parametrize("agree", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dim", [1, 3, 32])
def test_the_parts_are_their_definition_and_add_up(dim, agree, tolerance):
    s, t, a, b = pairs(dim, agree)
    found = mode_parts(s, t, a, b, rng())
    assert [part.value for part in found] == pytest.approx(by_hand(s, t, a, b), abs=tolerance)
    whole = displacement(s, t, rng())
    # With one and the same shuffles the null adds up as the value does, and is the displacement's.
    assert found.whole[:4] == pytest.approx(tuple(whole), abs=tolerance)
    for field in ("value", "null"):
        total, first, second = (getattr(part, field) for part in found[:3])
        assert first + second == pytest.approx(total, abs=tolerance)
    weight = found.between.value / found.between_own.value
    mean = weight * found.between_own.value + (1 - weight) * found.within_own.value
    assert mean == pytest.approx(whole.value, abs=tolerance)
    assert {part.n for part in found} == {N}


@pytest.mark.parametrize("tolerance", [1e-12])
def test_over_all_pairings_of_the_points_each_part_reads_one_and_the_cross_term_nothing(tolerance):
    s, t = normals(5, 2, 1), 3 * normals(5, 2, 2) + 1
    a, b = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([1, 0, 0, 0, 1])
    every = [list(pi) for pi in itertools.permutations(range(5))]
    values = np.mean([[part.value for part in mode_parts(s, t[pi], a, b[pi], rng())] for pi in every], 0)
    found = dict(zip(ModeParts._fields, values, strict=True))
    assert [found[k] for k in ("whole", "between_own", "within_own", "cross")] == pytest.approx(
        [1, 1, 1, 0], abs=tolerance
    )


@pytest.mark.parametrize("tolerance", [1e-12])
@pytest.mark.parametrize("dim", [1, 16])
def test_the_cross_term_vanishes_where_the_labels_agree(dim, tolerance):
    s, t, a, b = pairs(dim, 1.0)
    assert torch.equal(a, b)
    assert mode_parts(s, t, a, b, rng()).cross.value == pytest.approx(0, abs=tolerance)
    s, t, a, b = pairs(dim, 0.5)
    assert abs(mode_parts(s, t, a, b, rng()).cross.value) > 1e3 * tolerance


@pytest.mark.parametrize(("shift", "tolerance"), [(0.02, 1e-12)])
def test_points_that_cross_a_border_by_little_move_little_in_both_parts(shift, tolerance):
    # One Gaussian cut at 0 into two "modes", and shifted, so that some labels flip. S - T is the shift at every point,
    # so that E<B, S - T> = |shift|^2, and E<W, S - T> = 0 because offsets have mean 0.
    t = normals(2000, 1)
    s = t + shift
    found = mode_parts(s, t, (s[:, 0] > 0).long(), (t[:, 0] > 0).long(), rng())
    assert found.between.value == pytest.approx(found.whole.value, abs=tolerance)
    assert found.within.value == pytest.approx(0, abs=tolerance)
    # Without its half of the cross term the part between would be many times the whole.
    assert found.between.value - found.cross.value / 2 > 20 * found.whole.value


@pytest.mark.parametrize("tolerance", [0.0])
@pytest.mark.parametrize("dim", [1, 8, 128])
def test_a_copy_reads_zero_in_every_part_and_lies_outside_every_null(dim, tolerance):
    _, t, _, b = pairs(dim, 1.0)
    found = mode_parts(t, t, b, b, rng())
    assert [abs(part.value) for part in found] == pytest.approx([0] * 6, abs=tolerance)
    assert [part.se for part in found] == pytest.approx([0] * 6, abs=tolerance)
    assert all(part.low > tolerance for part in found[:5])


@pytest.mark.parametrize("tolerance", [1e-12])
def test_one_mode_leaves_the_means_between_and_the_rest_within(tolerance):
    s, t = normals(N, 3, 1) + 2, normals(N, 3, 2)
    one = torch.zeros(N, dtype=torch.int64)
    found = mode_parts(s, t, one, one, rng())
    apart = (s.mean(0) - t.mean(0)).square().sum().item()
    # Any pairing has these means: the part between reads what independent pairs read, its weight is small.
    assert found.between_own.value == pytest.approx(1, abs=tolerance)
    assert found.between.value == pytest.approx(
        apart / (apart + (s.var(0, correction=0) + t.var(0, correction=0)).sum().item())
    )
    assert found.within_own.value == pytest.approx(
        displacement(s - s.mean(0), t - t.mean(0), rng()).value, abs=tolerance
    )


def test_points_that_are_their_centres_have_no_within():
    s, t = normals(5, 3, 1), normals(5, 3, 2)
    found = mode_parts(s, t, torch.arange(5), torch.arange(5), rng())
    assert math.isnan(found.within_own.value)
    assert found.within.value == 0.0


@pytest.mark.parametrize(("draws", "low", "high"), [(40, 0.7, 1.4)])
@pytest.mark.parametrize("dim", [16])
def test_the_standard_errors_are_what_new_points_scatter_by(dim, draws, low, high):
    # From 40 draws a standard deviation is known to 11 %, the jackknife's mean square about as well.
    found = [mode_parts(*pairs(dim, 0.5, n=64, seed=10 * i), rng(i)) for i in range(draws)]
    for parts in zip(*found, strict=True):
        scatter = np.std([part.value for part in parts], ddof=1)
        assert low < math.sqrt(np.mean([part.se**2 for part in parts])) / scatter < high


@pytest.mark.parametrize("tolerance", [1e-12])
@pytest.mark.parametrize("dim", [1, 5])
def test_eigenmodes_are_displacements_of_single_directions(dim, tolerance):
    s, t, _, _ = pairs(dim, 0.5)
    basis = torch.linalg.qr(normals(dim, dim, 5)).Q
    found = eigenmode_displacements(s, t, basis, rng())
    assert [m.value for m in found] == pytest.approx(mode_displacement(s, t, basis).tolist(), abs=tolerance)
    for k, m in enumerate(found):
        alone = displacement(s @ basis[:, k : k + 1], t @ basis[:, k : k + 1], rng())
        assert m[:4] == pytest.approx(tuple(alone), abs=tolerance)
        assert m.se > 0
        assert m.n == N


@pytest.mark.parametrize(
    ("student", "teacher", "a", "b", "words"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 3), [0] * 4, [0] * 4, r"shape.*\(4, 2\).*\(4, 3\)"),
        (torch.ones(4, 2), torch.ones(4, 2), [0] * 4, [0] * 4, "constant"),
        (normals(4, 2), normals(4, 2), [0] * 3, [0] * 4, r"student_modes must be 4 integers >= 0, got .*\(3,\)"),
        (normals(4, 2), normals(4, 2), [0] * 4, [0.5] * 4, "teacher_modes must be 4 integers >= 0, got torch.float32"),
        (normals(4, 2), normals(4, 2), [-1, 0, 0, 0], [0] * 4, "student_modes must be 4 integers >= 0"),
    ],
)
def test_bad_labels_are_named(student, teacher, a, b, words):
    with pytest.raises(ValueError, match=words):
        mode_parts(student, teacher, torch.tensor(a), torch.tensor(b), rng())
