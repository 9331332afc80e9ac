"""Few-step students: the chain written out, its law for affine maps of Gaussians, and the gradient of its last step."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from sandbox.student.denoiser import Denoiser, OneStep, one_step
from sandbox.student.few_step import FewStep, StoredNoise, at_stored_noise, few_step, few_step_levels
from sandbox.student.networks import LinearStudent, Pack

LEVELS = (80.0, 9.0, 1.5, 0.3)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64).to(dtype)


def denoiser(dim=3, width=8, seed=0, dtype=torch.float64):
    """A denoiser away from its start, so that no term of it is zero."""
    network = Denoiser(dim, width, 1, source(seed), 0.7)
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p += 0.3 * normal(*p.shape, seed=1000 * seed + i, dtype=p.dtype)
    return network.to(dtype)


class Shrink(nn.Module):
    """m + (lambda / (lambda + sigma^2))^power (x - m): of N(m, diag lambda) the denoiser at power 1, and the map of the
    flow from sigma to 0 at power 1/2."""

    def __init__(self, m, lam, power):
        super().__init__()
        self.m, self.lam, self.power, self.dim = m, lam, power, len(lam)

    def gain(self, sigma):
        return (self.lam / (self.lam + sigma**2)) ** self.power

    def forward(self, x, sigma):
        return self.m + self.gain(sigma) * (x - self.m)


def shrink(power):
    lam = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)
    return Shrink(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), lam, power)


def law(student):
    """Mean and covariance of an affine map of standard normals."""
    nothing = torch.zeros(1, student.noise_dim, dtype=torch.float64)
    J = jacrev(lambda noise: student(noise)[0])(nothing)[:, 0]
    return student(nothing)[0], J @ J.mT


class TestLevels:
    @pytest.mark.parametrize("k", [1, 2, 4])
    @pytest.mark.parametrize("sigma_init", [2.5, 80.0])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_are_even_in_the_time_of_the_grid(self, k, sigma_init, tolerance):
        levels = few_step_levels(k, sigma_init)
        time = [(level ** (1 / 7) - 0.002 ** (1 / 7)) / (sigma_init ** (1 / 7) - 0.002 ** (1 / 7)) for level in levels]
        assert time == pytest.approx([1 - j / k for j in range(k)], rel=tolerance)

    @pytest.mark.parametrize("bad", [0, -1])
    def test_a_bad_number_is_named(self, bad):
        with pytest.raises(ValueError, match=f"k must be >= 1, got {bad}"):
            few_step_levels(bad)


class TestForward:
    @pytest.mark.parametrize("sigma_init", [2.5, 80.0])
    def test_of_one_step_is_the_one_step_student(self, sigma_init):
        network, z = denoiser(dtype=torch.float32), normal(9, 3, seed=1, dtype=torch.float32)
        assert torch.equal(FewStep(network, few_step_levels(1, sigma_init))(z), OneStep(network, sigma_init)(z))

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_the_chain(self, tolerance):
        network, (z, first, second) = denoiser(), normal(3, 9, 3, seed=1)
        x = network(80.0 * z, 80.0)
        x = network(x + 9.0 * first, 9.0)
        x = network(x + 0.5 * second, 0.5)
        student = FewStep(network, (80.0, 9.0, 0.5))
        assert student.noise_dim == 9
        got = student(torch.cat([z, first, second], -1))
        torch.testing.assert_close(got, x, rtol=tolerance, atol=tolerance)

    def test_leaves_the_denoiser_and_the_global_generator_alone(self):
        network, noise, before = denoiser(), normal(9, 12, seed=1), torch.random.get_rng_state()
        student = FewStep(network, LEVELS)
        first, second = student(noise), student(noise)
        assert torch.equal(first, second)
        assert torch.equal(torch.random.get_rng_state(), before)
        with torch.no_grad():
            network.net.mean.add_(1.0)
        assert torch.equal(student(noise), first)


class TestLaw:
    @pytest.mark.parametrize("power", [0.5, 1.0])
    @pytest.mark.parametrize("levels", [(80.0,), (2.0, 0.5), LEVELS])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_of_affine_steps(self, power, levels, tolerance):
        """x - m has the mean -g_1 m at first and g times what it was from then on, the variance g^2 (V + sigma^2)."""
        D = shrink(power)
        offset, variance = -D.m, torch.zeros(3, dtype=torch.float64)
        for sigma in levels:
            offset, variance = D.gain(sigma) * offset, D.gain(sigma) ** 2 * (variance + sigma**2)
        mean, covariance = law(FewStep(D, levels))
        torch.testing.assert_close(mean, D.m + offset, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(covariance, torch.diag(variance), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("sigma_init", [2.5, 80.0])
    @pytest.mark.parametrize(("tolerance", "left"), [(1e-12, 1e-3)])
    def test_steps_that_keep_the_law_end_at_the_teachers(self, sigma_init, tolerance, left):
        """1 - V/lambda = prod_j lambda/(lambda + sigma_j^2), and the mean is off by the root of that share of m."""
        D, before = shrink(0.5), 1.0
        for k in (1, 2, 4, 64):
            levels = few_step_levels(k, sigma_init)
            mean, covariance = law(FewStep(D, levels))
            missing = torch.stack([D.lam / (D.lam + sigma**2) for sigma in levels]).prod(0)
            torch.testing.assert_close(1 - covariance.diagonal() / D.lam, missing, rtol=0, atol=tolerance)
            torch.testing.assert_close(D.m - mean, missing.sqrt() * D.m, rtol=0, atol=tolerance)
            assert (missing < before).all()
            before = missing
        assert (before <= left).all()

    @pytest.mark.parametrize("k", [1, 2, 3, 4, 8])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_exact_denoisers_reach_less_than_half_the_variance(self, k, tolerance):
        """V/lambda <= k/(2(k + 1)), reached at sigma_j^2 = lambda/j: each step's best level given the one before."""
        D = shrink(1.0)
        best = law(FewStep(D, [1 / math.sqrt(j) for j in range(1, k + 1)]))[1]
        assert best[1, 1].item() == pytest.approx(k / (2 * (k + 1)), rel=tolerance)
        for levels in (few_step_levels(k), few_step_levels(k, 2.5), torch.logspace(0.5, -0.5, k).tolist()):
            share = torch.diagonal(law(FewStep(D, levels))[1]) / D.lam
            assert (share <= k / (2 * (k + 1)) + tolerance).all()


