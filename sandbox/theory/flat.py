r"""Drift and gauge noise of a linear student on a flat teacher Sigma = lambda I, all singular values equal to a.

With H = kappa - k, u = x - D_real(x_sigma) = (1-k) x - k sigma eps, v_u = (1-k)^2 a^2 + k^2 sigma^2 its variance per
coordinate:

    f(a)      = a E_sigma[w (k - kappa)]              drift of a:             da/dt = f(a),  t = lr * steps
    n_eps(a)  = E_sigma[w^2 (k - kappa)^2 sigma^2]    gauge noise:            the part of the gradient that rotates
    n_x(a)    = E_sigma[w^2 (k - kappa)^2 a^2]        horizontal noise:       changes the law, not the pairing

for a weighting w that is the same for all samples. The per-sample normaliser 1/nu is correlated with the sample; with
alpha_p = E[xi^2/nu^p], beta_p = E[1/nu^p] for nu the mean of d standard normals' moduli, regression of x and y on u
gives

    f(a)      = E_sigma[(k - kappa) (q alpha_1 + (a^2 - q) beta_1) / (a sqrt v_u)]
    q         = (1-k) a^2 ((1-k) a^2 - k sigma^2) / v_u
    n_eps(a)  = E_sigma[(k - kappa)^2 sigma^2 alpha_2 / v_u]

(the second because the rotating part is the antisymmetric pair, in which the regression on u drops out). For d ->
infinity alpha_1 = beta_1 = sqrt(pi/2) and alpha_2 = pi/2: nu self-averages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sandbox.teacher.schedule import LogUniform, SigmaLaw
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.normaliser import flat_average

NODES = 400


@dataclass(frozen=True)
class Flat:
    """A flat linear problem.

    Args:
        dim: d >= 1, may be any real number (inf: the self-averaged normaliser). variance: lambda.
        sigma_init: noise level at which the student starts. law: noise levels of the training draws.
        normaliser: per-sample, batch or off.
    Raises:
        HypothesisError: the per-sample normaliser at d = 1, whose drift has an infinite mean.
    """

    dim: float
    variance: float = 1.0
    sigma_init: float = 80.0
    law: SigmaLaw = LogUniform()
    normaliser: str = "per-sample"

    def __post_init__(self):
        if not self.dim >= 1:
            raise ValueError(f"dim must be >= 1, got {self.dim}")
        if not self.variance > 0:
            raise ValueError(f"variance must be > 0, got {self.variance}")
        if not self.sigma_init > 0:
            raise ValueError(f"sigma_init must be > 0, got {self.sigma_init}")
        if self.normaliser not in ("per-sample", "batch", "off"):
            raise ValueError(f"normaliser must be one of per-sample, batch, off, got {self.normaliser!r}")
        if self.normaliser == "per-sample" and self.dim <= 1:
            raise HypothesisError(
                "the per-sample normaliser has no prediction at d = 1: E[1/nu] is infinite there, and so "
                "is the student's mean drift"
            )

    @property
    def start(self) -> float:
        """a_0 = sigma_init lambda / (lambda + sigma_init^2), the exact one-step denoiser's singular value."""
        return self.sigma_init * self.variance / (self.variance + self.sigma_init**2)

    @property
    def end(self) -> float:
        """sqrt(lambda), where the student's law is the teacher's."""
        return self.variance**0.5

    @property
    def exponential(self) -> bool:
        """Does a small student grow exponentially (f = gamma a) rather than at constant speed (f = v)?"""
        return self.normaliser != "per-sample"

    def _fields(self, a) -> tuple[np.ndarray, ...]:
        """sigma, E_sigma weights, k, k - kappa and v_u for amplitudes a (m,): the last two (m, nodes)."""
        a = np.atleast_1d(np.asarray(a, dtype=float))[:, None]
        sigma, weight = self.law.nodes(NODES)
        k = self.variance / (self.variance + sigma**2)
        # k - kappa by one fraction: the difference of the two cancels near the end of training.
        gap = sigma**2 * (self.variance - a**2) / ((self.variance + sigma**2) * (a**2 + sigma**2))
        return a, sigma, weight, k, gap, (1 - k) ** 2 * a**2 + k**2 * sigma**2

    def _average(self, power: int, squared: bool) -> float:
        if np.isinf(self.dim):
            return (np.pi / 2) ** (power / 2)
        return flat_average(float(self.dim), power, squared)

    def _weight(self, v_u: np.ndarray, weight: np.ndarray) -> np.ndarray | float:
        """The weighting that all samples share: 1, or one over the batch's mean of |u|, in the limit of a large
        batch."""
        if self.normaliser == "off":
            return 1.0
        return 1 / (np.sqrt(2 / np.pi) * (weight * np.sqrt(v_u)).sum(-1, keepdims=True))

    def drift(self, a) -> np.ndarray:
        """f(a), (m,)."""
        a, sigma, weight, k, gap, v_u = self._fields(a)
        if self.normaliser == "per-sample":
            alpha, beta = self._average(1, True), self._average(1, False)
            q = (1 - k) * a**2 * ((1 - k) * a**2 - k * sigma**2) / v_u
            return (weight * gap * (q * alpha + (a**2 - q) * beta) / (a * np.sqrt(v_u))).sum(-1)
        return (a * self._weight(v_u, weight) * gap * weight).sum(-1)

    def noise(self, a) -> np.ndarray:
        """n_eps(a), (m,): the variance per step, entry and unit of lr^2/B of the part that turns the gauge."""
        a, sigma, weight, _, gap, v_u = self._fields(a)
        w2 = self._average(2, True) / v_u if self.normaliser == "per-sample" else self._weight(v_u, weight) ** 2
        return (w2 * gap**2 * sigma**2 * weight).sum(-1)

    def horizontal_noise(self, a) -> np.ndarray:
        """n_x(a), (m,), for a weighting that all samples share.

        Raises HypothesisError for the per-sample normaliser, whose horizontal part was not derived."""
        if self.normaliser == "per-sample":
            raise HypothesisError("the horizontal noise is derived for a weighting that does not depend on the sample")
        a, _, weight, _, gap, v_u = self._fields(a)
        return (self._weight(v_u, weight) ** 2 * gap**2 * a**2 * weight).sum(-1)


def drift_closed_form(a, variance: float, law: LogUniform) -> np.ndarray:
    """f(a) of the self-averaged per-sample normaliser (d -> infinity) for log-uniform noise levels, 0 < a <
    sqrt(lambda)."""
    a, lam = np.asarray(a, dtype=float), variance

    def primitive(sigma: float) -> np.ndarray:
        return np.arctan(sigma * np.sqrt(lam**2 - a**4) / (a * np.sqrt(lam**2 + a**2 * sigma**2)))

    slope = np.sqrt((lam - a**2) / (lam + a**2))
    return np.sqrt(np.pi / 2) / law.log_range * slope * (primitive(law.sigma_max) - primitive(law.sigma_min))


def noise_closed_form(a, variance: float, law: LogUniform) -> np.ndarray:
    """n_eps(a) of the self-averaged per-sample normaliser (d -> infinity) for log-uniform noise levels, 0 < a <
    sqrt(lambda)."""
    a, lam = np.asarray(a, dtype=float), variance
    p, b = a**2, lam**2 / a**2

    def primitive(u: float) -> np.ndarray:
        return b / (b - p) ** 2 * np.log((u + p) / (u + b)) + p / ((b - p) * (u + p))

    size = (np.pi / 2) * (lam - p) ** 2 / (2 * law.log_range * p)
    return size * (primitive(law.sigma_max**2) - primitive(law.sigma_min**2))
