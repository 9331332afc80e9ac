"""Maps built by hand, with displacements known in closed form: every measure reads what was planted, at every d.

Gaussian teacher: T(z) = K z, K_kk = (lambda_k / (1 + lambda_k / sigma_max^2))^(1/2). For any linear student S(z) = A z,

    rho = |A - K|_F^2 / (|A|_F^2 + |K|_F^2),     rho_k = 1 - R_kk and rho = 1 - tr(K^2 R) / tr K^2  for A = K R,

hence 1 - cos(angle) for a rotation by one angle in every plane. Mixtures: T = mu_a + std eps with labels a drawn, so
that centres and offsets are known without a flow.
"""

import functools
import math

import numpy as np
import pytest
import torch

from sandbox.measure.gauge import gauge_displacement
from sandbox.measure.jacobian import effective_rank, jacobian_spectrum, numerical_rank, participation_ratio
from sandbox.measure.modes import eigenmode_displacements, mode_parts
from sandbox.measure.pairing import (
    correlation_distance,
    displacement,
    inefficiency,
    mode_agreement,
    retrieval,
    with_error,
)
from sandbox.measure.references import nearer, rotated, student_agreement
from sandbox.measure.transport import (
    brenier_distance,
    monotonicity_violation,
    relative_monge_gap,
    transport_displacement,
)
from sandbox.student.initialise import haar_rotation
from sandbox.teacher import families
from sandbox.teacher.flow import teacher_map

SLOW = (4, 64, 256)
DIMS = [pytest.param(d, marks=pytest.mark.slow) if d in SLOW else d for d in (1, 2, 4, 16, 64, 256, 1024)]
N = 192
SIGMA_MAX = 80.0
# Of some 150 comparisons with t of 31 degrees of freedom, 4 standard errors leave one in 20 runs out of bounds.
ERRORS = 4.0
# The mean difference takes part of the denominator: E rho_n = rho (1 + (1 - rho) / n), at most 1 / (4 n) too large.
BIAS = 0.25 / N


def normals(n, dim, seed=0):
    return torch.from_numpy(np.random.default_rng((seed, dim)).standard_normal((n, dim)))


def rng(seed=0):
    return np.random.default_rng(seed)


def power_law(dim):
    """The teacher with eigenvalues k^-1.5 and its flow's matrix, from the eigenvalues."""
    teacher = families.gaussian(dim, exponent=1.5)
    lam = torch.arange(1, dim + 1, dtype=torch.float64) ** -1.5
    lam = lam * dim / lam.sum()
    return teacher, (lam / (1 + lam / SIGMA_MAX**2)).sqrt()


