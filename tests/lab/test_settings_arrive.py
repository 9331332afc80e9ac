"""What a cell says of its training is what the training does, every number in the loss or the draw that it belongs to:
against losses written out, and trainings of a few updates by hand."""

import inspect
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch
from blind import Blind
from torch.func import functional_call
from torch.nn.functional import softplus

from sandbox.lab import students, work
from sandbox.lab.cell import cell_from
from sandbox.lab.reference import generator, held_out, stored_noise
from sandbox.lab.remeasure import student_of
from sandbox.lab.students import linear_student, maps_of, prepare, recipe_of
from sandbox.lab.teach import network_of, train_networks
from sandbox.student.adversarial import critic_of, placed
from sandbox.student.denoiser import OneStep, one_step
from sandbox.student.distill import distill
from sandbox.student.fake import NetworkFake
from sandbox.student.few_step import few_step_levels
from sandbox.student.fitted import misfit
from sandbox.student.no_fake import NoFake
from sandbox.student.noise import draw_noise
from sandbox.student.objectives import DMD, SiD
from sandbox.teacher.flow import teacher_map
from sandbox.teacher.schedule import KarrasBins

# Settings that could be taken for one another are different numbers, away from their defaults.
LINEAR = {"dim": 3, "exponent": 1.5, "start": "random", "start_scale": 0.4, "lr": 0.05, "batch": 16, "steps": 3}
NETWORK = {
    "teacher": "random",
    "student": "mlp",
    "dim": 3,
    "width": 8,
    "depth": 1,
    "lr": 0.01,
    "batch": 16,
    "steps": 3,
    "teacher_steps": 30,
    "teacher_batch": 32,
}
# By levels in the middle, unlike those of a fake score, which are of all bins.
LEARNED = {
    **NETWORK,
    "fake_score": "network",
    "fake_batch": 12,
    "fake_warmup": 2,
    "sigma_law": "log-grid",
    "sigma_min": 0.5,
    "sigma_max": 5.0,
    "bins": 3,
}
EVERY_BIN = KarrasBins(0.002, 80.0, bins=1000, first=0, last=999)


def pack_of(fields):
    return [cell_from({**fields, "seed": seed}) for seed in (0, 1)]


@lru_cache
def _weights(network):
    return train_networks([network])[0][1]


def weights_of(cells):
    """Of the teacher networks, by key."""
    return {network.key: _weights(network) for network in (network_of(c) for c in cells if c.student == "mlp")}


def prepared(cells):
    return prepare(cells, [_weights(network_of(cell)) for cell in cells])


def sources(seed=3):
    return [torch.Generator().manual_seed(seed + i) for i in (0, 1)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class _Begun(Exception):
    """The training loop was entered."""


@pytest.fixture
def given(monkeypatch):
    """What the training loop is given for a pack of cells, by the names of its arguments."""

    def begin(*arguments, **named):
        bound = inspect.signature(distill).bind(*arguments, **named)
        bound.apply_defaults()
        raise _Begun(SimpleNamespace(**bound.arguments))

    def taken(cells):
        monkeypatch.setattr(work, "readings", Blind)
        monkeypatch.setattr(work, "distill", begin)
        with pytest.raises(_Begun) as begun:
            work.train_pack(cells, networks=weights_of(cells))
        return begun.value.args[0]

    return taken


@pytest.fixture
def trained(monkeypatch):
    """The weights of each student of a pack of cells after its training."""

    def run(cells):
        monkeypatch.setattr(work, "readings", Blind)
        return [arrays for _, arrays in work.train_pack(cells, networks=weights_of(cells))]

    return run


# -- a training by hand ----------------------------------------------------------------------------------------------


def teacher_network(cell):
    """What a network student starts from."""
    network = network_of(cell).untrained()
    network.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in _weights(network_of(cell)).items()})
    return network


def start_of(cell):
    """A student before its first update."""
    if cell.student != "mlp":
        return linear_student(cell)[0]
    return OneStep(teacher_network(cell), cell.sigma_init)


