"""Distillation without a fake score."""

import pytest
import torch

from sandbox.student.distill import Recipe, distill
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.no_fake import NoFake
from sandbox.teacher.families import gaussian
from sandbox.teacher.schedule import LogGrid


def test_its_score_is_zero():
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    fake = NoFake().update(None, []).with_learned(NoFake().learned())
    assert torch.equal(fake.denoise(None, x, torch.ones(2, 5)), x)


@pytest.mark.parametrize(("sigma", "lr", "steps", "tolerance"), [(0.5, 0.3, 15, 0.03), (2.0, 0.1, 15, 0.08)])
def test_a_linear_student_collapses_at_the_rate_of_the_real_score(sigma, lr, steps, tolerance):
    """For N(0, 1), x - D_real = sigma^2 / (1 + sigma^2) (x + sigma eps), so that A falls by that share of lr a step.

    But for what a batch leaves of eps z^T, about lr sigma / sqrt(batch) a step in each entry."""
    dim = 2
    start = torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    recipe = Recipe(steps, lr, 20_000, "off", law=LogGrid(sigma, sigma * 1.0001, 2))
    pack, source = Pack.of([LinearStudent(start)]), [torch.Generator().manual_seed(0)]
    (last,) = distill(gaussian(dim), pack, recipe, source, [steps], NoFake())
    want = (1 - lr * sigma**2 / (1 + sigma**2)) ** steps * start
    assert (last.students.parameters["weight"][0] - want).norm() < tolerance * want.norm()
