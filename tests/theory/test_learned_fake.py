"""The stationary rotation by a learned fake score, against the two descents themselves."""

import math
from functools import cache

import numpy as np
import pytest
import torch

from sandbox.student.losses import dmd_direction
from sandbox.teacher.schedule import LogUniform
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.learned_fake import finite_rate_rotation, shared_sample_bias, stationary_rotation
from sandbox.theory.normaliser import flat_average

LEVELS = np.geomspace(0.05, 20, 8)


class Levels:
    """Eight levels, evenly spaced in ln sigma from .05 to 20, with equal weights."""

    def nodes(self, count):
        return LEVELS, np.full(8, 1 / 8)


@cache
def descend(
    dim, per_level, updates, lr, fake_lr, steps, seeds, normaliser="per-sample", student=0, counts="fixed", shared=False
):
    """Student A and fake score W_b at their optimum, Sigma = I, the student from step 0 on and the fake score before.
    `student`: its samples per level. Returns rho_g and tr A A^T / d, each with its standard error over seeds."""
    g = torch.Generator().manual_seed(7)
    sigma = torch.from_numpy(LEVELS).float()[:, None, None]
    k, rate = 1 / (1 + sigma**2), fake_lr / (1 + sigma**2)
    A = torch.eye(dim).repeat(seeds, 1, 1)
    W = (k * torch.eye(dim)).repeat(seeds, 1, 1, 1)
    equal = torch.full((seeds, 8), 1 / 8)

    def draw(n):
        z, eps = torch.randn(2, seeds, 8, n, dim, generator=g)
        x = z @ A[:, None].mT
        return z, x, x + sigma * eps

    law = []
    for step in range(-150, steps):
        for _ in range(updates):
            if counts == "fixed":
                z, x, y = draw(per_level)
                share = torch.full((1, 1, 1, 1), 1 / per_level)
            else:
                levels = torch.multinomial(equal, 8 * per_level, replacement=True, generator=g)
                n = torch.nn.functional.one_hot(levels, 8).sum(1)[..., None, None]
                z, x, y = draw(int(n.max()))
                used = torch.arange(z.shape[2])[:, None] < n
                share = used / (per_level if counts == "whole batch" else n.clamp(min=1))
            W = W - rate * (share * (y @ W.mT - x)).mT @ y
        if step < 0:
            continue
        if not shared:
            z, x, y = draw(student or per_level)
        flat = [v.reshape(seeds, -1, dim) for v in (x, k * y, y @ W.mT, z)]
        A = A - lr * dmd_direction(*flat[:3], normaliser).mT @ flat[3] / flat[3].shape[1]
        if step >= steps // 2 and step % 10 == 0:
            law.append(A.square().sum((-2, -1)) / dim)
    U, _, Vh = torch.linalg.svd(A)
    rho, c = 1 - torch.diagonal(U @ Vh, dim1=-2, dim2=-1).mean(-1), torch.stack(law).mean(0)
    return [(v.mean().item(), v.std().item() / math.sqrt(seeds)) for v in (rho, c)]


CASES = [
    # dim, per_level, updates, lr, fake_lr, steps, seeds, normaliser
    (8, 16, 1, 0.05, 0.02, 800, 16, "per-sample"),
    (8, 16, 1, 0.05, 0.1, 800, 16, "per-sample"),
    (16, 16, 1, 0.05, 0.02, 600, 6, "per-sample"),
    (8, 16, 3, 0.05, 0.02, 600, 16, "per-sample"),
    (8, 32, 1, 0.05, 0.05, 600, 12, "batch"),
    (12, 16, 1, 0.2, 0.02, 600, 8, "off"),
]


class TestLeadingOrder:
    @pytest.mark.parametrize("case", CASES, ids=str)
    @pytest.mark.parametrize(("tolerance", "standard_errors"), [(0.25, 3.0)])
    def test_against_the_descents(self, case, tolerance, standard_errors):
        dim, per_level, updates, lr, _, steps, _, normaliser = case
        (rho, error), _ = descend(*case)
        want = stationary_rotation(dim, 1.0, Levels(), normaliser, lr, 8 * per_level, updates, steps)
        assert error < 0.15 * rho
        assert abs(rho - want) <= max(tolerance * want, standard_errors * error)

    @pytest.mark.parametrize(("dim", "variance", "tolerance"), [(2, 1.0, 1e-12), (8, 4.0, 1e-12), (64, 0.25, 1e-12)])
    def test_the_per_sample_bracket(self, dim, variance, tolerance):
        """E[1/nu]^2 E_sigma[1 / (c + sigma^2)]."""
        exponent = -math.log1p(-stationary_rotation(dim, variance, Levels(), "per-sample", 0.05, 128, 2, 100))
        bracket = flat_average(float(dim), 1, False) ** 2 * np.mean(1 / (variance + LEVELS**2))
        assert exponent == pytest.approx((dim - 1) / 4 * 100 * 0.05**2 / 256 * bracket, rel=tolerance)

    def test_one_dimension_has_no_gauge(self):
        assert stationary_rotation(1, 1.0, Levels(), "off", 0.05, 128, 1, 1000) == 0
        with pytest.raises(HypothesisError, match="d > 1"):
            stationary_rotation(1, 1.0, Levels(), "per-sample", 0.05, 128, 1, 1000)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lr": 0.0}, r"lr must be > 0, got 0\.0"),
            ({"fake_batch": 0}, "fake_batch must be >= 1, got 0"),
            ({"fake_updates": 0}, "fake_updates must be >= 1, got 0"),
            ({"steps": -1}, "steps must be >= 0, got -1"),
            ({"variance": -1.0}, r"variance must be > 0, got -1\.0"),
        ],
    )
    def test_bad_input(self, change, message):
        good = {"dim": 4, "variance": 1.0, "law": Levels(), "normaliser": "off", "lr": 0.1}
        with pytest.raises(ValueError, match=message):
            stationary_rotation(**(good | {"fake_batch": 64, "fake_updates": 1, "steps": 10} | change))