def by_hand(cell, loss):
    """The weights of a student that goes down loss(G, z, x, sigma, x_sigma, D_real, generator) by plain steps."""
    module, source = start_of(cell), generator("training", cell.seed)
    values = {name: p.detach().clone() for name, p in module.named_parameters()}
    dtype = next(iter(values.values())).dtype
    teacher = cell.mixture().to(dtype)
    for _ in range(cell.steps):
        z, eps, uniform = (v[0] for v in draw_noise([source], cell.batch, cell.dim, False, dtype))
        leaves = {name: p.requires_grad_() for name, p in values.items()}

        def G(z, leaves=leaves):
            return functional_call(module, leaves, (z,))

        x, sigma = G(z), cell.law().draw(uniform)
        total = loss(G, z, x, sigma, x + sigma[:, None] * eps, teacher.denoise, source)
        slopes = torch.autograd.grad(total, list(leaves.values()))
        values = {name: p.detach() - cell.lr * g for (name, p), g in zip(leaves.items(), slopes, strict=True)}
    return values


def own_denoiser(G, y, sigma):
    """C (C + sigma^2)^-1 (y - b) + b of the law N(b, C) of a linear student, which stands still."""
    with torch.no_grad():
        b = G(torch.zeros_like(y[:1]))
        A = (G(torch.eye(y.shape[-1], dtype=y.dtype)) - b).mT
        lam, Q = torch.linalg.eigh(A @ A.mT)
    return ((y - b) @ Q * (lam / (lam + sigma[:, None] ** 2))) @ Q.mT + b


def size(x, real, normaliser):
    """1/w, without a gradient."""
    error = (x - real).abs().detach()
    return {"per-sample": error.mean(-1, keepdim=True), "batch": error.mean(), "off": 1.0}[normaliser]


def summed(product, reduction):
    """A sum or a mean over coordinates, and a mean over samples."""
    return product.sum(-1).mean() / (1 if reduction == "sum" else product.shape[-1])


def matching(x, y, real, fake, cell):
    """DMD's loss: no gradient through the direction."""
    return summed(x * ((fake - real) / size(x, real, cell.normaliser)).detach(), cell.reduction)


def agrees(arrays, want, tolerance):
    for name, value in want.items():
        got = torch.from_numpy(arrays[name])
        torch.testing.assert_close(got, value, rtol=tolerance, atol=tolerance)


# -- the adversarial loss --------------------------------------------------------------------------------------------

GAN = {**LEARNED, "gan": 0.02, "gan_critic": 0.05, "gan_r1": 2.0}


class TestGan:
    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_a_students_weight_is_gan(self, given, tolerance):
        """.02 E softplus(-l) at noise levels of all bins."""
        fake, x = given(pack_of(GAN)).fake, normal(2, 16, 3)
        _, eps, uniform = draw_noise(sources(), 16, 3, False, torch.float32)
        sigma = EVERY_BIN.draw(uniform)
        logits = critic_of(fake.networks)(x + sigma[..., None] * eps, sigma)
        want = 0.02 * softplus(-logits).mean(-1)
        torch.testing.assert_close(fake.student_loss(x, sources()), want, rtol=tolerance, atol=0)

    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_the_critics_weight_is_gan_critic_and_its_penalty_gan_r1(self, given, tolerance):
        """Denoising + .05 (E softplus(-l_real) + E softplus(l_fake) + (2 / 2) E |grad l_real|^2), of 12 samples each,
        all at noise levels of all bins."""
        cells = pack_of(GAN)
        got, draws = given(cells), sources()

        def draw():
            return draw_noise(draws, 12, 3, False, torch.float32)

        def noised(x, eps, uniform):
            sigma = EVERY_BIN.draw(uniform)
            return x + sigma[..., None] * eps, sigma

        z, eps, uniform = draw()
        x = got.students(z)
        y, sigma = noised(x, eps, uniform)
        white, _, label = draw()
        teacher, (_, eps_real, u_real), (_, eps_fake, u_fake) = cells[0].mixture().to(torch.float32), draw(), draw()
        y_real, s_real = noised(placed(teacher, label, white), eps_real, u_real)
        y_real.requires_grad_()
        networks = got.fake.networks
        critic, data = critic_of(networks), networks.module.sigma_data
        l_real, l_fake = critic(y_real, s_real), critic(*noised(x, eps_fake, u_fake))
        (slope,) = torch.autograd.grad(l_real.sum(), y_real)
        error = (networks(y, sigma) - x).square().mean(-1)
        told = softplus(-l_real).mean(-1) + softplus(l_fake).mean(-1) + 2.0 / 2 * slope.square().sum(-1).mean(-1)
        want = ((sigma**-2 + data**-2) * error).mean(-1) + 0.05 * told

        _, loss = got.fake.minibatch(got.students, sources())
        torch.testing.assert_close(loss(networks), want, rtol=tolerance, atol=0)

    def test_without_one_the_fake_score_denoises_alone(self, given):
        fake = given(pack_of(LEARNED)).fake
        assert type(fake) is NetworkFake
        assert not hasattr(fake, "student_loss")
        assert fake.law == EVERY_BIN


