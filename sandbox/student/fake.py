r"""Fake scores: what stands for the score of the student's own law while it trains.

    exact     the student's law in closed form; linear students only
    levels    one matrix per noise level, D(x; sigma_b) = W_b x, learned by gradient descent; linear students only
    network   a denoiser network, learned by denoising the student's samples, as DMD2 does

Each is a value with a leading pack axis: `update` returns the fake score after its own updates and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from sandbox.student.captured import Advance, Captured
from sandbox.student.losses import WEIGHTINGS, denoising_loss, denoising_weight
from sandbox.student.networks import LinearStudent, Pack, gradients_of
from sandbox.student.noise import draw_noise
from sandbox.student.optimise import Optimiser, State
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins, LogGrid, SigmaLaw, levels_beside


class FakeScore(Protocol):
    """A denoiser of the students' own noised samples."""

    def learned(self) -> State:
        """What `update` changes: tensors and numbers, in dictionaries and tuples."""
        ...

    def with_learned(self, state: State) -> Any:
        """The same fake score with this state in place of its own."""
        ...

    def denoise(self, students: Pack, x: Tensor, sigma: Tensor) -> Tensor:
        """D_fake at x (E, n, d) and sigma (E, n), (E, n, d)."""
        ...

    def update(self, students: Pack, generators: Sequence[torch.Generator]) -> FakeScore:
        """The fake score after the updates that it makes for each update of the students; advances the generators."""
        ...


@dataclass(frozen=True)
class ExactFake:
    """The score of the student's law in closed form: nothing to learn, no lag, no noise."""

    def learned(self) -> State:
        return None

    def with_learned(self, state: State) -> ExactFake:
        return self

    def denoise(self, students: Pack, x: Tensor, sigma: Tensor) -> Tensor:
        return students.law().denoise(x, sigma)

    def update(self, students: Pack, generators: Sequence[torch.Generator]) -> ExactFake:
        return self


@dataclass(frozen=True)
class LevelFake:
    """One free matrix per noise level, (E, levels, d, d), by gradient descent on |W_b (x + sigma_b eps) - x|^2 / 2.

    The step at level b is lr / (1 + sigma_b^2), the gradient an average over the samples that fell on that level; a
    level without samples stays.

    Args:
        weights: W, (E, levels, d, d). law: a law over these levels. lr: rate. batch: samples of an update, over all
        levels. updates: per update of the students. antithetic: every x with +eps and -eps.
    Raises:
        ValueError: weights that do not fit the levels, or a number out of range.
    """

    weights: Tensor
    law: LogGrid | KarrasBins
    lr: float = 0.1
    batch: int = 64
    updates: int = 1
    antithetic: bool = False

    def __post_init__(self):
        _check_learner(self.batch, self.updates, self.antithetic)
        if not self.lr > 0:
            raise ValueError(f"fake_lr must be > 0, got {self.lr}")
        if self.weights.shape[1] != len(self.law.levels):
            raise ValueError(
                f"weights must hold one matrix for each of {len(self.law.levels)} levels, got {self.weights.shape[1]}"
            )

    @classmethod
    def of_teacher(cls, teachers: GaussianMixture, size: int, law: LogGrid | KarrasBins, **settings) -> LevelFake:
        """Started at the teacher's denoiser, W_b = Sigma (Sigma + sigma_b^2)^-1, for a centred Gaussian teacher."""
        cov = teachers.cov.expand(size, teachers.dim, teachers.dim)
        lam, Q = torch.linalg.eigh(cov)
        gain = lam[:, None] / (lam[:, None] + law.levels.to(lam).square()[:, None])  # (E, levels, d)
        return cls((Q[:, None] * gain[..., None, :]) @ Q[:, None].mT, law, **settings)

    def learned(self) -> State:
        return self.weights

    def with_learned(self, state: State) -> LevelFake:
        return replace(self, weights=state)

    def _index(self, sigma: Tensor) -> Tensor:
        levels = levels_beside(self.law, sigma)
        middle = (levels[1:] * levels[:-1]).sqrt()
        return torch.bucketize(sigma, middle)

    def denoise(self, students: Pack, x: Tensor, sigma: Tensor) -> Tensor:
        every = x[:, None] @ self.weights.mT  # (E, levels, n, d): cheaper than a matrix per sample
        index = self._index(sigma)[:, None, :, None].expand(-1, 1, -1, x.shape[-1])
        return every.gather(1, index)[:, 0]

    def update(self, students: Pack, generators: Sequence[torch.Generator]) -> LevelFake:
        dim, dtype = self.weights.shape[-1], self.weights.dtype
        W = self.weights
        with torch.no_grad():
            for _ in range(self.updates):
                z, eps, uniform = draw_noise(generators, self.batch, dim, self.antithetic, dtype)
                x, sigma = students(z), self.law.draw(uniform)
                y = x + sigma[..., None] * eps
                residual = replace(self, weights=W).denoise(students, y, sigma) - x
                here = torch.nn.functional.one_hot(self._index(sigma), W.shape[1]).to(dtype).mT  # (E, levels, n)
                share = here / here.sum(-1, keepdim=True).clamp(min=1)
                gradient = (share[..., None] * residual[:, None]).mT @ y[:, None]
                rate = self.lr / (1 + levels_beside(self.law, W).square())
                W = W - rate[:, None, None] * gradient
        return replace(self, weights=W)


