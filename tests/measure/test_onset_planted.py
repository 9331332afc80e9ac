"""Whether onsets are found where they are planted and nowhere else, under designs and scatter like those measured.

Recovered: called an onset and inside its 95 % interval, of 100 synthetic sweeps. The same sweeps for means of
displacement and for the share of students that copy."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from sandbox.measure.onset import onset

DIMS = 2.0 ** np.arange(8)
U = np.log(DIMS)
SWEEPS = 100
BAR = 85
# The harder of the designs always, the rest when there is time.
SEEDS = [6, pytest.param(16, marks=pytest.mark.slow)]
LEVELS = [0.5, pytest.param(0.45, marks=pytest.mark.slow), pytest.param(0.55, marks=pytest.mark.slow)]


def bimodal(rng, shape):
    """Two narrow peaks at one standard deviation from the mean: all or nothing, as at d <= 8."""
    return np.sqrt(0.9) * rng.choice((-1.0, 1.0), shape) + np.sqrt(0.1) * rng.standard_normal(shape)


# Standard deviation between students at each dimension, and of the shift that all students of a seed share.
SCATTER = {
    "even": (np.full(8, 0.1), 0.0),
    "wide": (np.full(8, 0.25), 0.0),
    "bimodal": (np.where(DIMS <= 8, 0.2, 0.03), 0.0),
    "bimodal, seeds": (np.where(DIMS <= 8, 0.2, 0.05), 0.05),
    "falling": (0.25 * DIMS**-0.7, 0.0),
    "seeds": (np.full(8, 0.1), 0.1),
}


def means(curve, scatter, seeds, rng):
    spread, shared = SCATTER[scatter]
    deviation = rng.standard_normal((seeds, 8))
    if scatter.startswith("bimodal"):
        deviation = np.where(DIMS <= 8, bimodal(rng, (seeds, 8)), deviation)
    return curve + spread * deviation + shared * rng.standard_normal((seeds, 1))


def outcomes(copies, effect, seeds, rng):
    """Displacements .1 or .8 so that the share `copies` (8,) copies; a seed's students share a part of their luck."""
    luck = rng.standard_normal((seeds, 8)) + effect * rng.standard_normal((seeds, 1))
    return np.where(luck < math.sqrt(1 + effect**2) * norm.ppf(copies), 0.1, 0.8)


def logistic(at, width, left=0.8, right=0.2):
    return left + (right - left) / (1 + np.exp((math.log(at) - U) / width))


def found(draw, sweeps=SWEEPS, rng_seed=1, **options):
    rng = np.random.default_rng(rng_seed)
    onsets = []
    for i in range(sweeps):
        y = draw(rng)
        table = {"dim": np.tile(DIMS, len(y)), "seed": np.repeat(np.arange(len(y)), 8), "displacement": y.ravel()}
        onsets.append(onset(table, resamples=300, rng_seed=i, models=False, **options))
    return onsets


def recovered(onsets, at, kind):
    return sum(one.kind == kind and one.low <= at <= one.high for one in onsets)


CURVES = {
    "line": (0.5 - 0.1 * (U - math.log(6)), 6.0, "begins"),
    "logistic": (logistic(6.0, 0.8), 6.0, "begins"),
    "late": (logistic(23.0, 0.8, 0.2, 0.8), 23.0, "ends"),
}


@pytest.mark.parametrize("seeds", SEEDS)
@pytest.mark.parametrize(
    ("curve", "scatter"),
    [
        ("line", "even"),
        ("line", "bimodal"),
        ("logistic", "wide"),
        ("logistic", "bimodal"),
        ("logistic", "bimodal, seeds"),
        ("logistic", "falling"),
        ("late", "even"),
        ("late", "bimodal"),
        ("late", "seeds"),
    ],
)
def test_a_planted_crossing_of_the_mean_is_recovered(curve, scatter, seeds):
    mean, at, kind = CURVES[curve]
    assert recovered(found(lambda rng: means(mean, scatter, seeds, rng)), at, kind) >= BAR


@pytest.mark.parametrize(
    ("at", "width", "effect"),
    [(6.0, 0.3, 0.0), (6.0, 0.3, 0.7), (9.0, 0.1, 0.7), (11.0, 0.1, 0.0), (20.0, 0.6, 0.0), (20.0, 0.6, 0.7)],
)
@pytest.mark.parametrize("seeds", SEEDS)
def test_a_planted_crossing_of_the_share_is_recovered(at, width, effect, seeds):
    copies = logistic(at, width, 0.0, 1.0)
    onsets = found(lambda rng: outcomes(copies, effect, seeds, rng), below=0.5)
    assert recovered(onsets, at, "begins") >= BAR


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("scatter", SCATTER)
@pytest.mark.parametrize("seeds", SEEDS)
def test_a_flat_mean_has_no_onset(level, scatter, seeds):
    onsets = found(lambda rng: means(np.full(8, level), scatter, seeds, rng))
    assert sum(one.kind == "none" for one in onsets) >= BAR


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("effect", [0.0, 0.7])
@pytest.mark.parametrize("seeds", SEEDS)
def test_a_flat_share_has_no_onset(level, effect, seeds):
    onsets = found(lambda rng: outcomes(np.full(8, level), effect, seeds, rng), below=0.5)
    assert sum(one.kind == "none" for one in onsets) >= BAR


# Coverage of the intervals of the onsets that are called. 200 sweeps know it to .02 (one standard error).
@pytest.mark.slow
@pytest.mark.parametrize("seeds", [6, 16])
@pytest.mark.parametrize("scatter", ["even", "wide", "bimodal", "falling"])
def test_the_intervals_of_means_cover(scatter, seeds):
    mean, at, kind = CURVES["logistic"]
    onsets = [one for one in found(lambda rng: means(mean, scatter, seeds, rng), 200, 2) if one.kind == kind]
    assert recovered(onsets, at, kind) >= 0.87 * len(onsets)


@pytest.mark.slow
def test_a_narrow_step_lies_between_its_swept_values():
    # Where the mean falls from .8 to .2 within one step of the axis and hardly scatters, a straight line between the
    # swept values misplaces the crossing by more than the interval's width. The values on both sides hold it.
    onsets = found(lambda rng: means(logistic(6.5, 0.2), "falling", 16, rng), 200, 3)
    assert all(one.between == (4.0, 8.0) for one in onsets)
    assert recovered(onsets, 6.5, "begins") < 0.5 * len(onsets)
