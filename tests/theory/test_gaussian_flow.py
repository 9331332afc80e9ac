"""The noiseless flow: its velocity, its path and its end, against other integrators, first order, and training."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.integrate import solve_ivp

from sandbox.student.distill import Recipe, distill
from sandbox.student.initialise import haar_rotation, one_step_denoiser
from sandbox.student.losses import dmd_direction
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.population import population_gradient
from sandbox.teacher.covariance import Full
from sandbox.teacher.flow import teacher_map
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins, LogUniform
from sandbox.theory.gaussian_flow import (
    Holonomy,
    gauge_displacement,
    holonomy,
    horizontal_lift,
    polar,
    settled,
    start_amplitude,
    start_matrix,
    teacher_amplitude,
    teacher_matrix,
    transport,
    velocity,
)
from sandbox.theory.hypotheses import HypothesisError

LAW = LogUniform()


def rotation(dim, seed=0):
    return haar_rotation(dim, torch.Generator().manual_seed(seed)).numpy()


def plane(angle):
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def power_law(dim, seed=0):
    """Eigenvalues k^-1.5 of trace d in a random basis."""
    lam, Q = np.arange(1, dim + 1) ** -1.5, rotation(dim, seed)
    covariance = (Q * (dim * lam / lam.sum())) @ Q.T
    return (covariance + covariance.T) / 2


def gaussian_start(dim, seed=0, scale=0.1):
    return scale * np.random.default_rng(seed).standard_normal((dim, dim))


def gaussian(covariance):
    matrix = torch.from_numpy(covariance)
    return GaussianMixture([1.0], torch.zeros(1, len(matrix), dtype=torch.float64), Full(matrix[None]))


def turn(Q):
    """The angle of a rotation of the plane, with its sign."""
    return math.atan2(Q[1, 0] - Q[0, 1], Q[0, 0] + Q[1, 1])


def shrinkage(c):
    """E_sigma[c / (c + sigma^2)] for log-uniform noise levels, in closed form."""
    low, high = LAW.sigma_min**2, LAW.sigma_max**2
    return (np.log(high / (high + c)) - np.log(low / (low + c))) / (2 * LAW.log_range)


class TestAmplitudes:
    @pytest.mark.parametrize(("sigma", "tolerance"), [(80.0, 1e-5), (2.5, 1e-5)])
    def test_of_the_teacher(self, sigma, tolerance):
        covariance = power_law(4)
        got = teacher_matrix(covariance, sigma)
        want = teacher_map(gaussian(covariance), torch.eye(4, dtype=torch.float64), sigma).mT.numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)
        lam = np.linalg.eigvalsh(covariance)
        np.testing.assert_allclose(np.linalg.eigvalsh(got), teacher_amplitude(lam, sigma), rtol=1e-12)

    @pytest.mark.parametrize(("sigma", "tolerance"), [(80.0, 1e-13), (2.5, 1e-13)])
    def test_of_the_start(self, sigma, tolerance):
        covariance = power_law(4)
        got = start_matrix(covariance, sigma)
        np.testing.assert_allclose(got, one_step_denoiser(gaussian(covariance), sigma)[0], rtol=0, atol=tolerance)
        lam = np.linalg.eigvalsh(covariance)
        np.testing.assert_allclose(np.linalg.eigvalsh(got), start_amplitude(lam, sigma), rtol=1e-12)

    @pytest.mark.parametrize("amplitude", [teacher_amplitude, start_amplitude])
    def test_bad_input(self, amplitude):
        with pytest.raises(ValueError, match="variance must be > 0, got 0"):
            amplitude([1.0, 0.0], 80.0)
        with pytest.raises(ValueError, match=r"sigma_(max|init) must be > 0, got -1"):
            amplitude(1.0, -1.0)


class TestTransport:
    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-10), (3, 1e-10), (16, 1e-8)])
    def test_is_the_brenier_map(self, dim, tolerance):
        """The one symmetric positive T with T C T = Sigma."""
        A, covariance = gaussian_start(dim), power_law(dim)
        T = transport(A @ A.T, covariance)
        np.testing.assert_allclose(T, T.T, rtol=0, atol=tolerance * np.abs(T).max())
        assert np.linalg.eigvalsh(T).min() > 0
        np.testing.assert_allclose(T @ A @ A.T @ T, covariance, rtol=0, atol=tolerance)

    @pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-9), (5, 1e-9)])
    def test_applied_to_a_map_solves_procrustes(self, dim, tolerance):
        """Of all maps of the teacher's law, T A_0 = Sigma^(1/2) polar(Sigma^(1/2) A_0) is the nearest to A_0."""
        A, covariance = gaussian_start(dim), power_law(dim)
        root = scipy.linalg.sqrtm(covariance).real
        want = root @ scipy.linalg.polar(root @ A)[0]
        np.testing.assert_allclose(transport(A @ A.T, covariance) @ A, want, rtol=0, atol=tolerance)


