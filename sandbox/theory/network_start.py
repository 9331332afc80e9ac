r"""A network student's start, mode by mode: the exact denoiser's signal against the network's own error.

Started at its teacher's weights, the student is the one-step output D_net(sigma z), sigma = sigma_init. Along an
eigenvector of the teacher's covariance with eigenvalue lambda the exact denoiser has the standard deviation

    a = sigma lambda / (lambda + sigma^2)        (exact for a Gaussian teacher, the linear part for any other)

and the network adds an error of root mean square e. If the error is independent of the signal, start and exact
denoiser correlate as s / sqrt(1 + s^2), s = a / e.

A copying number for networks: a working hypothesis, to be tested. Nothing in it is fitted. All of its inputs are known
before training or in its first updates:

    a, e     signal and error along the mode at sigma_init, from the teacher and its network
    lr       Adam's learning rate
    g_1      rms over z of |dy/dtheta|_1, y the student's output along the mode: growth per unit of lr if all agree
    g_2      rms over z of |dy/dtheta|_2: growth per unit of lr and sqrt(step) if signs are random
    eta      share of the gradients' second moment that is minibatch noise, 0 <= eta < 1

Adam moves a parameter by lr sqrt(1 - eta) a step along its mean gradient, and by lr sqrt(eta) at random, so that y
grows at the speed v = lr g_1 sqrt(1 - eta) and diffuses by D = lr^2 g_2^2 eta a step. Noise counts until the mode has
grown by its own size, for then the later noise is small beside it (int D dt / (a + v t)^2 = D / (v a)): for N = a / v
steps, and

    X^2 = a^2 / (e^2 + D N),        1 / X^2 = (e/a)^2 + D / (v a)

whose second term is the inverse of the copying number of a linear student at constant speed. To leading order either
term costs half of itself in the correlation with the teacher: 1 - X / sqrt(1 + X^2) by an error of the start, 1 / (1 +
2 X^2) by noise on an isolated mode. The noise until the mode has reached the teacher's scale, N = sqrt(lambda) / v,
bounds it from above; so `scale` is an argument. A mode is expected to be copied where X >> 1, remapped where X << 1.

A second hypothesis, of what happens after growth. At the optimum the mean gradient vanishes and Adam's steps do not:
each parameter moves by lr at random, eta = 1, and the output along the mode by lr g_2 a step, until the learning rate
has fallen. A change of the output that is a gradient field changes the law, and the loss takes it back; for the
rest, which only changes the pairing, there is no such force, and it adds up. Of the directions of a linear map the rest
is a share (d - 1) / (2d), its antisymmetric matrices. The mode's final size is sqrt(lambda), so that with g_2 as at the
start

    1 / X^2 = (e/a)^2 + D / (v a) + (d - 1) / (2d) lr^2 g_2^2 N_e / lambda,    N_e = sum_t (lr_t / lr)^2

At d = 1 nothing is added, as a monotone map is unique; the steps of the growth itself are counted twice, which is a
share a / sqrt(lambda) of its own term. It bounds a linear student's late diffusion under Adam from above, by two where
half of the steps are symmetric; a field that is not linear has more room, (d - 1) / d of all directions, and is
bounded by nothing here. Nothing is fitted, and nothing is derived for a network.
"""

from __future__ import annotations

import numpy as np


def start_signal(variance, sigma_init: float) -> np.ndarray:
    """a_k = sigma lambda_k / (lambda_k + sigma^2), as variance.

    Args:
        variance: lambda_k >= 0, (...). sigma_init: > 0.
    Raises:
        ValueError: an argument out of range.
    """
    lam = _non_negative(variance=variance)
    if not sigma_init > 0:
        raise ValueError(f"sigma_init must be > 0, got {sigma_init}")
    return sigma_init * lam / (lam + sigma_init**2)


