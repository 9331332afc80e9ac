"""Rotated and random starts: the exact laws against uniform rotations, the diffusion and trained students."""

import math

import numpy as np
import pytest
import torch

from sandbox.measure.gauge import polar_displacement
from sandbox.student.distill import Recipe, distill
from sandbox.student.initialise import haar_rotation, linear_start
from sandbox.student.networks import LinearStudent, Pack
from sandbox.teacher.covariance import Diagonal
from sandbox.teacher.mixture import GaussianMixture
from sandbox.theory.copying import copying_number, settling_time
from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.matrix_sde import evolve, teacher_start
from sandbox.theory.starts import (
    plane_rotation,
    random_displacements,
    random_spread,
    residual_spread,
    rotated_displacement,
    rotation_spread,
    transported_displacement,
)


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def teacher(variances):
    lam = torch.tensor(variances, dtype=torch.float64)
    return GaussianMixture([1.0], torch.zeros(1, len(lam), dtype=torch.float64), Diagonal(lam[None]))


def trained(teachers, starts, steps, seed=0, lr=0.05, batch=32, normaliser="off"):
    """The matrices of students after `steps` updates, (S, d, d)."""
    pack = Pack.of([LinearStudent(A) for A in starts])
    sources = [source(1000 * seed + i) for i in range(len(starts))]
    recipe = Recipe(steps, lr, batch, normaliser)
    *_, last = distill(teachers, pack, recipe, sources, checkpoints=[steps])
    return last.students.parameters["weight"]


def uniform_rotations(count, dim, seed=0):
    g = source(seed)
    return torch.stack([haar_rotation(dim, g) for _ in range(count)])


def traces(matrices):
    return torch.diagonal(matrices, dim1=-2, dim2=-1).mean(-1)


class TestPlaneRotation:
    @pytest.mark.parametrize("angle", [0.0, 0.7, math.pi])
    @pytest.mark.parametrize(("dim", "planes"), [(1, 0), (2, 1), (5, 2), (6, 1)])
    @pytest.mark.parametrize("tolerance", [1e-14])
    def test_is_a_rotation_of_known_trace(self, dim, planes, angle, tolerance):
        R = plane_rotation(dim, angle, planes)
        np.testing.assert_allclose(R @ R.T, np.eye(dim), rtol=0, atol=tolerance)
        assert np.linalg.det(R) == pytest.approx(1, abs=tolerance)
        want = 1 - 2 * planes / dim * (1 - math.cos(angle))
        assert np.trace(R) / dim == pytest.approx(want, abs=tolerance)
        assert rotated_displacement(0.25, R) == pytest.approx(1 - 0.75 * want, abs=tolerance)

    def test_takes_every_plane(self):
        np.testing.assert_array_equal(plane_rotation(5, 0.3), plane_rotation(5, 0.3, 2))

    @pytest.mark.parametrize("planes", [-1, 3])
    def test_bad_input(self, planes):
        with pytest.raises(ValueError, match=rf"planes must be between 0 and 2 in dimension 5, got {planes}"):
            plane_rotation(5, 0.1, planes)


class TestRotatedDisplacement:
    @pytest.mark.parametrize(
        ("variances", "normaliser"),
        [((1.0,) * 4, "per-sample"), ((2.5, 0.7, 0.3), "off"), ((2.5, 0.7, 0.3), "per-sample")],
    )
    @pytest.mark.parametrize(("students", "steps", "standard_errors"), [(200, 100, 4.0)])
    def test_of_trained_students(self, variances, normaliser, students, steps, standard_errors):
        """Plain starts and, from other seeds, starts with one known rotation, long before they have the teacher's
        law."""
        law, dim, flat = teacher(variances), len(variances), len(set(variances)) == 1
        R = haar_rotation(dim, source(8))
        A0 = linear_start("teacher", law, 80.0, source())[0].weight.detach()
        U, _, Vh = torch.linalg.svd(trained(law, [A0] * students, steps, 0, normaliser=normaliser))
        plain = 1 - torch.diagonal(U @ Vh, dim1=-2, dim2=-1)
        rotated = trained(law, [A0 @ R] * students, steps, 1, normaliser=normaliser)

        def agree(first, second):
            error = math.hypot(first.std(), second.std()) / math.sqrt(students)
            assert abs(first.mean() - second.mean()) <= standard_errors * error
            assert error < 0.06

        # per mode where the modes differ, by the mean where they do not
        rho = plain.mean(1, keepdim=True) if flat else plain
        against_teacher = torch.tensor([rotated_displacement(r.item() if flat else r.numpy(), R.numpy()) for r in rho])
        agree(polar_displacement(rotated), against_teacher)
        agree(polar_displacement(rotated, R), plain.mean(1))
        assert 0.05 < plain.mean() < 0.95
        assert abs(against_teacher.mean() - plain.mean()) > 0.1, "the two references must differ"

    def test_of_the_ends(self):
        R = plane_rotation(4, 1.0)
        assert rotated_displacement(0.0, np.eye(4)) == 0
        assert rotated_displacement(1.0, R) == 1
        assert rotated_displacement([0.1, 0.2, 0.3, 0.4], np.eye(4)) == pytest.approx(0.25)

    @pytest.mark.parametrize(
        ("rho", "rotation", "message"),
        [
            (0.1, 2 * np.eye(3), "rotation must be an orthogonal matrix"),
            (0.1, np.ones((2, 3)), r"rotation must be an orthogonal matrix \(d, d\), got shape \(2, 3\)"),
            ([0.1, 0.2], np.eye(3), r"rho must be a number or have shape \(3,\), got \(2,\)"),
        ],
    )
    def test_bad_input(self, rho, rotation, message):
        with pytest.raises(ValueError, match=message):
            rotated_displacement(rho, rotation)


