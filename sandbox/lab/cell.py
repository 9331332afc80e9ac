"""A cell is one student: everything that changes one of its numbers, and nothing that does not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral, Real

from sandbox.lab.combinations import check_combinations
from sandbox.lab.options import BELOW_ONE, CHOICES, LEAST, NEUTRAL, OPTIONS, STUDENTS, TEACHER_OPTIONS
from sandbox.teacher.families import family
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins, LogGrid, LogUniform, SigmaLaw

# Raised whenever the same cell would give other numbers than before: its results are then recomputed, not mixed.
ALGORITHM_VERSION = 1


@dataclass(frozen=True)
class Cell:
    """One student, its teacher and its training. Units: sigma in the data's units, lr per summed gradient.

    An mlp student starts from a teacher network, which every student of the same teacher, shape, `teacher_*` and
    `network_seed` (by default the student's own seed) shares; `start_error` is the size of an error added to that
    start, over the size of the exact start's signal; with `start_teacher_seed` it is the network of another teacher of
    the family. `clip` 0 is no limit; `average`, `decay`, `gan`, `regression` and `weight_decay` 0 are none.

    Raises ValueError naming the field and its value if one is out of range.
    """

    teacher: str = "gaussian"
    dim: int = 8
    variance: float | None = None
    exponent: float | None = None
    modes: int | None = None
    radius: float | None = None
    separation: float | None = None
    std: float | None = None
    teacher_seed: int | None = None
    hold: str | None = None
    held: float | None = None
    groups: int | None = None
    inner: float | None = None
    intrinsic: int | None = None
    floor: float | None = None
    share: float | None = None
    length: float | None = None
    angle: float | None = None
    points: int | None = None
    bandwidth: float | None = None
    population: str | None = None
    points_seed: int | None = None
    rank: int | None = None
    reduce: str | None = None

    student: str = "linear"
    width: int | None = None
    depth: int | None = None
    bottleneck: int | None = None
    skip: str = "fixed"
    sampling_steps: int = 1
    start: str = "teacher"
    rotation: float | None = None
    start_scale: float = 0.1
    start_error: float = 0.0
    start_teacher_seed: int | None = None
    sigma_init: float = 80.0

    teacher_steps: int | None = None
    teacher_lr: float | None = None
    teacher_batch: int | None = None
    network_seed: int | None = None
    real_score: str = "analytic"
    reference: str = "analytic"

    fake_score: str = "exact"
    fake_lr: float | None = None
    fake_batch: int | None = None
    fake_updates: int | None = None
    fake_warmup: int | None = None
    fake_memory: float | None = None
    fake_weighting: str = "edm"
    loss: str = "dmd"
    sid_alpha: float | None = None
    gan: float = 0.0
    gan_critic: float = 1e-2
    gan_r1: float = 0.0
    regression: float = 0.0
    pairs: int = 1024
    normaliser: str = "per-sample"
    reduction: str = "sum"
    sigma_law: str = "log-uniform"
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    bins: int | None = None
    antithetic: bool = False

    optimiser: str = "sgd"
    beta1: float | None = None
    beta2: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    lr: float = 0.02
    batch: int = 64
    parts: int = 1
    steps: int = 1000
    decay: float = 0.0
    clip: float = 0.0
    average: float = 0.0

    measures: str = "all"
    seed: int = 0
    algorithm_version: int = ALGORITHM_VERSION

    def __post_init__(self):
        for name, kind in field_types().items():
            object.__setattr__(self, name, _coerced(name, getattr(self, name), kind))
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.start not in STUDENTS[self.student]:
            known = ", ".join(STUDENTS[self.student])
            raise ValueError(f"start must be one of {known} for student {self.student}, got {self.start!r}")
        self._fill_options()
        for name in ("start_scale", "sigma_init", "lr", "fake_lr", "teacher_lr"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name, least in LEAST.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        if not self.decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {self.decay}")
        for name in BELOW_ONE:
            if not (getattr(self, name) or 0) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("batch", "fake_batch"):
            if self.antithetic and (getattr(self, name) or 0) % 2:
                raise ValueError(f"{name} must be even with antithetic noise, got {getattr(self, name)}")
        if self.algorithm_version != ALGORITHM_VERSION:
            raise ValueError(
                f"algorithm_version must be {ALGORITHM_VERSION}, got {self.algorithm_version}: these are "
                "results of another version of the algorithm"
            )
        self.law()
        self.mixture()
        check_combinations(self)

    def _fill_options(self) -> None:
        for name, (choice, defaults) in OPTIONS.items():
            given, value = getattr(self, name), getattr(self, choice)
            if value in defaults:
                object.__setattr__(self, name, defaults[value] if given is None else given)
            elif given is not None:
                raise ValueError(f"{name} means nothing with {choice} {value}, got {given}")

    # -- identity ----------------------------------------------------------------------------------------------------

    def canonical(self) -> str:
        """The cell as JSON with sorted keys, without options that it does not use: equal cells give equal text."""
        fields = dataclasses.asdict(self).items()
        used = {name: value for name, value in fields if value is not None and value != NEUTRAL.get(name)}
        return json.dumps(used, sort_keys=True, allow_nan=False)

    @property
    def key(self) -> str:
        """The cell's name in the store: the first 20 hexadecimal digits of the SHA-256 of its canonical text."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:20]

    def condition(self) -> Cell:
        """The cell without its seed (seed 0): what students of one condition share."""
        return dataclasses.replace(self, seed=0)

    def replace(self, **changes) -> Cell:
        """The cell with some fields changed; options that belonged to a choice that is changed take their defaults.

        Raises ValueError if a change names no field."""
        fields = dataclasses.asdict(self)
        for name, (choice, _) in OPTIONS.items():
            if choice in changes and changes[choice] != fields[choice]:
                fields[name] = None
        return cell_from({**fields, **changes})

    # -- the objects it stands for -----------------------------------------------------------------------------------

    def mixture(self) -> GaussianMixture:
        """The teacher."""
        options = {
            ("seed" if name == "teacher_seed" else name): getattr(self, name)
            for name in TEACHER_OPTIONS
            if getattr(self, name) is not None
        }
        return family(self.teacher, self.dim, **options)

    def law(self) -> SigmaLaw:
        """The law of the training noise levels."""
        if self.sigma_law == "log-grid":
            return LogGrid(self.sigma_min, self.sigma_max, self.bins or 0)
        return (LogUniform if self.sigma_law == "log-uniform" else KarrasBins)(self.sigma_min, self.sigma_max)


@lru_cache(maxsize=1)
def field_types() -> dict[str, tuple[type, bool]]:
    """Each field's plain type, and whether it may be None."""
    kinds = {}
    for name, hint in typing.get_type_hints(Cell).items():
        options = typing.get_args(hint) or (hint,)
        kinds[name] = (next(o for o in options if o is not type(None)), type(None) in options)
    return kinds


def _coerced(name: str, value, kind: tuple[type, bool]):
    """The value as its field's type: 80 and 80.0 are one cell, 2.5 steps and a NaN are none."""
    wanted, optional = kind
    if value is None and optional:
        return None
    if wanted is bool or isinstance(value, bool):
        good = wanted is bool and isinstance(value, bool)
    elif wanted is float:
        good = isinstance(value, Real) and math.isfinite(value)
    elif wanted is int:
        good = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    else:
        good = isinstance(value, wanted)
    if not good:
        raise ValueError(f"{name} must be a finite {wanted.__name__}, got {value!r}")
    return wanted(value)


def cell_from(fields: dict) -> Cell:
    """A cell from a mapping; raises ValueError naming a key that is not a field."""
    known = {f.name for f in dataclasses.fields(Cell)}
    for name in fields:
        if name not in known:
            raise ValueError(f"{name} is not a field of a cell; the fields are {', '.join(sorted(known))}")
    return Cell(**fields)
