r"""Adam from the teacher's start on a flat teacher: the matrix diffusion with Adam's update in place of its own step.

One step draws the minibatch gradient and hands it, entry by entry, to Adam (Kingma & Ba 2015):

    G = U [ -f(S) + dT / sqrt B ] V^T,     A = U S V^T,     A <- Adam(A, G)

with f and the covariance of dT those of one sample's gradient, `matrix_sde.gradient_moments`: d^2 numbers a step, and
no samples. What is left out of a student is that its minibatch is not Gaussian. Entries are those of the frame in
which the teacher's start is a_0 I: Adam knows the axes, so that neither the path nor its displacement is that of
another basis.

Off the diagonal an entry is noise alone, and is divided by its own standard deviation sqrt(n / B); on it by
sqrt(f^2 + n / B). With noise of the size lr a step whatever B, and a drift along polar(A) that is divided unequally,
rotations are amplified once f^2 B / n > 1: rho_g has a minimum in B, and beyond it grows towards sign descent
(`adam.sign_descent`).

Antithetic noise, +eps and -eps with each z, leaves the part of a gradient that comes from x. There T_ij = w h_i s_i
zeta_i zeta_j, E T_ij^2 = E T_ii T_ii and K_ij as it is, so that N_ij -> 2 K_ii and K_ij -> 2 K_ij: the two copies are
one draw, of which a batch has B / 2. Exact for a weighting that all samples share. With the per-sample normaliser nu
is taken to be the same for both copies: the total variance is then right to 7 % from d = 8 on, but of what turns at
unequal singular values samples have two to three times more while the student is small (a <= .3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sandbox.measure.gauge import polar_displacement
from sandbox.student.optimise import Adam, Moments
from sandbox.theory.flat import Flat
from sandbox.theory.matrix_sde import fluctuation, gradient_moments, teacher_start


def minibatch_gradient(
    problem: Flat, A: Tensor, batch: float, generator: torch.Generator, antithetic: bool = False
) -> Tensor:
    """A Gaussian draw of the mean gradient of a minibatch for each path, with its mean and second moments, (*E, d, d).

    Args:
        problem: the flat problem. A: the students, (*E, d, d). batch: B, both copies of an antithetic pair counted.
        generator: advanced. antithetic: each z with +eps and -eps.
    Raises:
        ValueError: batch too small; A of another dimension than the problem.
        HypothesisError: the per-sample normaliser at d <= 2, whose gradient has no variance.
    """
    if not batch >= (least := 2 if antithetic else 1):
        raise ValueError(f"batch must be >= {least}, got {batch}")
    U, s, Vh = torch.linalg.svd(A)
    f, N, K = gradient_moments(problem, s)
    mean = -f
    if antithetic:
        N, K, f = 2 * torch.diagonal(K, dim1=-2, dim2=-1)[..., None].expand_as(N), 2 * K, 2**0.5 * f
    return U @ (torch.diag_embed(mean) + fluctuation(f, N, K, generator) / batch**0.5) @ Vh


def evolve(
    problem: Flat,
    A: Tensor,
    optimiser: Adam,
    batch: float,
    steps: int,
    generator: torch.Generator,
    antithetic: bool = False,
    state: Moments | None = None,
) -> tuple[Tensor, Moments]:
    """A and Adam's averages after that many updates, independent paths, (paths, d, d).

    Args:
        A: where the paths start, (paths, d, d). optimiser: its rate and betas. steps: >= 0. state: Adam's averages,
        at rest by default; others as `minibatch_gradient`, as are the errors.
    Raises:
        ValueError: steps < 0.
    """
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    state = optimiser.init({"A": A}) if state is None else state
    for _ in range(steps):
        gradient = minibatch_gradient(problem, A, batch, generator, antithetic)
        moved, state = optimiser.step({"A": A}, {"A": gradient}, state)
        A = moved["A"]
    return A, state


def adam_displacement(
    problem: Flat,
    optimiser: Adam,
    batch: float,
    steps: int,
    paths: int,
    generator: torch.Generator,
    antithetic: bool = False,
) -> tuple[float, float]:
    """Mean and standard error over paths of rho_g = 1 - tr polar(A) / d after `steps` updates of Adam from the
    teacher's start. Held to `adam.ACCURACY`.

    Arguments and errors as `evolve` and `matrix_sde.teacher_start`."""
    A, _ = evolve(problem, teacher_start(problem, paths), optimiser, batch, steps, generator, antithetic)
    rho = polar_displacement(A)
    return rho.mean().item(), (rho.std() / paths**0.5).item()
