"""The loss against the divergence that it claims to descend, and the definitions of its weightings."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from sandbox.student.losses import (
    NORMALISERS,
    REDUCTIONS,
    WEIGHTINGS,
    denoising_loss,
    denoising_weight,
    dmd_direction,
    dmd_surrogate,
    regression_loss,
    sid_loss,
)
from sandbox.student.networks import LinearStudent, Pack
from sandbox.teacher.covariance import Full
from sandbox.teacher.mixture import GaussianMixture

SIGMAS = (0.05, 0.7, 20.0)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def random_problem(dim):
    """A student's matrix without any symmetry, and a teacher's covariance that does not commute with its law."""
    root = normal(dim, dim, seed=dim)
    covariance = root @ root.mT / dim + 0.3 * torch.eye(dim, dtype=torch.float64)
    weight = 0.4 * normal(dim, dim, seed=100 + dim) + 0.5 * torch.eye(dim, dtype=torch.float64)
    return weight, covariance


def gaussian(covariance):
    return GaussianMixture([1.0], torch.zeros(1, len(covariance), dtype=torch.float64), Full(covariance[None]))


def kl_gradient(weight, covariance, sigma):
    """sigma^2 d/dA KL(N(0, A A^T + sigma^2) || N(0, Sigma + sigma^2)) by an independent library and autograd."""
    A = weight.clone().requires_grad_()
    noise, zero = sigma**2 * torch.eye(len(weight), dtype=torch.float64), torch.zeros(len(weight), dtype=torch.float64)
    kl = kl_divergence(MultivariateNormal(zero, A @ A.mT + noise), MultivariateNormal(zero, covariance + noise))
    return sigma**2 * torch.autograd.grad(kl, A)[0]


def design(n, dim):
    """z and eps (n, d) with exact second moments: both white, and orthogonal to each other."""
    columns, _ = torch.linalg.qr(normal(n, 2 * dim, seed=1))
    return math.sqrt(n) * columns[:, :dim], math.sqrt(n) * columns[:, dim:]


def surrogate_gradient(weight, covariance, sigma, z, eps, normaliser="off", reduction="sum"):
    """d/dA of the surrogate, for a pack of students with their own points z, eps (E, n, d): (E, d, d)."""
    pack = Pack.of([LinearStudent(weight) for _ in z])
    leaf = pack.parameters["weight"].clone().requires_grad_()
    pack = pack.with_parameters({"weight": leaf})
    x = pack(z)
    noised = (x + sigma * eps).detach()
    direction = dmd_direction(
        x.detach(), gaussian(covariance).denoise(noised, sigma), pack.law().denoise(noised, sigma), normaliser
    )
    return torch.autograd.grad(dmd_surrogate(x, direction, reduction).sum(), leaf)[0]


class TestGradientOfTheDivergence:
    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize("dim", [1, 2, 8])
    @pytest.mark.parametrize(("n", "tolerance"), [(64, 1e-10)])
    def test_equals_the_kl_gradient_on_a_design_sample(self, dim, sigma, n, tolerance):
        """Value and sign: the gradient is linear in the sample's second moments, which the design has exactly."""
        weight, covariance = random_problem(dim)
        z, eps = design(n, dim)
        got = surrogate_gradient(weight, covariance, sigma, z[None], eps[None])[0]
        want = kl_gradient(weight, covariance, sigma)
        assert want.norm() > 1e-4, "a vanishing gradient would compare nothing"
        assert (got - want).norm() <= tolerance * want.norm()

    @pytest.mark.parametrize("sigma", SIGMAS[:2])
    @pytest.mark.parametrize("dim", [1, 2, 8])
    @pytest.mark.parametrize(("students", "n", "standard_errors"), [(64, 500, 4.5)])
    def test_equals_the_kl_gradient_on_average(self, dim, sigma, students, n, standard_errors):
        weight, covariance = random_problem(dim)
        z, eps = normal(2, students, n, dim, seed=5)
        got = surrogate_gradient(weight, covariance, sigma, z, eps)
        error = got.std(0) / math.sqrt(students)
        want = kl_gradient(weight, covariance, sigma)
        assert ((got.mean(0) - want).abs() <= standard_errors * error).all()
        # the noise must be small enough to tell the gradient from its negative, which it is not at large sigma
        assert error.norm() < 0.5 * want.norm()

    @pytest.mark.parametrize("sigma", SIGMAS)
    @pytest.mark.parametrize(("dim", "tolerance"), [(4, 1e-12)])
    def test_vanishes_at_the_teachers_law_for_any_pairing(self, sigma, dim, tolerance):
        _, covariance = random_problem(dim)
        rotation, _ = torch.linalg.qr(normal(dim, dim, seed=9))
        weight = torch.linalg.cholesky(covariance) @ rotation
        z, eps = normal(2, 1, 32, dim, seed=6)
        assert surrogate_gradient(weight, covariance, sigma, z, eps).abs().max() <= tolerance