# -- regression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    ("fields", "tolerance"),
    [(LINEAR, 1e-9), ({**NETWORK, "fake_score": "none"}, 1e-4)],
    ids=["linear", "network"],
)
def test_regression_has_the_cells_weight_batch_and_reduction(trained, fields, reduction, tolerance):
    """Beside distribution matching, .7 E |G(z) - T(z)|^2 / 2 on 16 of 40 stored pairs, drawn after the minibatch."""
    cells = pack_of({**fields, "regression": 0.7, "pairs": 40, "reduction": reduction})
    stored = torch.randn(40, 3, generator=generator("pairs", 3), dtype=torch.float64)
    target = teacher_map(cells[0].mixture(), stored, 80.0)
    for cell, arrays in zip(cells, trained(cells), strict=True):

        def loss(G, z, x, sigma, y, real, source, cell=cell):
            fake = own_denoiser(G, y, sigma) if cell.student == "linear" else y
            rows = torch.randint(40, (16,), generator=source)
            error = G(stored[rows].to(z)) - target[rows].to(z)
            return matching(x, y, real(y, sigma), fake, cell) + 0.7 * summed(error.square() / 2, reduction)

        agrees(arrays, by_hand(cell, loss), tolerance)


# -- the loss and its normaliser -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("normaliser", ["per-sample", "batch", "off"])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.5])
@pytest.mark.parametrize("tolerance", [1e-9])
def test_the_loss_has_the_cells_alpha_normaliser_and_reduction(trained, alpha, normaliser, reduction, tolerance):
    """Alpha None is DMD. SiD's gradient flows through x and the denoisers' argument, not through its normaliser."""
    form = {"normaliser": normaliser, "reduction": reduction}
    cells = pack_of({**LINEAR, **form} | ({} if alpha is None else {"loss": "sid", "sid_alpha": alpha}))
    want = DMD(**form) if alpha is None else SiD(alpha, **form)
    assert recipe_of(cells).objective == want
    for cell, arrays in zip(cells, trained(cells), strict=True):

        def loss(G, z, x, sigma, y, denoise, source, cell=cell):
            real, fake = denoise(y, sigma), own_denoiser(G, y, sigma)
            if alpha is None:
                return matching(x, y, real, fake, cell)
            product = (real - fake) * ((1 - alpha) * (real - fake) + fake - x)
            return summed(product / size(x, real, normaliser), reduction)

        agrees(arrays, by_hand(cell, loss), tolerance)


def test_the_recipes_other_numbers_are_the_cells():
    recipe = recipe_of(pack_of({**LINEAR, "momentum": 0.7, "weight_decay": 0.3, "parts": 4}))
    assert (recipe.optimiser, recipe.beta1, recipe.weight_decay, recipe.parts) == ("sgd", 0.7, 0.3, 4)


# -- a few steps -----------------------------------------------------------------------------------------------------


FEW_STEPS = {**LEARNED, "sampling_steps": 4, "sigma_init": 2.5}
# Karras et al. (2022), eq. 5 with rho = 7 on 2.5 .. 0.002, the last of its five levels left out.
LEVELS = tuple((2.5 ** (1 / 7) + i / 4 * (0.002 ** (1 / 7) - 2.5 ** (1 / 7))) ** 7 for i in range(4))