class TestPartial:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_the_chain_cut_short(self, tolerance):
        network, noise = denoiser(), normal(12, 12, seed=1)
        stop = torch.arange(12) % 4
        got = FewStep(network, LEVELS).partial(noise, stop)
        for i, j in enumerate(stop.tolist()):
            want = FewStep(network, LEVELS[: j + 1])(noise[i : i + 1, : 3 * (j + 1)])[0]
            torch.testing.assert_close(got[i], want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("step", "tolerance"), [(1e-6, 1e-7)])
    def test_gradient_is_that_of_the_last_step(self, step, tolerance):
        """Central differences of the last step's parameters, its input held at the unperturbed student's."""
        network, noise, weight = denoiser(), normal(8, 12, seed=1), normal(8, 3, seed=2)
        stop = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
        student = FewStep(network, LEVELS)
        gradient = torch.autograd.grad((weight * student.partial(noise, stop)).sum(), list(student.parameters()))
        with torch.no_grad():
            parts = noise.unflatten(-1, (4, 3)).unbind(1)
            inputs = [80.0 * parts[0]]
            for j in range(3):
                inputs.append(network(inputs[-1], LEVELS[j]) + LEVELS[j + 1] * parts[j + 1])
            inputs = torch.stack([inputs[j][i] for i, j in enumerate(stop.tolist())])
            sigma = torch.tensor(LEVELS, dtype=torch.float64)[stop]
        values = {name: p.detach() for name, p in network.named_parameters()}
        for (name, p), analytic in zip(values.items(), gradient, strict=True):
            direction = normal(*p.shape, seed=p.numel())
            ends = [
                (
                    weight * functional_call(network, {**values, name: p + sign * step * direction}, (inputs, sigma))
                ).sum()
                for sign in (1, -1)
            ]
            slope = (ends[0] - ends[1]) / (2 * step)
            assert slope.item() == pytest.approx((analytic * direction).sum().item(), rel=tolerance, abs=tolerance)

    @pytest.mark.parametrize("least", [1e-3])
    def test_is_not_the_gradient_of_the_whole_chain(self, least):
        student, noise = FewStep(denoiser(), LEVELS), normal(8, 12, seed=1)
        out = (student.partial(noise, torch.full((8,), 3)), student(noise))
        last, whole = (torch.autograd.grad(x.sum(), student.denoiser.net.inward)[0] for x in out)
        assert (last - whole).abs().max() > least

    def test_is_forward_with_a_stop(self):
        student, noise, stop = FewStep(denoiser(), LEVELS), normal(8, 12, seed=1), torch.arange(8) % 4
        assert torch.equal(student(noise, stop), student.partial(noise, stop))


