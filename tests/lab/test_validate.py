"""Validation: what counts as holding, and that a wrong theory is called wrong."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.validation import flat_spectra
from sandbox.__main__ import main
from sandbox.lab import validate
from sandbox.lab.cell import Cell
from sandbox.lab.execute import run
from sandbox.lab.gallery import claims
from sandbox.lab.predict import flat_of
from sandbox.lab.store import Store
from sandbox.lab.validate import BROKEN, HOLDS, KNOWN, OPEN, Case, Claim, Estimate, Results, Tolerance

CELLS = tuple(Cell(dim=2, steps=40, lr=0.05, measures="closed", seed=seed) for seed in range(4))


RANGES = {"variance": (0.25, 16), "sigma_init": (5, 80), "lr": (0.005, 0.2), "batch": (16, 512), "dim": (8, 48)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("results"))
    assert run(CELLS, store, quiet=True) == 0
    return store


class TestEstimate:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_the_mean_with_students_interval(self, tolerance):
        values = np.array([0.1, 0.4, 0.35, 0.2])
        found = Estimate.of(values)
        want = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.value, found.n) == (pytest.approx(values.mean()), 4)
        assert found.interval == pytest.approx((want.low, want.high), abs=tolerance)

    def test_nothing_is_no_number(self):
        assert math.isnan(Estimate.of([]).value)
        assert math.isnan(Estimate.of([0.1, math.nan]).value)

    def test_an_exact_number_has_no_interval(self):
        assert Estimate(0.3).interval == (0.3, 0.3)


@pytest.mark.parametrize(
    ("tolerance", "predicted", "measured", "holds"),
    [
        (Tolerance(absolute=0.08), Estimate(0.5), Estimate(0.57), True),
        (Tolerance(absolute=0.08), Estimate(0.5), Estimate(0.59), False),
        (Tolerance(relative=0.2), Estimate(0.5), Estimate(0.41), True),
        (Tolerance(relative=0.2), Estimate(0.5), Estimate(0.39), False),
        (Tolerance(errors=3), Estimate(0.5, 0.03, 9), Estimate(0.64, 0.04, 9), True),
        (Tolerance(errors=3), Estimate(0.5, 0.03, 9), Estimate(0.66, 0.04, 9), False),
        (Tolerance(relative=0.1, errors=3), Estimate(0.5), Estimate(0.54, 0.001, 9), True),
        (Tolerance(errors=3), Estimate(0.5), Estimate(0.5), False),
        (Tolerance(absolute=0.1), Estimate(0.5), Estimate(math.nan), False),
    ],
)
def test_any_one_bound_suffices(tolerance, predicted, measured, holds):
    assert tolerance.allows(predicted, measured) is holds


def claim(value, known="", cells=CELLS):
    def measure(results):
        return Estimate.of(results.values(cells, "gauge_polar"))

    case = Case("planted", cells, measure, lambda _: Estimate(value), known=known)
    return Claim("planted", "rho = value", "a test", Tolerance(absolute=1e-3), (case,))


def verdict(store, *arguments, **named):
    return validate.table([claim(*arguments, **named)], store, {})["verdict"].iloc[0]


def test_a_wrong_prediction_is_called_wrong(store):
    truth = Results(store).values(CELLS, "gauge_polar").mean()
    assert verdict(store, truth) == HOLDS
    assert verdict(store, truth + 0.01) == BROKEN
    assert verdict(store, truth + 0.01, known="said so before") == KNOWN
    assert verdict(store, truth, known="said so before") == HOLDS
    assert verdict(store, truth, cells=(Cell(dim=3, seed=9),)) == OPEN


def test_a_simulated_prediction_is_used_and_its_error_counts(store):
    truth = Results(store).values(CELLS, "gauge_polar").mean()
    case = Case("p", CELLS, claim(0).cases[0].measure, simulated=lambda: Estimate(truth + 0.01, 0.005, 10))
    bound = Claim("s", "", "", Tolerance(errors=3), (case,))
    rows = validate.table([bound], store, validate.simulate([bound], 1))
    assert (rows["verdict"].iloc[0], rows["predicted_error"].iloc[0]) == (HOLDS, 0.005)


def test_the_table_is_written_and_the_exit_code_says_wrong(tmp_path, monkeypatch, capsys):
    arguments = ["validate", "--preset", "smoke", "--results", str(tmp_path), "--workers", "1", "--only", "closed"]
    assert main(arguments) == 0
    written = pd.read_csv(tmp_path / "validation" / "validation.csv")
    assert written["verdict"].eq(HOLDS).all()
    assert (tmp_path / "validation" / "validation.png").stat().st_size > 1000
    monkeypatch.setattr("sandbox.theory.flat.drift_closed_form", lambda a, *_: np.ones_like(a))
    assert main(arguments) == 1
    assert "BROKEN" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "tiny"], "preset must be one of smoke, quick, full, got 'tiny'"),
        (["--only", "phlogiston"], "only must name one of .*got 'phlogiston'"),
        (["--workers", "-1"], "workers must be >= 0, got -1"),
    ],
)
def test_bad_input_is_named(arguments, words, tmp_path, capsys):
    assert main(["validate", "--results", str(tmp_path / "none"), *arguments]) == 2
    assert not (tmp_path / "none").exists()
    assert re.search(words, capsys.readouterr().err)


def test_the_grids_are_as_declared():
    for seed in (flat_spectra.GRID_SEED, flat_spectra.OTHER_GRID_SEED):
        for cell in flat_spectra.random_grid(40, seed):
            ranges = {
                "variance": (0.25, 16),
                "sigma_init": (5, 80),
                "lr": (0.005, 0.2),
                "batch": (16, 512),
                "dim": (8, 48),
            }
            assert all(low <= getattr(cell, name) <= high for name, (low, high) in ranges.items())
            assert cell.sigma_max == cell.sigma_init
            assert flat_of(cell).start >= cell.sigma_min == 0.02


def test_every_preset_declares_the_same_predictions():
    assert [c.name for c in claims("smoke")] == [c.name for c in claims("smoke", ["a", "e", "o"])]
    assert len({c.name for c in claims("smoke")}) == len(claims("smoke"))
