"""The flow against torchdiffeq 0.2.5, with nothing of ours on the other side.

The score is autograd's, through torch.distributions; the variable is the angle arctan sigma of the variance-preserving
form, x cos(angle), which reaches sigma = 0 as a regular point; the steps are torchdiffeq's own.
"""

import math
from collections.abc import Callable

import pytest
import torch
from problems import line, mixture
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from sandbox.teacher.families import random, ring
from sandbox.teacher.flow import teacher_encode, teacher_jacobian, teacher_map
from sandbox.teacher.mixture import GaussianMixture

torchdiffeq = pytest.importorskip("torchdiffeq")

KINDS = ("isotropic", "diagonal", "low-rank", "full")
SIGMA_MAX = 80.0
END = math.atan(SIGMA_MAX)
# Theirs, ours, and the difference allowed: ours bounds its own error by what it is asked for.
SOLVER, SOLVED, ASKED, TOLERANCE = "dopri8", 1e-12, 1e-9, 1e-9


def parameters(name: str, dim: int) -> tuple[GaussianMixture, Tensor, Tensor, Tensor]:
    """A law of ours, and its weights (K,), means (K, d) and matrices (K, d, d)."""
    if name in KINDS:
        problem = mixture(name, dim)
        return problem.law, problem.weights, problem.means, problem.matrices
    law = {"line": lambda _: line(), "ring": ring, "random": random}[name](dim)
    eye = torch.eye(dim, dtype=torch.float64)
    return law, law.weights, law.means, law.covariance.variance.expand(law.components)[:, None, None] * eye


def score(name: str, dim: int, order: int = 1) -> Callable[[Tensor, float], tuple[Tensor, ...]]:
    """The score (n, d) by autograd and, to second order, its Jacobian (n, d, d)."""
    _, weights, means, matrices = parameters(name, dim)
    eye, modes = torch.eye(dim, dtype=torch.float64), Categorical(weights)

    def of(x: Tensor, sigma: float) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            gaussians = MultivariateNormal(means, matrices + sigma**2 * eye, validate_args=False)
            log_prob = MixtureSameFamily(modes, gaussians, validate_args=False).log_prob(x).sum()
            (s,) = torch.autograd.grad(log_prob, x, create_graph=order > 1)
            if order == 1:
                return (s,)
            rows = [torch.autograd.grad(s[:, i].sum(), x, retain_graph=True)[0] for i in range(dim)]
            return s.detach(), torch.stack(rows, -2)

    return of


def solve(velocity: Callable[[Tensor, Tensor], Tensor], y: Tensor, start: float, end: float) -> Tensor:
    times = torch.tensor([start, end], dtype=torch.float64)
    # Left to itself it steps past the end and interpolates back, to fourth order only.
    options = {"step_t": times[1:]}
    return torchdiffeq.odeint(velocity, y, times, rtol=SOLVED, atol=SOLVED, method=SOLVER, options=options)[-1]


def along(name: str, dim: int) -> Callable[[Tensor, Tensor], Tensor]:
    """d(x cos a)/da at sigma = tan a: -sigma s(x; sigma) / cos a - x sin a, for points (n, d)."""
    of = score(name, dim)

    def velocity(angle: Tensor, y: Tensor) -> Tensor:
        sigma, scale = torch.tan(angle).item(), torch.cos(angle).item()
        return -sigma * of(y / scale, sigma)[0] / scale - sigma * y

    return velocity


def along_with_tangents(name: str, dim: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The same for points and their Jacobians side by side, (n, d, 1 + d)."""
    of = score(name, dim, order=2)

    def velocity(angle: Tensor, y: Tensor) -> Tensor:
        sigma, scale = torch.tan(angle).item(), torch.cos(angle).item()
        s, H = of(y[..., 0] / scale, sigma)
        return -sigma * torch.cat([s[..., None] / scale, H / scale**2 @ y[..., 1:]], -1) - sigma * y

    return velocity


def normals(n: int, dim: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("name", "dim"), [*((kind, 8) for kind in KINDS), ("line", 1), ("ring", 2), ("random", 16)])
@pytest.mark.parametrize("tolerance", [TOLERANCE])
def test_map(name, dim, tolerance):
    z = normals(4, dim)
    want = solve(along(name, dim), SIGMA_MAX * z * math.cos(END), END, 0.0)
    got = teacher_map(parameters(name, dim)[0], z, SIGMA_MAX, tolerance=ASKED)
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "dim"), [("line", 1), ("low-rank", 8), ("random", 16)])
@pytest.mark.parametrize("tolerance", [TOLERANCE])
def test_encode(name, dim, tolerance):
    """From points of the law, not from images of the map."""
    law = parameters(name, dim)[0]
    x = law.sample(4, torch.Generator().manual_seed(1))
    want = solve(along(name, dim), x, 0.0, END) / math.sin(END)
    torch.testing.assert_close(teacher_encode(law, x, SIGMA_MAX, tolerance=ASKED), want, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim"), [("full", 2), ("ring", 2)])
@pytest.mark.parametrize("tolerance", [1e-8])  # also what is asked for: one more digit doubles our steps
def test_jacobian(name, dim, tolerance):
    z = normals(4, dim)
    start = torch.cat([z[..., None], torch.eye(dim, dtype=torch.float64).expand(4, dim, dim)], -1)
    want = solve(along_with_tangents(name, dim), SIGMA_MAX * start * math.cos(END), END, 0.0)[..., 1:]
    got = teacher_jacobian(parameters(name, dim)[0], z, SIGMA_MAX, tolerance=tolerance)
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)
