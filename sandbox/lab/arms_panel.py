"""Panels that compare arms at a few dimensions: a row for each arm, a dot for each student."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import gated

# A colour for each dimension, the smallest first; they also differ in lightness.
COLORS = ("#CC79A7", "#111111", "#0072B2")
MARKERS = ("s", "D", "o")
SPREAD = 0.34
FEWEST = 2  # students for a mean and an interval


def arms_figure(table: pd.DataFrame, arms: Sequence[str], values: dict[str, str], height: float) -> Figure:
    """One panel for each value {column: axis label}, one row for each arm, dimensions above each other in a row.

    Dots are students, hollow where they failed the law gate; a bar is the mean of those that pass with its 95 %
    interval, seeds resampled; grey is the null's 95 % range where the table has <column>_low and <column>_high."""
    table = table[table["status"] == "done"]
    fig = style.figure(style.DOUBLE, height)
    axes = np.atleast_1d(fig.subplots(1, len(values), sharey=True))
    for letter, ax, (value, label) in zip("abcdef", axes, values.items(), strict=False):
        style.panel_letter(ax, letter)
        _panel(ax, table, arms, value)
        ax.set_xlabel(label)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    dims = sorted(table["dim"].unique())
    for i, dim in enumerate(dims):
        axes[-1].scatter([], [], s=14, color=COLORS[i], marker=MARKERS[i], linewidths=0, label=f"$d$ = {dim}")
    fig.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper right", ncols=len(dims), frameon=False)
    return fig


def _panel(ax: Axes, table: pd.DataFrame, arms: Sequence[str], value: str) -> None:
    if f"{value}_low" in table:
        null = table[[f"{value}_low", f"{value}_high"]].astype(float).mean()
        ax.axvspan(null.iloc[0], null.iloc[1], color=style.NULL, alpha=0.4, linewidth=0, zorder=1)
        at = ax.get_xaxis_transform()
        ax.text(null.mean(), 1.02, "null", transform=at, ha="center", fontsize=7, color="#666666")
    dims = sorted(table["dim"].unique())
    for row, arm in enumerate(arms):
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.035, linewidth=0, zorder=0)
        for i, dim in enumerate(dims):
            mine = table[(table["arm"] == arm) & (table["dim"] == dim)]
            if not len(mine):
                continue
            place = row + SPREAD * (i - (len(dims) - 1) / 2)
            _row(ax, mine, value, place, COLORS[i], MARKERS[i])


def _row(ax: Axes, mine: pd.DataFrame, value: str, place: float, color: str, marker: str) -> None:
    passed = mine["law_passes"].eq(True).to_numpy()
    x = mine[value].to_numpy(float)
    y = place + np.linspace(-0.09, 0.09, len(mine))
    kind = {"marker": marker, "s": 9, "zorder": 3}
    ax.scatter(x[passed], y[passed], color=color, linewidths=0, alpha=0.5, **kind)  # type: ignore[arg-type]
    ax.scatter(x[~passed], y[~passed], facecolors="none", edgecolors=color, linewidths=0.6, **kind)  # type: ignore[arg-type]
    good = gated(mine)
    if len(good) >= FEWEST:
        band = style.mean_band(good, value)
        if len(band):
            ax.plot([band["low"][0], band["high"][0]], [place] * 2, color=color, linewidth=1.2, zorder=4)
            ax.plot([band["mean"][0]] * 2, [place - 0.14, place + 0.14], color=color, linewidth=1.6, zorder=4)
