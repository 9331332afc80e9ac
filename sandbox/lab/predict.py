"""Predictions for cells: hands a cell's own parameters to the theory, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from sandbox.lab.cell import Cell
from sandbox.lab.reference import REFERENCE_SIGMA
from sandbox.theory import copying, modes, network_start, one_dimension
from sandbox.theory.flat import Flat
from sandbox.theory.hypotheses import HypothesisError


@dataclass(frozen=True)
class Prediction:
    """What the theory says of a condition's mean over seeds, with no constant fitted to students.

    displacement, leading, rest: of the pairs, whole and by eigenmodes as in `pairing.split_displacement`; gauge: rho_g;
    xi: the copying number, NaN where the prediction does not go through it; source: which one it is."""

    displacement: float
    gauge: float
    leading: float
    rest: float
    xi: float
    source: str


# Families fitted to data, of which one mode is a Gaussian with the data's covariance.
FITTED = ("patches", "digits")
# Of an off-diagonal entry over the largest variance, that rounding may leave.
DIAGONAL = 1e-9


def _is_gaussian(cell: Cell) -> bool:
    return cell.teacher == "gaussian" or (cell.teacher in FITTED and cell.modes == 1)


def _has_spectrum(cell: Cell) -> bool:
    """Whether the teacher's eigenvalues differ."""
    return cell.dim > 1 and (bool(cell.exponent) or cell.teacher in FITTED)


def _require_linear(cell: Cell) -> None:
    for holds, hypothesis in (
        (_is_gaussian(cell), f"a Gaussian teacher, not {cell.teacher!r}"),
        (cell.student == "linear", f"a linear student, not {cell.student!r}"),
        (cell.fake_score == "exact", f"the exact fake score, not {cell.fake_score!r}"),
        (cell.optimiser == "sgd", f"plain gradient descent, not {cell.optimiser!r}"),
        (cell.loss == "dmd", f"the distribution matching loss, not {cell.loss!r}"),
        (not cell.regression, f"no regression, not one of weight {cell.regression}"),
        (not cell.momentum, f"no momentum, not {cell.momentum}"),
        (not cell.weight_decay, f"no weight decay, not {cell.weight_decay}"),
        (not cell.clip, f"no clipping, not at {cell.clip}"),
        (cell.rotation is None, f"a uniformly random rotation, not one by {cell.rotation}"),
    ):
        if not holds:
            raise HypothesisError(f"the linear theory needs {hypothesis}")


def flat_of(cell: Cell, dim: float | None = None) -> Flat:
    """The flat problem of a linear cell, at another (real) dimension if one is given."""
    variance = cell.mixture().covariance.smallest().item()
    return Flat(cell.dim if dim is None else dim, variance, cell.sigma_init, cell.law(), cell.normaliser)


def spectrum_of(cell: Cell) -> modes.Spectrum:
    """The problem of a linear cell by eigenmodes, largest variance first.

    Raises HypothesisError where the coordinates over which the normaliser takes its mean are not the eigenmodes."""
    cov = cell.mixture().cov
    lam = np.diagonal(cov.numpy())
    if cell.teacher in FITTED:
        lam = torch.linalg.eigvalsh(cov).flip(0).numpy()
        off = (cov - torch.diag(torch.diagonal(cov))).abs().max().item()
        if cell.normaliser != "off" and off > DIAGONAL * lam[0]:
            raise HypothesisError(f"the mode equations need normaliser off in these coordinates, not {cell.normaliser}")
    return modes.Spectrum(tuple(lam.tolist()), cell.sigma_init, cell.law(), cell.normaliser)


def _rate(cell: Cell) -> float:
    """The learning rate per unit of the summed gradient: a mean over coordinates divides by d."""
    return cell.lr / cell.dim if cell.reduction == "mean" else cell.lr


def predict(cell: Cell) -> Prediction:
    """The prediction for a cell's condition. Raises HypothesisError, saying which hypothesis fails."""
    return _predict(cell.condition())


@lru_cache(maxsize=4096)
def _predict(cell: Cell) -> Prediction:
    _require_linear(cell)
    if cell.start == "map":
        raise HypothesisError("the linear theory needs a start that is still to grow, not 'map'")
    if cell.start == "random" or (cell.start == "rotated" and cell.dim > 1):
        # A start that is unrelated to the teacher's: no update correlates it. Over Haar rotations E tr R = 0.
        return Prediction(1.0, 1.0, 1.0, 1.0 if cell.dim > 1 else math.nan, math.nan, "independent start")
    if _has_spectrum(cell):
        return _by_modes(cell)
    problem = flat_of(cell)
    time = _rate(cell) * cell.steps
    if time < (needed := copying.settling_time(problem, margin=1.0)):
        raise HypothesisError(
            f"the copying number needs a student that has grown to its end: lr * steps >= {needed:.3g}, not {time:.3g}"
        )
    if cell.dim == 1:
        # Antithetic noise leaves only the part that vanishes with the amplitude: zero cannot be crossed.
        rho = 0.0 if cell.antithetic else one_dimension.flip_displacement(problem, _rate(cell), cell.batch)
        xi, source = math.nan, "sign flips"
    else:
        xi = copying.copying_number(problem, _rate(cell), cell.batch, cell.antithetic)
        rho = copying.displacement(problem, _rate(cell), cell.batch, cell.antithetic)
        source = "1 - q(sqrt Xi)" if problem.exponential else "F_d(Xi)"
    pair = copying.pair_displacement(rho, problem.variance, REFERENCE_SIGMA)
    return Prediction(pair, rho, pair, pair if cell.dim > 1 else math.nan, xi, source)


