"""The antisymmetric part of a denoiser's Jacobian."""

import math

import pytest
import torch
from problems import mixture

from sandbox.measure.fake_curl import DIRECTIONS, denoiser_curl, error_curl
from sandbox.measure.jacobian import jacobian
from sandbox.student.denoiser import Denoiser
from sandbox.student.fake import NetworkFake
from sandbox.student.moment_fake import MomentFake
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.no_fake import NoFake
from sandbox.student.optimise import Adam
from sandbox.teacher.families import gaussian
from sandbox.teacher.schedule import LogUniform


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parts(dim, seed=0):
    """A symmetric matrix and an antisymmetric one."""
    A = normal(dim, dim, seed=seed)
    return (A + A.mT) / 2, (A - A.mT) / 2


def field(W):
    return lambda x, sigma: x @ W.mT


def spread(dim, n=20):
    """Noise levels of their own for n points, and points."""
    return normal(n, dim, seed=2), 0.1 + normal(n, seed=3).square()


@pytest.mark.parametrize("dim", [2, 3, DIRECTIONS + 1, 40])
@pytest.mark.parametrize("a", [0.0, 1e-3, 1.0, 30.0])
def test_a_planted_rotation_is_read_off(dim, a):
    """|2 a K| / |S + a K| = 2 a |K| / sqrt(|S|^2 + a^2 |K|^2): the two parts are orthogonal."""
    S, K = parts(dim)
    want = 2 * a * K.norm() / (S.square().sum() + a**2 * K.square().sum()).sqrt()
    got = denoiser_curl(field(S + a * K), *spread(dim))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("a", [1e-6, 0.3])
@pytest.mark.parametrize("dim", [2, 20])
def test_the_error_fields_rotation_is_read_off(dim, a):
    """S is the exact field, S + b S' + a K the fake one: |2 a K| / |b S' + a K|."""
    S, K = parts(dim)
    other, _ = parts(dim, seed=1)
    want = 2 * a * K.norm() / ((0.1 * other).square().sum() + a**2 * K.square().sum()).sqrt()
    got = error_curl(field(S + 0.1 * other + a * K), field(S), *spread(dim))
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-13)


def test_an_error_that_only_rotates_reads_two():
    S, K = parts(4)
    got = error_curl(field(S + 0.2 * K), field(S), *spread(4))
    torch.testing.assert_close(got, torch.tensor(2.0).double(), rtol=1e-12, atol=0)


def test_points_are_averaged_before_the_root():
    """J = diag(1, 1) + g(x) K with K of norm sqrt(2) at points where g is 0 and 1: sqrt((0 + 8) / (2 + 4))."""
    K = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double()
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).double()
    got = denoiser_curl(lambda x, sigma: x + (x[..., :1] > 0) * (x @ K.mT), x, 1.0)
    assert got.item() == pytest.approx(math.sqrt(8 / 6), rel=1e-12)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full", "low-rank", "near-duplicate", "atoms"])
@pytest.mark.parametrize("dim", [1, 2, 16])
def test_a_mixtures_denoiser_is_a_gradient_field(kind, dim):
    x, sigma = spread(dim)
    assert denoiser_curl(mixture(kind, dim).law.denoise, x, sigma).item() < 1e-12


def test_a_field_in_one_dimension_has_no_curl():
    assert denoiser_curl(lambda x, sigma: torch.tanh(3 * x) + sigma[..., None], *spread(1)).item() == 0


def test_a_network_has_the_curl_of_its_jacobians():
    """Each member of a pack, against another way to its Jacobian."""
    dim, size, sigma = 3, 2, 0.7
    made = [Denoiser(dim, 16, 1, torch.Generator().manual_seed(i)).double() for i in range(size)]
    for i, network in enumerate(made):
        network.net.outward.data = normal(dim, 16, seed=10 + i)
    fake = NetworkFake.of(Pack.of(made), Adam(1e-3), LogUniform(0.05, 5.0), dim)
    x = normal(size, 12, dim)
    got = denoiser_curl(lambda x, s: fake.denoise(None, x, s), x, torch.full((size, 12), sigma).double())
    for e in range(size):
        member = fake.networks.member(e)
        J = jacobian(lambda x, member=member: member(x, torch.full(x.shape[:1], sigma).double()), x[e])
        want = ((J - J.mT).square().sum() / J.square().sum()).sqrt()
        assert want > 0.1
        torch.testing.assert_close(got[e], want, rtol=1e-10, atol=0)


def test_fake_scores_that_are_scores_have_none():
    """Its law need not be known before: what is kept of it must serve outside of the derivative too."""
    pack = Pack.of([LinearStudent(normal(3, 3, seed=i)) for i in range(2)])
    source = [torch.Generator().manual_seed(i) for i in range(2)]
    fake = MomentFake.of(mixture("full", 3).law, pack, source, 100)
    x, sigma = normal(2, 10, 3), torch.ones(2, 10).double()
    assert (denoiser_curl(lambda x, s: fake.denoise(pack, x, s), x, sigma) < 1e-12).all()
    other = fake.with_learned(fake.learned())
    assert torch.equal(fake.denoise(pack, x, sigma), other.denoise(pack, x, sigma))
    assert (denoiser_curl(lambda x, s: NoFake().denoise(pack, x, s), x, sigma) == 0).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_rounding_is_that_of_the_points(dtype, tolerance):
    x, sigma = spread(16)
    law = mixture("full", 16).law.to(dtype)
    got = denoiser_curl(law.denoise, x.to(dtype), sigma.to(dtype))
    assert got.dtype == torch.float64
    assert got < tolerance


@pytest.mark.parametrize(
    ("measure", "words"),
    [
        (lambda x, s: denoiser_curl(lambda x, s: 0 * x, x, s), "denoise must have a Jacobian, got none"),
        (lambda x, s: denoiser_curl(lambda x, s: x.abs().sqrt() * math.inf, x, s), "that is finite"),
        (lambda x, s: error_curl(gaussian(2).denoise, gaussian(2).denoise, x, s), "fake must differ from exact"),
    ],
)
def test_bad_input_is_named(measure, words):
    with pytest.raises(ValueError, match=words):
        measure(*spread(2))
