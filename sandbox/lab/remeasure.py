"""Finished students read again from their stored weights: a new measure needs no retraining."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sandbox.lab.cell import Cell
from sandbox.lab.options import TEACHER_OPTIONS
from sandbox.lab.readings import readings
from sandbox.lab.reference import HELD_OUT, held_out, seed_of, stored_noise
from sandbox.lab.store import Store, StoreError, write_json
from sandbox.lab.students import prepare
from sandbox.lab.teach import network_of
from sandbox.measure.law import VARIANCE_RATIO
from sandbox.measure.pairs import ENOUGH
from sandbox.measure.record import Extra
from sandbox.student.denoiser import Correction, ExactResidual, OneStep, Preconditioning
from sandbox.student.distill import Carried, Snapshot
from sandbox.student.few_step import StoredNoise, few_step_levels
from sandbox.student.networks import LinearStudent, Pack

# Relative difference that another order of the same sums may make, by a student's own arithmetic: float64 for linear
# ones, float32 for networks.
ROUNDING = {"linear": 1e-9, "affine": 1e-9, "mlp": 1e-5}
# Students of one teacher that a worker is given at once: the teacher's map, the costly part, is worked out once.
TOGETHER = 8
SAY_EVERY_SECONDS = 10.0

Measures = dict[str, float | bool | None]


# -- from weights to a student ---------------------------------------------------------------------------------------


def student_pack(cell: Cell, arrays: Mapping[str, np.ndarray]) -> Pack:
    """The pack of one that a cell and its trained weights stand for.

    Raises ValueError for weights of other names or shapes than the cell's."""
    module = _untrained(cell)
    want = {name: tuple(p.shape) for name, p in module.named_parameters()}
    got = {name: a.shape for name, a in arrays.items() if name != "rotation"}
    if want != got:
        raise ValueError(f"weights of student {cell.key} must be {want}, got {got}")
    parameters = {name: torch.from_numpy(np.array(arrays[name]))[None] for name in want}
    if isinstance(module, Correction):
        return ExactResidual(module, parameters, cell.mixture().to(torch.float32))
    return Pack(module, parameters)


@dataclass(frozen=True)
class Finished:
    """A finished student as a map of float64 points, (n, d) -> (n, d), with its pack of one for measures that look at
    parameters."""

    pack: Pack
    dtype: torch.dtype

    def __call__(self, z: Tensor) -> Tensor:
        return self.pack.member(0)(z.to(self.dtype)).double()


def student_of(cell: Cell, arrays: Mapping[str, np.ndarray]) -> Finished:
    """A finished student; a network's own arithmetic is float32.

    Raises ValueError for weights of other names or shapes than the cell's."""
    return Finished(student_pack(cell, arrays), torch.float32 if cell.student == "mlp" else torch.float64)


def _untrained(cell: Cell) -> LinearStudent | OneStep | Correction | StoredNoise:
    if cell.student == "mlp":
        denoiser = network_of(cell).untrained()
        if cell.sampling_steps > 1:
            levels = few_step_levels(cell.sampling_steps, cell.sigma_init)
            return StoredNoise(denoiser, levels, stored_noise(cell.dim, cell.sampling_steps))
        if cell.start == "residual":
            return Correction(denoiser, cell.sigma_init)
        return OneStep(denoiser, cell.sigma_init, cell.skip)
    zero = torch.zeros(cell.dim, cell.dim, dtype=torch.float64)
    return LinearStudent(zero, zero[0] if cell.student == "affine" else None)


# -- reading one again -----------------------------------------------------------------------------------------------


def extra_named(name: str) -> Extra:
    """A user's own measure, `module:function`.

    Raises ValueError if the name is not of that form, or names nothing that can be called."""
    module, _, function = name.partition(":")
    if not (module and function):
        raise ValueError(f"extra must be module:function, got {name!r}")
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as problem:  # whatever a user's module does when it is imported
        raise ValueError(f"extra {name!r} cannot be imported: {type(problem).__name__}: {problem}") from None
    if not callable(found):
        raise ValueError(f"extra must name a function (student, teacher, z) -> {{name: value}}, got {name!r}")
    return found


