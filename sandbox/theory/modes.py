r"""Any spectrum, student and teacher commuting: one equation per eigenmode.

    dr_k/dt = f_k(r) + r_k Gamma_k,     d ln Q_kk/dt = -Gamma_k,     rho_k = 1 - Q_kk,     r_k(0) = a_k
    Gamma_k = (lr / 2B) sum_{l != k} (r_k^2 n_k + r_l^2 n_l) / (r_k^2 + r_l^2)^2

Off-diagonal covariance relaxes fast, so that a gradient's noise is projected on the vertical direction of each pair (k,
l); that projection is the denominator. Per mode, with v_j = (1-k_j)^2 r_j^2 + k_j^2 sigma^2 the variance of u_j and nu
= mean_j |u_j|,

    f_k = E_sigma[(k_k - kappa_k) (q_k E[xi_k^2/nu] + (r_k^2 - q_k) E[1/nu]) / r_k]
    q_k = (1-k_k) r_k^2 ((1-k_k) r_k^2 - k_k sigma^2) / v_k
    n_k = E_sigma[(k_k - kappa_k)^2 sigma^2 E[xi_k^2/nu^2]]

for the per-sample normaliser in the eigenbasis, and 1/nu -> w for a weighting that all samples share. n_k is exact
where the two modes of a pair are alike; for unlike ones it is low, by a factor of up to 2.5 for pairs with the leading
mode late in their growth, and the displacement of trailing modes comes out up to a third too small at d = 4 to 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from sandbox.teacher.schedule import LogUniform, SigmaLaw
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.normaliser import ROOT_2_PI, spectrum_averages

NODES = 40


@dataclass(frozen=True)
class Spectrum:
    """A commuting linear problem: the teacher's eigenvalues (d,), where the student starts, and how it is weighted.

    Raises HypothesisError for the per-sample normaliser at d = 1."""

    eigenvalues: tuple[float, ...]
    sigma_init: float = 80.0
    law: SigmaLaw = LogUniform()
    normaliser: str = "per-sample"

    def __post_init__(self):
        if min(self.eigenvalues) <= 0:
            raise ValueError(f"eigenvalues must be > 0, got {min(self.eigenvalues)}")
        if self.normaliser == "per-sample" and len(self.eigenvalues) == 1:
            raise HypothesisError("the per-sample normaliser has no prediction at d = 1: E[1/nu] is infinite there")

    @property
    def start(self) -> np.ndarray:
        lam = np.array(self.eigenvalues)
        return self.sigma_init * lam / (lam + self.sigma_init**2)

    def drift_and_noise(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """f_k(r) and n_k(r), each (d,)."""
        lam = np.array(self.eigenvalues)
        sigma, weight = self.law.nodes(NODES)
        s2 = sigma[:, None] ** 2
        k = lam / (lam + s2)
        gap = s2 * (lam - r**2) / ((lam + s2) * (r**2 + s2))
        v = (1 - k) ** 2 * r**2 + k**2 * s2
        if self.normaliser == "per-sample":
            beta, alpha, alpha2 = spectrum_averages(np.sqrt(v), nodes=32)
            q = (1 - k) * r**2 * ((1 - k) * r**2 - k * s2) / v
            f = gap * (q * alpha + (r**2 - q) * beta[:, None]) / r
            n = gap**2 * s2 * alpha2
        else:
            w = 1.0 if self.normaliser == "off" else 1 / (ROOT_2_PI * (weight * np.sqrt(v).mean(-1)).sum())
            f, n = r * w * gap, w**2 * gap**2 * s2
        return weight @ f, weight @ n


def rotation_rates(r: np.ndarray, n: np.ndarray, lr: float, batch: int) -> np.ndarray:
    """Gamma_k, (d,)."""
    r2 = r**2
    pair = (r2 * n)[:, None] + (r2 * n)[None, :]
    rate = pair / (r2[:, None] + r2[None, :]) ** 2
    np.fill_diagonal(rate, 0.0)
    return 0.5 * lr / batch * rate.sum(-1)


def settling_time(problem: Spectrum, share: float = 0.985, margin: float = 1.25, longest: float = 1e5) -> float:
    """t = lr * steps after which every mode of the noiseless student has grown to `share` of its end, times a
    margin."""
    end = share * np.sqrt(problem.eigenvalues)

    def slowest(_, log_r):
        return float((log_r - np.log(end)).min())

    slowest.terminal = True  # type: ignore[attr-defined]
    solution = solve_ivp(
        lambda _, log_r: problem.drift_and_noise(np.exp(log_r))[0] / np.exp(log_r),
        (0, longest),
        np.log(problem.start),
        events=slowest,
        method="RK45",
        rtol=1e-5,
        atol=1e-5,
    )
    if not len(solution.t_events[0]):
        raise HypothesisError(f"the noiseless student does not reach {share:g} of its end within t = {longest:g}")
    return float(margin * solution.t_events[0][0])


def mode_displacements(problem: Spectrum, lr: float, batch: int, time: float) -> np.ndarray:
    """rho_k of every eigenmode of a student started at the teacher, after t = lr * steps, (d,)."""
    d = len(problem.eigenvalues)

    def rates(_, state):
        r = np.exp(state[:d])
        f, n = problem.drift_and_noise(r)
        gamma = rotation_rates(r, n, lr, batch)
        return np.concatenate([f / r + gamma, -gamma])

    start = np.concatenate([np.log(problem.start), np.zeros(d)])
    solution = solve_ivp(rates, (0, time), start, method="RK45", rtol=1e-5, atol=1e-6)
    return 1 - np.exp(solution.y[d:, -1])
