"""Sweeps: a base cell, named arms and axes, expanded to cells; and packs, the cells that train together."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sandbox.lab.cell import Cell, cell_from
from sandbox.lab.memory import fitting

Value = Any | Callable[[dict], Any]

# Price of a step whatever the pack's size, in units of `cost`, and the largest share of a step that it may be.
STEP_COST, STEP_SHARE = 1.0, 0.1

# The same for networks, and the time in which one of them is measured.
NETWORK_STEP, MEASURE_COST = 5.0, 4000.0

# What may differ between the students of a pack: it changes no tensor's shape and no step of the loop.
RIDES_A_PACK = (
    "seed",
    "lr",
    "start",
    "start_scale",
    "sigma_init",
    "variance",
    "exponent",
    "radius",
    "separation",
    "std",
    "teacher_seed",
)
# Network students of one pack share their teacher and its preconditioning, and one module.
RIDES_A_NETWORK_PACK = ("seed", "lr", "start_error", "network_seed", "teacher_steps", "teacher_lr", "teacher_batch")


@dataclass(frozen=True)
class Sweep:
    """A named set of students.

    Args:
        name: the experiment's name.
        base: fields of every cell.
        arms: {arm: fields}; a field may be a function of the fields resolved before it (in the order base, axes, arm,
            derived), as in lr=lambda cell: 0.64 / cell["dim"].
        axes: {field: values}, all combinations.
        own_axes: {arm: {field: values}}: axes that replace or extend the sweep's in one arm.
        derived: {field: function of a finished Cell}, applied last, as for the number of steps that a cell needs.
    """

    name: str
    base: Mapping[str, Value] = field(default_factory=dict)
    arms: Mapping[str, Mapping[str, Value]] = field(default_factory=lambda: {"all": {}})
    axes: Mapping[str, Sequence] = field(default_factory=dict)
    own_axes: Mapping[str, Mapping[str, Sequence]] = field(default_factory=dict)
    derived: Mapping[str, Callable[[Cell], Any]] = field(default_factory=dict)

    def values(self, name: str) -> set | None:
        """Every value that a field can have here, found without a cell; None if that needs one, as for a function."""
        found: set = set()
        for arm, overrides in self.arms.items():
            axes = {**self.axes, **self.own_axes.get(arm, {})}
            fixed = {**self.base, **{axis: None for axis in axes}, **overrides}
            values = axes[name] if name in axes and name not in overrides else [fixed.get(name, getattr(Cell, name))]
            found.update(values)
        return None if name in self.derived or any(callable(value) for value in found) else found

    def students(self) -> list[tuple[str, Cell]]:
        """Every (arm, cell), in order: arms, then axes with the last one fastest.

        Raises ValueError for a key that is no field, an axis without values or a value out of range."""
        return list(self._expanded)

    @cached_property
    def _expanded(self) -> list[tuple[str, Cell]]:
        found = []
        # Derived values do not depend on the seed: one evaluation per condition.
        cache: dict[Cell, dict] = {}
        for arm, overrides in self.arms.items():
            axes = {**self.axes, **self.own_axes.get(arm, {})}
            for axis, values in axes.items():
                if not len(values):
                    raise ValueError(f"{axis} must have at least one value, got none")
            for combination in itertools.product(*axes.values()):
                fields: dict[str, Any] = {}
                for layer in (self.base, dict(zip(axes, combination, strict=True)), overrides):
                    for name, value in layer.items():
                        fields[name] = value(fields) if callable(value) else value
                try:
                    cell = cell_from(fields)
                except ValueError as error:
                    raise ValueError(f"{error} (arm {arm!r})") from None
                condition = cell.condition()
                if condition not in cache:
                    cache[condition] = {name: rule(condition) for name, rule in self.derived.items()}
                found.append((arm, cell.replace(**cache[condition]) if self.derived else cell))
        return found

    def cells(self) -> list[Cell]:
        """The distinct cells, in order: arms may share some."""
        return list(dict.fromkeys(cell for _, cell in self.students()))

    def narrowed(self, axes: Mapping[str, Sequence]) -> Sweep:
        """The sweep with some axes replaced or added, in every arm."""
        kept = {arm: {name: v for name, v in own.items() if name not in axes} for arm, own in self.own_axes.items()}
        return dataclasses.replace(self, axes={**self.axes, **axes}, own_axes=kept)


def packs(cells: Iterable[Cell], size: int = 16, device: str = "cpu", memory: float = math.inf) -> list[list[Cell]]:
    """Cells grouped into packs of at most `size` that train together, the costliest first.

    A pack is hardly larger than it takes for a step's fixed price to be a small share of its cost: an interrupted run
    loses the packs under way, so they should be short. On a CUDA device a step's price hardly depends on the number of
    networks: packs are as large as they may be. `memory`, in bytes, is what one pack may find free.

    Raises ValueError, naming it pack, if size < 1."""
    if size < 1:
        raise ValueError(f"pack must be >= 1, got {size}")
    shelves: dict[tuple, list[Cell]] = {}
    for cell in cells:
        rides = RIDES_A_NETWORK_PACK if cell.student == "mlp" else RIDES_A_PACK
        fixed = tuple(sorted((k, v) for k, v in dataclasses.asdict(cell).items() if k not in rides))
        # Teachers of one pack are stacked, so they must be of one covariance type.
        shelves.setdefault((fixed, bool(cell.exponent)), []).append(cell)
    grouped = []
    for shelf in shelves.values():
        enough = _step_cost(shelf[0]) * (1 / STEP_SHARE - 1) / _student_cost(shelf[0])
        if device != "cpu" and shelf[0].student == "mlp":
            enough = math.inf
        most = size if memory == math.inf else min(size, fitting(shelf[0], memory))
        parts = max(1, round(len(shelf) / enough), math.ceil(len(shelf) / most))
        chunk = math.ceil(len(shelf) / parts)
        grouped += [shelf[i : i + chunk] for i in range(0, len(shelf), chunk)]
    return sorted(grouped, key=cost, reverse=True)


def cost(pack: Sequence[Cell]) -> float:
    """A pack's training time in milliseconds of one laptop core: fixed price, noise, products, eigendecomposition."""
    first = pack[0]
    training = first.steps * (_step_cost(first) + len(pack) * _student_cost(first))
    if first.student != "mlp":
        return training
    warm_up = (first.fake_warmup or 0) * network_pass(first, len(pack), first.fake_batch)
    return training + warm_up + len(pack) * MEASURE_COST