class TestVelocity:
    @pytest.mark.parametrize("law", [LogUniform(), KarrasBins()], ids=lambda law: type(law).__name__)
    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-12), (4, 1e-12)])
    def test_is_the_population_gradient(self, law, dim, tolerance):
        A, covariance = gaussian_start(dim), power_law(dim)
        want = -population_gradient(torch.from_numpy(A), torch.from_numpy(covariance), law)
        np.testing.assert_allclose(velocity(A, covariance, law), want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("normaliser", ["off", "batch"])
    @pytest.mark.parametrize(("dim", "tolerance"), [(5, 1e-13)])
    def test_is_horizontal(self, normaliser, dim, tolerance):
        A = gaussian_start(dim)
        product = A.T @ velocity(A, power_law(dim), LAW, normaliser)
        np.testing.assert_allclose(product, product.T, rtol=0, atol=tolerance)
        assert np.abs(product).max() > 1e-3

    @pytest.mark.parametrize(("chunks", "batch", "standard_errors"), [(30, 20_000, 4.5)])
    def test_of_a_large_batch(self, chunks, batch, standard_errors):
        """The mean of minibatch gradients with DMD's normaliser averaged over the batch, in coordinates of unequal
        variance."""
        A, covariance, g = gaussian_start(3, scale=0.5), power_law(3), torch.Generator().manual_seed(0)
        C, S, W = torch.from_numpy(A @ A.T), torch.from_numpy(covariance), torch.from_numpy(A)
        samples = []
        for _ in range(chunks):
            z, eps = torch.randn(2, batch, 3, generator=g, dtype=torch.float64)
            sigma = LAW.draw(torch.rand(batch, 1, generator=g, dtype=torch.float64))
            x = z @ W.T
            denoised = []
            for matrix in (S, C):
                lam, Q = torch.linalg.eigh(matrix)
                denoised.append(((x + sigma * eps) @ Q * (lam / (lam + sigma**2))) @ Q.T)
            samples.append(-(dmd_direction(x, *denoised, "batch").T @ z) / batch)
        got, error = torch.stack(samples).mean(0), torch.stack(samples).std(0) / math.sqrt(chunks)
        want = torch.from_numpy(velocity(A, covariance, LAW, "batch"))
        assert ((got - want).abs() <= standard_errors * error).all()
        assert error.norm() < 0.02 * want.norm()

    def test_hypotheses(self):
        with pytest.raises(HypothesisError, match="per-sample normaliser is correlated with the sample"):
            velocity(np.eye(2), np.eye(2), LAW, "per-sample")
        with pytest.raises(ValueError, match="normaliser must be one of off, batch, got 'none'"):
            velocity(np.eye(2), np.eye(2), LAW, "none")


class TestLift:
    @pytest.mark.parametrize(("dim", "time", "step", "tolerance"), [(3, 6.0, 0.05, 1e-4)])
    def test_is_the_limit_of_small_steps(self, dim, time, step, tolerance):
        """Euler's error halves with the step, and its extrapolation to none is the integrator's path."""
        A0, covariance = gaussian_start(dim), power_law(dim)
        want = horizontal_lift(A0, covariance, [time])[0]
        ends = []
        for h in (step, step / 2):
            A = torch.from_numpy(A0)
            for _ in range(round(time / h)):
                A = A - h * population_gradient(A, torch.from_numpy(covariance), LAW)
            ends.append(A.numpy())
        errors = [np.linalg.norm(A - want) for A in ends]
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
        np.testing.assert_allclose(2 * ends[1] - ends[0], want, rtol=0, atol=tolerance)

    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-7), (4, 1e-7)])
    def test_commuting_starts_go_mode_by_mode(self, dim, tolerance):
        """dr/dt = r (E[lambda / (lambda + sigma^2)] - E[r^2 / (r^2 + sigma^2)]), with the averages in closed form; the
        gauge stands still."""
        lam, Q, R = np.linspace(0.3, 2, dim), rotation(dim, 1), rotation(dim, 2)
        r0 = np.linspace(0.2, 0.05, dim)
        times = [0.0, 2.0, 10.0]
        modes = solve_ivp(
            lambda _, r: r * (shrinkage(lam) - shrinkage(r**2)), (0, 10), r0, t_eval=times, rtol=1e-10, atol=1e-12
        ).y.T
        path = horizontal_lift((Q * r0) @ Q.T @ R, (Q * lam) @ Q.T, times)
        for A, r in zip(path, modes, strict=True):
            np.testing.assert_allclose(A, (Q * r) @ Q.T @ R, rtol=0, atol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-7])
    def test_the_weighting_is_a_clock(self, tolerance):
        """With the batch's normaliser the path is the same: at the time at which it has grown as far, it is there."""
        A0, covariance = gaussian_start(3), power_law(3)
        (A,) = horizontal_lift(A0, covariance, [3.0], normaliser="batch")
        size = np.linalg.norm(A)
        reached = solve_ivp(
            lambda _, state: velocity(state.reshape(3, 3), covariance, LAW).ravel(),
            (0, 50),
            A0.ravel(),
            events=lambda _, state: np.linalg.norm(state) - size,
            rtol=1e-10,
            atol=1e-12,
        )
        np.testing.assert_allclose(reached.y_events[0][0].reshape(3, 3), A, rtol=0, atol=tolerance)
        assert reached.t_events[0][0] > 4, "the clocks must differ"

    @pytest.mark.parametrize(
        ("A0", "covariance", "times", "message"),
        [
            (np.eye(2), np.eye(2), [1.0, 1.0], "times must be >= 0 and increasing"),
            (np.eye(2), np.eye(2), [-1.0], "times must be >= 0 and increasing"),
            (np.diag([1.0, 0.0]), np.eye(2), [1.0], "A0 must be invertible"),
            (np.eye(3), np.eye(2), [1.0], "A0 must have the covariance's shape"),
            (np.eye(2), np.diag([1.0, 0.0]), [1.0], "covariance must be positive definite, got an eigenvalue of 0"),
            (np.eye(2), np.array([[1.0, 0.5], [0.0, 1.0]]), [1.0], "covariance must be symmetric"),
            (np.eye(2), np.ones((2, 3)), [1.0], r"covariance must have shape \(d, d\)"),
        ],
    )
    def test_bad_input(self, A0, covariance, times, message):
        with pytest.raises(ValueError, match=message):
            horizontal_lift(A0, covariance, times)


