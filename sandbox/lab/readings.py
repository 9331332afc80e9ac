"""What is read off a pack of students at its checkpoints and at its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sandbox.lab.cell import Cell
from sandbox.lab.reference import REFERENCE_SIGMA, Reference, generator, reference_of, seed_of
from sandbox.lab.students import Prepared, maps_of, recipe_of
from sandbox.measure.fake_curl import denoiser_curl
from sandbox.measure.fake_error import fake_residual
from sandbox.measure.gauge import polar_displacement
from sandbox.measure.law import energy_distance, mode_labels
from sandbox.measure.likelihood import kl_change_of_variables
from sandbox.measure.linear import linear_measurements
from sandbox.measure.linearity import linear_share
from sandbox.measure.pairing import mode_agreement, rescaled
from sandbox.measure.record import JACOBIAN_POINTS, measurements
from sandbox.measure.training_freedom import path_jacobian, training_freedom, used_freedom
from sandbox.measure.trajectory import progress
from sandbox.student.distill import Snapshot
from sandbox.student.fake import NetworkFake
from sandbox.student.growth import Sensitivity, noise_share, sensitivity
from sandbox.student.network_flow import network_jacobian, network_map
from sandbox.student.networks import Pack
from sandbox.student.pretrain import StartError, start_error
from sandbox.teacher.flow import teacher_map

# Points at which a network's progress is read, and of those the ones with a Jacobian.
PROGRESS_POINTS, KL_POINTS = 512, 64
START_POINTS = 4096
GROWTH_POINTS = 16
CURL_POINTS = 16
# Noise levels, over sigma_data, at which the fake score is examined.
FAKE_LEVELS = (0.3, 3.0, 30.0)


class Readings(Protocol):
    """How a pack is measured."""

    def checkpoint(self, snapshot: Snapshot) -> list[dict]:
        """The trajectory's entry of every student at a checkpoint."""
        ...

    def finish(self, cell: Cell, snapshot: Snapshot, i: int) -> dict:
        """Every measure of student i."""
        ...


def readings(cells: Sequence[Cell], prepared: Prepared) -> Readings:
    """What cells of one pack are measured by."""
    if cells[0].measures == "closed":
        return Closed(cells, prepared)
    return Networks(cells, prepared) if cells[0].student == "mlp" else Sampled(cells, prepared)


class Sampled:
    """Linear students at held-out points."""

    def __init__(self, cells: Sequence[Cell], prepared: Prepared):
        self.references: list[Reference] = [reference_of(cell) for cell in cells]
        self.rotations = prepared.rotations

    def checkpoint(self, snapshot: Snapshot) -> list[dict]:
        with torch.no_grad():
            x = snapshot.students(torch.stack([r.z for r in self.references]))
        polar = _polar(snapshot)
        return [
            {"gauge_polar": polar[i].item()} | {k: v.item() for k, v in progress(x[i : i + 1], reference.x).items()}
            for i, reference in enumerate(self.references)
        ]

    def finish(self, cell: Cell, snapshot: Snapshot, i: int) -> dict:
        student, teacher, reference = snapshot.students.member(i), cell.mixture(), self.references[i]
        measures = _measured(cell, student, reference, reference.x, reference.spectrum)
        A = snapshot.students.parameters["weight"][i].detach()
        measures["gauge_polar"] = _polar(snapshot)[i].item()
        measures["covariance_error"] = ((A @ A.mT - teacher.cov).norm() / teacher.cov.norm()).item()
        if cell.start == "rotated":
            measures |= _behind(cell, student, reference, self.rotations[i])
            measures["gauge_polar_rotated"] = polar_displacement(A, self.rotations[i]).item()
        return measures


