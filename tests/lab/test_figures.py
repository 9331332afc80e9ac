"""Figures come from stored tables alone, and the same numbers give the same bytes."""

import dataclasses
import json

import pandas as pd
import pytest
import torch

from experiments import dimension
from sandbox.lab import execute, work
from sandbox.lab.execute import run
from sandbox.lab.gallery import FIGURES as EVERY
from sandbox.lab.gallery import NothingToDraw, draw, experiment, figure_module
from sandbox.lab.store import Store
from sandbox.lab.sweep import cost

ENDINGS = ("svg", "png", "csv", "json")

# Those of the dimension sweep; the others have their own.
FIGURES = [name for name in EVERY if figure_module(name).NEEDS == "dimension"]


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The smoke experiment with students that start near their teacher's scale and so need few updates."""
    base = {**dimension.BASE, "sigma_init": 1.0, "start_scale": 0.7, "steps": 40}
    sweep = dataclasses.replace(dimension.PRESETS["smoke"], base=base, derived={})
    sweep = sweep.narrowed({"dim": (2, 4), "seed": (0, 1)})
    # One network student of each arm: measuring a mixture's student takes seconds.
    sweep = dataclasses.replace(sweep, own_axes={arm: {"dim": (2,), "seed": (0,)} for arm in dimension.NETWORKS})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dimension.PRESETS, "tiny", sweep)
        yield sweep


def tiny_sweep():
    return experiment("dimension", "tiny")


@pytest.fixture(scope="module")
def store(tmp_path_factory, tiny):
    store = Store(tmp_path_factory.mktemp("results"))
    assert run(tiny.cells(), store, quiet=True) == 0
    return store


@pytest.fixture(scope="module")
def drawn(store, tmp_path_factory):
    """The figures, drawn with training made impossible."""

    def never(*_, **__):
        raise AssertionError("drawing trained a student")

    out = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "distill", never)
        patch.setattr(work, "train_pack", never)
        patch.setattr(execute, "train_pack", never)
        written = draw(FIGURES, tiny_sweep(), "tiny", store, out, say=lambda _: None)
    assert [path.name for path in written] == [f"{name}.{ending}" for name in FIGURES for ending in ENDINGS]
    return out


def test_a_second_drawing_gives_the_same_bytes(store, drawn, tmp_path):
    draw(FIGURES, tiny_sweep(), "tiny", store, tmp_path, say=lambda _: None)
    first = {path.name: path.read_bytes() for path in drawn.iterdir()}
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []


def test_the_csv_beside_a_figure_draws_it_again(drawn, tmp_path):
    said = []
    draw(
        FIGURES, tiny_sweep(), "tiny", Store(tmp_path / "none", create=False), tmp_path, fallback=drawn, say=said.append
    )
    differing = [
        name
        for figure in FIGURES
        for name in (f"{figure}.png", f"{figure}.csv", f"{figure}.json")
        if (drawn / name).read_bytes() != (tmp_path / name).read_bytes()
    ]
    assert differing == []
    assert len(said) == len(FIGURES)
    assert all("drawn from" in line for line in said)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_lies_beside_its_numbers(drawn, store, tiny, name):
    table = pd.read_csv(drawn / f"{name}.csv")
    manifest = json.loads((drawn / f"{name}.json").read_text())
    assert len(table) == len(tiny.students())
    assert manifest["cells"] == sorted(cell.key for cell in tiny.cells())
    assert (manifest["figure"], manifest["caption"]) == (name, figure_module(name).CAPTION)
    stored = {cell.key: store.get(cell)["measures"]["displacement"] for cell in tiny.cells()}
    # Text carries every digit of the number that was stored.
    assert all(stored[row.key] == row.displacement for row in table.itertuples())
    # Some students passed the gate, or the figures above were drawn without their main marks.
    assert table["law_passes"].any()


def test_students_that_are_missing_are_counted(store, tiny, tmp_path):
    partial = Store(tmp_path / "partial")
    kept = tiny.cells()[:-3]
    for cell in kept:
        for ending in ("json", "npz"):
            name = f"{cell.key}.{ending}"
            (partial.folder / name).write_bytes((store.folder / name).read_bytes())
    said = []
    draw(("freedom",), tiny, "tiny", partial, tmp_path / "out", say=said.append)
    assert said == [f"freedom: 3 of {len(tiny.cells())} students are not there yet; drawn without them"]


