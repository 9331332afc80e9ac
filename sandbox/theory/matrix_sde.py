r"""The matrix diffusion of a linear student on a flat teacher Sigma = lambda I: d^2 equations, and no samples.

With the singular value decomposition A = U S V^T, t = lr * steps and B samples a step,

    dA = U [ f(S) dt + sqrt(lr / B) dT ] V^T

where dT has the covariance of one sample's gradient in the frames U and V. In these frames the gradient of a sample is

    T_ij = h_i y_i zeta_j / nu,     h_i = kappa_i - k,     y_i = s_i zeta_i + sigma e_i,     u_i = (1-k) s_i zeta_i - k
    sigma e_i

with zeta and e standard normal, and 1/nu the weighting. Rotating each pair (zeta_i, e_i) to xi_i = u_i / sqrt v_i and
the eta_i independent of it,

    zeta_i = p_i xi_i + q_i eta_i,    p_i = (1-k) s_i / sqrt v_i,                       q_i = k sigma / sqrt v_i
    y_i    = a_i xi_i + b_i eta_i,    a_i = ((1-k) s_i^2 - k sigma^2) / sqrt v_i,       b_i = s_i sigma / sqrt v_i
    v_i    = (1-k)^2 s_i^2 + k^2 sigma^2

leaves a normaliser that depends on the xi alone, and every moment of T follows from five averages, alpha_p =
E[xi_1^2/nu^p], beta_p = E[1/nu^p] and gamma = E[xi_1^2 xi_2^2/nu^2]:

    f_i            = -E T_ii        = -E_sigma[h_i (a_i p_i alpha_1 + b_i q_i beta_1)]
    N_ij           = E T_ij^2       =  E_sigma[h_i^2 (a_i^2 (p_j^2 gamma + q_j^2 alpha_2) + b_i^2 (p_j^2 alpha_2 + q_j^2
                                       beta_2))]
    K_ij           = E T_ij T_ji    =  E_sigma[h_i h_j (a_i p_i a_j p_j gamma + (a_i p_i b_j q_j + b_i q_i a_j p_j)
                                       alpha_2 + b_i q_i b_j q_j beta_2)]

Cov(T_ii, T_jj) = K_ij - f_i f_j, and E T_ii^2 = N_ii + 2 K_ii: exact for a weighting that all samples share, E[xi^4 /
nu^2] = 3 gamma otherwise. For such a weighting the averages are powers of w and N_ij = n_eps(s_i) + n_x(s_i), with K_ij
the geometric mean of two n_x up to the spread of sigma: dT = n_eps^(1/2) dW + n_x^(1/2) dW_sym and a fluctuation of the
step's length. Equal singular values give back `flat.Flat`: N - K = n_eps, K = n_x.

The per-sample normaliser nu = mean_j |u_j| is taken at the mean of the v_i: it adds over the coordinates, in which the
left singular vectors are in general position, so that every coordinate of u has that variance. The regression keeps
each singular value's own v_i.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from sandbox.theory.copying import settling_time
from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.normaliser import ROOT_2_PI, flat_average, laplace, laplace_second

NODES = 40


@lru_cache(maxsize=256)
def pair_average(dim: int) -> float:
    """gamma = E[xi_1^2 xi_2^2 / nu^2] for nu the mean of |xi_j| over dim >= 2 standard normals:

        int_0^inf t phi''(t/d)^2 phi(t/d)^(d-2) dt,     phi(s) = E exp(-s |xi|)

    Raises ValueError if dim < 2."""
    if dim < 2:
        raise ValueError(f"dim must be >= 2, got {dim}")

    def integrand(t: float) -> float:
        s = t / dim
        return float(t * laplace_second(s) ** 2 * laplace(s) ** (dim - 2))

    near, _ = quad(integrand, 0, 10, epsabs=0, epsrel=1e-12, limit=400)
    far, _ = quad(integrand, 10, np.inf, epsabs=1e-13, epsrel=1e-10, limit=400)
    return near + far


def gradient_moments(problem: Flat, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f_i, N_ij and K_ij of one sample's gradient in the frame of the singular vectors.

    Args:
        problem: the flat problem. s: singular values, (*E, d), > 0.
    Returns: (*E, d), (*E, d, d), (*E, d, d).
    Raises:
        ValueError: as many singular values as dimensions are needed.
        HypothesisError: the per-sample normaliser at d <= 2, where the variance of the gradient is infinite.
    """
    dim = s.shape[-1]
    if dim != problem.dim:
        raise ValueError(f"s must hold dim = {problem.dim:g} singular values, got {dim}")
    if problem.normaliser == "per-sample" and dim <= 2:
        raise HypothesisError(
            f"the diffusion needs a gradient of finite variance: E[1/nu^2] is infinite at d <= 2 for the per-sample "
            f"normaliser, got d = {dim}"
        )
    lam, s = problem.variance, s[..., None]
    sigma, weight = (torch.as_tensor(v, dtype=s.dtype) for v in problem.law.nodes(NODES))
    k = lam / (lam + sigma**2)
    # kappa - k by one fraction: the difference of the two cancels near the end of training.
    h = sigma**2 * (s**2 - lam) / ((lam + sigma**2) * (s**2 + sigma**2))
    v = ((1 - k) * s) ** 2 + (k * sigma) ** 2
    mean_v = v.mean(-2, keepdim=True)
    root = v.sqrt()
    p, q = (1 - k) * s / root, k * sigma / root
    a, b = ((1 - k) * s**2 - k * sigma**2) / root, s * sigma / root

    if problem.normaliser == "per-sample":
        alpha_1, beta_1 = (flat_average(float(dim), 1, squared) / mean_v.sqrt() for squared in (True, False))
        alpha_2, beta_2 = (flat_average(float(dim), 2, squared) / mean_v for squared in (True, False))
        gamma = pair_average(dim) / mean_v
    else:
        w = torch.ones_like(mean_v)
        if problem.normaliser == "batch":
            w = w / (ROOT_2_PI * (weight * mean_v.sqrt()).sum(-1, keepdim=True))
        alpha_1 = beta_1 = w
        alpha_2 = beta_2 = gamma = w**2

    x, y = h * a * p, h * b * q
    f = -(weight * (alpha_1 * x + beta_1 * y)).sum(-1)
    mixed = (weight * alpha_2 * x) @ y.mT
    K = (weight * gamma * x) @ x.mT + mixed + mixed.mT + (weight * beta_2 * y) @ y.mT
    N = (weight * (h * a) ** 2) @ (gamma * p**2 + alpha_2 * q**2).mT
    N = N + (weight * (h * b) ** 2) @ (alpha_2 * p**2 + beta_2 * q**2).mT
    return f, N, K


