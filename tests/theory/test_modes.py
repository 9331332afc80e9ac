"""The equations of any spectrum: where they contain the flat theory, and by sampling where they do not."""

import math

import numpy as np
import pytest
import torch

from sandbox.student.losses import dmd_direction
from sandbox.teacher.schedule import LogUniform
from sandbox.theory.copying import copying_number
from sandbox.theory.copying import settling_time as flat_settling_time
from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.modes import Spectrum, mode_displacements, rotation_rates, settling_time

NORMALISERS = ["per-sample", "batch", "off"]


def power_law(dim, exponent=1.5):
    lam = np.arange(1, dim + 1) ** -exponent
    return tuple((dim * lam / lam.sum()).tolist())


class TestDriftAndNoise:
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("a", [0.0125, 0.1, 0.6, 0.95])
    @pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-3), (4, 1e-3), (8, 1e-3)])
    def test_flat_spectra(self, dim, tolerance, a, normaliser):
        f, n = Spectrum((1.0,) * dim, normaliser=normaliser).drift_and_noise(np.full(dim, a))
        flat = Flat(dim, normaliser=normaliser)
        np.testing.assert_allclose(f, flat.drift(a).item(), rtol=tolerance)
        np.testing.assert_allclose(n, flat.noise(a).item(), rtol=tolerance)

    @pytest.mark.parametrize("normaliser", NORMALISERS)
    def test_the_teachers_law_is_the_fixed_point(self, normaliser):
        spectrum = Spectrum(power_law(5), normaliser=normaliser)
        f, n = spectrum.drift_and_noise(np.sqrt(spectrum.eigenvalues))
        np.testing.assert_allclose(f, 0, atol=1e-12)
        np.testing.assert_allclose(n, 0, atol=1e-12)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_modes_do_not_see_each_other_without_a_normaliser(self, tolerance):
        r = np.array([0.5, 0.1, 0.02])
        lam = power_law(3)
        f, n = Spectrum(lam, normaliser="off").drift_and_noise(r)
        for k in range(3):
            single = Spectrum(lam[k : k + 1], normaliser="off").drift_and_noise(r[k : k + 1])
            np.testing.assert_allclose([f[k], n[k]], np.concatenate(single), rtol=tolerance)

    @pytest.mark.parametrize(("students", "batch", "standard_errors"), [(400, 500, 4.0)])
    @pytest.mark.parametrize("normaliser", ["per-sample", "off"])
    def test_drift_by_sampling(self, normaliser, students, batch, standard_errors):
        """The mean of the minibatch gradient of a student A = diag(r) is -diag(f)."""
        lam, r = np.array(power_law(4)), np.array([0.6, 0.3, 0.05, 0.02])
        g = torch.Generator().manual_seed(0)
        z, eps = torch.randn(2, students, batch, 4, generator=g, dtype=torch.float64)
        sigma = LogUniform().draw(torch.rand(students, batch, generator=g, dtype=torch.float64))[..., None]
        C, S = torch.from_numpy(r**2), torch.from_numpy(lam)
        x = z * torch.from_numpy(r)
        noised = x + sigma * eps
        direction = dmd_direction(x, S / (S + sigma**2) * noised, C / (C + sigma**2) * noised, normaliser)
        gradients = direction.mT @ z / batch
        f, _ = Spectrum(tuple(lam.tolist()), normaliser=normaliser).drift_and_noise(r)
        error = gradients.std(0).numpy() / math.sqrt(students)
        assert (np.abs(gradients.mean(0).numpy() + np.diag(f)) <= standard_errors * error).all()
        assert (np.diag(error) < 0.2 * np.abs(f)).all()


