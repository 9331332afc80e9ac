"""Everything that follows from a linear student's matrix in closed form: no sampling, no flow to integrate.

For S(z) = A z and the symmetric T(z) = K z of a Gaussian teacher, E|S - T|^2 = |A - K|_F^2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sandbox.measure.gauge import SINGULAR
from sandbox.measure.law import VARIANCE_RATIO


def linear_measurements(A: Tensor, variances: Tensor, sigma_max: float) -> dict[str, Tensor]:
    """Displacement, gauge displacement and law of linear students against a diagonal Gaussian teacher, each (*E,).

        displacement              |A - K|_F^2 / (|A|_F^2 + |K|_F^2), K the flow map from sigma_max
        correlation_distance      1 - <A, K> / (|A|_F |K|_F)
        scale                     |A|_F^2 / |K|_F^2
        gauge_polar               1 - tr polar(A) / d
        gauge_leading, gauge_last 1 - Q_kk of the teacher's first and last eigenvector
        covariance_error          |A A^T - Sigma|_F / |Sigma|_F
        variance_ratio_low/high   extreme eigenvalues of Sigma^(-1/2) A A^T Sigma^(-1/2)
        law_passes                both within the law gate's range of variances

    The gauge is NaN where A is singular to rounding: its polar factor is then not unique.

    Args:
        A: (*E, d, d). variances: the teacher's eigenvalues, (d,) or (*E, d), in the basis of A's rows.
    Raises:
        ValueError: variances that are not positive or do not fit A.
    """
    A, lam = A.double(), torch.as_tensor(variances).double()
    if not (lam > 0).all() or lam.shape[-1] != A.shape[-1]:
        raise ValueError(f"variances must be {A.shape[-1]} positive numbers, got {lam}")
    K = torch.diag_embed((lam / (1 + lam / sigma_max**2)).sqrt()).expand_as(A)
    size_a, size_k, product = (v.sum((-2, -1)) for v in (A.square(), K.square(), A * K))
    C = A @ A.mT
    whitened = torch.linalg.eigvalsh(C / (lam[..., :, None] * lam[..., None, :]).sqrt())
    low, high = whitened[..., 0], whitened[..., -1]
    U, s, Vh = torch.linalg.svd(A)
    Q = U @ Vh
    Q = torch.where((s[..., -1] > s[..., 0] * SINGULAR)[..., None, None], Q, torch.nan)
    return {
        "displacement": 1 - 2 * product / (size_a + size_k),
        "correlation_distance": 1 - product / (size_a * size_k).sqrt(),
        "scale": size_a / size_k,
        "gauge_polar": 1 - torch.diagonal(Q, dim1=-2, dim2=-1).mean(-1),
        "gauge_leading": 1 - Q[..., 0, 0],
        "gauge_last": 1 - Q[..., -1, -1],
        "covariance_error": (C - torch.diag_embed(lam)).norm(dim=(-2, -1)) / lam.norm(dim=-1),
        "variance_ratio_low": low,
        "variance_ratio_high": high,
        "law_passes": (low >= VARIANCE_RATIO[0]) & (high <= VARIANCE_RATIO[1]),
    }