def plane_rotation(dim, angle):
    R = torch.eye(dim, dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    for k in range(0, dim - 1, 2):
        R[k : k + 2, k : k + 2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return R


def haar(dim):
    return haar_rotation(dim, torch.Generator().manual_seed(dim))


def planted(measured, value, bias=BIAS):
    return abs(measured.value - value) <= ERRORS * measured.se + bias


def linear_displacement(A, K):
    return ((A - torch.diag(K)).square().sum() / (A.square().sum() + K.square().sum())).item()


# ---- a Gaussian teacher


@pytest.mark.parametrize("dim", DIMS)
def test_the_teacher_itself(dim):
    teacher, _ = power_law(dim)
    z = normals(N, dim)
    t = teacher_map(teacher, z)
    labels = (t[:, 0] > 0).long()
    parts = mode_parts(t, t, labels, labels, rng())
    zeros = [with_error(m, t, t, rng=rng()) for m in (displacement, inefficiency)]
    zeros += [*parts, monotonicity_violation(t, z, rng()), relative_monge_gap(t, z, rng())]
    zeros += [transport_displacement(t, z, rng()), transport_displacement(t, z, rng(), target=t)]
    zeros += eigenmode_displacements(t, t, torch.eye(dim, dtype=torch.float64)[:, :3], rng())
    assert [(m.value, m.se) for m in zeros] == [(0.0, 0.0)] * len(zeros)
    assert with_error(correlation_distance, t, t, rng=rng()).value == pytest.approx(0, abs=1e-12)
    assert gauge_displacement(teacher, t, z, SIGMA_MAX, rng()).value == pytest.approx(0, abs=1e-12)
    ones = [with_error(retrieval, t, t, rng=rng()), with_error(mode_agreement, labels, labels, 2, rng=rng())]
    assert [(m.value, m.se) for m in ones] == [(1.0, 0.0)] * 2


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("turn", ["haar", 2.5])
def test_the_teacher_after_a_rotation(dim, turn):
    teacher, K = power_law(dim)
    R = haar(dim) if turn == "haar" else plane_rotation(dim, turn)
    z = normals(N, dim)
    t, s = teacher_map(teacher, z), rotated(lambda z: teacher_map(teacher, z), z, R)
    want = linear_displacement(torch.diag(K) @ R, K)
    assert want == pytest.approx(1 - (K.square() * R.diagonal()).sum().item() / K.square().sum().item(), abs=1e-12)
    if turn != "haar" and dim > 1:
        assert want == pytest.approx(1 - math.cos(turn), abs=1e-12)
    assert planted(with_error(displacement, s, t, rng=rng()), want)
    assert planted(with_error(correlation_distance, s, t, rng=rng()), want)
    assert planted(nearer(s, s, t, rng()), want)
    found = gauge_displacement(teacher, s, z, SIGMA_MAX, rng())
    assert abs(found.value - (1 - R.diagonal().mean().item())) <= ERRORS * (found.high - found.low) / 4 + 1e-12
    modes = eigenmode_displacements(s, t, torch.eye(dim, dtype=torch.float64), rng())
    if dim <= 16:
        assert all(planted(m, 1 - r) for m, r in zip(modes, R.diagonal().tolist(), strict=True))
    else:
        off = np.array([(m.value - (1 - r)) / m.se for m, r in zip(modes, R.diagonal().tolist(), strict=True)])
        # t with 31 degrees of freedom has variance 31/29; planes' two modes have one and the same error.
        assert 0.7 < np.mean(off**2) < 1.6


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("size", [pytest.param(0.1, marks=pytest.mark.slow), 2.0])
def test_the_teacher_with_a_field_of_known_size(dim, size):
    # Each field has E|f|^2 = E|T|^2.
    teacher, K = power_law(dim)
    z = normals(N, dim)
    t, trace = teacher_map(teacher, z), K.square().sum()
    noise = normals(N, dim, 1) * K
    shift = trace.sqrt() * torch.ones(dim, dtype=torch.float64) / math.sqrt(dim)
    square = normals(dim, dim, 2)
    fields = {"noise": None, "shift": None, "gradient": square + square.T, "curl": square - square.T}
    for name, A in fields.items():
        if name == "noise":
            s, want, alike = t + size * noise, size**2 / (2 + size**2), 1 - (1 + size**2) ** -0.5
        elif name == "shift":
            s, want, alike = t + size * shift, size**2 / (2 + size**2), 0.0
        elif dim == 1 and name == "curl":
            continue  # an antisymmetric matrix of one row is 0
        else:
            A = size * A * (trace / A.square().sum()).sqrt()
            s, want = t + z @ A.T, linear_displacement(torch.diag(K) + A, K)
            alike = (
                1 - ((torch.diag(K) + A) * torch.diag(K)).sum() / ((torch.diag(K) + A).square().sum() * trace).sqrt()
            )
        assert planted(with_error(displacement, s, t, rng=rng()), want), name
        assert planted(with_error(correlation_distance, s, t, rng=rng()), float(alike), bias=1e-12), name
        # <Delta, (K + A) Delta> = <Delta, K Delta> for an antisymmetric A, and a shift has no difference.
        if name in ("shift", "curl"):
            assert monotonicity_violation(s[:64], z[:64], rng()).value == 0.0, name


@pytest.mark.parametrize("dim", DIMS)
def test_low_rank_and_contracted_maps(dim):
    teacher, K = power_law(dim)
    z, rank = normals(N, dim), max(1, dim // 4)
    t = teacher_map(teacher, z)
    kept = (torch.arange(dim) < rank).double()
    lost = (K.square() * (1 - kept)).sum().item()
    low = with_error(displacement, t * kept, t, rng=rng())
    assert planted(low, lost / (2 * K.square().sum().item() - lost))
    few = [m.value for m in eigenmode_displacements(t * kept, t, torch.eye(dim, dtype=torch.float64), rng())]
    assert few == pytest.approx((1 - kept).tolist(), abs=1e-12)
    for scale in (0.1, 0.7):
        found = with_error(displacement, scale * t, t, rng=rng())
        assert planted(found, (1 - scale) ** 2 / (1 + scale**2))
        assert with_error(correlation_distance, scale * t, t, rng=rng()).value == pytest.approx(0, abs=1e-12)
    # The rank sees what the displacement does not, and the other way round.
    R = haar(dim)
    for A in (torch.diag(kept * K) @ R, 0.1 * torch.diag(kept * K)):
        s = jacobian_spectrum(lambda z, A=A: z @ A.T, z[:1])[0]
        p = K[:rank] / K[:rank].sum()
        assert numerical_rank(s, 1e-9).item() == rank
        assert effective_rank(s).item() == pytest.approx((-(p * p.log()).sum()).exp().item(), rel=1e-9)
        assert participation_ratio(s).item() == pytest.approx(
            (K[:rank].square().sum().square() / K[:rank].pow(4).sum()).item(), rel=1e-9
        )


# ---- a mixture


@functools.cache
def mixture(dim):
    return families.random(dim)


def permuted(dim, fresh, n=N, seed=0):
    """T = mu_a + std eps, and S with four of the eight modes in a circle and the same or fresh eps; and both labels."""
    law = mixture(dim)
    a = torch.from_numpy(rng((seed, dim)).integers(law.components, size=n))
    order = torch.tensor([1, 2, 3, 0, 4, 5, 6, 7])
    eps = normals(n, dim, 3 + seed)
    other = normals(n, dim, 1000 + seed) if fresh else eps
    return law, law.means[order[a]] + 0.3 * other, law.means[a] + 0.3 * eps, order[a], a, order


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("fresh", [False, True])
def test_modes_in_another_order(dim, fresh):
    law, s, t, b, a, order = permuted(dim, fresh)
    moved = (law.means[order] - law.means).square().sum(-1).mean().item()
    spread = 2 * (law.means.var(0, correction=0).sum().item() + dim * 0.3**2)
    offsets = 2 * dim * 0.3**2
    parts = mode_parts(s, t, b, a, rng())
    # Centres are means of n/8 points: they carry 8/n of the offsets' variance, which the offsets then lack.
    bias = BIAS + 8 / N * offsets / (spread - offsets)
    assert planted(parts.whole, (moved + fresh * offsets) / spread)
    assert planted(with_error(displacement, s, t, rng=rng()), (moved + fresh * offsets) / spread)
    assert planted(parts.between, moved / spread, bias)
    assert planted(parts.between_own, moved / (spread - offsets), bias)
    assert planted(parts.within, fresh * offsets / spread, bias)
    assert planted(parts.within_own, float(fresh), bias=1e-12)
    assert planted(parts.cross, 0.0, bias=1e-12)
    # Half of the points keep their label; by chance an eighth would.
    assert planted(with_error(mode_agreement, b, a, 8, rng=rng()), (1 / 2 - 1 / 8) / (1 - 1 / 8))


@pytest.mark.parametrize("dim", [1, 2, 16, pytest.param(64, marks=pytest.mark.slow)])
def test_the_flow_of_a_mixture_after_a_rotation(dim):
    law, R, z = mixture(dim), haar(dim), normals(24, dim)

    def flow(z):
        return teacher_map(law, z, tolerance=1e-3)

    t, s = flow(z), rotated(flow, z, R)
    assert displacement(s, flow(z @ R.T), rng()).value == 0.0
    assert displacement(t, t, rng()).value == 0.0
    if dim == 1:
        assert torch.equal(s, t)
        return
    # Not in closed form, but not a copy, and a rotation back is one.
    assert displacement(s, t, rng()).value > 0.2
    back = rotated(lambda z: rotated(flow, z, R), z, R.T)
    assert displacement(back, t, rng()).value < 1e-5


# ---- independent pairs


DRAWS, FEW = 12, 40
NULLS = {
    "displacement": 1.0,
    "correlation_distance": 1.0,
    "inefficiency": 1.0,
    "retrieval": 1 / FEW,
    "mode_agreement": 0.0,
    "between_own": 1.0,
    "within_own": 1.0,
    "cross": 0.0,
    "leading": 1.0,
    "violation": 0.5,
    "monge_gap": 1.0,
    "transport": 1.0,
    "brenier": 1.0,
    "nearer": 0.0,
    "each_other": 1.0,
    "teacher": 1.0,
    "closer": 0.0,
    "beyond": 1.0,
}


@functools.cache
def independent(dim):
    """Every measure on independent pairs of two different laws, draw by draw."""
    draws = []
    for draw in range(DRAWS):
        _, s, _, a, _, _ = permuted(dim, False, FEW, 10 * draw)
        _, _, t, _, b, _ = permuted(dim, False, FEW, 10 * draw + 1)
        s, y = 2 * s + 1, torch.stack([permuted(dim, False, FEW, 10 * draw + i)[2] for i in (2, 3)])
        z, g = normals(FEW, dim, 5000 + draw), rng(draw)
        parts, agreement = mode_parts(s, t, a, b, g), student_agreement(s, y[0], t, g)
        draws.append(
            {m.__name__: m(s, t, g) for m in (displacement, correlation_distance, inefficiency, retrieval)}
            | {"mode_agreement": mode_agreement(a, b, 8, g), "leading": leading(s, t, g)}
            | {part: getattr(parts, part) for part in ("between_own", "within_own", "cross")}
            | {"violation": monotonicity_violation(s, z, g), "monge_gap": relative_monge_gap(s, z, g)}
            | {
                "transport": transport_displacement(s, z, g),
                "brenier": brenier_distance(s, z, y, g),
                "nearer": nearer(s, t, y[0], g),
            }
            | agreement._asdict()
        )
    return draws


def leading(s, t, g):
    return eigenmode_displacements(s, t, torch.eye(s.shape[1], dtype=torch.float64)[:, :1], g)[0]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", NULLS)
def test_independent_pairs_read_their_null(name, dim):
    found = [draw[name] for draw in independent(dim)]
    # 95 % intervals from 64 shuffles hold a little less: of 12, fewer than 8 are a chance of one in 1000.
    assert sum(m.low <= m.value <= m.high for m in found) >= 8
    # The mean of 12 by Student's t: 4 standard errors are a chance of 2 in 1000.
    values = [m.value for m in found]
    assert abs(np.mean(values) - NULLS[name]) <= 4 * np.std(values, ddof=1) / math.sqrt(DRAWS) + 1e-12
