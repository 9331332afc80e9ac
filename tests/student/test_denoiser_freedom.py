"""What a network student is free to do: the rank of its derivative, and what leads around its network."""

import math

import pytest
import torch
from torch.func import jacrev, vmap

from sandbox.student.denoiser import SKIPS, Correction, Denoiser, OneStep, one_step
from sandbox.student.networks import Pack


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64).to(dtype)


def denoiser(dim=3, width=8, bottleneck=None, seed=0, dtype=torch.float64):
    """A denoiser away from its start, so that no term of it is zero."""
    network = Denoiser(dim, width, 2, source(seed), 0.7, bottleneck)
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p += 0.3 * normal(*p.shape, seed=1000 * seed + i, dtype=p.dtype)
    return network.to(dtype)


def jacobians(f, x):
    return vmap(jacrev(lambda point: f(point[None])[0]))(x)


def slope(student):
    """c_skip sigma_init, by hand."""
    return 0.7**2 / (student.sigma_init**2 + 0.7**2) * student.sigma_init


class TestBottleneck:
    @pytest.mark.parametrize(("dim", "width", "r"), [(6, 16, 1), (6, 16, 3), (6, 16, 6), (2, 8, 1), (6, 4, 5)])
    @pytest.mark.parametrize("rtol", [1e-10])
    def test_is_the_rank_of_the_derivative(self, dim, width, r, rtol):
        """Of a width below it, the width is."""
        network, x = denoiser(dim, width, r), normal(9, dim, seed=3)
        J = jacobians(lambda p: network.net(p, torch.full((1, 1), 0.4, dtype=torch.float64)), x)
        assert torch.equal(torch.linalg.matrix_rank(J, rtol=rtol), torch.full((9,), min(r, width)))

    @pytest.mark.parametrize("rtol", [1e-10])
    def test_is_taken_over_by_every_student(self, rtol):
        network, z = denoiser(6, 16, 2), normal(9, 6, seed=3)
        fixed, off, correction = OneStep(network, 2.5), OneStep(network, 2.5, "off"), Correction(network, 2.5)
        with torch.no_grad():
            correction.net.outward.copy_(network.net.outward)
        around = slope(fixed) * torch.eye(6, dtype=torch.float64)
        for J in (jacobians(fixed, z) - around, jacobians(off, z), jacobians(correction, z)):
            assert (torch.linalg.matrix_rank(J, rtol=rtol) == 2).all()
        assert (torch.linalg.matrix_rank(jacobians(fixed, z), rtol=rtol) == 6).all()

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_a_product_in_place_of_the_first_matrix(self, tolerance):
        narrow, wide = denoiser(5, 8, 3), denoiser(5, 8)
        same = dict(narrow.named_parameters())
        product = same.pop("net.widen") @ same["net.inward"]
        wide.load_state_dict(same | {"net.inward": product})
        x = normal(9, 5, seed=3)
        torch.testing.assert_close(narrow(x, 2.0), wide(x, 2.0), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(("width", "dim", "r", "relative"), [(400, 300, 100, 0.02)])
    def test_a_vector_of_unit_entries_keeps_its_size(self, width, dim, r, relative):
        net = Denoiser(dim, width, 1, source(), bottleneck=r).net
        assert net.inward.std().item() == pytest.approx(dim**-0.5, rel=relative)
        assert net.widen.std().item() == pytest.approx(r**-0.5, rel=relative)

    @pytest.mark.parametrize("bad", [0, -1, 1.5, True])
    def test_a_bad_one_is_named(self, bad):
        with pytest.raises(ValueError, match=f"bottleneck must be an integer >= 1, got {bad}"):
            Denoiser(3, 8, 1, source(), bottleneck=bad)

    def test_one_above_the_dimension_is_named(self):
        with pytest.raises(ValueError, match="bottleneck must be <= dim = 3, got 4"):
            Denoiser(3, 8, 1, source(), bottleneck=4)


class TestSkip:
    @pytest.mark.parametrize("sigma_init", [2.5, 80.0])
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_a_trained_one_starts_at_the_same_function_and_without_one_it_is_missing(self, sigma_init, tolerance):
        z, network = normal(9, 3, seed=9), denoiser()
        fixed, trained, off = (OneStep(network, sigma_init, skip) for skip in SKIPS)
        torch.testing.assert_close(trained(z), fixed(z), rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(off(z), fixed(z) - slope(fixed) * z, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_a_trained_one_is_any_matrix(self, tolerance):
        z, trained, off = normal(9, 3, seed=9), OneStep(denoiser(), 2.5, "trained"), OneStep(denoiser(), 2.5, "off")
        A = normal(3, 3, seed=10)
        with torch.no_grad():
            trained.A.copy_(A)
        torch.testing.assert_close(trained(z), z @ A.mT + off(z), rtol=tolerance, atol=tolerance)
        cotangent = normal(9, 3, seed=11)
        gradient = torch.autograd.grad((cotangent * trained(z)).sum(), trained.A)[0]
        torch.testing.assert_close(gradient, cotangent.mT @ z, rtol=tolerance, atol=tolerance)

    def test_only_a_trained_one_adds_a_parameter(self):
        network = denoiser()
        names = {skip: set(dict(OneStep(network, skip=skip).named_parameters())) for skip in SKIPS}
        assert names["fixed"] == names["off"] == set(dict(network.named_parameters()))
        assert names["trained"] - names["fixed"] == {"A"}

    @pytest.mark.parametrize("skip", SKIPS)
    def test_of_a_pack(self, skip):
        members, z = [denoiser(seed=i, dtype=torch.float32) for i in range(3)], normal(3, 7, 3, seed=10).float()
        pack, alone = one_step(Pack.of(members), 2.5, skip), Pack.of([OneStep(m, 2.5, skip) for m in members])
        assert list(pack.parameters) == list(alone.parameters)
        assert torch.equal(pack(z), alone(z))

    def test_a_pack_shares_no_memory(self):
        A = one_step(Pack.of([denoiser(seed=i) for i in range(2)]), skip="trained").parameters["A"]
        A[0].add_(1.0)
        assert torch.equal(A[0], A[1] + 1.0)

    def test_an_unknown_one_is_named(self):
        with pytest.raises(ValueError, match="skip must be one of fixed, trained, off, got 'free'"):
            OneStep(denoiser(), skip="free")
        with pytest.raises(ValueError, match="skip must be one of fixed, trained, off, got None"):
            one_step(Pack.of([denoiser()]), skip=None)


@pytest.mark.parametrize("skip", SKIPS)
@pytest.mark.parametrize("bottleneck", [None, 1, 2])
@pytest.mark.parametrize(("dim", "width", "n"), [(2, 64, 128), (5, 32, 63), (3, 8, 1), (3, 1, 7)])
def test_a_student_does_not_know_its_pack(dim, width, n, bottleneck, skip):
    """Values and gradients, bitwise, at every place in a pack of four."""
    members = [denoiser(dim, width, bottleneck, seed=i, dtype=torch.float32) for i in range(4)]
    pack, z = one_step(Pack.of(members), math.e, skip), normal(4, n, dim, seed=8).float()

    def values(members):
        leaves = {name: p[members].clone().requires_grad_() for name, p in pack.parameters.items()}
        points = z[members].clone().requires_grad_()
        out = pack.with_parameters(leaves)(points)
        return out, *torch.autograd.grad(out.square().sum(), [points, *leaves.values()])

    together = values(slice(0, 4))
    for i in range(4):
        for got, want in zip(values(slice(i, i + 1)), together, strict=True):
            assert torch.equal(got[0], want[i])
