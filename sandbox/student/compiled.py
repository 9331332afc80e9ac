"""torch.compile for a pack's training, opt-in: fused elementwise passes, and on a device fewer launches.

Compiled arithmetic rounds otherwise than eager: its numbers agree with eager training's to rounding, not to the bit,
and a student's may depend on its pack. Where compiling fails (no C++ compiler, a module it cannot trace), training goes
on eagerly and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from sandbox.student.fake import FakeScore, NetworkFake
from sandbox.student.networks import Pack
from sandbox.student.optimise import Optimiser, Parameters, State


class Compiled:
    """A function, compiled at its first call; eager, with one warning, if that fails. Errors of the function itself are
    raised by the eager call that follows."""

    def __init__(self, function: Callable):
        self.eager = function
        self.fast: Callable | None = torch.compile(function)

    def __call__(self, *args) -> Any:
        if self.fast is not None:
            try:
                return self.fast(*args)
            except Exception as problem:  # the compiler's errors have no common type
                self.fast = None
                result = self.eager(*args)
                reason = str(problem).strip().partition("\n")[0]
                warnings.warn(f"torch.compile failed, training goes on eagerly ({reason})", stacklevel=3)
                return result
        return self.eager(*args)


@dataclass(frozen=True)
class CompiledOptimiser:
    """An optimiser whose step is one compiled function."""

    optimiser: Optimiser
    fused: Compiled

    @classmethod
    def of(cls, optimiser: Optimiser) -> CompiledOptimiser:
        return cls(optimiser, Compiled(optimiser.step))

    def init(self, parameters: Parameters) -> State:
        return self.optimiser.init(parameters)

    def step(
        self, parameters: Parameters, gradients: Parameters, state: State, lr_scale: float = 1.0
    ) -> tuple[Parameters, State]:
        return self.fused(parameters, gradients, state, lr_scale)


def compiled_pack(pack: Pack) -> Pack:
    """The same pack, its forward pass compiled: its parameters are arguments, one compilation serves all updates."""
    return replace(pack, forward=Compiled(pack.apply))


def compiled_fake(fake: FakeScore) -> FakeScore:
    """The same fake score, its network and its optimiser's step compiled; what has no network stays as it is."""
    if not isinstance(fake, NetworkFake):
        return fake
    return replace(fake, networks=compiled_pack(fake.networks), optimiser=CompiledOptimiser.of(fake.optimiser))
