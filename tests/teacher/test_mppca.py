"""Expectation maximisation for mixtures of principal component analysers, against scikit-learn, scipy and numpy."""

import math
import sys

import numpy as np
import pytest
import scipy.optimize
import torch
from problems import mixture
from sklearn import decomposition
from sklearn import mixture as sk_mixture
from sklearn.exceptions import ConvergenceWarning

from sandbox.teacher.covariance import LowRank
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.mppca import NEGLIGIBLE, em_step, fit, maximise, start


def clouds(dim, n=600, seed=0):
    """Points of three overlapping low-rank modes, (n, dim)."""
    return mixture("low-rank", dim, seed=seed).points(0.0, n=n, seed=seed + 1)


def matrices(law):
    return torch.stack([law.covariance.dense(k, law.dim) for k in range(law.components)])


def soft(n, components, seed=0):
    """Responsibilities between 0 and 1, (n, K)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(3 * torch.randn(n, components, generator=generator, dtype=torch.float64), -1)


class TestAgainstScikitLearn:
    # scikit-learn divides by n - 1 what maximum likelihood divides by n.
    @pytest.mark.parametrize(("dim", "rank"), [(2, 1), (6, 1), (6, 3), (6, 5), (40, 7)])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_one_component_is_probabilistic_pca(self, dim, rank, tolerance):
        x = clouds(dim)
        law = fit(x, 1, rank, floor=1e-12)
        pca = decomposition.PCA(rank, svd_solver="full").fit(x.numpy())
        ratio = len(x) / (len(x) - 1)
        assert law.covariance.floor.item() * ratio == pytest.approx(pca.noise_variance_, rel=tolerance)
        factors = law.covariance.directions * (law.covariance.spectrum - law.covariance.floor[:, None]).sqrt()[:, None]
        unbiased = GaussianMixture([1.0], law.means, LowRank(math.sqrt(ratio) * factors, ratio * law.covariance.floor))
        np.testing.assert_allclose(matrices(unbiased)[0], pca.get_covariance(), rtol=0, atol=tolerance * dim)
        assert unbiased.log_prob(x).mean().item() == pytest.approx(pca.score(x.numpy()), rel=tolerance)
        assert law.log_prob(x).mean() > unbiased.log_prob(x).mean()

    @pytest.mark.parametrize(("dim", "rank"), [(1, 1), (2, 1), (2, 5), (5, 4), (16, 16)])
    @pytest.mark.parametrize("steps", [1, 10, 40])
    # scikit-learn adds 10 eps to every N_k and shares no sums with this module.
    @pytest.mark.parametrize("tolerance", [1e-11])
    def test_full_rank_is_the_full_mixture(self, dim, rank, steps, tolerance):
        x = clouds(dim)
        least = 1e-9
        law = maximise(x, start(x, 3, seed=0), min(rank, dim - 1), least)
        twin = sk_mixture.GaussianMixture(
            3,
            covariance_type="full",
            reg_covar=0.0,
            tol=0.0,
            max_iter=steps,
            weights_init=law.weights.numpy(),
            means_init=law.means.numpy(),
            precisions_init=torch.linalg.inv(matrices(law)).numpy(),
        )
        with pytest.warns(ConvergenceWarning):
            twin.fit(x.numpy())
        for _ in range(steps):
            law = em_step(law, x, min(rank, dim - 1), least)
        assert law.covariance.smallest().min() > least
        np.testing.assert_allclose(law.log_prob(x), twin.score_samples(x.numpy()), rtol=tolerance, atol=1e2 * tolerance)
        np.testing.assert_allclose(law.responsibilities(x), twin.predict_proba(x.numpy()), rtol=0, atol=1e3 * tolerance)


class TestMaximise:
    @pytest.mark.parametrize("dim", [1, 2, 7])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_full_rank_has_the_weighted_moments_of_numpy(self, dim, tolerance):
        x, r = clouds(dim), soft(600, 4)
        law = maximise(x, r, dim - 1, 1e-12)
        np.testing.assert_allclose(law.weights, r.mean(0), rtol=tolerance)
        for k in range(4):
            np.testing.assert_allclose(law.means[k], np.average(x, 0, r[:, k]), rtol=0, atol=tolerance)
            want = np.cov(x.numpy().T, aweights=r[:, k].numpy(), ddof=0)
            np.testing.assert_allclose(matrices(law)[k], np.atleast_2d(want), rtol=0, atol=tolerance)

    # The floors: none that binds, one above the mean of the small eigenvalues, and one above the largest but one.
    @pytest.mark.parametrize("least", [1e-9, 0.4, 1.2])
    @pytest.mark.parametrize("rank", [1, 2])
    # What a quasi-Newton search leaves of the way to the maximum, and the rounding of its sums.
    @pytest.mark.parametrize("tolerance", [1e-7])
    def test_no_search_over_the_parameters_finds_more(self, rank, least, tolerance):
        """Maximises sum_n r_n log N(x_n; mu, W W^T + s^2 I) over mu, W and s^2 >= least by autograd and L-BFGS-B."""
        generator = torch.Generator().manual_seed(3)
        scales = torch.tensor([1.5, 1.0, 0.5, 0.3], dtype=torch.float64)
        x = scales * torch.randn(400, 4, generator=generator, dtype=torch.float64)
        r = soft(400, 2)[:, 0]
        law = maximise(x, r[:, None], rank, least)
        best = (r @ law.log_prob(x)).item() / r.sum().item()

        def objective(flat):
            p = torch.tensor(flat, requires_grad=True)
            W = p[4 : 4 + 4 * rank].reshape(4, rank)
            cov = W @ W.mT + p[-1].exp() * torch.eye(4, dtype=torch.float64)
            log_p = torch.distributions.MultivariateNormal(p[:4], cov).log_prob(x)
            loss = -(r @ log_p) / r.sum()
            return loss.item(), torch.autograd.grad(loss, p)[0].numpy()

        bounds = [(None, None)] * (4 + 4 * rank) + [(math.log(least), None)]
        found = []
        for seed in range(3):
            point = 0.5 * np.random.default_rng(seed).standard_normal(5 + 4 * rank)
            point[-1] = math.log(max(least, 0.5))
            found.append(
                -scipy.optimize.minimize(
                    objective, point, jac=True, bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 2000}
                ).fun
            )
        assert max(found) <= best + tolerance
        assert max(found) == pytest.approx(best, abs=tolerance)

    @pytest.mark.parametrize(("rank", "least", "tolerance"), [(2, 1e-9, 1e-13), (0, 1e-9, 1e-13)])
    def test_moments_that_any_rank_keeps(self, rank, least, tolerance):
        """Truncation moves variance between directions: the mixture has the points' mean and their total variance."""
        x, r = clouds(7), soft(600, 4)
        law = maximise(x, r, rank, least)
        np.testing.assert_allclose(law.mean, x.mean(0), rtol=0, atol=tolerance)
        assert law.cov.trace().item() == pytest.approx(np.cov(x.numpy().T, ddof=0).trace(), rel=tolerance)

    @pytest.mark.parametrize("share", [0.0, NEGLIGIBLE / 10])
    def test_a_component_that_no_point_belongs_to(self, share):
        x = clouds(3)
        r = torch.cat([soft(600, 2), torch.full((600, 1), share, dtype=torch.float64)], -1)
        law = maximise(x, r, 1, 1e-3)
        assert law.weights[2] <= NEGLIGIBLE
        assert torch.isfinite(law.log_prob(x)).all()
        torch.testing.assert_close(law.log_prob(x), maximise(x, r[:, :2], 1, 1e-3).log_prob(x), rtol=1e-12, atol=1e-12)


