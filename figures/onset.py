"""Displacement against dimension under three training protocols: copying ends, or begins, or neither."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import gated

NEEDS = "dimension"
CAPTION = (
    "Remapping displacement of one-step linear students against dimension (0: the student copies the teacher's noise-data pairs, 1: "
    "its pairs are independent of the teacher's). Teacher N(0, I), DMD with the exact fake score and DMD2's per-sample normaliser, plain "
    "gradient descent. One dot per student; line and band: mean and 95 % bootstrap interval over seeds; hollow: failed the law gate. "
    "Grey: 95 % range of the shuffled-pair null. Thin black: F_d(Xi), no fitted constant; none at d = 1, where the normaliser's mean drift is "
    "infinite (shaded: its variance is, too). Panels differ only in learning rate and batch."
)

PANELS = (
    ("learning rate .01, batch 64", ("teacher start, lr .01", "random start, lr .01")),
    ("learning rate .04, batch 64", ("teacher start, lr .04", "random start, lr .04")),
    ("learning rate .64/$d$, batch 4$d$", ("teacher start, lr ~ 1/d, batch ~ d",)),
)


def columns(table: pd.DataFrame) -> list[str]:
    return ["arm", "key", "status", "dim", "seed", "start", "student", "lr", "batch", "law_passes", "displacement",
            "displacement_null", "displacement_low", "displacement_high", "gauge_polar", "predicted_displacement", "xi"]


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    fig = style.figure(style.DOUBLE, 2.5)
    axes = fig.subplots(1, len(PANELS), sharey=True)
    dims = table["dim"].unique()
    for letter, ax, (title, arms) in zip("abc", axes, PANELS):
        style.panel_letter(ax, letter, title)
        style.dimension_axis(ax, dims)
        _null(ax, table[table["arm"].isin(arms)])
        ax.axvspan(min(dims) / 1.25, 2.4, color="#000000", alpha=0.06, linewidth=0, zorder=0)
        ax.axhline(0.5, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
        for i, arm in enumerate(arms):
            mine = table[(table["arm"] == arm) & (table["status"] == "done")]
            if not len(mine):
                continue
            start = mine["start"].iloc[0]
            color = style.START[start]
            style.dots(ax, mine["dim"], mine["displacement"], mine["law_passes"], color, seed=i)
            style.draw_mean(ax, style.mean_band(gated(mine), "displacement"), color)
            if start == "teacher":
                theory = mine.groupby("dim")["predicted_displacement"].first().dropna()
                ax.plot(theory.index, theory, color=style.THEORY, linewidth=0.8, zorder=5)
    axes[0].set_ylim(-0.06, 1.72)
    axes[0].set_yticks([0, 0.5, 1, 1.5])
    axes[0].set_ylabel("displacement $\\rho$   (0 copy, 1 independent)")
    _labels(axes)
    return fig


def _null(ax, table: pd.DataFrame) -> None:
    null = table.groupby("dim")[["displacement_low", "displacement_high"]].mean().dropna()
    ax.fill_between(null.index, null["displacement_low"], null["displacement_high"], color=style.NULL, alpha=0.5, linewidth=0,
                    zorder=1)


def _labels(axes) -> None:
    """Direct labels, where the curves leave room for them."""
    axes[0].text(5.5, 0.05, "teacher start", color=style.START["teacher"], ha="left", va="top")
    axes[0].text(64, 1.25, "random start", color=style.START["random"], ha="right", va="bottom")
    axes[0].text(64, 1.13, "shuffled pairs (null)", color="#666666", ha="right", va="bottom", fontsize=7)
    axes[2].text(1.0, 1.62, "black: $F_d(\\Xi)$, no fitted constant", color=style.THEORY, ha="left", va="top", fontsize=7)
    axes[2].text(1.0, 1.48, "hollow: failed the law gate", color="#444444", ha="left", va="top", fontsize=7)
    axes[2].text(1.0, 1.34, "shaded: heavy-tailed normaliser", color="#444444", ha="left", va="top", fontsize=7)
    for ax, word, x in ((axes[0], "copying ends", 27), (axes[1], "copying ends", 8), (axes[2], "copying begins", 37)):
        ax.annotate(word, (x, 0.5), xytext=(0, -26 if word.endswith("ends") else 18), textcoords="offset points", ha="center",
                    fontsize=7, color="#444444", arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#444444"})
    assert np.isfinite(axes[0].get_ylim()).all()
