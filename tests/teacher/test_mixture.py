"""Closed forms of Gaussian mixtures against other libraries, autograd, each other and mpmath."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import DIMS, KINDS, SIGMAS, exact, line, mixture, relative_error, subspaces
from torch import distributions as td

from sandbox.teacher.covariance import Diagonal, Full, Isotropic, LowRank
from sandbox.teacher.families import random
from sandbox.teacher.mixture import GaussianMixture

EPS = torch.finfo(torch.float64).eps


def torch_twin(problem, sigma):
    """The noised law as torch.distributions writes it: dense with a Cholesky factor, or independent coordinates."""
    mixing = td.Categorical(probs=problem.weights)
    eye = torch.eye(problem.law.dim, dtype=torch.float64)
    diagonal = problem.matrices.diagonal(dim1=-2, dim2=-1)
    if torch.equal(torch.diag_embed(diagonal), problem.matrices):
        std = (diagonal + sigma**2).sqrt()
        return td.MixtureSameFamily(mixing, td.Independent(td.Normal(problem.means, std), 1))
    return td.MixtureSameFamily(mixing, td.MultivariateNormal(problem.means, problem.matrices + sigma**2 * eye))


def gradient(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


class TestAgainstOtherLibraries:
    @pytest.mark.parametrize(("kind", "tolerance"), [(kind, 1e-12) for kind in KINDS])
    @pytest.mark.parametrize("dim", [d for d in DIMS if d <= 128])
    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_log_prob_is_scipys(self, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        joint = [
            math.log(w) + scipy.stats.multivariate_normal(m, c + sigma**2 * np.eye(dim)).logpdf(x.numpy())
            for w, m, c in zip(problem.weights.tolist(), problem.means.numpy(), problem.matrices.numpy(), strict=True)
        ]
        want = scipy.special.logsumexp(np.reshape(joint, (len(joint), -1)), axis=0)
        # log p passes through zero, where it has no relative error: its terms are of the order of d
        np.testing.assert_allclose(problem.law.log_prob(x, sigma).numpy(), want, rtol=tolerance, atol=dim * tolerance)

    @pytest.mark.parametrize(("kind", "tolerance"), [(kind, 1e-12) for kind in KINDS])
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_score_is_the_gradient_of_torchs_density(self, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        want = gradient(torch_twin(problem, sigma).log_prob, x)
        assert relative_error(problem.law.score(x, sigma), want) <= tolerance

    @pytest.mark.parametrize(("kind", "tolerance"), [(kind, 1e-12) for kind in KINDS])
    @pytest.mark.parametrize("dim", [1, 2, 3])
    @pytest.mark.parametrize("sigma", SIGMAS)
    def test_many_digits(self, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        # far points and the middle between two means, where no single component decides, besides typical ones
        middle = problem.means[[0, 1]].mean(0, keepdim=True)
        x = torch.cat([problem.points(sigma, n=4), middle + 0.1 * sigma, 20 * problem.points(sigma, n=2)])
        log_prob, score, denoised = exact(problem, x, sigma)
        torch.testing.assert_close(problem.law.log_prob(x, sigma), log_prob, rtol=tolerance, atol=tolerance)
        assert relative_error(problem.law.score(x, sigma), score) <= tolerance
        assert relative_error(problem.law.denoise(x, sigma), denoised) <= tolerance

    # On a union of subspaces with no floor the precision's eigenvalues spread over 1 / sigma^2. Rounding x or a mean
    # moves log p by eps |x| |s| and the score by eps |x| |grad s|: errors are counted in these units.
    @pytest.mark.parametrize("sigma", [1e-3, 1e-2, 0.1])
    @pytest.mark.parametrize(("dim", "rank"), [(2, 1), (3, 2), (6, 2)])
    @pytest.mark.parametrize("units", [8])
    def test_log_prob_of_thin_subspaces(self, dim, rank, sigma, units):
        problem = subspaces(dim, rank)
        x = problem.points(sigma)
        log_prob, score, _ = exact(problem, x, sigma)
        unit = EPS * (1 + (x.norm(dim=-1) + problem.means.norm(dim=-1).amax()) * score.norm(dim=-1))
        assert ((problem.law.log_prob(x, sigma) - log_prob).abs() <= units * unit).all()

    @pytest.mark.parametrize("sigma", [1e-3, 1e-2, 0.1])
    @pytest.mark.parametrize(("dim", "rank"), [(2, 1), (3, 2), (6, 2)])
    @pytest.mark.parametrize(("units", "tolerance"), [(8, 1e-14)])
    def test_score_and_denoiser_of_thin_subspaces(self, dim, rank, sigma, units, tolerance):
        problem = subspaces(dim, rank)
        x = problem.points(sigma)
        _, score, denoised = exact(problem, x, sigma)
        slope = problem.law.score_jacobian(x, sigma).norm(dim=(-2, -1))
        unit = EPS * (x.norm(dim=-1) + problem.means.norm(dim=-1).amax()) * slope
        assert ((problem.law.score(x, sigma) - score).norm(dim=-1) <= units * unit).all()
        assert relative_error(problem.law.denoise(x, sigma), denoised) <= tolerance

    @pytest.mark.parametrize("kind", [k for k in KINDS if k != "atoms"])
    @pytest.mark.parametrize("dim", [1, 2, 16])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_sigma_zero_is_the_law_itself(self, kind, dim, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(0.0)
        twin = torch_twin(problem, 0.0)
        torch.testing.assert_close(problem.law.log_prob(x), twin.log_prob(x), rtol=tolerance, atol=dim * tolerance)
        assert relative_error(problem.law.score(x), gradient(twin.log_prob, x)) <= tolerance
        torch.testing.assert_close(problem.law.denoise(x, 0.0), x, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize(("dim", "tolerance"), [(16, 1e-11)])
    def test_responsibilities_are_bayes(self, kind, sigma, dim, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        twin = torch_twin(problem, sigma)
        joint = twin.component_distribution.log_prob(x[:, None]) + problem.weights.log()
        got = problem.law.responsibilities(x, sigma)
        torch.testing.assert_close(got, torch.softmax(joint, -1), rtol=0, atol=tolerance)
        torch.testing.assert_close(got.sum(-1), torch.ones(len(x), dtype=torch.float64), rtol=0, atol=1e-14)


class TestScoreThreeWays:
    """Closed form, autograd of `log_prob`, and Tweedie from `denoise`, each against each other one."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_closed_form_and_autograd(self, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        autograd = gradient(lambda y: problem.law.log_prob(y, sigma), x)
        assert relative_error(problem.law.score(x, sigma), autograd) <= tolerance

    # Dividing D - x by sigma^2 magnifies its rounding by |x| / (sigma^2 |s|), about 1e6 at sigma = 1e-3. The division
    # is the test's, not the library's, so that the small levels are compared as denoisers (below), without it.
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("sigma", [s for s in SIGMAS if s >= 1])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_tweedie(self, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        tweedie = (problem.law.denoise(x, sigma) - x) / sigma**2
        autograd = gradient(lambda y: problem.law.log_prob(y, sigma), x)
        assert relative_error(problem.law.score(x, sigma), tweedie) <= tolerance
        assert relative_error(tweedie, autograd) <= tolerance

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("sigma", [s for s in SIGMAS if s <= 1])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_tweedie_as_a_denoiser(self, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        closed = x + sigma**2 * problem.law.score(x, sigma)
        autograd = x + sigma**2 * gradient(lambda y: problem.law.log_prob(y, sigma), x)
        assert relative_error(problem.law.denoise(x, sigma), closed) <= tolerance
        assert relative_error(problem.law.denoise(x, sigma), autograd) <= tolerance

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", [2, 16, 128])
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_denoiser_against_dense_algebra(self, kind, dim, sigma, tolerance):
        """At large sigma the denoiser is a small remainder of x, which Tweedie cannot see; the definition can."""
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        r = problem.law.responsibilities(x, sigma)
        noised = problem.matrices + sigma**2 * torch.eye(dim, dtype=torch.float64)
        gains = torch.linalg.solve(noised, problem.matrices)
        means = problem.means + torch.einsum("kij,nkj->nki", gains.mT, x[:, None] - problem.means)
        assert relative_error(problem.law.denoise(x, sigma), (r[..., None] * means).sum(1)) <= tolerance


class TestJacobians:
    @staticmethod
    def autograd(function, x):
        return torch.func.vmap(torch.func.jacrev(lambda point: function(point[None])[0]))(x)

    @staticmethod
    def close(got, want, tolerance):
        scale = want.norm(dim=(-2, -1)).amax()
        assert got.shape == want.shape
        assert (got - want).norm(dim=(-2, -1)).amax() <= tolerance * scale

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", [1, 2, 16])
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("tolerance", [1e-11])
    def test_score_jacobian(self, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        want = self.autograd(lambda y: problem.law.score(y, sigma), x)
        self.close(problem.law.score_jacobian(x, sigma), want, tolerance)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", [1, 2, 16])
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("tolerance", [1e-11])
    def test_posterior_cov(self, kind, dim, sigma, tolerance):
        """Cov[x_0 | x] = sigma^2 dD/dx. An atom's is zero but for a choice between atoms: the scale is 1 there."""
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        got = problem.law.posterior_cov(x, sigma)
        want = sigma**2 * self.autograd(lambda y: problem.law.denoise(y, sigma), x)
        if kind == "atoms":
            torch.testing.assert_close(got, want, rtol=0, atol=tolerance)
        else:
            self.close(got, want, tolerance)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", [1, 2, 16])
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_second_order_tweedie(self, kind, dim, sigma, tolerance):
        """grad s = (Cov[x_0 | x] / sigma^2 - I) / sigma^2, with nothing subtracted that is not compared."""
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        eye = torch.eye(dim, dtype=torch.float64).expand(len(x), dim, dim)
        left = sigma**2 * problem.law.score_jacobian(x, sigma) + eye
        right = problem.law.posterior_cov(x, sigma) / sigma**2
        scale = torch.maximum(eye.norm(dim=(-2, -1)), right.norm(dim=(-2, -1)))
        assert ((left - right).norm(dim=(-2, -1)) <= tolerance * scale).all()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", [2, 16])
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_symmetry_and_sign(self, kind, dim, sigma, tolerance):
        problem = mixture(kind, dim)
        x = problem.points(sigma)
        for matrix in (problem.law.score_jacobian(x, sigma), problem.law.posterior_cov(x, sigma)):
            assert (matrix - matrix.mT).norm(dim=(-2, -1)).amax() <= tolerance * matrix.norm(dim=(-2, -1)).amax()
        spectrum = torch.linalg.eigvalsh(problem.law.posterior_cov(x, sigma))
        assert (spectrum >= -tolerance * spectrum.amax(-1, keepdim=True).clamp(min=1e-300)).all()


class TestMomentsAndSamples:
    """Five standard errors, estimated from the samples themselves, at fixed seeds."""

    samples = 40_000

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", [1, 2, 5])
    @pytest.mark.parametrize("standard_errors", [5.0])
    def test_moments_are_those_of_the_samples(self, kind, dim, standard_errors):
        law = mixture(kind, dim).law
        x = law.sample(self.samples, generator=torch.Generator().manual_seed(7))
        assert x.shape == (self.samples, dim)
        assert x.dtype == torch.float64
        error = x.std(0) / self.samples**0.5
        assert ((x.mean(0) - law.mean).abs() <= standard_errors * error).all()
        centred = x - law.mean
        products = centred[:, :, None] * centred[:, None, :]
        error = products.std(0) / self.samples**0.5
        assert ((products.mean(0) - law.cov).abs() <= standard_errors * error).all()

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("dim", "tolerance"), [(5, 1e-14)])
    def test_moments_from_the_parameters(self, kind, dim, tolerance):
        problem = mixture(kind, dim)
        mean = problem.weights @ problem.means
        second = torch.einsum("k,kij->ij", problem.weights, problem.matrices)
        second = second + torch.einsum("k,ki,kj->ij", problem.weights, problem.means, problem.means)
        torch.testing.assert_close(problem.law.mean, mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(problem.law.cov, second - torch.outer(mean, mean), rtol=1e-13, atol=tolerance)

    @pytest.mark.parametrize("n", [4000])
    @pytest.mark.parametrize("p_value", [1e-3])
    def test_one_dimensional_samples_follow_the_distribution_function(self, n, p_value):
        law = line()
        x = law.sample(n, generator=torch.Generator().manual_seed(3))[:, 0].numpy()
        std = law.covariance.variance.sqrt().numpy()

        def cdf(t):
            return scipy.stats.norm.cdf(t[:, None], law.means[:, 0].numpy(), std) @ law.weights.numpy()

        assert scipy.stats.kstest(x, cdf).pvalue > p_value

    @pytest.mark.parametrize("n", [40_000])
    def test_mode_masses(self, n):
        problem = mixture("atoms", 2)
        x = problem.law.sample(n, generator=torch.Generator().manual_seed(5))
        counts = torch.stack([(x == m).all(-1).sum() for m in problem.means])
        assert counts.sum() == n, "a sample of atoms is one of the atoms"
        assert scipy.stats.chisquare(counts.numpy(), n * problem.weights.numpy()).pvalue > 1e-3

    def test_the_generator_decides(self):
        law = mixture("full", 3).law
        draws = [law.sample(4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])

    @pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
    @pytest.mark.parametrize("standard_errors", [5.0])
    def test_denoise_is_the_regression_of_clean_on_noisy(self, sigma, standard_errors):
        """E[(x_0 - D(x)) f(x)] = 0 for any f: the defining property of a conditional mean, on samples."""
        law = mixture("full", 2).law
        generator = torch.Generator().manual_seed(11)
        clean = law.sample(self.samples, generator=generator)
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        residual = clean - law.denoise(noisy, sigma)
        for test in (torch.ones_like, torch.tanh, torch.cos):
            products = residual * test(noisy / (1 + sigma))
            error = products.std(0) / self.samples**0.5
            assert (products.mean(0).abs() <= standard_errors * error).all()


class TestFloat32:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("tolerance", [1e-4])
    def test_finite_and_close_to_float64(self, kind, dim, sigma, tolerance):
        single = mixture(kind, dim).law.to(torch.float32)
        double = single.to(torch.float64)  # the law whose parameters are the rounded ones
        x = mixture(kind, dim).points(sigma).float()
        got = single.score(x, sigma), single.denoise(x, sigma), single.log_prob(x, sigma)[:, None]
        want = double.score(x.double(), sigma), double.denoise(x.double(), sigma)
        assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in got)
        assert relative_error(got[0], want[0]) <= tolerance
        assert relative_error(got[1], want[1]) <= tolerance
        log_prob = double.log_prob(x.double(), sigma)
        torch.testing.assert_close(got[2][:, 0].double(), log_prob, rtol=tolerance, atol=dim * 1e-6)

    @pytest.mark.parametrize("sigma", [1e-3, 1e-2, 0.1])
    @pytest.mark.parametrize(("dim", "tolerance"), [(16, 1e-5), (1024, 1e-5)])
    def test_responsibilities_between_far_modes(self, sigma, dim, tolerance):
        """Two exponents of about 2e4 that differ by at most 2: in float32 their difference would be noise."""
        means = torch.stack([torch.zeros(dim), torch.ones(dim) * 400 * sigma / dim**0.5])
        law = GaussianMixture([0.5, 0.5], means, Isotropic(0.0))
        # a fraction f of the way beyond the middle the log-ratio of the two is f |m1 - m0|^2 / sigma^2
        shift = torch.linspace(-2, 2, 9)[:, None] * sigma**2 / means[1].norm() ** 2
        x = (0.5 + shift) * means[1]
        want = law.to(torch.float64).responsibilities(x.double(), sigma)
        assert want.amin() > 0.1, "neither mode decides"
        torch.testing.assert_close(law.responsibilities(x, sigma).double(), want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize(("dim", "tolerance"), [(16384, 1e-4)])
    def test_sixteen_thousand_dimensions(self, sigma, dim, tolerance):
        double = random(dim)
        single = double.to(torch.float32)
        generator = torch.Generator().manual_seed(2)
        x = single.sample(4, generator=generator) + sigma * torch.randn(4, dim, generator=generator)
        assert x.dtype == torch.float32
        for got in (single.score(x, sigma), single.denoise(x, sigma), single.log_prob(x, sigma)):
            assert torch.isfinite(got).all()
        assert relative_error(single.score(x, sigma), single.to(torch.float64).score(x.double(), sigma)) <= tolerance
        assert torch.isfinite(double.score(1e3 * x.double(), sigma)).all(), "far out in the tail"

    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("dim", [128])
    def test_the_tail_is_finite_and_points_home(self, sigma, dim):
        law = mixture("isotropic", dim).law.to(torch.float32)
        x = 1e4 * torch.ones(2, dim)
        score = law.score(x, sigma)
        assert torch.isfinite(score).all()
        assert (score < 0).all()


METHODS = {
    "log_prob": lambda law, x, sigma: law.log_prob(x, sigma),
    "responsibilities": lambda law, x, sigma: law.responsibilities(x, sigma),
    "score": lambda law, x, sigma: law.score(x, sigma),
    "denoise": lambda law, x, sigma: law.denoise(x, sigma),
    "posterior_cov": lambda law, x, sigma: law.posterior_cov(x, sigma),
    "score_jacobian": lambda law, x, sigma: law.score_jacobian(x, sigma),
}


class TestPacksAndLevels:
    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("components", [1, 3])
    @pytest.mark.parametrize(("dim", "tolerance"), [(4, 1e-13)])
    def test_a_pack_equals_its_members(self, kind, method, components, dim, tolerance):
        members = [mixture(kind, dim, components, seed) for seed in (0, 1, 2)]
        pack = GaussianMixture.stack([m.law for m in members])
        assert (pack.dim, pack.components) == (dim, components)
        x = torch.stack([m.points(0.5, n=6) for m in members])
        levels = torch.logspace(-2, 2, 18, dtype=torch.float64).reshape(3, 6)
        for sigma in (0.5, levels):
            got = METHODS[method](pack, x, sigma)
            for e, member in enumerate(members):
                want = METHODS[method](member.law, x[e], sigma if isinstance(sigma, float) else sigma[e])
                assert got[e].shape == want.shape
                torch.testing.assert_close(got[e], want, rtol=tolerance, atol=tolerance * want.abs().amax().item())

    @pytest.mark.parametrize("method", ["score", "denoise", "responsibilities"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize(("dim", "n", "count"), [(33, 256, 16), (64, 64, 10), (200, 256, 3), (2, 20000, 2)])
    def test_a_large_pack_has_the_bits_of_its_members(self, dim, n, count, dtype, method):
        """Where the components of a pack are added up in groups, so that they fit into memory."""
        generator = torch.Generator().manual_seed(0)
        laws = [random(dim, seed=seed).to(dtype) for seed in range(count)]
        x = torch.randn(count, n, dim, generator=generator, dtype=dtype)
        sigma = torch.rand(count, n, generator=generator, dtype=dtype) + 0.5
        together = getattr(GaussianMixture.stack(laws), method)(x, sigma)
        for i in (0, count - 1):
            alone = getattr(GaussianMixture.stack(laws[i : i + 1]), method)(x[i : i + 1], sigma[i : i + 1])
            assert torch.equal(alone[0], together[i])

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_packs_of_packs(self, tolerance):
        laws = [[mixture("full", 3, seed=2 * i + j).law for j in range(2)] for i in range(2)]
        pack = GaussianMixture.stack([GaussianMixture.stack(row) for row in laws])
        x = mixture("full", 3).points(0.5, n=5).expand(2, 2, 5, 3)
        got = pack.score(x, 0.5)
        for i in range(2):
            for j in range(2):
                torch.testing.assert_close(got[i, j], laws[i][j].score(x[i, j], 0.5), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("dim", "tolerance", "n"), [(3, 1e-14, 20_000)])
    def test_moments_and_samples_of_a_pack(self, kind, dim, tolerance, n):
        laws = [mixture(kind, dim, seed=seed).law for seed in (0, 1)]
        pack = GaussianMixture.stack(laws)
        x = pack.sample(n, generator=torch.Generator().manual_seed(1))
        assert x.shape == (2, n, dim)
        for e, law in enumerate(laws):
            torch.testing.assert_close(pack.mean[e], law.mean, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(pack.cov[e], law.cov, rtol=tolerance, atol=tolerance)
            assert ((x[e].mean(0) - law.mean).abs() <= 5 * x[e].std(0) / n**0.5).all()

    def test_members_of_a_pack_are_sampled_independently(self):
        law = mixture("isotropic", 3).law
        x = GaussianMixture.stack([law, law]).sample(100, generator=torch.Generator().manual_seed(0))
        assert not torch.equal(x[0], x[1])

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("dim", "tolerance"), [(3, 1e-14)])
    def test_a_level_per_point(self, kind, method, dim, tolerance):
        problem = mixture(kind, dim)
        levels = torch.tensor(SIGMAS, dtype=torch.float64)
        x = problem.points(0.3, n=len(levels))
        got = METHODS[method](problem.law, x, levels)
        for i, sigma in enumerate(SIGMAS):
            want = METHODS[method](problem.law, x[i : i + 1], sigma)[0]
            torch.testing.assert_close(got[i], want, rtol=tolerance, atol=tolerance * want.abs().amax().item())

    @pytest.mark.parametrize("method", METHODS)
    def test_a_scalar_tensor_is_a_float(self, method):
        problem = mixture("full", 3)
        x = problem.points(0.3)
        got = METHODS[method](problem.law, x, torch.tensor(0.3, dtype=torch.float64))
        torch.testing.assert_close(got, METHODS[method](problem.law, x, 0.3), rtol=0, atol=0)

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_points_do_not_depend_on_their_neighbours(self, method, tolerance):
        problem = mixture("full", 3)
        x = problem.points(0.3)
        got = METHODS[method](problem.law, x, 0.3)[3:5]
        want = METHODS[method](problem.law, x[3:5], 0.3)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.abs().amax().item())


floats = st.floats(-5, 5, allow_nan=False)


class TestInvariances:
    """A law moved, turned or stretched has its score moved, turned or stretched."""

    @settings(deadline=None, max_examples=25, derandomize=True)
    @given(st.lists(floats, min_size=3, max_size=3), st.sampled_from([0.1, 1.0, 10.0]))
    def test_translation(self, shift, sigma):
        problem = mixture("full", 3)
        shift = torch.tensor(shift, dtype=torch.float64)
        moved = GaussianMixture(problem.weights, problem.means + shift, Full(problem.matrices))
        x = problem.points(sigma, n=4)
        assert relative_error(moved.score(x + shift, sigma), problem.law.score(x, sigma)) <= 1e-11

    @settings(deadline=None, max_examples=25, derandomize=True)
    @given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 10.0]))
    def test_rotation(self, seed, sigma):
        problem = mixture("full", 3)
        entries = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        R = torch.linalg.qr(entries).Q
        matrices = R @ problem.matrices @ R.mT
        turned = GaussianMixture(problem.weights, problem.means @ R.mT, Full((matrices + matrices.mT) / 2))
        x = problem.points(sigma, n=4)
        assert relative_error(turned.score(x @ R.mT, sigma), problem.law.score(x, sigma) @ R.mT) <= 1e-11
        torch.testing.assert_close(turned.log_prob(x @ R.mT, sigma), problem.law.log_prob(x, sigma), rtol=0, atol=1e-11)

    @settings(deadline=None, max_examples=25, derandomize=True)
    @given(st.floats(0.01, 100), st.sampled_from([0.1, 1.0, 10.0]))
    def test_scale(self, scale, sigma):
        problem = mixture("full", 3)
        stretched = GaussianMixture(problem.weights, scale * problem.means, Full(scale**2 * problem.matrices))
        x = problem.points(sigma, n=4)
        got = scale * stretched.score(scale * x, scale * sigma)
        assert relative_error(got, problem.law.score(x, sigma)) <= 1e-11

    @settings(deadline=None, max_examples=10, derandomize=True)
    @given(st.permutations(range(3)))
    def test_order_of_the_components(self, order):
        problem = mixture("full", 3)
        shuffled = GaussianMixture(problem.weights[order], problem.means[order], Full(problem.matrices[order]))
        x = problem.points(0.5, n=4)
        assert relative_error(shuffled.score(x, 0.5), problem.law.score(x, 0.5)) <= 1e-13

    def test_a_component_without_weight_is_absent(self):
        problem = mixture("full", 3)
        weights = torch.cat([problem.weights, torch.zeros(1, dtype=torch.float64)])
        means = torch.cat([problem.means, torch.ones(1, 3)])
        matrices = torch.cat([problem.matrices, torch.eye(3)[None]])
        law = GaussianMixture(weights, means, Full(matrices))
        x = problem.points(0.5)
        for name in ("log_prob", "score", "denoise", "posterior_cov", "score_jacobian"):
            got, want = METHODS[name](law, x, 0.5), METHODS[name](problem.law, x, 0.5)
            torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-13)