@dataclass(frozen=True)
class NetworkFake:
    """A denoiser network trained on the students' samples: min E lambda(sigma) |D(x + sigma eps; sigma) - x|^2.

    By default lambda = 1/sigma^2 + 1/sigma_data^2, as in DMD2's EDM variant (Yin et al. 2024).

    Args:
        networks: the pack of denoisers, functions (x, sigma) -> x. optimiser, state: with its state. law: noise levels.
        dim: d.
        sigma_data: as in the networks' preconditioning, one for all or one each (E,). batch, updates, antithetic: as
        `LevelFake`.
        weighting: edm or epsilon, lambda of `losses.denoising_weight`.
    """

    networks: Pack
    optimiser: Optimiser
    state: State
    law: SigmaLaw
    dim: int
    sigma_data: float | Tensor = 1.0
    batch: int = 128
    updates: int = 5
    antithetic: bool = False
    weighting: str = "edm"

    def __post_init__(self):
        _check_learner(self.batch, self.updates, self.antithetic)
        if self.weighting not in WEIGHTINGS:
            raise ValueError(f"fake_weighting must be one of {', '.join(WEIGHTINGS)}, got {self.weighting!r}")

    @classmethod
    def of(cls, networks: Pack, optimiser: Optimiser, law: SigmaLaw, dim: int, **settings) -> NetworkFake:
        """A fake score that starts at these networks, its optimiser at rest."""
        return cls(networks, optimiser, optimiser.init(networks.parameters), law, dim, **settings)

    def learned(self) -> State:
        return self.networks.parameters, self.state

    def with_learned(self, state: State) -> NetworkFake:
        parameters, moments = state
        return replace(self, networks=self.networks.with_parameters(parameters), state=moments)

    def denoise(self, students: Pack, x: Tensor, sigma: Tensor) -> Tensor:
        return self.networks(x, sigma)

    def update(self, students: Pack, generators: Sequence[torch.Generator]) -> Self:
        networks, state = self.networks, self.state
        for _ in range(self.updates):
            _, loss = self.minibatch(students, generators)
            gradients = gradients_of(networks, loss)
            with torch.no_grad():
                parameters, state = self.optimiser.step(networks.parameters, gradients, state)
            networks = networks.with_parameters(parameters)
        return replace(self, networks=networks, state=state)

    def minibatch(
        self, students: Pack, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Callable[[Pack], Tensor]]:
        """The students' samples x (E, n, d) in one update, and the loss of the networks (E,) that it descends; advances
        the generators."""
        first = next(iter(self.networks.parameters.values()))
        z, eps, uniform = draw_noise(generators, self.batch, self.dim, self.antithetic, first.dtype)
        with torch.no_grad():
            x = students.samples(z, generators)
        sigma = self.law.draw(uniform)
        weight = denoising_weight(sigma, _filled(self.sigma_data, first), self.weighting)
        noised = x + sigma[..., None] * eps
        return x, lambda pack: denoising_loss(pack(noised, sigma), x, weight)

    def warmed(
        self, students: Pack, generators: Sequence[torch.Generator], updates: int, captured: bool = False
    ) -> NetworkFake:
        """The fake score after `updates` more updates on students that stand still; captured: see `captured`."""
        if updates < 0:
            raise ValueError(f"fake_warmup must be >= 0, got {updates}")
        single = replace(self, updates=1)

        def advance(place: State, step: Any, rate: Any) -> State:
            return single.with_learned(place).update(students, generators).learned()

        place = self.learned()
        turn: Advance = advance
        if captured and updates:
            turn = Captured(advance, generators, next(iter(self.networks.parameters.values())).device)
        for step in range(updates):
            place = turn(place, step, 1.0)
        return self.with_learned(place)


def _filled(sigma_data: float | Tensor, like: Tensor) -> Tensor:
    """(1, 1) or (E, 1), where `like` is; a float is written there rather than sent, which would wait for the device."""
    if isinstance(sigma_data, Tensor):
        return sigma_data.to(like).reshape(-1, 1)
    return torch.full((1, 1), sigma_data, dtype=like.dtype, device=like.device)


def require_linear(students: Pack, what: str) -> None:
    """Raises TypeError unless the students are linear."""
    if not isinstance(students.module, LinearStudent):
        raise TypeError(f"{what} needs a linear student, got {type(students.module).__name__}")


def _check_learner(batch: int, updates: int, antithetic: bool) -> None:
    if batch < 1 or (antithetic and batch % 2):
        raise ValueError(f"fake_batch must be >= 1, and even with antithetic noise, got {batch}")
    if updates < 1:
        raise ValueError(f"fake_updates must be >= 1, got {updates}")
