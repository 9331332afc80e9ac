"""From cells to what their pack trains with: students at their start, fake score, real score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sandbox.lab.cell import Cell
from sandbox.lab.reference import REFERENCE_SIGMA, generator, stored_noise, teacher_pairs
from sandbox.lab.teach import network_of, pack_of
from sandbox.student.adversarial import AdversarialFake, with_heads
from sandbox.student.captured import mapped
from sandbox.student.denoiser import Correction, Denoiser, ExactResidual, OneStep, one_step
from sandbox.student.distill import Recipe
from sandbox.student.fake import ExactFake, FakeScore, LevelFake, NetworkFake
from sandbox.student.few_step import FewStepPack, at_stored_noise, few_step, few_step_levels
from sandbox.student.fitted import fitted
from sandbox.student.initialise import haar_rotation, linear_start, plane_rotation, rotated, with_error
from sandbox.student.moment_fake import MomentFake
from sandbox.student.networks import Pack
from sandbox.student.no_fake import NoFake
from sandbox.student.objectives import Regression, SiD
from sandbox.student.optimise import Adam
from sandbox.student.pretrain import ALL_BINS
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform

# Points over which the size of an added error is set.
ERROR_POINTS = 4096
# Updates and rate at which a student without a linear path learns to do without it.
FIT_STEPS, FIT_RATE = 1000, 3e-4


@dataclass(frozen=True)
class Prepared:
    """A pack before its first update."""

    teachers: GaussianMixture
    students: Pack
    fake: FakeScore
    real: Pack | None
    """The denoiser networks that stand for the real score; None for the teachers' own."""
    networks: Pack | None
    """The teacher networks."""
    rotations: Sequence[Tensor]
    """What was folded into each student, (d, d)."""
    terms: Sequence[Regression] = ()
    """What is added to the loss."""

    def to(self, device: str) -> Prepared:
        """The same on another device."""
        real, networks = (None if pack is None else pack.to(device) for pack in (self.real, self.networks))
        return Prepared(
            self.teachers.to(device),
            self.students.to(device),
            fake_on(self.fake, device),
            real,
            networks,
            self.rotations,
            [replace(term, z=term.z.to(device), target=term.target.to(device)) for term in self.terms],
        )


def on_cuda(device: str) -> bool:
    """Whether training is to be a CUDA graph."""
    return device.startswith("cuda")


def fake_on(fake: FakeScore, device: str) -> FakeScore:
    """A fake score on another device."""
    return fake.with_learned(mapped(fake.learned(), lambda v: v.to(device) if isinstance(v, Tensor) else v))


def prepare(cells: Sequence[Cell], weights: Sequence[dict] | None = None, device: str = "cpu") -> Prepared:
    """The pack of these cells; weights: of their teacher networks, one each in order, for mlp students.

    device: where network students are; linear ones stay on the CPU."""
    # One teacher per student, also where they are all the same: a shared one rounds differently, and a student's
    # numbers must not depend on which others are in its pack.
    teachers = GaussianMixture.stack([cell.mixture() for cell in cells])
    if cells[0].student == "mlp":
        return _networks(cells, teachers, weights or [], device)
    starts, rotations = zip(*(linear_student(cell) for cell in cells), strict=True)
    students = Pack.of(starts)
    fake = _fake_of_linear(cells, teachers, students)
    return Prepared(teachers, students, fake, None, None, rotations, _terms(cells, torch.float64))


def maps_of(cells: Sequence[Cell], students: Pack) -> Pack:
    """The students as maps of z, (E, n, d) -> (E, n, d): themselves, or at stored noise if they take more than z."""
    if not isinstance(students, FewStepPack):
        return students
    return at_stored_noise(students, stored_noise(cells[0].dim, cells[0].sampling_steps))


def recipe_of(cells: Sequence[Cell]) -> Recipe:
    """The training of a pack of cells."""
    first = cells[0]
    return Recipe(
        steps=first.steps,
        lr=torch.tensor([cell.lr for cell in cells], dtype=torch.float64),
        batch=first.batch,
        normaliser=first.normaliser,
        reduction=first.reduction,
        loss=None if first.loss == "dmd" else SiD(first.sid_alpha or 0.0, first.normaliser, first.reduction),
        parts=first.parts,
        law=first.law(),
        antithetic=first.antithetic,
        optimiser=first.optimiser,
        beta1=first.beta1 or first.momentum,
        beta2=first.beta2 or 0.0,
        weight_decay=first.weight_decay,
        decay=first.decay,
        clip=first.clip or math.inf,
        average=first.average,
    )


def linear_student(cell: Cell) -> tuple[torch.nn.Module, Tensor]:
    """A linear cell's student at its start, and the rotation folded into it."""
    return linear_start(
        cell.start,
        cell.mixture(),
        cell.sigma_init,
        generator("start", cell.seed),
        cell.start_scale,
        bias=cell.student == "affine",
        sigma_max=REFERENCE_SIGMA,
        angle=cell.rotation,
    )


def _terms(cells: Sequence[Cell], dtype: torch.dtype) -> list[Regression]:
    first = cells[0]
    if not first.regression:
        return []
    z, target = zip(*(teacher_pairs(cell, first.pairs) for cell in cells), strict=True)
    stored = torch.stack(z).to(dtype), torch.stack(target).to(dtype)
    return [Regression(*stored, first.regression, first.batch, first.reduction)]


def _fake_without_network(cells: Sequence[Cell], teachers: GaussianMixture, students: Pack) -> MomentFake | NoFake:
    first = cells[0]
    if first.fake_score == "none":
        return NoFake()
    sources = [generator("warm-up", cell.seed) for cell in cells]
    return MomentFake.of(teachers, students, sources, first.fake_batch or 0, first.fake_memory or 0.0)


