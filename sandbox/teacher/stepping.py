"""The eighth-order rule of Dormand and Prince, DOP853: in equal steps, and in steps that every point chooses itself.

Rule and error estimate: Hairer, Norsett & Wanner (1993), II.5 and II.10; step sizes: II.4; coefficients from scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import DOP853
from torch import Tensor

STAGES = DOP853.n_stages
NODES = DOP853.C[:STAGES]
# What a step's stages make of it: its move, and the errors of the embedded rules of fifth and third order.
RESULTS = torch.from_numpy(np.stack([DOP853.B, DOP853.E5[:STAGES], DOP853.E3[:STAGES]]))
ROWS = [torch.tensor(DOP853.A[i, :i]) for i in range(1, STAGES)]

# Step-size control: the share of the step that the estimate allows, and the limits of a change.
SAFETY, SHRINK, GROW = 0.8, 0.2, 6.0
# A step shorter than this share of the way left cannot be told from none.
SHORTEST = 1e-13


def integrate(velocity: Callable[[Tensor, float], Tensor], y: Tensor, start: float, end: float, steps: int) -> Tensor:
    """Integrates dy/du = velocity(y, u) from start to end in equal eighth-order steps."""
    h = (end - start) / steps
    for i in range(steps):
        u = start + i * h
        stages: list[Tensor] = []
        for c, row in zip(DOP853.C, DOP853.A, strict=True):
            move = sum(a * k for a, k in zip(row.tolist(), stages, strict=False) if a != 0.0)
            stages.append(velocity(y + h * move if stages else y, u + float(c) * h))
        y = y + h * sum(b * k for b, k in zip(DOP853.B.tolist(), stages, strict=True) if b != 0.0)
    return y


def advance(
    velocity: Callable[[Tensor, Tensor], Tensor],
    y: Tensor,
    start: float,
    end: float,
    tolerance: Tensor,
    first: Tensor,
    most: int,
    weight: Callable[[Tensor], Tensor] = torch.ones_like,
) -> tuple[Tensor, Tensor, Tensor]:
    """Integrates dy/dt = velocity(y, t) from start to end, every point in steps of its own.

    Points are the last axis, so that they lie side by side in memory, and those that have arrived leave the batch.

    Args:
        velocity: ((d, m, n), (n,)) -> (d, m, n), each point a function of its own numbers alone.
        y: n points of m vectors each, (d, m, n).
        tolerance: of a step's error in the Euclidean norm of each vector, times weight(t), (n,).
        first: length of the first step, > 0, (n,). most: steps tried before a point is given up.
    Returns:
        the points at the end, NaN for those given up; the sum of the errors estimated in their steps, times weight(t),
        (n,); and how many steps each has tried, (n,).
    """
    result, tried = torch.full_like(y, math.nan), torch.zeros_like(tolerance, dtype=torch.long)
    results, rows, nodes = RESULTS.to(y), [row.to(y) for row in ROWS], torch.tensor(NODES).to(y)[:, None]
    made, open_ = torch.zeros_like(tolerance), torch.arange(y.shape[-1], device=y.device)
    t, h = torch.full_like(tolerance, start), math.copysign(1.0, end - start) * first
    grow, count, stages = torch.full_like(tolerance, GROW), 0, y.new_empty(0)
    while len(open_) and count < most:
        count += 1
        if stages.numel() != STAGES * y.numel():
            stages = y.new_empty(STAGES, y.numel())
            before, each = [stages[:i].T for i in range(1, STAGES)], stages.view(STAGES, *y.shape).unbind(0)
        left = end - t
        last = h.abs() >= left.abs()
        h = torch.where(last, left, h)
        times, flat = (t + nodes * h).unbind(0), y.view(-1)
        torch.mul(velocity(y, t), h, out=each[0])
        for row, known, time, stage in zip(rows, before, times[1:], each[1:], strict=True):
            torch.mul(velocity(torch.addmv(flat, known, row).view(y.shape), time), h, out=stage)
        move, fifth, third = (results @ stages).view(3, *y.shape).unbind(0)
        fifth, third = fifth.square().sum(0), third.square().sum(0)
        # Where both are zero there is no error.
        error = (fifth / (fifth + 0.01 * third).sqrt().clamp(min=1e-300)).amax(0) * weight(t) / tolerance
        good = error <= 1
        made[open_] += torch.where(good, error * tolerance, 0.0)
        change = torch.minimum((SAFETY * error.clamp(min=1e-16) ** (-1 / 8)).clamp(min=SHRINK), grow)
        y, t = torch.where(good, y + move, y), torch.where(good, t + h, t)
        # An error that is not a number shortens the step, and none is lengthened right after it has failed.
        h, grow = h * torch.where(change.isnan(), SHRINK, change), torch.where(good, GROW, 1.0)
        arrived = good & last
        gone = arrived | (h.abs() < SHORTEST * left.abs())
        if gone.any():
            result[..., open_[arrived]], tried[open_[gone]] = y[..., arrived], count
            y, t, h, grow, tolerance, open_ = (v[..., ~gone] for v in (y, t, h, grow, tolerance, open_))
    tried[open_] = count
    return result, made, tried