@pytest.mark.parametrize("name", FIGURES)
def test_without_numbers_the_message_says_what_to_run(tmp_path, name):
    words = rf"{tmp_path / 'none'} holds no student of figure '{name}'.*make run.*--results"
    with pytest.raises(NothingToDraw, match=words):
        draw((name,), tiny_sweep(), "tiny", Store(tmp_path / "none", create=False), tmp_path / "out", fallback=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: figure_module("banner"), "figure must be one of .*got 'banner'"),
        (
            lambda: experiment("width", "quick"),
            "experiment must be one of dimension, phase, .*, .*recipe_cost, .*, got 'width'",
        ),
        (lambda: experiment("dimension", "huge"), "preset must be one of .*got 'huge'"),
    ],
)
def test_unknown_names_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_the_maps_of_the_phase_experiment(tmp_path):
    sweep = dataclasses.replace(experiment("phase", "smoke"), derived={})
    sweep = dataclasses.replace(sweep, base={**sweep.base, "steps": 30, "lr": 0.1})
    store = Store(tmp_path / "results")
    assert run(sweep.cells(), store, quiet=True) == 0
    written = draw(("phase",), sweep, "smoke", store, tmp_path / "out", say=lambda _: None)
    assert [path.name for path in written] == [f"phase.{ending}" for ending in ENDINGS]
    assert len(pd.read_csv(tmp_path / "out" / "phase.csv")) == len(sweep.students())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "needs"), [("networks", "networks"), ("growth", "growth_noise")])
def test_network_figures_along_training(tmp_path, name, needs):
    sweep = experiment(needs, "smoke").narrowed({"dim": (2,), "seed": (0,)})
    store, out = Store(tmp_path / "results"), tmp_path / "out"
    assert run(sweep.cells(), store, quiet=True) == 0
    written = draw((name,), sweep, "smoke", store, out, say=lambda _: None)
    assert [path.name for path in written] == [f"{name}.{ending}" for ending in ENDINGS]
    table = pd.read_csv(out / f"{name}.csv")
    assert list(table["arm"]) == sorted(sweep.arms)
    measure = "displacement" if name == "networks" else "correlation_distance"
    for row in table.itertuples():
        cell = dict(sweep.students())[row.arm]
        for point in store.get(cell)["trajectory"]:
            if point["step"]:
                assert getattr(row, f"{measure}_at_{point['step']}") == point[measure]
        assert row.displacement == store.get(cell)["measures"]["displacement"]
    assert table[f"{measure}_at_2"].notna().all()
    # Four updates do not reach the law: the figure is drawn of students that fail its gate, and of missing steps.
    assert table[f"{measure}_at_1024"].isna().all()
    manifest = json.loads((out / f"{name}.json").read_text())
    assert manifest["trained_on"] == [f"{torch.__version__} CPU"]
    draw((name,), sweep, "smoke", Store(tmp_path / "none", create=False), tmp_path / "again", out, say=lambda _: None)
    for ending in ("png", "csv", "json"):
        assert (out / f"{name}.{ending}").read_bytes() == (tmp_path / "again" / f"{name}.{ending}").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "needs"), [("matched", "matched"), ("recipes", "recipe_cost")])
def test_network_figures_of_ends(tmp_path, name, needs):
    sweep = experiment(needs, "smoke")
    store, out = Store(tmp_path / "results"), tmp_path / "out"
    assert run(sweep.cells(), store, quiet=True) == 0
    draw((name,), sweep, "smoke", store, out, say=lambda _: None)
    table = pd.read_csv(out / f"{name}.csv")
    assert sorted(zip(table["arm"], table["key"], strict=True)) == sorted((a, c.key) for a, c in sweep.students())
    for row in table.itertuples():
        cell = next(cell for _, cell in sweep.students() if cell.key == row.key)
        assert row.displacement == store.get(cell)["measures"]["displacement"]
        if name == "recipes":
            assert row.core_seconds == pytest.approx(cost([cell] * 16) / 16e3)
        else:
            assert (row.start_error, row.sigma_init) == (cell.start_error, cell.sigma_init)
    draw((name,), sweep, "smoke", Store(tmp_path / "none", create=False), tmp_path / "again", out, say=lambda _: None)
    for ending in ("png", "csv", "json"):
        assert (out / f"{name}.{ending}").read_bytes() == (tmp_path / "again" / f"{name}.{ending}").read_bytes()
