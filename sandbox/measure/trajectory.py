"""What can be read cheaply off a whole pack at every checkpoint: where, along training, the pairing is decided."""

from __future__ import annotations

import torch
from torch import Tensor


def progress(students_x: Tensor, teacher_x: Tensor) -> dict[str, Tensor]:
    """Displacement, scale-free displacement and scale of a pack, each (E,) float64.

        displacement           E|S - T|^2 / (tr Cov S + tr Cov T + |m_S - m_T|^2)
        correlation_distance   1 - corr(S, T), which does not mind that a young student is small
        scale                  tr Cov S / tr Cov T

    Args:
        students_x: S(z), (E, n, d). teacher_x: T(z) at the same z, (n, d).
    Raises:
        ValueError: shapes that do not agree.
    """
    if students_x.shape[-2:] != teacher_x.shape or students_x.ndim != 3:
        raise ValueError(
            f"students_x must have shape (E, {', '.join(map(str, teacher_x.shape))}), got {tuple(students_x.shape)}"
        )
    s, t = students_x.double(), teacher_x.double()
    mean_s, mean_t = s.mean(-2, keepdim=True), t.mean(-2, keepdim=True)
    spread_s = (s - mean_s).square().sum(-1).mean(-1)
    spread_t = (t - mean_t).square().sum(-1).mean(-1)
    common = ((s - mean_s) * (t - mean_t)).sum(-1).mean(-1)
    offset = (mean_s - mean_t).square().sum((-2, -1))
    return {
        "displacement": 1 - 2 * common / (spread_s + spread_t + offset),
        "correlation_distance": 1 - common / torch.sqrt(spread_s * spread_t),
        "scale": spread_s / spread_t,
    }
