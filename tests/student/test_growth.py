"""What an optimiser of normalised steps can do to a start: against linear students, where it is a closed form."""

import numpy as np
import pytest
import torch

from sandbox.student.distill import Recipe, gradients
from sandbox.student.fake import ExactFake
from sandbox.student.growth import noise_share, sensitivity
from sandbox.student.initialise import linear_start
from sandbox.student.networks import Pack
from sandbox.teacher.families import gaussian


def linear_pack(teacher, count, scale=0.1):
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    return Pack.of([linear_start("random", teacher, 80.0, g, scale)[0] for g in generators])


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_a_linear_students_sensitivity_is_the_norm_of_the_outer_product(dim):
    students = linear_pack(gaussian(dim), 2)
    z = torch.randn(50, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(2)).double()).Q
    found = sensitivity(students, 1, directions, z)
    # d<A z, v>/dA = v z^T.
    ones = directions.abs().sum(0) * z.abs().sum(1).square().mean().sqrt()
    assert found.gain.numpy() == pytest.approx(ones.numpy(), rel=1e-12)
    assert found.noise.numpy() == pytest.approx(np.full(dim, z.square().sum(1).mean().sqrt()), rel=1e-12)


def seeds(count, start=0):
    return [torch.Generator().manual_seed(start + i) for i in range(count)]


@pytest.mark.parametrize(("batch", "tolerance"), [(8, 0.05), (64, 0.05)])
def test_noise_share_is_one_minus_the_squared_mean_over_the_second_moment(batch, tolerance):
    teacher, recipe = gaussian(4), Recipe(steps=1, lr=0.1, batch=batch, normaliser="off")
    students = linear_pack(teacher, 1, scale=0.3)
    drawn = torch.stack(
        [gradients(teacher, students, ExactFake(), None, recipe, g)["weight"] for g in [seeds(1)] for _ in range(1000)]
    ).double()
    moment = drawn.square().mean(0)
    population = (1 - (drawn.mean(0).square() - drawn.var(0) / len(drawn)) / moment).mean().item()
    estimates = [
        noise_share(teacher, students, ExactFake(), recipe, seeds(1, start)).item() for start in range(100, 140)
    ]
    assert np.mean(estimates) == pytest.approx(population, abs=tolerance)


def test_a_larger_batch_has_a_smaller_share_of_noise():
    teacher = gaussian(4)
    students = linear_pack(teacher, 3)
    share = [
        noise_share(teacher, students, ExactFake(), Recipe(steps=1, lr=0.1, batch=batch), seeds(3))
        for batch in (4, 64, 1024)
    ]
    assert (share[0] > share[1]).all()
    assert (share[1] > share[2]).all()


def test_too_few_batches_are_named():
    teacher = gaussian(2)
    with pytest.raises(ValueError, match="batches must be >= 2, got 1"):
        noise_share(teacher, linear_pack(teacher, 1), ExactFake(), Recipe(steps=1, lr=0.1), seeds(1), batches=1)