class TestFit:
    @pytest.mark.parametrize("rank", [1, 3, 11])
    @pytest.mark.parametrize("least", [1e-6, 0.05, 0.3])
    # The likelihood is a mean of 600 numbers of the order of d, each of which rounds.
    @pytest.mark.parametrize(("dim", "rounding"), [(12, 1e-12)])
    def test_the_likelihood_never_falls(self, dim, rank, least, rounding):
        x = clouds(dim)
        law = maximise(x, soft(len(x), 5), rank, least)
        history = [law.log_prob(x).mean().item()]
        for _ in range(40):
            law = em_step(law, x, rank, least)
            history.append(law.log_prob(x).mean().item())
            assert law.covariance.smallest().min() >= least * (1 - 1e-12)
        assert np.diff(history).min() >= -rounding
        assert history[-1] > history[0] + 0.1

    @pytest.mark.parametrize(("dim", "rank", "n"), [(8, 3, 2000)])
    def test_likelihood_of_the_law_that_drew_the_points(self, dim, rank, n):
        """The fit describes its points better than their own law, and new points worse by about parameters / (2 n)."""
        problem = mixture("low-rank", dim)
        # Modes apart: k-means divides overlapping ones along their long axes, and the fit can end on another maximum.
        law = GaussianMixture(problem.weights, 4 * problem.means, problem.law.covariance)
        train, test = (law.sample(n, torch.Generator().manual_seed(seed)) for seed in (1, 2))
        fitted = fit(train, 3, rank, floor=1e-6, tolerance=1e-6)
        parameters = 3 * (1 + dim) - 1 + 3 * (dim * rank - rank * (rank - 1) // 2 + 1)
        assert 0 < (fitted.log_prob(train) - law.log_prob(train)).mean().item() < 2 * parameters / (2 * n)
        assert 0 < (law.log_prob(test) - fitted.log_prob(test)).mean().item() < 2 * parameters / (2 * n)

    def test_ends_where_ten_steps_add_no_more_than_the_tolerance(self):
        x = clouds(6)
        for tolerance in (1e-2, 1e-4):
            law = fit(x, 4, 2, tolerance=tolerance)
            least = 1e-3 * x.var(0, correction=0).mean().item()
            before = law.log_prob(x).mean().item()
            for _ in range(10):
                law = em_step(law, x, 2, least)
            assert 0 <= law.log_prob(x).mean().item() - before <= 6 * tolerance

    @pytest.mark.parametrize("scale", [1.0, 37.0])
    @pytest.mark.parametrize(("floor", "tolerance"), [(1e-3, 1e-9), (1e-1, 1e-9)])
    def test_points_on_a_plane_and_on_a_point_reach_the_floor(self, scale, floor, tolerance):
        """A component of equal points and one of points in a plane have every variance above the floor, and it."""
        plane = torch.nn.functional.pad(clouds(2, n=300), (0, 2))
        x = scale * torch.cat([plane, torch.full((200, 4), 20.0, dtype=torch.float64)])
        law = fit(x, 2, 3, floor=floor)
        want = floor * np.var(x.numpy(), 0).mean()
        assert law.covariance.smallest().tolist() == pytest.approx([want, want], rel=tolerance)
        assert torch.isfinite(law.score(x)).all()

    def test_a_seed_is_a_fit(self):
        x = clouds(5)
        one, two, other = fit(x, 6, 2, seed=1), fit(x, 6, 2, seed=1), fit(x, 6, 2, seed=2)
        assert torch.equal(one.means, two.means)
        assert torch.equal(one.covariance.floor, two.covariance.floor)
        assert not torch.equal(one.means, other.means)

    def test_global_random_state_is_untouched(self):
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
        fit(clouds(3), 3, 1)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002

    def test_units(self):
        """Points in other units are the same points: their law scales with them."""
        x = clouds(5)
        one, other = fit(x, 4, 2), fit(1000 * x, 4, 2)
        log_p = other.log_prob(1000 * x) + 5 * math.log(1000)
        torch.testing.assert_close(one.log_prob(x), log_p, rtol=1e-9, atol=1e-9)

    def test_single_precision_points_are_fitted_in_double(self):
        x = clouds(5)
        law = fit(x.float(), 3, 2)
        assert law.means.dtype == law.covariance.floor.dtype == torch.float64
        torch.testing.assert_close(law.log_prob(x), fit(x.float().double(), 3, 2).log_prob(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": 0}, r"components must be an integer >= 1, got 0"),
        ({"components": 601}, r"components must be <= the number of points, 600, got 601"),
        ({"rank": 0}, r"rank must be an integer >= 1, got 0"),
        ({"rank": 1.5}, r"rank must be an integer >= 1, got 1\.5"),
        ({"seed": -1}, r"seed must be an integer >= 0, got -1"),
        ({"floor": 0.0}, r"floor must be > 0, got 0\.0"),
        ({"tolerance": math.nan}, r"tolerance must be > 0, got nan"),
        ({"x": torch.zeros(3)}, r"x must be finite and have shape \(n, d\), got shape \(3,\)"),
        ({"x": torch.full((3, 2), math.nan)}, r"x must be finite"),
        ({"x": torch.ones(3, 2)}, r"x must hold points that differ, got 3 times the same"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(**{"x": clouds(3), "components": 2, "rank": 1, **arguments})


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r'need scikit-learn: pip install "dmd-sandbox\[images\]"'):
        fit(clouds(3), 2, 1)