def _behind(cell: Cell, student: Callable, reference: Reference, rotation: Tensor) -> dict[str, float]:
    """How far a student is from the teacher's map behind the rotation that it started with: what it should have kept,
    if it keeps its start."""
    with torch.no_grad():
        x = student(reference.z)
    behind = teacher_map(cell.mixture(), reference.z @ rotation.mT, REFERENCE_SIGMA)
    return {
        "displacement_rotated": progress(x[None], behind)["displacement"].item(),
        "rotation_trace": torch.diagonal(rotation).mean().item(),
    }


def _measured(cell: Cell, student: Callable, reference: Reference, x: Tensor, spectrum: Tensor) -> dict:
    return measurements(
        student,
        cell.mixture(),
        reference.z,
        REFERENCE_SIGMA,
        seed_of("shuffles", cell.seed) % 2**32,
        x,
        spectrum,
        reference.calibration,
    )


class Closed:
    """Linear students by what follows from their matrices."""

    def __init__(self, cells: Sequence[Cell], prepared: Prepared):
        self.rotations = prepared.rotations
        self.variances = torch.stack([torch.diagonal(cell.mixture().cov) for cell in cells])

    def _of(self, snapshot: Snapshot, members: slice) -> dict[str, Tensor]:
        A = snapshot.students.parameters["weight"][members].detach()
        return linear_measurements(A, self.variances[members], REFERENCE_SIGMA)

    def checkpoint(self, snapshot: Snapshot) -> list[dict]:
        every = self._of(snapshot, slice(None))
        kept = ("gauge_polar", "displacement", "correlation_distance", "scale")
        return [{name: every[name][i].item() for name in kept} for i in range(len(self.variances))]

    def finish(self, cell: Cell, snapshot: Snapshot, i: int) -> dict:
        measures = {name: v[0].item() for name, v in self._of(snapshot, slice(i, i + 1)).items()}
        if cell.start == "rotated":
            A = snapshot.students.parameters["weight"][i].detach()
            measures["gauge_polar_rotated"] = polar_displacement(A, self.rotations[i]).item()
            measures["rotation_trace"] = torch.diagonal(self.rotations[i]).mean().item()
        return measures


def _polar(snapshot: Snapshot) -> Tensor:
    """The polar displacement of each student, NaN for a matrix too close to singular to have a polar factor."""
    found = []
    for A in snapshot.students.parameters["weight"]:
        try:
            found.append(polar_displacement(A))
        except ValueError:
            found.append(torch.tensor(math.nan, dtype=A.dtype))
    return torch.stack(found)


