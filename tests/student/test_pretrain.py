"""Teacher networks: the regression, against a loop written out with torch's own optimiser, and what it is judged by."""

import math
import re

import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import kstest, norm

from sandbox.student.denoiser import Denoiser
from sandbox.student.initialise import haar_rotation
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.optimise import falling
from sandbox.student.pretrain import denoiser_error, noised_samples, pretrain, start_error
from sandbox.teacher import families
from sandbox.teacher.covariance import Diagonal, Full, Isotropic, LowRank
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import LogUniform


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def sources(count, seed=0):
    return [source(100 * seed + i) for i in range(count)]


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=source(seed), dtype=torch.float64).to(dtype)


def networks(dim, count, width=16, depth=1):
    return Pack.of([Denoiser(dim, width, depth, g) for g in sources(count, seed=7)])


def trained(teachers, pack, steps, generators, **options):
    ((_, last),) = pretrain(teachers, pack, steps, generators, checkpoints=[steps], **options)
    return last


def gaussian(spectrum, seed=0):
    Q = haar_rotation(len(spectrum), source(seed))
    covariance = (Q * torch.tensor(spectrum, dtype=torch.float64)) @ Q.mT
    return GaussianMixture([1.0], torch.zeros(1, len(spectrum), dtype=torch.float64), Full(covariance[None]))


def mixture(kind, dim=3, seed=0):
    A = normal(2, dim, dim, seed=seed)
    covariance = {
        "isotropic": Isotropic([0.3, 1.2]),
        "diagonal": Diagonal(A[..., 0].square() + 0.1),
        "low rank": LowRank(A[..., :1], 0.2),
        "full": Full(A @ A.mT),
    }[kind]
    return GaussianMixture([0.3, 0.7], 2 * normal(2, dim, seed=seed + 1), covariance)


KINDS = ("isotropic", "diagonal", "low rank", "full")


