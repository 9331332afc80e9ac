"""Few-step students in the loop: the step that they train on, packs of one, and going on where training was left."""

import copy
import math

import pytest
import torch
from torch.func import functional_call

from sandbox.student.denoiser import Denoiser
from sandbox.student.distill import Recipe, distill
from sandbox.student.fake import NetworkFake
from sandbox.student.few_step import few_step, few_step_levels
from sandbox.student.networks import Pack, gradients_of
from sandbox.student.objectives import SiD
from sandbox.student.optimise import Adam
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform

DIM = 2


def generators(members, seed=0):
    return [torch.Generator().manual_seed(1000 * seed + i) for i in members]


def network(seed, dtype=torch.float32):
    """A denoiser away from its start, so that no term of it is zero."""
    source = torch.Generator().manual_seed(seed)
    denoiser = Denoiser(DIM, 8, 1, source)
    with torch.no_grad():
        for p in denoiser.parameters():
            p += 0.3 * torch.randn(p.shape, generator=source)
    return denoiser.to(dtype)


def networks(members, dtype=torch.float32):
    return Pack.of([network(50 + i, dtype) for i in members])


def teacher():
    return GaussianMixture([0.5, 0.5], torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), Isotropic(torch.tensor([0.1, 0.1])))


class TestSamples:
    LEVELS = (80.0, 9.0, 0.5)

    def drawn(self, size, n):
        """z, and the fresh noise and steps as `samples` draws them, (E, n, ..)."""
        sources = generators(range(size), seed=1)
        z = torch.stack([torch.randn(n, DIM, generator=g) for g in generators(range(size), seed=2)]).double()
        fresh = torch.stack([torch.randn(n, 2 * DIM, generator=g) for g in sources]).double()
        stop = torch.stack([torch.randint(3, (n,), generator=g) for g in sources])
        return z, fresh, stop

    @pytest.mark.parametrize(("size", "n", "tolerance"), [(2, 12, 1e-12)])
    def test_gradient_is_of_the_last_step_alone(self, size, n, tolerance):
        """Against the chain written out, student by student, its input to the last step held fixed."""
        pack = few_step(networks(range(size), torch.float64), self.LEVELS)
        z, fresh, stop = self.drawn(size, n)
        assert all(len(set(row.tolist())) == 3 for row in stop), "every step must be trained on"

        def loss(pack):
            return pack.samples(z, generators(range(size), seed=1)).pow(3).sum((-2, -1))

        got = gradients_of(pack, loss)
        whole = gradients_of(pack, lambda pack: pack(torch.cat([z, fresh], -1)).pow(3).sum((-2, -1)))
        for e in range(size):
            denoiser = network(50 + e, torch.float64)
            names, leaves = zip(*denoiser.named_parameters(), strict=True)
            x, total = self.LEVELS[0] * z[e], 0.0
            for j, level in enumerate(self.LEVELS):
                out = denoiser(x.detach(), level)
                total = total + out[stop[e] == j].pow(3).sum()
                if j < 2:
                    x = out + self.LEVELS[j + 1] * fresh[e, :, j * DIM : (j + 1) * DIM]
            for name, want in zip(names, torch.autograd.grad(total, leaves), strict=True):
                found = got[f"denoiser.{name}"][e]
                torch.testing.assert_close(found, want, rtol=tolerance, atol=tolerance * want.abs().max().item())
        assert not torch.allclose(got["denoiser.net.outward"], whole["denoiser.net.outward"])

    @pytest.mark.parametrize(("size", "n", "tolerance"), [(2, 12, 1e-12)])
    def test_is_the_modules_partial(self, size, n, tolerance):
        pack = few_step(networks(range(size), torch.float64), self.LEVELS)
        z, fresh, stop = self.drawn(size, n)
        leaves = {name: p.clone().requires_grad_() for name, p in pack.parameters.items()}
        x = pack.with_parameters(leaves).samples(z, generators(range(size), seed=1))
        found = torch.autograd.grad(x.square().sum(), list(leaves.values()))
        for e in range(size):
            module = copy.deepcopy(pack.module)
            module.load_state_dict({name: p[e] for name, p in pack.parameters.items()})
            alone = module.partial(torch.cat([z[e], fresh[e]], -1), stop[e])
            torch.testing.assert_close(x[e], alone, rtol=tolerance, atol=tolerance)
            want = torch.autograd.grad(alone.square().sum(), list(module.parameters()))
            for g, w in zip(found, want, strict=True):
                torch.testing.assert_close(g[e], w, rtol=tolerance, atol=tolerance * w.abs().max().item())

    @pytest.mark.parametrize(("n", "standard_errors"), [(3000, 4.5)])
    def test_stops_at_every_step_alike(self, n, standard_errors):
        """A step is told by its output: there are as many of each, to the fluctuation of a fair draw."""
        pack = few_step(networks([0], torch.float64), self.LEVELS)
        z, fresh, _ = self.drawn(1, n)
        x = pack.samples(z, generators([0], seed=1))[0]
        noise = torch.cat([z, fresh], -1)[0]
        parameters = {name: p[0] for name, p in pack.parameters.items()}
        outputs = [functional_call(pack.module, parameters, (noise, torch.full((n,), j))) for j in range(3)]
        counts = [torch.isclose(x, out, rtol=1e-9).all(-1).sum().item() for out in outputs]
        assert sum(counts) == n
        for count in counts:
            assert abs(count - n / 3) <= standard_errors * math.sqrt(n * 2 / 9)

    def test_of_one_step_is_the_student(self):
        pack = few_step(networks(range(2)), (80.0,))
        z = torch.stack([torch.randn(5, DIM, generator=g) for g in generators(range(2), seed=2)])
        assert torch.equal(pack.samples(z, generators(range(2))), pack(z))