def _by_modes(cell: Cell) -> Prediction:
    problem = spectrum_of(cell)
    lam = np.array(problem.eigenvalues)
    if cell.antithetic:
        rho = np.zeros_like(lam)
    else:
        rho = modes.mode_displacements(problem, _rate(cell), cell.batch, _rate(cell) * cell.steps)
    leading = np.cumsum(lam) / lam.sum() < 0.5 - 1e-12
    leading = np.arange(len(lam)) <= leading.sum()

    def mean(part: np.ndarray) -> float:
        return float((lam * rho)[part].sum() / lam[part].sum()) if part.any() else math.nan

    return Prediction(mean(lam > 0), float(rho.mean()), mean(leading), mean(~leading), math.nan, "mode equations")


def predict_network(cell: Cell, start: Mapping) -> dict[str, float]:
    """What a network student's start and recipe say of its fate, before the first update: a hypothesis under test.

    kept_cosine: the expected correlation with the teacher along the directions between its modes, weighted by their
    variance; noise_to_start: the share of the squared start that the optimiser's noise is expected to add;
    network_number, network_number_late: the copying number X of those directions, without and with the drift after
    growth, NaN for an optimiser other than Adam.

    Args:
        start: the start of its record."""
    few = slice(0, len(start["gain"]))
    lam, cosine, size = (np.array(start[name], dtype=float)[few] for name in ("variance", "cosine", "size"))
    gain, noise = np.array(start["gain"]), np.array(start["noise"])
    eta = min(start["noise_share"], 1 - 1e-6)
    kept = network_start.kept_cosine(cosine, size, cell.lr, gain, noise, eta)
    X = network_start.copying_number(size, 0.0, cell.lr, gain, noise, eta)
    return {
        "kept_cosine": float((lam * kept).sum() / lam.sum()),
        "noise_to_start": float((lam * X**-2.0).sum() / lam.sum()),
    } | _network_numbers(cell, start, few)


def _network_numbers(cell: Cell, start: Mapping, few: slice) -> dict[str, float]:
    """The copying number of a network student, from its start's signal and error along each mode."""
    if cell.optimiser != "adam":
        return {"network_number": math.nan, "network_number_late": math.nan}
    lam, signal, error = (np.array(start[name], dtype=float)[few] for name in ("variance", "signal", "error"))
    gain, noise = np.array(start["gain"]), np.array(start["noise"])
    eta = min(start["noise_share"], 1 - 1e-6)
    X = network_start.copying_number(signal, error, cell.lr, gain, noise, eta)
    squared = network_start.squared_rates(cell.steps, cell.decay)
    late = network_start.late_noise(lam, cell.lr, noise, squared, cell.dim)
    return {
        "network_number": network_start.pooled_number(X, lam),
        "network_number_late": network_start.pooled_number(network_start.late_copying_number(X, late), lam),
    }


def settled_steps(cell: Cell) -> int:
    """Updates after which the noiseless student has grown to .985 of its end, times 1.25: a linear cell's natural
    length.

    At d = 1 the per-sample normaliser's mean drift is infinite; the length for d = 2 is used. Raises HypothesisError as
    `predict`."""
    _require_linear(cell)
    if cell.dim == 1 and cell.normaliser == "per-sample":
        time = copying.settling_time(flat_of(cell, 2.0))
    elif _has_spectrum(cell):
        time = modes.settling_time(spectrum_of(cell))
    else:
        time = copying.settling_time(flat_of(cell))
    return math.ceil(time / _rate(cell))


def predicted_onset(cells: Sequence[Cell]) -> float:
    """d* at which the predicted displacement of an arm passes 1/2 within its swept dimensions, NaN if it does not.

    For flat spectra the theory is evaluated at real d, with learning rate and batch interpolated in log d; else the
    predictions at the swept dimensions are. Raises HypothesisError as `predict`, if it fails at every swept
    dimension."""
    by_dim = {cell.dim: cell.condition() for cell in cells}
    known: dict[int, float] = {}
    failure = None
    for dim, cell in sorted(by_dim.items()):
        try:
            known[dim] = predict(cell).displacement
        except HypothesisError as error:
            failure = error
    if not known:
        raise failure or HypothesisError("no cells")
    dims = np.array(sorted(known))
    # As in `table.comparable`: where the normaliser is heavy-tailed, no crossing is looked for.
    inside = dims[dims >= (3 if next(iter(by_dim.values())).normaliser == "per-sample" else 2)]
    if len(inside) < 2:
        return math.nan
    first = by_dim[int(inside[0])]
    # At a fixed trace the variance falls as d grows, and the flat problem is not one of a real d alone.
    if first.start != "teacher" or _has_spectrum(first) or first.hold == "trace":

        def displacement_at(d: float) -> float:
            return float(np.interp(np.log(d), np.log(dims), [known[int(v)] for v in dims]))
    else:
        log_d = np.log(inside)
        log_rate = np.log([_rate(by_dim[int(d)]) for d in inside])
        log_batch = np.log([by_dim[int(d)].batch for d in inside])

        def displacement_at(d: float) -> float:
            rate, batch = (float(np.exp(np.interp(np.log(d), log_d, v))) for v in (log_rate, log_batch))
            problem = flat_of(first, d)
            rho = copying.displacement(problem, rate, batch, first.antithetic)
            return copying.pair_displacement(rho, problem.variance, REFERENCE_SIGMA)

    return copying.critical_dimension(displacement_at, float(inside[0]), float(inside[-1]))
