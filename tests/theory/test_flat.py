"""Drift and gauge noise of flat problems: closed forms by quadrature, the equations by sampling the gradient itself."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from sandbox.student.losses import dmd_direction
from sandbox.teacher.schedule import KarrasBins, LogUniform
from sandbox.theory.flat import Flat, drift_closed_form, noise_closed_form
from sandbox.theory.hypotheses import HypothesisError

CASES = [(variance, law) for variance in (0.25, 1.0, 9.0) for law in (LogUniform(), LogUniform(1e-3, 20.0))]
SHARES = [1e-4, 0.01, 0.1, 0.5, 0.9, 0.999]


def shrinkages(a, variance, sigma):
    k, kappa = variance / (variance + sigma**2), a**2 / (a**2 + sigma**2)
    return k, kappa, (1 - k) ** 2 * a**2 + k**2 * sigma**2


def average(function, law):
    """E over ln sigma uniform, by adaptive quadrature split where the integrand turns."""
    low, high = math.log(law.sigma_min), math.log(law.sigma_max)
    ends = np.linspace(low, high, 13)
    pieces = [quad(lambda x: function(math.exp(x)), *piece, epsabs=0, epsrel=1e-13)[0] for piece in pairwise(ends)]
    return math.fsum(pieces) / (high - low)


class TestClosedForms:
    """At large d, where the normaliser is sqrt(pi/2) / sqrt(v_u) for every sample."""

    @pytest.mark.parametrize(("variance", "law"), CASES, ids=str)
    @pytest.mark.parametrize(("share", "tolerance"), [(share, 1e-10) for share in SHARES])
    def test_drift(self, variance, law, share, tolerance):
        a = share * math.sqrt(variance)

        def integrand(sigma):
            k, _, v_u = shrinkages(a, variance, sigma)
            gap = sigma**2 * (variance - a**2) / ((variance + sigma**2) * (a**2 + sigma**2))
            assert gap == pytest.approx(k - shrinkages(a, variance, sigma)[1], abs=1e-12)
            return a * math.sqrt(math.pi / 2 / v_u) * gap

        assert drift_closed_form(a, variance, law) == pytest.approx(average(integrand, law), rel=tolerance)

    @pytest.mark.parametrize(("variance", "law"), CASES, ids=str)
    @pytest.mark.parametrize(("share", "tolerance"), [(share, 1e-10) for share in SHARES])
    def test_noise(self, variance, law, share, tolerance):
        a = share * math.sqrt(variance)

        def integrand(sigma):
            gap = sigma**2 * (variance - a**2) / ((variance + sigma**2) * (a**2 + sigma**2))
            return math.pi / 2 / shrinkages(a, variance, sigma)[2] * gap**2 * sigma**2

        assert noise_closed_form(a, variance, law) == pytest.approx(average(integrand, law), rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-9])
    @pytest.mark.parametrize(("variance", "law"), CASES, ids=str)
    def test_the_general_equations_contain_them(self, variance, law, tolerance):
        problem = Flat(math.inf, variance, law=law)
        a = math.sqrt(variance) * np.array([0.01, 0.1, 0.5, 0.9])
        np.testing.assert_allclose(problem.drift(a), drift_closed_form(a, variance, law), rtol=tolerance)
        np.testing.assert_allclose(problem.noise(a), noise_closed_form(a, variance, law), rtol=tolerance)

    @pytest.mark.parametrize("tolerance", [0.01])
    def test_plateau(self, tolerance):
        """For smin << a << sqrt(lambda): f -> (pi/2)^(3/2) / L and n -> (pi/2)(ln(lambda/a^2) - 1/2) / L."""
        law, a = LogUniform(1e-6, 1e4), 1e-3
        assert drift_closed_form(a, 1.0, law) == pytest.approx((math.pi / 2) ** 1.5 / law.log_range, rel=tolerance)
        noise = math.pi / 2 * (math.log(1 / a**2) - 0.5) / law.log_range
        assert noise_closed_form(a, 1.0, law) == pytest.approx(noise, rel=tolerance)


def sampled_gradients(dim, a, variance, law, normaliser, students, batch, seed=0):
    """Minibatch gradients E[g z^T] of a student A = a I, (students, d, d), by the loss's own direction."""
    g = torch.Generator().manual_seed(seed)
    z, eps = torch.randn(2, students, batch, dim, generator=g, dtype=torch.float64)
    sigma = law.draw(torch.rand(students, batch, generator=g, dtype=torch.float64))[..., None]
    noised = a * z + sigma * eps
    fake, real = a**2 / (a**2 + sigma**2) * noised, variance / (variance + sigma**2) * noised
    return dmd_direction(a * z, real, fake, normaliser).mT @ z / batch