class TestModes:
    """Components that are parts of modes."""

    def grouped(self, dim=3):
        problem = mixture("full", dim)
        return problem, GaussianMixture(problem.weights, problem.means, Full(problem.matrices), [1, 0, 1])

    def test_by_default_every_component_is_one(self):
        problem = mixture("full", 3)
        x = problem.points(0.5)
        assert problem.law.modes == 3
        assert problem.law.mode_of is None
        assert torch.equal(problem.law.mode_weights, problem.law.weights)
        assert torch.equal(problem.law.mode_responsibilities(x, 0.5), problem.law.responsibilities(x, 0.5))

    def test_have_the_sum_of_their_parts(self):
        problem, law = self.grouped()
        x, r = problem.points(0.5), problem.law.responsibilities(problem.points(0.5), 0.5)
        want = torch.stack([r[:, 1], r[:, 0] + r[:, 2]], -1)
        torch.testing.assert_close(law.mode_responsibilities(x, 0.5), want, rtol=1e-15, atol=1e-15)
        w = problem.weights
        torch.testing.assert_close(law.mode_weights, torch.stack([w[1], w[0] + w[2]]), rtol=1e-15, atol=0)
        assert law.modes == 2

    @pytest.mark.parametrize("method", METHODS)
    def test_no_closed_form_sees_them(self, method):
        problem, law = self.grouped()
        x = problem.points(0.5)
        assert torch.equal(METHODS[method](law, x, 0.5), METHODS[method](problem.law, x, 0.5))

    def test_stay_in_another_precision_and_in_a_pack(self):
        problem, law = self.grouped()
        single = law.to(torch.float32)
        assert single.mode_of.tolist() == [1, 0, 1]
        pack = GaussianMixture.stack([law, problem.law])
        assert pack.mode_of.tolist() == [[1, 0, 1], [0, 1, 2]]
        assert pack.modes == 3
        x = problem.points(0.5)
        r = pack.mode_responsibilities(torch.stack([x, x]), 0.5)
        torch.testing.assert_close(r[0, :, :2], law.mode_responsibilities(x, 0.5), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(r[1], problem.law.responsibilities(x, 0.5), rtol=1e-13, atol=1e-13)
        assert pack.mode_weights[0, 2] == 0
        assert GaussianMixture.stack([problem.law, problem.law]).mode_of is None

    @pytest.mark.parametrize("mode_of", [[0, 1], [0.0, 1.0, 0.0], [0, -1, 0]])
    def test_that_are_none_are_named(self, mode_of):
        problem = mixture("full", 3)
        with pytest.raises(ValueError, match=r"mode_of must be integers >= 0 of shape \(3,\)"):
            GaussianMixture(problem.weights, problem.means, Full(problem.matrices), mode_of)


class TestTheObject:
    def test_smallest_std(self):
        law = GaussianMixture([0.5, 0.5], torch.zeros(2, 2), Diagonal([[1.0, 0.25], [4.0, 0.09]]))
        assert law.smallest_std == pytest.approx(0.3, rel=1e-15)

    def test_one_variance_is_shared(self):
        law = GaussianMixture([0.5, 0.5], torch.zeros(2, 2), Isotropic(0.25))
        assert law.covariance.variance.tolist() == [0.25, 0.25]

    def test_python_floats_keep_their_precision(self):
        law = GaussianMixture([0.1, 0.9], [[0.1], [0.2]], Isotropic(0.1))
        assert law.weights.tolist() == [0.1, 0.9]
        assert law.means.double().flatten().tolist() == [0.1, 0.2]

    def test_to_and_back(self):
        problem = mixture("full", 3)
        back = problem.law.to(torch.float32).to(torch.float64)
        torch.testing.assert_close(back.means, problem.means.float().double(), rtol=0, atol=0)
        assert problem.law.to(torch.float32).means.dtype == torch.float32
        assert (
            problem.law.to(torch.float64)
            .score(problem.points(1.0), 1.0)
            .equal(problem.law.score(problem.points(1.0), 1.0))
        )


X = torch.zeros(2, 2, dtype=torch.float64)


def law(weights=(0.5, 0.5), means=((0.0, 0.0), (1.0, 1.0)), covariance=None):
    return GaussianMixture(
        list(weights), means if torch.is_tensor(means) else [list(m) for m in means], covariance or Isotropic(0.25)
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: law(weights=(0.5, 0.6)), r"weights must sum to 1, got 1\.1"),
        (lambda: law(weights=(1.5, -0.5)), r"weights must be >= 0, got -0\.5"),
        (lambda: law(weights=(0.5, float("nan"))), r"weights must be >= 0, got nan"),
        (lambda: law(weights=(0.2, 0.3, 0.5)), r"weights must have shape \(2,\) to match means, got \(3,\)"),
        (lambda: law(means=torch.zeros(2)), r"means must have shape \(K, d\), got \(2,\)"),
        (lambda: law(means=((0.0, float("inf")), (1.0, 1.0))), r"means must be finite"),
        (lambda: law(covariance=Isotropic([0.1, 0.2, 0.3])), r"covariance must have 2 components, got 3"),
        (lambda: law(covariance=Full(torch.eye(2)[None])), r"covariance must have 2 components, got 1"),
        (lambda: law(covariance=Diagonal(torch.ones(2, 3))), r"covariance must have dimension 2 to match means, got 3"),
        (lambda: law(covariance=Full(torch.eye(3).expand(2, 3, 3))), r"covariance must have dimension 2 .*, got 3"),
        (lambda: law(covariance=LowRank(torch.ones(2, 5, 1), 0.1)), r"covariance must have dimension 2 .*, got 5"),
        (lambda: law().score(torch.zeros(4, 3), 1.0), r"x must have last dimension 2, got shape \(4, 3\)"),
        (lambda: law().log_prob(torch.zeros(4, 3), 1.0), r"x must have last dimension 2, got shape \(4, 3\)"),
        (lambda: law().sample(0), r"n must be >= 1, got 0"),
        (lambda: GaussianMixture.stack([law(), mixture("isotropic", 3).law]), r"one shape, got \[\(2, 2\), \(3, 3\)\]"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("components", [1, 3])
class TestBadLevels:
    @pytest.mark.parametrize("sigma", [-1.0, float("nan"), torch.tensor([-1.0, 1.0]), torch.tensor([1.0, math.nan])])
    def test_negative_or_undefined(self, method, components, sigma):
        with pytest.raises(ValueError, match=r"sigma must be >= 0, got (-1|nan)"):
            METHODS[method](mixture("isotropic", 2, components).law, X, sigma)

    @pytest.mark.parametrize("sigma", [0.0, 0, torch.tensor([1.0, 0.0])])
    def test_zero_for_a_singular_law(self, method, components, sigma):
        with pytest.raises(ValueError, match=r"sigma must be > 0 for a singular law .*, got 0"):
            METHODS[method](mixture("atoms", 2, components).law, X, sigma)


def test_a_pack_holds_one_type_of_covariance():
    with pytest.raises(TypeError, match=r"one covariance type, got \['Diagonal', 'Isotropic'\]"):
        GaussianMixture.stack([mixture("isotropic", 2).law, mixture("diagonal", 2).law])
