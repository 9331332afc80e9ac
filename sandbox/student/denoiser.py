"""Denoising networks, and the one-step students that start from them."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from sandbox.student.networks import Pack
from sandbox.teacher.mixture import GaussianMixture

# Noise levels from 0.002 to 80 are c_noise from -1.6 to 1.1, a third of the slowest feature's period. Twice as many
# features fit no better, and polynomials in c_noise leave more error at the highest level, where a student starts.
FREQUENCIES = 4

# Added to a mean square of order one before its root; only keeps the gradient finite at h = 0.
FLOOR = 1e-6

# What leads around the network of a one-step student.
SKIPS = ("fixed", "trained", "off")

# Numbers that torch's widest vector instructions take at once, two vectors of sixteen.
LANES = 32


def noise_features(c_noise: Tensor) -> Tensor:
    """cos(pi k c / 4) and sin(pi k c / 4) for k = 1 .. 4, (n, 8), of c_noise (n, 1)."""
    k = torch.arange(1, FREQUENCIES + 1, dtype=c_noise.dtype, device=c_noise.device)
    phase = (math.pi / 4) * k * c_noise
    return torch.cat([phase.cos(), phase.sin()], -1)


def unit_rms(h: Tensor) -> Tensor:
    """h / rms(h) over features; no parameters (Zhang & Sennrich 2019, without the gain).

    Through the norm rather than h's square: its gradient takes one product of h's size instead of three."""
    norm = torch.linalg.vector_norm(h, dim=-1, keepdim=True)
    return h * torch.rsqrt(norm.square() / h.shape[-1] + FLOOR)


def times(x: Tensor, A: Tensor, plus: Tensor) -> Tensor:
    """x A^T + plus for x (n, columns) and A (rows, columns), (n, rows), or all with a leading pack axis (E, ...).

    `plus` broadcasts against the result. A single row or column of a product of a pack is multiplied out: a product
    with a vector is another kernel in a pack of one than in a larger pack, and a network's numbers would depend on its
    pack."""
    if 1 in A.shape[-2:] or (A.ndim > 2 and x.shape[-2] == 1):
        return (x[..., :, None, :] * A[..., None, :, :]).sum(-1) + plus
    return torch.addmm(plus, x, A.mT) if A.ndim == 2 else torch.baddbmm(plus, x.expand(len(A), -1, -1), A.mT)


def activation(h: Tensor) -> Tensor:
    """silu(h), (*E, n, width).

    What is left over after whole vectors torch takes one by one, with an exponential that rounds otherwise: were
    anything left over of one network's numbers, they would depend on its place in the pack."""
    n, width = h.shape[-2:]
    if n * width % LANES == 0:
        return silu(h)
    return silu(pad(h, (0, -width % LANES)))[..., :width]


def _matrix(rows: int, columns: int, generator: torch.Generator) -> nn.Parameter:
    """Entries iid N(0, 1/columns), so that a vector of unit entries keeps its size."""
    return nn.Parameter(torch.randn(rows, columns, generator=generator) / math.sqrt(columns))


class Block(nn.Module):
    """h + W2 silu(W1 h/rms(h) + V e + b), with e the features of the noise level."""

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.W1 = _matrix(width, width, generator)
        self.V = _matrix(width, 2 * FREQUENCIES, generator)
        self.b = nn.Parameter(torch.zeros(width))
        self.W2 = _matrix(width, width, generator)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        # One level for all points needs the noise term once, (1, width).
        noise = times(e, self.V, self.b[..., None, :])
        return times(activation(times(unit_rms(h), self.W1, noise)), self.W2, h)


