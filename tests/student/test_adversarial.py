"""The adversarial term: its logits, its samples of the teacher, its gradients, and that the critic learns."""

import math

import pytest
import torch
from problems import mixture
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import silu
from torch.utils._python_dispatch import TorchDispatchMode

from sandbox.student.adversarial import AdversarialFake, critic_objective, critic_of, placed, with_heads
from sandbox.student.captured import leaves
from sandbox.student.denoiser import Denoiser, one_step
from sandbox.student.fake import NetworkFake
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.noise import draw_noise
from sandbox.student.optimise import Adam
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.families import gaussian, random
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform

DIM, STUDENTS, BATCH = 3, 3, 7
LAW = LogUniform(0.05, 5.0)
EVERY = range(STUDENTS)


def generators(members=EVERY, seed=0):
    return [torch.Generator().manual_seed(100 * seed + i) for i in members]


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def denoisers(members=EVERY, dim=DIM, width=4, dtype=torch.float64):
    """Untrained networks with an output."""
    networks = []
    for i in members:
        network = Denoiser(dim, width, 1, torch.Generator().manual_seed(i))
        with torch.no_grad():
            network.net.outward.copy_(0.3 * normal(dim, width, seed=50 + i))
        networks.append(network.to(dtype))
    return Pack.of(networks)


def judges(members=EVERY, **options):
    return with_heads(denoisers(members, **options), generators(members, seed=1))


def adversarial(members=EVERY, teachers=None, dtype=torch.float64, dim=DIM, **settings):
    teachers = (random(dim, 2) if teachers is None else teachers).to(dtype)
    settings = {"batch": BATCH, "updates": 1, **settings}
    networks = judges(members, dim=dim, dtype=dtype)
    return AdversarialFake.of(networks, Adam(5e-3), LAW, dim, teachers=teachers, **settings)


def students(members=EVERY, dim=DIM, dtype=torch.float64):
    return one_step(denoisers(members, dim, dtype=dtype), 2.0)


def by_hand(P, x, sigma):
    """A logit from the parameters by name, and the denoiser, of one network with sigma_data = 1 and one block."""

    def unit(h):
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    s = sigma[:, None]
    phase = math.pi / 4 * s.log() / 4 * torch.arange(1, 5)
    e = torch.cat([phase.cos(), phase.sin()], -1)
    h = x / (s**2 + 1).sqrt() @ P["net.inward"].T + P["net.b"]
    W1, V, b, W2 = (P[f"net.blocks.0.{name}"] for name in ("W1", "V", "b", "W2"))
    h = unit(h + silu(unit(h) @ W1.T + e @ V.T + b) @ W2.T)
    D = x / (s**2 + 1) + s / (s**2 + 1).sqrt() * (h @ P["net.outward"].T + P["net.mean"])
    return silu(h @ P["head.W"].T + P["head.b"]) @ P["head.a"][0] + P["head.c"], D


def member(parameters, index):
    return {name: p[index].detach().clone() for name, p in parameters.items()}


class TestCritic:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_by_hand(self, tolerance):
        pack, x, sigma = judges(), normal(STUDENTS, 9, DIM, seed=1), normal(STUDENTS, 9, seed=2).exp()
        logits = critic_of(pack)(x, sigma)
        for e in EVERY:
            want, _ = by_hand(member(pack.parameters, e), x[e], sigma[e])
            torch.testing.assert_close(logits[e], want, rtol=tolerance, atol=tolerance)

    def test_a_head_leaves_the_denoiser_as_it_is(self):
        plain, x, sigma = denoisers(), normal(STUDENTS, 9, DIM, seed=1), normal(STUDENTS, 9, seed=2).exp()
        assert torch.equal(judges()(x, sigma), plain(x, sigma))

    def test_heads_come_from_their_own_generators_alone(self):
        before = torch.random.get_rng_state()
        together, alone = judges().parameters, judges([1]).parameters
        assert torch.equal(torch.random.get_rng_state(), before)
        for name, p in alone.items():
            assert torch.equal(p[0], together[name][1])
        assert not torch.equal(together["head.W"][0], together["head.W"][1])

    @pytest.mark.parametrize("r1", [0.0, 2.0])
    def test_gradients_by_finite_differences(self, r1):
        """Of the network's and the head's parameters; with R1 they are second derivatives."""
        pack = judges(range(2), dim=2, width=3)
        used = [name for name in pack.parameters if name not in ("net.outward", "net.mean")]
        real, fake = normal(2, 2, 4, 2, seed=3)
        sigma = normal(2, 4, seed=4).exp()

        def objective(*values):
            critic = critic_of(pack.with_parameters({**pack.parameters, **dict(zip(used, values, strict=True))}))
            return critic_objective(critic, (real, sigma), (fake, sigma.flip(-1)), r1)

        assert torch.autograd.gradcheck(objective, [pack.parameters[name].clone().requires_grad_() for name in used])