def signal_to_error(signal, error) -> np.ndarray:
    """s_k = a_k / e_k, broadcast; inf for an exact network, NaN where there is neither. Raises ValueError if one is
    negative."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(_non_negative(signal=signal), _non_negative(error=error))


def start_cosine(ratio) -> np.ndarray:
    """Correlation of the start with the exact denoiser, s / sqrt(1 + s^2), for an error that is independent of it.

    Raises ValueError if ratio is negative."""
    return np.sin(np.arctan(_non_negative(ratio=ratio)))


def subspace_cosine(signal, error, weight=None) -> float:
    """The start's correlation over several modes: sum_k W_k a_k^2 / sqrt(sum_k W_k a_k^2 sum_k W_k (a_k^2 + e_k^2)).

    Args:
        signal, error: a_k, e_k, (m,), of the modes that count, such as the directions between the means.
        weight: W_k >= 0, (m,); 1 weighs by the start's own size, lambda_k / a_k^2 by the teacher's.
    Raises:
        ValueError: negative entries, shapes that differ, or no signal at all.
    """
    a, e = _non_negative(signal=signal), _non_negative(error=error)
    W = np.ones_like(a) if weight is None else _non_negative(weight=weight)
    if not a.shape == e.shape == W.shape or a.ndim != 1:
        raise ValueError(f"signal, error and weight must have one shape (m,), got {a.shape}, {e.shape}, {W.shape}")
    size = (W * a**2).sum()
    if size == 0:
        raise ValueError("signal must not be 0 in every mode that has weight")
    return float(np.sqrt(size / (size + (W * e**2).sum())))


def growth_steps(scale, lr: float, gain, noise_share: float = 0.0) -> np.ndarray:
    """Adam's steps until the output along a mode has grown by `scale`, scale / (lr g_1 sqrt(1 - eta)).

    Args:
        scale: > 0. lr: > 0. gain: g_1 > 0. noise_share: eta.
    Raises:
        ValueError: an argument out of range.
    """
    _check_rate(lr, noise_share)
    g = _non_negative(gain=gain)
    if not (g > 0).all():
        raise ValueError(f"gain must be > 0, got {gain}")
    return _non_negative(scale=scale) / (lr * g * np.sqrt(1 - noise_share))


def optimiser_noise(steps, lr: float, sensitivity, noise_share: float = 1.0) -> np.ndarray:
    """Root mean square that Adam's random steps add to the output along a mode, lr g_2 sqrt(eta N).

    Args:
        steps: N >= 0, many more than Adam's first average remembers. lr: > 0. sensitivity: g_2. noise_share: eta.
    Raises:
        ValueError: an argument out of range.
    """
    if not 0 <= noise_share <= 1:
        raise ValueError(f"noise_share must be in [0, 1], got {noise_share}")
    _check_rate(lr, 0.0)
    return lr * _non_negative(sensitivity=sensitivity) * np.sqrt(noise_share * _non_negative(steps=steps))


def copying_number(signal, error, lr: float, gain, sensitivity, noise_share: float, scale=None) -> np.ndarray:
    """X = a / sqrt(e^2 + D N), the candidate of a copying number for networks; a working hypothesis (see the module).

    Args:
        signal: a > 0. error: e. lr: Adam's. gain: g_1 > 0. sensitivity: g_2. noise_share: eta, 0 <= eta < 1.
        scale: growth until which noise counts; by default the signal itself.
        All broadcast over modes.
    Raises:
        ValueError: an argument out of range.
    """
    a = _non_negative(signal=signal)
    if not (a > 0).all():
        raise ValueError(f"signal must be > 0, got {signal}")
    steps = growth_steps(a if scale is None else scale, lr, gain, noise_share)
    noise = optimiser_noise(steps, lr, sensitivity, noise_share)
    return signal_to_error(a, np.hypot(_non_negative(error=error), noise))


def squared_rates(steps: int, decay: float = 0.0) -> float:
    """N_e = sum_t (lr_t / lr)^2 over `steps` updates of which the last share `decay` falls linearly to zero.

    Raises ValueError if steps < 0, or decay is not in [0, 1]."""
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    return steps * (1 - 2 * decay / 3)


def late_noise(variance, lr: float, sensitivity, squared_steps: float, dim: int) -> np.ndarray:
    """What Adam's steps after growth add to 1 / X^2: (d - 1) / (2d) lr^2 g_2^2 N_e / lambda (see the module).

    Args:
        variance: lambda > 0 of the modes. lr: > 0. sensitivity: g_2. squared_steps: N_e. dim: d >= 1.
    Raises:
        ValueError: an argument out of range.
    """
    lam = _non_negative(variance=variance)
    if not (lam > 0).all():
        raise ValueError(f"variance must be > 0, got {variance}")
    if dim < 1:
        raise ValueError(f"dim must be >= 1, got {dim}")
    return (dim - 1) / (2 * dim) * optimiser_noise(squared_steps, lr, sensitivity) ** 2 / lam


def late_copying_number(number, late) -> np.ndarray:
    """X with the drift after growth, 1 / X^2 = 1 / number^2 + late. Raises ValueError if one is negative."""
    with np.errstate(divide="ignore"):
        return (_non_negative(number=number) ** -2.0 + _non_negative(late=late)) ** -0.5


def expected_displacement(number) -> np.ndarray:
    """1 - X / sqrt(1 + X^2): of a mode that loses its correlation as to an error of the start."""
    return 1 - start_cosine(number)


def pooled_number(number, weight) -> float:
    """The X of which all modes would have the same expected displacement as these have on average.

    Args:
        number: X_k >= 0, (m,). weight: of the modes, (m,), as their variances in a displacement of pairs.
    Raises:
        ValueError: negative entries, shapes that differ, or no weight at all.
    """
    X, W = _non_negative(number=number), _non_negative(weight=weight)
    if X.shape != W.shape or X.ndim != 1:
        raise ValueError(f"number and weight must have one shape (m,), got {X.shape} and {W.shape}")
    if W.sum() == 0:
        raise ValueError("weight must not be 0 in every mode")
    return float(np.tan(np.arcsin(min(1.0, (W * start_cosine(X)).sum() / W.sum()))))


def kept_cosine(cosine, size, lr: float, gain, sensitivity, noise_share: float) -> np.ndarray:
    """The correlation with the exact start that is left when a mode has grown, cos / sqrt(1 + D / (v a)).

    As `copying_number`, but from one student's own start: the realised angle takes the place of the error's expected
    size, and a is the size of the start along the mode, error and all, since that is what grows. A start at an angle
    of more than 90 degrees grows into a remapping, which no error of a root mean square could say.

    Args:
        cosine: between the start's and the exact start's linear parts along each mode, [-1, 1]. size: a > 0.
        lr, gain, sensitivity, noise_share: as `copying_number`.
    Raises:
        ValueError: an argument out of range.
    """
    c = np.asarray(cosine, dtype=float)
    if not (np.abs(c) <= 1 + 1e-9).all():
        raise ValueError(f"cosine must be in [-1, 1], got {cosine}")
    # With no error beside the noise, X^2 = v a / D.
    return c / np.sqrt(1 + copying_number(size, 0.0, lr, gain, sensitivity, noise_share) ** -2.0)


def _non_negative(**named) -> np.ndarray:
    ((name, value),) = named.items()
    array = np.asarray(value, dtype=float)
    if not (array >= 0).all():
        raise ValueError(f"{name} must be >= 0, got {value}")
    return array


def _check_rate(lr: float, noise_share: float) -> None:
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr}")
    if not 0 <= noise_share < 1:
        raise ValueError(f"noise_share must be in [0, 1), got {noise_share}")
