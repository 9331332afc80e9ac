"""Denoising networks: the published preconditioning, an independent forward pass, and packs."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from sandbox.student.denoiser import Correction, Denoiser, ExactResidual, OneStep, Preconditioning, one_step
from sandbox.student.networks import LinearStudent, Pack
from sandbox.teacher import families
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.mixture import GaussianMixture

LEVELS = (0.002, 0.5, 80.0)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64).to(dtype)


def denoiser(dim=3, width=8, depth=2, seed=0, sigma_data=0.7, dtype=torch.float32, stir=0.3):
    """A denoiser away from its start, so that no term of it is zero."""
    network = Denoiser(dim, width, depth, source(seed), sigma_data)
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p += stir * normal(*p.shape, seed=1000 * seed + i, dtype=p.dtype)
    return network.to(dtype)


def by_numpy(network, x, sigma):
    """The forward pass written out, from the names of the parameters."""
    P = {name: p.detach().double().numpy() for name, p in network.named_parameters()}
    sd, x = network.sigma_data, np.asarray(x, dtype=float)
    sigma = np.broadcast_to(np.asarray(sigma, dtype=float), len(x))[:, None]

    def unit(h):
        return h / np.sqrt((h**2).mean(-1, keepdims=True) + 1e-6)

    phase = np.pi / 4 * np.log(sigma) / 4 * np.arange(1, 5)
    e = np.concatenate([np.cos(phase), np.sin(phase)], -1)
    h = x / np.sqrt(sigma**2 + sd**2) @ P["net.inward"].T + P["net.b"]
    for k in range(len(network.net.blocks)):
        W1, V, b, W2 = (P[f"net.blocks.{k}.{name}"] for name in ("W1", "V", "b", "W2"))
        u = unit(h) @ W1.T + e @ V.T + b
        h = h + (u / (1 + np.exp(-u))) @ W2.T
    F = unit(h) @ P["net.outward"].T + P["net.mean"]
    return sd**2 / (sigma**2 + sd**2) * x + sigma * sd / np.sqrt(sigma**2 + sd**2) * F


class TestPreconditioning:
    @pytest.mark.parametrize("sigma", LEVELS)
    @pytest.mark.parametrize(("sigma_data", "tolerance"), [(0.5, 1e-14), (2.0, 1e-14)])
    def test_meets_the_conditions_it_was_derived_from(self, sigma, sigma_data, tolerance):
        """Karras et al. (2022, appendix B.6): unit input, unit target, and the skip that makes F matter least."""
        c = Preconditioning.at(sigma, sigma_data, torch.zeros((), dtype=torch.float64))

        def left_to_the_network(skip):
            """Var(x_0 - c_skip x_sigma)."""
            return (1 - skip) ** 2 * sigma_data**2 + skip**2 * sigma**2

        assert c.into.item() ** 2 * (sigma**2 + sigma_data**2) == pytest.approx(1, rel=tolerance)
        assert left_to_the_network(c.skip.item()) == pytest.approx(c.out.item() ** 2, rel=100 * tolerance)
        assert all(left_to_the_network(c.skip.item() * f) > c.out.item() ** 2 for f in (0.9, 1.1))
        assert 1 / c.out.item() ** 2 == pytest.approx(sigma**-2 + sigma_data**-2, rel=100 * tolerance)
        assert c.noise.item() == pytest.approx(math.log(sigma) / 4, rel=tolerance)

    @pytest.mark.parametrize("sigma", LEVELS)
    @pytest.mark.parametrize("dim", [1, 5])
    @pytest.mark.parametrize(("sigma_data", "tolerance"), [(0.5, 1e-6), (2.0, 1e-6)])
    def test_the_start_is_the_exact_denoiser_of_a_gaussian(self, dim, sigma, sigma_data, tolerance):
        law = GaussianMixture([1.0], torch.zeros(1, dim, dtype=torch.float64), Isotropic([sigma_data**2]))
        x = sigma * normal(20, dim, seed=1)
        out = Denoiser(dim, 8, 2, source(), sigma_data)(x.float(), sigma)
        torch.testing.assert_close(out.double(), law.denoise(x, sigma), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("sigma", "tolerance"), [(1e-2, 1e-1), (1e-4, 1e-3), (1e-6, 1e-5)])
    def test_leaves_the_point_as_the_noise_vanishes(self, sigma, tolerance):
        """|D - x| = O(sigma)."""
        x = normal(10, 3, seed=2)
        moved = (denoiser(dtype=torch.float64)(x, sigma) - x).abs().max()
        assert 0 < moved <= tolerance

    @pytest.mark.parametrize(("sigma", "tolerance"), [(1e3, 1e-2), (1e5, 1e-4)])
    def test_is_the_network_alone_as_the_noise_grows(self, sigma, tolerance):
        """D -> sigma_data F: of the order of the data, however far the point."""
        z, network = normal(10, 3, seed=2), denoiser(dtype=torch.float64)
        F = network.net(z, torch.full((1, 1), math.log(sigma) / 4, dtype=torch.float64))
        torch.testing.assert_close(network(sigma * z, sigma), 0.7 * F, rtol=0, atol=tolerance)
        assert F.abs().min() > 1e-3


class TestForward:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
    @pytest.mark.parametrize(("dim", "width", "depth"), [(1, 4, 1), (3, 8, 2), (5, 16, 3)])
    def test_by_numpy(self, dim, width, depth, dtype, tolerance):
        network = denoiser(dim, width, depth, dtype=dtype)
        sigma = torch.logspace(-2, 2, 12, dtype=dtype)
        x = sigma[:, None] * normal(12, dim, seed=3, dtype=dtype)
        want = torch.from_numpy(by_numpy(network, x, sigma))
        torch.testing.assert_close(network(x, sigma).double(), want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("sigma", LEVELS)
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_a_number_is_that_level_at_every_point(self, sigma, tolerance):
        network, x = denoiser(), normal(9, 3, seed=4, dtype=torch.float32)
        torch.testing.assert_close(network(x, sigma), network(x, torch.full((9,), sigma)), rtol=0, atol=tolerance)

    def test_gradients_by_finite_differences(self):
        network = denoiser(dim=2, width=3, depth=1, dtype=torch.float64)
        names, leaves = zip(*network.named_parameters(), strict=True)
        x, sigma = normal(3, 2, seed=5).requires_grad_(), torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)

        def out(x, sigma, *values):
            return functional_call(network, dict(zip(names, values, strict=True)), (x, sigma))

        assert torch.autograd.gradcheck(out, (x, sigma.requires_grad_(), *leaves))

    def test_weights_come_from_the_generator_alone(self):
        before = torch.random.get_rng_state()
        first, second, other = (Denoiser(3, 8, 2, source(seed)) for seed in (1, 1, 2))
        assert torch.equal(torch.random.get_rng_state(), before)
        pairs = zip(first.parameters(), second.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)
        assert not torch.equal(first.net.inward, other.net.inward)

    @pytest.mark.parametrize(("width", "dim", "relative"), [(400, 100, 0.02)])
    def test_weights_have_the_stated_spread(self, width, dim, relative):
        net = Denoiser(dim, width, 1, source()).net
        assert net.inward.std().item() == pytest.approx(dim**-0.5, rel=relative)
        assert net.blocks[0].W1.std().item() == pytest.approx(width**-0.5, rel=relative)
        assert not net.outward.any()


class TestPacks:
    @pytest.mark.parametrize(("dim", "count", "tolerance"), [(1, 3, 1e-6), (4, 3, 1e-6)])
    def test_a_pack_is_its_members(self, dim, count, tolerance):
        members = [denoiser(dim, seed=i) for i in range(count)]
        x, sigma = normal(count, 7, dim, seed=6, dtype=torch.float32), normal(count, 7, seed=7).exp().float()
        loop = torch.stack([m(x[i], sigma[i]) for i, m in enumerate(members)])
        torch.testing.assert_close(Pack.of(members)(x, sigma), loop, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("count", "tolerance"), [(3, 1e-5)])
    def test_gradients_of_a_pack_are_its_members(self, count, tolerance):
        members, x = [denoiser(seed=i) for i in range(count)], normal(count, 7, 3, seed=8, dtype=torch.float32)
        sigma = normal(count, 7, seed=7).exp().float()
        pack = Pack.of(members)
        leaves = {name: p.clone().requires_grad_() for name, p in pack.parameters.items()}
        packed = torch.autograd.grad(pack.with_parameters(leaves)(x, sigma).square().sum(), list(leaves.values()))
        for i, member in enumerate(members):
            alone = torch.autograd.grad(member(x[i], sigma[i]).square().sum(), list(member.parameters()))
            for got, want in zip(packed, alone, strict=True):
                torch.testing.assert_close(got[i], want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("student", [False, True])
    @pytest.mark.parametrize(
        ("dim", "width", "n"),
        # The last ones' numbers do not fill whole vectors of the processor's.
        [(1, 64, 128), (2, 64, 128), (5, 32, 64), (32, 64, 100), (3, 33, 63), (2, 8, 3), (3, 8, 1), (1, 1, 7)],
    )
    def test_a_network_does_not_know_its_pack(self, dim, width, n, student):
        """Values and gradients, bitwise, at every place in a pack of four."""
        pack = Pack.of([denoiser(dim, width, seed=i) for i in range(4)])
        pack = one_step(pack) if student else pack
        x, sigma = normal(4, n, dim, seed=8, dtype=torch.float32), normal(4, n, seed=7).exp().float()

        def values(members):
            leaves = {name: p[members].clone().requires_grad_() for name, p in pack.parameters.items()}
            points = x[members].clone().requires_grad_()
            out = pack.with_parameters(leaves)(*((points,) if student else (points, sigma[members])))
            return out, *torch.autograd.grad(out.square().sum(), [points, *leaves.values()])

        together = values(slice(0, 4))
        for i in range(4):
            for got, want in zip(values(slice(i, i + 1)), together, strict=True):
                assert torch.equal(got[0], want[i])


class TestOneStep:
    @pytest.mark.parametrize("sigma_init", [2.5, 80.0])
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_is_the_denoiser_at_its_level(self, sigma_init, tolerance):
        network, z = denoiser(), normal(9, 3, seed=9, dtype=torch.float32)
        want = torch.from_numpy(by_numpy(network, sigma_init * z, sigma_init))
        torch.testing.assert_close(
            OneStep(network, sigma_init)(z).double(), want, rtol=10 * tolerance, atol=10 * tolerance
        )

    def test_shares_names_with_the_denoiser_but_no_memory(self):
        network = denoiser()
        student = OneStep(network)
        assert dict(student.named_parameters()).keys() == dict(network.named_parameters()).keys()
        before = network.net.inward.detach().clone()
        with torch.no_grad():
            student.net.inward.add_(1.0)
        assert torch.equal(network.net.inward, before)

    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_of_a_pack(self, tolerance):
        members, z = [denoiser(seed=i) for i in range(3)], normal(3, 7, 3, seed=10, dtype=torch.float32)
        pack = Pack.of(members)
        assert torch.equal(one_step(pack, 2.5)(z), Pack.of([OneStep(m, 2.5) for m in members])(z))
        torch.testing.assert_close(
            one_step(pack, 2.5)(z), pack(2.5 * z, torch.full((3, 7), 2.5)), rtol=tolerance, atol=tolerance
        )


class TestExactResidual:
    def students(self, teachers, count=2):
        corrections = Pack.of([Correction(denoiser(2, seed=i)) for i in range(count)])
        return ExactResidual(corrections.module, corrections.parameters, teachers.to(torch.float32))

    @pytest.mark.parametrize("stacked", [False, True])
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_starts_at_the_exact_one_step_denoiser(self, stacked, tolerance):
        laws = [families.random(2, seed=i if stacked else 0) for i in range(2)]
        students = self.students(GaussianMixture.stack(laws) if stacked else laws[0])
        z = normal(2, 9, 2, seed=11)
        for i, law in enumerate(laws):
            want = law.denoise(80.0 * z[i], 80.0)
            for got in (students(z.float())[i], students.member(i)(z[i].float())):
                torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance)

    def test_learns_from_there(self):
        students, z = self.students(families.random(2)), normal(2, 9, 2, seed=12, dtype=torch.float32)
        leaves = {name: p.clone().requires_grad_() for name, p in students.parameters.items()}
        out = students.with_parameters(leaves)(z)
        gradient = torch.autograd.grad(out.sum(), leaves["net.mean"])[0]
        # c_out = sigma sd / sqrt(sigma^2 + sd^2) for each of nine points.
        c_out = 80 * 0.7 / math.hypot(80, 0.7)
        torch.testing.assert_close(gradient, torch.full((2, 2), 9 * c_out), rtol=1e-5, atol=0)


class TestErrors:
    @pytest.mark.parametrize("name", ["dim", "width", "depth"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, True])
    def test_a_bad_shape_is_named(self, name, value):
        shape = {"dim": 2, "width": 4, "depth": 1, name: value}
        with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got {value}"):
            Denoiser(**shape, generator=source())

    @pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
    def test_a_bad_scale_is_named(self, value):
        with pytest.raises(ValueError, match=f"sigma_data must be > 0, got {value}"):
            Denoiser(2, 4, 1, source(), value)
        for build in (OneStep, Correction, lambda network, level: one_step(Pack.of([network]), level)):
            with pytest.raises(ValueError, match=f"sigma_init must be > 0, got {value}"):
                build(denoiser(), value)

    @pytest.mark.parametrize("value", [0, -1.0, math.nan])
    def test_a_bad_level_is_named(self, value):
        with pytest.raises(ValueError, match=f"sigma must be > 0, got {value}"):
            denoiser()(torch.zeros(2, 3), value)

    def test_only_denoisers_make_one_step_students(self):
        with pytest.raises(TypeError, match="got LinearStudent"):
            one_step(Pack.of([LinearStudent(torch.eye(2))]))