class TestRealSamples:
    @pytest.mark.parametrize("kind", ["isotropic", "diagonal", "low-rank", "full", "atoms"])
    @pytest.mark.parametrize("tolerance", [1e-10])
    def test_are_roots_of_the_covariance_around_the_means(self, kind, tolerance):
        problem = mixture(kind, 4)
        middles = problem.weights.cumsum(0) - problem.weights / 2
        for k, (mean, matrix) in enumerate(zip(problem.means, problem.matrices, strict=True)):
            eye = torch.eye(4, dtype=torch.float64)
            root = placed(problem.law, middles[k].repeat(1, 4), eye[None])[0] - mean
            torch.testing.assert_close(root.mT @ root, matrix, rtol=tolerance, atol=tolerance)

    def test_shares_are_the_weights(self):
        """Also of a mode without weight, and of each student's own law."""
        weights = torch.tensor([[0.25, 0.0, 0.75], [0.5, 0.5, 0.0]], dtype=torch.float64)
        means = torch.arange(3.0).double()[:, None].expand(2, 3, 1)
        teachers = GaussianMixture(weights, means, Isotropic(torch.zeros(2, 3, dtype=torch.float64)))
        uniform = ((torch.arange(8) + 0.5) / 8).double().repeat(2, 1)
        edges = torch.tensor([[0.0, 1 - 2**-24]] * 2).double()
        x = placed(teachers, uniform, torch.zeros(2, 8, 1).double())[..., 0]
        assert x.tolist() == [[0.0] * 2 + [2.0] * 6, [0.0] * 4 + [1.0] * 4]
        assert placed(teachers, edges, torch.zeros(2, 2, 1).double())[..., 0].tolist() == [[0.0, 2.0], [0.0, 1.0]]

    @pytest.mark.parametrize("kind", ["isotropic", "diagonal", "low-rank", "full"])
    @pytest.mark.parametrize("dim", [1, 2, 16])
    @pytest.mark.parametrize("stacked", [False, True])
    def test_a_student_does_not_know_its_pack(self, kind, dim, stacked):
        laws = [mixture(kind, dim, seed=i if stacked else 0).law for i in range(3)]
        white, uniform = normal(3, 7, dim, seed=5, dtype=torch.float32), normal(3, 7, seed=6).sigmoid().float()
        together = placed((GaussianMixture.stack(laws) if stacked else laws[0]).to(white), uniform, white)
        for e, law in enumerate(laws):
            law = GaussianMixture.stack([law]) if stacked else law
            alone = placed(law.to(white), uniform[e : e + 1], white[e : e + 1])
            assert torch.equal(alone[0], together[e])


