"""Which shape a quantity follows along an axis: constant, linear, broken stick or logistic, compared by AICc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, xlog1py, xlogy

# A level's variance is pulled toward the levels' geometric mean as if by this many further students: with six seeds a
# level whose students happen to agree would otherwise outweigh all others.
PRIOR_STUDENTS = 2
# No level's standard deviation counts as less than 1 % of the largest.
FLOOR = 1e-4
STARTS = 6
TINY = 1e-12
Places = tuple[float, ...]
Start = tuple[Places, Places, Places]


@dataclass(frozen=True)
class Shape:
    """A fitted shape. parameters: by name; values in the quantity's units (a share from 0 to 1), `knot` and `middle` in
    the axis' units, `width` in units of log(axis). counted: their number with the dispersion's. weight: Akaike weight
    among the shapes that were fitted."""

    name: str
    parameters: dict[str, float]
    counted: int
    aicc: float
    weight: float


@dataclass(frozen=True)
class Shapes:
    """The comparison, best first. left_out: the shapes that could not be fitted, each with the reason.

    students: their number n. points: how many independent ones they count as, n over the design effect.
    correlation: of the deviations of two students of one seed, estimated within axis values, not below 0."""

    table: tuple[Shape, ...]
    left_out: dict[str, str]
    students: int
    points: float
    correlation: float

    @property
    def best(self) -> Shape | None:
        return self.table[0] if self.table else None

    def __str__(self) -> str:
        found = ", ".join(f"{shape.name} {shape.weight:.2f}" for shape in self.table) or "none"
        missing = f"; not fitted: {', '.join(self.left_out)}" if self.left_out else ""
        return f"shapes by AICc weight: {found} ({self.students} students count as {self.points:.0f}){missing}"


@dataclass(frozen=True)
class _Form:
    """A curve as a mean of its values, weighted by a basis (m, values) that is >= 0 and sums to 1 at every u (m,).

    So it stays between its values, and a share between 0 and 1. starts: places to search from, each with its bounds, in
    groups that lead to different optima."""

    name: str
    values: tuple[str, ...]
    places: tuple[str, ...]
    levels: int
    basis: Callable[..., np.ndarray]
    starts: Callable[[np.ndarray], list[list[Start]]]


def _ramp(u: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((u - low) / (high - low), 0, 1)


def _linear(u: np.ndarray) -> np.ndarray:
    t = _ramp(u, u[0], u[-1])
    return np.stack([1 - t, t], 1)


def _stick(u: np.ndarray, knot: float) -> np.ndarray:
    left, right = _ramp(u, u[0], knot), _ramp(u, knot, u[-1])
    return np.stack([1 - left, left - right, right], 1)


def _logistic(u: np.ndarray, middle: float, width: float) -> np.ndarray:
    t = expit((u - middle) / width)
    return np.stack([1 - t, t], 1)


def _knots(u: np.ndarray) -> list[list[Start]]:
    """One start between any two neighbours: there the fit is smooth. Before the second level and after the last but one
    a knot's place would be undetermined."""
    return [[(((low + high) / 2,), (low,), (high,))] for low, high in pairwise(u[1:-1])]


def _middles(u: np.ndarray) -> list[list[Start]]:
    """Widths from a step between the closest levels (narrower ones fit alike) to nearly a line over the range."""
    narrow, wide = np.diff(u).min() / 8, u[-1] - u[0]
    middles = np.sort(np.r_[u[1:-1], (u[1:] + u[:-1]) / 2])
    bounds = ((u[0], narrow), (u[-1], wide))
    widths = [w for w in wide / np.array([32, 16, 8, 4, 2]) if w > narrow]
    return [[((m, w), *bounds) for m in half] for half in np.array_split(middles, 2) for w in widths]


def _anywhere(u: np.ndarray) -> list[list[Start]]:
    return [[((), (), ())]]


# Of a form: its parameters, values before places, and -2 log likelihood.
Fit = Callable[[_Form], tuple[np.ndarray, float]]
FORMS = (
    _Form("constant", ("value",), (), 1, lambda u: np.ones((len(u), 1)), _anywhere),
    _Form("linear", ("first", "last"), (), 2, _linear, _anywhere),
    _Form("broken stick", ("first", "at_knot", "last"), ("knot",), 4, _stick, _knots),
    _Form("logistic", ("left", "right"), ("middle", "width"), 4, _logistic, _middles),
)


