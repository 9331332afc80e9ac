"""The Jacobian of a noise-data map, dense: singular spectra, effective ranks and curl.

Rank sees contraction, not pairing: T∘R has at z the singular values that T has at Rz. Report it beside a displacement,
or beside the curl, which does see a rotation of the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jacfwd, jacrev, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sandbox.measure.matrix_free import Products
from sandbox.student.denoiser import Correction, OneStep, Preconditioning

# Tangents alive at once in forward mode: what an operation takes and gives, and what a residual connection keeps.
TANGENTS = 6


def jacobian(f: Callable[[Tensor], Tensor], z: Tensor, chunk: int = 64) -> Tensor:
    """df/dz at each point, (n, d_out, d_in), computed in z's precision and returned in float64, by forward or reverse
    mode, whichever needs fewer passes.

    Args:
        f: (n, d_in) -> (n, d_out), each row a function of its own row alone.
        z: (n, d_in).
        chunk: points differentiated at once.
    Raises:
        ValueError: f returned a non-finite derivative.
    """

    def one(point: Tensor) -> Tensor:
        return f(point[None])[0]

    mode = jacrev if f(z[:1]).shape[-1] < z.shape[-1] else jacfwd
    # Without a graph to the parameters. Forward mode gives tangents the size of the whole storage that a part views.
    with torch.no_grad():
        J = torch.cat([vmap(mode(one))(part.clone()) for part in z.split(chunk)])
    if not torch.isfinite(J).all():
        raise ValueError("f must have a finite Jacobian at every z, got a non-finite one")
    return J.detach().double()


class _Widest(TorchDispatchMode):
    """The largest tensor that is made while a map runs, in numbers; views of what exists are not made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in given]
        self.numbers = max(self.numbers, *(t.numel() for t in made), 0)
        return out