class TestNormalisers:
    def points(self, students=3, n=5, dim=4):
        return normal(3, students, n, dim, seed=11)

    def test_by_hand(self):
        x, fake = torch.tensor([[[1.0, -2.0], [0.0, 8.0]]]), torch.tensor([[[3.0, 6.0], [8.0, 16.0]]])
        real = torch.zeros_like(x)
        torch.testing.assert_close(dmd_direction(x, real, fake, "off"), fake)
        torch.testing.assert_close(dmd_direction(x, real, fake, "per-sample"), torch.tensor([[[2.0, 4.0], [2.0, 4.0]]]))
        torch.testing.assert_close(dmd_direction(x, real, fake, "batch"), fake / 2.75)

    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_by_loops_over_a_pack(self, tolerance):
        x, real, fake = self.points()
        per_sample, batch = (dmd_direction(x, real, fake, n) for n in ("per-sample", "batch"))
        for e in range(x.shape[0]):
            # one student's weights must not see its pack-mates
            of_student = sum((x[e, i, j] - real[e, i, j]).abs() for i in range(5) for j in range(4)) / 20
            for i in range(x.shape[1]):
                difference = fake[e, i] - real[e, i]
                of_sample = sum((x[e, i, j] - real[e, i, j]).abs() for j in range(4)) / 4
                torch.testing.assert_close(per_sample[e, i], difference / of_sample, rtol=tolerance, atol=0)
                torch.testing.assert_close(batch[e, i], difference / of_student, rtol=tolerance, atol=0)

    def test_per_sample_is_the_default(self):
        x, real, fake = self.points()
        assert torch.equal(dmd_direction(x, real, fake), dmd_direction(x, real, fake, "per-sample"))

    @pytest.mark.parametrize("scale", [1e-3, 10.0])
    @pytest.mark.parametrize(("normaliser", "power"), [("per-sample", 0), ("batch", 0), ("off", 1)])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_scaling_of_the_data(self, normaliser, power, scale, tolerance):
        """A normalised direction has no units; without a normaliser it has those of the data."""
        x, real, fake = self.points()
        got = dmd_direction(scale * x, scale * real, scale * fake, normaliser)
        want = scale**power * dmd_direction(x, real, fake, normaliser)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=0)

    def test_every_name_is_accepted(self):
        x, real, fake = self.points()
        results = [dmd_direction(x, real, fake, name) for name in NORMALISERS]
        for i, one in enumerate(results):
            for other in results[:i]:
                assert not torch.allclose(one, other)


