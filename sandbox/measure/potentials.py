"""Functions of the data that a mixture suggests, by their gradients: where to look for a change that is horizontal."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sandbox.teacher.mixture import GaussianMixture

# The most functions by default: at d = 128 and n = 1024 a quarter of a gigabyte, and seconds.
MOST = 256

# Equations for each function: n/2 points of d coordinates.
EQUATIONS = 8

# Noise levels at which log p_sigma is among the functions, from the modes' scale to the law's.
LEVELS = 5

# Share of the functions that waves have at least.
WAVES = 4

# Phase, in radians over one standard deviation of the points, of the longest wave.
SLOWEST = 0.5


class Potentials:
    """Gradients at x (n, d) of m functions, (m, n, d), to stand beside the linear and quadratic ones:

        log p_sigma(x)      of the noised law, at five levels: what score differences are made of
        r_k(x; s) f(x)      in each mode, f = 1, |x - mu_k|^2/2, y_j, y_i y_j with y = V^T (x - mu_k) along the leading
                            eigenvectors of the points, as many as there is room for
        cos(omega . x + b)  random waves, from half a radian per standard deviation of the points to one per standard
                            deviation of a mode

    with s the smallest standard deviation of a mode (5 % of the points' for a singular law).

    Args:
        teacher: a GaussianMixture, any object with score(x, sigma), or None for waves alone.
        x: points, (n, d), float64.
        size: m; by default one for 8 equations of half of the points, at most 256. A quarter or more are waves.
        seed: of the waves.
    Raises:
        ValueError: x of another shape or dimension than the teacher's, constant or not finite, or size < 0.
    """

    def __init__(self, teacher, x: Tensor, size: int | None = None, seed: int = 0):
        if x.ndim != 2 or x.shape[-1] != getattr(teacher, "dim", x.shape[-1]):
            raise ValueError(f"x must have shape (n, {getattr(teacher, 'dim', 'd')}), got {tuple(x.shape)}")
        n, d = x.shape
        size = min(MOST, n * d // (2 * EQUATIONS)) if size is None else size
        if size < 0:
            raise ValueError(f"size must be >= 0, got {size}")
        if not torch.isfinite(x).all() or (x == x[0]).all():
            raise ValueError("x must be finite and not constant")
        x = x.double()
        self.teacher = teacher.to(torch.float64) if isinstance(teacher, GaussianMixture) else teacher
        lam, V = torch.linalg.eigh((x - x.mean(0)).mT @ (x - x.mean(0)) / n)
        lam, self.V = lam.flip(0).clamp(min=1e-12 * lam[-1].item()), V.flip(1)
        spread = lam[0].sqrt().item()
        self.scale = getattr(self.teacher, "smallest_std", 0.0) or 0.05 * spread
        room = size - size // WAVES
        self.levels: list[float] = []
        if hasattr(self.teacher, "score"):
            steps = torch.linspace(0, 1, LEVELS, dtype=torch.float64).tolist()
            self.levels = [self.scale * max(spread / self.scale, 1.0) ** step for step in steps][:room]
        modes = self.teacher.modes if isinstance(self.teacher, GaussianMixture) else 1
        self.in_each = 0
        if modes > 1:
            self.in_each = min((room - len(self.levels)) // modes, 2 + d + d * (d + 1) // 2)
        waves = size - len(self.levels) - modes * self.in_each
        generator = torch.Generator().manual_seed(seed)
        e = torch.nn.functional.normalize(torch.randn(waves, d, generator=generator, dtype=torch.float64), dim=-1)
        # Sent on from the slowest phase evenly in its logarithm, in coordinates in which the points have unit variance.
        fastest = max(spread / self.scale, 4 * SLOWEST)
        phase = SLOWEST * (fastest / SLOWEST) ** torch.rand(waves, 1, generator=generator, dtype=torch.float64)
        self.omega = (phase * e / lam.sqrt()) @ self.V.mT
        self.shift = 2 * math.pi * torch.rand(waves, generator=generator, dtype=torch.float64) - self.omega @ x.mean(0)

    def __call__(self, x: Tensor) -> Tensor:
        """x (n, d) -> (m, n, d)."""
        waves = -torch.sin(self.omega @ x.mT + self.shift[:, None])[..., None] * self.omega[:, None]
        scores = [self.teacher.score(x, level)[None] for level in self.levels]
        return torch.cat([*scores, *([self._in_modes(x)] if self.in_each else []), waves])

    def _in_modes(self, x: Tensor) -> Tensor:
        """grad(r_k f) = r_k grad f + f grad r_k, with grad r_k = r_k (g_k - s): all f in the first mode, then the
        next. r_k and grad r_k of a mode of several components are the sums of theirs, mu_k its mean."""
        law, s2 = self.teacher, self.scale**2
        r = law.responsibilities(x, self.scale).mT
        g = -law.covariance.apply(lambda lam: 1 / (lam + s2), slice(0, law.components), x - law.means[:, None])
        turn = r[..., None] * (g - law.score(x, self.scale))
        centres = law.means
        if law.mode_of is not None:
            share = law.weights / law.mode_weights[law.mode_of]
            centres, r, turn = (
                v.new_zeros(law.modes, *v.shape[1:]).index_add_(0, law.mode_of, v)
                for v in (share[:, None] * centres, r, turn)
            )
        delta = x - centres[:, None]
        f, grad = self._of_one_mode(delta)
        return (r[:, None, :, None] * grad + f[..., None] * turn[:, None]).flatten(0, 1)

    def _of_one_mode(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """1, |x - mu_k|^2/2, y_j, y_i y_j, (K, J, n), and their gradients, (K, J, n, d), from x - mu_k, (K, n, d)."""
        d = delta.shape[-1]
        linear = min(d, max(self.in_each - 2, 0))
        i, j = torch.tril_indices(d, d)[:, : max(self.in_each - 2 - linear, 0)]
        y, V = (delta @ self.V).mT, self.V.mT[:, None]  # (K, d, n), and rows (d, 1, d)
        f = torch.cat(
            [torch.ones_like(y[:, :1]), delta.square().sum(-1)[:, None] / 2, y[:, :linear], y[:, i] * y[:, j]], 1
        )
        grad = [torch.zeros_like(delta)[:, None], delta[:, None], V[:linear].expand(len(y), -1, delta.shape[1], -1)]
        grad.append(y[:, i, :, None] * V[j] + y[:, j, :, None] * V[i])
        return f[:, : self.in_each], torch.cat(grad, 1)[:, : self.in_each]
