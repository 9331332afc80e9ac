"""Distribution matching distillation of a pack of students: the training loop, and nothing else.

A generator: it yields the pack at checkpoints, so that measuring stays outside the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sandbox.student.captured import Captured, mapped
from sandbox.student.compiled import CompiledOptimiser, compiled_fake, compiled_pack
from sandbox.student.fake import ExactFake, FakeScore, require_linear
from sandbox.student.losses import NORMALISERS, REDUCTIONS
from sandbox.student.networks import Pack, gradients_of
from sandbox.student.noise import draw_noise
from sandbox.student.objectives import DMD, Loss, Minibatch, Term
from sandbox.student.optimise import OPTIMISERS, SGD, Adam, Optimiser, Parameters, State, clipped, falling
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
        loss: what a minibatch is descended by, `objectives.SiD()` or any function of an `objectives.Minibatch` to each
            student's own loss (E,); by default `objectives.DMD` with this normaliser and reduction, which another loss
            does not look at.
        parts: equal parts of a batch whose gradients are taken one after another and averaged, for batches that do not
            fit into memory: the same gradient to rounding, but for what a loss draws beside the minibatch, which is
            drawn anew for every part. The normaliser is then not the batch's.
        law: distribution of the noise level, drawn once per sample.
        antithetic: use every z with +eps and -eps at the same noise level.
        optimiser: sgd or adam. beta1, beta2: adam's; sgd's momentum is beta1. weight_decay: decoupled (AdamW).
        decay: share of the steps, at the end, in which the learning rate falls linearly to zero.
        clip: largest norm of a student's gradient, inf for no limit.
        average: weight of the past in the running average of a student's parameters that is yielded; 0 for none.
    Raises:
        ValueError: named argument out of range.
    """

    steps: int
    lr: float | Tensor
    batch: int = 64
    normaliser: str = "per-sample"
    reduction: str = "sum"
    loss: Loss | None = None
    parts: int = 1
    law: SigmaLaw = field(default_factory=LogUniform)
    antithetic: bool = False
    optimiser: str = "sgd"
    beta1: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.0
    decay: float = 0.0
    clip: float = float("inf")
    average: float = 0.0

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps must be >= 0, got {self.steps}")
        if self.batch < 1:
            raise ValueError(f"batch must be >= 1, got {self.batch}")
        if self.antithetic and self.batch % 2:
            raise ValueError(f"batch must be even with antithetic noise, got {self.batch}")
        if self.normaliser not in NORMALISERS:
            raise ValueError(f"normaliser must be one of {', '.join(NORMALISERS)}, got {self.normaliser!r}")
        if self.reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {self.reduction!r}")
        if self.loss is not None and not callable(self.loss):
            raise ValueError(f"loss must be a function of a minibatch, got {self.loss!r}")
        if self.parts < 1 or self.batch % self.parts:
            raise ValueError(f"parts must divide the batch of {self.batch}, got {self.parts}")
        if self.parts > 1 and getattr(self.objective, "normaliser", None) == "batch":
            raise ValueError(f"parts must be 1 with the batch's own normaliser, got {self.parts}")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser must be one of {', '.join(OPTIMISERS)}, got {self.optimiser!r}")
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {self.decay}")
        if not self.clip > 0:
            raise ValueError(f"clip must be > 0, got {self.clip}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be in [0, 1), got {self.average}")
        self.method(self.lr)

    def method(self, lr: float | Tensor) -> Optimiser:
        """The optimiser with these learning rates; raises ValueError for a rate or a beta out of range."""
        if self.optimiser == "sgd":
            return SGD(lr, self.beta1, self.weight_decay)
        return Adam(lr, self.beta1, self.beta2, weight_decay=self.weight_decay)

    @property
    def objective(self) -> Loss:
        """The loss of a minibatch."""
        return DMD(self.normaliser, self.reduction) if self.loss is None else self.loss

    def rate(self, step: int) -> float:
        """The factor on the learning rate in the update after `step` updates."""
        return falling(step, self.steps, self.decay)


@dataclass(frozen=True)
class Carried:
    """All that training takes from one update to the next: tensors and numbers, in dictionaries and tuples.

    With the recipe and the start, enough to go on from `step` to the same bits as without the interruption."""

    step: int
    parameters: Parameters
    averaged: Parameters
    optimiser: State
    diverged_at: Tensor
    fake: State
    generators: tuple[Tensor, ...]
    """State of each student's generator."""

    def to(self, device: str) -> Carried:
        """The same on another device, but for the states of generators: those of a device's stay on the CPU."""

        def moved(tree):
            return mapped(tree, lambda v: v.to(device) if isinstance(v, Tensor) else v)

        return replace(self, **{f.name: moved(getattr(self, f.name)) for f in fields(self) if f.name != "generators"})