def read_again(cell: Cell, store: Store, extra: Sequence[str] = ()) -> Measures:
    """Every measure of a finished student, from its stored weights, and what the extra ones find.

    Raises StoreError if its weights, or those of the teacher network that it started from, are not stored; ValueError
    for weights that do not fit, or an extra measure that returns anything but new names with numbers."""
    arrays = store.arrays(cell)
    pack = student_pack(cell, arrays)
    # How the fake score was warmed up changes no reading of a trained student.
    plain = cell.replace(fake_warmup=0) if cell.student == "mlp" else cell
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("extra", cell.seed))
        prepared = prepare([plain], _teacher_weights(cell, store))
        snapshot = Snapshot(cell.steps, pack, torch.tensor([-1]), prepared.fake, _no_carry)
        found: Measures = dict(readings([cell], prepared).finish(cell, snapshot, 0))
        for name in extra:
            more = _numbers(name, extra_named(name)(student_of(cell, arrays), cell.mixture(), held_out(cell.dim)))
            if taken := found.keys() & more.keys():
                raise ValueError(f"extra {name!r} must return new names, got {', '.join(sorted(taken))}")
            found |= more
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in found.items()}


def _no_carry() -> Carried:
    raise NotImplementedError("a student read from the store does not train on")


def _teacher_weights(cell: Cell, store: Store) -> list[dict] | None:
    if cell.student != "mlp":
        return None
    key = network_of(cell).key
    stored = store.network(key)
    if stored is None:
        raise StoreError(f"its teacher network {key} is not stored")
    return [stored[1]]


def _numbers(name: str, found: object) -> Measures:
    if not isinstance(found, Mapping):
        raise ValueError(f"extra {name!r} must return {{name: value}}, got {type(found).__name__}")
    numbers: Measures = {}
    for key, value in found.items():
        if isinstance(value, np.generic) or (isinstance(value, Tensor | np.ndarray) and value.ndim == 0):
            value = value.item()
        if not isinstance(key, str) or not isinstance(value, bool | int | float):
            raise ValueError(f"extra {name!r} must return names with numbers, got {key!r}: {value!r}")
        numbers[key] = value if isinstance(value, bool) else float(value)
    return numbers


# -- reading many ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unread:
    """Why a student was not read. failed: something broke, and it was not just absent."""

    reason: str
    failed: bool = False


def read_many(
    cells: Sequence[Cell], store: Store, extra: Sequence[str] = (), workers: int = 1, quiet: bool = False
) -> Iterator[tuple[Cell, Measures | Unread]]:
    """Reads finished students again, yielding each with its measures or why there are none, in no particular order.

    workers: 1 is a plain loop in this process; more are processes of one thread each. Raises ValueError if < 1."""
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    shelves: dict[Cell, list[Cell]] = {}
    for cell in cells:
        shelves.setdefault(teacher_cell(cell), []).append(cell)
    jobs = [shelf[i : i + TOGETHER] for shelf in shelves.values() for i in range(0, len(shelf), TOGETHER)]
    said = time.monotonic()
    for done, outcome in enumerate(_outcomes(jobs, store.root, tuple(extra), min(workers, len(jobs))), 1):
        yield outcome
        if not quiet and time.monotonic() - said > SAY_EVERY_SECONDS:
            said = time.monotonic()
            print(f"{done} of {len(cells)} students read again", file=sys.stderr, flush=True)