class ResidualMLP(nn.Module):
    """F(x, c_noise): R^d -> R^d, a residual network whose output is zero at the start.

    With a bottleneck r the first matrix is a product, (width, r) `widen` and (r, d) `inward`, so that dF/dx has at most
    rank r everywhere.

    Args:
        dim: d. width: features. depth: residual blocks of two matrices each.
        generator: draws the weights, from the input on and block by block; the global state is not used.
        bottleneck: r, None for a first matrix (width, d) of no other rank than its own.
    """

    def __init__(self, dim: int, width: int, depth: int, generator: torch.Generator, bottleneck: int | None = None):
        super().__init__()
        self.inward = _matrix(bottleneck or width, dim, generator)
        self.widen = _matrix(width, bottleneck, generator) if bottleneck else None
        self.b = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, generator) for _ in range(depth))
        self.outward = nn.Parameter(torch.zeros(dim, width))
        self.mean = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """x (n, d), c_noise (n, 1) or (1, 1) -> (n, d); with a pack's parameters (E, ...), x and c_noise are (E, n, .),
        or c_noise (1, 1)."""
        return times(self.features(x, c_noise), self.outward, self.mean[..., None, :])

    def features(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """What the last layer reads, of unit root mean square, (n, width); arguments as `forward`."""
        e, b = noise_features(c_noise), self.b[..., None, :]
        if self.widen is None:
            h = times(x, self.inward, b)
        else:
            h = times(times(x, self.inward, x.new_zeros(1)), self.widen, b)
        for block in self.blocks:
            h = block(h, e)
        return unit_rms(h)


@dataclass(frozen=True)
class Preconditioning:
    """The coefficients of Karras et al. (2022, arXiv 2206.00364, Table 1, column "Ours") at noise levels (n, 1)."""

    skip: Tensor
    out: Tensor
    into: Tensor
    noise: Tensor

    @classmethod
    def at(cls, sigma: Tensor | float, sigma_data: float, like: Tensor) -> Preconditioning:
        """For sigma a float or (*E, n); one level for all points comes out as (1, 1)."""
        # A number is written where it is needed: sent from the CPU, a device would have to be waited for.
        given = isinstance(sigma, Tensor)
        s = sigma.to(like) if given else torch.full((1,), sigma, dtype=like.dtype, device=like.device)  # type: ignore
        s = torch.atleast_1d(s)[..., None]
        total = s.square() + sigma_data**2
        return cls(sigma_data**2 / total, s * sigma_data * total.rsqrt(), total.rsqrt(), s.log() / 4)


class Denoiser(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x, c_noise) (Karras et al. 2022, arXiv 2206.00364, eq. 7).

    At the start F = 0, and D is the exact denoiser of N(0, sigma_data^2 I). Parameters are float32, and named as those
    of the `OneStep` student that is made of it.

    Args:
        dim: d. width: features of F. depth: its residual blocks.
        sigma_data: standard deviation of the data per coordinate, one constant for all networks of a pack.
        generator: draws the weights; two networks from generators in one state are equal.
        bottleneck: rank that the derivative of F is limited to, at most d; None for no limit.
    Raises:
        ValueError: dim, width, depth or bottleneck not an integer >= 1, bottleneck > dim, or sigma_data <= 0.
    """

    packs = True

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        generator: torch.Generator,
        sigma_data: float = 1.0,
        bottleneck: int | None = None,
    ):
        super().__init__()
        sizes = {"dim": dim, "width": width, "depth": depth, "bottleneck": 1 if bottleneck is None else bottleneck}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{name} must be an integer >= 1, got {value}")
        if bottleneck is not None and bottleneck > dim:
            raise ValueError(f"bottleneck must be <= dim = {dim}, got {bottleneck}")
        if not (sigma_data > 0 and math.isfinite(sigma_data)):
            raise ValueError(f"sigma_data must be > 0, got {sigma_data}")
        self.dim, self.sigma_data = dim, sigma_data
        self.net = ResidualMLP(dim, width, depth, generator, bottleneck)

    def forward(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """x (n, d), sigma a float or (n,), > 0 -> (n, d).

        Raises ValueError for a sigma <= 0 given as a float; levels in a tensor are taken on trust."""
        if isinstance(sigma, Real) and not sigma > 0:
            raise ValueError(f"sigma must be > 0, got {sigma}")
        c = Preconditioning.at(sigma, self.sigma_data, x)
        return c.skip * x + c.out * self.net(c.into * x, c.noise)


class OneStep(nn.Module):
    """The one-step student G(z) = D(sigma_init z; sigma_init), z standard normal, as DMD2 starts it.

    Its parameters are a copy of the denoiser's, under the same names. What leads around the network may be free:

        fixed     c_skip sigma_init z
        trained   A z, A a parameter (d, d) that starts at c_skip sigma_init I: at the start the same function
        off       nothing: another function, short of about sigma_data^2 z / sigma_init (see `fitted`)

    Raises ValueError if sigma_init <= 0, or for an unknown skip."""

    packs = True

    def __init__(self, denoiser: Denoiser, sigma_init: float = 80.0, skip: str = "fixed"):
        super().__init__()
        _check_level(sigma_init)
        if skip not in SKIPS:
            raise ValueError(f"skip must be one of {', '.join(SKIPS)}, got {skip!r}")
        self.dim, self.sigma_data, self.sigma_init = denoiser.dim, denoiser.sigma_data, float(sigma_init)
        self.skip = skip
        self.A: nn.Parameter | None = None
        if skip == "trained":
            unit = torch.eye(self.dim).to(denoiser.net.inward)
            slope = self.sigma_init * Preconditioning.at(self.sigma_init, self.sigma_data, unit).skip
            self.A = nn.Parameter(slope * unit)
        self.net = copy.deepcopy(denoiser.net)

    def forward(self, z: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        x = self.sigma_init * z
        c = Preconditioning.at(self.sigma_init, self.sigma_data, x)
        F = self.net(c.into * x, c.noise)
        if self.A is not None:
            return times(z, self.A, c.out * F)
        return c.skip * x + c.out * F if self.skip == "fixed" else c.out * F


def one_step(denoisers: Pack, sigma_init: float = 80.0, skip: str = "fixed") -> Pack:
    """The pack of students that start at a pack of denoisers, z (E, n, d) -> (E, n, d).

    Raises ValueError as `OneStep`, TypeError for a pack of anything else."""
    if not isinstance(denoisers.module, Denoiser):
        raise TypeError(f"a one-step student starts at denoisers, got {type(denoisers.module).__name__}")
    student, parameters = OneStep(denoisers.module, sigma_init, skip), dict(denoisers.parameters)
    if student.A is not None:
        A = student.A.detach().to(parameters["net.inward"])
        parameters = {"A": A.repeat(len(denoisers), 1, 1), **parameters}
    return Pack(student, parameters)


class Correction(nn.Module):
    """c_out F(z, c_noise) at sigma_init: what a network adds to a known map; zero at the start."""

    packs = True

    def __init__(self, denoiser: Denoiser, sigma_init: float = 80.0):
        super().__init__()
        _check_level(sigma_init)
        self.dim, self.sigma_data, self.sigma_init = denoiser.dim, denoiser.sigma_data, float(sigma_init)
        self.net = copy.deepcopy(denoiser.net)
        with torch.no_grad():
            self.net.outward.zero_()
            self.net.mean.zero_()

    def forward(self, z: Tensor) -> Tensor:
        """(n, d) -> (n, d)."""
        c = Preconditioning.at(self.sigma_init, self.sigma_data, z)
        return c.out * self.net(z, c.noise)


@dataclass(frozen=True)
class ExactResidual(Pack):
    """Students that start at the exact one-step denoiser: G(z) = D(sigma_init z; sigma_init) + c_out F(z).

    D is the teachers' closed form and does not train; F, a `Correction`, is zero at the start: a start without any
    error of a teacher network.

    Args:
        module, parameters: a pack of `Correction`s.
        teachers: one mixture for all, or one per student (E, ...); of the parameters' precision.
    """

    module: Correction
    teachers: GaussianMixture

    def __call__(self, *inputs: Tensor) -> Tensor:
        """(E, n, d) -> (E, n, d)."""
        (z,) = inputs
        sigma = self.module.sigma_init
        return self.teachers.denoise(sigma * z, sigma) + super().__call__(z)

    def to(self, device: torch.device | str) -> ExactResidual:
        """The same students on another device."""
        return replace(self, parameters=super().to(device).parameters, teachers=self.teachers.to(device))

    def member(self, index: int):
        """One student as a function (n, d) -> (n, d)."""
        correction, sigma = super().member(index), self.module.sigma_init
        teacher = self.teachers
        if teacher.means.ndim > 2:
            teacher = GaussianMixture(
                teacher.weights[index], teacher.means[index], teacher.covariance.map(lambda t: t[index])
            )
        return lambda z: teacher.denoise(sigma * z, sigma) + correction(z)


def _check_level(sigma_init: float) -> None:
    if not (sigma_init > 0 and math.isfinite(sigma_init)):
        raise ValueError(f"sigma_init must be > 0, got {sigma_init}")
