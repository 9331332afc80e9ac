r"""The noiseless limit of a linear student x = A z on a Gaussian teacher N(0, Sigma) with the exact fake score.

For a weighting w that all samples share, the mean of the gradient is M A with a symmetric M, so that the student
follows the horizontal lift of its law's covariance C = A A^T in the Bures-Wasserstein geometry:

    dA/dt = -M(C) A,     M(C) = w E_sigma[C (C + sigma^2)^-1 - Sigma (Sigma + sigma^2)^-1],     A^T dA/dt symmetric

t = lr * steps. C ends at Sigma, and A at Sigma^(1/2) Q for one orthogonal Q. The normaliser of a large batch multiplies
M by a number: it changes the clock and not the path.

The ends that A could be compared with, all of the teacher's law, differ in where they start from:

    Sigma^(1/2)              the teacher's own pairing (its maps are symmetric and positive)
    Sigma^(1/2) polar(A_0)   the teacher's pairing after the start's own remapping of the noise
    T A_0                    the optimal transport T from the start's law to the teacher's (Brenier 1991), applied to
                             the start: the end of the geodesic's horizontal lift

A start that commutes with Sigma ends in both of the last two. Any other ends in neither: the lift of a curve that is
not the geodesic turns by the holonomy of the loop that the two enclose, of first order in the angle between the
eigenvectors of C_0 and those of Sigma. (A displacement, 1 - tr R / d, is therefore of second order.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from sandbox.teacher.schedule import LogUniform, SigmaLaw
from sandbox.theory.hypotheses import HypothesisError
from sandbox.theory.normaliser import ROOT_2_PI

NODES = 200
LAW = LogUniform()
SHARED = ("off", "batch")


def teacher_amplitude(variance, sigma_max: float):
    """a_T = sigma_max sqrt(lambda / (lambda + sigma_max^2)), the singular value of the probability flow's map from
    sigma_max z to sigma = 0 (Karras et al. 2022, eq. 1, for a Gaussian); shape of `variance`.

    Raises ValueError if a variance or sigma_max is not > 0."""
    lam = _positive(variance, sigma_max, "sigma_max")
    return sigma_max * np.sqrt(lam / (lam + sigma_max**2))


def start_amplitude(variance, sigma_init: float):
    """a_0 = sigma_init lambda / (lambda + sigma_init^2), the singular value of the one-step denoiser at sigma_init z;
    shape of `variance`.

    Raises ValueError if a variance or sigma_init is not > 0."""
    lam = _positive(variance, sigma_init, "sigma_init")
    return sigma_init * lam / (lam + sigma_init**2)


def _positive(variance, sigma: float, name: str) -> np.ndarray:
    lam = np.asarray(variance, dtype=float)
    if not (lam > 0).all():
        raise ValueError(f"variance must be > 0, got {lam.min()}")
    if not sigma > 0:
        raise ValueError(f"{name} must be > 0, got {sigma}")
    return lam


def spectral(matrix: np.ndarray, phi) -> np.ndarray:
    """phi of a symmetric matrix, through its eigenvalues; (d, d)."""
    lam, Q = np.linalg.eigh(matrix)
    return (Q * phi(lam)) @ Q.T


def teacher_matrix(covariance: np.ndarray, sigma_max: float) -> np.ndarray:
    """The teacher's map z -> x, sigma_max Sigma^(1/2) (Sigma + sigma_max^2)^(-1/2), (d, d)."""
    return spectral(_definite(covariance), lambda lam: teacher_amplitude(lam, sigma_max))


def start_matrix(covariance: np.ndarray, sigma_init: float) -> np.ndarray:
    """The one-step denoiser z -> x, sigma_init Sigma (Sigma + sigma_init^2)^-1, (d, d)."""
    return spectral(_definite(covariance), lambda lam: start_amplitude(lam, sigma_init))