def fluctuation(f: Tensor, N: Tensor, K: Tensor, generator: torch.Generator) -> Tensor:
    """A draw of dT / sqrt(dt) from the moments, (*E, d, d)."""
    G = torch.randn(N.shape, dtype=N.dtype, generator=generator)
    common = torch.randn(f.shape[:-1], dtype=f.dtype, generator=generator)[..., None]
    # cos^2 + sin^2 keeps the variances and 2 sin cos is the correlation of the two entries of a pair.
    scale = (N * N.mT).sqrt().clamp(min=torch.finfo(N.dtype).tiny)
    angle = torch.asin((K / scale).clamp(-1, 1)) / 2
    T = N.sqrt() * (torch.cos(angle) * G + torch.sin(angle) * G.mT)
    own, pairs = torch.diagonal(N, dim1=-2, dim2=-1), torch.diagonal(K, dim1=-2, dim2=-1)
    diagonal = (own + pairs).clamp(min=0).sqrt() * torch.diagonal(G, dim1=-2, dim2=-1)
    diagonal = diagonal + (pairs - f**2).clamp(min=0).sqrt() * common
    torch.diagonal(T, dim1=-2, dim2=-1).copy_(diagonal)
    return T


def evolve(
    problem: Flat, A: Tensor, lr: float, batch: float, time: float, generator: torch.Generator, step: float = 0.025
) -> Tensor:
    """A after t = time, from independent paths of the diffusion (Euler-Maruyama).

    A step is an update of the student, dt = lr, or more of them where less than a share `step` of growth, relaxation
    and rotation happens in one: a student that moves far in one update does so here as well.

    Args:
        problem: the flat problem. A: where the paths start, (paths, d, d). lr, batch: of the student. time: t >= 0, in
            units of lr * steps. generator: advanced. step: > 0.
    Returns: (paths, d, d).
    Raises:
        ValueError: named argument out of range.
    """
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    if batch < 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    if not time >= 0:
        raise ValueError(f"time must be >= 0, got {time}")
    if not step > 0:
        raise ValueError(f"step must be > 0, got {step}")
    near = problem.end * (1 - 1e-3)
    relaxation = problem.drift(near).item() / (problem.end - near)
    now = 0.0
    # Rounding may leave a last step of no length.
    while time - now > 1e-9 * lr:
        U, s, Vh = torch.linalg.svd(A)
        f, N, K = gradient_moments(problem, s)
        growth = (f.mean() / s.mean()).item()
        turning = lr / batch * problem.dim * (N.mean() / s.square().mean()).item()
        dt = min(max(lr, step / max(growth, relaxation, turning)), time - now)
        move = torch.diag_embed(f) * dt + (dt * lr / batch) ** 0.5 * fluctuation(f, N, K, generator)
        A = A + U @ move @ Vh
        now += dt
    return A