class TestFewSteps:
    def outputs(self, cell, z, fresh):
        """What each of the steps from the teacher network says, four of (n, d)."""
        network, x, said = teacher_network(cell), LEVELS[0] * z, []
        for j, level in enumerate(LEVELS):
            said.append(network(x, level))
            if j < 3:
                x = said[-1] + LEVELS[j + 1] * fresh[:, 3 * j : 3 * j + 3]
        return torch.stack(said)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_levels_are_those_from_the_cells_sigma_init(self, given, tolerance):
        levels = given(pack_of(FEW_STEPS)).students.module.levels
        assert levels == few_step_levels(4, 2.5)
        assert levels == pytest.approx(LEVELS, rel=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_trains_at_them(self, given, tolerance):
        cells, z, draws = pack_of(FEW_STEPS), normal(2, 40, 3), sources()
        got = given(cells).students.samples(z, sources())
        for e, cell in enumerate(cells):
            fresh = torch.randn(40, 9, generator=draws[e])
            stop = torch.randint(4, (40,), generator=draws[e])
            assert set(stop.tolist()) == {0, 1, 2, 3}, "every step must be looked at"
            want = self.outputs(cell, z[e], fresh)[stop, torch.arange(40)]
            torch.testing.assert_close(got[e], want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_is_measured_and_read_again_at_them(self, given, tolerance):
        """By its last step, with the fresh noise that is stored."""
        cells, z = pack_of(FEW_STEPS), held_out(3)[:20]
        pack = given(cells).students
        maps, fresh = maps_of(cells, pack), stored_noise(3, 4)[:20]
        for e, cell in enumerate(cells):
            arrays = {name: p[e].numpy() for name, p in pack.parameters.items()}
            want = self.outputs(cell, z.float(), fresh.float())[-1]
            torch.testing.assert_close(maps(z.float().expand(2, -1, -1))[e], want, rtol=tolerance, atol=tolerance)
            read = student_of(cell, arrays)(z)
            torch.testing.assert_close(read, want.double(), rtol=tolerance, atol=tolerance)


# -- the real score alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "tolerance"),
    [(LINEAR, 1e-9), ({**LINEAR, "student": "affine"}, 1e-9), (NETWORK, 1e-4)],
    ids=["linear", "affine", "network"],
)
def test_without_a_fake_score_students_climb_the_real_one(trained, given, fields, tolerance):
    """x_sigma - D_real in place of D_fake - D_real, and no number drawn for a fake score."""
    cells = pack_of({**fields, "fake_score": "none"})
    for cell, arrays in zip(cells, trained(cells), strict=True):

        def loss(G, z, x, sigma, y, real, source, cell=cell):
            return matching(x, y, real(y, sigma), y, cell)

        agrees(arrays, by_hand(cell, loss), tolerance)
    fake = given(cells).fake
    assert isinstance(fake, NoFake)
    assert fake.learned() is None


# -- what leads around the network -----------------------------------------------------------------------------------


# Misfits between a start and its teacher network at sigma_init; 1 is that of a constant.


def started(skip, sigma_init):
    """The students, the teacher networks and points."""
    start = prepared(pack_of({**NETWORK, "fake_score": "none", "skip": skip, "sigma_init": sigma_init}))
    assert start.students.module.skip == skip
    return start.students, start.networks, normal(2, 2000, 3, seed=7)


@pytest.mark.parametrize("sigma_init", [2.5, 80.0])
@pytest.mark.parametrize("skip", ["fixed", "trained"])
@pytest.mark.parametrize("bound", [1e-5])
def test_with_a_linear_path_a_student_starts_at_the_network(skip, sigma_init, bound):
    start, networks, z = started(skip, sigma_init)
    want = networks(sigma_init * z, torch.full_like(z[..., 0], sigma_init))
    assert (misfit(start, lambda _: want, z) <= bound).all()


@pytest.mark.parametrize("sigma_init", [2.5, 80.0])
@pytest.mark.parametrize("bound", [1e-5])
def test_skip_off_lacks_that_path_before_its_fit(monkeypatch, sigma_init, bound):
    """sigma_data^2 z / sigma_init, over 1 + (sigma_data / sigma_init)^2."""
    monkeypatch.setattr(students, "FIT_STEPS", 0)
    start, networks, z = started("off", sigma_init)
    data = networks.module.sigma_data
    path = data**2 * z / sigma_init / (1 + (data / sigma_init) ** 2)
    assert (misfit(lambda z: start(z) + path, one_step(networks, sigma_init), z) <= bound).all()


# Measured after 100 updates, the larger of both students: .112 from 2.5 and .035 from 80, where without a fit it is .96
# and .16; half as much again is allowed.
@pytest.mark.parametrize(("sigma_init", "bound"), [(2.5, 0.17), (80.0, 0.053)])
@pytest.mark.parametrize(("steps", "rate"), [(100, 1e-2)])
def test_skip_off_is_brought_back_to_the_network(monkeypatch, sigma_init, bound, steps, rate):
    """By fewer and larger updates than those of a sweep, which take seconds."""
    monkeypatch.setattr(students, "FIT_STEPS", steps)
    monkeypatch.setattr(students, "FIT_RATE", rate)
    start, networks, z = started("off", sigma_init)
    assert (misfit(start, one_step(networks, sigma_init), z) <= bound).all()
