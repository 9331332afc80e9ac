"""One dimension, where the student's end is decided by the sign of a diffusion."""

import math

import numpy as np
import pytest
from scipy.special import erfc

from sandbox.teacher.schedule import LogUniform
from sandbox.theory.copying import copying_number
from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.one_dimension import flip_displacement


# by an independent implementation of the scale function, smin .02, smax 80, no normaliser
@pytest.mark.parametrize(
    ("lr", "batch", "want", "tolerance"), [(0.02, 1, 0.756, 0.002), (0.04, 1, 0.834, 0.002), (0.02, 4, 0.508, 0.002)]
)
def test_tabled_values(lr, batch, want, tolerance):
    assert flip_displacement(Flat(1, normaliser="off"), lr, batch) == pytest.approx(want, abs=tolerance)


@pytest.mark.parametrize("tolerance", [2e-3])
@pytest.mark.parametrize(("lr", "batch"), [(0.02, 1), (0.02, 64), (1e-3, 64), (1e-3, 640)])
def test_is_the_exponential_class_while_the_student_is_small(lr, batch, tolerance):
    """Growth at the rate gamma and noise n_eps are constant for a << smin, and the end is decided there if the start
    and the noise are far below: then rho_g = erfc(sqrt(Xi / 2))."""
    problem = Flat(1, 1.0, 800.0, LogUniform(0.5, 80.0), "off")
    xi = copying_number(problem, lr, batch)
    assert flip_displacement(problem, lr, batch) == pytest.approx(erfc(math.sqrt(xi / 2)), abs=tolerance)


# The second starts so high that the noise of z, which turns nothing, is a third of what decides the sign.
@pytest.mark.parametrize(
    ("sigma_init", "lr", "batch", "paths", "end", "standard_errors"),
    [(80.0, 0.02, 4, 4000, 50.0, 4.0), (2.0, 2.0, 4, 12_000, 80.0, 4.0)],
)
def test_against_the_diffusion_itself(sigma_init, lr, batch, paths, end, standard_errors):
    """Euler-Maruyama of da = f dt + sqrt(D) dW, with f odd and D even, from the teacher's start."""
    problem = Flat(1, sigma_init=sigma_init, normaliser="off")
    grid = np.concatenate([[0.0], np.geomspace(1e-5, 3.0, 400)])
    f = np.concatenate([[0.0], problem.drift(grid[1:])])
    noise = problem.noise(grid[1:]) + 2 * problem.horizontal_noise(grid[1:])
    D = lr / batch * np.concatenate([noise[:1], noise])
    rng, dt = np.random.default_rng(0), 0.02
    a = np.full(paths, problem.start)
    for _ in range(round(end / dt)):
        size = np.abs(a)
        a = a + np.sign(a) * np.interp(size, grid, f) * dt
        a = a + np.sqrt(np.interp(size, grid, D) * dt) * rng.standard_normal(paths)
    # paths that are still small have not been decided
    assert (np.abs(a) > 0.3).mean() > 0.999
    flips = (a < 0).mean()
    error = 2 * math.sqrt(flips * (1 - flips) / paths)
    assert abs(2 * flips - flip_displacement(problem, lr, batch)) <= standard_errors * error


@pytest.mark.parametrize("normaliser", ["off", "batch"])
def test_depends_on_learning_rate_over_batch_and_rises_with_it(normaliser):
    problem = Flat(1, normaliser=normaliser)
    values = [flip_displacement(problem, lr, 4) for lr in (0.002, 0.02, 0.2)]
    assert 0 < values[0] < values[1] < values[2] < 1
    assert flip_displacement(problem, 0.04, 8) == pytest.approx(values[1], rel=1e-12)


@pytest.mark.parametrize("dim", [2, 1.5])
def test_other_dimensions_are_refused(dim):
    with pytest.raises(ValueError, match=rf"dim must be 1, got {dim}"):
        flip_displacement(Flat(dim, normaliser="off"), 0.02, 1)


def test_the_per_sample_normaliser_is_refused():
    with pytest.raises(HypothesisError, match="d = 1"):
        flip_displacement(Flat(1), 0.02, 1)