class TestRotationRates:
    @pytest.mark.parametrize("dim", [2, 5])
    def test_are_positive(self, dim):
        r, n = np.geomspace(1, 0.01, dim), np.geomspace(0.3, 2.0, dim)
        assert (rotation_rates(r, n, 0.02, 64) > 0).all()

    def test_nothing_rotates_on_a_line(self):
        assert rotation_rates(np.array([0.3]), np.array([1.0]), 0.02, 64) == 0

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_by_loops(self, tolerance):
        r, n, lr, batch = np.array([1.0, 0.3, 0.05]), np.array([0.2, 0.5, 0.9]), 0.02, 64
        want = [
            sum(
                lr / (2 * batch) * (r[k] ** 2 * n[k] + r[j] ** 2 * n[j]) / (r[k] ** 2 + r[j] ** 2) ** 2
                for j in range(3)
                if j != k
            )
            for k in range(3)
        ]
        np.testing.assert_allclose(rotation_rates(r, n, lr, batch), want, rtol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-13])
    @pytest.mark.parametrize("dim", [2, 8])
    def test_flat(self, dim, tolerance):
        """(d - 1) / 4 lr n / (B a^2), the Brownian motion on SO(d)."""
        got = rotation_rates(np.full(dim, 0.1), np.full(dim, 0.7), 0.02, 64)
        np.testing.assert_allclose(got, (dim - 1) / 4 * 0.02 / 64 * 0.7 / 0.1**2, rtol=tolerance)


class TestModeDisplacements:
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize(("dim", "batch", "tolerance"), [(2, 20_000, 0.01), (4, 20_000, 0.01), (8, 40_000, 0.01)])
    def test_small_displacements_of_flat_spectra(self, dim, batch, normaliser, tolerance):
        """(1 - 1/d) / (4 Xi), with a first correction of the order of the displacement itself."""
        spectrum, flat = Spectrum((1.0,) * dim, normaliser=normaliser), Flat(dim, normaliser=normaliser)
        got = mode_displacements(spectrum, 0.02, batch, settling_time(spectrum))
        np.testing.assert_allclose(got, (1 - 1 / dim) / (4 * copying_number(flat, 0.02, batch)), rtol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_one_mode_copies(self, tolerance):
        got = mode_displacements(Spectrum((1.0,), normaliser="off"), 0.02, 1, 30.0)
        np.testing.assert_allclose(got, 0, atol=tolerance)

    def test_leading_modes_copy_first(self):
        rho = mode_displacements(Spectrum(power_law(8), normaliser="off"), 0.02, 64, 80.0)
        assert (np.diff(rho) > 0).all()
        assert rho[0] < 0.5 * rho[-1]

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_depends_on_learning_rate_over_batch(self, tolerance):
        spectrum = Spectrum(power_law(3), normaliser="off")
        np.testing.assert_allclose(
            mode_displacements(spectrum, 0.02, 64, 30.0), mode_displacements(spectrum, 0.04, 128, 30.0), rtol=tolerance
        )

    # w = 1 and k^-1.5 of trace d at d = 32, by an independent implementation of the same equations
    @pytest.mark.parametrize(("leading", "total", "tolerance"), [(0.159, 0.344, 0.015)])
    def test_tabled_values(self, leading, total, tolerance):
        lam = np.array(power_law(32))
        spectrum = Spectrum(power_law(32), normaliser="off")
        rho = mode_displacements(spectrum, 0.02, 64, settling_time(spectrum))
        assert rho[0] == pytest.approx(leading, abs=tolerance)
        assert (lam * rho).sum() / lam.sum() == pytest.approx(total, abs=tolerance)


class TestSettlingTime:
    @pytest.mark.parametrize("tolerance", [1e-3])
    def test_reaches_the_share(self, tolerance):
        spectrum, flat = Spectrum((1.0,) * 3, normaliser="off"), Flat(3, normaliser="off")
        assert settling_time(spectrum) == pytest.approx(flat_settling_time(flat), rel=tolerance)

    def test_says_that_it_is_not_reached(self):
        with pytest.raises(HypothesisError, match="within t = 1"):
            settling_time(Spectrum((1.0, 0.5), normaliser="off"), longest=1.0)


@pytest.mark.parametrize("tolerance", [1e-14])
def test_start(tolerance):
    got = Spectrum((4.0, 0.25), sigma_init=20.0).start
    np.testing.assert_allclose(got, [20 * 4 / 404, 20 * 0.25 / 400.25], rtol=tolerance)


def test_the_per_sample_normaliser_has_no_theory_on_a_line():
    with pytest.raises(HypothesisError, match="d = 1"):
        Spectrum((1.0,))


@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_bad_eigenvalues(bad):
    with pytest.raises(ValueError, match=rf"eigenvalues must be > 0, got {bad}"):
        Spectrum((1.0, bad))
