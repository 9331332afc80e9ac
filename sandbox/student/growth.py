"""How fast, and how straight, an optimiser that normalises its steps can move a student's output: the inputs of a
copying number for networks, all of them known before the first update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from sandbox.student.distill import Recipe, gradients
from sandbox.student.fake import FakeScore
from sandbox.student.networks import Pack
from sandbox.student.objectives import Term
from sandbox.teacher.mixture import GaussianMixture


@dataclass(frozen=True)
class Sensitivity:
    """Of a student's output <S(z), v> to its parameters, root mean squares over z, each (m,) for m directions v."""

    gain: Tensor
    """|d<S, v>/dtheta|_1: what steps of one size and of agreeing signs move it by, per unit of step."""
    noise: Tensor
    """|d<S, v>/dtheta|_2: what steps of one size and of random signs move it by."""


def sensitivity(students: Pack, index: int, directions: Tensor, z: Tensor) -> Sensitivity:
    """The sensitivity of one student of a pack whose module maps z alone.

    Args:
        directions: v, orthonormal columns, (d, m). z: (n, d).
    """
    parameters = {name: p[index] for name, p in students.parameters.items()}

    def output(theta: dict[str, Tensor], point: Tensor, v: Tensor) -> Tensor:
        return functional_call(students.module, theta, (point[None],))[0] @ v

    first, second = [], []
    for v in directions.to(z).mT:  # one direction at a time: all their gradients would not fit into memory
        each = vmap(grad(output), (None, 0, None))(parameters, z, v)
        norms = [torch.stack([g.flatten(1).abs().sum(1), g.flatten(1).square().sum(1)]) for g in each.values()]
        total = torch.stack(norms).double().sum(0)
        first.append(total[0].square().mean().sqrt())
        second.append(total[1].mean().sqrt())
    return Sensitivity(torch.stack(first), torch.stack(second))


def noise_share(
    teachers: GaussianMixture,
    students: Pack,
    fake: FakeScore,
    recipe: Recipe,
    generators: Sequence[torch.Generator],
    real: Pack | None = None,
    batches: int = 16,
    terms: Sequence[Term] = (),
) -> Tensor:
    """Share of a gradient's second moment that differs from batch to batch, mean over parameters, (E,): 0 for a
    gradient without noise, 1 for one that is noise alone.

    Students and fake score stand still. Arguments as `distill`; generators: advanced.

    Raises ValueError if batches < 2."""
    if batches < 2:
        raise ValueError(f"batches must be >= 2, got {batches}")
    drawn = [gradients(teachers, students, fake, real, recipe, generators, terms) for _ in range(batches)]
    share, count = torch.zeros(len(students), dtype=torch.float64), 0
    for name in drawn[0]:
        g = torch.stack([d[name] for d in drawn]).flatten(2).double()
        moment = g.square().mean(0)
        share += torch.where(moment > 0, g.var(0) / moment.clamp(min=1e-300), 1.0).sum(-1)
        count += g.shape[-1]
    return (share / count).clamp(max=1.0)
