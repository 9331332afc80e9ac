"""Students fitted to a known map, so that students of unlike architecture start at one function.

Without its skip a one-step student lacks about sigma_data^2 z / sigma_init, as much as all that its denoiser says of
the data at a high level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sandbox.student.denoiser import OneStep
from sandbox.student.networks import Pack, gradients_of
from sandbox.student.optimise import Adam, falling

Map = Callable[[Tensor], Tensor]
"""Every student's own map, (E, n, d) -> (E, n, d); a `Pack` is one."""


def fitted(
    students: Pack,
    target: Map,
    generators: Sequence[torch.Generator],
    steps: int = 2000,
    lr: float | Tensor = 1e-3,
    batch: int = 256,
) -> Pack:
    """The students that follow the target as closely as their architecture and so many updates allow.

        min E|G_theta(z) - T(z)|^2 / d,  z ~ N(0, I) drawn afresh

    by Adam, its learning rate falling linearly from the first update on. A student's numbers depend on its own
    generator and target alone.

    Args:
        students: a pack of `OneStep`s; not modified. target: T.
        generators: one per student; advanced.
        steps: updates. lr: learning rate, a float or one per student (E,). batch: points per update.
    Raises:
        ValueError: generators that are not distinct and one per student, steps < 0, or batch < 1.
        TypeError: students that are not `OneStep`s.
    """
    if not isinstance(students.module, OneStep):
        raise TypeError(f"students must be one-step students, got {type(students.module).__name__}")
    if len(generators) != len(students) or len(set(map(id, generators))) != len(students):
        raise ValueError(f"generators must be distinct, one per student ({len(students)}), got {len(generators)}")
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if batch < 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    parameters = {name: p.detach() for name, p in students.parameters.items()}
    first, optimiser = next(iter(parameters.values())), Adam(lr)
    state = optimiser.init(parameters)
    for step in range(steps):
        drawn = [torch.randn(batch, students.module.dim, generator=g, device=g.device) for g in generators]
        z = torch.stack(drawn).to(first)
        with torch.no_grad():
            x = target(z)

        def loss(pack: Pack, z=z, x=x) -> Tensor:
            return (pack(z) - x).square().mean((-1, -2))

        gradients = gradients_of(students.with_parameters(parameters), loss)
        with torch.no_grad():
            parameters, state = optimiser.step(parameters, gradients, state, falling(step, steps, 1.0))
    return students.with_parameters(parameters)


def misfit(students: Map, target: Map, z: Tensor) -> Tensor:
    """sqrt(E|G - T|^2 / E|T - E T|^2) over the points z (E, n, d), (E,) float64: 0 for T itself, 1 for its mean.

    Raises ValueError for fewer than two points."""
    if z.shape[-2] < 2:
        raise ValueError(f"z must hold >= 2 points, got {z.shape[-2]}")
    with torch.no_grad():
        ours, exact = students(z).double(), target(z).double()
    spread = (exact - exact.mean(-2, keepdim=True)).square().sum((-1, -2))
    return ((ours - exact).square().sum((-1, -2)) / spread).sqrt()
