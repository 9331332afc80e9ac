r"""The copying number Xi, its scaling functions, and the critical dimension of flat spectra.

    Xi = [ (lr d / B) int_{a0}^{sqrt lambda} n_eps(a) / (a^2 f(a)) da ]^{-1}

compares the drift that grows the student with the noise that turns it meanwhile. The gauge displacement is a function
of Xi alone, in one of two universality classes:

    constant speed f = v        rho_g = F_d(Xi), the end of dA = polar(A) dtau + dW / sqrt d from Xi I
    exponential   f = gamma a   A(t) = e^(gamma t) (a0 I + sqrt(D / 2 gamma) G), G Ginibre: rho_g = 1 - q(sqrt Xi)
"""

from __future__ import annotations

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erfc

from sandbox.teacher.schedule import legendre
from sandbox.theory.flat import Flat

# F_d interpolates between its two derived ends by 1 - exp(-c Xi). c belongs to the universal process, not to any
# measurement. The values at 2 and from 4 on are the published ones; at 3, the relative least-squares fit to
# `universal.universal_displacement`. The same fit gives 1.0 at d = 2 and 1.6 at d = 4: 1.9 is the large-d constant.
INTERPOLATION = {2: 0.9, 3: 1.4, 4: 1.9}


# Points of the table of f and n that a sum over updates reads.
TABLE = 2000


def copying_number(problem: Flat, lr: float, batch: float, antithetic: bool = False) -> float:
    """Xi of a flat problem started at the teacher; inf with antithetic noise, which removes the gauge noise at first
    order.

    Args:
        lr: learning rate per unit of the summed (not averaged) gradient over coordinates. batch: samples per step, both
        copies of
            an antithetic pair counted.
    Raises:
        ValueError: lr <= 0, batch < 1, or a start above the end.
    """
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    if batch < 1:
        raise ValueError(f"batch must be >= 1, got {batch}")
    if antithetic or problem.dim == 1:
        # SO(1) is trivial: in one dimension there is no gauge to turn; see `sign_flips` for what does happen there.
        return float("inf") if antithetic else 1 / (lr / batch * _noise_integral(problem))
    return 1 / (lr * problem.dim / batch * _noise_integral(problem))


def _noise_integral(problem: Flat) -> float:
    """int n_eps / (a^2 f) da from the start to the end, in log a: both f and n vanish at the end, their ratio as
    well."""
    low, high = np.log(problem.start), np.log(problem.end)
    if not low < high:
        raise ValueError(f"sigma_init must leave the start below the end, got a start of {problem.start:g}")
    x, w = legendre(200)
    a = np.exp(low + (high - low) * (x + 1) / 2)
    return float((high - low) / 2 * (w * problem.noise(a) / (a * problem.drift(a))).sum())


def finite_step_number(problem: Flat, lr: float, batch: float) -> float:
    """Xi where an update is no small part of the student: the sum over the noiseless student's own updates,

        1/Xi = (lr^2 d / B) sum_t n_eps(a_t) / a_{t+1}^2,     a_{t+1} = a_t + lr f(a_t)

    A kick turns the student that it lands on, which has grown by the same update: its angle is the kick over a_{t+1}.
    For lr f << a the sum is the integral of `copying_number`. Arguments and errors as there."""
    copying_number(problem, lr, batch)  # its checks
    a = np.geomspace(problem.start, problem.end * (1 - 1e-6), TABLE)
    drift, noise = problem.drift(a), problem.noise(a)
    total, now = 0.0, problem.start
    while now < problem.end * (1 - 1e-4):
        after = now + lr * float(np.interp(now, a, drift))
        total += float(np.interp(now, a, noise)) / after**2
        now = after
    return 1 / (lr**2 * (problem.dim if problem.dim > 1 else 1) / batch * total)


def settling_time(problem: Flat, share: float = 0.985, margin: float = 1.25) -> float:
    """t = lr * steps after which the noiseless student has grown to `share` of its end, times a margin."""
    low, high = np.log(problem.start), np.log(share * problem.end)
    x, w = legendre(200)
    a = np.exp(low + (high - low) * (x + 1) / 2)
    return float(margin * (high - low) / 2 * (w * a / problem.drift(a)).sum())


