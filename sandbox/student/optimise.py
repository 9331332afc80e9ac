"""Optimisers of a pack: per-student learning rates, no state shared between students.

Written by hand because torch's own take one learning rate for a whole tensor, and a pack's students share theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
State = Any
"""What an optimiser carries from step to step; made by its `init`."""

OPTIMISERS = ("sgd", "adam")


class Optimiser(Protocol):
    """What moves a pack's parameters; a value, all that changes is in the state."""

    def init(self, parameters: Parameters) -> State:
        """The state at rest."""
        ...

    def step(
        self, parameters: Parameters, gradients: Parameters, state: Any, lr_scale: float = 1.0
    ) -> tuple[Parameters, State]:
        """New parameters and state; nothing is modified."""
        ...


def per_student(v: float | Tensor, like: Tensor) -> float | Tensor:
    """A float, or one value per student (E,), broadcast against a parameter (E, ...)."""
    if not isinstance(v, Tensor) or v.ndim == 0:
        return v
    return v.to(like).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class SGD:
    """Gradient descent, theta <- theta - lr v with v <- momentum v + g (Polyak 1964); lr a float or one per student
    (E,). Decay of the weights as `Adam`."""

    lr: float | Tensor
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self):
        _check(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")

    def init(self, parameters: Parameters) -> State:
        return {k: torch.zeros_like(p) for k, p in parameters.items()} if self.momentum else None

    def step(
        self, parameters: Parameters, gradients: Parameters, state: State, lr_scale: float = 1.0
    ) -> tuple[Parameters, State]:
        """New parameters and state; nothing is modified."""
        if self.momentum:
            gradients = state = {k: self.momentum * v + gradients[k] for k, v in state.items()}
        lr = self.lr * lr_scale
        parameters = decayed(parameters, lr, self.weight_decay)
        return {k: p - per_student(lr, p) * gradients[k] for k, p in parameters.items()}, state


class Moments(NamedTuple):
    """Adam's running averages of the gradient and of its square, and the number of steps so far."""

    first: Parameters
    second: Parameters
    steps: int


@dataclass(frozen=True)
class Adam:
    """Adam with bias correction (Kingma & Ba 2015, Algorithm 1); lr a float or one per student (E,).

    weight_decay: lambda of theta <- (1 - lr lambda) theta before each step, decoupled from the gradient (AdamW,
    Loshchilov & Hutter 2019; lambda times the rate, as in torch)."""

    lr: float | Tensor
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self):
        _check(self.lr, self.weight_decay)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    def init(self, parameters: Parameters) -> Moments:
        zeros = {k: torch.zeros_like(p) for k, p in parameters.items()}
        return Moments(zeros, zeros, 0)

    def step(
        self, parameters: Parameters, gradients: Parameters, state: Moments, lr_scale: float = 1.0
    ) -> tuple[Parameters, Moments]:
        """New parameters and state; nothing is modified."""
        t = state.steps + 1
        first = (
            {k: torch.lerp(g, state.first[k], self.beta1) for k, g in gradients.items()} if self.beta1 else gradients
        )
        second = {k: torch.lerp(g.square(), state.second[k], self.beta2) for k, g in gradients.items()}
        lr, root = self.lr * (lr_scale / (1 - self.beta1**t)), (1 - self.beta2**t) ** 0.5
        moved = {}
        for k, p in decayed(parameters, self.lr * lr_scale, self.weight_decay).items():
            # p - lr m / (sqrt(v) / root + epsilon) in few passes over memory: a large pack fills the cache.
            divisor = second[k].sqrt().div_(root).add_(self.epsilon)
            moved[k] = p - (per_student(lr, p) * first[k]).div_(divisor)
        return moved, Moments(first, second, t)


def decayed(parameters: Parameters, lr: float | Tensor, weight_decay: float) -> Parameters:
    """(1 - lr weight_decay) theta."""
    if not weight_decay:
        return parameters
    return {k: p - per_student(lr * weight_decay, p) * p for k, p in parameters.items()}


def falling(step: int, steps: int, share: float) -> float:
    """1, and over the last `share` of the steps linear towards 0, which the step after the last would reach."""
    return min(1.0, (steps - step) / (share * steps)) if share > 0 else 1.0


def clipped(gradients: Parameters, norm: float) -> Parameters:
    """Gradients with each student's own norm over all its parameters at most `norm`."""
    if not norm > 0:
        raise ValueError(f"clip must be > 0, got {norm}")
    square = sum(g.flatten(1).square().sum(1) for g in gradients.values())
    factor = (norm / torch.as_tensor(square).sqrt()).clamp(max=1.0)
    return {k: per_student(factor, g) * g for k, g in gradients.items()}


def _check(lr: float | Tensor, weight_decay: float) -> None:
    if not (torch.as_tensor(lr) > 0).all():
        raise ValueError(f"lr must be > 0, got {lr}")
    if not 0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be >= 0, got {weight_decay}")
