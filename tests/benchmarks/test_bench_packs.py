"""Speed of what the project's arrangement rests on. Nothing is asserted about time: the table is the result.

`pytest tests/benchmarks` measures each against its alternative, group by group, and tests that the two agree; with
--benchmark-disable each case runs once. The ordinary suite, which names no folder or another one, skips them.
"""

from pathlib import Path

import pytest
import torch

from sandbox.student.distill import Recipe, distill
from sandbox.student.networks import LinearStudent, Pack
from sandbox.teacher.families import gaussian

STUDENTS, DIM, STEPS = 16, 8, 30
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
