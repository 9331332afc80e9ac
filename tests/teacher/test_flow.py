"""The probability-flow map against quantiles, closed forms, scipy's solver and itself run backwards."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from problems import line, mixture

from sandbox.teacher import flow
from sandbox.teacher.covariance import Diagonal, Full, Isotropic
from sandbox.teacher.families import gaussian, random, ring
from sandbox.teacher.flow import FlowError, integrate, teacher_encode, teacher_jacobian, teacher_map
from sandbox.teacher.mixture import GaussianMixture

# Coordinates of z: from the bulk out to a tail of 1e-4.
LINE = torch.tensor([-3.7, -2.0, -1.1, -0.4, -0.03, 0.2, 0.9, 1.6, 2.5, 3.7], dtype=torch.float64)[:, None]


def normals(n, dim, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def quantile_map(law, z, sigma_max):
    """The monotone map from z to data: F_0(T) = F_sigma_max(sigma_max z), with F the distribution functions."""
    weights, means = law.weights.numpy(), law.means[:, 0].numpy()
    variance = law.covariance.variance.numpy()

    def log_tail(t, sigma, sign):
        terms = scipy.stats.norm.logcdf(sign * (t - means) / np.sqrt(variance + sigma**2))
        return scipy.special.logsumexp(terms, b=weights)

    images = []
    for value in z[:, 0].tolist():
        sign = -1 if value > 0 else 1  # whichever tail is the smaller, so that no digits are lost to 1 - F
        goal = log_tail(sigma_max * value, sigma_max, sign)
        images.append(
            scipy.optimize.brentq(lambda t, g=goal, s=sign: log_tail(t, 0.0, s) - g, -20, 20, xtol=1e-14, rtol=1e-14)
        )
    return torch.tensor(images, dtype=torch.float64)[:, None]


def doubled(law):
    """A Gaussian written as two equal components, which the flow has to integrate."""
    covariance = law.covariance.map(lambda t: t.repeat(2, *[1] * (t.ndim - 1)))
    return GaussianMixture(torch.tensor([0.3, 0.7], dtype=torch.float64), law.means.repeat(2, 1), covariance)


class ScoreOnly:
    """A user's own teacher: it has a score and nothing else."""

    def __init__(self, law):
        self.law = law

    def score(self, x, sigma):
        return self.law.score(x, sigma)


# name -> (velocity, solution at u from y at 0, end). The error is taken over many starts: along a single trajectory
# it can pass through zero, and the slope with it.
PROBLEMS = {
    "y' = 1 + y^2": (lambda y, u: 1 + y**2, lambda y, u: torch.tan(torch.atan(y) + u), 0.6),
    "y' = y (1 - y)": (lambda y, u: y * (1 - y), lambda y, u: 1 / (1 + (1 / y - 1) * math.exp(-u)), 6.0),
    "y' = y^2 cos u": (lambda y, u: y**2 * math.cos(u), lambda y, u: y / (1 - y * math.sin(u)), 1.0),
}
STARTS = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)


class TestOrder:
    @pytest.mark.parametrize(("name", "order", "margin"), [(name, 8, 0.4) for name in PROBLEMS])
    def test_slope_of_the_error(self, name, order, margin):
        velocity, solution, end = PROBLEMS[name]
        steps = (8, 12, 16, 24)
        errors = [(integrate(velocity, STARTS, 0.0, end, n) - solution(STARTS, end)).norm().item() for n in steps]
        assert min(errors) > 1e-14, "rounding would flatten the slope"
        assert abs(slope(steps, errors) - order) <= margin

    @pytest.mark.parametrize("name", PROBLEMS)
    @pytest.mark.parametrize("tolerance", [1e-11])
    def test_backwards_in_time(self, name, tolerance):
        velocity, solution, end = PROBLEMS[name]
        back = integrate(velocity, solution(STARTS, end), end, 0.0, 64)
        torch.testing.assert_close(back, STARTS, rtol=tolerance, atol=0)

    @pytest.mark.parametrize(("order", "margin"), [(8, 0.4)])
    @pytest.mark.parametrize("sigma_max", [80.0])
    def test_order_of_the_mixture_flow(self, order, margin, sigma_max):
        law = line()
        velocity, end = flow._velocity(law, law.smallest_std), math.asinh(sigma_max / law.smallest_std)
        want = quantile_map(law, LINE, sigma_max)
        steps = (24, 28, 32, 40)
        errors = [
            (integrate(velocity, sigma_max * LINE[..., None], end, 0.0, n)[..., 0] - want).norm().item() for n in steps
        ]
        assert min(errors) > 1e-13, "rounding would flatten the slope"
        assert abs(slope(steps, errors) - order) <= margin


