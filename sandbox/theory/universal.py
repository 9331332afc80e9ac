r"""The universal process of the constant-speed class, dA = polar(A) dtau + dW / sqrt d from A_0 = Xi I, by simulation.

F_d(Xi) is the displacement of its end. Used to fix and to test the interpolation in `copying.constant_speed`.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from sandbox.theory import copying


def universal_displacement(
    dim: int, xi: float, paths: int, generator: torch.Generator, step: float = 0.02, horizon: float = 400.0
) -> tuple[float, float]:
    """Mean and standard error of 1 - tr polar(A) / d at the end of `paths` simulated paths.

    Euler-Maruyama with a step in proportion to the square of the amplitude xi + tau (a rotation's variance per unit
    time falls as its inverse), up to tau = horizon; the rotation that is left, (1 - 1/d) / (4 horizon), is added."""
    if dim < 1 or paths < 2 or not xi > 0:
        raise ValueError(f"dim >= 1, paths >= 2 and xi > 0 are needed, got {dim}, {paths}, {xi}")
    A = xi * torch.eye(dim, dtype=torch.float64).expand(paths, dim, dim).clone()
    tau = 0.0
    while tau < horizon:
        amplitude = xi + tau
        dt = min(step * max(amplitude**2, min(amplitude, step)), 0.05 * amplitude + step, horizon - tau)
        dW = torch.randn(paths, dim, dim, dtype=torch.float64, generator=generator) * (dt / dim) ** 0.5
        A = A + _polar(A) * dt + dW
        tau += dt
    q = torch.diagonal(_polar(A), dim1=-2, dim2=-1).mean(-1)
    left = (1 - 1 / dim) / (4 * horizon)
    return 1 - q.mean().item() * (1 - left), (q.std() / paths**0.5).item()


def _polar(A: torch.Tensor) -> torch.Tensor:
    if A.shape[-1] == 1:
        return torch.sign(A)
    U, _, Vh = torch.linalg.svd(A)
    return U @ Vh


def interpolation_constant(dim: int, xis, values) -> float:
    """The c of `copying.constant_speed` that fits displacements `values` of the universal process at `xis` best."""

    def misfit(c: float) -> float:
        xi = np.asarray(xis, dtype=float)
        model = 1 / (1 + 2 * xi + (4 * dim / (dim - 1) - 2) * xi * -np.expm1(-c * xi))
        return float(np.square(model - np.asarray(values)).sum())

    return float(minimize_scalar(misfit, bounds=(0.1, 5.0), method="bounded").x)


def half_copying_point(dim: float) -> float:
    """Xi* with F_d(Xi*) = 1/2."""
    from scipy.optimize import brentq

    return float(brentq(lambda xi: float(copying.constant_speed(dim, xi)) - 0.5, 0.01, 10))