class TestReductions:
    @pytest.mark.parametrize("tolerance", [1e-15])
    def test_gradient_is_the_direction_over_the_number_of_samples(self, tolerance):
        x, direction = normal(2, 3, 5, 4, seed=12)
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(dmd_surrogate(x, direction).sum(), x)
        torch.testing.assert_close(gradient, direction / 5, rtol=tolerance, atol=0)

    @pytest.mark.parametrize("dim", [1, 2, 8, 64])
    def test_mean_divides_the_gradient_by_the_dimension(self, dim):
        """Powers of two, for which the division is exact."""
        weight, covariance = random_problem(dim)
        z, eps = normal(2, 2, 16, dim, seed=13)
        total, mean = (surrogate_gradient(weight, covariance, 0.7, z, eps, reduction=r) for r in REDUCTIONS)
        assert total.abs().max() > 0
        torch.testing.assert_close(mean * dim, total, rtol=1e-13, atol=1e-15)

    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_mean_is_the_published_loss(self, tolerance):
        """0.5 mse(x, stopgrad(x - g)), Yin et al. 2024."""
        x, direction = normal(2, 1, 6, 3, seed=14)
        x.requires_grad_()
        (got,) = torch.autograd.grad(dmd_surrogate(x, direction, "mean").sum(), x)
        published = 0.5 * torch.nn.functional.mse_loss(x, (x - direction).detach())
        (want,) = torch.autograd.grad(published, x)
        torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)

    def test_no_gradient_through_the_direction(self):
        x = normal(1, 4, 2, seed=15).requires_grad_()
        direction = 3 * x
        (gradient,) = torch.autograd.grad(dmd_surrogate(x, direction).sum(), x)
        torch.testing.assert_close(gradient, direction.detach() / 4)

    def test_one_number_per_student(self):
        x, direction = normal(2, 3, 5, 4, seed=16)
        together = dmd_surrogate(x, direction)
        assert together.shape == (3,)
        torch.testing.assert_close(together, torch.stack([dmd_surrogate(x[e], direction[e]) for e in range(3)]))