class TestEnd:
    @pytest.mark.parametrize("normaliser", ["off", "batch"])
    @pytest.mark.parametrize(("dim", "residual"), [(2, 1e-6), (6, 1e-6)])
    def test_has_the_teachers_law_and_not_before(self, dim, residual, normaliser):
        A0, covariance = gaussian_start(dim), power_law(dim)
        A, time = settled(A0, covariance, normaliser=normaliser, residual=residual)
        misfit = [
            scipy.linalg.eigvalsh(B @ B.T - covariance, covariance)
            for B in (A, horizontal_lift(A0, covariance, [0.9 * time], normaliser=normaliser)[0])
        ]
        assert np.abs(misfit[0]).max() == pytest.approx(residual, rel=1e-2)
        assert np.abs(misfit[1]).max() > 2 * residual

    def test_there_already(self):
        A, time = settled(np.eye(2), np.eye(2))
        assert time == 0
        np.testing.assert_array_equal(A, np.eye(2))

    def test_too_late(self):
        with pytest.raises(HypothesisError, match="does not have the teacher's law within t = 2"):
            settled(gaussian_start(2), power_law(2), longest=2.0)

    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-9), (2, 1e-9), (8, 1e-9)])
    def test_the_teachers_start_copies(self, dim, tolerance):
        covariance = power_law(dim)
        end = holonomy(start_matrix(covariance, 80.0), covariance).end
        assert gauge_displacement(end) == pytest.approx(0, abs=tolerance)
        assert gauge_displacement(end, teacher_matrix(covariance, 80.0)) == pytest.approx(0, abs=tolerance)

    @pytest.mark.parametrize(("dim", "tolerance"), [(3, 1e-9)])
    def test_a_rotated_start_copies_the_rotated_teacher(self, dim, tolerance):
        covariance, R = power_law(dim), rotation(dim, 7)
        h = holonomy(start_matrix(covariance, 80.0) @ R, covariance)
        assert gauge_displacement(h.end, teacher_matrix(covariance, 80.0) @ R) == pytest.approx(0, abs=tolerance)
        assert gauge_displacement(h.end) == pytest.approx(1 - np.trace(R) / dim, abs=tolerance)
        np.testing.assert_allclose(h.from_polar, np.eye(dim), rtol=0, atol=1e-7)


