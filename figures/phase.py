"""Maps of the displacement over dimension and one control, with the predicted border of copying."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sandbox.lab import style
from sandbox.lab.table import IDENTITY, gated

NEEDS = "phase"
CAPTION = (
    "Gauge displacement of linear students over dimension and one control at a time: mean over the seeds of each cell, "
    "students that pass the law gate. Dark: copied; light: remapped, 1 for independent pairs. Solid white: "
    "where the measured mean passes 1/2; dashed black: where the predicted one, F_d(Xi), does, with no constant fitted "
    "to students. Teacher N(0, I), DMD2's per-sample normaliser (heavy-tailed at d = 2), exact fake score, plain "
    "gradient descent until settled; what a panel does not vary is held at lr .02, batch 64, sigma_init 80."
)
PANELS = (
    ("lr", "learning rate"),
    ("batch", "batch"),
    ("sigma_init", "start level $\\sigma_{init}$"),
)
COLUMNS = (*IDENTITY, "sigma_init", "gauge_polar", "predicted_gauge", "xi")


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    fig = style.figure(style.DOUBLE, 2.6)
    axes = fig.subplots(1, len(PANELS), sharex=True)
    image = None
    for letter, ax, (control, label) in zip("abc", axes, PANELS):
        mine = table[table["arm"].str.startswith(control + " ")]
        style.panel_letter(ax, letter)
        if len(mine):
            image = _map(ax, mine, control)
        ax.set_xlabel("dimension $d$")
        ax.set_ylabel(label)
    for ax, y, text, colour in (
        (axes[2], 0.30, "white: measured $\\rho_g = 1/2$", "white"),
        (axes[2], 0.20, "dashed: predicted", "white"),
    ):
        ax.text(0.04, y, text, color=colour, fontsize=7, transform=ax.transAxes)
    if image is not None:
        bar = fig.colorbar(image, ax=axes, pad=0.01, aspect=30)
        bar.set_label("displacement $\\rho_g$")
    return fig


def _map(ax: Axes, table: pd.DataFrame, control: str):
    measured = gated(table).groupby([control, "dim"])["gauge_polar"].mean().unstack()
    predicted = table.groupby([control, "dim"])["predicted_gauge"].first().unstack()
    x, y = measured.columns.to_numpy(float), measured.index.to_numpy(float)
    image = ax.pcolormesh(x, y, measured.to_numpy(), cmap="cividis", vmin=0, vmax=1, shading="nearest", rasterized=True)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ticks = [d for d in (2, 4, 8, 16, 32, 64) if x[0] <= d <= x[-1]]
    ax.set_xticks(ticks, [str(d) for d in ticks])
    levels = [v for v in (0.003, 0.01, 0.03, 0.1, 5, 10, 20, 40, 80, 160, 320) if y[0] <= v <= y[-1]]
    ax.set_yticks(levels, [f"{v:g}" for v in levels])
    ax.yaxis.set_minor_locator(NullLocator())
    for values, dash, colour in ((measured, "-", "white"), (predicted, "--", "black")):
        v = values.to_numpy()
        if min(v.shape) > 1 and np.isfinite(v).any() and np.nanmin(v) < 0.5 < np.nanmax(v):
            lines = ax.contour(values.columns, values.index, v, levels=[0.5], colors=[colour], linewidths=1.4)
            lines.set_linestyle(dash)
    return image