class TestSid:
    @pytest.mark.parametrize(
        ("alpha", "want"), [(0.0, (-12.0, 12.0)), (0.5, (-14.5, 10.0)), (1.0, (-17.0, 8.0)), (1.2, (-18.0, 7.2))]
    )
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_by_hand(self, alpha, want, tolerance):
        """D_real - D_fake = (-1, 2), (2, 0); D_fake - x = (3, -7), (4, 5): products -17 and 8, squares 5 and 4."""
        x = torch.tensor([[[1.0, 8.0]], [[-3.0, -1.0]]])
        fake, real = torch.tensor([[[4.0, 1.0]], [[1.0, 4.0]]]), torch.tensor([[[3.0, 3.0]], [[3.0, 4.0]]])
        torch.testing.assert_close(sid_loss(x, real, fake, alpha, "off"), torch.tensor(want), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    @pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
    @pytest.mark.parametrize(("step", "tolerance"), [(1e-5, 1e-8)])
    def test_gradient_is_that_at_fixed_weights(self, normaliser, reduction, alpha, step, tolerance):
        """Finite differences of the definition in every coordinate of x, the denoisers curved, the weights as at x."""
        x, eps = normal(2, 1, 3, 2, seed=17)

        def denoisers(x):
            y = x + 0.7 * eps
            return torch.tanh(y), torch.sin(y @ torch.tensor([[0.3, 0.5], [-0.4, 0.8]]).double())

        size = {
            "per-sample": (x - denoisers(x)[0]).abs().mean(-1),
            "batch": (x - denoisers(x)[0]).abs().mean(),
            "off": torch.ones(()),
        }[normaliser]

        def defined(x):
            real, fake = denoisers(x)
            product = ((real - fake) * ((1 - alpha) * (real - fake) + fake - x)).sum(-1) / size
            return product.mean().item() / (2 if reduction == "mean" else 1)

        leaf = x.clone().requires_grad_()
        loss = sid_loss(leaf, *denoisers(leaf), alpha, normaliser, reduction)
        assert loss.item() == pytest.approx(defined(x), rel=1e-13)
        (got,) = torch.autograd.grad(loss.sum(), leaf)
        for i in range(3):
            for j in range(2):
                bump = torch.zeros_like(x)
                bump[0, i, j] = step
                want = (defined(x + bump) - defined(x - bump)) / (2 * step)
                assert got[0, i, j].item() == pytest.approx(want, abs=tolerance)

    def test_defaults_are_the_published_ones(self):
        x, real, fake = normal(3, 2, 5, 4, seed=18)
        assert torch.equal(sid_loss(x, real, fake), sid_loss(x, real, fake, 1.2, "per-sample", "sum"))
        assert not torch.equal(sid_loss(x, real, fake), sid_loss(x, real, fake, 1.0, "per-sample", "sum"))


class TestDenoising:
    @pytest.mark.parametrize("data", [0.5, 1.0, 3.0])
    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_edm_is_karras_weight(self, data, tolerance):
        """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2, Karras et al. 2022, Table 1."""
        sigma = torch.logspace(-3, 2, 11, dtype=torch.float64)
        want = (sigma**2 + data**2) / (sigma * data) ** 2
        torch.testing.assert_close(denoising_weight(sigma, data), want, rtol=tolerance, atol=0)
        each = denoising_weight(sigma.expand(2, -1), torch.tensor([[data], [2 * data]]).double(), "edm")
        torch.testing.assert_close(each[0], want, rtol=tolerance, atol=0)
        assert (each[1] < want).all()

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_epsilon_is_the_error_of_the_predicted_noise(self, tolerance):
        x, eps, denoised = normal(3, 2, 5, 4, seed=19)
        sigma = torch.logspace(-2, 2, 10, dtype=torch.float64).reshape(2, 5)
        predicted = (x + sigma[..., None] * eps - denoised) / sigma[..., None]
        got = denoising_loss(denoised, x, denoising_weight(sigma, 1.0, "epsilon"))
        want = torch.stack([torch.nn.functional.mse_loss(p, e) for p, e in zip(predicted, eps, strict=True)])
        torch.testing.assert_close(got, want, rtol=tolerance, atol=0)

    def test_edm_is_unit_weight_on_the_network(self):
        """D = c_skip y + c_out F: lambda |D - x|^2 = |F - (x - c_skip y) / c_out|^2 (Karras et al. 2022, eq. 8)."""
        x, eps, F = normal(3, 2, 5, 4, seed=20)
        sigma, data = torch.logspace(-2, 2, 10, dtype=torch.float64).reshape(2, 5), 0.6
        level = sigma[..., None]
        skip, out = data**2 / (level**2 + data**2), level * data / (level**2 + data**2).sqrt()
        y = x + level * eps
        got = denoising_loss(skip * y + out * F, x, denoising_weight(sigma, data))
        want = (F - (x - skip * y) / out).square().mean((-2, -1))
        torch.testing.assert_close(got, want, rtol=1e-11, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("tolerance", "share"), [(1e-14, {"sum": 4, "mean": 1})])
def test_regression_is_half_the_squared_distance(reduction, tolerance, share):
    x, target = normal(2, 3, 5, 4, seed=21)
    mse = torch.stack([torch.nn.functional.mse_loss(a, b) for a, b in zip(x, target, strict=True)])
    got = regression_loss(x, target, reduction)
    torch.testing.assert_close(got, share[reduction] * mse / 2, rtol=tolerance, atol=0)


@pytest.mark.parametrize(
    "loss",
    [
        *(lambda x, other, r=r: dmd_surrogate(x, other, r) for r in REDUCTIONS),
        *(lambda x, other, r=r: regression_loss(x, other, r) for r in REDUCTIONS),
        *(
            lambda x, other, w=w: denoising_loss(x, other, denoising_weight(other[..., 0].exp(), 0.5, w))
            for w in WEIGHTINGS
        ),
    ],
)
def test_gradients_are_finite_differences(loss):
    x, other = normal(2, 2, 3, 2, seed=22)
    assert torch.autograd.gradcheck(lambda x: loss(x, other), x.requires_grad_(), eps=1e-6, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: dmd_direction(x, x, x, "per_sample"), r"normaliser must be one of .*per-sample.*got 'per_sample'"),
        (lambda x: dmd_surrogate(x, x, "average"), r"reduction must be one of .*sum.*got 'average'"),
        (lambda x: sid_loss(x, x, x, 1.2, "none"), r"normaliser must be one of .*per-sample.*got 'none'"),
        (lambda x: sid_loss(x, x, x, reduction="average"), r"reduction must be one of .*sum.*got 'average'"),
        (lambda x: regression_loss(x, x, "average"), r"reduction must be one of .*sum.*got 'average'"),
        (lambda x: denoising_weight(x, 1.0, "eps"), r"fake_weighting must be one of edm, epsilon, got 'eps'"),
    ],
)
def test_unknown_names_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.ones(2, 2))
