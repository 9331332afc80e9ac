"""Teacher networks: denoisers fitted to a teacher's closed-form denoiser, and how far from it they end.

How long a network was fitted is an axis of the experiments: a student starts at the teacher network's one-step
denoiser, and at a high noise level that network's error competes with a signal of order lambda / sigma.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sandbox.student.captured import Captured
from sandbox.student.denoiser import Denoiser
from sandbox.student.networks import Pack, gradients_of
from sandbox.student.optimise import Adam, Parameters, State, falling
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins, SigmaLaw

ALL_BINS = KarrasBins(first=0, last=999)

Denoise = Callable[[Tensor, float], Tensor]
"""(n, d), sigma -> (n, d): one network."""


def noised_samples(teachers: GaussianMixture, uniform: Tensor, eps: Tensor, sigma: Tensor | float) -> Tensor:
    """Draws of p_sigma from uniforms and standard normals: x = mu_k + (Sigma_k + sigma^2)^(1/2) eps, with the component
    k where the uniform falls among the cumulative weights.

    Every point is taken as a component of its own, so that the cost does not grow with their number.

    Args:
        uniform: (*E, n) in [0, 1). eps: (*E, n, d). sigma: broadcasts against (*E, n); 0 gives clean samples.
    Returns: (*E, n, d), of eps's precision.
    """
    weights = teachers.weights.expand(*uniform.shape[:-1], -1)
    edges = weights.cumsum(-1)[..., :-1].contiguous()
    labels = torch.searchsorted(edges, uniform.to(edges).contiguous(), right=True)
    index = (torch.arange(len(labels), device=labels.device)[:, None], labels) if teachers.means.ndim > 2 else (labels,)
    s2 = torch.as_tensor(sigma, dtype=eps.dtype, device=eps.device).square().expand(uniform.shape)[..., None, None]
    covariance = teachers.covariance.map(lambda t: t[index].to(eps))
    spread = covariance.apply(lambda lam: (lam + s2).sqrt(), slice(None), eps[..., None, :])
    return teachers.means[index].to(eps) + spread.squeeze(-2)


def pretrain(
    teachers: GaussianMixture,
    networks: Pack,
    steps: int,
    generators: Sequence[torch.Generator],
    lr: float | Tensor = 1e-2,
    batch: int = 256,
    law: SigmaLaw = ALL_BINS,
    decay: float = 0.3,
    checkpoints: Collection[int] | None = None,
    captured: bool = False,
) -> Iterator[tuple[int, Pack]]:
    """Fits a pack of denoisers to the teachers' closed-form denoisers, yielding (step, pack) at checkpoints.

        min E (1/sigma^2 + 1/sigma_data^2) |D_theta(x_sigma; sigma) - D(x_sigma; sigma)|^2 / d

    The weight is 1/c_out^2 (Karras et al. 2022, Table 1), so that the loss is that of F against its own target. The
    target is the closed form and not the clean sample: it has no noise of its own, and the network's error goes on
    falling. Adam, its learning rate constant and then linear towards 0.

    Args:
        teachers: one mixture for all networks, or one each (E, ...).
        networks: a pack of `Denoiser`s; not modified.
        steps: updates. lr: learning rate, a float or one per network (E,). batch: samples per update.
        generators: one per network; advanced. A network's numbers depend on its own generator alone.
        law: noise levels, drawn once per sample; by default all 1000 Karras bins.
        decay: share of the steps, at the end, over which the learning rate falls.
        checkpoints: steps at which to yield, by default the start and the end.
        captured: as a CUDA graph, for networks on a CUDA device; see `captured`.
    Raises:
        ValueError: a named argument out of range, or numbers of generators or teachers that do not match the pack.
        TypeError: networks that are not `Denoiser`s.
    """
    sigma_data = _check(teachers, networks, steps, generators, batch, decay).sigma_data
    optimiser = Adam(lr)
    marks = {0, steps} if checkpoints is None else set(checkpoints)
    parameters = {name: p.detach() for name, p in networks.parameters.items()}
    first = next(iter(parameters.values()))
    dtype = first.dtype
    teachers = teachers.to(first)

    def advance(place: tuple[Parameters, State], step: Any, rate: Any) -> tuple[Parameters, State]:
        parameters, state = place
        eps, uniform = (v.to(dtype) for v in _draw(generators, batch, teachers.dim))
        sigma = law.draw(uniform[0])
        x = noised_samples(teachers, uniform[1], eps, sigma)
        target = teachers.denoise(x, sigma)
        weight = sigma**-2 + sigma_data**-2

        def loss(pack: Pack) -> Tensor:
            return (weight * (pack(x, sigma) - target).square().mean(-1)).mean(-1)

        gradients = gradients_of(networks.with_parameters(parameters), loss)
        with torch.no_grad():
            return optimiser.step(parameters, gradients, state, rate)

    place = parameters, optimiser.init(parameters)
    graph = Captured(advance, generators, first.device) if captured else None
    for step in range(steps + 1):
        if step in marks:
            yield step, networks.with_parameters((place if graph is None else graph.kept(place))[0])
        if step == steps:
            return
        place = (graph or advance)(place, step, falling(step, steps, decay))


def _draw(generators: Sequence[torch.Generator], batch: int, dim: int) -> tuple[Tensor, Tensor]:
    """eps (E, batch, d) and uniforms (2, E, batch), each network from its own generator."""
    device = generators[0].device
    normal = torch.empty(len(generators), batch, dim, device=device)
    uniform = torch.empty(len(generators), 2, batch, device=device)
    for i, generator in enumerate(generators):
        torch.randn(batch, dim, generator=generator, out=normal[i])
        torch.rand(2, batch, generator=generator, out=uniform[i])
    return normal, uniform.movedim(1, 0)


def _check(teachers: GaussianMixture, networks: Pack, steps: int, generators, batch: int, decay: float) -> Denoiser:
    size = len(networks)
    if not isinstance(networks.module, Denoiser):
        raise TypeError(f"networks must be denoisers, got {type(networks.module).__name__}")
    if networks.module.dim != teachers.dim:
        raise ValueError(f"networks must have dimension {teachers.dim} as the teachers, got {networks.module.dim}")
    if len(generators) != size or len(set(map(id, generators))) != size:
        raise ValueError(f"generators must be distinct, one per network ({size}), got {len(generators)}")
    if teachers.means.ndim > 2 and len(teachers.means) != size:
        raise ValueError(f"teachers must be one or one per network ({size}), got {len(teachers.means)}")
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if batch < 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    return networks.module


# -- how far from the closed form ------------------------------------------------------------------------------------


def denoiser_error(
    network: Denoise,
    teacher: GaussianMixture,
    sigmas: Sequence[float],
    n: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """E|D_theta - D|^2 / E|D - E D|^2 at x ~ p_sigma, for each noise level, (len(sigmas),) float64: 0 is the closed
    form, 1 the error of the best constant.

    Args:
        network: one denoiser, (n, d), sigma -> (n, d), evaluated in `dtype`.
        teacher: one mixture. sigmas: levels, > 0. n: points per level. generator: advanced.
    Raises:
        ValueError: n < 2, or a level <= 0.
    """
    _check_points(n)
    teacher = teacher.to(torch.float64)
    errors = []
    for sigma in map(float, sigmas):
        if not sigma > 0:
            raise ValueError(f"sigmas must be > 0, got {sigma}")
        uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        eps = torch.randn(n, teacher.dim, generator=generator, dtype=torch.float64)
        ours, exact = _both(network, teacher, noised_samples(teacher, uniform, eps, sigma), sigma, dtype)
        errors.append((ours - exact).square().sum() / (exact - exact.mean(0)).square().sum())
    return torch.stack(errors)


@dataclass(frozen=True)
class StartError:
    """A network's one-step output G_0(z) beside the exact one, D(sigma z; sigma), along the eigenvectors v_k of the
    teacher's covariance, largest eigenvalue first. All float64."""

    variance: Tensor
    """lambda_k of the teacher, (d,)."""
    signal: Tensor
    """Standard deviation of <D, v_k>, (d,): lambda_k / sigma for sigma^2 well above lambda_1."""
    error: Tensor
    """Standard deviation of <G_0 - D, v_k>, (d,): what varies with z, and can therefore remap."""
    offset: Tensor
    """Mean of <G_0 - D, v_k>, (d,): a shift of all samples."""
    slope: Tensor
    """M_0 = Cov(G_0, z), rows along v_k, (d, d)."""
    exact_slope: Tensor
    """M_D = Cov(D, z), rows along v_k, (d, d)."""
    linear_share: float
    """Share of the variance of G_0 that least squares on z explains."""
    exact_linear_share: float
    """The same for D."""

    def mode_cosines(self) -> Tensor:
        """The same for each eigenvector by itself, (d,)."""
        return torch.nn.functional.cosine_similarity(self.slope, self.exact_slope, -1, eps=0.0)

    def cosine(self, modes: int | None = None) -> float:
        """<M_0, M_D> / (|M_0| |M_D|) over the leading eigenvectors, by default all: the between-mode directions of a
        mixture of K narrow components are the first K - 1.

        Raises ValueError for modes < 1."""
        if modes is not None and modes < 1:
            raise ValueError(f"modes must be >= 1, got {modes}")
        ours, exact = self.slope[:modes], self.exact_slope[:modes]
        return ((ours * exact).sum() / (ours.norm() * exact.norm())).item()