def first_order(r0, lam):
    """Angles per angle between the eigenvectors of C_0 and Sigma, in a plane: of the flow's end from polar(A_0)
    and from the transport's, to first order.

    C = diag(c) + X offdiag: dc_i/dt = -2 m_i c_i, dX/dt = -X (m_1 + m_2 + (c_1 + c_2) phi[c_1, c_2]), m_i = phi(c_i) -
    phi(lambda_i). The gauge of A = P Q, dQ/dt = Omega Q, turns by Omega P + P Omega = P M - M P."""
    lam, r0 = np.array(lam), np.array(r0)

    def rates(_, state):
        p, X = np.exp(state[:2]), state[2]
        c = p**2
        m = shrinkage(c) - shrinkage(lam)
        slope = (shrinkage(c[0]) - shrinkage(c[1])) / (c[0] - c[1])
        omega = (X * slope * (p[0] - p[1]) - X / (p[0] + p[1]) * (m[0] - m[1])) / (p[0] + p[1])
        return [-m[0], -m[1], -X * (m[0] + m[1] + (c[0] + c[1]) * slope), omega]

    start = [*np.log(r0), r0[0] ** 2 - r0[1] ** 2, 0.0]
    # The two variances are never equal along these paths: the divided difference would be a derivative there.
    flow = solve_ivp(rates, (0, 300), start, rtol=1e-10, atol=1e-13).y[3, -1]
    roots = np.sqrt(lam)
    optimal = (roots[0] - roots[1]) * (r0[0] - r0[1]) / (roots @ r0)  # of polar(Sigma^(1/2) P_0), in closed form
    return flow, flow - optimal


