"""Mixtures through matrix products: the same numbers as through differences, up to what they say they lose."""

import pytest
import torch
from problems import SIGMAS, exact, mixture, relative_error

from sandbox.teacher import mixture as module
from sandbox.teacher.covariance import Diagonal, Full, Isotropic, LowRank
from sandbox.teacher.families import random
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.products import Products

AXIS_ALIGNED = ("isotropic", "diagonal", "near-duplicate", "atoms")


@pytest.fixture
def always(monkeypatch):
    """Every number of points is many."""
    monkeypatch.setattr(module, "PRODUCT_ELEMENTS", 0)


def by_differences(monkeypatch, evaluate):
    with monkeypatch.context() as patch:
        patch.setattr(module, "PRODUCT_ELEMENTS", float("inf"))
        return evaluate()


class Spy:
    """Counts the calls of one of `Products`' methods."""

    def __init__(self, monkeypatch, name):
        self.calls, original = 0, getattr(Products, name)

        def counted(*args):
            self.calls += 1
            return original(*args)

        monkeypatch.setattr(Products, name, counted)


class TestAgainstManyDigits:
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("dim", [1, 2, 6])
    @pytest.mark.parametrize("kind", AXIS_ALIGNED)
    @pytest.mark.parametrize(("nats", "tolerance"), [(1e-10, 1e-10)])
    def test_density_score_and_denoiser(self, kind, dim, sigma, nats, tolerance, always, monkeypatch):
        problem = mixture(kind, dim)
        x = problem.points(sigma, n=4)
        used = Spy(monkeypatch, "exponents")
        log_prob, score, denoised = exact(problem, x, sigma)
        assert (problem.law.log_prob(x, sigma) - log_prob).abs().max() <= nats
        assert relative_error(problem.law.score(x, sigma), score) <= tolerance
        assert relative_error(problem.law.denoise(x, sigma), denoised) <= tolerance
        assert used.calls == 3

    @pytest.mark.parametrize("kind", AXIS_ALIGNED)
    @pytest.mark.parametrize(("shift", "sigma", "tolerance"), [(1e6, 0.1, 1e-8)])
    def test_far_from_the_origin(self, kind, shift, sigma, tolerance, always):
        """Points that lie 1e6 away are themselves rounded to 1e-10: the tolerance is that over sigma."""
        near = mixture(kind, 6).law
        far = GaussianMixture(near.weights, near.means + shift, near.covariance)
        x = near.sample(8, torch.Generator().manual_seed(0)) + sigma
        assert relative_error(far.score(x + shift, sigma), near.score(x, sigma)) <= tolerance


class TestTheRoundingError:
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("dim", [2, 64, 1024])
    @pytest.mark.parametrize("kind", AXIS_ALIGNED)
    @pytest.mark.parametrize("units", [8])
    def test_is_of_the_order_that_is_stated(self, kind, dim, sigma, units):
        problem = mixture(kind, dim)
        x, s2 = problem.points(sigma, n=32), torch.tensor(sigma**2, dtype=torch.float64)
        got, error = problem.law._products.exponents(x, s2)
        difference = (got - problem.law._exponents(x, s2)).abs().amax(-2)
        # Both sum d terms; what their own size rounds to is added to the error of the expansion.
        rounding = torch.finfo(torch.float64).eps * got.abs().amax(-2)
        assert (difference <= units * (error + rounding)).all()

    def test_is_not_an_idle_bound(self):
        """At sigma = 1e-3 the exponents of atoms lose what differences keep."""
        problem = mixture("atoms", 1024)
        s2 = torch.tensor(1e-6, dtype=torch.float64)
        x = problem.points(1e-3, n=32)
        got, error = problem.law._products.exponents(x, s2)
        own = (got - problem.law._exponents(x, s2)).abs().amin(-2)
        assert error.max() > module.PRODUCT_ERROR
        assert own.max() > module.PRODUCT_ERROR, "the expansion is worse than accepted, so going back is needed"

    @pytest.mark.parametrize("method", ["log_prob", "responsibilities"])
    def test_rough_points_go_through_differences(self, method, always, monkeypatch):
        law = mixture("atoms", 16).law
        x = torch.cat([mixture("atoms", 16).points(1e-3, n=3), mixture("atoms", 16).points(30.0, n=3)])
        levels = torch.tensor([1e-3] * 3 + [30.0] * 3, dtype=torch.float64)
        want = by_differences(monkeypatch, lambda: getattr(law, method)(x, levels))
        exactly, original = [], law._exponents
        monkeypatch.setattr(law, "_exponents", lambda x, s2: exactly.append(x) or original(x, s2))
        got = getattr(law, method)(x, levels)
        assert torch.equal(torch.cat(exactly), x[:3]), "and no others"
        assert torch.equal(got[:3], want[:3])
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


