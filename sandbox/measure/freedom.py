"""Geometric freedom: how much of a student's change remaps its noise, and how much changes its law.

A change u of the points x = S(z) changes their law p at the rate -div(p u). Least squares over the points splits it,

    u = grad phi + w,   phi = argmin E|u - grad phi|^2,   hence   div(p w) = 0   and   E|u|^2 = E|grad phi|^2 + E|w|^2,

into the horizontal grad phi, the least motion with this effect on the law, and the vertical w, which has none and
remaps the noise (Otto 2001). The **freedom fraction** is E|w|^2 / E|u|^2. No inverse of S is needed: phi is a function
of the points. In one dimension every field is a gradient.

For linear students the split is exact (`linear_freedom.py`). Otherwise phi is sought among linear and all quadratic
functions and the `Potentials` of a mixture. What no phi of these can do counts as vertical, so that the fraction is an
upper bound, tight where the span holds the gradients that matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from sandbox.measure.gauge import SINGULAR
from sandbox.measure.potentials import Potentials
from sandbox.student.denoiser import ExactResidual
from sandbox.student.networks import Pack

# Random fields that a fraction is compared with.
NULL_FIELDS = 32

# Keeps the seeds of random directions apart from others'.
DIRECTION_STREAM = 1

# Smallest eigenvalue, over the number of functions of unit size, of what quadratics leave of them; below is rounding.
RANK = 1e-10

# Least share of a combination of functions' energy that half of the points must show for it to be fitted there: about
# one half on average, and by it the error elsewhere of what is fitted is bounded.
SHOWN = 0.02

Gradients = Callable[[Tensor], Tensor]


class Freedom(NamedTuple):
    """The freedom fraction of a field, or of many together, at n points."""

    fraction: float
    """1 - E<u, grad phi> / E|u|^2, phi fitted to the other half of the points: above the true fraction by the gradients
    that are not in the span, and not biased by overfitting but for a share of functions / n of either sign, where u has
    both parts: within one standard error at the default number of functions. May come out below 0 or above 1 by its
    error."""
    error: float
    """Its standard error over points, and over directions if there are several fields; 1.4 times too large where the
    field is vertical."""
    null: float
    """Mean of the fraction over 32 single fields of independent normals, and its central 95 %: 1 on average."""
    low: float
    high: float
    in_sample: float
    """E|w|^2 / E|u|^2 at the points that phi was fitted to: too small by about functions / (n d / 2) of itself."""
    held_out: float
    """E|u - grad phi|^2 / E|u|^2, phi fitted to the other half: too large by about as much."""
    functions: int
    """Independent functions phi that were fitted."""
    each: Tensor
    """The fraction of each field, (P,)."""


def split(x: Tensor, u: Tensor, potentials: Gradients | None = None) -> tuple[Tensor, Tensor, int]:
    """The horizontal part of fields u at points x.

    Args:
        x: independent points of the student's law, (n, d), n >= 2 (d + 1).
        u: fields there, (P, n, d).
        potentials: gradients of more functions than the linear and quadratic ones, x (n, d) -> (m, n, d).
    Returns:
        grad phi with phi fitted to the other half of the points (every second one), (P, n, d); with phi fitted to the
        same half; and the number of independent functions.
    Raises:
        ValueError: shapes that do not agree, too few points, non-finite numbers.
    """
    x, u = _checked(x, u)
    crossed, within, ranks = torch.empty_like(u), torch.empty_like(u), []
    halves = (slice(0, None, 2), slice(1, None, 2))
    features = [potentials(x[half]) if potentials else x.new_zeros(0, *x[half].shape) for half in halves]
    for i, j in ((0, 1), (1, 0)):
        here, there, F, elsewhere = halves[i], halves[j], features[i], features[j]
        quadratics = Quadratics(x[here])
        c, rank = _coefficients(F, elsewhere, x[there], u[:, here], quadratics)
        rest = quadratics.fit(u[:, here] - _combine(c, F))
        within[:, here] = _combine(c, F) + quadratics.gradient(rest)
        crossed[:, there] = _combine(c, elsewhere) + quadratics.gradient(rest, x[there])
        ranks.append(rank + quadratics.functions)
    return crossed, within, min(ranks)


def _checked(x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    if x.ndim != 2 or u.ndim != 3 or u.shape[1:] != x.shape or not len(u):
        raise ValueError(f"x and u must have shapes (n, d) and (P, n, d), got {tuple(x.shape)} and {tuple(u.shape)}")
    n, d = x.shape
    if n < 2 * (d + 1):
        raise ValueError(f"n must be >= 2 (d + 1) = {2 * (d + 1)}, got {n}")
    for name, values in (("x", x), ("u", u)):
        if not torch.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {(~torch.isfinite(values)).sum()} non-finite numbers")
    return x.double(), u.double()


class Quadratics:
    """Least squares by the gradients b + M (x - m), M symmetric, of all quadratic functions, in closed form.

    With N = E[u (x - m)^T] and C the covariance of the points: b = E u, and C M + M C = N + N^T."""

    def __init__(self, x: Tensor):
        self.mean = x.mean(0)
        self.y = x - self.mean
        lam, self.V = torch.linalg.eigh(self.y.mT @ self.y / len(x))
        self.pairs = lam[:, None] + lam
        self.known = self.pairs > SINGULAR * lam[-1]
        self.functions = x.shape[-1] + int(self.known.triu().sum())

    def fit(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """b (P, d) and M (P, d, d) of fields u (P, n, d) at the points."""
        N = self.V.mT @ (u.mT @ self.y / len(self.y)) @ self.V
        M = torch.where(self.known, (N + N.mT) / self.pairs, 0.0)
        return u.mean(1), self.V @ M @ self.V.mT

    def gradient(self, fit: tuple[Tensor, Tensor], x: Tensor | None = None) -> Tensor:
        """b + M (x - m), (P, n, d), at the points themselves by default."""
        b, M = fit
        return b[:, None] + (self.y if x is None else x - self.mean) @ M


def _coefficients(F: Tensor, elsewhere: Tensor, x: Tensor, u: Tensor, quadratics: Quadratics) -> tuple[Tensor, int]:
    """Least squares on gradients F (m, n, d) beside those of the quadratics, (P, m), and the rank that F adds.

    What the quadratics leave of both is regressed (Frisch & Waugh 1933). The same gradients elsewhere, at the
    other points x, only say which combinations are left out: those that are a quadratic's at every point, and those
    that these points hardly show, which would be fitted to a few of them and be huge at the others."""
    size = torch.cat([F.flatten(1), elsewhere.flatten(1)], 1).norm(dim=1).clamp(min=1e-300)
    fit = quadratics.fit(F)
    left = (F - quadratics.gradient(fit)).flatten(1) / size[:, None]
    there = (elsewhere - quadratics.gradient(fit, x)).flatten(1) / size[:, None]
    here = left @ left.mT
    lam, E = torch.linalg.eigh(here + there @ there.mT)
    W = (E / lam.clamp(min=1e-300).sqrt())[:, lam > RANK * len(F)]
    shown, E = torch.linalg.eigh(W.mT @ here @ W)
    W = (W @ E)[:, shown > SHOWN]
    c = ((u.flatten(1) @ left.mT) @ W / shown[shown > SHOWN]) @ W.mT
    return c / size, W.shape[1]


def _combine(c: Tensor, F: Tensor) -> Tensor:
    return (c @ F.flatten(1)).unflatten(1, F.shape[1:])


def freedom(
    x: Tensor, u: Tensor, potentials: Gradients | None = None, seed: int = 0, nulls: int = NULL_FIELDS
) -> Freedom:
    """The freedom fraction E|w|^2 / E|u|^2 of the changes u of points x, cross-fitted, beside that of random fields.

    Where S sends two z to one x, u is not a function of x; by how much the two differ counts as vertical, as it leaves
    the law to first order. At d = 1 the fraction is 0 by definition, which takes S to be one-to-one.

    Args:
        x: points S(z_i), (n, d). u: their changes, (n, d), or P fields whose energies are added up, (P, n, d).
        potentials: as for `split`, `Potentials` for instance.
        seed: of the random fields, >= 0. nulls: their number; 0 saves their time, and leaves null, low and high NaN.
    Raises:
        ValueError: as `split`, and for a u that is zero everywhere.
    """
    x, fields = _checked(x, u if u.ndim == 3 else u[None])
    P, n, d = fields.shape
    energy = fields.square().sum(-1)
    total = energy.sum()
    if not total > 0:
        raise ValueError("u must not be zero everywhere")
    if d == 1:
        return Freedom(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, torch.zeros(P, dtype=torch.float64))
    # From a stream of their own: points drawn by torch with this seed would come again as the first of torch's fields,
    # and x itself is a gradient.
    noise = np.random.default_rng((NULL_FIELDS, seed)).standard_normal((nulls, n, d))
    given = torch.cat([fields, torch.from_numpy(noise)])
    crossed, within, functions = split(x, given, potentials)
    single = 1 - (given * crossed).sum((1, 2)) / given.square().sum((1, 2))
    fraction = 1 - (fields * crossed[:P]).sum() / total
    missed = (fields - crossed[:P]).square().sum(-1)
    # A point's |w|^2 - fraction |u|^2: to first order the share moves with the points alone, as phi minimises it. In
    # |w|^2 = |u|^2 - 2 <u, g> + |g|^2 the last is taken from two fits, for one fit's square counts its error twice.
    product = ((within[:P] - 2 * fields) * crossed[:P]).sum(-1)
    influence = ((1 - fraction) * energy + product) / total
    variance = influence.sum(0).var() * n
    if P > 1:
        variance = variance + influence.sum(1).var() * P
    low, high = np.quantile(single[P:].numpy(), [0.025, 0.975]) if nulls else (np.nan, np.nan)
    return Freedom(
        fraction.item(),
        variance.sqrt().item(),
        single[P:].mean().item(),
        float(low),
        float(high),
        ((fields - within[:P]).square().sum() / total).item(),
        (missed.sum() / total).item(),
        functions,
        single[:P],
    )


# -- three uses ------------------------------------------------------------------------------------------------------


def parametrised(student: nn.Module | Pack, index: int = 0) -> tuple[Callable, dict[str, Tensor]]:
    """A student as a function (parameters, z (n, d)) -> (n, d), and its parameters in float64.

    Args:
        student: a module, or a pack of which the member `index` is taken."""
    if isinstance(student, Pack):
        one = replace(student, forward=None)
        if isinstance(one, ExactResidual):
            teachers = one.teachers.to(torch.float64)
            if teachers.means.ndim > 2:
                own = slice(index, index + 1)
                covariance = teachers.covariance.map(lambda t: t[own])
                teachers = type(teachers)(teachers.weights[own], teachers.means[own], covariance)
            one = replace(one, teachers=teachers)
        parameters = {name: p[index].detach().double() for name, p in student.parameters.items()}
        return lambda p, z: one.with_parameters({name: v[None] for name, v in p.items()})(z[None])[0], parameters
    parameters = {name: p.detach().double() for name, p in student.named_parameters()}
    return lambda p, z: functional_call(student, p, (z,)), parameters


def direction_stream(seed: int) -> torch.Generator:
    """A stream of its own: with the seed that a student's weights were drawn by, its first direction would be these
    weights themselves."""
    state = np.random.SeedSequence((DIRECTION_STREAM, seed)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))


def available(
    student: nn.Module | Pack,
    z: Tensor,
    teacher=None,
    directions: int = 16,
    seed: int = 0,
    index: int = 0,
    size: int | None = None,
) -> Freedom:
    """The freedom a student has: the fraction of its changes dS along isotropic random directions of its parameters.

    Args:
        student: as for `parametrised`, with index. z: standard normal points, (n, d).
        teacher: whose law the potentials are adapted to, or None.
        directions: random directions. seed: of these and of the random potentials. size: as for `Potentials`.
    Raises:
        ValueError: as `freedom`, and if directions < 1.
    """
    if directions < 1:
        raise ValueError(f"directions must be >= 1, got {directions}")
    call, parameters = parametrised(student, index)
    generator = direction_stream(seed)
    z, changes = z.double(), []
    with torch.no_grad():
        for _ in range(directions):
            step = {
                name: torch.randn(p.shape, generator=generator, dtype=torch.float64) for name, p in parameters.items()
            }
            result = jvp(lambda p: call(p, z), (parameters,), (step,))
            changes.append(result[1])
    x = result[0]
    return freedom(x, torch.stack(changes), Potentials(teacher, x, size, seed), seed)


def used(
    before: Tensor, after: Tensor, teacher=None, seed: int = 0, size: int | None = None, nulls: int = NULL_FIELDS
) -> Freedom:
    """The freedom a step used: the fraction of u = S_(t+1)(z) - S_t(z) at the points S_t(z), both (n, d).

    Args:
        before, after: S_t(z), S_(t+1)(z) at the same z. teacher, seed, size: as for `available`. nulls: as for
            `freedom`.
    Raises:
        ValueError: as `freedom`, and for two shapes.
    """
    return freedom(before, _change(before, after), Potentials(teacher, before, size, seed), seed, nulls)


def net(start: Tensor, end: Tensor, teacher=None, seed: int = 0, size: int | None = None) -> Freedom:
    """The freedom that training used on balance: the fraction of u = S_end(z) - S_0(z) halfway between the two, (n, d).

    A change that is not small is split at (S_0 + S_end)/2, where a gradient map (S_end Brenier over S_0) still reads 0
    and a finite rotation of a normal law reads 1 (Cayley): at S_0, one by theta would read (1 + cos theta)/2. Growth
    outweighs all else where S_0 is small, u = 2 x: what was remapped is then told by the gauge, and for linear students
    by `linear_net`.

    Raises ValueError as `freedom`, and for two shapes."""
    change = _change(start, end)
    middle = start.double() + change / 2
    return freedom(middle, change, Potentials(teacher, middle, size, seed), seed)


def _change(before: Tensor, after: Tensor) -> Tensor:
    if before.shape != after.shape:
        raise ValueError(f"both maps' points must have one shape, got {tuple(before.shape)} and {tuple(after.shape)}")
    return after.double() - before.double()
