"""The loop's loss: a user's own, taken in parts, and what a fake score and further terms add to it."""

from dataclasses import dataclass, field

import pytest
import torch
from torch.func import functional_call

from sandbox.student.denoiser import Denoiser
from sandbox.student.distill import Recipe, distill, gradients
from sandbox.student.fake import ExactFake, NetworkFake
from sandbox.student.losses import NORMALISERS, REDUCTIONS, WEIGHTINGS
from sandbox.student.networks import LinearStudent, Pack, gradients_of
from sandbox.student.noise import draw_noise
from sandbox.student.objectives import DMD, SiD
from sandbox.student.optimise import SGD
from sandbox.teacher.covariance import Diagonal
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform

DIM, STUDENTS, BATCH = 3, 2, 12


def generators(count=STUDENTS, seed=0):
    return [torch.Generator().manual_seed(1000 * seed + i) for i in range(count)]


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teacher():
    """Two modes, so that the score is not linear."""
    variances = torch.tensor([[1.0, 0.5, 0.2], [0.3, 1.0, 2.0]], dtype=torch.float64)
    return GaussianMixture([0.4, 0.6], normal(2, DIM, seed=1), Diagonal(variances))


def students():
    return Pack.of(
        [LinearStudent(0.5 * normal(DIM, DIM, seed=2 + i), normal(DIM, seed=9 + i)) for i in range(STUDENTS)]
    )


def ends(recipe, **settings):
    *_, last = distill(teacher(), students(), recipe, generators(), **settings)
    return last.students.parameters


def one_gradient(recipe, fake=None, terms=()):
    return gradients(teacher(), students(), fake or ExactFake(), None, recipe, generators(), terms)


def close(got, want, tolerance):
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=tolerance, atol=tolerance)


