"""The matrix diffusion: moments by sampling gradients, steps by their moments, ends by training students."""

import math

import numpy as np
import pytest
import torch

from sandbox.measure.gauge import polar_displacement
from sandbox.student.distill import Recipe, distill
from sandbox.student.initialise import haar_rotation
from sandbox.student.losses import dmd_direction
from sandbox.student.networks import LinearStudent, Pack
from sandbox.teacher.covariance import Isotropic
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins, LogUniform
from sandbox.theory.copying import copying_number, settling_time
from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.matrix_sde import (
    evolve,
    gradient_moments,
    matrix_displacement,
    matrix_displacements,
    pair_average,
    teacher_start,
)
from sandbox.theory.one_dimension import flip_displacement

NORMALISERS = ["per-sample", "batch", "off"]


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def spread(dim, centre=0.1, factor=4.0):
    """Singular values from centre / factor to centre * factor."""
    return centre * factor ** torch.linspace(1, -1, dim, dtype=torch.float64)


def direct_displacement(problem, lr, batch, students):
    """Mean and standard error of rho_g over students trained on minibatches for the settling time."""
    dim = int(problem.dim)
    mean = torch.zeros(1, dim, dtype=torch.float64)
    teacher = GaussianMixture([1.0], mean, Isotropic(torch.tensor([problem.variance]).double()))
    pack = Pack.of([LinearStudent(problem.start * torch.eye(dim, dtype=torch.float64)) for _ in range(students)])
    steps = round(settling_time(problem) / lr)
    recipe = Recipe(steps, lr, batch, problem.normaliser, law=problem.law)
    *_, last = distill(teacher, pack, recipe, [source(100 + i) for i in range(students)], checkpoints=[steps])
    rho = polar_displacement(last.students.parameters["weight"])
    return rho.mean().item(), rho.std().item() / math.sqrt(students)


class TestMoments:
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize("law", [LogUniform(), KarrasBins()], ids=lambda law: type(law).__name__)
    @pytest.mark.parametrize("a", [0.0125, 0.1, 0.6, 0.95])
    @pytest.mark.parametrize(("dim", "tolerance"), [(4, 1e-8), (16, 1e-8)])
    def test_equal_singular_values(self, dim, a, law, normaliser, tolerance):
        """f, and half the variance of the antisymmetric part of a pair, N - K = n_eps."""
        problem = Flat(dim, law=law, normaliser=normaliser)
        f, N, K = gradient_moments(problem, torch.full((dim,), a, dtype=torch.float64))
        np.testing.assert_allclose(f, problem.drift(a).item(), rtol=tolerance)
        np.testing.assert_allclose(N - K, problem.noise(a).item(), rtol=tolerance)
        if normaliser != "per-sample":
            np.testing.assert_allclose(K, problem.horizontal_noise(a).item(), rtol=tolerance)

    # In the coordinates of a random left frame the weight 1/nu sees unequal variances, and their mean is all that the
    # moments know of them: the tolerance (a share of the mean entry) is that of this approximation, for singular values
    # sixteen times apart, beside the sampling's standard errors.
    @pytest.mark.parametrize(
        ("normaliser", "dim", "centre", "tolerance"),
        [
            ("off", 3, 0.2, 0.0),
            ("per-sample", 8, 0.02, 0.03),
            ("per-sample", 8, 0.2, 0.03),
            ("per-sample", 16, 0.2, 0.03),
        ],
    )
    @pytest.mark.parametrize(("chunks", "batch", "standard_errors", "precision"), [(40, 2000, 5.0, 0.2)])
    def test_by_sampling(self, normaliser, dim, centre, tolerance, chunks, batch, standard_errors, precision):
        s, U, V = spread(dim, centre), haar_rotation(dim, source(1)), haar_rotation(dim, source(2))
        A, lam, g = (U * s) @ V.T, 1.0, source(3)
        f, N, K = gradient_moments(Flat(dim, lam, normaliser=normaliser), s)
        off_diagonal = ~torch.eye(dim, dtype=torch.bool)
        samples = []
        for _ in range(chunks):
            z, eps = torch.randn(2, batch, dim, generator=g, dtype=torch.float64)
            sigma = LogUniform().draw(torch.rand(batch, 1, generator=g, dtype=torch.float64))
            x = z @ A.T
            noised = x + sigma * eps
            fake = (noised @ U * (s**2 / (s**2 + sigma**2))) @ U.T
            left, right = dmd_direction(x, lam / (lam + sigma**2) * noised, fake, normaliser) @ U, z @ V
            pairs = left * right
            samples.append((-pairs.mean(0), left.square().T @ right.square() / batch, pairs.T @ pairs / batch))
        for got, want, chosen in zip(
            map(torch.stack, zip(*samples, strict=True)), (f, N, K), (..., *[off_diagonal] * 2)
        ):
            error = (got.std(0) / math.sqrt(chunks))[chosen]
            difference, size = (got.mean(0) - want).abs()[chosen], want[chosen].abs().mean()
            assert (difference <= standard_errors * error + tolerance * size).all(), difference / size
            assert error.mean() < precision * size

    @pytest.mark.parametrize("dim", [3, 8, 32])
    @pytest.mark.parametrize(("count", "standard_errors"), [(400_000, 4.0)])
    def test_pair_average_by_sampling(self, dim, count, standard_errors):
        xi = np.random.default_rng(dim).standard_normal((count, dim))
        nu = np.abs(xi).mean(1)
        samples = xi[:, 0] ** 2 * xi[:, 1] ** 2 / nu**2
        assert abs(samples.mean() - pair_average(dim)) <= standard_errors * samples.std() / math.sqrt(count)

    @pytest.mark.parametrize(("dim", "tolerance"), [(10_000, 1e-3)])
    def test_pair_average_of_many_dimensions(self, dim, tolerance):
        assert pair_average(dim) == pytest.approx(math.pi / 2, rel=tolerance)