class TestBySampling:
    # per-sample starts at d = 3: below, the squared gradient has an infinite mean and standard errors mean nothing
    @pytest.mark.parametrize(
        ("dim", "normaliser"),
        [
            (2, "off"),
            (3, "off"),
            (2, "batch"),
            (3, "batch"),
            (3, "per-sample"),
            (4, "per-sample"),
            (8, "per-sample"),
        ],
    )
    @pytest.mark.parametrize("a", [0.0125, 0.1, 0.6])
    @pytest.mark.parametrize(("students", "batch", "standard_errors"), [(400, 500, 4.0)])
    def test_drift(self, dim, normaliser, a, students, batch, standard_errors):
        law, variance = LogUniform(), 1.0
        gradients = sampled_gradients(dim, a, variance, law, normaliser, students, batch)
        want = Flat(dim, variance, law=law, normaliser=normaliser).drift(a).item()
        # g = w (kappa - k) x_sigma moves A the other way: the mean gradient is -f(a) I
        diagonal = torch.diagonal(gradients, dim1=-2, dim2=-1)
        entries = diagonal.mean(-1)
        error = entries.std() / math.sqrt(students)
        # The batch normaliser's average of |u| is over 1000 coordinates and more: its own noise biases by O(1 / batch).
        bias = 0.02 * want if normaliser == "batch" else 0.0
        assert abs(entries.mean() + want) <= standard_errors * error + bias
        assert error < 0.1 * want, "an estimate too noisy to test anything"
        rest = gradients - torch.diag_embed(diagonal)
        off = rest.mean(0).abs() / (rest.std(0) / math.sqrt(students)).clamp(min=1e-300)
        assert (off <= standard_errors).all()

    @pytest.mark.parametrize(
        ("dim", "normaliser"),
        [
            (2, "off"),
            (4, "off"),
            (2, "batch"),
            (4, "batch"),
            (5, "per-sample"),
            (8, "per-sample"),
        ],
    )
    @pytest.mark.parametrize("a", [0.0125, 0.1, 0.6])
    @pytest.mark.parametrize(("students", "batch", "standard_errors"), [(4000, 64, 4.0)])
    def test_gauge_noise(self, dim, normaliser, a, students, batch, standard_errors):
        """Var (G_ij - G_ji) = 2 n_eps / B: the antisymmetric pair, in which the symmetric noise of z cancels."""
        law, variance = LogUniform(), 1.0
        gradients = sampled_gradients(dim, a, variance, law, normaliser, students, batch, seed=1)
        i, j = torch.triu_indices(dim, dim, offset=1)
        pairs = (gradients[:, i, j] - gradients[:, j, i]).square().mean(-1) * batch / 2
        error = pairs.std() / math.sqrt(students)
        want = Flat(dim, variance, law=law, normaliser=normaliser).noise(a).item()
        bias = 0.05 * want if normaliser == "batch" else 0.0
        assert abs(pairs.mean() - want) <= standard_errors * error + bias
        assert error < 0.1 * want

    @pytest.mark.parametrize(("students", "batch", "standard_errors"), [(4000, 64, 4.0)])
    @pytest.mark.parametrize("a", [0.1, 0.6])
    def test_horizontal_noise(self, a, students, batch, standard_errors):
        """Var (G_ij + G_ji) = 4 n_x / B + 2 n_eps / B."""
        problem = Flat(3, normaliser="off")
        gradients = sampled_gradients(3, a, 1.0, problem.law, "off", students, batch, seed=2)
        i, j = torch.triu_indices(3, 3, offset=1)
        pairs = (gradients[:, i, j] + gradients[:, j, i]).square().mean(-1) * batch / 2
        want = (2 * problem.horizontal_noise(a) + problem.noise(a)).item()
        assert abs(pairs.mean() - want) <= standard_errors * pairs.std() / math.sqrt(students)


class TestProblem:
    @pytest.mark.parametrize("normaliser", ["per-sample", "batch", "off"])
    @pytest.mark.parametrize("law", [LogUniform(), KarrasBins()], ids=lambda law: type(law).__name__)
    def test_the_teachers_law_is_the_fixed_point(self, normaliser, law):
        problem = Flat(4, 2.0, law=law, normaliser=normaliser)
        assert problem.drift(problem.end) == pytest.approx(0, abs=1e-12)
        assert problem.noise(problem.end) == pytest.approx(0, abs=1e-12)
        assert (problem.drift([problem.start, 0.9 * problem.end]) > 0).all()
        assert problem.drift(1.1 * problem.end) < 0

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_units(self, tolerance):
        """Scaling data and noise levels by c scales f by c without a normaliser, and not at all with one."""
        c = 3.0
        for normaliser, power in (("off", 1), ("per-sample", 0), ("batch", 0)):
            small = Flat(4, 1.0, law=LogUniform(0.02, 80.0), normaliser=normaliser)
            large = Flat(4, c**2, law=LogUniform(0.02 * c, 80.0 * c), normaliser=normaliser)
            assert large.drift(0.1 * c) == pytest.approx(c**power * small.drift(0.1), rel=tolerance)
            assert large.noise(0.1 * c) == pytest.approx(c ** (2 * power) * small.noise(0.1), rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_start(self, tolerance):
        problem = Flat(4, 4.0, sigma_init=20.0)
        assert problem.start == pytest.approx(20 * 4 / 404, rel=tolerance)
        assert problem.end == 2.0

    def test_classes(self):
        assert [Flat(4, normaliser=n).exponential for n in ("per-sample", "batch", "off")] == [False, True, True]

    @pytest.mark.parametrize("dim", [1, 1.0])
    def test_the_per_sample_normaliser_has_no_theory_on_a_line(self, dim):
        with pytest.raises(HypothesisError, match="d = 1"):
            Flat(dim)
        assert math.isfinite(Flat(dim, normaliser="off").drift(0.1).item())

    def test_the_horizontal_noise_of_the_per_sample_normaliser_was_not_derived(self):
        with pytest.raises(HypothesisError, match="horizontal noise"):
            Flat(4).horizontal_noise(0.1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"dim": 0.5}, r"dim must be >= 1, got 0\.5"),
            ({"variance": 0.0}, r"variance must be > 0, got 0\.0"),
            ({"variance": math.nan}, r"variance must be > 0, got nan"),
            ({"sigma_init": -1.0}, r"sigma_init must be > 0, got -1\.0"),
            ({"normaliser": "none"}, r"normaliser must be one of .* got 'none'"),
        ],
    )
    def test_bad_input(self, change, message):
        with pytest.raises(ValueError, match=message):
            Flat(**({"dim": 4} | change))