class TestPaths:
    @pytest.mark.parametrize("method", ["log_prob", "score", "denoise"])
    @pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
    def test_large_batches_take_products(self, kind, method, monkeypatch):
        law = mixture(kind, 16).law
        used = Spy(monkeypatch, "exponents")
        n = module.PRODUCT_ELEMENTS // (16 * 3)
        getattr(law, method)(torch.zeros(n, 16, dtype=torch.float64), 0.5)
        assert used.calls == 0
        getattr(law, method)(torch.zeros(n + 1, 16, dtype=torch.float64), 0.5)
        assert used.calls == 1

    @pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
    @pytest.mark.parametrize("method", ["log_prob", "responsibilities", "score", "denoise"])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_packs_and_levels(self, kind, method, tolerance, always, monkeypatch):
        law = GaussianMixture.stack([mixture(kind, 5, seed=seed).law for seed in (0, 1, 2)])
        x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        for sigma in (0.5, torch.logspace(-1, 1, 21, dtype=torch.float64).reshape(3, 7)):
            want = by_differences(monkeypatch, lambda s=sigma: getattr(law, method)(x, s))
            got = getattr(law, method)(x, sigma)
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * want.abs().amax().item())

    @pytest.mark.parametrize("method", ["score", "denoise", "responsibilities"])
    @pytest.mark.parametrize("shared", [True, False])
    @pytest.mark.parametrize(("kind", "dim", "n"), [("isotropic", 64, 3000), ("diagonal", 200, 1000)])
    def test_a_large_pack_has_the_bits_of_its_members(self, kind, dim, n, shared, method):
        laws = [mixture(kind, dim, seed=0 if shared else seed).law for seed in range(3)]
        # One of a pack lies far from the origin: that it is centred must not reach the others.
        laws[2] = GaussianMixture(laws[2].weights, laws[2].means + 100, laws[2].covariance)
        x = torch.randn(3, n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        together = getattr(GaussianMixture.stack(laws), method)(x, 0.5)
        for i, law in enumerate(laws):
            assert torch.equal(getattr(GaussianMixture.stack([law]), method)(x[i : i + 1], 0.5)[0], together[i])

    def test_a_shared_teacher_gives_every_member_its_bits(self):
        law = mixture("isotropic", 64).law
        x = torch.randn(3, 3000, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        together = law.score(x, 0.5)
        for i in range(3):
            assert torch.equal(law.score(x[i : i + 1], 0.5)[0], together[i])

    def test_gradients_pass(self, always):
        law = mixture("isotropic", 4).law
        x = mixture("isotropic", 4).points(0.5, n=5).requires_grad_()
        (gradient,) = torch.autograd.grad(law.log_prob(x, 0.5).sum(), x)
        torch.testing.assert_close(gradient, law.score(x.detach(), 0.5), rtol=1e-12, atol=1e-12)

    def test_other_covariances_are_refused(self):
        with pytest.raises(TypeError, match="covariance must be Isotropic or Diagonal, got Full"):
            Products(torch.zeros(1, 2), Full(torch.eye(2)[None]))


def large(kind, dim, components):
    """A mixture of many components, of which one is nearly another, in single and in double precision."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(components, dim, generator=generator)
    means[1] = means[0]
    means[1, 0] += 1e-6
    weights = torch.full((components,), 1 / components, dtype=torch.float64)
    variance = 0.05 + torch.rand(components, generator=generator)
    covariance = {
        "isotropic": lambda: Isotropic(variance),
        "atoms": lambda: Isotropic(torch.zeros(components)),
        "diagonal": lambda: Diagonal(variance[:, None] * (0.5 + torch.rand(components, dim, generator=generator))),
        "low-rank": lambda: LowRank(torch.randn(components, dim, 2, generator=generator) / dim**0.5, variance),
    }[kind]()
    return GaussianMixture(weights, means, covariance)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("kind", ["isotropic", "atoms", "diagonal", "low-rank"])
@pytest.mark.parametrize(("dim", "components", "tolerance"), [(16384, 64, 1e-4)])
def test_single_precision_in_sixteen_thousand_dimensions(kind, dim, components, sigma, tolerance):
    single = large(kind, dim, components)
    double = single.to(torch.float64)
    generator = torch.Generator().manual_seed(1)
    x = single.means[:3] + sigma * torch.randn(3, dim, generator=generator)
    for method in ("score", "denoise", "log_prob"):
        got, want = getattr(single, method)(x, sigma), getattr(double, method)(x.double(), sigma)
        assert got.dtype == torch.float32
        assert torch.isfinite(got).all()
        assert torch.isfinite(want).all()
        if method != "log_prob":
            assert relative_error(got, want) <= tolerance
        else:
            torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dim", [2, 128])
@pytest.mark.parametrize("tolerance", [1e-12])
def test_a_family_by_both_paths(dim, tolerance, monkeypatch):
    law = random(dim)
    x = law.sample(2**19 // (8 * dim) + 8, torch.Generator().manual_seed(0))
    for sigma in (0.01, 1.0, 80.0):
        want = by_differences(monkeypatch, lambda s=sigma: law.score(x, s))
        assert relative_error(law.score(x, sigma), want) <= tolerance
