"""Adversarial losses against cross-entropies, their gradients, and the classifier that is best for a known pair."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from sandbox.student.gan_losses import critic_loss, r1_penalty, student_loss


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestLogistic:
    @pytest.mark.parametrize("scale", [1.0, 800.0])
    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_are_cross_entropies_of_each_student(self, scale, tolerance):
        """Also of logits whose exponentials are not numbers."""
        real, fake = scale * normal(2, 3, 7, seed=0)
        one, zero = torch.ones(7).double(), torch.zeros(7).double()
        for e in range(3):
            want = cross_entropy(real[e], one) + cross_entropy(fake[e], zero)
            torch.testing.assert_close(critic_loss(real, fake)[e], want, rtol=tolerance, atol=tolerance)
            want = cross_entropy(fake[e], one)
            torch.testing.assert_close(student_loss(fake)[e], want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_gradients_are_probabilities_of_error(self, tolerance):
        real, fake = (v.requires_grad_() for v in normal(2, 3, 5, seed=1).unbind(0))
        of_real, of_fake = torch.autograd.grad(critic_loss(real, fake).sum(), (real, fake))
        (of_student,) = torch.autograd.grad(student_loss(fake).sum(), fake)
        p_real, p_fake = torch.sigmoid(real), torch.sigmoid(fake)
        for got, want in ((of_real, p_real - 1), (of_fake, p_fake), (of_student, p_fake - 1)):
            torch.testing.assert_close(got, want / 5, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("apart", "points", "tolerance"), [(0.5, 100_000, 1e-4), (2.0, 100_000, 1e-4)])
    def test_the_best_classifier_is_the_log_density_ratio(self, apart, points, tolerance):
        """Of N(m, 1) and N(-m, 1), 2 m x: no multiple of it is better, and its loss is a Jensen-Shannon divergence."""
        quantiles = torch.from_numpy(stats.norm.ppf((torch.arange(points) + 0.5) / points))
        factor = torch.ones((), dtype=torch.float64, requires_grad=True)
        real, fake = (factor * 2 * apart * (quantiles + centre) for centre in (apart, -apart))
        loss = critic_loss(real, fake)
        (slope,) = torch.autograd.grad(loss, factor)
        assert abs(slope.item()) < tolerance

        p, q = stats.norm(apart).pdf, stats.norm(-apart).pdf
        # KL(p || (p + q) / 2), which by symmetry is the divergence
        divergence, _ = integrate.quad(lambda x: p(x) * math.log(2 * p(x) / (p(x) + q(x))), -12, 12)
        assert loss.item() == pytest.approx(2 * math.log(2) - 2 * divergence, abs=tolerance)

    @pytest.mark.parametrize("n", [1, 7, 64])
    def test_a_student_does_not_know_its_pack(self, n):
        logits = normal(2, 3, n, seed=2).float()

        def slopes(members):
            real, fake = (v[members].clone().requires_grad_() for v in logits)
            return torch.autograd.grad(critic_loss(real, fake).sum() + student_loss(fake).sum(), (real, fake))

        for e in range(3):
            for alone, together in zip(slopes(slice(e, e + 1)), slopes(slice(0, 3)), strict=True):
                assert torch.equal(alone[0], together[e])


class TestPenalty:
    @pytest.mark.parametrize("gamma", [0.5, 10.0])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_of_a_linear_logit(self, gamma, tolerance):
        """gamma |a|^2 / 2 at any points, with gradient gamma a; of each student's own a."""
        x, a = normal(3, 6, 4, seed=3).requires_grad_(), normal(3, 4, seed=4).requires_grad_()
        penalty = r1_penalty((x * a[:, None]).sum(-1) + 1, x, gamma)
        torch.testing.assert_close(penalty, gamma / 2 * a.square().sum(-1), rtol=tolerance, atol=0)
        torch.testing.assert_close(torch.autograd.grad(penalty.sum(), a)[0], gamma * a, rtol=tolerance, atol=0)

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_of_a_quadratic_logit(self, tolerance):
        x = normal(3, 6, 4, seed=5).requires_grad_()
        penalty = r1_penalty(x.square().sum(-1) / 2, x, 3.0)
        torch.testing.assert_close(penalty, 1.5 * x.square().sum(-1).mean(-1), rtol=tolerance, atol=0)

    def test_gradient_by_finite_differences(self):
        x, V, a = normal(2, 5, 3, seed=6), normal(2, 3, 4, seed=7), normal(2, 4, seed=8)

        def penalty(x, V, a):
            return r1_penalty((torch.tanh(x @ V) * a[:, None]).sum(-1), x, 2.0)

        assert torch.autograd.gradcheck(penalty, tuple(v.requires_grad_() for v in (x, V, a)))
