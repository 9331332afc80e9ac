"""The law gate: real samples pass it, laws with one planted fault do not."""

import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from scipy.stats import energy_distance as energy_distance_of_scipy

from sandbox.measure.law import calibrate, energy_distance, law_match, mode_labels, sliced_w2
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.families import gaussian, memorising, random, ring
from sandbox.teacher.mixture import GaussianMixture

N = 1024
DIMS = (1, 8, 64)
TEACHERS = {"gaussian": gaussian, "power law": lambda dim: gaussian(dim, exponent=1.5), "ring": ring}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", TEACHERS)
def test_real_samples_pass_in_nearly_all_draws(name, dim):
    teacher = TEACHERS[name](dim)
    calibration = calibrate(teacher, N, seed=1)
    passed = sum(law_match(teacher, teacher.sample(N, seeded(100 + i)), calibration)["law_passes"] for i in range(50))
    assert passed >= 47


def with_modes(teacher, keep=slice(None), shift=0.0, widen=1.0):
    """The teacher's law with some modes only, moved along every coordinate and with its variances widened."""
    weights = teacher.weights[keep]
    return GaussianMixture(weights / weights.sum(), teacher.means[keep] + shift, Isotropic(widen * 0.3**2))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    ("fault", "symptom"),
    [
        ({"widen": 2.5}, "variance_ratio_high"),
        ({"widen": 0.3}, "variance_ratio_low"),
        ({"keep": slice(1, None)}, "mass_ratio_low"),
        ({"shift": 1.5}, "sliced_w2"),
    ],
)
def test_one_fault_in_the_law_fails(fault, symptom, dim):
    # The shift is five standard deviations of a mode, half of the ring's radius: at d = 1, where samples differ from
    # each other by the masses of two distant modes, the distance does not see less than about 1.
    teacher = ring(dim)
    calibration = calibrate(teacher, N, seed=1)
    found = [law_match(teacher, with_modes(teacher, **fault).sample(N, seeded(i)), calibration) for i in range(10)]
    assert not any(record["law_passes"] for record in found)
    # It failed for the fault that was planted.
    limit = {
        "variance_ratio_high": 2.0,
        "variance_ratio_low": -0.5,
        "mass_ratio_low": -0.5,
        "sliced_w2": 2 * calibration.distance,
    }[symptom]
    assert all((record[symptom] if limit > 0 else -record[symptom]) > limit for record in found)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("widen", [0.3, 2.5])
def test_a_gaussian_of_the_wrong_variance_fails(widen, dim):
    teacher = gaussian(dim)
    calibration = calibrate(teacher, N, seed=1)
    for i in range(10):
        assert not law_match(teacher, math.sqrt(widen) * teacher.sample(N, seeded(i)), calibration)["law_passes"]


def test_the_sliced_distance_of_the_line_is_that_of_sorted_samples():
    x, y = torch.randn(200, 1, generator=seeded(0)), 2 * torch.randn(200, 1, generator=seeded(1)).exp() - 1
    want = (np.sort(x[:, 0].double().numpy()) - np.sort(y[:, 0].double().numpy())).__pow__(2).mean() ** 0.5
    assert sliced_w2(x, y) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("dim", "tolerance"), [(2, 0.25), (64, 0.25)])
def test_a_shift_reads_its_share_of_every_direction(dim, tolerance):
    # A translation by v moves each projection by <v, theta>, whose mean square over directions is |v|^2 / d; over 64
    # of them its relative error is about sqrt(1 / (2 * 64)).
    x = torch.randn(100, dim, generator=seeded(0), dtype=torch.float64)
    assert sliced_w2(x, x + 3.0) == pytest.approx(3.0, rel=tolerance)


def test_the_calibration_is_reproducible_and_independent_of_the_global_generator():
    torch.manual_seed(0)
    first = calibrate(ring(2), 64, seed=3, repeats=2)
    torch.manual_seed(1)
    again = calibrate(ring(2), 64, seed=3, repeats=2)
    assert torch.equal(first.samples, again.samples)
    assert first.distance == again.distance
    assert not torch.equal(first.samples, calibrate(ring(2), 64, seed=4, repeats=2).samples)


def test_labels_are_the_nearest_mode_of_equal_modes():
    teacher = ring(3, modes=5)
    x = teacher.sample(200, seeded(0))
    assert torch.equal(mode_labels(teacher, x), torch.cdist(x, teacher.means.to(x)).argmin(-1))


@pytest.mark.parametrize("points_seed", [0, 1])
@pytest.mark.parametrize("points", [8, 32, 128, 512])
@pytest.mark.parametrize(("dim", "least"), [(2, 28), (8, 28)])
def test_real_samples_of_memorised_points_pass_whatever_their_number(dim, points, points_seed, least):
    """By components no sample could: of 512 components, 1024 samples leave some without any."""
    teacher = memorising(dim, points=points, points_seed=points_seed)
    calibration = calibrate(teacher, N, seed=1)
    draws = [teacher.sample(N, seeded(100 + i)) for i in range(30)]
    assert sum(law_match(teacher, x, calibration)["law_passes"] for x in draws) >= least
    if points == 512:
        each = GaussianMixture(teacher.weights, teacher.means, teacher.covariance)
        assert not any(law_match(each, x, calibration)["law_passes"] for x in draws[:5])