@pytest.mark.parametrize("loss", [None, SiD()], ids=["dmd", "sid"])
class TestTraining:
    STEPS = 6

    def snapshots(self, members, loss, marks, carried=None):
        start = networks(members)
        fake = NetworkFake.of(start, Adam(1e-3), LogUniform(), DIM, batch=14, updates=2)
        students = few_step(start, few_step_levels(2))
        recipe = Recipe(self.STEPS, 1e-2, 14, loss=loss, optimiser="adam", beta1=0.5, average=0.5)
        return distill(teacher(), students, recipe, generators(members), marks, fake=fake, carried=carried)

    def test_moves_and_stays_finite(self, loss):
        first, last = self.snapshots(range(3), loss, [0, self.STEPS])
        assert (last.diverged_at == -1).all()
        for name, p in last.students.parameters.items():
            assert p.isfinite().all()
            assert not torch.equal(p, first.students.parameters[name]), name
        assert last.students(torch.ones(3, 5, 2 * DIM)).shape == (3, 5, DIM)

    def test_of_a_pack_is_that_of_packs_of_one(self, loss):
        (together,) = self.snapshots(range(3), loss, [self.STEPS])
        for i in range(3):
            (alone,) = self.snapshots([i], loss, [self.STEPS])
            for got, want in ((alone.students, together.students), (alone.fake.networks, together.fake.networks)):
                for name, value in got.parameters.items():
                    assert torch.equal(value[0], want.parameters[name][i]), (name, i)

    @pytest.mark.parametrize("at", [1, 4])
    def test_goes_on_where_it_was_left(self, loss, at):
        left = next(iter(self.snapshots(range(2), loss, [at]))).carry()
        (want,) = self.snapshots(range(2), loss, [self.STEPS])
        (got,) = self.snapshots(range(2), loss, [self.STEPS], left)
        for mine, theirs in ((got.students, want.students), (got.fake.networks, want.fake.networks)):
            for name, value in theirs.parameters.items():
                assert torch.equal(mine.parameters[name], value), name