class TestStep:
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize(("paths", "lr", "batch", "standard_errors"), [(10_000, 0.02, 64, 4.5)])
    def test_has_the_moments_of_an_update(self, normaliser, paths, lr, batch, standard_errors):
        """The mean and, in the frames of the start, every variance and the covariance within each pair."""
        s, U, V = spread(3), haar_rotation(3, source(1)), haar_rotation(3, source(2))
        problem = Flat(3, normaliser=normaliser)
        A = ((U * s) @ V.T).expand(paths, 3, 3)
        moved = U.T @ (evolve(problem, A, lr, batch, lr, source()) - A) @ V
        f, N, K = gradient_moments(problem, s)
        variance = N.clone()
        variance.diagonal().add_(2 * K.diagonal() - f**2)

        def agrees(samples, want):
            error = samples.std(0) / math.sqrt(paths)
            assert ((samples.mean(0) - want).abs() <= standard_errors * error).all()

        agrees(moved, torch.diag(f) * lr)
        noise = (moved - torch.diag(f) * lr) / (lr / math.sqrt(batch))
        agrees(noise**2, variance)
        i, j = torch.triu_indices(3, 3, 1)
        agrees(noise[:, i, j] * noise[:, j, i], K[i, j])
        agrees(noise[:, 0, 1] * noise[:, 0, 2], torch.tensor(0.0))

    @pytest.mark.parametrize(("batch", "tolerance"), [(1e16, 1e-6)])
    def test_without_noise_the_frames_stand_still(self, batch, tolerance):
        """A student of a flat teacher then grows along its own singular vectors."""
        s, U, V = spread(4), haar_rotation(4, source(1)), haar_rotation(4, source(2))
        problem = Flat(4, normaliser="off")
        grown = U.T @ evolve(problem, ((U * s) @ V.T)[None], 0.01, batch, 3.0, source())[0] @ V
        torch.testing.assert_close(grown, torch.diag(grown.diagonal()), rtol=0, atol=tolerance)
        assert (grown.diagonal() > s + 0.02).all()


