"""The freedom of students, their steps and their training: linear ones in closed form, networks by derivatives."""

import math

import pytest
import torch
from torch import nn

from sandbox.measure.freedom import available, direction_stream, freedom, net, parametrised, used
from sandbox.measure.linear_freedom import linear_available, linear_freedom, linear_net
from sandbox.measure.potentials import Potentials
from sandbox.student.denoiser import Correction, Denoiser, ExactResidual, OneStep
from sandbox.student.networks import LinearStudent, Pack
from sandbox.teacher.families import random, ring


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def antisymmetric(dim, seed=1):
    K = normals(dim, dim, seed=seed)
    return K - K.mT


class Bend(nn.Module):
    """x = A z + tanh(C z), whose derivative in its parameters is known."""

    def __init__(self, dim, seed=0):
        super().__init__()
        self.A, self.C = (nn.Parameter(normals(dim, dim, seed=seed + i).float()) for i in range(2))

    def forward(self, z):
        return z @ self.A.mT + torch.tanh(z @ self.C.mT)


class TestAvailable:
    @pytest.mark.parametrize("dim", [2, 4, 16, 64])
    def test_a_linear_student_has_its_share_of_directions(self, dim):
        A = normals(dim, dim)
        found = available(LinearStudent(A), normals(1024, dim, seed=1), directions=24, seed=5, size=0)
        assert abs(found.fraction - linear_available(A).item()) < 4 * found.error
        # A direction's fraction has its Beta law's variance, m (1 - m) / (d^2/2 + 1); the points add less than that.
        m = (dim - 1) / (2 * dim)
        assert found.error < 2 * math.sqrt(m * (1 - m) / (dim**2 / 2 + 1) / 24)
        biased = available(
            LinearStudent(A, torch.zeros(dim)), normals(1024, dim, seed=1), directions=24, seed=5, size=0
        )
        assert abs(biased.fraction - linear_available(A, bias=True).item()) < 4 * biased.error

    def test_in_one_dimension_there_is_none(self):
        assert available(Bend(1), normals(64, 1)).fraction == 0

    def test_changes_are_derivatives_along_the_directions(self):
        student, z = Bend(3), normals(200, 3, seed=4)
        found = available(student, z, directions=2, seed=7, size=0)
        generator = direction_stream(7)
        A, C = (p.detach().double() for p in student.parameters())
        changes = []
        for _ in range(2):
            a, c = (torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(2))
            changes.append(z @ a.mT + (1 - torch.tanh(z @ C.mT).square()) * (z @ c.mT))
        want = freedom(z @ A.mT + torch.tanh(z @ C.mT), torch.stack(changes))
        assert found.each.tolist() == pytest.approx(want.each.tolist(), abs=1e-10)

    @pytest.mark.parametrize("dim", [2, 4, 16])
    def test_a_network_reads_the_same_again_and_other_directions_another_number(self, dim):
        network = OneStep(Denoiser(dim, 16, 1, torch.Generator().manual_seed(0), sigma_data=2.0), 2.5)
        nn.init.normal_(network.net.outward, generator=torch.Generator().manual_seed(3))
        z, law = normals(128, dim, seed=4), random(dim)
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        once, again = (available(network, z, law, 3, size=16) for _ in range(2))
        assert once[:8] == again[:8]
        assert once.each.tolist() == again.each.tolist()
        # Without waves, only the directions are drawn.
        one, other = (available(network, z, None, 3, seed, size=0) for seed in (0, 1))
        assert abs(one.fraction - other.fraction) > 1e-4
        assert 0 < once.fraction < 1 + 2 * once.error
        for name, p in network.named_parameters():
            assert torch.equal(p, before[name])

    @pytest.mark.parametrize("index", [0, 2])
    def test_a_pack_is_read_by_its_member(self, index):
        members = [Bend(2, seed=10 * i) for i in range(3)]
        z = normals(100, 2)
        found = available(Pack.of(members), z, directions=2, index=index, size=4)
        assert found.fraction == pytest.approx(available(members[index], z, directions=2, size=4).fraction, abs=1e-10)

    @pytest.mark.parametrize("kind", ["one step", "residual of one teacher", "residual of a teacher each"])
    def test_a_network_is_the_same_function_of_its_parameters(self, kind):
        denoisers = [Denoiser(2, 8, 1, torch.Generator().manual_seed(i), sigma_data=2.0) for i in range(2)]
        modules = [OneStep(d, 2.5) if kind == "one step" else Correction(d, 2.5) for d in denoisers]
        for module in modules:
            nn.init.normal_(module.net.outward, generator=torch.Generator().manual_seed(3))
        pack = Pack.of(modules)
        if kind != "one step":
            laws = [ring(2, modes=3), ring(2, modes=3, radius=1.0)]
            teachers = laws[0] if kind.endswith("one teacher") else type(laws[0]).stack(laws)
            pack = ExactResidual(modules[0], pack.parameters, teachers=teachers.to(torch.float32))
        z = normals(50, 2)
        call, parameters = parametrised(pack, 1)
        torch.testing.assert_close(call(parameters, z), pack.member(1)(z.float()).double(), rtol=1e-5, atol=1e-5)
        assert 0 < available(pack, z, directions=2, index=1, size=4).fraction < 1


