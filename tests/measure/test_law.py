"""The law gate: real samples pass it, laws with one planted fault do not."""

import math

import numpy as np
import pytest
import torch

from sandbox.measure.law import calibrate, law_match, mode_labels, sliced_w2
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.families import gaussian, ring
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


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: calibrate(ring(2), 1), "n must be >= 2, got 1"),
        (lambda: sliced_w2(torch.zeros(4, 2), torch.zeros(4, 3)), "one dimension, got 2 and 3"),
        (lambda: sliced_w2(torch.zeros(4, 2), torch.full((4, 2), math.nan)), "finite"),
    ],
)
def test_bad_samples_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