class TestSpreads:
    @pytest.mark.parametrize("dim", [1, 2, 3, 4, 9])
    @pytest.mark.parametrize(("count", "standard_errors"), [(4000, 4.0)])
    def test_of_uniform_rotations(self, dim, count, standard_errors):
        values = traces(uniform_rotations(count, dim)).numpy()
        if dim == 1:
            assert rotation_spread(1) == values.std() == 0
            assert (values == 1).all()
            return
        assert abs(values.mean()) <= standard_errors * rotation_spread(dim) / math.sqrt(count)
        squares = values**2
        assert abs(squares.mean() - rotation_spread(dim) ** 2) <= standard_errors * squares.std() / math.sqrt(count)

    @pytest.mark.parametrize(("dim", "lr", "batch"), [(4, 0.02, 32)])
    @pytest.mark.parametrize(("students", "standard_errors"), [(800, 4.0)])
    def test_of_rotated_starts(self, dim, lr, batch, students, standard_errors):
        """Paths of the diffusion, each with a rotation of its own: the whole spread is that of uniform rotations, and
        the regression on tr R / d leaves the residual's."""
        problem = Flat(dim)
        plain = evolve(problem, teacher_start(problem, students), lr, batch, 1.0, source())
        rho = polar_displacement(plain).mean().item()
        R = uniform_rotations(students, dim)
        start = teacher_start(problem, students)
        values = polar_displacement(evolve(problem, start @ R, lr, batch, 1.0, source(1)))
        assert 0.2 < rho < 0.8

        def agrees(samples, want):
            error = samples.std() / math.sqrt(students)
            assert abs(samples.mean() - want) <= standard_errors * error

        agrees(values, 1.0)
        agrees((values - 1) ** 2, rotation_spread(dim) ** 2)
        residuals = values - 1 + (1 - rho) * traces(R)
        agrees(residuals**2, residual_spread(dim, rho) ** 2)

    @pytest.mark.parametrize("normaliser", ["off", "per-sample"])
    @pytest.mark.parametrize("variances", [(1.0,), (1.0, 1.0), (2.5, 0.7, 0.3)])
    @pytest.mark.parametrize(("students", "steps", "standard_errors"), [(400, 20, 4.0)])
    def test_of_random_starts(self, variances, normaliser, students, steps, standard_errors):
        """Mean 1 and spread 1/d after any number of updates, for any spectrum."""
        law, g = teacher(variances), source(2)
        starts = [linear_start("random", law, 80.0, g)[0].weight for _ in range(students)]
        values = polar_displacement(trained(law, starts, steps, normaliser=normaliser))
        dim = len(variances)
        assert abs(values.mean() - 1) <= standard_errors * random_spread(dim) / math.sqrt(students)
        squares = (values - 1) ** 2
        slack = standard_errors * squares.std() / math.sqrt(students)
        # on a line every square is 1
        assert abs(squares.mean() - random_spread(dim) ** 2) <= slack + 1e-12

    @pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-14), (5, 1e-14)])
    def test_the_ends_of_the_residual(self, dim, tolerance):
        assert residual_spread(dim, 0.0) == 0
        assert residual_spread(dim, 1.0) == pytest.approx(rotation_spread(dim), rel=tolerance)

    def test_bad_input(self):
        with pytest.raises(ValueError, match="dim must be >= 1, got 0"):
            rotation_spread(0)
        with pytest.raises(ValueError, match="dim must be >= 1, got 0"):
            random_spread(0)
        with pytest.raises(ValueError, match=r"rho must be in \[0, 1\], got 1\.5"):
            residual_spread(3, 1.5)