class TestUpdate:
    @pytest.mark.parametrize("r1", [0.0, 0.5])
    @pytest.mark.parametrize("antithetic", [False, True])
    @pytest.mark.parametrize(("updates", "weight"), [(2, 0.3)])
    def test_is_adams_step_on_the_sum_of_the_losses(self, updates, weight, r1, antithetic):
        """Against logits by hand, torch's optimiser and the same draws, for each member."""
        teacher, pack = random(DIM, 2), students()
        settings = {"updates": updates, "critic_weight": weight, "r1": r1, "batch": 8, "antithetic": antithetic}
        before = adversarial(teachers=teacher, **settings)
        after = before.update(pack, generators()).networks
        for e in EVERY:
            P = {name: p.requires_grad_() for name, p in member(before.networks.parameters, e).items()}
            optimiser, (source,) = torch.optim.Adam(P.values(), 5e-3), generators([e])

            def draw(antithetic=False, source=source):
                return [v[0] for v in draw_noise([source], 8, DIM, antithetic, torch.float64)]

            for _ in range(updates):
                z, eps, uniform = draw(antithetic)
                white, _, label = draw()
                (_, eps_real, level_real), (_, eps_fake, level_fake) = draw(), draw()
                x, sigma = pack.member(e)(z).detach(), LAW.draw(uniform)
                denoised = by_hand(P, x + sigma[:, None] * eps, sigma)[1]
                loss = ((1 / sigma**2 + 1) * (denoised - x).square().mean(-1)).mean()

                real = placed(teacher, label[None], white[None])[0] + LAW.draw(level_real)[:, None] * eps_real
                real.requires_grad_()
                fake = x + LAW.draw(level_fake)[:, None] * eps_fake
                l_real, _ = by_hand(P, real, LAW.draw(level_real))
                l_fake, _ = by_hand(P, fake, LAW.draw(level_fake))
                slope = torch.autograd.grad(l_real.sum(), real, create_graph=True)[0]
                penalty = r1 / 2 * slope.square().sum(-1).mean()
                told = cross_entropy(l_real, torch.ones_like(l_real)) + cross_entropy(l_fake, torch.zeros_like(l_fake))
                optimiser.zero_grad()
                (loss + weight * (told + penalty)).backward()
                optimiser.step()
            for name, p in P.items():
                torch.testing.assert_close(after.parameters[name][e], p.detach(), rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("r1", [0.0, 1.0])
    def test_without_a_critic_one_update_is_the_network_fakes(self, r1):
        """Bitwise, its draws being the first ones."""
        plain = NetworkFake.of(denoisers(), Adam(5e-3), LAW, DIM, batch=BATCH, updates=1)
        want = plain.update(students(), generators()).networks.parameters
        before = adversarial(critic_weight=0.0, r1=r1)
        after = before.update(students(), generators()).networks.parameters
        for name, p in after.items():
            assert torch.equal(p, want[name] if name in want else before.networks.parameters[name])

    @pytest.mark.parametrize("dim", [1, 3])
    @pytest.mark.parametrize("r1", [0.0, 1.0])
    def test_a_student_does_not_know_its_pack(self, dim, r1):
        """Bitwise, in single precision as networks train: three updates and the gradient that a student then sees."""

        def run(members):
            settings = {"dim": dim, "dtype": torch.float32}
            fake = adversarial(members, r1=r1, critic_weight=1.0, updates=3, **settings)
            sources = generators(members)
            after = fake.update(students(members, **settings), sources)
            x = torch.stack([normal(BATCH, dim, seed=30 + i, dtype=torch.float32) for i in members]).requires_grad_()
            (slope,) = torch.autograd.grad(after.student_loss(x, sources).sum(), x)
            return [*after.networks.parameters.values(), slope]

        together = run(EVERY)
        for e in EVERY:
            for alone, all_ in zip(run([e]), together, strict=True):
                assert torch.equal(alone[0], all_[e])

    def test_a_warm_up_is_its_updates_and_learning_goes_on_from_its_state(self):
        pack, sources, others = students(), generators(), generators()
        warmed = adversarial(updates=2, r1=1.0).warmed(pack, sources, 3)
        again = adversarial(updates=1, r1=1.0)
        for _ in range(3):
            again = adversarial(updates=1, r1=1.0).with_learned(again.update(pack, others).learned())
        assert isinstance(warmed, AdversarialFake)
        assert warmed.updates == 2
        for a, b in zip(leaves(warmed.learned()), leaves(again.learned()), strict=True):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))

    @pytest.mark.parametrize("r1", [0.0, 1.0])
    def test_looks_at_no_numbers(self, r1):
        """As a step that is recorded may not."""

        class Blind(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                looks = ("aten._local_scalar_dense", "aten.nonzero", "aten.multinomial", "aten.equal")
                assert not str(function).startswith(looks), f"{function} waits for the device"
                return function(*args, **(kwargs or {}))

        fake, pack, sources = adversarial(r1=r1), students(), generators()
        x = normal(STUDENTS, BATCH, DIM, seed=7).requires_grad_()
        with Blind():
            after = fake.update(pack, sources)
            torch.autograd.grad(after.student_loss(x, sources).sum(), x)
        with pytest.raises(AssertionError, match="waits for the device"), Blind():
            x.sum().item()


class TestStudentLoss:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_the_cross_entropy_of_being_real_at_noised_samples(self, tolerance):
        fake, x = adversarial(student_weight=0.2), normal(STUDENTS, BATCH, DIM, seed=8)
        got = fake.student_loss(x, generators())
        _, eps, uniform = draw_noise(generators(), BATCH, DIM, False, torch.float64)
        for e in EVERY:
            sigma = LAW.draw(uniform[e])
            logits, _ = by_hand(member(fake.networks.parameters, e), x[e] + sigma[:, None] * eps[e], sigma)
            want = 0.2 * cross_entropy(logits, torch.ones(BATCH).double())
            torch.testing.assert_close(got[e], want, rtol=tolerance, atol=0)

    def test_gradient_by_finite_differences(self):
        """Of weight one, at which it is large beside the tolerances."""
        fake, x = adversarial(student_weight=1.0), normal(STUDENTS, BATCH, DIM, seed=9).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: fake.student_loss(x, generators()), x)


