"""A pack before its first update: students at the start that their cells say, and the scores that they train with."""

import math

import numpy as np
import pytest
import torch

from sandbox.lab.cell import Cell
from sandbox.lab.reference import generator
from sandbox.lab.students import prepare, recipe_of
from sandbox.lab.teach import network_of, networks_of, pack_of, train_networks
from sandbox.lab.work import train_pack
from sandbox.student.denoiser import OneStep, one_step
from sandbox.student.distill import Recipe, distill
from sandbox.student.fake import ExactFake, LevelFake, NetworkFake
from sandbox.student.initialise import linear_start
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.pretrain import noised_samples
from sandbox.teacher.mixture import GaussianMixture

TINY = {"width": 8, "depth": 1, "teacher_steps": 5, "teacher_batch": 16, "fake_batch": 8, "fake_warmup": 3}
MLP = Cell(teacher="random", dim=2, student="mlp", fake_score="network", sigma_law="karras", optimiser="adam", **TINY)


def weights_of(cells):
    trained = {network: train_networks([network])[0][1] for network in networks_of(cells)}
    return [trained[network_of(cell)] for cell in cells]


def prepared(cells):
    return prepare(cells, weights_of(cells))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestStart:
    @pytest.mark.parametrize("sigma", [5.0, 80.0])
    @pytest.mark.parametrize("dim", [1, 2, 8])
    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_teacher_is_the_network_at_sigma_init(self, dim, sigma, tolerance):
        cells = [MLP.replace(dim=dim, sigma_init=sigma, seed=s) for s in range(3)]
        weights = weights_of(cells)
        start, networks = prepare(cells, weights), pack_of([network_of(c) for c in cells], weights)
        assert same(start.students.parameters, networks.parameters)
        z = normal(3, 100, dim)
        assert torch.equal(start.students(z), one_step(networks, sigma)(z))
        levels = torch.full((3, 100), sigma)
        torch.testing.assert_close(start.students(z), networks(sigma * z, levels), rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("sigma", [1.0, 80.0])
    @pytest.mark.parametrize(
        "fields",
        [{"dim": 1}, {"dim": 2}, {"dim": 8}, {"teacher": "ring", "dim": 3}, {"teacher": "gaussian", "exponent": 1.5}],
        ids=str,
    )
    @pytest.mark.parametrize("relative", [1e-5])
    def test_residual_is_the_closed_form(self, fields, sigma, relative):
        cells = [MLP.replace(start="residual", sigma_init=sigma, seed=s, **fields) for s in range(2)]
        students = prepared(cells).students
        z = normal(2, 500, cells[0].dim)
        for i, cell in enumerate(cells):
            want = cell.mixture().denoise((sigma * z[i]).double(), sigma)
            size = want.square().sum(-1).mean().sqrt().item()
            for got in (students(z)[i], students.member(i)(z[i])):
                torch.testing.assert_close(got.double(), want, rtol=0, atol=relative * size)

    def test_residual_can_be_trained(self):
        """Zero at the start is the last layer alone; what it is to learn from is not zero."""
        parameters = prepared([MLP.replace(start="residual")]).students.parameters
        assert parameters["net.outward"].abs().max() == 0
        assert parameters["net.inward"].abs().min() > 0

    @pytest.mark.parametrize("scale", [0.1, 0.5])
    @pytest.mark.parametrize(
        "fields", [{"dim": 17}, {"dim": 17, "separation": 4.0}, {"dim": 17, "teacher": "gaussian"}], ids=str
    )
    @pytest.mark.parametrize("relative", [0.15])
    def test_random_has_the_size_that_it_says(self, fields, scale, relative):
        cells = [MLP.replace(start="random", start_scale=scale, width=128, seed=s, **fields) for s in range(8)]
        x = prepared(cells).students(normal(8, 2000, 17)).double()
        sigma_data = network_of(cells[0]).sigma_data
        std = x.var(1).mean().sqrt().item()
        assert std == pytest.approx(scale * sigma_data, rel=relative)

    def test_random_follows_its_seed_and_not_the_training_of_a_network(self):
        short, long = (
            prepared([MLP.replace(start="random", teacher_steps=steps, network_seed=0, seed=s) for s in (0, 1)])
            for steps in (0, 5)
        )
        assert same(short.students.parameters, long.students.parameters)
        outward = short.students.parameters["net.outward"]
        assert not torch.equal(outward[0], outward[1])


class TestStartError:
    # Several teachers and levels, as the signal falls with sigma_init and the error with it.
    @pytest.mark.parametrize("fields", [{}, {"sigma_init": 10.0}, {"dim": 8}, {"separation": 3.0}], ids=str)
    @pytest.mark.parametrize("size", [0.3, 2.0])
    @pytest.mark.parametrize(("n", "relative"), [(20000, 0.05)])
    def test_has_the_size_stated_and_no_mean(self, fields, size, n, relative):
        plain = [MLP.replace(**fields, seed=s) for s in range(2)]
        with_error = [plain[0].replace(start_error=size), plain[1]]
        weights = weights_of(plain)
        clean, changed = (prepare(cells, weights).students for cells in (plain, with_error))
        z = normal(n, plain[0].dim, seed=1)
        every = z.expand(2, *z.shape)
        with torch.no_grad():
            error = (changed(every) - clean(every)).double()
        sigma = plain[0].sigma_init
        exact = plain[0].mixture().denoise(sigma * z.double(), sigma)
        signal = exact.var(0).sum().sqrt().item()
        assert error[0].var(0).sum().sqrt().item() == pytest.approx(size * signal, rel=relative)
        assert error[0].mean(0).norm().item() < 4 * size * signal / math.sqrt(n) + relative * size * signal
        # A pack-mate without one is not touched.
        assert error[1].abs().max() == 0
        for name, p in changed.parameters.items():
            assert torch.equal(p[1], clean.parameters[name][1])

    def test_is_a_students_own(self):
        cells = [MLP.replace(start_error=e, seed=s, network_seed=0) for e, s in ((0.5, 0), (0.5, 1), (1.0, 0))]
        weights = weights_of(cells)
        together = prepare(cells, weights).students.parameters["net.outward"]
        for i, cell in enumerate(cells):
            assert torch.equal(prepare([cell], weights[:1]).students.parameters["net.outward"][0], together[i])
        clean = prepare([MLP], weights[:1]).students.parameters["net.outward"][0]
        first, other, twice = (p - clean for p in together)
        assert not torch.equal(first, other)
        torch.testing.assert_close(twice, 2 * first)

    def test_is_in_the_student_and_not_in_what_it_trains_with(self):
        cells = [MLP.replace(start_error=e, fake_warmup=0, real_score="network") for e in (0.0, 0.5)]
        clean, changed = (prepared([cell]) for cell in cells)
        assert not same(clean.students.parameters, changed.students.parameters)
        for name in ("networks", "real"):
            assert same(getattr(clean, name).parameters, getattr(changed, name).parameters)
        assert same(clean.fake.networks.parameters, changed.fake.networks.parameters)


class TestScores:
    @pytest.mark.parametrize("start", ["teacher", "residual", "random"])
    def test_the_fake_score_starts_at_the_network(self, start):
        cells = [MLP.replace(start=start, fake_warmup=0, seed=s) for s in range(2)]
        weights = weights_of(cells)
        fake = prepare(cells, weights).fake
        assert isinstance(fake, NetworkFake)
        assert same(fake.networks.parameters, pack_of([network_of(c) for c in cells], weights).parameters)
        x, sigma = normal(2, 50, 2), normal(2, 50, seed=1).exp()
        assert torch.equal(fake.denoise(None, x, sigma), fake.networks(x, sigma))

    @pytest.mark.parametrize("start", ["teacher", "residual", "random"])
    def test_the_warm_up_moves_the_fake_score_alone(self, start):
        cells = [MLP.replace(start=start, seed=s) for s in range(2)]
        weights = weights_of(cells)
        still, moved = (prepare([c.replace(fake_warmup=n) for c in cells], weights) for n in (0, 3))
        assert same(still.students.parameters, moved.students.parameters)
        assert same(still.networks.parameters, moved.networks.parameters)
        for name, p in moved.fake.networks.parameters.items():
            assert not torch.equal(p, still.fake.networks.parameters[name]), name
        # Its number of updates along the training is the cell's again.
        assert moved.fake.updates == still.fake.updates == cells[0].fake_updates

    @pytest.mark.parametrize(("updates", "factor"), [(300, 2.0)])
    def test_the_warm_up_learns_the_student(self, updates, factor):
        """A student of a tenth of the teacher's size: a fake score that starts at the teacher does not know it."""
        cell = MLP.replace(start="random", width=32, fake_batch=64, fake_lr=1e-2, teacher_steps=200)
        weights, loss = weights_of([cell]), []
        for warmup in (0, updates):
            start = prepare([cell.replace(fake_warmup=warmup)], weights)
            x = start.students(normal(1, 4000, 2)).detach()
            fake = start.fake.denoise(start.students, x + normal(1, 4000, 2, seed=1), torch.ones(1, 4000)).detach()
            loss.append((fake - x).square().mean().item())
        assert loss[1] * factor < loss[0]

    @pytest.mark.parametrize("antithetic", [False, True])
    def test_the_fake_score_has_the_cells_settings(self, antithetic):
        cell = MLP.replace(fake_lr=0.02, fake_batch=6, fake_updates=4, beta1=0.3, beta2=0.8, antithetic=antithetic)
        fake = prepared([cell]).fake
        assert (fake.batch, fake.updates, fake.dim, fake.antithetic) == (6, 4, 2, antithetic)
        assert (fake.optimiser.lr, fake.optimiser.beta1, fake.optimiser.beta2) == (0.02, 0.3, 0.8)
        assert fake.sigma_data == pytest.approx(network_of(cell).sigma_data)

    def test_the_real_score_is_the_networks_or_the_teachers(self):
        cells = [MLP.replace(real_score="network", seed=s) for s in range(2)]
        weights = weights_of(cells)
        start = prepare(cells, weights)
        assert start.real is start.networks
        assert same(start.real.parameters, pack_of([network_of(c) for c in cells], weights).parameters)
        assert prepare([c.replace(real_score="analytic") for c in cells], weights).real is None

    def test_networks_shared_by_seed_are_one(self):
        cells = [MLP.replace(network_seed=4, seed=s) for s in range(3)]
        start = prepared(cells)
        for p in start.networks.parameters.values():
            assert torch.equal(p[0], p[1])
            assert torch.equal(p[0], p[2])
        # The students that start there are told apart by their noise alone.
        for p in start.students.parameters.values():
            assert torch.equal(p[0], p[1])


LINEAR = [
    [Cell(dim=3, seed=s, lr=lr) for s, lr in ((0, 0.02), (1, 0.05))],
    [Cell(dim=3, start="rotated", seed=s) for s in (0, 1)],
    [Cell(teacher="random", dim=2, student="affine", teacher_seed=s, start="random") for s in (0, 1)],
    [Cell(dim=4, start="map", exponent=1.5, optimiser="adam", seed=s) for s in (0, 1)],
    [Cell(dim=3, fake_score="levels", sigma_law="log-grid", fake_updates=2, seed=s) for s in (0, 1)],
]


class TestLinear:
    """As they were before there were networks: written out."""

    @pytest.mark.parametrize("cells", LINEAR, ids=lambda cells: f"{cells[0].start} {cells[0].student}")
    def test_starts_and_scores(self, cells):
        start = prepare(cells)
        assert start.real is start.networks is None
        assert isinstance(start.students.module, LinearStudent)
        assert isinstance(start.fake, LevelFake if cells[0].fake_score == "levels" else ExactFake)
        for i, cell in enumerate(cells):
            student, rotation = _linear(cell)
            assert torch.equal(start.rotations[i], rotation)
            assert same({k: p[i] for k, p in start.students.parameters.items()}, dict(student.named_parameters()))

    @pytest.mark.parametrize("cells", LINEAR, ids=lambda cells: f"{cells[0].start} {cells[0].student}")
    def test_training(self, cells, monkeypatch):
        monkeypatch.setattr("sandbox.lab.work._finish", lambda cell, last, i, *_: last.students.parameters)
        monkeypatch.setattr("sandbox.lab.work.readings", lambda *_: _Blind())
        cells = [cell.replace(steps=20) for cell in cells]
        first, teachers = cells[0], GaussianMixture.stack([cell.mixture() for cell in cells])
        fake = ExactFake()
        if first.fake_score == "levels":
            fake = LevelFake.of_teacher(teachers, 2, first.law(), lr=0.1, batch=64, updates=2)
        *_, last = distill(
            teachers,
            Pack.of([_linear(cell)[0] for cell in cells]),
            Recipe(
                20,
                torch.tensor([cell.lr for cell in cells], dtype=torch.float64),
                law=first.law(),
                optimiser=first.optimiser,
                beta1=first.beta1 or 0.0,
            ),
            [generator("training", cell.seed) for cell in cells],
            fake=fake,
        )
        assert same(train_pack(cells)[0], last.students.parameters)


class _Blind:
    def checkpoint(self, snapshot):
        return [{}] * len(snapshot.students)


def _linear(cell):
    return linear_start(
        cell.start,
        cell.mixture(),
        cell.sigma_init,
        generator("start", cell.seed),
        cell.start_scale,
        bias=cell.student == "affine",
    )


def test_the_recipe_is_the_cells():
    cells = [
        MLP.replace(lr=lr, steps=7, batch=6, antithetic=True, decay=0.3, clip=2.0, average=0.9, beta1=0.5, beta2=0.8)
        for lr in (0.1, 0.2)
    ]
    recipe = recipe_of(cells)
    assert recipe.lr.tolist() == [0.1, 0.2]
    assert (recipe.steps, recipe.batch, recipe.antithetic, recipe.optimiser) == (7, 6, True, "adam")
    assert (recipe.beta1, recipe.beta2) == (0.5, 0.8)
    assert (recipe.decay, recipe.clip, recipe.average) == (0.3, 2.0, 0.9)
    assert recipe.law == cells[0].law()
    # 0 is no limit in a cell, infinity in a recipe.
    assert recipe_of([MLP]).clip == math.inf


def test_preparing_leaves_the_weights_that_it_was_given():
    cells = [MLP.replace(start_error=0.5, seed=s) for s in range(2)]
    weights = weights_of(cells)
    before = [{name: w.copy() for name, w in each.items()} for each in weights]
    students = prepare(cells, weights).students
    assert isinstance(students.module, OneStep)
    for one, other in zip(weights, before, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_samples_of_a_network_are_of_its_teacher():
    """What sigma_data says is what the training noise levels are multiples of."""
    teacher = MLP.replace(separation=3.0).mixture()
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    x = noised_samples(teacher, uniform, normal(20000, 2), 0.0)
    assert network_of(MLP.replace(separation=3.0)).sigma_data == pytest.approx(x.var(0).mean().sqrt().item(), rel=0.02)