class TestTransportedGauge:
    @pytest.mark.parametrize("normaliser", ["per-sample", "batch", "off"])
    @pytest.mark.parametrize(("dim", "tolerance"), [(6, 1e-3)])
    def test_equal_singular_values(self, normaliser, dim, tolerance):
        """Brownian motion on the rotations, 1 - exp(-(1 - 1/d) / (4 Xi)), from the teacher's start."""
        problem = Flat(dim, normaliser=normaliser)
        got = transported_displacement(problem, np.full(dim, problem.start), 0.02, 20_000)
        angle = (1 - 1 / dim) / (4 * copying_number(problem, 0.02, 20_000))
        assert got == pytest.approx(-math.expm1(-angle), rel=tolerance)

    @pytest.mark.parametrize(("normaliser", "lr", "batch"), [("per-sample", 0.01, 64), ("off", 0.01, 64)])
    @pytest.mark.parametrize(("paths", "standard_errors", "tolerance"), [(200, 3.0, 0.03)])
    def test_by_the_diffusion(self, normaliser, lr, batch, paths, standard_errors, tolerance):
        """Singular values up to eight times apart, well above the noise."""
        s = np.array([0.4, 0.3, 0.1, 0.05])
        problem = Flat(4, normaliser=normaliser)
        start = torch.diag(torch.from_numpy(s)).expand(paths, 4, 4)
        end = evolve(problem, start, lr, batch, settling_time(problem), source(), step=0.05)
        rho = polar_displacement(end)
        error = rho.std().item() / math.sqrt(paths)
        want = transported_displacement(problem, s, lr, batch)
        assert abs(rho.mean().item() - want) <= standard_errors * error + tolerance * want
        assert error < 0.1 * want

    @pytest.mark.parametrize(("dim", "lr", "batch", "scale"), [(4, 0.04, 64, 0.5)])
    @pytest.mark.parametrize(("students", "standard_errors"), [(120, 3.0)])
    def test_the_median_of_trained_students(self, dim, lr, batch, scale, students, standard_errors):
        """Against T o polar(A_0), each student beside the prediction of its own start; in logarithms, since a few of
        the starts are near singular and far above the rest."""
        law, g = teacher((1.0,) * dim), source(4)
        A0 = [scale * torch.randn(dim, dim, generator=g, dtype=torch.float64) for _ in range(students)]
        steps = round(settling_time(Flat(dim)) / lr)
        end = trained(law, A0, steps, lr=lr, batch=batch, normaliser="per-sample")
        measured = polar_displacement(end, torch.stack(A0)).numpy()
        predicted = random_displacements(Flat(dim), scale, lr, batch, 16, source(5))
        # standard error of a median from the spread between the quartiles
        errors = [
            1.25 * np.subtract(*np.nanquantile(v, [0.75, 0.25])) / 1.35 / math.sqrt(len(v))
            for v in (measured, predicted)
        ]
        assert abs(np.median(measured) - np.nanmedian(predicted)) <= standard_errors * math.hypot(*errors)
        assert math.hypot(*errors) < 0.3 * np.median(measured)

    # the mean over students once trained by an independent implementation, and its standard error
    @pytest.mark.parametrize(
        ("dim", "scale", "lr", "batch", "measured", "error"), [(16, 0.1, 0.02, 256, 0.0012, 0.0002)]
    )
    @pytest.mark.parametrize("standard_errors", [3.0])
    def test_measured_value(self, dim, scale, lr, batch, measured, error, standard_errors):
        values = random_displacements(Flat(dim), scale, lr, batch, 8, source())
        own = np.std(values) / math.sqrt(len(values))
        assert abs(values.mean() - measured) <= standard_errors * math.hypot(error, own)

    @pytest.mark.parametrize("tolerance", [1e-9])
    def test_is_none_once_the_law_is_the_teachers(self, tolerance):
        assert transported_displacement(Flat(4), np.ones(4), 0.02, 64) == pytest.approx(0, abs=tolerance)

    def test_hypotheses(self):
        with pytest.raises(HypothesisError, match=r"small angles, displacements of up to 0\.1: got"):
            transported_displacement(Flat(8), np.full(8, Flat(8).start), 0.02, 64)
        with pytest.raises(HypothesisError, match="does not reach its end within t = 1"):
            transported_displacement(Flat(4), np.full(4, 0.5), 0.02, 64, longest=1.0)
        with pytest.raises(HypothesisError, match="infinite at d <= 2"):
            transported_displacement(Flat(2), np.full(2, 0.5), 0.02, 64)

    def test_starts_outside_the_hypothesis_are_marked(self):
        values = random_displacements(Flat(4), 0.01, 0.02, 8, 3, source())
        assert np.isnan(values).all()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"singular_values": [0.1, 0.2]}, r"singular_values must have shape \(4,\), got \(2,\)"),
            ({"singular_values": [0.1, 0.2, 0.3, 0.0]}, r"singular_values must be > 0, got 0\.0"),
            ({"lr": 0.0}, r"lr must be > 0, got 0\.0"),
            ({"batch": 0}, "batch must be >= 1, got 0"),
        ],
    )
    def test_bad_input(self, change, message):
        arguments = {"singular_values": [0.4, 0.3, 0.2, 0.1], "lr": 0.02, "batch": 64} | change
        with pytest.raises(ValueError, match=message):
            transported_displacement(Flat(4), **arguments)

    def test_bad_input_of_random_starts(self):
        with pytest.raises(ValueError, match=r"scale must be > 0, got 0\.0"):
            random_displacements(Flat(4), 0.0, 0.02, 64, 2, source())
        with pytest.raises(ValueError, match="draws must be >= 1, got 0"):
            random_displacements(Flat(4), 0.1, 0.02, 64, 0, source())