class Networks:
    """Network students: beside the measures of a linear one, how the start stands to the teacher, and what along
    training the loss does not say."""

    def __init__(self, cells: Sequence[Cell], prepared: Prepared):
        self.cells = cells
        self.references: list[Reference] = [reference_of(cell) for cell in cells]
        self.maps = [_own_map(i, cell, prepared, r) for i, (cell, r) in enumerate(zip(cells, self.references))]
        self.labels = [_labels(cell, x) for cell, (x, _) in zip(cells, self.maps, strict=True)]
        self.rotations = prepared.rotations
        starts = self.begun = maps_of(cells, prepared.students)
        self.starts = [_start(cell, starts.member(i)) for i, cell in enumerate(cells)]
        self.growth = [_growth(cell, starts, i) for i, cell in enumerate(cells)]
        self.noise = noise_share(
            prepared.teachers.to(torch.float32),
            prepared.students,
            prepared.fake,
            recipe_of(cells),
            [generator("noise share", cell.seed) for cell in cells],
            prepared.real,
            terms=prepared.terms,
        )

    def checkpoint(self, snapshot: Snapshot) -> list[dict]:
        snapshot = self._mapped(snapshot)
        few = slice(0, PROGRESS_POINTS)
        z = torch.stack([r.z[few] for r in self.references]).float()
        with torch.no_grad():
            every = snapshot.students(z).double()
            # What the averaged weights lag behind; a part of what an interrupted pack goes on from.
            latest = snapshot.students.with_parameters(snapshot.carry().to("cpu").parameters)(z).double()
        fake = _fake_error(self.cells, snapshot, z)
        found: list[dict] = []
        for i, (cell, reference) in enumerate(zip(self.cells, self.references, strict=True)):
            x, (target, _) = every[i], self.maps[i]
            if not torch.isfinite(x).all():
                found.append({})
                continue
            point = {k: v.item() for k, v in progress(x[None], target[few]).items()}
            point["linear_share"] = _share(x, reference.z[few])
            point["energy_distance"] = energy_distance(x, reference.calibration.samples[few])
            point["kl"] = kl_change_of_variables(_member(snapshot, i), cell.mixture(), reference.z[:KL_POINTS])
            point["fake_error"] = fake[i].item()
            if isinstance(snapshot.fake, NetworkFake):
                point["fake_curl"] = _fake_curl(cell, snapshot.fake.networks, i, x)
            point["agreement"] = self._agreement(i, x, target[few])
            point["used_freedom"] = used_freedom(x, latest[i], cell.mixture())
            point |= path_jacobian(_member(snapshot, i), reference.z)
            found.append(point)
        return found

    def _agreement(self, i: int, x: Tensor, target: Tensor) -> float:
        """Cohen's kappa of the modes that the student, centred and brought to the teacher's size, falls into."""
        labels = self.labels[i]
        if labels is None:
            return math.nan
        ours = mode_labels(self.cells[i].mixture(), rescaled(x, target))
        rng = np.random.default_rng(0)
        return mode_agreement(ours, labels[: len(x)], self.cells[i].mixture().modes, rng).value

    def _mapped(self, snapshot: Snapshot) -> Snapshot:
        return replace(snapshot, students=maps_of(self.cells, snapshot.students))

    def finish(self, cell: Cell, snapshot: Snapshot, i: int) -> dict:
        snapshot, reference = self._mapped(snapshot), self.references[i]
        student = _member(snapshot, i)
        measures = _measured(cell, student, reference, *self.maps[i])
        start, between = self.starts[i], max(1, cell.mixture().modes - 1)
        measures |= {
            "start_cosine": start.cosine(),
            "start_cosine_between": start.cosine(between),
            "start_error_ratio": _ratio(start, slice(None)),
            "start_error_ratio_between": _ratio(start, slice(0, between)),
            "start_linear_share": start.linear_share,
            "exact_linear_share": start.exact_linear_share,
            "linear_share": _share(student(reference.z), reference.z),
            "kl": kl_change_of_variables(student, cell.mixture(), reference.z[:KL_POINTS]),
        }
        measures |= training_freedom(self.begun, snapshot.students, i, reference.z, cell.mixture())
        if cell.start == "rotated":
            measures |= _behind(cell, student, reference, self.rotations[i])
        return measures

    def start_record(self, i: int) -> dict:
        """The start of student i by eigenmodes of its teacher, largest variance first."""
        start, growth = self.starts[i], self.growth[i]
        return {name: getattr(start, name).tolist() for name in ("variance", "signal", "error", "offset")} | {
            "size": start.slope.norm(dim=-1).tolist(),
            "cosine": start.mode_cosines().tolist(),
            "gain": growth.gain.tolist(),
            "noise": growth.noise.tolist(),
            "noise_share": self.noise[i].item(),
        }


def _member(snapshot: Snapshot, i: int) -> Callable[[Tensor], Tensor]:
    """Student i as a map of float64 points; its own arithmetic is float32."""
    student = snapshot.students.member(i)
    return lambda z: student(z.float()).double()


def _share(x: Tensor, z: Tensor) -> float:
    try:
        return linear_share(x.detach(), z)
    except ValueError:  # a student that sends every z to one point
        return math.nan


def _ratio(start: StartError, modes: slice) -> float:
    return (start.error[modes].norm() / start.signal[modes].norm()).item()


