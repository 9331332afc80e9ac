"""Drawing: figures from stored results, or from the tables that lie beside drawn figures. Never trains."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sandbox.lab import table as tables
from sandbox.lab.provenance import versions
from sandbox.lab.store import Store
from sandbox.lab.style import style, write_figure
from sandbox.lab.sweep import Sweep
from sandbox.lab.validate import Claim

FIGURES = (
    "onset",
    "freedom",
    "pairing",
    "phase",
    "fate",
    "networks",
    "growth",
    "matched",
    "recipes",
    "adversarial",
    "toy_modes",
    "critic",
    "held",
    "memorisation",
    "tightness",
    "images",
    "convergence",
    "noise",
)
EXPERIMENTS = (
    "dimension",
    "phase",
    "start_decides",
    "growth_noise",
    "networks",
    "matched",
    "recipe_cost",
    "adversarial",
    "critic",
    "memorisation",
    "freedom",
    "toy_modes",
    "held",
    "images",
    "convergence",
    "noise",
)


class NothingToDraw(ValueError):
    """No stored results for a figure; the message says what to run."""


def experiment(name: str, preset: str) -> Sweep:
    """An experiment's sweep; raises ValueError naming an unknown experiment or preset."""
    if name not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    presets = importlib.import_module(f"experiments.{name}").PRESETS
    if preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset!r}")
    return presets[preset]


def claims(preset: str, only: Sequence[str] = ()) -> list[Claim]:
    """The predictions of a preset of the validation, or those with one of the words in their name.

    Raises ValueError for an unknown preset, or words that match no name."""
    presets = importlib.import_module("experiments.validation").PRESETS
    if preset not in presets:
        raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset!r}")
    every = presets[preset]()
    found = [claim for claim in every if not only or any(word in claim.name for word in only)]
    if not found:
        raise ValueError(f"only must name one of {'; '.join(c.name for c in every)}, got {' '.join(only)!r}")
    return found


def draw_validation(rows: pd.DataFrame, preset: str, out: Path) -> list[Path]:
    """Writes the validation's table and figure."""
    module = importlib.import_module("figures.validation")
    manifest = {
        "figure": "validation",
        "experiment": "validation",
        "preset": preset,
        "caption": module.CAPTION,
        "versions": versions(),
        "cells": sorted(set(rows["key"]) - {""}),
    }
    with style():
        drawn = module.draw(rows)
    return write_figure(drawn, rows, manifest, out, "validation")


def figure_module(name: str):
    """A figure's module; raises ValueError naming an unknown figure."""
    if name not in FIGURES:
        raise ValueError(f"figure must be one of {', '.join(FIGURES)}, got {name!r}")
    return importlib.import_module(f"figures.{name}")


def draw(
    names, sweep: Sweep, preset: str, store: Store, out: Path, fallback: Path | None = None, say=print
) -> list[Path]:
    """Draws figures into `out` from the store or, where it holds none of a figure's students, from CSV tables in
    `fallback`.

    Raises NothingToDraw if there is neither."""
    written: list[Path] = []
    read: dict[str, pd.DataFrame] = {}
    for name in names:
        module = figure_module(name)
        if sweep.name != module.NEEDS:
            continue
        if module.NEEDS not in read:
            read[module.NEEDS] = tables.students(sweep, store)
        table = read[module.NEEDS]
        manifest = {
            "figure": name,
            "experiment": sweep.name,
            "preset": preset,
            "caption": module.CAPTION,
            "versions": versions(),
        }
        if len(table):
            manifest["trained_on"] = sorted(set(table["trained_on"]))
            # Measures that none of the students has are empty columns.
            table = table.reindex(columns=list(module.COLUMNS))
            table = table.sort_values(["arm", "dim", "seed"], kind="stable").reset_index(drop=True)
            missing = len(store.missing(sweep.cells()))
            if missing:
                say(f"{name}: {missing} of {len(sweep.cells())} students are not there yet; drawn without them")
        elif fallback is not None and (fallback / f"{name}.csv").exists():
            table = pd.read_csv(fallback / f"{name}.csv")
            manifest = {**json.loads((fallback / f"{name}.json").read_text()), "caption": module.CAPTION}
            say(f"{name}: no stored results in {store.root}; drawn from {fallback / name}.csv")
        else:
            raise NothingToDraw(
                f"results folder {store.root} holds no student of figure {name!r} (experiment "
                f"{sweep.name}, preset {preset}); run `make run`, or choose another folder with --results"
            )
        with style():
            drawn = module.draw(table)
        manifest |= {
            "cells": sorted(set(table["key"])),
            "students": len(table),
            "seeds": sorted({int(s) for s in table["seed"]}),
        }
        written += write_figure(drawn, table, manifest, out, name)
    return written
