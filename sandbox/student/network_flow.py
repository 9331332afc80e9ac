"""A denoising network's own noise-data map: its probability flow, integrated as the teacher's."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sandbox.teacher.flow import FlowError, integrate

# The lowest level that networks are trained at (Karras et al. 2022); from there one denoising step leads to sigma = 0.
SIGMA_MIN = 0.002
FIRST_STEPS, MOST_STEPS = 32, 1024

Denoise = Callable[[Tensor, float], Tensor]
"""(n, d), sigma -> (n, d): one network."""


def network_map(network: Denoise, z: Tensor, sigma_max: float = 80.0, tolerance: float = 1e-4) -> Tensor:
    """T_net(z): dx/dln sigma = x - D_net(x; sigma) from sigma_max z down to .002, then D_net, (n, d) float64.

    Eighth-order steps in ln sigma, halved until two successive results agree to `tolerance` (Euclidean norm per point;
    a network's weights are float32, but its arithmetic here is float64, so that this can be reached).

    Args:
        network: evaluated in float64. z: (n, d).
    Raises:
        ValueError: sigma_max <= .002 or tolerance <= 0. FlowError: the tolerance was not reached.
    """
    if not sigma_max > SIGMA_MIN:
        raise ValueError(f"sigma_max must be > {SIGMA_MIN}, got {sigma_max}")
    if not tolerance > 0:
        raise ValueError(f"tolerance must be > 0, got {tolerance}")

    def velocity(x: Tensor, u: float) -> Tensor:
        return x - network(x, math.exp(u))

    start, end = math.log(sigma_max), math.log(SIGMA_MIN)
    z = z.double()
    steps, coarse, worst = FIRST_STEPS, integrate(velocity, sigma_max * z, start, end, FIRST_STEPS), math.inf
    while steps < MOST_STEPS:
        steps *= 2
        fine = integrate(velocity, sigma_max * z, start, end, steps)
        worst = (fine - coarse).detach().norm(dim=-1).max().item()
        if worst <= tolerance:
            return network(fine, SIGMA_MIN)
        coarse = fine
    raise FlowError(f"the network's flow differs by {worst:.3g} > tolerance = {tolerance:g} after {steps} steps")


def network_jacobian(
    network: Denoise, z: Tensor, sigma_max: float = 80.0, tolerance: float = 1e-4, step: float = 1e-4
) -> Tensor:
    """dT_net/dz by central differences of one flow of all shifted points, (n, d, d) float64; as `network_map`.

    step: in units of z; the flow is smooth and its tolerance far finer, so that the error is of order step^2."""
    n, d = z.shape
    shift = step * torch.eye(d, dtype=torch.float64)
    points = z.double()[:, None, None] + torch.stack([shift, -shift])  # (n, 2, d, d): one row per direction
    out = network_map(network, points.reshape(-1, d), sigma_max, tolerance * step).reshape(n, 2, d, d)
    return ((out[:, 0] - out[:, 1]) / (2 * step)).mT