def transport(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The optimal transport x -> T x from N(0, C) to N(0, Sigma) (Olkin & Pukelsheim 1982), symmetric, (d, d):

        T = C^(-1/2) (C^(1/2) Sigma C^(1/2))^(1/2) C^(-1/2),     T A_0 = Sigma^(1/2) polar(Sigma^(1/2) A_0)

    Raises ValueError if a covariance is not symmetric and positive definite."""
    _definite(source, "source")
    root, inverse = spectral(source, np.sqrt), spectral(source, lambda c: c**-0.5)
    return inverse @ spectral(root @ _definite(target, "target") @ root, np.sqrt) @ inverse


def polar(A: np.ndarray) -> np.ndarray:
    """The orthogonal Q of A = (A A^T)^(1/2) Q, (d, d)."""
    U, _, Vh = np.linalg.svd(A)
    return U @ Vh


def velocity(A: np.ndarray, covariance: np.ndarray, law: SigmaLaw, normaliser: str = "off") -> np.ndarray:
    """dA/dt = -M(C) A, (d, d).

    Args:
        A: the student, (d, d). covariance: Sigma, (d, d). law: noise levels of the training draws.
        normaliser: off (w = 1) or batch (w = 1 / E mean_j |x - D_real|_j, the limit of a large batch).
    Raises:
        HypothesisError: the per-sample normaliser. ValueError: an unknown one.
    """
    _require_shared(normaliser)
    return _velocity(A, covariance, spectral(covariance, _shrinkage(law)), law, normaliser)


def _require_shared(normaliser: str) -> None:
    if normaliser == "per-sample":
        raise HypothesisError(
            "the horizontal flow is derived for a weighting that all samples share: the per-sample normaliser is "
            "correlated with the sample, and its mean gradient is not a symmetric matrix times A"
        )
    if normaliser not in SHARED:
        raise ValueError(f"normaliser must be one of {', '.join(SHARED)}, got {normaliser!r}")


def _shrinkage(law: SigmaLaw):
    """lambda -> E_sigma[lambda / (lambda + sigma^2)]."""
    sigma, weight = law.nodes(NODES)
    return lambda lam: (lam[..., None] / (lam[..., None] + sigma**2)) @ weight


def _velocity(A: np.ndarray, covariance: np.ndarray, real: np.ndarray, law: SigmaLaw, normaliser: str) -> np.ndarray:
    # The singular vectors of A are the eigenvectors of C, without squaring its condition number.
    U, s, _ = np.linalg.svd(A)
    M = (U * _shrinkage(law)(s**2)) @ U.T - real
    if normaliser == "batch":
        M = M / _mean_distance(A, covariance, law)
    return -M @ A


def _mean_distance(A: np.ndarray, covariance: np.ndarray, law: SigmaLaw) -> float:
    """E mean_j |x - D_real(x + sigma eps)|_j, of variance (I-K) C (I-K) + sigma^2 K^2 for K = Sigma (Sigma +
    sigma^2)^-1."""
    lam, Q = np.linalg.eigh(covariance)
    sigma, weight = law.nodes(NODES)
    k = lam / (lam + sigma[:, None] ** 2)  # (nodes, d)
    X, E = Q * (1 - k)[:, None, :], Q * (k * sigma[:, None])[:, None, :]  # (nodes, d, d)
    variance = np.square(X @ (Q.T @ A)).sum(-1) + np.square(E).sum(-1)
    return float(ROOT_2_PI * weight @ np.sqrt(variance).mean(-1))


def _definite(covariance: np.ndarray, name: str = "covariance") -> np.ndarray:
    covariance = np.asarray(covariance, dtype=float)
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1]:
        raise ValueError(f"{name} must have shape (d, d), got {covariance.shape}")
    if not np.allclose(covariance, covariance.T, rtol=0, atol=1e-9 * np.abs(covariance).max()):
        raise ValueError(f"{name} must be symmetric, got an asymmetry of {np.abs(covariance - covariance.T).max():g}")
    smallest = np.linalg.eigvalsh(covariance)[0]
    if not smallest > 0:
        raise ValueError(f"{name} must be positive definite, got an eigenvalue of {smallest:g}")
    return covariance


def _invertible(A: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    A = np.asarray(A, dtype=float)
    if A.shape != covariance.shape:
        raise ValueError(f"A0 must have the covariance's shape {covariance.shape}, got {A.shape}")
    s = np.linalg.svd(A, compute_uv=False)
    if not s[-1] > 1e-14 * s[0]:
        raise ValueError(f"A0 must be invertible to keep a polar factor, got a smallest singular value of {s[-1]:g}")
    return A


def horizontal_lift(
    A0: np.ndarray,
    covariance: np.ndarray,
    times,
    law: SigmaLaw = LAW,
    normaliser: str = "off",
    tolerance: float = 1e-10,
) -> np.ndarray:
    """A(t) at increasing times t >= 0 in units of lr * steps, from any invertible start, (m, d, d).

    Integrated by the eighth-order rule of Dormand and Prince (Hairer, Norsett & Wanner 1993, II.5).

    Args:
        A0, covariance: (d, d). tolerance: of the integrator, relative to each entry and to the smallest singular value
            of A0.
    Raises:
        ValueError: a start that is singular, a covariance that is not positive definite, times that do not increase.
        HypothesisError: see `velocity`.
    """
    times = np.asarray(times, dtype=float)
    if len(times) == 0 or times[0] < 0 or (np.diff(times) <= 0).any():
        raise ValueError(f"times must be >= 0 and increasing, got {times.tolist()}")
    solution = _integrate(A0, covariance, times, law, normaliser, tolerance)
    return solution.y.T.reshape(-1, *np.shape(A0))


def _integrate(A0, covariance, times, law, normaliser, tolerance, events=None):
    _require_shared(normaliser)
    covariance = _definite(covariance)
    A0 = _invertible(A0, covariance)
    shape, real = A0.shape, spectral(covariance, _shrinkage(law))
    return solve_ivp(
        lambda _, state: _velocity(state.reshape(shape), covariance, real, law, normaliser).ravel(),
        (0, times[-1]),
        A0.ravel(),
        method="DOP853",
        t_eval=times,
        events=events,
        rtol=tolerance,
        atol=tolerance * np.linalg.svd(A0, compute_uv=False)[-1],
    )


def settled(
    A0: np.ndarray,
    covariance: np.ndarray,
    law: SigmaLaw = LAW,
    normaliser: str = "off",
    residual: float = 1e-8,
    longest: float = 1e5,
    tolerance: float = 1e-11,
) -> tuple[np.ndarray, float]:
    """A and t when the student first has the teacher's law, |Sigma^(-1/2) C Sigma^(-1/2) - I| <= residual (spectral
    norm).

    Returns: (d, d), t. Raises HypothesisError if that takes longer than t = longest; others as `horizontal_lift`."""
    covariance = _definite(covariance)
    whiten = spectral(covariance, lambda lam: lam**-0.5)
    shape = covariance.shape

    def misfit(A: np.ndarray) -> float:
        s = np.linalg.svd(whiten @ A, compute_uv=False)
        return float(np.abs(s**2 - 1).max())

    def arrived(_, state):
        return misfit(state.reshape(shape)) - residual

    arrived.terminal = True  # type: ignore[attr-defined]
    if misfit(_invertible(A0, covariance)) <= residual:
        return np.asarray(A0, dtype=float), 0.0
    solution = _integrate(A0, covariance, np.array([longest]), law, normaliser, tolerance, arrived)
    if not len(solution.t_events[0]):
        raise HypothesisError(f"the noiseless student does not have the teacher's law within t = {longest:g}")
    return solution.y_events[0][0].reshape(shape), float(solution.t_events[0][0])


def gauge_displacement(A: np.ndarray, reference: np.ndarray | None = None) -> float:
    """1 - tr(polar(A) polar(A_ref)^T) / d against a linear map, by default one that is symmetric and positive, as the
    teacher's is."""
    Q = polar(A) if reference is None else polar(A) @ polar(reference).T
    return float(1 - np.trace(Q) / len(Q))


