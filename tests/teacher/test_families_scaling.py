"""What is held fixed is fixed exactly, at every dimension and for every seed, and the rest varies as documented."""

import math

import numpy as np
import pytest
import torch

from sandbox.teacher.families import family, gaussian, hierarchical, random
from sandbox.teacher.scaling import REFERENCE_DIM
from sandbox.theory.levels import speciation

DIMS = (1, 2, 3, 8, 16, 128, 1024)
# Dimensions at which a law's own covariance is small enough to be diagonalised.
SMALL = (1, 2, 3, 8, 16, 128)


def between(law):
    """lambda_max of the between-mode covariance of equal modes, by numpy from their Gram matrix."""
    centred = law.means.numpy() - law.means.numpy().mean(0)
    return float(np.linalg.eigvalsh(centred @ centred.T / len(centred))[-1])


def total_trace(law):
    """The trace of the covariance of equal isotropic modes, by numpy."""
    return float(law.means.numpy().var(0).sum() + law.dim * law.covariance.variance.numpy().mean())


def level(law):
    """sigma_S by numpy."""
    return math.sqrt(between(law) - law.covariance.variance.numpy()[0])


MEASURES = {"lambda_max": between, "trace": total_trace, "speciation": level}


class TestModes:
    @pytest.mark.parametrize("name", ["random", "hierarchical"])
    @pytest.mark.parametrize("hold", MEASURES)
    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_what_is_held_is_the_same_at_every_dimension(self, name, hold, seed, tolerance):
        fixed = MEASURES[hold](family(name, REFERENCE_DIM, seed=seed))
        by_default = [MEASURES[hold](family(name, dim, seed=seed, hold=hold)) for dim in DIMS]
        assert by_default == pytest.approx([fixed] * len(DIMS), rel=tolerance)
        given = [MEASURES[hold](family(name, dim, seed=seed, hold=hold, held=2.5)) for dim in DIMS]
        assert given == pytest.approx([2.5] * len(DIMS), rel=tolerance)

    @pytest.mark.parametrize("hold", MEASURES)
    @pytest.mark.parametrize(("dim", "tolerance"), [(d, 1e-12) for d in SMALL])
    def test_the_whole_laws_covariance_agrees(self, hold, dim, tolerance):
        law = random(dim, hold=hold, held=2.5)
        cov, within = law.cov.numpy(), law.covariance.variance[0].item()
        found = {
            "lambda_max": np.linalg.eigvalsh(cov)[-1] - within,
            "trace": np.trace(cov),
            "speciation": speciation(law)[0][0].item(),
        }
        assert found[hold] == pytest.approx(2.5, rel=tolerance)

    @pytest.mark.parametrize("name", ["random", "hierarchical"])
    @pytest.mark.parametrize("hold", MEASURES)
    def test_all_holds_are_one_teacher_at_the_reference_dimension(self, name, hold):
        law, today = family(name, REFERENCE_DIM, hold=hold, seed=4), family(name, REFERENCE_DIM, seed=4)
        assert torch.equal(law.means, today.means)
        assert torch.equal(law.covariance.variance, today.covariance.variance)

    @pytest.mark.parametrize(
        ("hold", "slopes"),
        # of lambda_max, the trace, sigma_S, the separation a, and a over the modes' standard deviation
        [
            ("coordinate", (1, 1, 0.5, 0, 0)),
            ("lambda_max", (0, 1, 0, -0.5, -0.5)),
            ("trace", (0, 0, 0, -0.5, 0)),
            ("speciation", (0, 0, 0, -0.5, 0)),
        ],
    )
    # What is left of sqrt(K / d), and of a trace that is not yet all noise.
    @pytest.mark.parametrize(("dims", "tolerance"), [((2048, 8192), 0.06)])
    def test_the_rest_varies_as_documented(self, hold, slopes, dims, tolerance):
        def measured(dim):
            law = random(dim, modes=4, hold=hold)
            a, std = law.means.std(0).square().mean().sqrt().item(), law.covariance.variance[0].sqrt().item()
            return np.log([between(law), total_trace(law), level(law), a, a / std])

        found = (measured(dims[1]) - measured(dims[0])) / np.log(dims[1] / dims[0])
        assert found.tolist() == pytest.approx(slopes, abs=tolerance)

    @pytest.mark.parametrize(("hold", "std_moves"), [("lambda_max", False), ("trace", True), ("speciation", True)])
    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-13), (64, 1e-13)])
    def test_one_factor_scales_what_is_said_to_be_scaled(self, hold, std_moves, dim, tolerance):
        law, today = random(dim, hold=hold, seed=2), random(dim, seed=2)
        ratios = (law.means / today.means).flatten().numpy()
        assert np.ptp(ratios) < tolerance * ratios[0]
        assert abs(ratios[0] - 1) > 0.1
        std_ratio = (law.covariance.variance / today.covariance.variance).sqrt()[0].item()
        assert std_ratio == pytest.approx(ratios[0] if std_moves else 1, rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_one_mode_has_a_trace_to_hold(self, tolerance):
        for dim in DIMS:
            assert total_trace(random(dim, modes=1, hold="trace", held=3.0)) == pytest.approx(3, rel=tolerance)


class TestGaussian:
    @pytest.mark.parametrize("exponent", [0.0, 0.5, 1.5])
    @pytest.mark.parametrize("held", [None, 2.5])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_what_is_held_is_the_same_at_every_dimension(self, exponent, held, tolerance):
        powers = np.arange(1, REFERENCE_DIM + 1) ** -exponent
        for dim in DIMS:
            lam = gaussian(dim, 0.7, exponent, "lambda_max", held).covariance.dense(0, dim).diagonal()
            top = held or 0.7 * REFERENCE_DIM / powers.sum()
            assert lam.max().item() == pytest.approx(top, rel=tolerance)
            assert lam.tolist() == pytest.approx((top * np.arange(1, dim + 1) ** -exponent).tolist(), rel=tolerance)
            lam = gaussian(dim, 0.7, exponent, "trace", held).covariance.dense(0, dim).diagonal()
            assert lam.sum().item() == pytest.approx(held or 0.7 * REFERENCE_DIM, rel=tolerance)
            assert (lam / lam[0]).tolist() == pytest.approx(
                (np.arange(1, dim + 1) ** -exponent).tolist(), rel=tolerance
            )

    @pytest.mark.parametrize("exponent", [0.5, 1.5])
    def test_the_first_eigenvalues_do_not_depend_on_the_dimension_at_fixed_lambda_max(self, exponent):
        wide = gaussian(128, 0.7, exponent, "lambda_max").covariance.variances
        for dim in (1, 2, 16):
            assert torch.equal(gaussian(dim, 0.7, exponent, "lambda_max").covariance.variances, wide[:, :dim])

    @pytest.mark.parametrize("exponent", [0.0, 1.5])
    @pytest.mark.parametrize("hold", ["lambda_max", "trace"])
    def test_all_holds_are_one_teacher_at_the_reference_dimension(self, exponent, hold):
        law, today = (gaussian(REFERENCE_DIM, 0.7, exponent, h).covariance for h in (hold, "coordinate"))
        assert torch.equal(getattr(law, law.fields[0]), getattr(today, today.fields[0]))
        assert type(law) is type(today)


@pytest.mark.parametrize("tolerance", [1e-13])
def test_the_ratio_of_two_separations_is_not_scaled_away(tolerance):
    law, today = (hierarchical(64, inner=0.2, hold=hold) for hold in ("lambda_max", "coordinate"))
    ratios = (law.means / today.means).flatten().numpy()
    assert np.ptp(ratios) < tolerance * ratios[0]
