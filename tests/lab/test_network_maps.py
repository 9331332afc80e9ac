"""Maps of networks: which students they are of, their copying number, and dimension's effect at a matched number."""

import importlib
import math

import numpy as np
import pandas as pd
import pytest

from experiments import convergence, noise
from sandbox.lab.cell import Cell
from sandbox.lab.effects import Group, slope
from sandbox.lab.matched_effects import bins, matched_slope
from sandbox.lab.predict import predict_network
from sandbox.lab.style import style
from sandbox.lab.sweep import core_seconds
from sandbox.theory import network_start

NETWORK = {"teacher": "random", "student": "mlp", "fake_score": "network", "optimiser": "adam", "sigma_law": "karras"}
# Two modes between which the start is good in one and bad in the other; a third direction that carries none.
START = {
    "variance": [4.0, 1.0, 0.1],
    "signal": [0.05, 0.02, 0.001],
    "error": [0.01, 0.04, 0.001],
    "size": [0.05, 0.05, 0.001],
    "cosine": [0.9, 0.4, 0.1],
    "gain": [20.0, 10.0],
    "noise": [1.0, 2.0],
    "noise_share": 0.9,
}


@pytest.mark.parametrize("tolerance", [1e-10])
def test_a_students_number_is_that_of_its_modes(tolerance):
    cell = Cell(**NETWORK, lr=1e-3, steps=400, decay=0.5)
    got = predict_network(cell, START)
    losses, late_losses = [], []
    for a, e, lam, g1, g2 in ((0.05, 0.01, 4.0, 20.0, 1.0), (0.02, 0.04, 1.0, 10.0, 2.0)):
        speed, diffusion = 1e-3 * g1 * 0.1**0.5, 1e-6 * g2**2 * 0.9
        early = (e / a) ** 2 + diffusion / (speed * a)
        late = (cell.dim - 1) / (2 * cell.dim) * 1e-6 * g2**2 * 400 * (1 - 0.5 * 2 / 3) / lam
        for kept, inverse in ((losses, early), (late_losses, early + late)):
            kept.append(lam * (1 - 1 / np.sqrt(1 + inverse)))
    for name, lost in (("network_number", losses), ("network_number_late", late_losses)):
        assert network_start.expected_displacement(got[name]) == pytest.approx(sum(lost) / 5.0, rel=tolerance)
    assert got["network_number_late"] < got["network_number"]


def test_another_optimiser_has_no_number():
    got = predict_network(Cell(**{**NETWORK, "optimiser": "sgd"}), START)
    assert np.isnan(got["network_number"])
    assert np.isnan(got["network_number_late"])


def students(slope_in_dim, dims=(2, 4, 8, 16), count=400, seed=0):
    """Students whose number grows with d, and whose displacement falls with the number and moves with log2 d."""
    rng = np.random.default_rng(seed)
    dim = rng.choice(dims, count)
    number = 2.0 ** (0.5 * np.log2(dim) + rng.uniform(-2, 2, count))
    rho = network_start.expected_displacement(number) + slope_in_dim * np.log2(dim)
    return pd.DataFrame(
        {
            "arm": "a",
            "key": [f"k{i}" for i in range(count)],
            "status": "done",
            "law_passes": True,
            "dim": dim,
            "seed": np.arange(count) % 20,
            "teacher_steps": 50,
            "X": number,
            "rho": rho,
        }
    )


@pytest.mark.parametrize("planted", [0.0, -0.1, 0.1])
@pytest.mark.parametrize("tolerance", [0.02])
def test_matching_takes_the_number_out_and_leaves_the_dimension(planted, tolerance):
    table, everyone = students(planted), Group("all", ("a",))
    assert slope("rho", everyone, "")(table).value < planted - 2 * tolerance
    found = matched_slope("rho", "X", everyone, ("dim", "seed"), "")(table)
    assert abs(found.value - planted) <= tolerance
    assert abs(found.low - planted) <= 2 * tolerance
    assert abs(found.high - planted) <= 2 * tolerance
    assert found.low < found.value < found.high


@pytest.mark.parametrize("tolerance", [1e-12])
def test_within_a_bin_it_is_the_slope_of_least_squares(tolerance):
    table = students(0.0).assign(X=1.1)
    table["rho"] = np.random.default_rng(1).normal(size=len(table))
    want = np.polyfit(np.log2(table["dim"]), table["rho"], 1)[0]
    found = matched_slope("rho", "X", Group("all", ("a",)), ("seed",), "")(table)
    assert found.value == pytest.approx(want, abs=tolerance)


