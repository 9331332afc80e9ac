"""Students, and the pack that holds many of one shape along a leading axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sandbox.teacher.covariance import Full
from sandbox.teacher.mixture import GaussianMixture


class LinearStudent(nn.Module):
    """x = A z (+ b), from the standard normal z: its law N(b, A A^T), and so its exact score, are known in closed form.

    Args:
        weight: A, (d, d).
        bias: b, (d,), or None for a student that stays centred.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        if weight.ndim != 2:
            raise ValueError(f"weight must have shape (d_out, d_in), got {tuple(weight.shape)}")
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.linear(z, self.weight, self.bias)


@dataclass(frozen=True)
class Pack:
    """E students of one architecture; parameters (E, ...) along a leading axis, no state shared between students."""

    module: nn.Module
    parameters: dict[str, Tensor]
    forward: Callable[..., Tensor] | None = field(default=None, kw_only=True)
    """What evaluates the pack, of `apply`'s signature; by default `apply` itself."""

    @classmethod
    def of(cls, students: Sequence[nn.Module]) -> Pack:
        """Raises ValueError if the students' parameters differ in name or shape."""
        if not students:
            raise ValueError("students must hold at least one student, got none")
        shapes = {tuple((name, tuple(p.shape)) for name, p in s.named_parameters()) for s in students}
        if len(shapes) != 1:
            raise ValueError(f"students of a pack must have one shape, got {sorted(shapes)}")
        parameters, _ = stack_module_state(list(students))
        return cls(students[0], {name: p.detach() for name, p in parameters.items()})

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Every student at its own points: (E, n, d) -> (E, n, d), and so for further inputs (E, n)."""
        return (self.forward or self.apply)(self.parameters, *inputs)

    def apply(self, parameters: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        """The students with these parameters at their own points."""
        if getattr(self.module, "packs", False):  # takes parameters (E, ...) itself, a third faster than under vmap
            return functional_call(self.module, parameters, inputs)
        return vmap(lambda p, *x: functional_call(self.module, p, x))(parameters, *inputs)

    def samples(self, z: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """What the students train on at z (E, n, d), (E, n, d): their output. Those that need more noise draw it."""
        return self(z)

    def with_parameters(self, parameters: dict[str, Tensor]) -> Pack:
        return replace(self, parameters=parameters)

    def to(self, device: torch.device | str) -> Pack:
        """The same students on another device."""
        return self.with_parameters({name: p.to(device) for name, p in self.parameters.items()})

    def member(self, index: int):
        """One student as a function (n, d) -> (n, d)."""
        parameters = {name: p[index] for name, p in self.parameters.items()}
        return lambda *inputs: functional_call(self.module, parameters, inputs)

    def law(self) -> GaussianMixture:
        """The exact law N(b, A A^T) of each student, with a pack axis.

        Raises TypeError unless the students are linear: no other student's law is known in closed form."""
        if not isinstance(self.module, LinearStudent):
            raise TypeError(f"the exact fake score needs a linear student, got {type(self.module).__name__}")
        A = self.parameters["weight"].detach()
        bias = self.parameters.get("bias")
        mean = A.new_zeros(len(A), 1, A.shape[-2]) if bias is None else bias.detach()[:, None, :]
        return GaussianMixture(A.new_ones(len(A), 1), mean, Full.gram(A[:, None]))


def gradients_of(pack: Pack, loss: Callable[[Pack], Tensor]) -> dict[str, Tensor]:
    """The gradient of each member's own loss, (E,), with respect to its own parameters, (E, ...)."""
    leaves = {name: p.detach().requires_grad_() for name, p in pack.parameters.items()}
    gradients = torch.autograd.grad(loss(pack.with_parameters(leaves)).sum(), list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True))