class TestHolonomy:
    @pytest.mark.parametrize(("dim", "tolerance"), [(1, 1e-8), (2, 1e-8), (6, 1e-8)])
    def test_vanishes_for_commuting_starts(self, dim, tolerance):
        covariance, R = power_law(dim), rotation(dim, 5)
        _, Q = np.linalg.eigh(covariance)
        h = holonomy((Q * np.geomspace(0.02, 0.7, dim)) @ Q.T @ R, covariance)
        for got in (h.from_polar, h.from_transport):
            np.testing.assert_allclose(got, np.eye(dim), rtol=0, atol=tolerance)

    @pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-8), (6, 1e-8)])
    def test_vanishes_for_flat_teachers(self, dim, tolerance):
        h = holonomy(gaussian_start(dim), np.eye(dim))
        for got in (h.from_polar, h.from_transport):
            np.testing.assert_allclose(got, np.eye(dim), rtol=0, atol=tolerance)

    @pytest.mark.parametrize(
        ("r0", "lam"), [((0.1, 0.02), (2.0, 0.3)), ((1.0, 0.1), (2.0, 0.3)), ((0.3, 0.2), (1.5, 0.5))]
    )
    @pytest.mark.parametrize(("angles", "tolerance"), [((0.04, 0.02, 0.01), 2e-3)])
    def test_is_of_first_order_in_the_angle(self, r0, lam, angles, tolerance):
        """With the derived coefficients; the displacement, 1 - cos, is of second order."""
        turns, displacements = [], []
        for angle in angles:
            P0 = plane(angle) @ np.diag(r0) @ plane(-angle)
            h = holonomy(P0, np.diag(lam))
            turns.append([Holonomy.angle(R) for R in (h.from_polar, h.from_transport)])
            displacements.append([Holonomy.displacement(R) for R in (h.from_polar, h.from_transport)])
        x = np.log(angles)
        np.testing.assert_allclose(np.polyfit(x, np.log(turns), 1)[0], 1, atol=tolerance)
        np.testing.assert_allclose(np.polyfit(x, np.log(displacements), 1)[0], 2, atol=2 * tolerance)
        np.testing.assert_allclose(np.array(turns[-1]) / angles[-1], np.abs(first_order(r0, lam)), rtol=tolerance)

    @pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-8), (5, 1e-8)])
    def test_goes_with_the_starts_gauge(self, dim, tolerance):
        A0, covariance, R = gaussian_start(dim, seed=3), power_law(dim), rotation(dim, 4)
        plain, rotated = holonomy(A0, covariance), holonomy(A0 @ R, covariance)
        np.testing.assert_allclose(rotated.end, plain.end @ R, rtol=0, atol=tolerance)
        np.testing.assert_allclose(rotated.from_polar, R.T @ plain.from_polar @ R, rtol=0, atol=tolerance)
        np.testing.assert_allclose(rotated.from_transport, R.T @ plain.from_transport @ R, rtol=0, atol=tolerance)
        assert plain.displacement(plain.from_polar) > 1e-4

    @pytest.mark.parametrize(("dim", "tolerance"), [(2, 1e-9), (5, 1e-9)])
    def test_is_what_its_ends_say(self, dim, tolerance):
        """A(inf) = B R, of the teacher's law, for both ends B."""
        A0, covariance = gaussian_start(dim, seed=3), power_law(dim)
        h = holonomy(A0, covariance)
        root = scipy.linalg.sqrtm(covariance).real
        np.testing.assert_allclose(h.end @ h.end.T, covariance, rtol=0, atol=tolerance)
        np.testing.assert_allclose(root @ polar(A0) @ h.from_polar, h.end, rtol=0, atol=tolerance)
        np.testing.assert_allclose(transport(A0 @ A0.T, covariance) @ A0 @ h.from_transport, h.end, rtol=0, atol=1e-7)
        late = horizontal_lift(A0, covariance, [400.0])[0]
        np.testing.assert_allclose(late, h.end, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("dim", [4, 16])
    def test_a_random_start_ends_near_the_optimal_transport(self, dim):
        """Of the rotation away from polar(A_0), the transport's own is most."""
        h = holonomy(gaussian_start(dim, seed=1), power_law(dim))
        by_polar, by_transport = (h.displacement(R) for R in (h.from_polar, h.from_transport))
        assert 0.005 < by_polar < 0.2
        assert 1e-5 < by_transport < 0.2 * by_polar

    @pytest.mark.parametrize(
        ("angle", "lr", "batch", "students", "standard_errors", "precision"), [(0.8, 0.1, 512, 16, 4.0, 0.01)]
    )
    def test_of_trained_students(self, angle, lr, batch, students, standard_errors, precision):
        """Minibatch training (antithetic, which removes the gauge noise at first order) ends where the flow does, and
        not where the two other ends are."""
        lam, A0 = np.diag([2.0, 0.3]), plane(angle) @ np.diag([1.0, 0.1]) @ plane(-angle)
        A, time = settled(A0, lam, residual=1e-3)
        steps = math.ceil(time / lr)
        pack = Pack.of([LinearStudent(torch.from_numpy(A0)) for _ in range(students)])
        recipe = Recipe(steps, lr, batch, "off", antithetic=True)
        sources = [torch.Generator().manual_seed(i) for i in range(students)]
        *_, last = distill(gaussian(lam), pack, recipe, sources, checkpoints=[steps])
        ends = last.students.parameters["weight"].numpy()
        whiten = np.diag(np.diagonal(lam) ** -0.5)
        angles = np.array([turn(polar(whiten @ end)) for end in ends])
        error = angles.std(ddof=1) / math.sqrt(students)
        optimal = turn(polar(whiten @ transport(A0 @ A0.T, lam) @ A0))
        assert error < precision
        assert abs(angles.mean() - turn(polar(whiten @ A))) <= standard_errors * error
        assert abs(angles.mean() - optimal) > 2 * standard_errors * error
        assert abs(angles.mean()) > 2 * standard_errors * error

    @pytest.mark.parametrize("tolerance", [1e-12])
    @pytest.mark.parametrize("angle", [0.3, 2.5])
    def test_the_angle_of_a_rotation(self, angle, tolerance):
        R = scipy.linalg.block_diag(plane(angle), np.eye(2))
        assert Holonomy.angle(R) == pytest.approx(angle, rel=tolerance)
        assert Holonomy.displacement(R) == pytest.approx((1 - math.cos(angle)) / 2, rel=tolerance)
        two = scipy.linalg.block_diag(plane(angle), plane(0.4))
        assert Holonomy.angle(two) == pytest.approx(math.hypot(angle, 0.4), rel=tolerance)
        assert math.isnan(Holonomy.angle(np.diag([1.0, -1.0])))
