"""Training as a CUDA graph: what it falls back to, and, where there is a device, that it is the eager training."""

import warnings

import pytest
import torch

from sandbox.student.captured import Captured, leaves, mapped
from sandbox.student.denoiser import Denoiser, one_step
from sandbox.student.distill import Recipe, distill
from sandbox.student.fake import NetworkFake
from sandbox.student.networks import Pack
from sandbox.student.optimise import Adam, Moments
from sandbox.student.pretrain import pretrain
from sandbox.teacher.families import random
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins

DIM, STUDENTS, STEPS, LR = 3, 3, 6, 1e-3
needs_a_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available() is false"
)


def denoisers(seeds):
    """Untrained networks with an output."""
    networks = []
    for seed in seeds:
        draw = torch.Generator().manual_seed(seed)
        network = Denoiser(DIM, 8, 1, draw)
        with torch.no_grad():
            network.net.outward.normal_(generator=draw)
        networks.append(network)
    return Pack.of(networks)


def training(device="cpu", carried=None, captured=True, seeds=range(STUDENTS), average=0.5, real=False):
    """A DMD2 training of a few small networks."""
    pack = denoisers(seeds).to(device)
    teachers = GaussianMixture.stack([random(DIM)] * len(pack)).to(device)
    fake = NetworkFake.of(pack, Adam(LR, 0.0), KarrasBins(first=0, last=999), DIM, batch=8, updates=2)
    recipe = Recipe(STEPS, LR, 8, law=KarrasBins(), optimiser="adam", beta1=0.9, decay=0.5, clip=1.0, average=average)
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    return distill(
        teachers,
        one_step(pack),
        recipe,
        generators,
        range(STEPS + 1),
        fake,
        pack if real else None,
        carried,
        captured=captured,
    )


def same(ours, theirs) -> bool:
    pairs = list(zip(leaves(ours), leaves(theirs), strict=True))
    return all(torch.equal(torch.as_tensor(a).cpu().double(), torch.as_tensor(b).cpu().double()) for a, b in pairs)


def close(a, b):
    """To a hundredth of one of Adam's steps, which divides by gradients that may be small."""
    a, b = (torch.as_tensor(v).cpu().double() for v in (a, b))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2 * LR)


def state(snapshot):
    return snapshot.students.parameters, snapshot.fake.learned(), snapshot.diverged_at


def test_a_tree_is_mapped_leaf_by_leaf():
    tree = {"a": (torch.ones(2), None), "m": Moments({"w": torch.zeros(1)}, {}, 3)}
    doubled = mapped(tree, lambda v: v * 2)
    assert isinstance(doubled["m"], Moments)
    assert doubled["m"].steps == 6
    assert doubled["a"][1] is None
    assert torch.equal(doubled["a"][0], 2 * torch.ones(2))
    assert len(leaves(tree)) == 3


def test_without_a_device_training_is_eager_and_says_so():
    with pytest.warns(UserWarning, match="a CUDA graph needs a CUDA device, training goes on eagerly on cpu"):
        graph = list(training())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eager = list(training(captured=False))
    assert all(same(state(a), state(b)) for a, b in zip(graph, eager, strict=True))


@needs_a_gpu
@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize("real", [False, True], ids=["analytic", "network"])
def test_a_graph_is_the_eager_training(average, real):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph = list(training("cuda", average=average, real=real))
    drawn = graph[-1].carry().generators
    eager = list(training("cuda", captured=False, average=average, real=real))
    assert same(drawn, eager[-1].carry().generators)  # both have drawn the same numbers
    for ours, theirs in zip(graph, eager, strict=True):
        for a, b in zip(leaves(state(ours)), leaves(state(theirs)), strict=True):
            close(a, b)
    assert not same(state(graph[0]), state(graph[-1]))  # snapshots are copies, not the memory that training goes on in


@needs_a_gpu
@pytest.mark.parametrize("goes_on", [True, False], ids=["graph", "eager"])
def test_an_interrupted_graph_goes_on(goes_on):
    whole = list(training("cuda"))
    for snapshot in training("cuda"):
        if snapshot.step == 3:
            carried = snapshot.carry().to("cpu").to("cuda")
            break
    rest = list(training("cuda", carried, captured=goes_on))
    assert [s.step for s in rest] == [4, 5, 6]
    for a, b in zip(leaves(state(rest[-1])), leaves(state(whole[-1])), strict=True):
        if goes_on:
            assert same(a, b)
        else:
            close(a, b)


@needs_a_gpu
def test_a_student_is_the_same_in_another_pack():
    together, alone = list(training("cuda"))[-1], list(training("cuda", seeds=[1]))[-1]
    for name, p in alone.students.parameters.items():
        torch.testing.assert_close(p[0], together.students.parameters[name][1], rtol=1e-3, atol=1e-5)


@needs_a_gpu
def test_a_step_that_looks_at_its_numbers_is_eager_and_says_so():
    draw = torch.Generator("cuda").manual_seed(0)

    def advance(place, step, rate):
        noise = torch.randn(1, generator=draw, device="cuda")
        return place + noise if float(place) > -1e9 else place

    graph = Captured(advance, [draw], torch.device("cuda"))
    with pytest.warns(UserWarning, match="the step cannot be a CUDA graph, training goes on eagerly"):
        place = graph(torch.zeros(1, device="cuda"), 0, 1.0)
    expected = torch.randn(1, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    assert torch.equal(place, expected)
    assert torch.isfinite(graph(place, 1, 1.0)).all()


@pytest.mark.parametrize("what", ["warm-up", "pre-training"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_a_gpu)])
def test_what_comes_before_training_too(device, what):
    def run(captured):
        pack = denoisers(range(STUDENTS)).to(device)
        generators = [torch.Generator(device).manual_seed(seed) for seed in range(STUDENTS)]
        if what == "warm-up":
            fake = NetworkFake.of(pack, Adam(LR, 0.0), KarrasBins(first=0, last=999), DIM, batch=8, updates=2)
            warmed = fake.warmed(one_step(pack), generators, 4, captured)
            assert warmed.updates == 2
            return warmed.learned(), generators
        teachers = GaussianMixture.stack([random(DIM)] * STUDENTS).to(device)
        *_, (_, fitted) = pretrain(teachers, pack, 4, generators, LR, batch=8, captured=captured)
        return fitted.parameters, generators

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if device == "cpu" else "error")
        ours, drew = run(True)
    theirs, draws = run(False)
    for a, b in zip(leaves(ours), leaves(theirs), strict=True):
        if device == "cpu":
            assert same(a, b)
        else:
            close(a, b)
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(drew, draws, strict=True))
