"""Steps of a point's own: the stepper against closed forms, the map against scipy's solver, its estimate against its
error."""

import math

import pytest
import scipy.integrate
import torch
from problems import mixture

from sandbox.teacher import flow
from sandbox.teacher.covariance import Isotropic, LowRank
from sandbox.teacher.families import family
from sandbox.teacher.flow import teacher_encode, teacher_jacobian, teacher_map
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.stepping import advance
from sandbox.teacher.straight_flow import point_velocity

TEACHERS = {
    "ring": ("ring", 2, {}),
    "line": ("random", 1, {}),
    "plane": ("random", 2, {}),
    "space": ("random", 16, {}),
    "memorising": ("memorising", 4, {"points": 64}),
    "shear": ("shear", 2, {}),
    "image-like": ("image_like", 8, {}),
}
POINTS, SIGMA_MAX = 32, 80.0


def teacher(name):
    kind, dim, options = TEACHERS[name]
    return family(kind, dim, **options)


def normals(n, dim, seed=1):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solved(law, z):
    """scipy's DOP853 of all points at once, in arcsinh(sigma / c), at the tightest tolerance it takes."""
    c = law.smallest_std

    def velocity(u, y):
        sigma = c * math.sinh(u)
        return (-sigma * c * math.cosh(u) * law.score(torch.from_numpy(y).view(z.shape), abs(sigma))).numpy().ravel()

    start, way = (SIGMA_MAX * z).numpy().ravel(), (math.asinh(SIGMA_MAX / c), 0.0)
    found = scipy.integrate.solve_ivp(velocity, way, start, method="DOP853", rtol=1e-13, atol=1e-13)
    return torch.from_numpy(found.y[:, -1]).view(z.shape)


class TestStepper:
    @pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
    @pytest.mark.parametrize("backwards", [False, True])
    def test_error_follows_the_tolerance_of_each_point(self, tolerance, backwards):
        """y' = y^2 cos t, as fast as y; a hundredfold for the growth of errors along the way."""
        y = torch.linspace(-0.9, 0.9, 12, dtype=torch.float64).view(1, 1, -1)
        y, want, times = y, y / (1 - y * math.sin(1.5)), (0.0, 1.5)
        if backwards:
            y, want, times = want, y, times[::-1]
        local, first = torch.full((12,), tolerance, dtype=torch.float64), torch.full((12,), 0.5, dtype=torch.float64)
        local[::2] *= 1e-3
        got, _, tried = advance(lambda y, t: y**2 * t.cos(), y, *times, local, first, 100)
        assert ((got - want).abs().flatten() <= 100 * local).all()
        assert (tried < 100).all()

    def test_a_point_given_up_is_not_a_number(self):
        y, tolerance = torch.ones(1, 1, 3, dtype=torch.float64), torch.full((3,), 1e-8, dtype=torch.float64)
        rates = torch.tensor([1.0, 1e6, math.nan], dtype=torch.float64)
        # Points that leave are told apart by what they carry: the rate is a second coordinate that stays.
        state = torch.cat([y, rates.view(1, 1, 3)])
        got, _, tried = advance(
            lambda y, t: torch.cat([-y[1:] * y[:1], torch.zeros_like(y[1:])]), state, 0.0, 1.0, tolerance, tolerance, 40
        )
        assert math.isclose(got[0, 0, 0].item(), math.exp(-1), rel_tol=1e-7)
        assert got[0, 0, 1:].isnan().all()
        assert tried[1] == 40


class TestTruth:
    @pytest.mark.parametrize("name", TEACHERS)
    @pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
    @pytest.mark.parametrize(("factor", "share", "rounding"), [(3.0, 0.95, 1e-11)])
    def test_error_within_tolerance_and_estimate(self, name, tolerance, factor, share, rounding):
        law = teacher(name)
        z = normals(POINTS, law.dim)
        x, estimate = teacher_map(law, z, SIGMA_MAX, tolerance, return_error=True)
        error = (x - solved(law, z)).norm(dim=-1)
        assert (estimate <= tolerance).all()
        assert (error <= tolerance).all()
        assert (error <= factor * estimate + rounding).double().mean() >= share

    @pytest.mark.parametrize("name", TEACHERS)
    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_round_trip(self, name, tolerance):
        law = teacher(name)
        z = normals(POINTS, law.dim)
        x = teacher_map(law, z, SIGMA_MAX, 1e-9)
        # Where the map contracts its inverse expands: by its smallest singular value.
        worst = 1 / torch.linalg.svdvals(teacher_jacobian(law, z, SIGMA_MAX, 1e-6)).amin(-1)
        assert ((teacher_encode(law, x, SIGMA_MAX, 1e-9) - z).norm(dim=-1) <= tolerance * worst.clamp(min=1)).all()