class TestExactMaps:
    @pytest.mark.parametrize("sigma_max", [2.5, 80.0, 500.0])
    @pytest.mark.parametrize("tolerance", [1e-6, 1e-10])
    def test_monotone_quantile_map(self, sigma_max, tolerance):
        law = line()
        x = teacher_map(law, LINE, sigma_max=sigma_max, tolerance=tolerance)
        # the finer of the two results is kept, so that its error is below the tolerance, which bounds the coarser's
        assert (x - quantile_map(law, LINE, sigma_max)).abs().amax() <= tolerance

    @pytest.mark.parametrize("sigma_max", [2.5, 80.0])
    @pytest.mark.parametrize("dim", [1, 16])
    @pytest.mark.parametrize("exponent", [0.0, 1.5])
    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_gaussian_integrated_and_closed(self, dim, exponent, sigma_max, tolerance):
        law = gaussian(dim, exponent=exponent)
        law = GaussianMixture([1.0], law.means + 0.5, law.covariance)
        z = normals(8, dim)
        integrated = teacher_map(doubled(law), z, sigma_max=sigma_max, tolerance=1e-9)
        assert (integrated - teacher_map(law, z, sigma_max=sigma_max)).norm(dim=-1).amax() <= tolerance
        J = teacher_jacobian(doubled(law), z[:2], sigma_max=sigma_max, tolerance=1e-9)
        assert (J - teacher_jacobian(law, z[:2], sigma_max=sigma_max)).abs().amax() <= tolerance
        back = teacher_encode(doubled(law), integrated, sigma_max=sigma_max, tolerance=1e-9)
        assert (back - teacher_encode(law, integrated, sigma_max=sigma_max)).norm(dim=-1).amax() <= tolerance

    @pytest.mark.parametrize("sigma_max", [2.5, 80.0])
    @pytest.mark.parametrize(("dim", "tolerance"), [(5, 1e-13)])
    def test_gaussian_closed_form_against_dense_algebra(self, sigma_max, dim, tolerance):
        """A_T = sigma_max Sigma^(1/2) (Sigma + sigma_max^2)^(-1/2), by scipy's matrix square root."""
        problem = mixture("full", dim, components=1)
        sigma, mean = problem.matrices[0].numpy(), problem.means[0].numpy()
        gain = scipy.linalg.sqrtm(sigma @ np.linalg.inv(sigma + sigma_max**2 * np.eye(dim))).real
        z = normals(8, dim)
        want = mean + (sigma_max * z.numpy() - mean) @ gain.T
        got = teacher_map(problem.law, z, sigma_max=sigma_max).numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
        J = teacher_jacobian(problem.law, z, sigma_max=sigma_max).numpy()
        np.testing.assert_allclose(J, np.broadcast_to(sigma_max * gain, J.shape), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("kind", ["isotropic", "full", "low-rank"])
    @pytest.mark.parametrize("dim", [2, 8])
    @pytest.mark.parametrize(("sigma_max", "tolerance"), [(80.0, 1e-8)])
    def test_against_scipy(self, kind, dim, sigma_max, tolerance):
        """An independent formulation: plain sigma as the variable, adaptive steps, the velocity by the denoiser."""
        law = mixture(kind, dim).law
        z = normals(3, dim)

        def velocity(sigma, y):
            x = torch.from_numpy(y)[None]
            return ((x - law.denoise(x, float(sigma))) / sigma)[0].numpy()

        end = 1e-7  # dx/dsigma vanishes in proportion to sigma, so that what is left out is of order 1e-14
        want = [
            scipy.integrate.solve_ivp(
                velocity, (sigma_max, end), sigma_max * point.numpy(), method="DOP853", rtol=1e-11, atol=1e-11
            ).y[:, -1]
            for point in z
        ]
        got = teacher_map(law, z, sigma_max=sigma_max, tolerance=1e-10).numpy()
        np.testing.assert_allclose(got, np.stack(want), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("modes", [2, 8])
    @pytest.mark.parametrize("tolerance", [1e-9])
    def test_symmetric_axis_of_a_ring(self, modes, tolerance):
        """A ring of even size maps itself under reflection, and so must its flow."""
        law = ring(3, modes=modes)
        z = normals(6, 3)
        mirror = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
        x = teacher_map(law, z, tolerance=1e-10)
        assert (teacher_map(law, z * mirror, tolerance=1e-10) - x * mirror).abs().amax() <= tolerance
        # the third direction holds a Gaussian of its own, independent of the first two
        std = law.smallest_std
        want = 80 * z[:, 2] * std / math.sqrt(std**2 + 80**2)
        torch.testing.assert_close(x[:, 2], want, rtol=0, atol=tolerance)


class TestErrorEstimate:
    @pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
    @pytest.mark.parametrize("sigma_max", [2.5, 80.0])
    @pytest.mark.parametrize(("factor", "share", "rounding"), [(1.5, 0.99, 1e-13)])
    def test_bounds_the_true_error(self, tolerance, sigma_max, factor, share, rounding):
        law, z = line(), torch.linspace(-3.5, 3.5, 400, dtype=torch.float64)[:, None]
        x, estimate = teacher_map(law, z, sigma_max=sigma_max, tolerance=tolerance, return_error=True)
        true = (x - quantile_map(law, z, sigma_max)).norm(dim=-1)
        assert (estimate <= tolerance).all()
        assert (true <= tolerance).all()
        assert (true <= estimate + rounding).double().mean() >= share
        assert (true <= factor * estimate + rounding).all()

    @pytest.mark.parametrize(("family", "dim"), [(ring, 2), (random, 8), (ring, 16), (random, 64)])
    def test_bounds_the_distance_to_a_finer_result(self, family, dim):
        teacher, z = family(dim), normals(16, dim)
        fine = teacher_map(teacher, z, tolerance=1e-9)
        for tolerance in (1e-3, 1e-6):
            x, estimate = teacher_map(teacher, z, tolerance=tolerance, return_error=True)
            assert ((x - fine).norm(dim=-1) <= estimate + 1e-9).all()

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_a_point_does_not_depend_on_its_neighbours(self, tolerance):
        z = normals(4, 2)
        together = teacher_map(ring(2), z)
        alone = torch.cat([teacher_map(ring(2), point[None]) for point in z])
        torch.testing.assert_close(together, alone, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("function", [teacher_map, teacher_encode, teacher_jacobian])
    @pytest.mark.parametrize("components", [1, 3])
    @pytest.mark.parametrize("pack", [(), (2,)])
    @pytest.mark.parametrize(("n", "dim"), [(3, 2)])
    def test_shapes(self, function, components, pack, n, dim):
        law = mixture("isotropic", dim, components).law
        law = GaussianMixture.stack([law, law]) if pack else law
        result, error = function(law, normals(n, dim).expand(*pack, n, dim), return_error=True)
        assert result.shape == ((*pack, n, dim, dim) if function is teacher_jacobian else (*pack, n, dim))
        assert error.shape == (*pack, n)
        assert (error == 0).all() if components == 1 else ((error > 0) & (error <= 1e-6)).all()
        assert torch.equal(function(law, normals(n, dim).expand(*pack, n, dim)), result)


class TestInverse:
    @pytest.mark.parametrize("kind", ["isotropic", "diagonal", "low-rank", "full"])
    @pytest.mark.parametrize("dim", [1, 16])
    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_round_trip(self, kind, dim, tolerance):
        law = mixture(kind, dim).law
        z = normals(4, dim)
        x = teacher_map(law, z, tolerance=1e-9)
        assert (teacher_encode(law, x, tolerance=1e-9) - z).norm(dim=-1).amax() <= tolerance

    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_round_trip_from_the_data(self, tolerance):
        problem = mixture("full", 4)
        x = problem.points(0.0, n=8)
        z = teacher_encode(problem.law, x, tolerance=1e-9)
        assert (teacher_map(problem.law, z, tolerance=1e-9) - x).norm(dim=-1).amax() <= tolerance

    @pytest.mark.parametrize(("n", "p_value"), [(2000, 1e-3)])
    def test_codes_of_samples_are_standard_normal(self, n, p_value):
        """Up to O(1 / sigma_max^2), since the flow ends at p_sigma_max and not at N(0, sigma_max^2)."""
        law = line()
        z = teacher_encode(law, law.sample(n, generator=torch.Generator().manual_seed(4)))
        assert scipy.stats.kstest(z[:, 0].numpy(), "norm").pvalue > p_value


class TestJacobian:
    @pytest.mark.parametrize("kind", ["isotropic", "full"])
    @pytest.mark.parametrize("dim", [1, 2, 6])
    @pytest.mark.parametrize(("sigma_max", "step", "tolerance"), [(2.5, 1e-3, 1e-7)])
    def test_central_differences(self, kind, dim, sigma_max, step, tolerance):
        # From 2.5 the modes part over a distance of order 1 in z; from 80, over 0.02, where differences lose digits.
        law = mixture(kind, dim).law
        z = normals(4, dim)
        J = teacher_jacobian(law, z, sigma_max, tolerance=1e-9)
        multiples = torch.tensor([-2.0, -1.0, 1.0, 2.0])[:, None, None, None]
        moves = step * multiples * torch.eye(dim, dtype=torch.float64)[:, None]
        x = teacher_map(law, (z + moves).reshape(-1, dim), sigma_max, tolerance=1e-10).reshape(4, dim, -1, dim)
        columns = (x[0] - 8 * x[1] + 8 * x[2] - x[3]) / (12 * step)  # (d, n, d): fourth order in the step
        assert (J - columns.permute(1, 2, 0)).abs().amax() <= tolerance * max(1.0, J.abs().amax().item())

    @pytest.mark.parametrize(
        ("kind", "sigma_max"),
        [
            *[(kind, 2.5) for kind in ("isotropic", "diagonal", "low-rank", "full", "near-duplicate")],
            ("full", 80.0),
        ],
    )
    @pytest.mark.parametrize("dim", [1, 8])
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_change_of_variables(self, kind, dim, sigma_max, tolerance):
        """The flow carries p_sigma_max to p_0 exactly: log p_0(T) + log|det dT/dx| = log p_sigma_max(sigma_max z)."""
        law = mixture(kind, dim).law
        z = normals(4, dim)
        x, J = teacher_map(law, z, sigma_max, tolerance=1e-8), teacher_jacobian(law, z, sigma_max, tolerance=1e-6)
        sign, logdet = torch.linalg.slogdet(J / sigma_max)
        assert (sign > 0).all()
        want = law.log_prob(sigma_max * z, sigma_max)
        torch.testing.assert_close(law.log_prob(x) + logdet, want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-3])
    def test_error_covers_the_columns(self, tolerance):
        law = ring(2)
        z = normals(6, 2)
        J, estimate = teacher_jacobian(law, z, tolerance=tolerance, return_error=True)
        fine = teacher_jacobian(law, z, tolerance=1e-6)
        assert ((J - fine).norm(dim=-2).amax(-1) <= estimate + 1e-6).all()


class TestPacks:
    @pytest.mark.parametrize("function", [teacher_map, teacher_encode, teacher_jacobian])
    @pytest.mark.parametrize("components", [1, 3])
    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_a_pack_equals_its_members(self, function, components, tolerance):
        laws = [mixture("full", 2, components, seed).law for seed in (0, 1, 2)]
        z = torch.stack([normals(5, 2, seed) for seed in (0, 1, 2)])
        got = function(GaussianMixture.stack(laws), z, 2.5, tolerance=1e-8)
        for e, law in enumerate(laws):
            torch.testing.assert_close(got[e], function(law, z[e], 2.5, tolerance=1e-8), rtol=0, atol=tolerance)


class TestOtherTeachers:
    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_a_score_is_enough(self, tolerance):
        law = mixture("full", 3).law
        z = normals(4, 3)
        x = teacher_map(ScoreOnly(law), z, tolerance=1e-9)
        assert (x - teacher_map(law, z, tolerance=1e-9)).norm(dim=-1).amax() <= tolerance
        assert (teacher_encode(ScoreOnly(law), x, tolerance=1e-9) - z).norm(dim=-1).amax() <= tolerance

    @pytest.mark.parametrize("components", [1, 3])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_single_precision_in_double_out(self, components, tolerance):
        """The state is float64 whatever the teacher's and the points' precision."""
        law = mixture("isotropic", 2, components).law.to(torch.float32)
        z = normals(4, 2).float()
        x = teacher_map(law, z)
        assert x.dtype == torch.float64
        torch.testing.assert_close(x, teacher_map(law.to(torch.float64), z.double()), rtol=0, atol=tolerance)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize(("function", "name"), [(teacher_map, "z"), (teacher_encode, "x"), (teacher_jacobian, "z")])
class TestBadInput:
    def test_arguments(self, function, name, components):
        law, z = mixture("isotropic", 2, components).law, normals(3, 2)
        for sigma_max in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=rf"sigma_max must be > 0, got {sigma_max}"):
                function(law, z, sigma_max=sigma_max)
        for tolerance in (0.0, -1e-6, math.nan):
            with pytest.raises(ValueError, match=rf"tolerance must be > 0, got {tolerance}"):
                function(law, z, tolerance=tolerance)
        for shape in ((3, 3), (2,)):
            with pytest.raises(ValueError, match=rf"{name} must have shape \(n, 2\), got \({shape[0]},"):
                function(law, torch.zeros(shape))
        with pytest.raises(ValueError, match=rf"{name} must be finite"):
            function(law, torch.full((1, 2), math.nan))


@pytest.mark.parametrize("function", [teacher_map, teacher_encode, teacher_jacobian])
def test_a_singular_mixture_has_no_flow_to_zero(function):
    with pytest.raises(ValueError, match="teacher must have a positive smallest variance"):
        function(mixture("atoms", 2).law, normals(3, 2))


def test_a_singular_gaussian_can_be_mapped_but_not_inverted():
    law = GaussianMixture([1.0], torch.zeros(1, 2), Diagonal([[1.0, 0.0]]))
    assert teacher_map(law, normals(3, 2))[:, 1].tolist() == [0.0] * 3
    with pytest.raises(ValueError, match="teacher must have a positive smallest variance for its map to be invertible"):
        teacher_encode(law, normals(3, 2))


def test_flow_error_says_how_many_points_and_how_far(monkeypatch):
    errors = torch.tensor([0.0, 1e-7, 3e-5, 2e-6, 1e-6, 1e-8], dtype=torch.float64)
    monkeypatch.setattr(flow, "_in_own_steps", lambda teacher, y, *others: (y, errors, 12))
    monkeypatch.setattr(flow, "_in_equal_steps", lambda teacher, y, *others: (y, errors[errors > 1e-6], 8))
    words = r"above tolerance = 1e-06 at 2 of 6 points after 12 steps \(worst: 3e-05\)"
    with pytest.raises(FlowError, match=words):
        teacher_map(ring(2), normals(6, 2), tolerance=1e-6)


@pytest.mark.parametrize("pack", [False, True])
def test_too_few_steps_are_an_error(monkeypatch, pack):
    monkeypatch.setattr(flow, "MOST_STEPS", 8)
    law, z = ring(2), normals(6, 2)
    law, z = (GaussianMixture.stack([law]), z[None]) if pack else (law, z)
    with pytest.raises(FlowError, match=r"above tolerance = 1e-09 at [1-6] of 6 points after 8 steps"):
        teacher_map(law, z, tolerance=1e-9)


def test_a_teacher_that_is_not_a_number_is_an_error():
    class Broken:
        def score(self, x, sigma):
            return x * math.nan

    with pytest.raises(FlowError, match=r"at 2 of 2 points after \d+ steps \(worst: inf\)"):
        teacher_map(Broken(), normals(2, 3))


@pytest.mark.parametrize("tolerance", [1e-9])
def test_full_and_isotropic_agree(tolerance):
    """One law written as two covariance types has one map."""
    problem = mixture("isotropic", 3)
    other = GaussianMixture(problem.weights, problem.means, Full(problem.matrices))
    z = normals(5, 3)
    assert isinstance(problem.law.covariance, Isotropic)
    torch.testing.assert_close(
        teacher_map(problem.law, z, tolerance=1e-10), teacher_map(other, z, tolerance=1e-10), rtol=0, atol=tolerance
    )