def start_error(
    network: Denoise,
    teacher: GaussianMixture,
    sigma_init: float,
    n: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> StartError:
    """How good a start for a one-step student a network is, at x = sigma_init z with z ~ N(0, I).

    Args:
        network: one denoiser, (n, d), sigma -> (n, d), evaluated in `dtype`.
        teacher: one mixture. sigma_init: > 0. n: points, more than d. generator: advanced.
    Raises:
        ValueError: sigma_init <= 0, or too few points for the regression on z.
    """
    if not sigma_init > 0:
        raise ValueError(f"sigma_init must be > 0, got {sigma_init}")
    _check_points(n, teacher.dim + 2)
    teacher = teacher.to(torch.float64)
    z = torch.randn(n, teacher.dim, generator=generator, dtype=torch.float64)
    lam, V = (v.flip(-1) for v in torch.linalg.eigh(teacher.cov))
    ours, exact = (out @ V for out in _both(network, teacher, sigma_init * z, sigma_init, dtype))
    difference = ours - exact
    z = z - z.mean(0)
    slopes, shares = zip(*(_regression(out, z) for out in (ours, exact)), strict=True)
    return StartError(lam, exact.std(0), difference.std(0), difference.mean(0), *slopes, *shares)


def _both(network: Denoise, teacher: GaussianMixture, x: Tensor, sigma: float, dtype) -> tuple[Tensor, Tensor]:
    """The network's and the exact output at the very points that the network sees."""
    with torch.no_grad():
        return network(x.to(dtype), sigma).double(), teacher.denoise(x.to(dtype).double(), sigma)


def _regression(out: Tensor, z: Tensor) -> tuple[Tensor, float]:
    """Cov(out, z), and the share of the variance of `out` that is linear in z."""
    out = out - out.mean(0)
    # torch's default driver, gelsy, rounds differently from one process to the next.
    fit = z @ torch.linalg.lstsq(z, out, driver="gels").solution
    return out.mT @ z / len(z), (fit.square().sum() / out.square().sum()).item()


def _check_points(n: int, least: int = 2) -> None:
    if n < least:
        raise ValueError(f"n must be >= {least}, got {n}")