class TestFiniteRate:
    # the last three are outside the leading order: few samples a level, also of random number, a small student batch
    @pytest.mark.parametrize(
        ("case", "options"),
        [
            *[(case, {}) for case in CASES],
            ((16, 2, 1, 0.02, 0.02, 1000, 6, "per-sample"), {}),
            ((12, 3, 1, 0.02, 0.02, 1000, 12, "per-sample"), {"counts": "random"}),
            ((16, 48, 1, 0.05, 0.1, 600, 6, "per-sample"), {"student": 6}),
        ],
        ids=str,
    )
    @pytest.mark.parametrize(("tolerance", "standard_errors"), [(0.05, 3.0)])
    def test_against_the_descents(self, case, options, tolerance, standard_errors):
        dim, per_level, updates, lr, fake_lr, steps, _, normaliser = case
        (rho, error), _ = descend(*case, **options)
        want = finite_rate_rotation(
            dim, 1.0, Levels(), normaliser, lr, 8 * per_level, updates, steps, fake_lr,
            8 * (options.get("student") or per_level), random_counts="counts" in options,
        )  # fmt: skip
        assert abs(rho - want) <= tolerance * want + standard_errors * error

    @pytest.mark.parametrize(("tolerance", "standard_errors"), [(0.05, 3.0)])
    def test_an_average_over_the_whole_batch_does_not_see_the_counts(self, tolerance, standard_errors):
        """At three samples a level, where random counts matter by half when each level averages its own."""
        (rho, error), _ = descend(12, 3, 1, 0.02, 0.02, 1000, 12, counts="whole batch")
        fixed, random = (
            finite_rate_rotation(12, 1.0, Levels(), "per-sample", 0.02, 24, 1, 1000, 0.02, 24, random_counts=r)
            for r in (False, True)
        )
        assert abs(rho - fixed) <= tolerance * fixed + standard_errors * error
        assert abs(rho - random) > 2 * (tolerance * random + standard_errors * error)

    @pytest.mark.parametrize("tolerance", [1e-3])
    def test_slow_fake_scores_and_large_batches_are_the_leading_order(self, tolerance):
        leading = stationary_rotation(8, 1.0, Levels(), "batch", 0.05, 512, 2, 5000)
        got = finite_rate_rotation(8, 1.0, Levels(), "batch", 0.05, 512, 2, 5000, 1e-4, 1e4, random_counts=False)
        assert got == pytest.approx(leading, rel=tolerance)

    def test_outside_the_hypotheses(self):
        arguments = ("off", 0.05, 64, 1, 100)
        with pytest.raises(HypothesisError, match="discrete levels"):
            finite_rate_rotation(4, 1.0, LogUniform(), *arguments, 0.1, 64)
        with pytest.raises(HypothesisError, match=r"stable.*fake_lr = 2\.5"):
            finite_rate_rotation(4, 1.0, Levels(), *arguments, 2.5, 64)
        with pytest.raises(HypothesisError, match="d > 2"):
            finite_rate_rotation(2, 1.0, Levels(), "per-sample", *arguments[1:], 0.1, 64)
        with pytest.raises(ValueError, match=r"fake_lr must be > 0, got 0\.0"):
            finite_rate_rotation(4, 1.0, Levels(), *arguments, 0.0, 64)


class TestSharedSamples:
    # first order in fake_lr d / n_b = .007 to .02: the pull itself is a few per cent, its next order a few tenths of it
    @pytest.mark.parametrize("normaliser", ["per-sample", "off"])
    @pytest.mark.parametrize(
        ("dim", "per_level", "steps", "seeds"), [(3, 8, 1500, 100), (8, 16, 400, 8), (16, 16, 400, 6)]
    )
    @pytest.mark.parametrize(("tolerance", "standard_errors"), [(0.15, 3.0)])
    def test_pull_the_student_inwards(self, dim, per_level, steps, seeds, normaliser, tolerance, standard_errors):
        _, (c, error) = descend(dim, per_level, 1, 0.1, 0.02, steps, seeds, normaliser, shared=True)
        want = shared_sample_bias(dim, 1.0, Levels(), normaliser, 8 * per_level, 0.02)
        assert want < 0
        assert abs(c - 1 - want) <= tolerance * abs(want) + standard_errors * error

    @pytest.mark.parametrize(("bias", "standard_errors"), [(0.005, 3.0)])
    def test_fresh_samples_do_not(self, bias, standard_errors):
        _, (c, error) = descend(8, 16, 1, 0.1, 0.02, 500, 8, "off")
        assert abs(c - 1) <= bias + standard_errors * error

    def test_outside_the_hypotheses(self):
        with pytest.raises(HypothesisError, match="discrete levels"):
            shared_sample_bias(4, 1.0, LogUniform(), "off", 64, 0.1)
