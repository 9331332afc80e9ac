"""CUDA graphs of a training step, opt-in: one launch in place of the thousands of small kernels of a pack's update.

A step that is recorded once and replayed reads and writes the same memory every time; what changes from step to step
lives in that memory, numbers too. It computes what the eager step computes on that device. Where there is no such
device, or the step cannot be recorded (a module that looks at its numbers), training goes on eagerly and a warning
says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Tree = Any
"""Tensors and numbers, in dictionaries and tuples, or None."""

Advance = Callable[[Tree, Any, Any], Tree]
"""(what training carries, the step, the factor on the learning rate) -> what it carries on."""


def mapped(tree: Tree, f: Callable[[Any], Any]) -> Tree:
    """The tree with f applied to every tensor and number."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {name: mapped(branch, f) for name, branch in tree.items()}
    if isinstance(tree, tuple):
        branches = (mapped(branch, f) for branch in tree)
        return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)
    return f(tree)


def leaves(tree: Tree) -> list:
    """Tensors and numbers of a tree, in order."""
    found: list = []
    mapped(tree, found.append)
    return found


class Captured:
    """A step of training, recorded at its first call and replayed from then on.

    Args:
        advance: the step. It may not look at a tensor's numbers.
        generators: what it draws from, all of one device. device: where the training is.
    """

    def __init__(self, advance: Advance, generators: Sequence[torch.Generator], device: torch.device):
        self.advance, self.generators, self.device = advance, generators, device
        self.graph: torch.cuda.CUDAGraph | None = None
        self.place: Tree = None
        self.eager = device.type != "cuda"
        if self.eager:
            warnings.warn(f"a CUDA graph needs a CUDA device, training goes on eagerly on {device.type}", stacklevel=3)

    def __call__(self, place: Tree, step: int, rate: float) -> Tree:
        """The next place. It is overwritten by the next call; `kept` is not."""
        if self.graph is None and not self.eager:
            try:
                self._record(place, step, rate)
            except RuntimeError as problem:
                self.graph, self.place, self.eager = None, None, True
                reason = str(problem).strip().partition("\n")[0]
                warnings.warn(f"the step cannot be a CUDA graph, training goes on eagerly ({reason})", stacklevel=3)
        if self.graph is None:
            return self.advance(place, step, rate)
        self.step.fill_(step)
        self.rate.fill_(rate)
        self.graph.replay()
        return self.place

    def kept(self, place: Tree) -> Tree:
        """A copy of a place that stays as it is."""
        return place if self.eager else mapped(place, lambda v: v.clone() if isinstance(v, Tensor) else v)

    def _record(self, place: Tree, step: int, rate: float) -> None:
        places = [generator.get_state() for generator in self.generators]
        self.place = mapped(place, self._held)
        self.step, self.rate = self._held(float(step)), self._held(float(rate))
        # Before recording, libraries have to have taken what memory they need, and a device's own stream must be new.
        aside = torch.cuda.Stream(self.device)
        aside.wait_stream(torch.cuda.current_stream(self.device))
        try:
            with torch.cuda.stream(aside):
                self.advance(self.place, self.step, self.rate)
        finally:
            torch.cuda.current_stream(self.device).wait_stream(aside)
            for generator, before in zip(self.generators, places, strict=True):
                generator.set_state(before)
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph):
                after = self.advance(self.place, self.step, self.rate)
                for here, there in zip(leaves(self.place), leaves(after), strict=True):
                    here.copy_(there)
        except RuntimeError:
            # A generator that was cut off while recording draws no more; it gets a new state in place of its own.
            for generator, before in zip(self.generators, places, strict=True):
                fresh = torch.Generator(self.device)
                fresh.set_state(before)
                generator.graphsafe_set_state(fresh.graphsafe_get_state())
            raise
        self.graph = graph

    def _held(self, v: Tensor | float) -> Tensor:
        if isinstance(v, Tensor):
            return v.clone()
        return torch.full((), v, dtype=torch.float64, device=self.device)
