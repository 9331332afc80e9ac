"""Potentials of a mixture: their gradients against autograd of the functions, from the mixture's own closed forms."""

import pytest
import torch
from problems import mixture

from sandbox.measure.potentials import Potentials
from sandbox.teacher.families import gaussian, memorising, random, ring


class OnlyScore:
    """A teacher that is not a mixture."""

    def score(self, x, sigma):
        return -x / (1 + sigma**2)


def points(teacher, n=40, seed=0):
    return teacher.to(torch.float64).sample(n, torch.Generator().manual_seed(seed))


def gradient(f, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(f(x).sum(), x)[0]


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "low-rank", "full"])
@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_are_those_of_the_stated_functions(kind, dim):
    law = mixture(kind, dim).law
    x = points(law)
    size = 200
    potentials = Potentials(law, x, size)
    found = potentials(x)
    s = law.smallest_std
    V = torch.linalg.eigh(torch.cov(x.T, correction=0))[1].flip(1)
    spread = torch.cov(x.T, correction=0).trace().sqrt()
    want = [gradient(lambda y, a=a: law.log_prob(y, a), x) for a in potentials.levels]
    assert len(want) == 5
    assert potentials.levels[0] == pytest.approx(s)
    assert s < potentials.levels[-1] < spread
    for k in range(law.components):

        def of(f, k=k):
            return gradient(lambda y: law.responsibilities(y, s)[:, k] * f(y - law.means[k]), x)

        want += [of(lambda y: torch.ones_like(y[:, 0])), of(lambda y: y.square().sum(1) / 2)]
        want += [of(lambda y, j=j: y @ V[:, j]) for j in range(dim)]
        want += [of(lambda y, i=i, j=j: (y @ V[:, i]) * (y @ V[:, j])) for j in range(dim) for i in range(j + 1)]
    want += [gradient(lambda y, w=w, b=b: torch.cos(y @ w + b), x) for w, b in zip(potentials.omega, potentials.shift)]
    want = torch.stack(want)
    assert len(found) == size
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-9 * want.abs().max().item())


@pytest.mark.parametrize("dim", [2, 3])
def test_modes_of_several_components_have_the_functions_of_one(dim):
    """Else a teacher of many points would have no functions of a mode left."""
    law = memorising(dim, points=24, bandwidth=0.3)
    x = points(law)
    per_mode = 2 + dim + dim * (dim + 1) // 2
    potentials = Potentials(law, x, 300)
    assert potentials.in_each == per_mode
    found = potentials(x)[len(potentials.levels) :][: law.modes * per_mode].unflatten(0, (law.modes, per_mode))
    for m in range(law.modes):
        own = law.mode_of == m
        centre = law.means[own].mean(0)  # points weigh alike

        def share(y, own=own):
            return law.responsibilities(y, law.smallest_std)[:, own].sum(1)

        want = torch.stack(
            [gradient(share, x), gradient(lambda y: share(y) * (y - centre).square().sum(1) / 2, x)]  # noqa: B023
        )
        torch.testing.assert_close(found[m, :2], want, rtol=1e-9, atol=1e-9 * want.abs().max().item())


@pytest.mark.parametrize(
    ("teacher", "size"),
    [(ring(2), 80), (random(4), 60), (random(4), 7), (gaussian(5, 1.0, 1.0), 20), (None, 12), (OnlyScore(), 12)],
)
def test_every_field_is_a_gradient(teacher, size):
    # A field is a gradient where its Jacobian is symmetric; a teacher's size is its number of fields.
    law = teacher if hasattr(teacher, "sample") else gaussian(3)
    x = points(law, 12)
    potentials = Potentials(teacher, x, size)
    assert potentials(x).shape == (size, *x.shape)
    J = torch.func.vmap(torch.func.jacrev(lambda y: potentials(y[None])[:, 0]))(x)
    assert J.abs().amax((0, 2, 3)).min() > 0
    torch.testing.assert_close(J, J.mT, rtol=0, atol=1e-9 * J.abs().max().item())


def test_waves_run_from_slow_to_the_scale_of_a_mode():
    law = ring(2)
    x = points(law, 4000)
    potentials = Potentials(None, x, 400)
    sd = (potentials.omega @ x.T).std(1)
    fastest = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))[-1].sqrt() / (0.05 * x.std(0).max())
    assert sd.min() == pytest.approx(0.5, rel=0.05)
    assert sd.max() == pytest.approx(fastest.item(), rel=0.1)


def test_a_singular_law_is_taken_at_a_scale_of_its_own():
    law = mixture("atoms", 3).law
    x = points(law) + 0.1 * torch.randn(40, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert torch.isfinite(Potentials(law, x)(x)).all()


@pytest.mark.parametrize(("n", "dim", "size"), [(64, 2, 8), (1024, 2, 128), (1024, 64, 256)])
def test_there_are_eight_equations_to_a_function(n, dim, size):
    x = torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert len(Potentials(None, x)(x)) == size


@pytest.mark.parametrize(
    ("x", "size", "message"),
    [
        (torch.zeros(5), None, r"x must have shape \(n, 2\), got \(5,\)"),
        (torch.zeros(5, 3), None, r"x must have shape \(n, 2\), got \(5, 3\)"),
        (torch.ones(5, 2), None, "x must be finite and not constant"),
        (torch.full((5, 2), torch.nan), None, "x must be finite and not constant"),
        (torch.arange(10.0).reshape(5, 2), -1, "size must be >= 0, got -1"),
    ],
)
def test_bad_input_is_named(x, size, message):
    with pytest.raises(ValueError, match=message):
        Potentials(ring(2), x, size)
