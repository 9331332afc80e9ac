"""Planted crossings are found and flat sweeps have none, for means and for shares of students, over 100 sweeps each.

Eight dimensions, 6 or 16 seeds, and students that scatter as network students do: by .3 at d <= 4, often to either side
of the mean, and by .05 from d = 16 on, with a part that a seed keeps at every dimension.
"""

import numpy as np
import pytest

from sandbox.measure.onset import onset

DIMS = np.array([1, 2, 4, 8, 16, 32, 64, 128])
SPREAD = np.array([0.3, 0.3, 0.3, 0.2, 0.05, 0.05, 0.05, 0.05])
SWEEPS, LEAST = 100, 85


def logistic(at, slope):
    """From .9 to .1 or back, one half at `at`; slope per octave at the crossing."""
    return 0.5 + 0.4 * np.tanh(slope / 0.4 * np.log2(DIMS / at))


def table(means, seeds, rng):
    """One row per student: a seed's own part, and a two-sided part."""
    own = 0.3 * rng.standard_normal((seeds, 1))
    sides = np.where(rng.random((seeds, len(DIMS))) < 0.5, -1.0, 1.0) * rng.normal(1, 0.3, (seeds, len(DIMS)))
    y = means + SPREAD * (own + 0.95 * sides)
    return {"dim": np.tile(DIMS, seeds), "seed": np.repeat(np.arange(seeds), len(DIMS)), "displacement": y.ravel()}


def shares(chances, seeds, rng):
    """Students that copy (displacement .2) with a chance at each dimension, and others (.8)."""
    y = np.where(rng.random((seeds, len(DIMS))) < chances, 0.2, 0.8)
    return {"dim": np.tile(DIMS, seeds), "seed": np.repeat(np.arange(seeds), len(DIMS)), "displacement": y.ravel()}


def found_in(draw, **options):
    rng = np.random.default_rng(0)
    return [onset(draw(rng), resamples=300, rng_seed=i, models=False, **options) for i in range(SWEEPS)]


@pytest.mark.parametrize("seeds", [6, 16])
@pytest.mark.parametrize(("at", "slope", "kind"), [(23.0, 0.25, "ends"), (6.0, -0.25, "begins")])
class TestMeans:
    def test_a_planted_crossing(self, at, slope, kind, seeds):
        found = found_in(lambda rng: table(logistic(at, slope), seeds, rng))
        recovered = sum(f.kind == kind and f.low <= at <= f.high for f in found)
        assert recovered >= LEAST
        assert all(f.between[0] < f.at < f.between[1] for f in found if f.kind == kind)


@pytest.mark.parametrize("seeds", [6, 16])
@pytest.mark.parametrize("level", [0.45, 0.5, 0.55])
class TestFlat:
    def test_means(self, level, seeds):
        """At the threshold itself, the hardest: the mean of nearly every sweep changes side by chance."""
        found = found_in(lambda rng: table(np.full(len(DIMS), level), seeds, rng))
        assert sum(f.kind == "none" for f in found) >= LEAST

    def test_shares(self, level, seeds):
        found = found_in(lambda rng: shares(np.full(len(DIMS), level), seeds, rng), below=0.5)
        assert sum(f.kind == "none" for f in found) >= LEAST


@pytest.mark.parametrize("seeds", [6, 16])
@pytest.mark.parametrize(("at", "slope", "kind"), [(9.0, 0.6, "begins"), (9.0, -0.6, "ends")])
def test_a_planted_crossing_of_shares(at, slope, kind, seeds):
    """Copying begins where the share of students that copy rises."""
    found = found_in(lambda rng: shares(logistic(at, slope), seeds, rng), below=0.5)
    recovered = sum(f.kind == kind and f.low <= at <= f.high for f in found)
    assert recovered >= LEAST


def test_the_shapes_tell_a_trend_from_none():
    rng = np.random.default_rng(1)
    trend = onset(table(logistic(9.0, 0.3), 16, rng), resamples=50)
    flat = onset(table(np.full(len(DIMS), 0.8), 16, rng), resamples=50)
    assert trend.shapes.best.name in ("logistic", "broken stick")
    assert flat.shapes.best.name == "constant"
    assert "AICc" in str(trend)