def core_seconds(cell: Cell, size: int = 16) -> float:
    """Expected seconds of one laptop core for a student in a pack of `size`, without its teacher network."""
    return cost([cell] * size) / size / 1e3


def _step_cost(cell: Cell) -> float:
    """What a step costs whatever the pack's size."""
    return STEP_COST if cell.student != "mlp" else network_pass(cell, 0, 0) * (1 + (cell.fake_updates or 0))


def _student_cost(cell: Cell) -> float:
    d, B = cell.dim, cell.batch
    if cell.student == "mlp":
        updates = cell.fake_updates or 0
        return network_pass(cell, 1, B + updates * (cell.fake_batch or 0)) - network_pass(cell, 0, 0)
    return 0.02 + 2e-5 * B * d + 5e-7 * B * d**2 + 1.5e-6 * d**3


def network_pass(cell: Cell, size: int, batch: int | None) -> float:
    """Milliseconds of one update of a pack of a cell's networks."""
    width, depth = cell.width or 1, cell.depth or 1
    return NETWORK_STEP + size * (batch or 0) * (depth * width * (2.5e-5 + 1.9e-7 * width) + 6e-5 * cell.dim)


def axis_values(text: str | Sequence, kind: Callable = float) -> list:
    """`2,8,32`, `2 8 32` or the half-open integer range `0:8` as a list of values.

    Raises ValueError naming what it could not read.

    >>> axis_values("0:4", int), axis_values("2,8 32", int)
    ([0, 1, 2, 3], [2, 8, 32])
    """
    words = (text if isinstance(text, str) else " ".join(map(str, text))).replace(",", " ").split()
    values: list = []
    for word in words:
        try:
            if ":" in word:
                first, last = (int(part) for part in word.split(":"))
                values.extend(kind(v) for v in range(first, last))
            else:
                values.append(kind(word))
        except ValueError:
            raise ValueError(f"an axis takes values such as 2,8,32 or 0:8, got {word!r}") from None
    if not values:
        raise ValueError(f"an axis must have at least one value, got {text!r}")
    return values