class TestLoss:
    @pytest.mark.parametrize("antithetic", [False, True])
    @pytest.mark.parametrize("steps", [5])
    def test_of_the_users_own_is_dmd_where_it_says_the_same(self, antithetic, steps):
        """To the last bit; and what the recipe says of the normaliser is then not used."""

        def own(batch):
            with torch.no_grad():
                real, fake = batch.real(batch.noised, batch.sigma), batch.fake(batch.noised, batch.sigma)
                direction = (fake - real) / (batch.x - real).abs().mean(-1, keepdim=True)
            return (batch.x * direction).sum(-1).mean(-1)

        settings = {"steps": steps, "lr": 0.05, "batch": BATCH, "antithetic": antithetic}
        want = ends(Recipe(**settings))
        for recipe in (Recipe(**settings, loss=own), Recipe(**settings, normaliser="off", loss=own)):
            for name, got in ends(recipe).items():
                assert torch.equal(got, want[name])
        assert not torch.equal(ends(Recipe(**settings, normaliser="off"))["weight"], want["weight"])

    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_is_dmd_of_the_recipe_by_default(self, normaliser, reduction):
        recipe = Recipe(3, 0.05, BATCH, normaliser, reduction)
        assert recipe.objective == DMD(normaliser, reduction)
        want = ends(Recipe(3, 0.05, BATCH, loss=DMD(normaliser, reduction)))
        for name, got in ends(recipe).items():
            assert torch.equal(got, want[name])

    def test_sees_the_minibatch(self):
        """x = G(z), noised = x + sigma eps, by the numbers that the generators hold."""
        seen = []

        def own(batch):
            seen.append(batch)
            return batch.x.square().sum((-2, -1))

        one_gradient(Recipe(1, 0.1, BATCH, loss=own))
        (batch,) = seen
        z, eps, uniform = draw_noise(generators(), BATCH, DIM, False, torch.float64)
        sigma = LogUniform().draw(uniform)
        assert torch.equal(batch.z, z)
        assert torch.equal(batch.sigma, sigma)
        x = students()(z)
        torch.testing.assert_close(batch.x, x, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(batch.noised, x + sigma[..., None] * eps, rtol=1e-14, atol=1e-14)
        torch.testing.assert_close(batch.real(x, sigma), teacher().denoise(x, sigma), rtol=1e-14, atol=1e-14)
        law = students().law()
        torch.testing.assert_close(batch.fake(x, sigma), law.denoise(x, sigma), rtol=1e-14, atol=1e-14)

    @pytest.mark.parametrize(("steps", "tolerance"), [(300, 0.1)])
    def test_sid_brings_students_to_a_gaussian_teacher(self, steps, tolerance):
        variances = torch.tensor([1.0, 0.5, 0.2], dtype=torch.float64)
        law = GaussianMixture([1.0], torch.zeros(1, DIM).double(), Diagonal(variances[None]))
        starts = Pack.of([LinearStudent(torch.eye(DIM).double() / 3)] * STUDENTS)
        recipe = Recipe(steps, 0.05, 64, loss=SiD(), decay=0.5)
        *_, last = distill(law, starts, recipe, generators())
        A = last.students.parameters["weight"]
        assert ((A @ A.mT - variances.diag()).norm(dim=(1, 2)) < tolerance).all()


class TestParts:
    @pytest.mark.parametrize("antithetic", [False, True])
    @pytest.mark.parametrize("loss", [None, DMD("off", "mean"), SiD()], ids=["dmd", "mean", "sid"])
    @pytest.mark.parametrize(("parts", "tolerance"), [(2, 1e-12), (3, 1e-12), (4, 1e-12), (BATCH, 1e-12)])
    def test_change_rounding_only(self, parts, tolerance, loss, antithetic):
        """Also where parts cut between +eps and -eps of one z."""
        settings = {"steps": 1, "lr": 0.1, "batch": BATCH, "loss": loss, "antithetic": antithetic}
        want = one_gradient(Recipe(**settings))
        assert all(g.abs().max() > 1e-3 for g in want.values())
        close(one_gradient(Recipe(**settings, parts=parts)), want, tolerance)

    def test_are_seen_one_after_another(self):
        sizes = []

        def own(batch):
            sizes.append((batch.z.shape, batch.sigma.shape))
            return batch.x.square().sum(-1).mean(-1)

        one_gradient(Recipe(1, 0.1, BATCH, loss=own, parts=4))
        assert sizes == [((STUDENTS, 3, DIM), (STUDENTS, 3))] * 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "sid"}, "loss must be a function of a minibatch, got 'sid'"),
        ({"parts": 5}, "parts must divide the batch of 12, got 5"),
        ({"parts": 0}, "parts must divide the batch of 12, got 0"),
        ({"parts": 24}, "parts must divide the batch of 12, got 24"),
        ({"parts": 2, "normaliser": "batch"}, "parts must be 1 with the batch's own normaliser, got 2"),
        ({"weight_decay": -1.0}, "weight_decay must be >= 0, got -1.0"),
    ],
)
def test_bad_recipes_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        Recipe(1, 0.1, BATCH, **settings)


@dataclass(frozen=True)
class PullingFake(ExactFake):
    """An exact fake score that adds E <c, x>, c a random number of its own for each student."""

    record: list = field(default_factory=list)

    def student_loss(self, x, generators):
        c = torch.stack([torch.rand((), generator=g) for g in generators]).to(x)
        self.record.append(("fake", c))
        return c * x.sum(-1).mean(-1)


def pushing(name, record):
    """A term |theta|^2 c / 2 with a random c of its own."""

    def term(pack, generators):
        c = torch.stack([torch.rand((), generator=g) for g in generators]).double()
        record.append((name, c))
        return c * sum(p.flatten(1).square().sum(1) for p in pack.parameters.values()) / 2

    return term