@dataclass(frozen=True)
class Snapshot:
    """The pack after `step` updates. A student that diverged stays at its start from then on; its step is recorded."""

    step: int
    students: Pack
    diverged_at: Tensor
    """(E,) the update at which a student stopped being finite, -1 for those that are well."""
    fake: FakeScore
    carry: Callable[[], Carried]
    """What to go on from, as `distill`'s `carried`; to be called before the next snapshot is asked for."""


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


def _require_dimension(students: Pack, like: Tensor, dim: int) -> None:
    """One line where a product of matrices deep in the first update would speak of batches."""
    size = len(students)
    try:
        with torch.no_grad():
            x = students.samples(like.new_zeros(size, 1, dim), [torch.Generator() for _ in range(size)])
    except RuntimeError as problem:
        raise ValueError(f"students must take noise of the teachers' dimension {dim}: {problem}") from None
    if x.shape != (size, 1, dim):
        raise ValueError(f"students must make samples of the teachers' dimension {dim}, got {x.shape[-1]}")


def distill(
    teachers: GaussianMixture,
    students: Pack,
    recipe: Recipe,
    generators: Sequence[torch.Generator],
    checkpoints: Collection[int] | None = None,
    fake: FakeScore | None = None,
    real: Pack | None = None,
    carried: Carried | None = None,
    compiled: bool = False,
    captured: bool = False,
    terms: Sequence[Term] = (),
) -> Iterator[Snapshot]:
    """Trains a pack by DMD, or another loss, yielding it at checkpoints.

        x = G(z),  x_sigma = x + sigma eps,  theta <- theta - lr E[w (D_fake - D_real)(x_sigma) dx/dtheta]

    before each of which the fake score makes its own updates.

    Args:
        teachers: one GaussianMixture for all students, or one with a pack axis (E, ...).
        students: the pack; not modified.
        recipe: what to do.
        generators: one per student; advanced by the training.
        checkpoints: steps at which to yield, by default `log_spaced(recipe.steps)`; step 0 is the start.
        fake: the fake score at the start, by default the exact one of linear students.
        real: denoiser networks, (E, n, d), (E, n) -> (E, n, d), that stand for the teachers' closed-form score.
        carried: where an earlier training of the same students by the same recipe was left, `snapshot.carry()`: this
            one goes on there and yields from the next checkpoint on. All else as it was given to that one.
        compiled: by torch.compile, for long trainings of networks; equal to rounding, not to the bit. See `compiled`.
        captured: as a CUDA graph, for networks on a CUDA device; see `captured`.
        terms: what is added to the loss, such as `objectives.Regression`; drawn after the minibatch, in this order.
    Raises:
        ValueError: `carried` from another pack or beyond the recipe's steps; a number of generators, learning rates or
            teachers that does not match the pack; students of another dimension than their teachers'.
        TypeError: the exact fake score of students whose law is not known in closed form.
    """
    size = len(students)
    if len(generators) != size:
        raise ValueError(f"generators must be one per student ({size}), got {len(generators)}")
    if len(set(map(id, generators))) != size:
        raise ValueError("generators must be distinct objects, got one shared by several students")
    fake = ExactFake() if fake is None else fake
    if isinstance(fake, ExactFake):
        require_linear(students, "the exact fake score")
    first = next(iter(students.parameters.values()))
    lr = recipe.lr.to(first) if isinstance(recipe.lr, Tensor) else first.new_full((), recipe.lr)
    if lr.ndim and lr.shape != (size,):
        raise ValueError(f"lr must be a float or have shape ({size},), got {tuple(lr.shape)}")
    if teachers.means.ndim > 2 and len(teachers.means) != size:
        raise ValueError(f"teachers must be one or one per student ({size}), got {len(teachers.means)}")
    if real is not None and len(real) != size:
        raise ValueError(f"real must hold one network per student ({size}), got {len(real)}")
    teachers = teachers.to(first)
    _require_dimension(students, first, teachers.dim)
    marks = set(log_spaced(recipe.steps) if checkpoints is None else checkpoints)

    start = {name: p.detach().clone() for name, p in students.parameters.items()}
    current = averaged = start
    optimiser = recipe.method(lr.expand(size))
    state = optimiser.init(start)
    diverged_at = torch.full((size,), -1, dtype=torch.int64, device=first.device)
    begin = 0
    if carried is not None:
        if carried.step > recipe.steps or len(carried.generators) != size:
            raise ValueError(
                f"carried must be of this pack of {size} and at most at step {recipe.steps}, "
                f"got {len(carried.generators)} at step {carried.step}"
            )
        begin, current, averaged = carried.step, carried.parameters, carried.averaged
        state, diverged_at, fake = carried.optimiser, carried.diverged_at, fake.with_learned(carried.fake)
        for generator, drawn in zip(generators, carried.generators, strict=True):
            generator.set_state(drawn)

    plain_students, plain_fake = students, fake  # what is yielded: measured at other shapes, and by derivatives
    if compiled:
        students, fake, optimiser = compiled_pack(students), compiled_fake(fake), CompiledOptimiser.of(optimiser)
        real = None if real is None else compiled_pack(real)

    def advance(place: _Place, step: Any, rate: Any) -> _Place:
        now = students.with_parameters(place.parameters)
        scores = fake.with_learned(place.fake).update(now, generators)
        descent = gradients(teachers, now, scores, real, recipe, generators, terms)
        with torch.no_grad():
            if recipe.clip < float("inf"):
                descent = clipped(descent, recipe.clip)
            moved, state = optimiser.step(place.parameters, descent, place.optimiser, rate)
            parameters, lost = _kept(moved, start, place.diverged_at >= 0)
            averaged = parameters
            if recipe.average:
                averaged = {k: torch.lerp(p, place.averaged[k], recipe.average) for k, p in parameters.items()}
            diverged_at = torch.where(lost, step + 1, place.diverged_at).to(torch.int64)
            return _Place(parameters, averaged, state, diverged_at, scores.learned())

    place = _Place(current, averaged, state, diverged_at, fake.learned())
    graph = Captured(advance, generators, first.device) if captured else None
    for step in range(begin, recipe.steps + 1):
        if step in marks and (carried is None or step > begin):
            seen = place if graph is None else graph.kept(place)

            def carry(step=step, seen=seen):
                return Carried(step, *seen, tuple(generator.get_state() for generator in generators))

            shown = plain_fake.with_learned(seen.fake)
            yield Snapshot(step, plain_students.with_parameters(seen.averaged), seen.diverged_at, shown, carry)
        if step == recipe.steps:
            return
        place = (graph or advance)(place, step, recipe.rate(step))


