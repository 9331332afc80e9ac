r"""d = 1: the monotone map is unique, and the only other one with the right law is its mirror image.

The student's amplitude is a diffusion, da = f(a) dt + sqrt(D(a)) dW with f odd and D = (lr / B)(n_eps + 2 n_x) even.
Its scale function s' = exp(-int 2 f / D) gives the probability of ending at -sqrt(lambda):

    P(flip) = 1/2 - 1/2 int_0^{a0} s' / int_0^{sqrt lambda} s',        rho_g = 2 P(flip)
"""

from __future__ import annotations

import numpy as np

from sandbox.theory.flat import Flat

POINTS = 4000


def flip_displacement(problem: Flat, lr: float, batch: int) -> float:
    """rho_g = 2 P(flip) of a one-dimensional student started at the teacher, for a weighting that all samples share.

    Raises ValueError unless dim is 1; HypothesisError for the per-sample normaliser."""
    if problem.dim != 1:
        raise ValueError(f"dim must be 1, got {problem.dim}")
    # Noise and drift both vanish at the end, in the ratio that makes 2 f / D ~ 1 / (end - a): stop short of it.
    a = np.concatenate([[0.0], np.geomspace(problem.start * 1e-4, problem.end * (1 - 1e-6), POINTS)])
    a = np.unique(np.append(a, problem.start))
    # f is odd, so the ratio vanishes at 0; the first interval is linear to the order that the trapezium sees.
    ratio = np.zeros_like(a)
    noise = lr / batch * (problem.noise(a[1:]) + 2 * problem.horizontal_noise(a[1:]))
    ratio[1:] = 2 * problem.drift(a[1:]) / noise
    steps = np.diff(a)
    exponent = np.concatenate([[0.0], np.cumsum(steps * (ratio[1:] + ratio[:-1]) / 2)])
    density = np.exp(-exponent)
    scale = np.concatenate([[0.0], np.cumsum(steps * (density[1:] + density[:-1]) / 2)])
    return float(1 - np.interp(problem.start, a, scale) / scale[-1])
