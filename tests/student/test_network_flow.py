"""A network's own map against the teacher's for exact denoisers, closed forms and scipy's solver."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from problems import line, mixture

from sandbox.student import network_flow
from sandbox.student.denoiser import Denoiser
from sandbox.student.network_flow import SIGMA_MIN, network_jacobian, network_map
from sandbox.student.networks import Pack
from sandbox.teacher.families import ring
from sandbox.teacher.flow import FlowError, teacher_jacobian, teacher_map


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(dim, stir=0.2, sigma_data=0.7):
    """A denoiser in float64, away from its start unless stir is 0, as a function of points and a level."""
    built = Denoiser(dim, 8, 1, torch.Generator().manual_seed(0), sigma_data)
    with torch.no_grad():
        for i, p in enumerate(built.parameters()):
            p += stir * normals(1, p.numel(), i).reshape(p.shape)
    return Pack.of([built.double()]).member(0)


def bent(x, sigma):
    """A smooth denoiser that is nobody's, of few operations."""
    return torch.tanh(x + x.roll(1, -1)) / (1 + sigma**2)


MIXTURES = {"line": line(), "ring": ring(2)}


class TestExactDenoiser:
    """As a network, the teacher's own denoiser has the teacher's map but for its end: from sigma on, the flow moves a
    point by sigma^2 s / 2 and one denoising step by sigma^2 s, s the score, so that the two differ by sigma^2 s / 2 at
    sigma = .002, and by the next order in sigma^2 over the law's smallest variance."""

    @pytest.mark.parametrize(("name", "sigma_max"), [("line", 80.0), ("ring", 2.5)])
    @pytest.mark.parametrize(("n", "tolerance"), [(5, 1e-8)])
    def test_has_the_teachers_map(self, name, sigma_max, n, tolerance):
        law = MIXTURES[name]
        z = normals(n, law.dim)
        want = teacher_map(law, z, sigma_max=sigma_max, tolerance=tolerance / 2)
        last = SIGMA_MIN**2 / 2 * law.score(want)
        # Above the tolerance, so that a map that stopped elsewhere would be seen.
        assert last.norm(dim=-1).max() > 100 * tolerance
        found = network_map(law.denoise, z, sigma_max, tolerance=tolerance / 2)
        torch.testing.assert_close(found, want + last, rtol=0, atol=tolerance)

    def jacobian(self, law, z, sigma_max):
        x, J = (f(law, z, sigma_max=sigma_max, tolerance=1e-7) for f in (teacher_map, teacher_jacobian))
        return J + SIGMA_MIN**2 / 2 * law.score_jacobian(x) @ J

    @pytest.mark.parametrize(("sigma_max", "n", "tolerance"), [(2.5, 3, 1e-6)])
    def test_has_the_teachers_jacobian(self, sigma_max, n, tolerance):
        law = mixture("full", 3).law
        z = normals(n, law.dim, 1)
        want = self.jacobian(law, z, sigma_max)
        assert (want - want.mT).abs().max() > 0.1, "or its transpose would pass"
        torch.testing.assert_close(network_jacobian(law.denoise, z, sigma_max), want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize(("n", "steps", "margin"), [(3, (0.02, 0.01), 0.1)])
    def test_the_error_of_the_jacobian_is_of_second_order_in_the_step(self, n, steps, margin):
        z = normals(n, 1, 1)
        want = self.jacobian(line(), z, 2.5)
        wide, narrow = ((network_jacobian(line().denoise, z, 2.5, step=h) - want).norm().item() for h in steps)
        assert wide / narrow == pytest.approx((steps[0] / steps[1]) ** 2, rel=margin)

    @pytest.mark.parametrize(("dim", "sigma_max"), [(5, 0.5)])
    @pytest.mark.parametrize(("tolerance", "step"), [(1e-9, 0.1)])
    def test_of_a_gaussian_in_closed_form(self, dim, sigma_max, tolerance, step):
        """m + C (C + sigma_min^2)^(-1/2) (C + sigma_max^2)^(-1/2) (sigma_max z - m), by scipy's square root."""
        problem = mixture("full", dim, components=1)
        C, m, eye = problem.matrices[0].numpy(), problem.means[0].numpy(), np.eye(dim)
        root = scipy.linalg.sqrtm((C + SIGMA_MIN**2 * eye) @ (C + sigma_max**2 * eye)).real
        gain = C @ np.linalg.inv(root)
        z = normals(6, dim)
        found = network_map(problem.law.denoise, z, sigma_max, tolerance=1e-9).numpy()
        np.testing.assert_allclose(found, m + (sigma_max * z.numpy() - m) @ gain.T, rtol=0, atol=tolerance)
        # The map is linear: central differences of it, of whatever step, have the flow's error alone.
        J = network_jacobian(problem.law.denoise, z, sigma_max, tolerance=tolerance, step=step).numpy()
        np.testing.assert_allclose(J, np.broadcast_to(sigma_max * gain, J.shape), rtol=0, atol=tolerance)


class TestNetworks:
    @pytest.mark.parametrize(("dim", "sigma_data", "tolerance"), [(4, 0.5, 1e-9)])
    def test_an_untrained_one_has_the_map_of_a_gaussian(self, dim, sigma_data, tolerance):
        z, v = normals(6, dim), sigma_data**2
        want = 80 * v / math.sqrt((v + SIGMA_MIN**2) * (v + 80**2)) * z
        untrained = network(dim, stir=0.0, sigma_data=sigma_data)
        torch.testing.assert_close(network_map(untrained, z, tolerance=1e-9), want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize(("dim", "sigma_max", "tolerance"), [(3, 5.0, 1e-7)])
    def test_against_scipy(self, dim, sigma_max, tolerance):
        """An independent formulation: plain sigma as the variable, and adaptive steps."""
        net, z = network(dim), normals(2, dim, 2)

        def velocity(sigma, y):
            x = torch.from_numpy(y).reshape(z.shape)
            return ((x - net(x, float(sigma))) / sigma).flatten().numpy()

        y = scipy.integrate.solve_ivp(
            velocity, (sigma_max, SIGMA_MIN), sigma_max * z.flatten().numpy(), method="DOP853", rtol=1e-9, atol=1e-9
        ).y[:, -1]
        want = net(torch.from_numpy(y).reshape(z.shape), SIGMA_MIN)
        found = network_map(net, z, sigma_max, tolerance=1e-8)
        torch.testing.assert_close(found, want, rtol=0, atol=tolerance)
        # The network's own: its start, the denoiser of a Gaussian, has another.
        assert (found - 0.7 * sigma_max / math.hypot(0.7, sigma_max) * z).norm(dim=-1).min() > 0.1


@pytest.mark.parametrize(
    ("frequency", "tolerance", "refined"), [(3.0, 1e-5, False), (20.0, 1e-10, True), (60.0, 1e-4, True)]
)
def test_steps_are_taken_until_the_tolerance_is_kept(frequency, tolerance, refined):
    """D = x - cos(w ln sigma) has the velocity cos(w ln sigma) and the flow sin(w ln sigma) / w: the first steps are
    too long for the higher frequencies."""
    calls = []

    def waving(x, sigma):
        calls.append(sigma)
        return x - math.cos(frequency * math.log(sigma))

    z = normals(4, 2)
    phases = [frequency * math.log(level) for level in (80.0, SIGMA_MIN)]
    want = 80 * z + (math.sin(phases[1]) - math.sin(phases[0])) / frequency - math.cos(phases[1])
    found = network_map(waving, z, tolerance=tolerance)
    assert (found - want).norm(dim=-1).max() <= tolerance
    first = 12 * (32 + 64) + 1  # twelve stages a step, and the last denoising
    assert (len(calls) > first) == refined


@pytest.mark.parametrize("tolerance", [1e-8])
def test_a_point_does_not_depend_on_the_others(tolerance):
    z = normals(2, 3)
    for function in (network_map, network_jacobian):
        together = function(bent, z)
        alone = torch.cat([function(bent, point[None]) for point in z])
        torch.testing.assert_close(together, alone, rtol=0, atol=tolerance)


def test_is_evaluated_in_double_precision():
    z = normals(3, 2).float()
    for function in (network_map, network_jacobian):
        found = function(bent, z)
        assert found.dtype == torch.float64
        assert torch.equal(found, function(bent, z.double()))


@pytest.mark.parametrize(("sigma_max", "rounding"), [(7.0, 1e-12)])
def test_levels_run_from_the_highest_to_the_lowest(sigma_max, rounding):
    levels = []

    def recorded(x, sigma):
        assert type(sigma) is float
        levels.append(sigma)
        return bent(x, sigma)

    network_map(recorded, normals(2, 1), sigma_max)
    assert levels[0] == pytest.approx(sigma_max, rel=rounding)
    assert levels[-1] == SIGMA_MIN
    assert max(levels) <= sigma_max * (1 + rounding)
    assert min(levels) >= SIGMA_MIN * (1 - rounding)


@pytest.mark.parametrize("function", [network_map, network_jacobian])
class TestErrors:
    @pytest.mark.parametrize("value", [SIGMA_MIN, 0.0, -1.0, math.nan])
    def test_a_bad_level_is_named(self, function, value):
        with pytest.raises(ValueError, match=rf"sigma_max must be > 0.002, got {value}"):
            function(bent, normals(2, 1), value)

    @pytest.mark.parametrize(("value", "words"), [(0.0, "got 0.0"), (-1.0, "got -"), (math.nan, "got nan")])
    def test_a_bad_tolerance_is_named(self, function, value, words):
        with pytest.raises(ValueError, match=f"tolerance must be > 0, {words}"):
            function(bent, normals(2, 1), 80.0, value)

    @pytest.mark.parametrize(
        ("rough", "words"),
        [
            # Jumps that no step can resolve, and a network that has blown up.
            (lambda x, sigma: torch.sign(torch.sin(300 * x)), r"differs by [0-9.e-]+ > tolerance = 1e-\d+ after 128"),
            (lambda x, sigma: x * math.nan, r"differs by nan > tolerance = 1e-\d+ after 128 steps"),
        ],
        ids=["jumps", "not a number"],
    )
    def test_a_flow_that_no_step_resolves_is_an_error(self, function, rough, words, monkeypatch):
        monkeypatch.setattr(network_flow, "MOST_STEPS", 128)
        with pytest.raises(FlowError, match=words):
            function(rough, normals(2, 1), 80.0, 1e-6)