def _outcomes(jobs: list[list[Cell]], root: Path, extra: tuple[str, ...], workers: int) -> Iterator:
    if workers < 2:
        store = Store(root, create=False)
        for job in jobs:
            for cell in job:
                yield cell, _attempt(cell, store, extra)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(_read_job, job, root, extra) for job in jobs]
        try:
            for future in as_completed(futures):
                yield from future.result()
        finally:  # also where the reader is interrupted: what has not begun is not begun
            pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _read_job(job: list[Cell], root: Path, extra: tuple[str, ...]) -> list[tuple[Cell, Measures | Unread]]:
    store = Store(root, create=False)
    return [(cell, _attempt(cell, store, extra)) for cell in job]


def _attempt(cell: Cell, store: Store, extra: tuple[str, ...]) -> Measures | Unread:
    try:
        return read_again(cell, store, extra)
    except StoreError as problem:
        return Unread(str(problem))
    except Exception as problem:  # one student that cannot be read must not cost the others
        return Unread(f"{type(problem).__name__}: {problem}", failed=True)


def teacher_cell(cell: Cell) -> Cell:
    """What a cell's teacher is, alone: equal for students of one teacher."""
    return Cell(**{name: getattr(cell, name) for name in ("teacher", "dim", *TEACHER_OPTIONS)})


# -- into the record -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """A student's stored readings beside the new ones.

    measures: what the record is to hold: new readings, stored ones that they differ from by no more than rounding, and
    stored ones that were not read again. differ: {name: (stored, read again)}. new: names that the record did not have.
    """

    measures: Measures
    differ: dict[str, tuple] = field(default_factory=dict)
    new: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.differ or self.new)


def change(cell: Cell, stored: Measures, found: Measures) -> Change:
    """What reading a student again changes in its record."""
    differ, merged = {}, dict(stored)
    for name, value in found.items():
        if name in stored and same(stored[name], value, ROUNDING[cell.student]):
            continue
        merged[name] = value
        if name in stored:
            differ[name] = (stored[name], value)
    return Change(merged, differ, tuple(name for name in found if name not in stored))


def same(one, other, relative: float) -> bool:
    """Whether two readings, numbers, truths or None, differ by no more than rounding: relative, or of order one."""
    if one is None or other is None or isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return math.isclose(one, other, rel_tol=relative, abs_tol=relative)


def write_readings(cell: Cell, record: dict, measures: Measures, store: Store) -> None:
    """Replaces a record's measures, atomically; its weights and all else in it stay."""
    write_json(store.folder / f"{cell.key}.json", {**record, "measures": measures})


# -- what to bear in mind --------------------------------------------------------------------------------------------


def skip_gain(cell: Cell) -> float:
    """c_skip sigma_init: the multiple of z that a network student passes on beside its layers."""
    like = torch.zeros((), dtype=torch.float64)
    skip = Preconditioning.at(cell.sigma_init, network_of(cell).sigma_data, like).skip
    return cell.sigma_init * float(skip.squeeze())


def caveats(cell: Cell, measures: Measures) -> list[str]:
    """What to bear in mind with a student's readings, a sentence each."""
    said = []
    low, high = VARIANCE_RATIO
    if measures.get("law_passes") is False:
        said.append("law gate failed: their pairing does not count")
    ratios = [measures.get(f"variance_ratio_{end}") for end in ("low", "high")]
    if any(ratio is not None and not low <= ratio <= high for ratio in ratios):
        said.append(f"a variance over the teacher's is not in [{low:g}, {high:g}]")
    if cell.measures != "closed" and ENOUGH * cell.dim > HELD_OUT:
        said.append(f"n = {HELD_OUT} is below {ENOUGH} d = {ENOUGH * cell.dim}: the law is seen in few directions only")
    if cell.student == "mlp" and (cell.width or 0) < cell.dim:
        left = "the exact denoiser" if cell.start == "residual" else f"{skip_gain(cell):.2g} z, the skip,"
        said.append(
            f"width {cell.width} is below d = {cell.dim}: outside {cell.width} of its directions the student is {left} "
            f"at sigma_init {cell.sigma_init:g}"
        )
    return said