class TestNoisedSamples:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("stacked", [False, True])
    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-10), (3, 1e-10)])
    def test_by_the_root_of_each_points_covariance(self, dim, stacked, kind, tolerance):
        laws = [mixture(kind, dim, seed=s if stacked else 0) for s in range(2)]
        uniform, eps = torch.rand(2, 6, generator=source(3), dtype=torch.float64), normal(2, 6, dim, seed=4)
        sigma = normal(2, 6, seed=5).exp()
        x = noised_samples(GaussianMixture.stack(laws) if stacked else laws[0], uniform, eps, sigma)
        for i, law in enumerate(laws):
            for j in range(6):
                k = int(uniform[i, j] >= 0.3)
                noised = law.covariance.dense(k, dim) + sigma[i, j] ** 2 * torch.eye(dim, dtype=torch.float64)
                want = law.means[k] + torch.from_numpy(sqrtm(noised.numpy()).real) @ eps[i, j]
                torch.testing.assert_close(x[i, j], want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("sigma", [0.0, 0.7])
    @pytest.mark.parametrize(("n", "level"), [(5000, 1e-3)])
    def test_law(self, sigma, n, level):
        law = families.ring(1)
        x = noised_samples(law, torch.rand(n, generator=source(1)), normal(n, 1, seed=2), sigma)[:, 0]
        std = math.hypot(0.3, sigma)
        assert kstest(x.numpy(), lambda v: (norm.cdf(v, -3, std) + norm.cdf(v, 3, std)) / 2).pvalue > level
        assert kstest(x.numpy(), lambda v: norm.cdf(v, 0, math.hypot(3, std))).pvalue < level


class TestPretrain:
    @pytest.mark.parametrize(
        ("dim", "steps", "goal"),
        [(1, 300, {0.3: 1.5e-3, 1.0: 1.5e-3, 10.0: 6e-3}), (4, 300, {0.3: 1e-2, 1.0: 3e-2, 10.0: 0.2})],
    )
    def test_reaches_the_closed_form(self, dim, steps, goal):
        teacher, pack = families.random(dim), networks(dim, 2, width=32, depth=2)
        last = trained(teacher, pack, steps, sources(2))
        for i in range(2):
            before, after = (denoiser_error(p.member(i), teacher, list(goal), 2000, source(9)) for p in (pack, last))
            assert (after <= torch.tensor(list(goal.values()))).all(), after
            assert (after < before / 3).all(), (before, after)

    @pytest.mark.parametrize(("short", "long", "factor"), [(50, 500, 2.0)])
    def test_longer_training_starts_a_student_closer(self, short, long, factor):
        teacher, pack = families.random(2), networks(2, 2, width=32, depth=2)
        for i in range(2):
            errors = [
                start_error(trained(teacher, pack, steps, sources(2)).member(i), teacher, 80.0, 2000, source(9))
                for steps in (short, long)
            ]
            assert errors[1].error.norm() * factor < errors[0].error.norm()

    @pytest.mark.parametrize("stacked", [False, True])
    @pytest.mark.parametrize(("dim", "steps", "tolerance"), [(1, 8, 1e-10), (3, 8, 1e-10)])
    def test_by_a_loop_with_torchs_optimiser(self, dim, stacked, steps, tolerance):
        """One module at a time, in double precision, with the weight of the published loss."""
        laws = [families.random(dim, modes=3, seed=s if stacked else 0) for s in range(2)]
        pack = networks(dim, 2)
        pack = pack.with_parameters({k: p.double() for k, p in pack.parameters.items()})
        law, batch = LogUniform(0.05, 50.0), 16
        last = trained(
            GaussianMixture.stack(laws) if stacked else laws[0], pack, steps, sources(2), lr=3e-3, batch=batch, law=law
        )
        for i in range(2):
            module = Denoiser(dim, 16, 1, source()).double()
            module.load_state_dict({name: p[i] for name, p in pack.parameters.items()})
            optimiser, generator = torch.optim.Adam(module.parameters(), lr=3e-3), sources(2)[i]
            for step in range(steps):
                eps = torch.randn(batch, dim, generator=generator).double()
                uniform = torch.rand(2, batch, generator=generator).double()
                sigma = 0.05 * 1000 ** uniform[0]
                x = laws[i].means[(3 * uniform[1]).long()] + (0.09 + sigma**2).sqrt()[:, None] * eps
                square = (module(x, sigma) - laws[i].denoise(x, sigma)).square().mean(-1)
                optimiser.param_groups[0]["lr"] = 3e-3 * min(1, (steps - step) / (0.3 * steps))
                optimiser.zero_grad()
                ((1 / sigma**2 + 1) * square).mean().backward()
                optimiser.step()
            for name, p in module.named_parameters():
                torch.testing.assert_close(last.parameters[name][i], p.detach(), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("stacked", [False, True])
    @pytest.mark.parametrize(("dim", "width"), [(1, 64), (2, 64), (5, 32), (32, 64)])
    def test_a_network_does_not_know_its_pack(self, dim, width, stacked):
        """Bitwise, at every place in a pack of four."""
        laws = [families.random(dim, seed=s if stacked else 0) for s in range(4)]
        together = GaussianMixture.stack(laws) if stacked else laws[0]
        pack = networks(dim, 4, width, depth=2)
        last = trained(together, pack, 12, sources(4), batch=64)
        for i in range(4):
            single = pack.with_parameters({k: p[i : i + 1] for k, p in pack.parameters.items()})
            own = GaussianMixture.stack(laws[i : i + 1]) if stacked else laws[0]
            alone = trained(own, single, 12, sources(4)[i : i + 1], batch=64)
            for name, p in alone.parameters.items():
                assert torch.equal(p[0], last.parameters[name][i]), name

    def test_repeats_from_its_seeds_and_from_nothing_else(self):
        teacher, pack = families.random(2), networks(2, 2)
        before = {k: p.clone() for k, p in pack.parameters.items()}
        first = trained(teacher, pack, 10, sources(2))
        torch.rand(3)
        again, other = trained(teacher, pack, 10, sources(2)), trained(teacher, pack, 10, sources(2, seed=1))
        for name, p in first.parameters.items():
            assert torch.equal(p, again.parameters[name])
            assert torch.equal(pack.parameters[name], before[name])
        assert not torch.equal(first.parameters["net.inward"], other.parameters["net.inward"])

    def test_checkpoints_are_stages_of_one_run(self):
        teacher, pack = families.random(2), networks(2, 2)
        stages = dict(pretrain(teacher, pack, 10, sources(2), decay=0.0, checkpoints=[0, 4, 10]))
        assert list(stages) == [0, 4, 10]
        assert torch.equal(stages[0].parameters["net.inward"], pack.parameters["net.inward"])
        shorter = trained(teacher, pack, 4, sources(2), decay=0.0)
        assert torch.equal(stages[4].parameters["net.inward"], shorter.parameters["net.inward"])

    def test_a_learning_rate_each(self):
        teacher, pack = families.random(2), networks(2, 2)
        both = trained(teacher, pack, 10, sources(2), lr=torch.tensor([1e-3, 1e-2]))
        for i, lr in enumerate((1e-3, 1e-2)):
            alone = trained(teacher, pack, 10, sources(2), lr=torch.full((2,), lr))
            assert torch.equal(both.parameters["net.inward"][i], alone.parameters["net.inward"][i])

    @pytest.mark.parametrize(
        ("step", "share", "factor"),
        [(0, 0.3, 1), (70, 0.3, 1), (85, 0.3, 0.5), (99, 0.3, 1 / 30), (99, 0, 1), (25, 1, 0.75)],
    )
    def test_the_learning_rate_falls_over_the_last_steps(self, step, share, factor):
        assert falling(step, 100, share) == pytest.approx(factor)


class TestDenoiserError:
    @pytest.mark.parametrize(("gain", "dtype", "tolerance"), [(1.0, torch.float32, 1e-12), (0.9, torch.float64, 1e-12)])
    def test_of_a_network_off_by_a_known_factor(self, gain, dtype, tolerance):
        """(1 - g)^2 E|D|^2 / Var D, with E|D|^2 = Var D up to the sample's own mean."""
        teacher = gaussian([2.0, 0.5])
        got = denoiser_error(lambda x, s: gain * teacher.denoise(x, s), teacher, [0.1, 5.0], 20000, source(1), dtype)
        assert got.tolist() == pytest.approx(2 * [(1 - gain) ** 2], rel=1e-3, abs=tolerance)

    def test_of_the_best_constant_is_one(self):
        teacher = families.random(3)
        got = denoiser_error(
            lambda x, s: teacher.denoise(x.double(), s).mean(0).expand_as(x), teacher, [0.1, 80.0], 500, source(1)
        )
        assert got.tolist() == pytest.approx([1.0, 1.0], rel=1e-6)


class TestStartError:
    @pytest.mark.parametrize(("n", "relative"), [(40000, 0.03)])
    def test_of_a_rotated_start(self, n, relative):
        """G_0(z) = D(sigma R z): slopes A_0 R and A_0, so that the cosine is sum_k a_k^2 R_kk / sum_k a_k^2."""
        spectrum, sigma = [4.0, 1.0, 0.25], 3.0
        teacher = gaussian(spectrum, seed=5)
        lam, V = (v.flip(-1) for v in torch.linalg.eigh(teacher.cov))
        a = sigma * lam / (lam + sigma**2)
        R = haar_rotation(3, source(2))
        got = start_error(lambda x, s: teacher.denoise(x @ R.mT, s), teacher, sigma, n, source(3), dtype=torch.float64)
        torch.testing.assert_close(got.variance, torch.tensor(spectrum, dtype=torch.float64))
        torch.testing.assert_close(got.signal, a, rtol=relative, atol=0)
        turned = V.mT @ R @ V
        error = a * (turned - torch.eye(3)).norm(dim=1)
        torch.testing.assert_close(got.error, error, rtol=relative, atol=0)
        for modes in (1, 2, 3):
            want = (a.square() * turned.diagonal())[:modes].sum() / a.square()[:modes].sum()
            assert got.cosine(modes) == pytest.approx(want.item(), abs=relative)
        assert got.cosine() == got.cosine(3)
        assert got.linear_share == pytest.approx(1, abs=1e-10)
        assert got.exact_linear_share == pytest.approx(1, abs=1e-10)

    @pytest.mark.parametrize(("bend", "n", "absolute"), [(0.5, 100000, 0.02), (2.0, 100000, 0.02)])
    def test_linear_share_of_a_known_curve(self, bend, n, absolute):
        """G_0 = z + c (z^2 - 1) + 3: Var = 1 + 2 c^2, of which 1 is linear; the shift is an offset, not an error."""
        teacher, sigma = gaussian([1.0]), 4.0
        slope = sigma / (1 + sigma**2)
        got = start_error(
            lambda x, s: x / s + bend * ((x / s).square() - 1) + 3, teacher, sigma, n, source(4), torch.float64
        )
        assert got.linear_share == pytest.approx(1 / (1 + 2 * bend**2), abs=absolute)
        assert got.offset.item() == pytest.approx(3, abs=absolute)
        assert got.error.item() == pytest.approx(math.sqrt((1 - slope) ** 2 + 2 * bend**2), rel=absolute)
        assert got.cosine() == pytest.approx(1, abs=1e-12)


class TestInputErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": -1}, "steps must be >= 0, got -1"),
            ({"batch": 0}, "batch must be >= 1, got 0"),
            ({"decay": 1.5}, "decay must be in [0, 1], got 1.5"),
            ({"lr": 0.0}, "lr must be > 0, got 0.0"),
            ({"generators": sources(3)}, "generators must be distinct, one per network (2), got 3"),
            ({"generators": sources(1) * 2}, "generators must be distinct, one per network (2), got 2"),
            ({"teachers": families.random(3)}, "networks must have dimension 3 as the teachers, got 2"),
            ({"teachers": GaussianMixture.stack([families.random(2)] * 3)}, "one or one per network (2), got 3"),
        ],
    )
    def test_of_the_training_are_named(self, change, message):
        given = {"teachers": families.random(2), "networks": networks(2, 2), "steps": 1, "generators": sources(2)}
        with pytest.raises(ValueError, match=re.escape(message)):
            list(pretrain(**(given | change)))

    def test_only_denoisers_are_fitted(self):
        with pytest.raises(TypeError, match="got LinearStudent"):
            list(pretrain(families.random(2), Pack.of([LinearStudent(torch.eye(2))]), 1, sources(1)))

    def test_of_the_measurements_are_named(self):
        teacher = families.random(2)
        with pytest.raises(ValueError, match="sigmas must be > 0, got 0"):
            denoiser_error(teacher.denoise, teacher, [1.0, 0.0], 10, source())
        with pytest.raises(ValueError, match="n must be >= 2, got 1"):
            denoiser_error(teacher.denoise, teacher, [1.0], 1, source())
        with pytest.raises(ValueError, match="sigma_init must be > 0, got -1"):
            start_error(teacher.denoise, teacher, -1, 10, source())
        with pytest.raises(ValueError, match="n must be >= 4, got 3"):
            start_error(teacher.denoise, teacher, 80.0, 3, source())
        with pytest.raises(ValueError, match="modes must be >= 1, got 0"):
            start_error(teacher.denoise, teacher, 80.0, 10, source()).cosine(0)