def teacher_start(problem: Flat, paths: int) -> Tensor:
    """a_0 I for each path, (paths, d, d) float64.

    Raises ValueError if paths < 2 or if dim is not a whole number."""
    if paths < 2:
        raise ValueError(f"paths must be >= 2, got {paths}")
    if problem.dim != int(problem.dim):
        raise ValueError(f"dim must be a whole number, got {problem.dim}")
    eye = torch.eye(int(problem.dim), dtype=torch.float64)
    return problem.start * eye.expand(paths, -1, -1).clone()


def _displacement(A: Tensor) -> tuple[float, float]:
    U, _, Vh = torch.linalg.svd(A)
    rho = 1 - torch.diagonal(U @ Vh, dim1=-2, dim2=-1).mean(-1)
    return rho.mean().item(), (rho.std() / len(rho) ** 0.5).item()


def matrix_displacement(
    problem: Flat,
    lr: float,
    batch: float,
    paths: int,
    generator: torch.Generator,
    time: float | None = None,
    step: float = 0.025,
) -> tuple[float, float]:
    """Mean and standard error over paths of the gauge displacement rho_g = 1 - tr polar(A) / d from the teacher's
    start.

    Args:
        time: when to stop, by default `copying.settling_time`; others as `evolve` and `teacher_start`.
    """
    end = settling_time(problem) if time is None else time
    return _displacement(evolve(problem, teacher_start(problem, paths), lr, batch, end, generator, step))


def matrix_displacements(
    problem: Flat,
    lr: float,
    batch: float,
    paths: int,
    generator: torch.Generator,
    times,
    step: float = 0.025,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of rho_g at each of the times, (m,) and (m,).

    Raises ValueError if the times are not increasing from 0 or more; others as `matrix_displacement`."""
    times = np.asarray(times, dtype=float)
    steps = np.diff(times, prepend=0.0)
    if (steps < 0).any():
        raise ValueError(f"times must be >= 0 and increasing, got {times.tolist()}")
    A, values = teacher_start(problem, paths), []
    for length in steps:
        A = evolve(problem, A, lr, batch, float(length), generator, step)
        values.append(_displacement(A))
    mean, error = np.array(values).T
    return mean, error