class TestDisplacement:
    @pytest.mark.parametrize("normaliser", NORMALISERS)
    @pytest.mark.parametrize(
        ("dim", "batch", "paths", "standard_errors", "tolerance"),
        [(4, 20_000, 100, 3.0, 0.02)],
    )
    def test_small_displacements(self, normaliser, dim, batch, paths, standard_errors, tolerance):
        """(1 - 1/d) / (4 Xi): Brownian motion on the rotations, while the student grows as it does without noise."""
        problem = Flat(dim, normaliser=normaliser)
        mean, error = matrix_displacement(problem, 0.002, batch / 10, paths, source(), step=0.05)
        want = (1 - 1 / dim) / (4 * copying_number(problem, 0.002, batch / 10))
        assert abs(mean - want) <= standard_errors * error + tolerance * want
        assert error < 0.1 * want

    @pytest.mark.parametrize(("paths", "lr", "batch", "standard_errors"), [(1000, 0.002, 2, 4.0)])
    def test_on_a_line(self, paths, lr, batch, standard_errors):
        """Against the probability of ending on the wrong side, from the scale function."""
        problem = Flat(1, normaliser="off")
        mean, error = matrix_displacement(problem, lr, batch, paths, source(), step=0.08)
        assert abs(mean - flip_displacement(problem, lr, batch)) <= standard_errors * error

    # Means and standard errors over students once trained on minibatches by an independent implementation, where an
    # update is a small part of the start.
    @pytest.mark.parametrize(
        ("variance", "sigma_max", "lr", "batch", "dim", "measured", "error"),
        [
            (1.0, 80.0, 0.01, 64, 8, 0.182, 0.022),
            (1.0, 80.0, 0.01, 256, 16, 0.097, 0.005),
            (4.0, 80.0, 0.02, 64, 8, 0.042, 0.003),
            (16.0, 80.0, 0.1, 32, 16, 0.128, 0.006),
        ],
    )
    @pytest.mark.parametrize(("share", "standard_errors"), [(0.15, 3.0)])
    def test_measured_values(self, variance, sigma_max, lr, batch, dim, measured, error, share, standard_errors):
        problem = Flat(dim, variance, sigma_max, LogUniform(0.02, sigma_max))
        assert lr * problem.drift(problem.start).item() < 0.13 * problem.start
        mean, own = matrix_displacement(problem, lr, batch, 384 // dim, source())
        assert own < 0.13 * mean
        assert abs(mean - measured) <= max(share * measured, standard_errors * math.hypot(error, own))

    @pytest.mark.parametrize(
        ("normaliser", "lr", "batch", "students"), [("off", 0.08, 64, 32), ("batch", 0.1, 256, 24)]
    )
    @pytest.mark.parametrize("dim", [8])
    @pytest.mark.parametrize("standard_errors", [3.0])
    def test_students(self, normaliser, lr, batch, students, dim, standard_errors):
        problem = Flat(dim, normaliser=normaliser)
        measured, error = direct_displacement(problem, lr, batch, students)
        mean, own = matrix_displacement(problem, lr, batch, 2 * students, source())
        assert abs(mean - measured) <= standard_errors * math.hypot(error, own)
        assert math.hypot(error, own) < 0.1 * measured

    @pytest.mark.parametrize(("paths", "time", "standard_errors"), [(64, 2.5, 3.0)])
    def test_a_step_of_many_updates_changes_nothing(self, paths, time, standard_errors):
        problem = Flat(4)
        fine = matrix_displacement(problem, 0.005, 16, paths, source(), time, step=1e-6)
        coarse = matrix_displacement(problem, 0.005, 16, paths, source(1), time)
        assert abs(fine[0] - coarse[0]) <= standard_errors * math.hypot(fine[1], coarse[1])

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_the_path_ends_where_the_end_is(self, tolerance):
        problem = Flat(4)
        mean, error = matrix_displacements(problem, 0.01, 64, 16, source(), [5.0])
        assert (mean[0], error[0]) == pytest.approx(
            matrix_displacement(problem, 0.01, 64, 16, source(), 5.0), rel=tolerance
        )

    def test_the_pairing_is_decided_early(self):
        problem = Flat(8)
        end = settling_time(problem)
        mean, _ = matrix_displacements(problem, 0.01, 64, 64, source(), [0.0, 0.1 * end, end])
        assert mean[0] == pytest.approx(0, abs=1e-12)
        assert mean[1] > 0.9 * mean[2]


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lr": 0.0}, "lr must be > 0, got 0"),
            ({"batch": 0}, "batch must be >= 1, got 0"),
            ({"time": -1.0}, "time must be >= 0, got -1"),
            ({"step": 0.0}, "step must be > 0, got 0"),
            ({"paths": 1}, "paths must be >= 2, got 1"),
        ],
    )
    def test_of_a_run(self, change, message):
        arguments = {"lr": 0.1, "batch": 64, "paths": 2, "generator": source(), "time": 1.0} | change
        with pytest.raises(ValueError, match=message):
            matrix_displacement(Flat(4), **arguments)

    def test_of_times(self):
        with pytest.raises(ValueError, match="times must be >= 0 and increasing"):
            matrix_displacements(Flat(4), 0.1, 64, 2, source(), [2.0, 1.0])

    def test_a_dimension_that_is_no_number_of_coordinates(self):
        with pytest.raises(ValueError, match=r"dim must be a whole number, got 4\.5"):
            teacher_start(Flat(4.5), 2)

    def test_of_singular_values(self):
        with pytest.raises(ValueError, match="s must hold dim = 4 singular values, got 3"):
            gradient_moments(Flat(4), spread(3))

    def test_infinite_variance(self):
        with pytest.raises(HypothesisError, match=r"infinite at d <= 2 .* got d = 2"):
            gradient_moments(Flat(2), spread(2))

    def test_of_the_pair_average(self):
        with pytest.raises(ValueError, match="dim must be >= 2, got 1"):
            pair_average(1)
