"""The Jacobian of a noise-data map without its matrix: leading singular triplets, ranks and curl from products.

J v and J^T u cost about one evaluation of the map each, whatever its dimension. Leading singular vectors come from a
block Krylov space; sums over all singular values from random directions orthogonal to the leading ones, each with a
standard error.

    sum s^2, sum s^4        |J g|^2 and |J^T J g|^2: Hutchinson's estimator (1989) behind a deflation (Hutch++: Meyer,
                            Musco, Musco & Woodruff 2021)
    sum s, sum s ln s       stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017) of sqrt(lambda) and
                            sqrt(lambda) ln sqrt(lambda) on J^T J

The ranks' directions are uniform on a sphere: on a flat spectrum, where those of normal length fluctuate most, their
estimates are exact. Errors of functions of several sums are the jackknife's over directions, at each point by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import vjp, vmap

Map = Callable[[Tensor], Tensor]

# Far above rounding and far below what is asked of singular vectors.
TRACE = 1e-11


class Products:
    """J v and J^T u of a map at fixed points.

    J^T u is linear in u, and J v its own derivative by u: reverse mode twice, so that the map itself is evaluated once
    for all products (forward mode evaluates it in every one). Products are taken in the points' precision and returned
    in float64.

    Args:
        f: (n, d_in) -> (n, d_out), each row a function of its own row alone, differentiable in reverse mode; a
            teacher's flow is one, lambda z: teacher_map(teacher, z). z: (n, d_in).
    """

    def __init__(self, f: Map, z: Tensor):
        with torch.no_grad():
            out, pull = vjp(f, z.detach().clone())[:2]
            push = vjp(lambda u: pull(u)[0], torch.zeros_like(out))[1]
        self.points, self.d_in, self.d_out, self.dtype = len(z), z.shape[-1], out.shape[-1], z.dtype
        # The products of a constant map do not depend on v, and vmap has no columns to return them in.
        self._forward = vmap(lambda v: push(v)[0] + v.new_zeros(()), in_dims=1, out_dims=1)
        self._adjoint = vmap(lambda u: pull(u)[0] + u.new_zeros(()), in_dims=1, out_dims=1)

    def forward(self, v: Tensor) -> Tensor:
        """J v, (n, m, d_in) -> (n, m, d_out). Raises ValueError if a product is not finite."""
        return self._finite(self._forward, v)

    def adjoint(self, u: Tensor) -> Tensor:
        """J^T u, (n, m, d_out) -> (n, m, d_in). Raises ValueError if a product is not finite."""
        return self._finite(self._adjoint, u)

    def _finite(self, product: Callable[[Tensor], Tensor], v: Tensor) -> Tensor:
        with torch.no_grad():
            out = product(v.to(self.dtype)).double()
        if not torch.isfinite(out.sum()):
            raise ValueError("f must have a finite Jacobian at every z, got a non-finite one")
        return out


class Triplets(NamedTuple):
    """J V = U diag(s) with orthonormal U and V, and how far J^T U is from V diag(s)."""

    U: Tensor
    """Left singular vectors, on the side of the data, (n, d_out, k)."""
    s: Tensor
    """Singular values, descending, never above the exact ones, (n, k)."""
    V: Tensor
    """Right singular vectors, on the side of the noise, (n, d_in, k)."""
    residual: Tensor
    """|J^T u - s v|, (n, k): an exact singular value is at most so far from s."""


class Estimate(NamedTuple):
    """A quantity at each point, (n,), with what is known of its error."""

    value: Tensor
    error: Tensor
    """Standard error by random directions."""
    truncation: Tensor
    """What finitely many products leave, as far as it can be told; not random, and not part of the standard error."""


def leading_triplets(
    f: Map, z: Tensor, k: int, generator: torch.Generator, depth: int = 6, oversample: int = 4, chunk: int = 16
) -> Triplets:
    """The k leading singular triplets of df/dz at each point.

    Randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4) that keeps all its iterates, a block
    Krylov space (Musco & Musco 2015), hence block Lanczos with full reorthogonalisation. 2 (k + oversample) depth + k
    products per point.

    Args:
        f: (n, d_in) -> (n, d_out), by rows. z: (n, d_in), also the precision of the products.
        generator: draws the first block. depth: blocks. oversample: columns of a block beyond k.
        chunk: points at once; the draws do not depend on it.
    Raises:
        ValueError: k not in 1 .. min(d_in, d_out) or above the rank at some z, depth < 1, oversample < 0, or a Jacobian
            that is zero or not finite.
    """
    _at_least(1, k=k, depth=depth, chunk=chunk)
    _at_least(0, oversample=oversample)
    parts = []
    for J, first, _ in _parts(f, z, k + oversample, 0, generator, chunk):
        if k > min(J.d_in, J.d_out):
            raise ValueError(f"k must be <= min(d_in, d_out) = {min(J.d_in, J.d_out)}, got {k}")
        found = _triplets(J, first, depth, k)
        rounding = torch.finfo(z.dtype).eps * max(J.d_in, J.d_out)
        rank = int((found.s > rounding * found.s[:, :1]).sum(-1).min())
        if rank < k:
            raise ValueError(f"k must be <= the rank of the Jacobian at every z, got {k} where it is {rank}")
        parts.append(found)
    return _joined(Triplets, parts)


def estimated_ranks(
    f: Map,
    z: Tensor,
    generator: torch.Generator,
    leading: int = 16,
    depth: int = 4,
    probes: int = 32,
    paths: int = 8,
    steps: int = 16,
    chunk: int = 16,
) -> dict[str, Estimate]:
    """Effective rank, participation ratio and stable rank of df/dz at each point, as the functions of these names.

    The leading triplets are summed as they are, and what is orthogonal to them by random directions. At each point
    2 leading depth + leading + 2 probes + 2 paths steps products, 464 by default.

    sum s and sum s ln s take J as block diagonal in the leading directions and the rest, an error of second order in
    the residuals; sum s^2 and sum s^4 count what couples the two. Their truncations are

        effective rank        the change from half the steps: too large where the error falls faster than 1 / steps.
                              Gauss quadrature puts singular values near zero too high, so that the estimate comes from
                              above; a spectrum whose bulk lies far above its smallest values needs many steps.
                              A wide network's is one, of which `jacobian.capped_spectrum` is exact
        stable rank           what the leading singular value's residual allows
        participation ratio   none

    Args:
        f: (n, d_in) -> (n, d_out), by rows. z: (n, d_in), also the precision of the products.
        generator: draws directions, point by point. leading: triplets. depth: blocks of their Krylov space.
        probes: random directions for sum s^2 and sum s^4. paths: how many of them Lanczos follows for the effective
            rank, 2 <= paths <= probes. steps: of Lanczos, >= 2.
        chunk: points at once; the draws do not depend on it.
    Raises:
        ValueError: counts out of range, or a Jacobian that is zero or not finite.
    """
    _at_least(1, leading=leading, depth=depth, chunk=chunk)
    _at_least(2, paths=paths, steps=steps)
    _at_least(paths, probes=probes)
    parts = [
        _ranks(J, _triplets(J, first, depth, leading), directions, paths, steps)
        for J, first, directions in _parts(f, z, leading, probes, generator, chunk)
    ]
    return {name: _joined(Estimate, [p[name] for p in parts]) for name in parts[0]}


def _ranks(J: Products, top: Triplets, directions: Tensor, paths: int, steps: int) -> dict[str, Estimate]:
    s, rest = top.s, J.d_in - top.s.shape[-1]
    g = _orthogonal(directions, top.V)
    Jg = J.forward(g)
    JtJg = _less(J.adjoint(Jg), top.V)
    coupling = 2 * (s * top.residual).square().sum(-1)
    s2 = s.square().sum(-1), rest * Jg.square().sum(-1)
    s4 = s.pow(4).sum(-1) + coupling, rest * JtJg.square().sum(-1)
    participation, spread = _jackknife(lambda a, b: a.square() / b, s2, s4)
    largest = s[:, :1]
    stable, error = _jackknife(lambda a: a / largest.square(), s2)
    lower = (largest / (largest + top.residual[:, :1])).square()[:, 0]
    alpha, beta = _bidiagonal(J, top.V, g[:, :paths], steps)
    (effective, scatter), (half, _) = (
        _jackknife(_exp_entropy, *(_sums(h, s, alpha, beta, count, rest) for h in (torch.abs, _s_ln_s)))
        for count in (steps, steps // 2)
    )
    return {
        "effective_rank": Estimate(effective, scatter, half - effective),
        "participation_ratio": Estimate(participation, spread, torch.zeros_like(spread)),
        "stable_rank": Estimate(stable, error, stable * (1 - lower)),
    }


def estimated_curl(f: Map, z: Tensor, generator: torch.Generator, probes: int = 32, chunk: int = 16) -> Estimate:
    """|J - J^T|_F / |J|_F at each point from E|(J - J^T) v|^2 / E|J v|^2, the same v in both (`jacobian.curl`).

    Two products for each of `probes` >= 2 directions. Of a curl of zero, what is left is rounding in z's precision.

    Raises ValueError for probes < 2, d_in != d_out, or a Jacobian that is zero or not finite."""
    _at_least(2, probes=probes)
    _at_least(1, chunk=chunk)
    parts = []
    for J, _, v in _parts(f, z, 0, probes, generator, chunk):
        if J.d_in != J.d_out:
            raise ValueError(f"f must have d_in = d_out to have a curl, got {J.d_in} and {J.d_out}")
        Jv = J.forward(v)
        _not_zero(Jv.abs().amax((-2, -1)))
        none = torch.zeros(J.points, dtype=torch.float64, device=v.device)
        squares = ((none, w.square().sum(-1)) for w in (Jv - J.adjoint(v), Jv))
        value, error = _jackknife(lambda a, b: (a / b).sqrt(), *squares)
        parts.append(Estimate(value, error, none))
    return _joined(Estimate, parts)


def _joined(kind, parts: list):
    """The named tuples of chunks of points as one."""
    return kind(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}")


def _not_zero(size: Tensor) -> None:
    if (size == 0).any():
        raise ValueError("f must have a Jacobian that is not zero at any z, got a zero one")


def _parts(
    f: Map, z: Tensor, block: int, probes: int, generator: torch.Generator, chunk: int
) -> Iterator[tuple[Products, Tensor, Tensor]]:
    """Chunks of points, each with normal draws (n, d_in, block) and (n, probes, d_in)."""
    if z.ndim != 2 or 0 in z.shape:
        raise ValueError(f"z must have shape (n, d) with n and d >= 1, got {tuple(z.shape)}")

    def drawn(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64, device=generator.device)

    for part in z.split(chunk):
        # Point by point, so that a point's directions do not depend on how many others there are beside it.
        draws = [drawn(block + probes, z.shape[-1]) for _ in part]
        first, directions = torch.stack(draws).to(z.device).split([block, probes], 1)
        yield Products(f, part), first.mT, directions


def _triplets(J: Products, first: Tensor, depth: int, k: int) -> Triplets:
    """At most k triplets from the Krylov space of J^T J on a block (n, d_in, b)."""
    block, tiny = min(first.shape[-1], J.d_in), torch.finfo(torch.float64).tiny
    new = torch.linalg.qr(first[..., :block]).Q
    basis, image = new, J.forward(new.mT).mT
    _not_zero(image.abs().amax((-2, -1)))
    for step in range(1, depth):
        room = min(block, J.d_in - basis.shape[-1])
        if room == 0:
            break
        new = J.adjoint(image[..., -block:].mT).mT
        # A trace of other directions, for a space that is exhausted; twice, because what is left may be that alone.
        new = new / torch.linalg.matrix_norm(new).clamp_min(tiny)[:, None, None] + TRACE * first[..., :block].roll(
            step, 1
        )
        for _ in range(2):
            new = torch.linalg.qr(new - basis @ (basis.mT @ new)).Q[..., :room]
        basis, image = torch.cat([basis, new], -1), torch.cat([image, J.forward(new.mT).mT], -1)
    U, s, Wh = torch.linalg.svd(image, full_matrices=False)
    U, s, V = U[..., :k], s[..., :k], (basis @ Wh.mT)[..., :k]
    residual = (J.adjoint(U.mT).mT - V * s[:, None]).norm(dim=-2)
    return Triplets(U, s, V, residual)


def _less(v: Tensor, V: Tensor) -> Tensor:
    """The part of v (n, m, d) that is orthogonal to the columns of V (n, d, k)."""
    return v - (v @ V) @ V.mT


def _orthogonal(v: Tensor, V: Tensor) -> Tensor:
    """The same at length one; twice, because what is left may be much smaller than v."""
    v = _less(_less(v, V), V)
    return v / v.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)


def _bidiagonal(J: Products, V: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Golub & Kahan's (1965) recurrence of J restricted to the complement of V, from each v (n, m, d_in): diagonals
    (n, m, steps) and superdiagonals (n, m, steps - 1).

    Without reorthogonalisation: its loss repeats nodes of the quadrature and divides their weight, and leaves the
    sums."""
    tiny = torch.finfo(torch.float64).tiny
    u, b = torch.zeros(*v.shape[:-1], J.d_out, dtype=v.dtype, device=v.device), v.new_zeros(*v.shape[:-1], 1)
    alpha, beta = [], []
    for step in range(steps):
        u = J.forward(v) - b * u
        a = u.norm(dim=-1, keepdim=True)
        u = u / a.clamp_min(tiny)
        alpha.append(a[..., 0])
        if step < steps - 1:
            v = _less(J.adjoint(u) - a * v, V)
            b = v.norm(dim=-1, keepdim=True)
            v = v / b.clamp_min(tiny)
            beta.append(b[..., 0])
    return torch.stack(alpha, -1), torch.stack(beta, -1)