@dataclass(frozen=True)
class Holonomy:
    """Where the noiseless flow ends, and the noise remappings R with A(inf) = B R for two ends B of the teacher's law.

    All (d, d); R = I where the flow ends in B. `displacement` of one is 1 - tr R / d."""

    end: np.ndarray
    """A(inf) = Sigma^(1/2) Q."""
    from_polar: np.ndarray
    """polar(A_0)^T Q, for B = Sigma^(1/2) polar(A_0)."""
    from_transport: np.ndarray
    """(T A_0)^-1 A(inf), for B = T A_0: the holonomy of the loop of the flow's path and the geodesic."""

    @staticmethod
    def displacement(R: np.ndarray) -> float:
        return float(1 - np.trace(R) / len(R))

    @staticmethod
    def angle(R: np.ndarray) -> float:
        """The length of the shortest way from I to R, |log R|_F / sqrt 2: in a plane, the angle of rotation; nan for an
        R that reverses orientation."""
        if np.linalg.det(R) < 0:
            return float("nan")
        return float(np.sqrt((np.angle(np.linalg.eigvals(R)) ** 2).sum() / 2))


def holonomy(
    A0: np.ndarray, covariance: np.ndarray, law: SigmaLaw = LAW, residual: float = 1e-8, longest: float = 1e5
) -> Holonomy:
    """The rotation that the noiseless flow accumulates from A0 to the teacher's law; arguments and errors as `settled`.

    Independent of the weighting, as long as all samples share it, and of the start's own gauge: A0 R gives R^T (.) R.
    """
    covariance = _definite(covariance)
    A, _ = settled(A0, covariance, law, "off", residual, longest)
    # The last part of the way, of the order of the residual, along the geodesic.
    end = transport(A @ A.T, covariance) @ A
    start = np.asarray(A0, dtype=float)
    whiten = spectral(covariance, lambda lam: lam**-0.5)
    Q = polar(whiten @ end)
    return Holonomy(
        end=end,
        from_polar=polar(start).T @ Q,
        from_transport=polar(whiten @ transport(start @ start.T, covariance) @ start).T @ Q,
    )