class TestTerms:
    def test_are_drawn_after_the_minibatch_in_their_order(self):
        record = []
        terms = [pushing(name, record) for name in ("first", "second")]
        one_gradient(Recipe(1, 0.1, BATCH), PullingFake(record), terms)
        sources = generators()
        draw_noise(sources, BATCH, DIM, False, torch.float64)
        want = [torch.stack([torch.rand((), generator=g) for g in sources]).double() for _ in range(3)]
        assert [name for name, _ in record] == ["fake", "first", "second"]
        for (_, got), c in zip(record, want, strict=True):
            assert torch.equal(got, c)

    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_add_to_the_gradient(self, tolerance):
        record, recipe = [], Recipe(1, 0.1, BATCH)
        plain = one_gradient(recipe)
        got = one_gradient(recipe, PullingFake(record), [pushing(name, record) for name in ("first", "second")])
        (_, c), *others = record
        push = sum(c for _, c in others)
        z, *_ = draw_noise(generators(), BATCH, DIM, False, torch.float64)
        # d/dA E <c 1, A z + b> = c 1 (E z)', d/db = c 1
        mean = z.mean(1)[:, None].expand(-1, DIM, -1)
        start = students().parameters
        weight = plain["weight"] + c[:, None, None] * mean + push[:, None, None] * start["weight"]
        bias = plain["bias"] + c[:, None] + push[:, None] * start["bias"]
        close(got, {"weight": weight, "bias": bias}, tolerance)
        assert (got["weight"] - plain["weight"]).abs().amax((1, 2)).min() > 0.01

    def test_go_through_the_loop(self):
        record = []
        settings = {"fake": PullingFake(record), "terms": [pushing("term", record)]}
        recipe = Recipe(3, 0.05, BATCH)
        got = ends(recipe, **settings)
        assert [name for name, _ in record] == ["fake", "term"] * 3
        assert not torch.equal(got["weight"], ends(recipe)["weight"])


class TestNetworkFake:
    def networks(self):
        networks = [Denoiser(DIM, 8, 1, g).double() for g in generators(seed=5)]
        for network, g in zip(networks, generators(seed=6), strict=True):
            with torch.no_grad():
                network.net.outward.add_(0.3 * torch.randn(network.net.outward.shape, generator=g))
        return Pack.of(networks)

    def fake(self, weighting, **settings):
        return NetworkFake.of(self.networks(), SGD(0.1), LogUniform(), DIM, batch=7, weighting=weighting, **settings)

    def drawn(self):
        z, eps, uniform = draw_noise(generators(), 7, DIM, False, torch.float64)
        return students()(z), eps, LogUniform().draw(uniform)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_by_epsilon_descends_the_error_of_the_predicted_noise(self, tolerance):
        """Network by network, by autograd on eps and not on x."""
        before = self.fake("epsilon", updates=1)
        after = before.update(students(), generators())
        x, eps, sigma = self.drawn()
        for e in range(STUDENTS):
            leaves = {name: p[e].clone().requires_grad_() for name, p in before.networks.parameters.items()}
            noised, level = x[e] + sigma[e, :, None] * eps[e], sigma[e, :, None]
            denoised = functional_call(before.networks.module, leaves, (noised, sigma[e]))
            loss = torch.nn.functional.mse_loss((noised - denoised) / level, eps[e])
            found = torch.autograd.grad(loss, list(leaves.values()))
            assert sum(g.square().sum() for g in found).sqrt() > 0.01
            for (name, leaf), g in zip(leaves.items(), found, strict=True):
                want = leaf.detach() - 0.1 * g
                torch.testing.assert_close(after.networks.parameters[name][e], want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("weighting", WEIGHTINGS)
    @pytest.mark.parametrize("data", [0.5, [0.5, 2.0]])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_minibatch_is_what_an_update_descends(self, weighting, data, tolerance):
        data = data if isinstance(data, float) else torch.tensor(data)
        fake = self.fake(weighting, updates=1, sigma_data=data)
        samples, loss = fake.minibatch(students(), generators())
        x, eps, sigma = self.drawn()
        torch.testing.assert_close(samples, x, rtol=tolerance, atol=tolerance)
        error = (fake.networks(x + sigma[..., None] * eps, sigma) - x).square().mean(-1)
        scale = torch.as_tensor(data).double().reshape(-1, 1)
        weight = 1 / sigma**2 + (1 / scale**2 if weighting == "edm" else 0)
        torch.testing.assert_close(loss(fake.networks), (weight * error).mean(-1), rtol=tolerance, atol=0)
        found, after = gradients_of(fake.networks, loss), fake.update(students(), generators())
        close(
            after.networks.parameters, {k: p - 0.1 * found[k] for k, p in fake.networks.parameters.items()}, tolerance
        )

    def test_a_bad_weighting_is_named(self):
        with pytest.raises(ValueError, match="fake_weighting must be one of edm, epsilon, got 'eps'"):
            self.fake("eps")
