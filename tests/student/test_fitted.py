"""Fits: a student without its skip finds the function of one that has it, and a bottleneck keeps what it can."""

import math

import pytest
import torch

from sandbox.student.denoiser import Denoiser, one_step
from sandbox.student.fitted import fitted, misfit
from sandbox.student.networks import LinearStudent, Pack


def sources(count, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


def points(count, n, dim, seed=5):
    return torch.randn(count, n, dim, generator=sources(1, seed)[0])


def denoisers(dim, count=2, scale=0.3, width=32, bottleneck=None):
    """Denoisers whose output F has standard deviation `scale`."""
    members = [Denoiser(dim, width, 1, source, 0.7, bottleneck) for source in sources(count)]
    with torch.no_grad():
        for member, source in zip(members, sources(count, 100), strict=True):
            member.net.outward.normal_(std=scale / math.sqrt(width), generator=source)
    return Pack.of(members)


class TestFitted:
    # Measured, the largest of both students and dimensions: 0.065 and 0.093, and half as much again is allowed. Drawn
    # features and a few hundred updates, not the architecture, are the limit: the error goes on falling (0.119, 0.093,
    # 0.082, 0.065 after 100, 200, 400, 800 updates at 80).
    @pytest.mark.parametrize(
        ("sigma_init", "scale", "missing", "lr", "tolerance"),
        [(2.5, 0.3, 0.7, 1e-2, 0.1), (80.0, 0.01, 0.65, 3e-3, 0.14)],
    )
    @pytest.mark.parametrize("dim", [2, 8])
    def test_a_student_without_skip_ends_at_the_function_of_one_with(
        self, dim, sigma_init, scale, missing, lr, tolerance
    ):
        pack, z = denoisers(dim, scale=scale), points(2, 2000, dim)
        target, start = one_step(pack, sigma_init), one_step(pack, sigma_init, "off")
        end = fitted(start, target, sources(2, 20), 200, lr, batch=128)
        assert (misfit(start, target, z) > missing).all()
        assert (misfit(end, target, z) <= tolerance).all()

    @pytest.mark.parametrize("r", [1, 2])
    @pytest.mark.parametrize(("sampling", "tolerance"), [(0.02, 0.1)])
    def test_of_a_linear_map_a_bottleneck_keeps_the_leading_directions(self, r, sampling, tolerance):
        """A map of r directions of z leaves at least sum_(k>r) s_k^2 (Eckart & Young 1936): reached, never beaten."""
        s, z = torch.tensor([1.0, 0.5, 0.25]), points(2, 4000, 3)

        def target(z):
            return s * z

        students = fitted(one_step(denoisers(3, bottleneck=r), 80.0, "off"), target, sources(2, 20), 400, 1e-2, 128)
        least = (s[r:].square().sum() / s.square().sum()).sqrt().item()
        got = misfit(students, target, z)
        assert (got >= (1 - sampling) * least).all()
        assert (got <= (1 + tolerance) * least).all()

    def test_more_updates_come_closer(self):
        pack, z = denoisers(2), points(2, 2000, 2)
        target, start = one_step(pack, 2.5), one_step(pack, 2.5, "off")
        errors = [misfit(fitted(start, target, sources(2, 20), steps, 1e-2, 64), target, z) for steps in (0, 20, 100)]
        assert torch.equal(errors[0], misfit(start, target, z))
        assert (errors[0] > 2 * errors[1]).all()
        assert (errors[1] > errors[2]).all()

    def test_a_student_does_not_know_its_pack(self):
        pack = denoisers(3, 3)
        together = fitted(one_step(pack, 2.5, "off"), one_step(pack, 2.5), sources(3, 20), 5, 1e-2, 33)
        for i in range(3):
            alone = pack.with_parameters({name: p[i : i + 1] for name, p in pack.parameters.items()})
            single = fitted(one_step(alone, 2.5, "off"), one_step(alone, 2.5), sources(1, 20 + i), 5, 1e-2, 33)
            assert all(torch.equal(p[0], together.parameters[name][i]) for name, p in single.parameters.items())

    def test_changes_nothing_that_it_is_given(self):
        pack = denoisers(2)
        start, target = one_step(pack, skip="trained"), one_step(pack)
        before = {name: p.clone() for name, p in start.parameters.items()}
        end = fitted(start, target, sources(2), 2, 1e-2, 8)
        assert all(torch.equal(p, before[name]) for name, p in start.parameters.items())
        assert not any(torch.equal(p, before[name]) for name, p in end.parameters.items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": -1}, "steps must be >= 0, got -1"),
            ({"batch": 0}, "batch must be >= 1, got 0"),
            ({"lr": 0.0}, "lr must be > 0, got 0"),
            ({"generators": sources(1)}, r"generators must be distinct, one per student \(2\), got 1"),
            ({"generators": sources(1) * 2}, r"generators must be distinct, one per student \(2\), got 2"),
        ],
    )
    def test_bad_input_is_named(self, change, message):
        pack = one_step(denoisers(2), skip="off")
        with pytest.raises(ValueError, match=message):
            fitted(**{"students": pack, "target": pack, "generators": sources(2)} | change)

    def test_only_one_step_students_are_fitted(self):
        linear = Pack.of([LinearStudent(torch.eye(2))])
        with pytest.raises(TypeError, match="students must be one-step students, got LinearStudent"):
            fitted(linear, linear, sources(1))


class TestMisfit:
    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_in_closed_form(self, tolerance):
        """Of a z + b against z: |a - 1| and the offset, over the spread of the points themselves."""
        z = points(2, 500, 3)
        z = (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True, correction=0)
        a, b = torch.tensor([0.5, 2.0])[:, None, None], torch.tensor([0.0, 1.0])[:, None, None]
        got = misfit(lambda z: a * z + b, lambda z: z, z)
        torch.testing.assert_close(got, torch.tensor([0.5, math.sqrt(2)]).double(), rtol=tolerance, atol=0)

    @pytest.mark.parametrize("tolerance", [1e-6])
    def test_is_one_for_the_mean_and_zero_for_the_map(self, tolerance):
        student, z = one_step(denoisers(3, 1)), points(1, 500, 3)
        assert misfit(student, student, z).item() == 0
        mean = misfit(lambda z: student(z).mean(-2, keepdim=True).expand_as(z), student, z)
        assert mean.item() == pytest.approx(1, rel=tolerance)

    def test_too_few_points_are_named(self):
        with pytest.raises(ValueError, match="z must hold >= 2 points, got 1"):
            misfit(lambda z: z, lambda z: z, torch.zeros(2, 1, 3))