def _start(cell: Cell, student: Callable[[Tensor], Tensor]) -> StartError:
    """The student's first output beside the exact one-step denoiser's."""
    return start_error(
        lambda x, sigma: student(x / sigma),
        cell.mixture(),
        cell.sigma_init,
        START_POINTS,
        generator("start points", cell.dim),
    )


def _growth(cell: Cell, students: Pack, i: int) -> Sensitivity:
    """Of student i along the leading eigenvectors of its teacher, those between its modes if it has any."""
    teacher = cell.mixture()
    count = max(1, min(cell.dim, teacher.modes - 1))
    leading = torch.linalg.eigh(teacher.cov).eigenvectors.flip(-1)[:, :count]
    z = torch.randn(GROWTH_POINTS, cell.dim, generator=generator("growth points", cell.dim))
    return sensitivity(students, i, leading, z)


def _own_map(i: int, cell: Cell, prepared: Prepared, reference: Reference) -> tuple[Tensor, Tensor]:
    """What student i is compared with, the teacher's or its teacher network's own map, and its Jacobian's spectrum."""
    if cell.reference == "analytic" or prepared.networks is None:
        return reference.x, reference.spectrum
    doubled = prepared.networks.with_parameters({k: p.double() for k, p in prepared.networks.parameters.items()})
    network = doubled.member(i)
    with torch.no_grad():
        jacobian = network_jacobian(network, reference.z[:JACOBIAN_POINTS], REFERENCE_SIGMA)
        return network_map(network, reference.z, REFERENCE_SIGMA), torch.linalg.svdvals(jacobian)


def _labels(cell: Cell, x: Tensor) -> Tensor | None:
    teacher = cell.mixture()
    return mode_labels(teacher, x) if teacher.modes > 1 else None


def _fake_error(cells: Sequence[Cell], snapshot: Snapshot, z: Tensor) -> Tensor:
    """`fake_residual` of each student, mean over levels, (E,)."""
    first = cells[0]
    eps = torch.randn(z.shape[1:], generator=generator("fake error", first.dim)).expand(z.shape)
    total = torch.zeros(len(cells), dtype=torch.float64)
    teachers = [cell.mixture() for cell in cells]
    scale = math.sqrt(torch.diagonal(teachers[0].cov).mean().item())
    with torch.no_grad():
        x = snapshot.students(z)
        for level in FAKE_LEVELS:
            noised = x + level * scale * eps
            sigma = torch.full(z.shape[:2], level * scale)
            fake = snapshot.fake.denoise(snapshot.students, noised, sigma)
            real = torch.stack([t.denoise(y.double(), level * scale) for t, y in zip(teachers, noised, strict=True)])
            for i, target in enumerate(real):
                total[i] += _residual(x[i], fake[i], noised[i].double(), target) / len(FAKE_LEVELS)
    return total


def _fake_curl(cell: Cell, networks: Pack, i: int, x: Tensor) -> float:
    """|J - J^T| / |J| of a network fake score at its student's samples at the middle level: 0 for any exact score.

    One network at a time, in float64: a derivative's rounding would depend on the pack."""
    alone = networks.with_parameters({name: p[i : i + 1].double() for name, p in networks.parameters.items()}).member(0)
    sigma = FAKE_LEVELS[1] * math.sqrt(torch.diagonal(cell.mixture().cov).mean().item())
    eps = torch.randn(CURL_POINTS, cell.dim, generator=generator("fake curl", cell.dim), dtype=torch.float64)
    return denoiser_curl(alone, x[:CURL_POINTS] + sigma * eps, sigma).item()


def _residual(x: Tensor, fake: Tensor, noised: Tensor, real: Tensor) -> float:
    n, d = x.shape
    features = torch.cat([noised, real], -1) if n >= 2 * d + 2 else noised
    try:
        return fake_residual(x, fake, features).item()
    except (ValueError, torch.linalg.LinAlgError):  # a student that is not finite, or collapsed
        return math.nan
