"""Teachers by name, as functions of the dimension; each says what it holds fixed while the dimension grows."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.teacher.manifold import manifold
from sandbox.teacher.memorising import memorising
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.placed_modes import hierarchical, random, ring
from sandbox.teacher.power_law import gaussian, image_like
from sandbox.teacher.shear import shear


@dataclass(frozen=True)
class Lazy:
    """A constructor whose module is imported when a teacher of it is made: for families that need what not every
    installation has."""

    module: str
    name: str

    @property
    def constructor(self) -> Callable[..., GaussianMixture]:
        return getattr(importlib.import_module(self.module), self.name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.constructor)

    def __call__(self, dim: int, **options) -> GaussianMixture:
        return self.constructor(dim, **options)


FAMILIES: dict[str, Callable[..., GaussianMixture]] = {
    "gaussian": gaussian,
    "ring": ring,
    "random": random,
    "hierarchical": hierarchical,
    "manifold": manifold,
    "image_like": image_like,
    "memorising": memorising,
    "shear": shear,
    "patches": Lazy("sandbox.teacher.images", "patches"),
    "digits": Lazy("sandbox.teacher.images", "digits"),
}


def family(name: str, dim: int, **options) -> GaussianMixture:
    """The teacher `name` at `dim`.

    Raises ValueError for an unknown name or an option that the family does not have."""
    if name not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(sorted(FAMILIES))}, got {name!r}")
    constructor = FAMILIES[name]
    parameters = list(inspect.signature(constructor).parameters.values())[1:]
    known = {p.name for p in parameters if p.kind != p.VAR_KEYWORD}
    # A family that takes any option hands those on to another one, which knows its own.
    if len(known) == len(parameters):
        for option in options:
            if option not in known:
                raise ValueError(f"{option} is not an option of family {name!r}; it has {', '.join(sorted(known))}")
    return constructor(dim, **options)