def points_within(f: Callable[[Tensor], Tensor], z: Tensor, max_bytes: int) -> int:
    """Points whose Jacobians and tangents fit into max_bytes, at least one.

    A point takes the d_out x d_in block in z's precision and three times in float64 (as returned, and as LAPACK copies
    it), and six tangents of f's widest layer for each direction. Raises ValueError if max_bytes < 1."""
    if not max_bytes >= 1:
        raise ValueError(f"max_bytes must be >= 1, got {max_bytes}")
    rows = z[:1].repeat(2, 1)
    with torch.no_grad(), _Widest() as widest:
        d_out = f(rows).shape[-1]
    directions, block = min(z.shape[-1], d_out), z.shape[-1] * d_out
    layer = max(z.shape[-1], d_out, -(-widest.numbers // len(rows)))
    each = TANGENTS * directions * layer * z.element_size() + block * (z.element_size() + 3 * 8)
    return max(1, int(max_bytes // each))


def jacobian_spectrum(f: Callable[[Tensor], Tensor], z: Tensor, max_bytes: int = 2**29) -> Tensor:
    """Singular values of df/dz at each point, descending, (n, min(d_in, d_out)) float64; as `jacobian`.

    max_bytes: bounds the Jacobians and forward-mode tangents held at once (`points_within`), whatever n."""
    at_once = points_within(f, z, max_bytes)
    return torch.cat([torch.linalg.svdvals(jacobian(f, part, len(part))) for part in z.split(at_once)])


def curl(J: Tensor) -> Tensor:
    """|J - J^T|_F / |J|_F, (*E, d, d) -> (*E,) float64: 0 for a symmetric matrix, hence for a Brenier map, sqrt(2) for
    independent entries or a random rotation of large dimension, 2 for an antisymmetric matrix.

    Raises ValueError for a matrix that is not square, not finite, or zero."""
    if J.ndim < 2 or J.shape[-1] != J.shape[-2]:
        raise ValueError(f"J must have shape (..., d, d) to have a curl, got {tuple(J.shape)}")
    J = J.double()
    size = torch.linalg.matrix_norm(J)
    if not torch.isfinite(size).all():
        raise ValueError("J must be finite, got a non-finite entry")
    if (size == 0).any():
        raise ValueError("J must not be zero, got a zero matrix")
    return torch.linalg.matrix_norm(J - J.mT) / size


def _checked(s: Tensor) -> Tensor:
    s = torch.as_tensor(s).double()
    if (s < 0).any() or not torch.isfinite(s).all():
        raise ValueError("s must be finite singular values >= 0")
    if (s.sum(-1) == 0).any():
        raise ValueError("s must have a positive entry in every row, got a zero matrix's spectrum")
    return s


def effective_rank(s: Tensor) -> Tensor:
    """exp of the entropy of s / sum(s), between 1 and the number of singular values (Roy & Vetterli 2007); (..., m) ->
    (...).

    >>> round(effective_rank(torch.ones(7)).item(), 12)
    7.0
    """
    s = _checked(s)
    p = s / s.sum(-1, keepdim=True)
    return torch.exp(-torch.special.xlogy(p, p).sum(-1))


def participation_ratio(s: Tensor) -> Tensor:
    """(sum s^2)^2 / sum s^4; (..., m) -> (...)."""
    s2 = _checked(s).square()
    return s2.sum(-1).square() / s2.square().sum(-1)


def stable_rank(s: Tensor) -> Tensor:
    """|J|_F^2 / |J|_2^2; (..., m) -> (...)."""
    s2 = _checked(s).square()
    return s2.sum(-1) / s2.amax(-1)


def numerical_rank(s: Tensor, rtol: float) -> Tensor:
    """Number of singular values above rtol times the largest; (..., m) -> (...) int64.

    Raises ValueError unless 0 < rtol < 1."""
    if not 0 < rtol < 1:
        raise ValueError(f"rtol must be between 0 and 1, got {rtol}")
    s = _checked(s)
    return (s > rtol * s.amax(-1, keepdim=True)).sum(-1)


def ranks(s: Tensor, rtol: float = 1e-3) -> dict[str, Tensor]:
    """Every rank of spectra (..., m), by name, each (...) float64."""
    return {
        "effective_rank": effective_rank(s),
        "participation_ratio": participation_ratio(s),
        "stable_rank": stable_rank(s),
        "numerical_rank": numerical_rank(s, rtol).double(),
    }


def compared_ranks(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], dim: int) -> dict[str, float]:
    """Ranks of two maps at the same points, each {name: (n,)}, as one flat record of their means over the points:

        student_<name>, teacher_<name>                   absolute
        student_<name>_over_d, teacher_<name>_over_d     over the dimension
        <name>_over_teacher                              the mean of the ratio at the same z

    Raises ValueError for names or numbers of points that differ, or dim < 1."""
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    if student.keys() != teacher.keys():
        raise ValueError(f"student and teacher must have the same ranks, got {sorted(student)} and {sorted(teacher)}")
    record: dict[str, float] = {}
    for name, a in student.items():
        b = teacher[name]
        if a.shape != b.shape or a.ndim != 1:
            raise ValueError(f"{name} must have shape (n,) for both, got {tuple(a.shape)} and {tuple(b.shape)}")
        for owner, rank in (("student", a), ("teacher", b)):
            record[f"{owner}_{name}"] = rank.mean().item()
            record[f"{owner}_{name}_over_d"] = rank.mean().item() / dim
        record[f"{name}_over_teacher"] = (a / b).mean().item()
    return record


def rank_record(student: Tensor, teacher: Tensor, rtol: float = 1e-3) -> dict[str, float]:
    """The ranks of two maps' spectra at the same points, absolute, over d and over the teacher's; as `compared_ranks`.

    Args:
        student, teacher: singular values, (n, d). rtol: of the numerical rank.
    Raises:
        ValueError: shapes that differ, or what is not a spectrum (`effective_rank`).
    """
    if student.shape != teacher.shape or student.ndim != 2:
        raise ValueError(
            f"student and teacher must both have shape (n, d), got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    return compared_ranks(ranks(student, rtol), ranks(teacher, rtol), student.shape[-1])


class RankCap(NamedTuple):
    """J = skip I + E with rank E <= rank, at every z."""

    skip: float
    rank: int


def rank_cap(student: OneStep | Correction) -> RankCap:
    """What a residual network's width says about its Jacobian: J = skip I + E, rank E <= width.

    Every path through the network, though not the skip connection around it, passes the first layer, E = A(z) W with W
    (width, d). A `Correction` has no skip: its rank is capped. A `OneStep` has skip = c_skip sigma_init, so that its J
    is in general of full rank. What is capped is how many singular values exceed skip: at most width (Weyl), and at
    least d - 2 width equal it exactly (J and J^T are skip I where E and E^T both vanish). At sigma_init = 80 and
    sigma_data = 1 skip is 0.0125: a numerical rank at an rtol above skip / s_1 is at most width.

    Raises ValueError for anything else, whose layers are not known here."""
    if not isinstance(student, OneStep | Correction):
        raise ValueError(f"student must be a OneStep or a Correction to have a known cap, got {type(student).__name__}")
    width, dim = student.net.inward.shape
    if isinstance(student, Correction):
        return RankCap(0.0, min(width, dim))
    like = torch.ones((), dtype=torch.float64)
    if student.skip == "trained":
        raise ValueError("student must have a fixed linear path, or none, to have a known cap, got a trained one")
    if student.skip == "off":
        return RankCap(0.0, min(width, dim))
    c = Preconditioning.at(student.sigma_init, student.sigma_data, like)
    return RankCap(student.sigma_init * c.skip.item(), min(width, dim))


def capped_spectrum(student: OneStep | Correction, z: Tensor, chunk: int = 16) -> Tensor:
    """Every singular value of a residual network's Jacobian from `width` derivatives, descending, (n, d) float64.

    With the first layer's row space Q (d, width), E = (J - skip I) Q Q^T exactly (`rank_cap`). J is then skip I but on
    the 2 width directions that Q and E Q span: their block has the other singular values. Worth it where 2 width < d;
    the spectrum of all derivatives is computed elsewhere.

    Args:
        student: a single network. z: (n, d), of the precision of its parameters. chunk: points at once.
    Raises:
        ValueError: as `rank_cap`, or a derivative that is not finite.
    """
    skip, _ = rank_cap(student)
    W = student.net.inward.detach().double()
    width, dim = W.shape
    if 2 * width >= dim:
        return jacobian_spectrum(student, z)
    Q = torch.linalg.qr(W.mT).Q
    return torch.cat([_capped(student, part, Q, skip) for part in z.split(chunk)])


def _capped(student: OneStep | Correction, z: Tensor, Q: Tensor, skip: float) -> Tensor:
    n, (dim, width) = len(z), Q.shape
    EQ = Products(student, z).forward(Q.mT.expand(n, -1, -1)).mT - skip * Q
    within = Q.mT @ EQ
    beyond = torch.linalg.qr(EQ - Q @ within).R
    block = skip * torch.eye(2 * width, dtype=torch.float64).repeat(n, 1, 1)
    block[:, :, :width] += torch.cat([within, beyond], -2)
    rest = torch.full((n, dim - 2 * width), skip, dtype=torch.float64)
    return torch.cat([torch.linalg.svdvals(block), rest], -1).sort(descending=True).values
