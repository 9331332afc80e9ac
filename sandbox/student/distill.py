"""Distribution matching distillation of a pack of students: the training loop, and nothing else.

A generator: it yields the pack at checkpoints, so that measuring stays outside the loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sandbox.student.losses import NORMALISERS, REDUCTIONS, dmd_direction, dmd_surrogate
from sandbox.student.networks import Pack
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform, SigmaLaw

# A parameter beyond this is counted as diverged: its square still has to be representable in the student's law.
DIVERGED = 1e8


@dataclass(frozen=True)
class Recipe:
    """What the students of a pack share, and their learning rates.

    Args:
        steps: number of student updates.
        lr: learning rate, a float or one per student (E,).
        batch: samples per update; with `antithetic` both copies of a sample count.
        normaliser: per-sample, batch or off; see `losses.dmd_direction`.
        reduction: sum or mean over coordinates; see `losses.dmd_surrogate`.
        law: distribution of the noise level, drawn once per sample.
        antithetic: use every z with +eps and -eps at the same noise level.
    Raises:
        ValueError: named argument out of range.
    """

    steps: int
    lr: float | Tensor
    batch: int = 64
    normaliser: str = "per-sample"
    reduction: str = "sum"
    law: SigmaLaw = field(default_factory=LogUniform)
    antithetic: bool = False

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps must be >= 0, got {self.steps}")
        if self.batch < 1:
            raise ValueError(f"batch must be >= 1, got {self.batch}")
        if self.antithetic and self.batch % 2:
            raise ValueError(f"batch must be even with antithetic noise, got {self.batch}")
        if not (torch.as_tensor(self.lr) > 0).all():
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if self.normaliser not in NORMALISERS:
            raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}, got {self.normaliser!r}")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}")


@dataclass(frozen=True)
class Snapshot:
    """The pack after `step` updates. A student that diverged stays at its start from then on; its step is recorded."""

    step: int
    students: Pack
    diverged_at: Tensor
    """(E,) the update at which a student stopped being finite, -1 for those that are well."""


def log_spaced(steps: int, per_octave: int = 1) -> tuple[int, ...]:
    """Checkpoints 0, 1, 2, 4, ... and the last step: the pairing is decided early, so the first updates are seen."""
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    marks = {0, steps}
    k = 0
    while round(2 ** (k / per_octave)) < steps:
        marks.add(round(2 ** (k / per_octave)))
        k += 1
    return tuple(sorted(marks))


def draw_noise(
    generators: Sequence[torch.Generator], batch: int, dim: int, antithetic: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """z (E, batch, d), eps (E, batch, d) and uniforms (E, batch), each student from its own generator.

    Advances the generators. One student's numbers depend on its generator alone, not on the pack around it. Numbers are
    drawn in single precision whatever the arithmetic's: that is several times faster, and its steps of 2^-24 in the
    underlying uniforms are far below any batch's own fluctuation."""
    fresh = batch // 2 if antithetic else batch
    normal = torch.empty(len(generators), 2, fresh, dim)
    uniform = torch.empty(len(generators), fresh)
    for i, generator in enumerate(generators):
        torch.randn(2, fresh, dim, generator=generator, out=normal[i])
        torch.rand(fresh, generator=generator, out=uniform[i])
    normal, uniform = normal.to(dtype), uniform.to(dtype)
    z, eps = normal[:, 0], normal[:, 1]
    if antithetic:
        z, eps, uniform = torch.cat([z, z], 1), torch.cat([eps, -eps], 1), torch.cat([uniform, uniform], 1)
    return z, eps, uniform


def distill(
    teachers: GaussianMixture,
    students: Pack,
    recipe: Recipe,
    generators: Sequence[torch.Generator],
    checkpoints: Collection[int] | None = None,
) -> Iterator[Snapshot]:
    """Trains a pack by DMD with the exact fake score and plain gradient descent, yielding it at checkpoints.

        x = G(z),  x_sigma = x + sigma eps,  theta <- theta - lr E[w (D_fake - D_real)(x_sigma) dx/dtheta]

    Args:
        teachers: one GaussianMixture for all students, or one with a pack axis (E, ...).
        students: the pack; not modified.
        recipe: what to do.
        generators: one per student; advanced by the training.
        checkpoints: steps at which to yield, by default `log_spaced(recipe.steps)`; step 0 is the start.
    Raises:
        ValueError: a number of generators, learning rates or teachers that does not match the pack.
        TypeError: students whose law is not known in closed form.
    """
    size = len(students)
    if len(generators) != size:
        raise ValueError(f"generators must be one per student ({size}), got {len(generators)}")
    if len(set(map(id, generators))) != size:
        raise ValueError("generators must be distinct objects, got one shared by several students")
    students.law()
    first = next(iter(students.parameters.values()))
    lr = torch.as_tensor(recipe.lr, dtype=first.dtype)
    if lr.ndim and lr.shape != (size,):
        raise ValueError(f"lr must be a float or have shape ({size},), got {tuple(lr.shape)}")
    lr = lr.expand(size)
    if teachers.means.ndim > 2 and len(teachers.means) != size:
        raise ValueError(f"teachers must be one or one per student ({size}), got {len(teachers.means)}")
    teachers = teachers.to(first.dtype)
    marks = set(log_spaced(recipe.steps) if checkpoints is None else checkpoints)

    start = {name: p.detach().clone() for name, p in students.parameters.items()}
    current = start
    diverged_at = torch.full((size,), -1, dtype=torch.int64)

    for step in range(recipe.steps + 1):
        if step in marks:
            yield Snapshot(step, students.with_parameters(current), diverged_at.clone())
        if step == recipe.steps:
            return
        leaves = {name: p.requires_grad_() for name, p in current.items()}
        gradients = _gradients(teachers, students.with_parameters(leaves), recipe, generators)
        with torch.no_grad():
            current, lost = _descend(leaves, gradients, lr, start, diverged_at >= 0)
        diverged_at[lost] = step + 1


def _gradients(teachers: GaussianMixture, students: Pack, recipe: Recipe, generators) -> dict[str, Tensor]:
    names, leaves = zip(*students.parameters.items(), strict=True)
    z, eps, uniform = draw_noise(generators, recipe.batch, teachers.dim, recipe.antithetic, leaves[0].dtype)
    sigma = recipe.law.draw(uniform)
    x = students(z)
    with torch.no_grad():
        noised = x + sigma[..., None] * eps
        real, fake = teachers.denoise(noised, sigma), students.law().denoise(noised, sigma)
        direction = dmd_direction(x, real, fake, recipe.normaliser)
    loss = dmd_surrogate(x, direction, recipe.reduction)
    return dict(zip(names, torch.autograd.grad(loss.sum(), leaves), strict=True))


def _descend(
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    lr: Tensor,
    start: dict[str, Tensor],
    already_lost: Tensor,
) -> tuple[dict[str, Tensor], Tensor]:
    """One step of gradient descent per student; returns the new parameters and which students were lost in it.

    A lost student is put back to its start, so that its pack-mates' arithmetic goes on undisturbed."""

    def per_student(v: Tensor, like: Tensor) -> Tensor:
        return v.reshape(-1, *[1] * (like.ndim - 1))

    moved = {name: p - per_student(lr, p) * gradients[name] for name, p in parameters.items()}
    well = torch.stack([(p.abs() < DIVERGED).flatten(1).all(1) for p in moved.values()]).all(0)
    keep = well & ~already_lost
    if bool(keep.all()):
        return moved, ~well
    kept = {name: torch.where(per_student(keep, p), p, start[name]) for name, p in moved.items()}
    return kept, ~well & ~already_lost
