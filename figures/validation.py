"""The theory's predictions against fresh students: on one diagonal, against Xi, against dimension, and by mode."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.validate import BROKEN, KNOWN
from sandbox.theory.copying import constant_speed, exponential_growth

CAPTION = (
    "Gauge displacement of linear students, means over seeds with 95 % intervals, against predictions in which "
    "nothing was fitted to students. a: nine of the table's kinds of prediction; grey: a tolerance of .08. "
    "Hollow: beyond its declared tolerance, known failures among them. b: against the copying number Xi, on a random "
    "grid of variances, noise levels, learning rates, batches and dimensions, with F_d at d = 8 and 48. c: against "
    "dimension in three protocols with the per-sample normaliser, and for the leading mode of a power law with w = 1; "
    "lines: predictions. d: by eigenmode of a power-law teacher, k^-1.5; lines: the mode equations. Independent pairs "
    "read 1 (dotted) in every panel."
)

# Okabe & Ito (2008); markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#7A4B00")
MARKERS = "osD^vP*Xh"
NOTE = {"fontsize": 6, "ha": "right", "va": "bottom", "color": "#555555"}

DIAGONAL = (
    "flat spectra",
    "flat spectra, finite steps",
    "matrix diffusion",
    "other weightings",
    "one dimension, w = 1",
    "power law k^-1.5, by mode",
    "learned fake score, at the optimum",
    "Adam, at the optimum (scaling)",
    "Adam from the start, over the batch",
)


def draw(rows: pd.DataFrame) -> Figure:
    """The figure from the validation's table."""
    fig = style.figure(style.DOUBLE, 6.4)
    axes = fig.subplots(2, 2)
    _diagonal(axes[0, 0], rows)
    _collapse(axes[0, 1], rows[rows["claim"].isin(("flat spectra", "other weightings"))])
    _regimes(axes[1, 0], rows[rows["claim"] == "four regimes in d"])
    _modes(axes[1, 1], rows[rows["claim"] == "power law k^-1.5, by mode"])
    return fig


def _points(ax: Axes, x, rows: pd.DataFrame, colour: str, marker: str, label: str = "") -> None:
    half = ((rows["high"] - rows["low"]) / 2).clip(lower=0).fillna(0)  # a row without an interval has no bar
    ax.errorbar(x, rows["measured"], half, fmt="none", ecolor=colour, elinewidth=0.6, alpha=0.7, zorder=2)
    missed = rows["verdict"].isin((BROKEN, KNOWN)).to_numpy()
    x = np.asarray(x, float)
    kind = {"marker": marker, "s": 14, "linewidths": 0.7, "edgecolors": colour, "zorder": 3}
    ax.scatter(x[~missed], rows["measured"][~missed], facecolors=colour, label=label or None, **kind)
    ax.scatter(x[missed], rows["measured"][missed], facecolors="white", **kind)


def _diagonal(ax: Axes, rows: pd.DataFrame) -> None:
    style.panel_letter(ax, "a", "nine kinds of prediction")
    line = np.array([0, 1.05])
    ax.fill_between(line, line - 0.08, line + 0.08, color=style.NULL, alpha=0.25, linewidth=0)
    ax.plot(line, line, color=style.THEORY, linewidth=0.8)
    for claim, colour, marker in zip(DIAGONAL, COLOURS, MARKERS):
        mine = rows[rows["claim"] == claim]
        if len(mine):
            _points(ax, mine["predicted"], mine, colour, marker, claim)
    ax.set_xlabel("predicted $\\rho_g$")
    ax.set_ylabel("measured gauge displacement $\\rho_g$")
    ax.legend(fontsize=6, frameon=False, loc="upper left", handletextpad=0.2)
    ax.set_xlim(-0.02, 1.1)
    ax.set_ylim(-0.05, 1.65)
    ax.text(0.98, 0.03, "grey: within .08\nhollow: beyond its tolerance", transform=ax.transAxes, **NOTE)


def _collapse(ax: Axes, rows: pd.DataFrame) -> None:
    style.panel_letter(ax, "b", "one variable, $\\Xi$ (lines: predicted)")
    xi = np.geomspace(0.03, 8, 200)
    for d, dash in ((8, "-"), (48, ":")):
        ax.plot(
            xi, constant_speed(d, xi), color=style.THEORY, linewidth=0.8, linestyle=dash, label=f"$F_{{{d}}}(\\Xi)$"
        )
    ax.plot(
        xi, exponential_growth(48, xi), color=COLOURS[2], linewidth=0.8, linestyle="--", label="$1 - q(\\sqrt{\\Xi})$"
    )
    known = {"random grid": 0, "per-sample": 1, "off": 2, "batch": 3}
    names = {"random grid": "random grid", "per-sample": "Karras bins", "off": "$w = 1$", "batch": "batch mean"}
    for series, i in known.items():
        mine = rows[rows["series"] == series]
        if len(mine):
            _points(ax, mine["x"], mine, COLOURS[i], MARKERS[i], names[series])
    ax.axhline(1, color=style.NULL, linewidth=0.5, linestyle=":")
    ax.text(0.99, 1.005, "independent pairs", transform=ax.get_yaxis_transform(), **NOTE)
    ax.set_xscale("log")
    ax.set_xlabel("copying number $\\Xi$")
    ax.set_ylabel("measured $\\rho_g$")
    ax.set_ylim(0, 1.1)
    ax.legend(fontsize=6, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.02), handletextpad=0.4)


def _regimes(ax: Axes, rows: pd.DataFrame) -> None:
    style.panel_letter(ax, "c", "copying ends, stays or begins")
    for i, (series, mine) in enumerate(rows.groupby("series", sort=False)):
        mine = mine.sort_values("x")
        ax.plot(mine["x"], mine["predicted"], color=COLOURS[i], linewidth=0.9)
        _points(ax, mine["x"], mine, COLOURS[i], MARKERS[i], series)
    if len(rows):
        style.dimension_axis(ax, rows["x"])
    ax.axhline(1, color=style.NULL, linewidth=0.5, linestyle=":")
    ax.axhline(0.5, color=style.NULL, linewidth=0.5, linestyle=":")
    ax.set_ylim(0, 1.45)
    ax.set_ylabel("measured $\\rho_g$ ($\\rho_1$ for the mode)")
    ax.legend(fontsize=6, frameon=False, loc="upper left", handletextpad=0.2)


def _modes(ax: Axes, rows: pd.DataFrame) -> None:
    style.panel_letter(ax, "d", "leading modes copy first")
    rows = rows[np.isfinite(rows["x"])]
    for i, (series, mine) in enumerate(rows.groupby("series", sort=False)):
        mine = mine.sort_values("x")
        ax.plot(mine["x"], mine["predicted"], color=COLOURS[i], linewidth=0.9)
        _points(ax, mine["x"] * (1 + 0.03 * (i - 2)), mine, COLOURS[i], MARKERS[i], series)
    ax.axhline(1, color=style.NULL, linewidth=0.5, linestyle=":")
    ax.set_xscale("log", base=2)
    ax.set_xlabel("eigenmode $k$")
    ax.set_ylabel("measured $\\rho_k$")
    ax.set_ylim(0, 1.6)
    ax.legend(fontsize=6, frameon=False, loc="upper left", ncols=2, handletextpad=0.2)
