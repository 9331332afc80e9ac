"""The fake score left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sandbox.student.networks import Pack


@dataclass(frozen=True)
class NoFake:
    """A fake score of zero, D_fake(x) = x: the student climbs the real score alone, and collapses onto modes (Yin et
    al. 2023, Fig. 3)."""

    def learned(self) -> None:
        return None

    def with_learned(self, state: None) -> NoFake:
        return self

    def denoise(self, students: Pack, x: Tensor, sigma: Tensor) -> Tensor:
        return x

    def update(self, students: Pack, generators: Sequence[torch.Generator]) -> NoFake:
        return self