def test_students_without_a_match_do_not_count():
    table = students(0.3, count=40)
    table.loc[table["dim"] == 16, "X"] = 1e6  # a bin of one dimension
    table.loc[0, "law_passes"] = False
    table.loc[1, "X"] = np.nan
    table.loc[2, "X"] = 0.0
    found = matched_slope("rho", "X", Group("all", ("a",)), ("seed",), "")(table)
    assert not set(table.loc[table["dim"] == 16, "key"]) & set(found.keys)
    assert not {"k0", "k1", "k2"} & set(found.keys)
    assert found.of == 40


def test_bins_are_half_a_doubling_wide():
    got = bins(pd.Series([1.0, 1.41, 1.42, 2.0, 0.0, -1.0, np.nan, np.inf]))
    np.testing.assert_array_equal(got, [0, 0, 1, 2, np.nan, np.nan, np.nan, np.nan])


@pytest.mark.parametrize("preset", ["smoke", "quick", "full"])
def test_no_student_counts_twice_and_the_map_is_shared(preset):
    pooled, mapped = noise.PRESETS[preset], convergence.PRESETS[preset]
    assert len(pooled.cells()) == len(pooled.students())
    analytic = {cell for _, cell in mapped.students() if cell.reference == "analytic"}
    assert analytic <= set(pooled.cells())


def test_the_quick_maps_stay_within_seventy_minutes_of_one_core():
    cells = {*convergence.PRESETS["quick"].cells(), *noise.PRESETS["quick"].cells()}
    assert sum(map(core_seconds, cells)) < 70 * 60  # besides teacher networks


def planted(name, columns, fails=math.inf):
    """A table as the experiment's, of students that X decides; from d = `fails` on the law fails."""
    rng, rows = np.random.default_rng(0), []
    for arm, cell in importlib.import_module(f"experiments.{name}").PRESETS["quick"].students():
        X = (cell.teacher_steps / 300) ** 0.7 * np.exp(0.3 * rng.normal())
        rho = float(network_start.expected_displacement(X))
        row = {field: getattr(cell, field) for field in ("dim", "seed", "lr", "batch", "teacher_steps", "sigma_init")}
        row |= {"arm": arm, "key": cell.key, "status": "done", "reference": cell.reference, "displacement": rho}
        row |= {"law_passes": cell.dim < fails, "mode_agreement": 1 - rho, "start_error_ratio_between": 1 / X}
        row |= {"network_number": X, "network_number_late": X / 2, "kept_cosine": 1 - rho}
        rows.append(row)
    return pd.DataFrame(rows).reindex(columns=list(columns))


@pytest.mark.parametrize(("name", "panels"), [("convergence", 6), ("noise", 7)])
def test_the_figures_draw_what_passes_and_mark_what_does_not(name, panels):
    module = importlib.import_module(f"figures.{name}")
    table = planted(name, module.COLUMNS, 32)
    with style():
        fig = module.draw(table)
    axes = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    assert len(axes) == panels
    image = axes[0].collections[0].get_array().reshape(-1, table["dim"].nunique() if name == "convergence" else 3)
    if name == "convergence":
        assert np.ma.getmaskarray(image)[:, -1].all()  # d = 32
        mine = table[(table["teacher_steps"] == 50) & (table["dim"] == 2) & (table["reference"] == "analytic")]
        assert image[0, 0] == pytest.approx(mine["displacement"].mean())
        assert [text.get_text() for text in axes[0].texts] == ["0"] * 6
    else:
        mine = table[(table["arm"] == "lr 0.001") & (table["dim"] == 2)]
        assert image[0, 0] == pytest.approx(mine["displacement"].mean())


@pytest.mark.parametrize("name", ["convergence", "noise"])
def test_planted_students_decide_the_questions(name):
    """X decides and dimension does not: so it has to come out."""
    module = importlib.import_module(f"experiments.{name}")
    table = planted(name, importlib.import_module(f"figures.{name}").COLUMNS)
    verdicts = {q.name: q.rule.verdict(q.effect(table)) for q in module.QUESTIONS}
    if name == "convergence":
        follows = [v for q, v in verdicts.items() if q.startswith("follows-convergence")]
        assert set(follows) == {"supported"}
        assert verdicts["boundary-above"] == "supported"
        asked = next(q for q in module.QUESTIONS if q.name == "begins-at-fixed-convergence-displacement")
        moved = table.assign(displacement=table["displacement"] - 0.1 * np.log2(table["dim"]))
        assert verdicts[asked.name] != "supported"
        assert asked.rule.verdict(asked.effect(moved)) == "supported"
    else:
        assert verdicts["through-network-number-displacement-from-2"] == "supported"
        assert verdicts["tells-network-number"] == "supported"
        for number in ("network-number", "kept-cosine"):
            assert verdicts[f"predicts-{number}"] == "supported"
        moved = table.assign(displacement=table["displacement"] + 0.1 * np.log2(table["dim"]))
        asked = next(q for q in module.QUESTIONS if q.name == "through-network-number-displacement-from-2")
        assert asked.rule.verdict(asked.effect(moved)) == "not supported"