class _Place(NamedTuple):
    """What training takes from one update to the next, but for the generators."""

    parameters: Parameters
    averaged: Parameters
    optimiser: State
    diverged_at: Tensor
    fake: State


def gradients(
    teachers: GaussianMixture,
    students: Pack,
    fake: FakeScore,
    real: Pack | None,
    recipe: Recipe,
    generators: Sequence[torch.Generator],
    terms: Sequence[Term] = (),
) -> Parameters:
    """The gradients of one minibatch, (E, ...) each; arguments as `distill`. Advances the generators."""
    dtype = next(iter(students.parameters.values())).dtype
    drawn = draw_noise(generators, recipe.batch, teachers.dim, recipe.antithetic, dtype)
    objective, own = recipe.objective, getattr(fake, "student_loss", None)

    def loss(pack: Pack, z: Tensor, eps: Tensor, uniform: Tensor) -> Tensor:
        sigma = recipe.law.draw(uniform)
        x = pack.samples(z, generators)
        batch = Minibatch(
            z,
            x,
            sigma,
            x + sigma[..., None] * eps,
            teachers.denoise if real is None else real,
            lambda noised, level: fake.denoise(pack, noised, level),
        )
        total = objective(batch)
        if own is not None:
            total = total + own(x, generators)
        for term in terms:
            total = total + term(pack, generators)
        return total

    if recipe.parts == 1:
        return gradients_of(students, lambda pack: loss(pack, *drawn))
    total: Parameters = {}
    for part in zip(*(noise.chunk(recipe.parts, 1) for noise in drawn), strict=True):
        found = gradients_of(students, lambda pack, part=part: loss(pack, *part))  # type: ignore[misc]
        total = {k: total[k] + g if total else g for k, g in found.items()}
    return {k: g / recipe.parts for k, g in total.items()}


def _kept(moved: Parameters, start: Parameters, already_lost: Tensor) -> tuple[Parameters, Tensor]:
    """The new parameters, and which students were lost in this step.

    A lost student is put back to its start, so that its pack-mates' arithmetic goes on undisturbed."""
    well = torch.stack([(p.abs() < DIVERGED).flatten(1).all(1) for p in moved.values()]).all(0)
    keep = well & ~already_lost
    # Looking saves a pass over memory, but a device would have to be waited for.
    if keep.is_cpu and bool(keep.all()):
        return moved, ~well
    kept = {k: torch.where(keep.reshape(-1, *[1] * (p.ndim - 1)), p, start[k]) for k, p in moved.items()}
    return kept, ~well & ~already_lost
