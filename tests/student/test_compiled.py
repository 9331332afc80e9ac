"""Compiled training: the same numbers to rounding, and eager where there is no compiler."""

import shutil
import warnings

import pytest
import torch

from sandbox.student import compiled as module
from sandbox.student.compiled import Compiled
from sandbox.student.denoiser import Denoiser, one_step
from sandbox.student.distill import Recipe, distill
from sandbox.student.fake import NetworkFake
from sandbox.student.networks import Pack
from sandbox.student.optimise import Adam
from sandbox.teacher.families import random
from sandbox.teacher.schedule import KarrasBins

DIM, STUDENTS, BATCH = 3, 2, 8


def trained(compiled, steps=6):
    networks = Pack.of([Denoiser(DIM, 8, 1, torch.Generator().manual_seed(i)) for i in range(STUDENTS)])
    fake = NetworkFake.of(networks, Adam(1e-3, 0.0), KarrasBins(first=0, last=999), DIM, batch=BATCH, updates=2)
    recipe = Recipe(
        steps, torch.tensor([1e-3, 2e-3]), BATCH, law=KarrasBins(), optimiser="adam", decay=0.5, average=0.9, clip=1.0
    )
    generators = [torch.Generator().manual_seed(10 + i) for i in range(STUDENTS)]
    return list(distill(random(DIM), one_step(networks), recipe, generators, None, fake, compiled=compiled))


@pytest.fixture
def no_compiler(monkeypatch):
    def broken(function):
        def compiling(*args):
            raise RuntimeError("no C++ compiler\nand much more")

        return compiling

    monkeypatch.setattr(module.torch, "compile", broken)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler: c++ is not on the path")
@pytest.mark.parametrize("tolerance", [1e-4])
def test_compiled_training_is_eager_training_to_rounding(tolerance):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        fast = trained(True)
    for one, other in zip(fast, trained(False), strict=True):
        assert one.step == other.step
        for name, p in other.students.parameters.items():
            torch.testing.assert_close(one.students.parameters[name], p, rtol=tolerance, atol=tolerance)
        for name, p in other.fake.networks.parameters.items():
            torch.testing.assert_close(one.fake.networks.parameters[name], p, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_one_compilation_serves_all_updates(monkeypatch):
    """Neither the count of updates nor the falling learning rate makes a new function of the step."""
    compilations = []

    def counting(function):
        def backend(graph, inputs):
            compilations.append(function)
            return graph

        return compile_(function, backend=backend)

    compile_ = torch.compile
    monkeypatch.setattr(module.torch, "compile", counting)
    counts = []
    for steps in (4, 40):
        torch.compiler.reset()
        compilations.clear()
        trained(True, steps)
        counts.append(len(compilations))
    assert counts[0] == counts[1] > 0


def test_without_a_compiler_training_is_eager_and_says_so(no_compiler):
    with pytest.warns(UserWarning, match=r"goes on eagerly \(no C\+\+ compiler\)$"):
        fast = trained(True)
    for one, other in zip(fast, trained(False), strict=True):
        for name, p in other.students.parameters.items():
            assert torch.equal(one.students.parameters[name], p)


def test_a_functions_own_error_is_raised(no_compiler):
    def wrong():
        raise ZeroDivisionError("its own")

    with pytest.raises(ZeroDivisionError, match="its own"):
        Compiled(wrong)()


def test_what_is_yielded_is_plain():
    """It is measured at other shapes and by derivatives, which compiled functions would be made for anew."""
    last = trained(True, steps=0)[-1]
    assert last.students.forward is None
    assert last.fake.networks.forward is None
    assert isinstance(last.fake.optimiser, Adam)
