"""Speed of what the project's arrangement rests on. Nothing is asserted about time: the table is the result.

`pytest tests/benchmarks` measures each against its alternative, group by group, and tests that the two agree; with
--benchmark-disable each case runs once. The ordinary suite, which names no folder or another one, skips them.
"""

import functools
from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from sandbox.student.distill import Recipe, distill
from sandbox.student.networks import LinearStudent, Pack
from sandbox.teacher.families import gaussian, random

STUDENTS, DIM, STEPS = 16, 8, 30
N, MODES, WIDE = 1024, 16, 64
ROUNDS = {"rounds": 5, "iterations": 1, "warmup_rounds": 1}


@pytest.fixture(autouse=True)
def asked_for(request):
    here = Path(__file__).parent
    config = request.config
    asked = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    if not any(path == here or here in path.parents for path in asked):
        pytest.skip("a benchmark: run `pytest tests/benchmarks`")


def train(seeds):
    students = [LinearStudent(0.1 * torch.eye(DIM, dtype=torch.float64)) for _ in seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    *_, last = distill(gaussian(DIM), Pack.of(students), Recipe(STEPS, 0.02), generators, (STEPS,))
    return last.students.parameters["weight"]


def in_one_pack():
    return train(range(STUDENTS))


def in_packs_of_one():
    return torch.cat([train([seed]) for seed in range(STUDENTS)])


@pytest.mark.benchmark(group="16 linear students, d = 8, 30 updates")
@pytest.mark.parametrize("arrangement", [in_one_pack, in_packs_of_one], ids=lambda f: f.__name__)
def test_sixteen_students(benchmark, arrangement):
    weights = benchmark.pedantic(arrangement, **ROUNDS)
    assert torch.equal(weights, in_packs_of_one())


@functools.cache
def problem():
    law = random(WIDE, MODES)
    x = law.sample(N, torch.Generator().manual_seed(0)) + 0.5 * torch.randn(
        N, WIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    return law, x


def closed_form():
    law, x = problem()
    return law.score(x, 0.5)


def through_autograd():
    law, x = problem()
    std = (law.covariance.variance + 0.25).sqrt().expand(MODES)[:, None].expand(MODES, WIDE)
    reference = MixtureSameFamily(Categorical(law.weights), Independent(Normal(law.means, std), 1))
    x = x.clone().requires_grad_()
    return torch.autograd.grad(reference.log_prob(x).sum(), x)[0]


@pytest.mark.benchmark(group="mixture score, n = 1024, K = 16, d = 64")
@pytest.mark.parametrize("way", [closed_form, through_autograd], ids=lambda f: f.__name__)
def test_mixture_score(benchmark, way):
    score = benchmark.pedantic(way, **ROUNDS)
    torch.testing.assert_close(score, through_autograd(), rtol=1e-9, atol=1e-9)
