"""The adversarial term of DMD2: a classifier of real and fake samples on the features of the fake score's network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sandbox.student.denoiser import Denoiser, Preconditioning, activation, times
from sandbox.student.fake import NetworkFake
from sandbox.student.gan_losses import critic_loss, r1_penalty, student_loss
from sandbox.student.networks import Pack
from sandbox.student.noise import draw_noise
from sandbox.teacher.mixture import GaussianMixture

Noised = tuple[Tensor, Tensor]
"""Points (E, n, d) and the noise levels (E, n) that they are at."""


class Head(nn.Module):
    """a . silu(W f + b) + c of features f (n, width), (n,); with a pack's parameters (E, ...), (E, n, width) -> (E, n).

    Args:
        width: features, and hidden units. generator: draws W and then a, entries iid N(0, 1/width).
    """

    def __init__(self, width: int, generator: torch.Generator):
        super().__init__()
        self.W = nn.Parameter(torch.randn(width, width, generator=generator) / math.sqrt(width))
        self.b = nn.Parameter(torch.zeros(width))
        self.a = nn.Parameter(torch.randn(1, width, generator=generator) / math.sqrt(width))
        self.c = nn.Parameter(torch.zeros(1))

    def forward(self, f: Tensor) -> Tensor:
        hidden = activation(times(f, self.W, self.b[..., None, :]))
        return times(hidden, self.a, self.c[..., None, :]).squeeze(-1)


class JudgingDenoiser(Denoiser):
    """A copy of a denoiser that also holds the parameters of a `Head`, which its own forward pass does not use."""

    def __init__(self, denoiser: Denoiser, generator: torch.Generator):
        nn.Module.__init__(self)
        self.dim, self.sigma_data = denoiser.dim, denoiser.sigma_data
        self.net = copy.deepcopy(denoiser.net)
        self.head = Head(len(self.net.b), generator)


class Critic(nn.Module):
    """The logit head(h) that x_sigma is a noised real point, h the last hidden features of D(x_sigma; sigma).

    Its parameters have the names of the `JudgingDenoiser` that it is made of."""

    packs = True

    def __init__(self, denoiser: JudgingDenoiser):
        super().__init__()
        self.sigma_data, self.net, self.head = denoiser.sigma_data, denoiser.net, denoiser.head

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x (n, d), sigma (n,) -> (n,)."""
        c = Preconditioning.at(sigma, self.sigma_data, x)
        return self.head(self.net.features(c.into * x, c.noise))


def with_heads(denoisers: Pack, generators: Sequence[torch.Generator]) -> Pack:
    """The same denoisers, each with a new head drawn from its own generator; they denoise as before.

    Raises TypeError for a pack of anything else, ValueError if the generators are not one per network."""
    module = denoisers.module
    if not isinstance(module, Denoiser):
        raise TypeError(f"a head goes on denoisers, got {type(module).__name__}")
    if len(generators) != len(denoisers):
        raise ValueError(f"generators must be one per network ({len(denoisers)}), got {len(generators)}")
    heads = Pack.of([Head(len(module.net.b), generator) for generator in generators])
    first = next(iter(denoisers.parameters.values()))
    drawn = {f"head.{name}": p.to(first) for name, p in heads.parameters.items()}
    return Pack(JudgingDenoiser(module, torch.Generator()), {**denoisers.parameters, **drawn})


def critic_of(networks: Pack) -> Pack:
    """The classifiers x (E, n, d), sigma (E, n) -> logits (E, n) of a pack of `JudgingDenoiser`s.

    Raises TypeError for a pack of anything else."""
    if not isinstance(networks.module, JudgingDenoiser):
        raise TypeError(f"networks must have a head, got {type(networks.module).__name__}")
    return Pack(Critic(networks.module), networks.parameters)


def critic_objective(critic: Pack, real: Noised, fake: Noised, r1: float) -> Tensor:
    """E softplus(-l_real) + E softplus(l_fake) + (r1 / 2) E |grad l_real|^2 at noised samples, (E,)."""
    points, sigma = real
    if not r1:
        return critic_loss(critic(points, sigma), critic(*fake))
    points = points.detach().requires_grad_()
    logits = critic(points, sigma)
    return critic_loss(logits, critic(*fake)) + r1_penalty(logits, points, r1)


