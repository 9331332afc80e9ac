"""From cells to what their pack trains with: students at their start, fake score, real score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sandbox.lab.cell import Cell
from sandbox.lab.reference import REFERENCE_SIGMA, generator
from sandbox.lab.teach import network_of, pack_of
from sandbox.student.captured import mapped
from sandbox.student.denoiser import Correction, Denoiser, ExactResidual, OneStep, one_step
from sandbox.student.distill import Recipe
from sandbox.student.fake import ExactFake, FakeScore, LevelFake, NetworkFake
from sandbox.student.initialise import linear_start, with_error
from sandbox.student.networks import Pack
from sandbox.student.optimise import Adam
from sandbox.student.pretrain import ALL_BINS
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform

# Points over which the size of an added error is set.
ERROR_POINTS = 4096


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
    return Prepared(teachers, Pack.of(starts), _fake_of_linear(cells, teachers), None, None, rotations)


def recipe_of(cells: Sequence[Cell]) -> Recipe:
    """The training of a pack of cells."""
    first = cells[0]
    return Recipe(
        steps=first.steps,
        lr=torch.tensor([cell.lr for cell in cells], dtype=torch.float64),
        batch=first.batch,
        normaliser=first.normaliser,
        reduction=first.reduction,
        law=first.law(),
        antithetic=first.antithetic,
        optimiser=first.optimiser,
        beta1=first.beta1 or 0.0,
        beta2=first.beta2 or 0.0,
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
    )


def _fake_of_linear(cells: Sequence[Cell], teachers: GaussianMixture) -> FakeScore:
    first = cells[0]
    if first.fake_score == "exact":
        return ExactFake()
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
    students = _starts(cells, teachers, networks).to(device)
    teachers, networks = teachers.to(device), networks.to(device)
    fake = NetworkFake.of(
        networks,
        Adam(first.fake_lr or 0, first.beta1 or 0.0, 0.999 if first.beta2 is None else first.beta2),
        ALL_BINS,
        first.dim,
        sigma_data=networks.module.sigma_data,
        batch=first.fake_batch or 0,
        updates=first.fake_updates or 0,
        antithetic=first.antithetic,
    )
    # A stream of its own: the length of the warm-up does not change the noise of the training.
    sources = [generator("warm-up", cell.seed, device) for cell in cells]
    fake = fake.warmed(students, sources, first.fake_warmup or 0, on_cuda(device))
    eye = torch.eye(first.dim, dtype=torch.float64)
    return Prepared(
        teachers, students, fake, networks if first.real_score == "network" else None, networks, [eye] * len(cells)
    )


def _starts(cells: Sequence[Cell], teachers: GaussianMixture, networks: Pack) -> Pack:
    first = cells[0]
    if first.start == "residual":
        corrections = [Correction(network_of(cell).untrained(), cell.sigma_init) for cell in cells]
        return ExactResidual(corrections[0], Pack.of(corrections).parameters, teachers.to(torch.float32))
    if first.start == "random":
        return Pack.of([_random_start(cell) for cell in cells])
    students = one_step(networks, first.sigma_init)
    if not any(cell.start_error for cell in cells):
        return students
    corrupted = []
    for i, cell in enumerate(cells):
        student = OneStep(network_of(cell).untrained(), cell.sigma_init)
        student.load_state_dict({name: p[i] for name, p in students.parameters.items()})
        corrupted.append(with_error(student, _error_size(cell), ERROR_POINTS, generator("start error", cell.seed)))
    return Pack.of(corrupted)


def _error_size(cell: Cell) -> float:
    """The error's root mean square per sample: `start_error` times that of the exact start's signal."""
    z = torch.randn(ERROR_POINTS, cell.dim, generator=generator("start signal", cell.dim), dtype=torch.float64)
    exact = cell.mixture().denoise(cell.sigma_init * z, cell.sigma_init)
    return cell.start_error * math.sqrt(exact.var(0).sum().item())


def _random_start(cell: Cell) -> OneStep:
    """A network that has seen no teacher, its output of standard deviation `start_scale` x sigma_data."""
    untrained: Denoiser = network_of(cell).untrained()
    student, draw = OneStep(untrained, cell.sigma_init), generator("start", cell.seed)
    outward = student.net.outward
    with torch.no_grad():
        outward.copy_(cell.start_scale * torch.randn(outward.shape, generator=draw) / math.sqrt(outward.shape[-1]))
    return student