def constant_speed(dim: float, xi) -> np.ndarray:
    """F_d(Xi), the displacement of the constant-speed class, 0 <= F <= 1.

    Exact at d = 1, exp(-2 Xi). For d >= 2 an interpolation between 1 - 2 Xi (Xi -> 0) and (1 - 1/d) / (4 Xi) (Xi ->
    inf) whose one constant belongs to the universal process; within .035 of it at d = 2 to 4, .02 at 8, .007 from 32
    on.
    """
    xi = np.asarray(xi, dtype=float)
    if dim <= 1:
        return np.exp(-2 * xi)
    c = float(np.interp(dim, list(INTERPOLATION), list(INTERPOLATION.values())))
    with np.errstate(invalid="ignore"):
        value = 1 / (1 + 2 * xi + (4 * dim / (dim - 1) - 2) * xi * -np.expm1(-c * xi))
    return np.where(np.isinf(xi), 0.0, value)


def free_polar(x: float) -> float:
    r"""q(x) = E tr polar(x I + G) / d for a large Ginibre matrix G: d/dx of tau|x + c|, c circular.

    From the symmetrised singular-value law, (delta_x + delta_-x)/2 [+] semicircle, whose Cauchy transform on the
    imaginary axis is -i g(y) with g^3 + 2 y g^2 + (y^2 + x^2 - 1) g - y = 0, and tau|T| = (2/pi) int_0^inf (1 - y g)
    dy: q = (2/pi) int 2 x y g / (3 g^2 + 4 y g + y^2 + x^2 - 1) dy. Equal to 1 - 1/(4 x^2) for x >= 1 (to rounding; not
    proved here).
    """
    if x <= 0:
        return 0.0

    def integrand(y: float) -> float:
        roots = np.roots([1, 2 * y, y**2 + x**2 - 1, -y])
        g = max(roots[np.abs(roots.imag) < 1e-9].real)
        return 2 * x * y * g / (3 * g**2 + 4 * y * g + y**2 + x**2 - 1)

    near, _ = quad(integrand, 0, 2, limit=400, epsabs=1e-10)
    far, _ = quad(integrand, 2, np.inf, limit=400, epsabs=1e-10)
    return float(2 / np.pi * (near + far))


def exponential_growth(dim: float, xi) -> np.ndarray:
    """The displacement of the exponential class, 1 - q(sqrt Xi) for large d; exact at d = 1: erfc(sqrt(Xi / 2)).

    At finite d it is off by up to .035 at d = 2, .014 at d = 4 and .007 at d = 8 (sampled Ginibre matrices, Xi of 1 and
    4)."""
    xi = np.asarray(xi, dtype=float)
    if dim <= 1:
        return erfc(np.sqrt(xi / 2))
    return 1 - np.vectorize(lambda v: 1.0 if np.isinf(v) else free_polar(np.sqrt(v)), otypes=[float])(xi)


def displacement(problem: Flat, lr: float, batch: float, antithetic: bool = False, finite_steps: bool = False) -> float:
    """rho_g of a student started at the teacher, by the class of the problem's weighting.

    Args:
        finite_steps: from `finite_step_number` instead of `copying_number`; others as there.
    """
    if finite_steps and not antithetic:
        xi = finite_step_number(problem, lr, batch)
    else:
        xi = copying_number(problem, lr, batch, antithetic)
    scaling = exponential_growth if problem.exponential else constant_speed
    return float(scaling(problem.dim, xi))


def pair_displacement(rho_g: float, variance: float, sigma_max: float) -> float:
    """The displacement of the pairs from that of the gauge, once the student has the teacher's law, for a flat
    spectrum.

    E|S - T|^2 / (tr Cov S + tr Cov T) with S = sqrt(lambda) Q z and T = a_T z, a_T = sigma_max sqrt(lambda / (lambda +
    sigma_max^2)): the teacher's map from sigma_max z misses its law by O(lambda / sigma_max^2), which leaves a floor at
    rho_g = 0."""
    a_T = sigma_max * np.sqrt(variance / (variance + sigma_max**2))
    return float(1 - 2 * a_T * np.sqrt(variance) * (1 - rho_g) / (variance + a_T**2))


def critical_dimension(displacement_at, low: float = 2.0, high: float = 4096.0) -> float:
    """d* at which a prediction rho_g(d) passes 1/2, NaN if it does not between low and high.

    Args:
        displacement_at: d -> rho_g, d real; decreasing (copying begins at d*) or increasing (it ends there).
    """

    def excess(log_d: float) -> float:
        return displacement_at(float(np.exp(log_d))) - 0.5

    ends = np.log(low), np.log(high)
    if excess(ends[0]) * excess(ends[1]) > 0:
        return float("nan")
    return float(np.exp(brentq(excess, *ends, xtol=1e-4)))
