"""Networks under other training noise, and whether one copying number explains them and the map of convergence."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.convergence import against, heat
from sandbox.lab import style
from sandbox.lab.table import IDENTITY, PAIRING
from sandbox.measure.onset import THRESHOLD
from sandbox.theory.network_start import expected_displacement

NEEDS = "noise"
CAPTION = (
    "Network students of a mixture of eight modes, distilled as DMD2 does (recipe of the main sweep at width 64: "
    "learning rate 2e-3, batch 128, start level 80), analytic real score and reference. (a-c) Students of converged "
    "teacher networks (3000 updates) over dimension and one control at a time: mean displacement (0 copy, 1 "
    "independent) over the seeds of a cell that pass the law gate; dark: copied; digits: how many pass, where not all "
    "do; hatched: fewer than two; solid white: displacement 1/2; dashed: where the copying number X, known before "
    "training, puts it. (d-g) The same students and all of the map over teacher convergence (50 to 3000 teacher "
    "updates), against X: one dot per student, one colour and marker per dimension, hollow: failed the law gate. X "
    "sets the start's signal against its error and against the optimiser's noise until the modes have grown (d, f); "
    "in (e) also against its noise after growth. Black, no fitted constant: 1 - X / sqrt(1 + X^2) solid, 1 / (1 + 2 "
    "X^2) dashed. (g) The same students against the cosine with the exact start that X's noise of growth leaves of "
    "the one that their own start has; black: 1 - cosine. Were these numbers all that matters, the colours would lie "
    "on one curve. Grey: 95 % range of the shuffled-pair null, mean over dimensions."
)
CONTROLS = (("lr", "learning rate"), ("batch", "batch"), ("sigma_init", "start level $\\sigma_{init}$"))
COLUMNS = (
    *IDENTITY,
    "teacher_steps",
    "sigma_init",
    "trained_on",
    "core_seconds",
    *PAIRING,
    "start_cosine_between",
    "start_error_ratio_between",
    "network_number",
    "network_number_late",
    "kept_cosine",
    "noise_to_start",
    "variance_ratio_high",
)


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"]
    fig = style.figure(style.DOUBLE, 4.3)
    above, below = fig.subfigures(2, 1, height_ratios=[1, 1.2])
    maps, collapse = above.subplots(1, 3), below.subplots(1, 4)
    recipe = table[table["teacher_steps"] == table["teacher_steps"].max()]
    for letter, ax, (control, label) in zip("abc", maps, CONTROLS):
        style.panel_letter(ax, letter, f"$\\rho$ by {label.split(' $')[0]}")
        varied = recipe[recipe["arm"].str.startswith(f"{control} ")]
        if not len(varied):
            ax.set_visible(False)
            continue
        # The recipe's own level is that of the students whose teachers only differ in their updates.
        standard = recipe[recipe["arm"].str.endswith("teacher updates") & recipe["dim"].isin(varied["dim"])]
        mine = pd.concat([varied, standard])
        expected = mine.assign(_expected=expected_displacement(mine["network_number"].astype(float)))
        border = expected.groupby([control, "dim"])["_expected"].mean().unstack()
        heat(above, ax, mine, control, "displacement", "cividis", THRESHOLD, (border, THRESHOLD))
        ax.set_ylabel(label)
    for letter, ax, number, value, label in (
        ("d", collapse[0], "network_number", "displacement", "copying number $X$"),
        ("e", collapse[1], "network_number_late", "displacement", "$X$ with late drift"),
        ("f", collapse[2], "network_number", "mode_agreement", "copying number $X$"),
    ):
        sign = "$\\rho$" if value == "displacement" else "$\\kappa$"
        style.panel_letter(ax, letter, f"{sign} against {'$X$, late' if letter == 'e' else '$X$'}")
        against(ax, table, number, value)
        ax.set_xlabel(label)
        if letter == "e":
            ax.set_ylabel("")
        if value == "displacement":
            X = np.geomspace(*ax.get_xlim(), 200)
            ax.plot(X, expected_displacement(X), color=style.THEORY, linewidth=0.9, zorder=5)
            ax.plot(X, 1 / (1 + 2 * X**2), color=style.THEORY, linewidth=0.9, linestyle="--", zorder=5)
            ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    place = {"ha": "right", "va": "top", "transform": collapse[0].transAxes}
    collapse[0].text(0.99, 0.84, "lines: not\nfitted", fontsize=7, **place)
    _by_angle(collapse[3], table)
    beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
    collapse[3].legend(frameon=False, fontsize=6.5, handletextpad=0.1, labelspacing=0.2, **beside)
    return fig


def _by_angle(ax: Axes, table: pd.DataFrame) -> None:
    style.panel_letter(ax, "g", "$\\rho$ against the angle")
    against(ax, table, "kept_cosine", "displacement", logarithmic=False)
    low = min(-0.1, table["kept_cosine"].min())
    ax.plot([low, 1], [1 - low, 0], color=style.THEORY, linewidth=0.9, zorder=5)
    ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    ax.set_xlabel("kept cosine")
    ax.set_ylabel("")
