"""Panels that compare arms at a few dimensions: a row for each arm, a dot for each student."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import gated

# A colour and a mark for each dimension, the smallest first (Okabe & Ito 2008); neighbours differ in lightness, too.
COLORS = ("#CC79A7", "#111111", "#0072B2", "#E69F00", "#009E73", "#56B4E9")
MARKERS = ("s", "D", "o", "^", "v", "P")
SPREAD, ROOM = 0.34, 0.84  # between two dimensions of a row, and what a row has for all of them
FEWEST = 2  # students for a mean and an interval


def arms_figure(table: pd.DataFrame, arms: Sequence[str], values: dict[str, str], height: float) -> Figure:
    """One panel for each value {column: axis label}, one row for each arm, dimensions above each other in a row.

    Dots are students, hollow where they failed the law gate; a bar is the mean of those that pass with its 95 %
    interval, seeds resampled; grey is the null's 95 % range where the table has <column>_low and <column>_high.
    `height` (inches) is that of one or two dimensions; more need more."""
    table = table[table["status"] == "done"]
    looks = _looks(table["dim"])
    fig = style.figure(style.DOUBLE, height * max(1, len(looks) / 2.5))
    axes = np.atleast_1d(fig.subplots(1, len(values), sharey=True))
    for letter, ax, (value, label) in zip("abcdef", axes, values.items(), strict=False):
        style.panel_letter(ax, letter)
        _panel(ax, table, arms, value, looks)
        ax.set_xlabel(label)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    for dim, (color, marker) in looks.items():
        axes[-1].scatter([], [], s=14, color=color, marker=marker, linewidths=0, label=f"$d$ = {dim}")
    fig.legend(
        *axes[-1].get_legend_handles_labels(), loc="outside upper right", ncols=min(6, len(looks)), frameon=False
    )
    return fig


def _looks(dims: pd.Series) -> dict[int, tuple]:
    """Colour and mark of each dimension, in order; of more than there are names for, from a map dark to light."""
    dims = sorted(dims.unique())
    colors = COLORS if len(dims) <= len(COLORS) else mpl.colormaps["cividis"](np.linspace(0, 0.95, len(dims)))
    return {dim: (color, marker) for dim, color, marker in zip(dims, colors, itertools.cycle(MARKERS), strict=False)}


def _panel(ax: Axes, table: pd.DataFrame, arms: Sequence[str], value: str, looks: dict[int, tuple]) -> None:
    if f"{value}_low" in table:
        null = table[[f"{value}_low", f"{value}_high"]].astype(float).mean()
        style.null_span(ax, *null)
    apart = min(SPREAD, ROOM / max(1, len(looks)))
    for row, arm in enumerate(arms):
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.035, linewidth=0, zorder=0)
        for i, (dim, look) in enumerate(looks.items()):
            mine = table[(table["arm"] == arm) & (table["dim"] == dim)]
            if not len(mine):
                continue
            place = row + apart * (i - (len(looks) - 1) / 2)
            _row(ax, mine, value, place, apart / SPREAD, *look)


def _row(ax: Axes, mine: pd.DataFrame, value: str, place: float, scale: float, color: str, marker: str) -> None:
    passed = mine["law_passes"].eq(True).to_numpy()
    x = mine[value].to_numpy(float)
    y = place + scale * np.linspace(-0.09, 0.09, len(mine))
    kind = {"marker": marker, "s": 9, "zorder": 3}
    ax.scatter(x[passed], y[passed], color=color, linewidths=0, alpha=0.5, **kind)  # type: ignore[arg-type]
    ax.scatter(x[~passed], y[~passed], facecolors="none", edgecolors=color, linewidths=0.6, **kind)  # type: ignore[arg-type]
    good = gated(mine)
    if len(good) >= FEWEST:
        band = style.mean_band(good, value)
        if len(band):
            ax.plot([band["low"][0], band["high"][0]], [place] * 2, color=color, linewidth=1.2, zorder=4)
            ax.plot(
                [band["mean"][0]] * 2,
                [place - 0.14 * scale, place + 0.14 * scale],
                color=color,
                linewidth=1.6,
                zorder=4,
            )
