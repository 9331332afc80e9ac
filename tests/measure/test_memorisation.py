"""Closeness to training points: planted copies of points, of modes, and of neither."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from sandbox.measure.law import mode_labels
from sandbox.measure.memorisation import memorisation, smoothed
from sandbox.measure.pairing import mode_agreement
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.families import memorising, random
from sandbox.teacher.mixture import GaussianMixture

N = 2048


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# Points further from each other than their bandwidth: in the plane a narrow one.
@pytest.mark.parametrize(("dim", "points", "bandwidth"), [(2, 64, 0.01), (8, 64, 0.1), (8, 512, 0.1), (32, 64, 0.1)])
class TestPlanted:
    def test_the_teachers_law_is_memorised_in_full(self, dim, points, bandwidth):
        teacher = memorising(dim, points=points, bandwidth=bandwidth)
        x, other = teacher.sample(N, seeded(0)), teacher.sample(N, seeded(1))
        found = memorisation(teacher, x, other)
        # 99 % of the samples are close to their own point, and some of the others to another one.
        least = binom.ppf(1e-4, N, 0.99) / N
        assert found["memorised_share"] >= least
        assert found["memorised_share_teacher"] >= least
        # Independent pairs: as often the same point as chance has it.
        assert found["point_agreement_low"] - 0.01 <= found["point_agreement"] <= found["point_agreement_high"] + 0.01

    def test_a_student_of_the_modes_reads_the_null(self, dim, points, bandwidth):
        teacher = memorising(dim, points=points, bandwidth=bandwidth)
        x = smoothed(teacher).sample(N, seeded(0))
        found = memorisation(teacher, x, teacher.sample(N, seeded(1)), seed=2)
        assert found["memorised_share"] == pytest.approx(found["memorised_share_null"], abs=5 * (0.25 / N) ** 0.5)
        assert found["memorised_share_null"] < 0.75 < 0.98 < found["memorised_share_teacher"]

    def test_a_copy_finds_the_same_points_and_a_copy_of_modes_does_not(self, dim, points, bandwidth):
        teacher = memorising(dim, points=points, bandwidth=bandwidth)
        x = teacher.sample(N, seeded(0))
        assert memorisation(teacher, x, x)["point_agreement"] == 1
        # Every mode's samples in another order: modes agree, points only where chance within a mode has it.
        labels, moved = mode_labels(teacher, x), x.clone()
        for m in labels.unique():
            own = (labels == m).nonzero().squeeze(-1)
            moved[own] = x[own[torch.randperm(len(own), generator=seeded(3))]]
        assert mode_agreement(mode_labels(teacher, moved), labels, teacher.modes, np.random.default_rng(0)).value == 1
        found = memorisation(teacher, moved, x)
        assert found["point_agreement_high"] < found["point_agreement"] < 0.75


def test_with_many_points_in_the_plane_nothing_is_left_to_memorise():
    """Where the points lie closer than the bandwidth, a sample of the modes is as close to them as one of theirs."""
    teacher = memorising(2, points=4096)
    found = memorisation(teacher, teacher.sample(N, seeded(0)), teacher.sample(N, seeded(1)))
    assert found["memorised_share_null"] > 0.97


@pytest.mark.parametrize("tolerance", [1e-12])
def test_the_smoothed_law_has_the_moments_of_the_points(tolerance):
    teacher = memorising(3, points=200)
    law = smoothed(teacher)
    torch.testing.assert_close(law.mean, teacher.mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(law.cov, teacher.cov, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(law.weights, teacher.mode_weights, rtol=tolerance, atol=tolerance)
    own = teacher.means[teacher.mode_of == 1]
    want = own.mT.cov(correction=0) + 0.01 * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(law.covariance.dense(1, 3), want, rtol=tolerance, atol=tolerance)


def test_teachers_without_training_points_have_no_entries():
    teacher = random(2)
    x = teacher.sample(8, seeded(0))
    assert memorisation(teacher, x, x) == {}


def test_a_mode_without_weight_is_named():
    law = GaussianMixture([0.5, 0.5, 0.0], torch.zeros(3, 2), Isotropic(0.1), [0, 0, 1])
    with pytest.raises(ValueError, match="every mode must have a weight > 0, got 0"):
        smoothed(law)