class TestPaths:
    @pytest.mark.parametrize("function", [teacher_map, teacher_encode, teacher_jacobian])
    @pytest.mark.parametrize(("kind", "tolerance"), [("isotropic", 1e-8), ("low-rank", 1e-8)])
    def test_own_steps_and_equal_steps_agree(self, monkeypatch, function, kind, tolerance):
        law, z = mixture(kind, 3).law, normals(4, 3)
        own = function(law, z, 2.5, tolerance)
        monkeypatch.setattr(flow, "_takes_levels", lambda teacher, x: False)
        equal = function(law, z, 2.5, tolerance)
        assert not torch.equal(own, equal)
        torch.testing.assert_close(own, equal, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-7])
    def test_derivatives_are_taken_in_equal_steps(self, tolerance):
        law, z = mixture("full", 2).law, normals(3, 2)
        J = teacher_jacobian(law, z, 2.5, 1e-9)
        of, v = (lambda z: teacher_map(law, z, 2.5, 1e-9)), torch.ones_like(z)
        torch.testing.assert_close(torch.func.vjp(of, z)[1](v)[0], J.sum(-2), rtol=0, atol=tolerance)
        torch.testing.assert_close(torch.func.jvp(of, (z,), (v,))[1], J.sum(-1), rtol=0, atol=tolerance)
        followed = z.clone().requires_grad_()
        torch.testing.assert_close(
            torch.autograd.grad(of(followed).sum(), followed)[0], J.sum(-2), rtol=0, atol=tolerance
        )

    @pytest.mark.parametrize("name", ["factors", "floor"])
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_every_parameter_of_a_covariance_is_followed(self, name, tolerance):
        """By central differences along a random direction."""
        parameters = {"factors": 0.5 * normals(2, 3)[..., None], "floor": torch.tensor([0.1, 0.2], dtype=torch.float64)}
        z, way = normals(4, 3, 2), torch.randn_like(parameters[name])

        def moved(by):
            covariance = LowRank(**parameters | {name: parameters[name] + by * way})
            return teacher_map(GaussianMixture([0.5, 0.5], normals(2, 3, 3), covariance), z, 2.5, 1e-11).sum()

        by = torch.zeros((), dtype=torch.float64, requires_grad=True)
        got = torch.autograd.grad(moved(by), by)[0]
        assert abs(got - (moved(1e-5) - moved(-1e-5)) / 2e-5) <= tolerance * max(1, abs(got))

    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_a_score_in_single_precision_goes_in_equal_steps(self, tolerance):
        law, z = teacher("plane"), normals(8, 2)

        class Rough:
            smallest_std = law.smallest_std

            def score(self, x, sigma):
                return law.score(x, sigma).float()

        rough = teacher_map(Rough(), z, 2.5, tolerance)
        assert (rough - teacher_map(law, z, 2.5, 1e-9)).norm(dim=-1).max() <= 10 * tolerance

    @pytest.mark.parametrize("dim", [1, 2, 3])
    @pytest.mark.parametrize("tolerance", [1e-8])
    @pytest.mark.parametrize("reads", [lambda level: level.mean(), lambda level: level[0]])
    def test_a_score_of_one_of_the_levels_is_not_given_several(self, dim, tolerance, reads):
        class Reducing:
            smallest_std = 0.5

            def score(self, x, sigma):
                return -x / (0.25 + reads(torch.as_tensor(sigma, dtype=x.dtype).reshape(-1)) ** 2)

        z = normals(dim, dim)
        x = teacher_map(Reducing(), z, 2.5, 1e-9)
        torch.testing.assert_close(x, 2.5 * z * (0.25 / (0.25 + 2.5**2)) ** 0.5, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("dim", [1, 2, 3])
    @pytest.mark.parametrize("tolerance", [1e-8])
    def test_a_score_of_float_levels_is_not_given_others(self, dim, tolerance):
        """Broadcasting a level per point against coordinates would go unnoticed where n = d."""

        class Careless:
            def __init__(self, variance):
                self.variance, self.smallest_std = variance, variance**0.5

            def score(self, x, sigma):
                return -x / (self.variance + sigma**2)

        z = normals(dim, dim)
        x = teacher_map(Careless(0.25), z, 2.5, 1e-9)
        torch.testing.assert_close(x, 2.5 * z * (0.25 / (0.25 + 2.5**2)) ** 0.5, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("offset", [0.0, 3.0])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_centres_seen_are_the_score(self, offset, tolerance):
        """Equal balls by matrix products, and any mixture by its score: weights unequal, far from the origin."""
        means = normals(5, 3) + offset
        ball = GaussianMixture([0.1, 0.2, 0.3, 0.15, 0.25], means, Isotropic(0.04))
        other = GaussianMixture(ball.weights, means, Isotropic([0.04] * 4 + [0.04 * (1 + 1e-15)]))
        tau = torch.linspace(0.02, 5.0, 40, dtype=torch.float64)
        y = (tau * (means[torch.arange(40) % 5] + normals(40, 3, 2) * tau[:, None].reciprocal()).T)[:, None]
        fast, plain = (point_velocity(law, 0.04, y.norm(dim=0).max().item()) for law in (ball, other))
        assert fast.__qualname__ != plain.__qualname__
        torch.testing.assert_close(fast(y, tau), plain(y, tau), rtol=tolerance, atol=tolerance)
