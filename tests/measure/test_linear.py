"""Closed-form measures of linear students, against sampled pairs and against planted maps."""

import math

import numpy as np
import pytest
import torch

from sandbox.measure.gauge import polar_displacement
from sandbox.measure.linear import linear_measurements
from sandbox.measure.pairing import displacement
from sandbox.student.initialise import haar_rotation


def lam(dim, exponent=1.0):
    values = torch.arange(1, dim + 1, dtype=torch.float64) ** -exponent
    return dim * values / values.sum()


def flow_map(variances, sigma_max=80.0):
    return torch.diag((variances / (1 + variances / sigma_max**2)).sqrt())


@pytest.mark.parametrize("dim", [1, 2, 16, 64])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_the_teachers_own_map_is_a_copy(dim, tolerance):
    found = linear_measurements(flow_map(lam(dim)), lam(dim), 80.0)
    for name in ("displacement", "correlation_distance", "gauge_polar", "gauge_leading", "gauge_last"):
        assert found[name].item() == pytest.approx(0, abs=tolerance)
    assert found["scale"].item() == pytest.approx(1, abs=tolerance)
    # From sigma_max = 80 the map's law is short of the teacher's by lambda / sigma_max^2.
    assert found["variance_ratio_low"].item() == pytest.approx(1 / (1 + lam(dim)[0].item() / 6400), rel=1e-9)
    assert found["law_passes"].item()


@pytest.mark.parametrize("angle", [0.3, 1.2, math.pi])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_a_known_rotation_is_read_back(angle, tolerance):
    dim = 5
    R = torch.eye(dim, dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    R[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    K = flow_map(torch.ones(dim).double())
    found = linear_measurements(K @ R, torch.ones(dim).double(), 80.0)
    want = 2 * (1 - math.cos(angle)) / dim
    assert found["displacement"].item() == pytest.approx(want, abs=tolerance)
    assert found["gauge_polar"].item() == pytest.approx(want, abs=tolerance)
    assert found["gauge_leading"].item() == pytest.approx(1 - math.cos(angle), abs=tolerance)
    assert found["gauge_last"].item() == pytest.approx(0, abs=tolerance)


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize(("samples", "n", "tolerance"), [(20, 2000, 0.02)])
def test_is_what_sampled_pairs_estimate(dim, samples, n, tolerance):
    """Many small samples: the null beside a displacement takes n^2 numbers."""
    generator = torch.Generator().manual_seed(dim)
    A = 0.5 * torch.randn(dim, dim, generator=generator, dtype=torch.float64) + torch.eye(dim).double()
    z = torch.randn(samples, n, dim, generator=generator, dtype=torch.float64)
    K, rng = flow_map(lam(dim)), np.random.default_rng(0)
    sampled = np.mean([displacement(x @ A.mT, x @ K.mT, rng).value for x in z])
    found = linear_measurements(A, lam(dim), 80.0)
    assert found["displacement"].item() == pytest.approx(sampled, abs=tolerance)
    assert found["gauge_polar"].item() == pytest.approx(polar_displacement(A).item(), abs=1e-12)


@pytest.mark.parametrize("tolerance", [1e-12])
def test_a_pack_is_measured_one_by_one(tolerance):
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    together = linear_measurements(A, lam(3), 80.0)
    for i in range(4):
        alone = linear_measurements(A[i], lam(3), 80.0)
        for name, value in alone.items():
            assert together[name][i].item() == pytest.approx(value.item(), abs=tolerance)


def test_the_gate_is_on_the_extreme_variances():
    rotation = haar_rotation(4, torch.Generator().manual_seed(1))
    ones = torch.ones(4).double()
    for scale, passes in ((0.69, False), (0.72, True), (1.4, True), (1.43, False)):
        K = torch.diag(torch.tensor([scale, 1.0, 1.0, 1.0]).double()) @ rotation
        assert linear_measurements(K, ones, 80.0)["law_passes"].item() is passes


def test_a_singular_student_has_no_gauge():
    A = torch.diag(torch.tensor([1.0, 0.0]).double())
    found = linear_measurements(A, torch.ones(2).double(), 80.0)
    assert math.isnan(found["gauge_polar"].item())
    assert math.isfinite(found["displacement"].item())


@pytest.mark.parametrize("variances", [torch.ones(3), torch.tensor([1.0, 0.0])])
def test_bad_variances_are_named(variances):
    with pytest.raises(ValueError, match="variances must be 2 positive numbers"):
        linear_measurements(torch.eye(2), variances, 80.0)