class TestPacks:
    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_a_pack_is_its_members(self, tolerance):
        members, noise = [denoiser(seed=i, dtype=torch.float32) for i in range(3)], normal(3, 7, 6, seed=1).float()
        pack = few_step(Pack.of(members), (80.0, 2.5))
        alone = [FewStep(m, (80.0, 2.5)) for m in members]
        assert torch.equal(pack(noise), Pack.of(alone)(noise))
        want = torch.stack([student(noise[i]) for i, student in enumerate(alone)])
        torch.testing.assert_close(pack(noise), want, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(pack.member(1)(noise[1]), want[1], rtol=tolerance, atol=tolerance)

    def test_of_one_step_is_the_one_step_pack(self):
        pack, z = Pack.of([denoiser(seed=i, dtype=torch.float32) for i in range(3)]), normal(3, 7, 3, seed=1).float()
        assert torch.equal(few_step(pack, (80.0,))(z), one_step(pack)(z))

    @pytest.mark.parametrize("stopped", [False, True])
    @pytest.mark.parametrize(("dim", "width", "n"), [(1, 64, 128), (2, 64, 128), (5, 32, 63), (3, 8, 1)])
    def test_a_student_does_not_know_its_pack(self, dim, width, n, stopped):
        """Values and gradients, bitwise, at every place in a pack of four."""
        pack = few_step(Pack.of([denoiser(dim, width, i, torch.float32) for i in range(4)]), LEVELS)
        noise, stop = normal(4, n, 4 * dim, seed=8).float(), torch.randint(4, (4, n), generator=source(1))

        def values(members):
            leaves = {name: p[members].clone().requires_grad_() for name, p in pack.parameters.items()}
            out = pack.with_parameters(leaves)(noise[members], *([stop[members]] if stopped else []))
            return out, *torch.autograd.grad(out.square().sum(), list(leaves.values()))

        together = values(slice(0, 4))
        for i in range(4):
            for got, want in zip(values(slice(i, i + 1)), together, strict=True):
                assert torch.equal(got[0], want[i])


class TestStoredNoise:
    def test_every_point_has_its_row(self):
        pack, z = few_step(Pack.of([denoiser(seed=i) for i in range(2)]), LEVELS), normal(2, 9, 3, seed=1)
        eps = normal(20, 9, seed=2)
        x = at_stored_noise(pack, eps)
        assert torch.equal(x(z), pack(torch.cat([z, eps[:9].expand(2, 9, 9)], -1)))
        torch.testing.assert_close(x.member(1)(z[1]), x(z)[1], rtol=1e-12, atol=1e-12)
        assert x.parameters is pack.parameters

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_has_the_derivative_of_the_chain(self, tolerance):
        """Of the exact denoiser of a Gaussian: prod_j K_j sigma_1, whatever the fresh noise."""
        D, z = shrink(1.0), normal(1, 3, seed=1)
        x = StoredNoise(D, LEVELS, normal(4, 9, seed=2))
        want = torch.stack([D.gain(sigma) for sigma in LEVELS]).prod(0) * 80.0
        torch.testing.assert_close(jacrev(lambda p: x(p)[0])(z)[:, 0], torch.diag(want), rtol=tolerance, atol=tolerance)

    def test_more_points_than_noise_are_named(self):
        x = StoredNoise(denoiser(), LEVELS, normal(9, 9, seed=2))
        with pytest.raises(ValueError, match="z must hold at most 9 points, those with stored noise, got 10"):
            x(normal(10, 3, seed=1))

    def test_noise_of_another_size_is_named(self):
        with pytest.raises(ValueError, match=r"eps must have shape \(N, 9\), got \(4, 3\)"):
            StoredNoise(denoiser(), LEVELS, normal(4, 3, seed=2))


class TestErrors:
    @pytest.mark.parametrize(
        "bad", [(), (80.0, 80.0), (1.0, 2.0), (80.0, 0.0), (80.0, -1.0), (math.inf, 1.0), (80.0, math.nan)]
    )
    def test_bad_levels_are_named(self, bad):
        with pytest.raises(ValueError, match=r"levels must be finite, descending and > 0, got \("):
            FewStep(denoiser(), bad)

    def test_noise_of_another_size_is_named(self):
        with pytest.raises(ValueError, match="noise must have 12 numbers a sample, got 3"):
            FewStep(denoiser(), LEVELS)(normal(9, 3, seed=1))

    def test_only_denoisers_make_few_step_students(self):
        with pytest.raises(TypeError, match="got LinearStudent"):
            few_step(Pack.of([LinearStudent(torch.eye(2))]), LEVELS)