def test_a_mode_without_weight_is_not_missed():
    means = torch.eye(3, dtype=torch.float64) * 4
    law = GaussianMixture([0.5, 0.5, 0.0], means, Isotropic(0.1))
    record = law_match(law, law.sample(N, seeded(0)), calibrate(law, N, seed=1))
    assert record["law_passes"]
    assert record["mass_ratio_low"] > 0.8


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize("points", [32, 512])
def test_a_mode_of_memorised_points_that_is_missing_or_too_wide_fails(dim, points):
    teacher = memorising(dim, points=points)
    calibration = calibrate(teacher, N, seed=1)
    kept = teacher.mode_of != 3
    missing = GaussianMixture(teacher.weights[kept] / teacher.weights[kept].sum(), teacher.means[kept], Isotropic(0.01))
    centres = torch.stack([teacher.means[teacher.mode_of == m].mean(0) for m in range(teacher.modes)])
    wide = centres[teacher.mode_of] + 2.0 * (teacher.means - centres[teacher.mode_of])
    wide = GaussianMixture(teacher.weights, wide, Isotropic(0.04))
    for law, symptom in ((missing, "mass_ratio_low"), (wide, "variance_ratio_high")):
        found = [law_match(teacher, law.sample(N, seeded(i)), calibration) for i in range(5)]
        assert not any(record["law_passes"] for record in found)
        assert all(not 0.5 <= record[symptom] <= 2 for record in found)


def test_labels_of_memorised_points_tend_to_the_populations():
    population, teacher = random(8), memorising(8, points=4096)
    x = population.sample(N, seeded(0))
    # The points' modes are numbered as the population's, all of which have some.
    same = (mode_labels(teacher, x) == mode_labels(population, x)).double().mean().item()
    assert teacher.modes == population.components
    assert same > 0.99


def normals(n, dim, seed):
    return torch.randn(n, dim, generator=seeded(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (7, 30), (200, 150)])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_the_energy_distance_of_the_line_is_scipys_without_the_pairs_of_a_point_with_itself(n, m, tolerance):
    x, y = normals(n, 1, 0), 2 * normals(m, 1, 1).exp() - 1
    # Scipy returns a root, and its means within a sample are over all n^2 pairs, n of which are zero.
    a, b = (t[:, 0].numpy() for t in (x, y))
    within = sum(np.abs(t[:, None] - t[None]).mean() / (len(t) - 1) for t in (a, b))
    want = energy_distance_of_scipy(a, b) ** 2 - within
    assert energy_distance(x, y) == pytest.approx(want, abs=tolerance)
    assert energy_distance(y, x) == pytest.approx(want, abs=tolerance)


@pytest.mark.parametrize(("n", "m", "dim"), [(2, 3, 2), (20, 11, 3), (9, 9, 40)])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_the_energy_distance_is_its_definition(n, m, dim, tolerance):
    x, y = normals(n, dim, 0), 0.5 * normals(m, dim, 1) + 1
    pairs = [(x[i] - x[j]).norm().item() for i in range(n) for j in range(n) if i != j]
    others = [(y[i] - y[j]).norm().item() for i in range(m) for j in range(m) if i != j]
    between = [(a - b).norm().item() for a in x for b in y]
    want = 2 * np.mean(between) - np.mean(pairs) - np.mean(others)
    assert energy_distance(x, y) == pytest.approx(want, abs=tolerance)
    # In the data's units, and of no place or direction.
    turned = torch.linalg.qr(normals(dim, dim, 2)).Q
    assert energy_distance(100 * x @ turned + 7, 100 * y @ turned + 7) == pytest.approx(100 * want, abs=1e3 * tolerance)
    assert energy_distance(x.float(), y.float()) == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("n", "m", "draws", "standard_errors"), [(12, 20, 300, 4.5)])
def test_the_energy_distance_is_zero_on_average_within_one_law(dim, n, m, draws, standard_errors):
    teacher, generator = ring(dim), seeded(dim)
    found = np.array(
        [energy_distance(teacher.sample(n, generator), teacher.sample(m, generator)) for _ in range(draws)]
    )
    error = found.std() / math.sqrt(draws)
    assert abs(found.mean()) <= standard_errors * error
    # With the pairs of a point with itself it would have read E|x - x'| (1/n + 1/m).
    size = torch.pdist(teacher.sample(500, generator)).mean().item()
    assert standard_errors * error < size * (1 / n + 1 / m) / 2


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("scale", [0.5, 1.5])
@pytest.mark.parametrize(("n", "draws", "standard_errors"), [(64, 100, 4.5)])
def test_the_energy_distance_of_two_gaussians_is_known(scale, dim, n, draws, standard_errors):
    """E|x - y| = sqrt(2 (a^2 + b^2)) Gamma((d + 1)/2) / Gamma(d/2) for x ~ N(0, a^2), y ~ N(0, b^2)."""
    unit = math.sqrt(2) * math.exp(gammaln((dim + 1) / 2) - gammaln(dim / 2))
    want = unit * (2 * math.sqrt(1 + scale**2) - math.sqrt(2) - math.sqrt(2) * scale)
    found = np.array(
        [energy_distance(normals(n, dim, 2 * i), scale * normals(n, dim, 2 * i + 1)) for i in range(draws)]
    )
    error = found.std() / math.sqrt(draws)
    assert abs(found.mean() - want) <= standard_errors * error
    assert error < want / 8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: energy_distance(torch.zeros(4, 2), torch.zeros(4, 3)), "one dimension, got 2 and 3"),
        (lambda: energy_distance(torch.zeros(1, 2), torch.zeros(4, 2)), "n must be >= 2, got 1"),
        (lambda: energy_distance(torch.zeros(4, 2), torch.zeros(0, 2)), "n must be >= 2, got 0"),
        (lambda: calibrate(ring(2), 1), "n must be >= 2, got 1"),
        (lambda: sliced_w2(torch.zeros(4, 2), torch.zeros(4, 3)), "one dimension, got 2 and 3"),
        (lambda: sliced_w2(torch.zeros(4, 2), torch.full((4, 2), math.nan)), "finite"),
    ],
)
def test_bad_samples_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