class TestUsedAndNet:
    @pytest.mark.parametrize(("dim", "n"), [(2, 400), (16, 800)])
    def test_a_small_turn_is_freedom_and_growth_is_none(self, dim, n):
        A, z = normals(dim, dim), normals(n, dim, seed=1)
        turn = torch.linalg.matrix_exp(1e-3 * antisymmetric(dim))
        turned = used(z @ A.mT, z @ (A @ turn).mT, size=0)
        assert abs(turned.fraction - 1) < 4 * turned.error + 1e-3
        assert used(z @ A.mT, 1.01 * z @ A.mT + 0.1, size=0).fraction == pytest.approx(0, abs=1e-10)

    @pytest.mark.parametrize("dim", [2, 16])
    def test_a_step_of_a_linear_student_is_read_as_in_closed_form(self, dim):
        A, B, z = normals(dim, dim), normals(dim, dim, seed=1), normals(4000, dim, seed=2)
        found = used(z @ A.mT, z @ (A + B).mT, size=0)
        assert abs(found.fraction - linear_freedom(A, B).item()) < 4 * found.error < 0.1

    @pytest.mark.parametrize("dim", [2, 16])
    def test_the_net_change_is_split_halfway(self, dim):
        A, B, z = normals(dim, dim), normals(dim, dim, seed=1), normals(4000, dim, seed=2)
        found = net(z @ A.mT, z @ B.mT, size=0)
        want = linear_net(A, B).freedom.item()
        assert abs(found.fraction - want) < 4 * found.error < 0.1
        assert abs(linear_freedom(A, B - A).item() - want) > 0.02

    def test_a_brenier_map_uses_no_freedom_and_a_turned_one_some(self):
        # From a normal law to a mixture's denoiser, a gradient map; then behind a rotation by 1.5.
        law, z = random(4), normals(1024, 4)
        c, s = math.cos(1.5), math.sin(1.5)
        turn = torch.block_diag(*[torch.tensor([[c, -s], [s, c]], dtype=torch.float64)] * 2)
        kept = net(z, law.denoise(z, 0.5), law)
        turned = net(z, law.denoise(z @ turn.mT, 0.5), law)
        assert kept.fraction < 0.05
        assert turned.fraction > 0.2


def test_bad_uses_are_named():
    with pytest.raises(ValueError, match="directions must be >= 1, got 0"):
        available(Bend(2), normals(20, 2), directions=0)
    for use in (used, net):
        with pytest.raises(ValueError, match="must have one shape"):
            use(normals(20, 2), normals(21, 2))


def test_directions_are_not_the_weights_of_a_student_of_their_seed():
    """A student drawn by the seed that directions are drawn by: along its own weights u = x would be a gradient."""
    weight = normals(4, 4, seed=5)
    found = available(LinearStudent(weight), normals(400, 4, seed=9), directions=1, seed=5)
    assert found.fraction > 0.05


def test_each_use_takes_its_potentials_from_the_points_of_the_split():
    law, generator = random(2), torch.Generator().manual_seed(0)
    before, after = torch.randn(200, 2, generator=generator, dtype=torch.float64), 2 * law.sample(200, generator)
    for use, at in ((used, before), (net, (before + after) / 2)):
        want = freedom(at, after - before, Potentials(law, at, 24, 3), seed=3)
        assert use(before, after, law, 3, 24)[:8] == pytest.approx(want[:8], rel=1e-9)