def _s_ln_s(s: Tensor) -> Tensor:
    return torch.special.xlogy(s, s)


def _exp_entropy(sum_s: Tensor, sum_s_ln_s: Tensor) -> Tensor:
    """exp(-sum p ln p) with p = s / sum s."""
    return sum_s * torch.exp(-sum_s_ln_s / sum_s)


def _sums(
    g: Callable[[Tensor], Tensor], top: Tensor, alpha: Tensor, beta: Tensor, steps: int, rest: int
) -> tuple[Tensor, Tensor]:
    """sum g(s) over the leading singular values (n,), and over the rest as each direction sees it (n, m)."""
    B = torch.diag_embed(alpha[..., :steps]) + torch.diag_embed(beta[..., : steps - 1], 1)
    _, s, Wh = torch.linalg.svd(B)
    return g(top).sum(-1), rest * (Wh[..., 0].square() * g(s)).sum(-1)


def _jackknife(f: Callable[..., Tensor], *sums: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """f of sums, each known (n,) + the mean of samples (n, m), and its standard error by leaving one sample out of all
    sums (Quenouille 1956, Tukey 1958); f takes arrays (n, m)."""
    m = sums[0][1].shape[-1]
    value = f(*(known[:, None] + x.mean(-1, keepdim=True) for known, x in sums))[:, 0]
    without = f(*(known[:, None] + (x.sum(-1, keepdim=True) - x) / (m - 1) for known, x in sums))
    spread = (without - without.mean(-1, keepdim=True)).square().sum(-1)
    return value, ((m - 1) / m * spread).sqrt()