def placed(teachers: GaussianMixture, uniform: Tensor, white: Tensor) -> Tensor:
    """Points mu_k + Sigma_k^(1/2) white of one law for all or one each, (E, n, d), component k drawn by uniform.

    `GaussianMixture.sample` of given numbers: it draws a whole pack's from one generator.

    Args:
        uniform: (E, n) in [0, 1). white: standard normal, (E, n, d).
    """
    steps = teachers.weights.cumsum(-1).expand(len(white), -1)
    steps = (steps / steps[:, -1:]).contiguous()
    labels = torch.searchsorted(steps, uniform.to(steps), right=True)
    x = torch.zeros_like(white)
    for k in range(teachers.components):
        one = slice(k, k + 1)  # with an axis of components the product is one per student, whoever else is there
        draw = teachers.means[..., one, None, :] + teachers.covariance.apply(torch.sqrt, one, white[:, None])
        x = torch.where((labels == k)[..., None], draw[:, 0], x)
    return x


@dataclass(frozen=True)
class AdversarialFake(NetworkFake):
    r"""A fake score whose network also tells the students' samples from the teachers' (DMD2, Yin et al. 2024).

    With logits l(x_sigma, sigma) of a head on the last hidden features, and x_sigma = x + sigma eps at the fake score's
    noise levels for real and fake samples alike,

        fake score   E lambda |D - x|^2 + critic_weight (E softplus(-l_real) + E softplus(l_fake) + R1)
        student      the distribution matching loss + student_weight E softplus(-l_fake)
        R1           (r1 / 2) E |grad l_real|^2        (Mescheder et al. 2018)

    network and head learning together. DMD2's weights are 1e-2 and 3e-3, without R1; its head is on the features in
    the middle of a U-Net.

    Args:
        networks: of `with_heads`. teachers: the real law, one for all or one each (E, ...), of the networks' precision
            and on their device.
        critic_weight, student_weight, r1: as above, >= 0.
    Raises:
        TypeError: networks without a head.
        ValueError: a weight out of range, teachers of another precision or number.
    """

    teachers: GaussianMixture = field(kw_only=True)
    critic_weight: float = field(default=1e-2, kw_only=True)
    student_weight: float = field(default=3e-3, kw_only=True)
    r1: float = field(default=0.0, kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        for name in ("critic_weight", "student_weight", "r1"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        critic_of(self.networks)  # may raise
        means, first = self.teachers.means, next(iter(self.networks.parameters.values()))
        if means.dtype != first.dtype:
            raise ValueError(f"teachers must be of the networks' precision {first.dtype}, got {means.dtype}")
        if means.ndim > 2 and len(means) != len(first):
            raise ValueError(f"teachers must be one or one per network ({len(first)}), got {len(means)}")

    def student_loss(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """student_weight E softplus(-l(x + sigma eps, sigma)), (E,), differentiable in x (E, n, d); advances the
        generators, for noise of its own.

        One number per sample, whatever d: distribution matching with reduction "mean", whose gradient is divided by d,
        weighs the less beside it the larger d is."""
        return self.student_weight * student_loss(critic_of(self.networks)(*self._noised(x, generators)))

    def minibatch(
        self, students: Pack, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Callable[[Pack], Tensor]]:
        """As `NetworkFake.minibatch`, whose numbers are drawn first."""
        x, denoising = super().minibatch(students, generators)
        white, _, label = draw_noise(generators, self.batch, self.dim, False, x.dtype)
        real = self._noised(placed(self.teachers, label, white), generators)
        fake = self._noised(x, generators)

        def loss(pack: Pack) -> Tensor:
            return denoising(pack) + self.critic_weight * critic_objective(critic_of(pack), real, fake, self.r1)

        return x, loss

    def _noised(self, x: Tensor, generators: Sequence[torch.Generator]) -> Noised:
        """x (E, n, d) at noise levels and with noise of its own."""
        _, eps, uniform = draw_noise(generators, x.shape[1], x.shape[2], False, x.dtype)
        sigma = self.law.draw(uniform)
        return x + sigma[..., None] * eps, sigma