def _spread(e: np.ndarray, level: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Standard deviation (L,) of a student at each level, from deviations e (n,) from the levels' means (L levels)."""
    freedom = count - 1
    if not freedom.any() or not e.any():
        return np.ones(len(count))
    own = np.bincount(level, e**2) / np.maximum(freedom, 1)
    own = np.maximum(own, FLOOR * own.max())
    common = np.exp(np.average(np.log(own), weights=freedom > 0))
    return np.sqrt((freedom * own + PRIOR_STUDENTS * common) / (freedom + PRIOR_STUDENTS))


def _correlation(e: np.ndarray, level: np.ndarray, seed: np.ndarray) -> float:
    """Mean product of two deviations e (n,) of one seed, each over its level's root mean square; at least 0.

    0 also where no seed has two students at levels that scatter."""
    root = np.sqrt(np.bincount(level, e**2) / np.bincount(level))[level]
    t, seed = e[root > 0] / root[root > 0], seed[root > 0]
    size, total = np.bincount(seed), np.bincount(seed, t)
    pairs = (size * (size - 1)).sum()
    return float(np.clip((np.square(total).sum() - np.square(t).sum()) / pairs, 0, 0.99)) if pairs else 0.0


def _values(form: _Form, place: Places, u: np.ndarray, y: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, float]:
    """The values that bring the curve with these places closest to the levels' y (L,), and its squared distance, in the
    metric gram (L, L)."""
    basis = form.basis(u, *place)
    values = np.linalg.solve(basis.T @ gram @ basis, basis.T @ gram @ y)
    gap = y - basis @ values
    return values, float(gap @ gram @ gap)


def _search(form: _Form, u: np.ndarray, y: np.ndarray, gram: np.ndarray) -> list[Start]:
    """The places to start from: of each group the one whose curve comes closest, and of those the closest."""

    def distance(start: Start) -> float:
        return _values(form, start[0], u, y, gram)[1]

    return sorted((min(group, key=distance) for group in form.starts(u)), key=distance)[:STARTS]


def _least_squares(form: _Form, u: np.ndarray, y: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, float]:
    """Parameters and the least squared distance to the levels' y (L,) in the metric gram (L, L).

    Only the places are searched: for given ones the values are linear least squares (Golub & Pereyra 1973)."""

    def distance(place: np.ndarray) -> float:
        return _values(form, tuple(place), u, y, gram)[1]

    found = []
    for place, low, high in _search(form, u, y, gram):
        if form.places:
            place = tuple(minimize(distance, place, bounds=list(zip(low, high)), method="L-BFGS-B").x)
        values, gap = _values(form, place, u, y, gram)
        found.append((np.r_[values, place], gap))
    return min(found, key=lambda fit: fit[1])


def _likelihood(form: _Form, u: np.ndarray, hits: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, float]:
    """Parameters and -2 log likelihood of `hits` of `count` students (L,) at each level."""
    split = len(form.values)

    def twice(p: np.ndarray) -> float:
        share = np.clip(form.basis(u, *p[split:]) @ p[:split], TINY, 1 - TINY)
        return float(-2 * (xlogy(hits, share) + xlog1py(count - hits, -share)).sum())

    found, metric = [], np.diag(count.astype(float))
    for place, low, high in _search(form, u, hits / count, metric):
        # Off the edges, where the likelihood's slope is infinite.
        values = np.clip(_values(form, place, u, hits / count, metric)[0], 0.01, 0.99)
        bounds = [(0.0, 1.0)] * split + list(zip(low, high))
        fit = minimize(twice, np.r_[values, place], bounds=bounds, method="L-BFGS-B")
        found.append((fit.x, float(fit.fun)))
    return min(found, key=lambda fit: fit[1])


def _whiten(a: np.ndarray, spread: np.ndarray, seed: np.ndarray, rho: float) -> np.ndarray:
    """a (n, c) times the inverse root of the students' covariance: spread (n,) each, correlation rho within a seed."""
    a = a / spread[:, None]
    size = np.bincount(seed)
    mean = np.stack([np.bincount(seed, column) for column in a.T], 1) / size[:, None]
    pull = 1 - np.sqrt((1 - rho) / (1 + (size - 1) * rho))
    return (a - (pull[:, None] * mean)[seed]) / np.sqrt(1 - rho)


def _named(form: _Form, p: np.ndarray) -> dict[str, float]:
    """Parameters by name, `knot` and `middle` in the axis' units."""
    named = dict(zip(form.values + form.places, map(float, p)))
    return {name: float(np.exp(v)) if name in ("knot", "middle") else v for name, v in named.items()}


def _ranked(fit: Fit, levels: int, points: float) -> tuple[tuple[Shape, ...], dict[str, str]]:
    """The shapes by AICc, with their Akaike weights, and those that cannot be fitted."""
    left_out, found = {}, []
    for form in FORMS:
        counted = len(form.values) + len(form.places) + 1
        if levels < form.levels:
            left_out[form.name] = f"needs {form.levels} axis values, got {levels}"
        elif points <= counted + 1:
            left_out[form.name] = f"needs more than {counted + 1} independent students, got {points:.1f}"
        else:
            p, twice = fit(form)
            aicc = twice + 2 * counted + 2 * counted * (counted + 1) / (points - counted - 1)
            found.append((aicc, form, p, counted))
    found.sort(key=lambda one: one[0])
    evidence = np.exp([(found[0][0] - aicc) / 2 for aicc, *_ in found])
    weights = evidence / evidence.sum()
    table = tuple(
        Shape(form.name, _named(form, p), counted, float(aicc), float(weight))
        for (aicc, form, p, counted), weight in zip(found, weights)
    )
    return table, left_out


def _means(u: np.ndarray, y: np.ndarray, level: np.ndarray, seed: np.ndarray, spread: np.ndarray, rho: float) -> Fit:
    """Generalised least squares on students y (n,), with a scale of the variances for each form."""
    size = np.bincount(seed)
    white = _whiten(np.c_[y, np.eye(len(u))[level]], spread[level], seed, rho)
    target, design = white[:, 0], white[:, 1:]
    gram = design.T @ design
    mean = np.linalg.solve(gram, design.T @ target)
    within = np.square(target - design @ mean).sum()
    log_determinant = 2 * np.log(spread[level]).sum()
    log_determinant += ((size - 1) * np.log1p(-rho) + np.log1p((size - 1) * rho)).sum()

    def fit(form: _Form) -> tuple[np.ndarray, float]:
        p, gap = _least_squares(form, u, mean, gram)
        # Without any scatter the likelihood of a perfect fit has no bound.
        scale = max((within + gap) / len(y), TINY)
        return p, len(y) * (np.log(2 * np.pi * scale) + 1) + log_determinant

    return fit


def _shares(u: np.ndarray, y: np.ndarray, level: np.ndarray, effect: float) -> Fit:
    """Maximum likelihood of students y (n,), 0 or 1; the log likelihood is divided by the design effect."""
    hits, count = np.bincount(level, y), np.bincount(level)

    def fit(form: _Form) -> tuple[np.ndarray, float]:
        p, twice = _likelihood(form, u, hits, count)
        return p, twice / effect

    return fit


def compare(x: np.ndarray, y: np.ndarray, seed: np.ndarray, share: bool = False) -> Shapes:
    """The four shapes fitted to students against u = log(x), ranked by AICc (Burnham & Anderson 2002, section 2.4).

    Means: Gaussian students whose variance differs between axis values and who are correlated within a seed. Weighted
    by 1 / variance, since displacement scatters ten times more at d = 2 than at d = 64 and the scatter would drown the
    levels that are well known. Variances and correlation are estimated once, around the levels' own means, and are the
    same for every shape; a common scale is fitted with each shape and counted. As the shapes depend on a student only
    through its axis value, least squares on students equals least squares on the levels' means in their covariance.

    Shares (y is 0 or 1): maximum likelihood. Students of a seed that go the same way make the likelihood too sure; it
    is divided by the design effect, which is counted as a parameter (QAICc, section 2.5).

    The small-sample term has, for n, the number of independent students that these count as: the sum over seeds of
    m / (1 + (m - 1) rho) for m students (Kish 1965), rho their correlation. Where no axis value has two students
    nothing is known of rho, and every seed counts as one.

    Args:
        x: (n,), > 0. y: (n,), finite. seed: (n,), labels.
    Raises:
        ValueError: lengths that differ, x <= 0, y not finite, or with share y other than 0 and 1.
    """
    x, y, labels = np.asarray(x, float), np.asarray(y, float), np.asarray(seed)
    if x.ndim != 1 or not x.shape == y.shape == labels.shape or not len(x):
        raise ValueError(f"x, y and seed must have one shape (n,), n >= 1, got {x.shape}, {y.shape}, {labels.shape}")
    if not (x > 0).all():
        raise ValueError(f"x must be > 0 for a logarithmic axis, got {x.min():g}")
    if not np.isfinite(y).all():
        raise ValueError(f"y must be finite, got {int((~np.isfinite(y)).sum())} values that are not")
    if share and not np.isin(y, (0, 1)).all():
        raise ValueError(f"y must be 0 or 1 for a share, got {y[~np.isin(y, (0, 1))][0]:g}")

    swept, level = np.unique(x, return_inverse=True)
    cluster = np.unique(labels, return_inverse=True)[1]
    u, count, size = np.log(swept), np.bincount(level), np.bincount(cluster)
    deviation = y - (np.bincount(level, y) / count)[level]
    deviation[np.abs(deviation) < TINY * np.abs(y).max()] = 0
    rho = _correlation(deviation, level, cluster)
    points = float((size / (1 + (size - 1) * rho)).sum()) if (count > 1).any() else float(len(size))

    if share:
        fit = _shares(u, y, level, len(y) / points)
    else:
        fit = _means(u, y, level, cluster, _spread(deviation, level, count), rho)
    table, left_out = _ranked(fit, len(u), points)
    return Shapes(table, left_out, len(y), points, rho)