@pytest.mark.parametrize(("updates", "right"), [(120, 0.9)])
def test_a_critic_learns_to_tell_and_points_the_student_to_the_real(updates, right):
    """Teacher N(0, I), students N(-4, I/4): shares of points, and the cosine of the mean step, at least `right`."""
    pack = Pack.of([LinearStudent(0.5 * torch.eye(2), torch.full((2,), -4.0)) for _ in range(2)])
    sigma, (z, eps) = torch.full((2, 500), 0.5), normal(2, 2, 500, 2, seed=10, dtype=torch.float32)
    x = pack(z).requires_grad_()

    def readings(fake):
        critic = critic_of(fake.networks)
        real, told = critic(z + 0.5 * eps, sigma) > 0, critic(x + 0.5 * eps, sigma) < 0
        step = -torch.autograd.grad(fake.student_loss(x, generators(range(2))).sum(), x)[0].sum(1)
        towards = torch.nn.functional.cosine_similarity(step, torch.ones(2), dim=-1)
        return torch.stack([real.float().mean(-1), told.float().mean(-1), towards])

    settings = {"teachers": gaussian(2), "dim": 2, "dtype": torch.float32, "batch": 32}
    before = adversarial(range(2), critic_weight=1.0, student_weight=1.0, **settings)
    assert (readings(before).amin(0) < right).all()
    assert (readings(before.warmed(pack, generators(range(2)), updates)) > right).all()


class TestErrors:
    @pytest.mark.parametrize("name", ["critic_weight", "student_weight", "r1"])
    @pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf])
    def test_a_bad_weight_is_named(self, name, value):
        with pytest.raises(ValueError, match=f"{name} must be >= 0, got {value}"):
            adversarial(**{name: value})

    def test_what_it_is_made_of(self):
        settings = {"optimiser": Adam(1e-3), "law": LAW, "dim": DIM}
        with pytest.raises(TypeError, match="networks must have a head, got Denoiser"):
            AdversarialFake.of(denoisers(), **settings, teachers=random(DIM, 2))
        with pytest.raises(ValueError, match=r"networks' precision torch.float64, got torch.float32"):
            AdversarialFake.of(judges(), **settings, teachers=random(DIM, 2).to(torch.float32))
        with pytest.raises(ValueError, match=r"one or one per network \(3\), got 2"):
            AdversarialFake.of(judges(), **settings, teachers=GaussianMixture.stack([random(DIM, 2)] * 2))
        with pytest.raises(TypeError, match="a head goes on denoisers, got LinearStudent"):
            with_heads(Pack.of([LinearStudent(torch.eye(2))]), generators([0]))
        with pytest.raises(ValueError, match=r"one per network \(3\), got 2"):
            with_heads(denoisers(), generators(range(2)))