def _fake_of_linear(cells: Sequence[Cell], teachers: GaussianMixture, students: Pack) -> FakeScore:
    first = cells[0]
    if first.fake_score == "exact":
        return ExactFake()
    if first.fake_score != "levels":
        return _fake_without_network(cells, teachers, students)
    law = first.law()
    assert not isinstance(law, LogUniform)  # the cell has refused it
    return LevelFake.of_teacher(
        teachers,
        len(cells),
        law,
        lr=first.fake_lr,
        batch=first.fake_batch,
        updates=first.fake_updates,
        antithetic=first.antithetic,
    )


def _networks(cells: Sequence[Cell], teachers: GaussianMixture, weights: Sequence[dict], device: str) -> Prepared:
    """As DMD2: student, fake score and, if it is to, real score start at the teacher network.

    The fake score of a student that starts elsewhere starts there too, and learns the student in its warm-up."""
    first = cells[0]
    networks = pack_of([network_of(cell) for cell in cells], weights)
    students, rotations = _starts(cells, teachers, networks)
    fake = _fake_of_networks(cells, teachers, networks, students, device)
    networks = networks.to(device)
    return Prepared(
        teachers.to(device),
        students.to(device),
        fake,
        networks if first.real_score == "network" else None,
        networks,
        rotations,
        [replace(t, z=t.z.to(device), target=t.target.to(device)) for t in _terms(cells, torch.float32)],
    )


def _fake_of_networks(
    cells: Sequence[Cell], teachers: GaussianMixture, networks: Pack, students: Pack, device: str
) -> FakeScore:
    first = cells[0]
    if first.fake_score != "network":
        return fake_on(_fake_without_network(cells, teachers, students), device)
    optimiser = Adam(first.fake_lr or 0, first.beta1 or 0.0, 0.999 if first.beta2 is None else first.beta2)
    settings: dict[str, Any] = {
        "sigma_data": networks.module.sigma_data,
        "batch": first.fake_batch or 0,
        "updates": first.fake_updates or 0,
        "antithetic": first.antithetic,
        "weighting": first.fake_weighting,
    }
    networks, students = networks.to(device), students.to(device)
    fake: NetworkFake
    if first.gan:
        judging = with_heads(networks, [generator("critic", cell.seed) for cell in cells])
        settings |= {"student_weight": first.gan, "critic_weight": first.gan_critic, "r1": first.gan_r1}
        settings["teachers"] = teachers.to(next(iter(networks.parameters.values())))
        fake = AdversarialFake.of(judging, optimiser, ALL_BINS, first.dim, **settings)
    else:
        fake = NetworkFake.of(networks, optimiser, ALL_BINS, first.dim, **settings)
    # A stream of its own: the length of the warm-up does not change the noise of the training.
    sources = [generator("warm-up", cell.seed, device) for cell in cells]
    return fake.warmed(students, sources, first.fake_warmup or 0, on_cuda(device))


def _starts(cells: Sequence[Cell], teachers: GaussianMixture, networks: Pack) -> tuple[Pack, list[Tensor]]:
    """The students, and what was folded into each."""
    first = cells[0]
    rotations = [torch.eye(first.dim, dtype=torch.float64)] * len(cells)
    if first.start == "residual":
        corrections = [Correction(network_of(cell).untrained(), cell.sigma_init) for cell in cells]
        pack = ExactResidual(corrections[0], Pack.of(corrections).parameters, teachers.to(torch.float32))
        return pack, rotations
    if first.start == "random":
        return Pack.of([_random_start(cell) for cell in cells]), rotations
    if first.sampling_steps > 1:
        return few_step(networks, few_step_levels(first.sampling_steps, first.sigma_init)), rotations
    students = one_step(networks, first.sigma_init, first.skip)
    if first.skip == "off":
        # Without its linear path a student is first brought back to where it started with it.
        sources = [generator("without skip", cell.seed) for cell in cells]
        students = fitted(students, one_step(networks, first.sigma_init), sources, FIT_STEPS, FIT_RATE)
    if not any(cell.start_error for cell in cells) and first.start == "teacher":
        return students, rotations
    changed = []
    for i, cell in enumerate(cells):
        student = OneStep(network_of(cell).untrained(), cell.sigma_init, cell.skip)
        student.load_state_dict({name: p[i] for name, p in students.parameters.items()})
        if cell.start == "rotated":
            rotations[i] = _rotation(cell)
            changed.append(rotated(student, rotations[i]))
        else:
            changed.append(with_error(student, _error_size(cell), ERROR_POINTS, generator("start error", cell.seed)))
    return Pack.of(changed), rotations


def _rotation(cell: Cell) -> Tensor:
    draw = generator("start", cell.seed)
    return haar_rotation(cell.dim, draw) if cell.rotation is None else plane_rotation(cell.dim, cell.rotation, draw)


def _error_size(cell: Cell) -> float:
    """The error's root mean square per sample: `start_error` times that of the exact start's signal."""
    z = torch.randn(ERROR_POINTS, cell.dim, generator=generator("start signal", cell.dim), dtype=torch.float64)
    exact = cell.mixture().denoise(cell.sigma_init * z, cell.sigma_init)
    return cell.start_error * math.sqrt(exact.var(0).sum().item())


def _random_start(cell: Cell) -> OneStep:
    """A network that has seen no teacher, its output of standard deviation `start_scale` x sigma_data."""
    untrained: Denoiser = network_of(cell).untrained()
    student, draw = OneStep(untrained, cell.sigma_init, cell.skip), generator("start", cell.seed)
    outward = student.net.outward
    with torch.no_grad():
        outward.copy_(cell.start_scale * torch.randn(outward.shape, generator=draw) / math.sqrt(outward.shape[-1]))
    return student
