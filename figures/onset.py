"""Displacement against dimension under three training protocols: copying ends, or begins, or neither."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY, comparable, gated
from sandbox.measure.onset import onset

NEEDS = "dimension"
CAPTION = (
    "Remapping displacement of one-step linear students against dimension: 0, the student copies the teacher's "
    "noise-data pairs; 1, the value of independent pairs. Teacher N(0, I), DMD with the exact fake score and "
    "DMD2's per-sample normaliser, plain gradient descent, updates until the law is settled. One dot per student; "
    "line and band: mean and 95 % bootstrap interval over seeds, at one held-out set of 1024 points; hollow: "
    "failed the law gate. Grey: 95 % range of the shuffled-pair null; a random start ends with one rotation "
    "unrelated to the teacher's, whose displacement averages 1 and scatters more, by 1/d. Thin black: F_d(Xi), no "
    "constant fitted to students; none at d = 1, where the normaliser's mean drift is infinite (shaded: its "
    "gradient's variance is). Black bar: where the mean passes 1/2, with its 95 % interval (shaded dimensions "
    "left out). Panels differ only in learning rate, batch and the number of updates that goes with them."
)

PANELS = (
    ("lr .01, batch 64", ("teacher start, lr .01", "random start, lr .01")),
    ("lr .04, batch 64", ("teacher start, lr .04", "random start, lr .04")),
    ("lr .64/$d$, batch 4$d$", ("teacher start, lr ~ 1/d, batch ~ d",)),
)
COLUMNS = (
    *IDENTITY,
    "displacement",
    "displacement_null",
    "displacement_low",
    "displacement_high",
    "gauge_polar",
    "predicted_displacement",
    "xi",
)


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
            style.draw_mean(
                ax, style.mean_band(gated(mine), "displacement"), color, "-" if start == "teacher" else "--"
            )
            if start == "teacher":
                theory = mine.groupby("dim")["predicted_displacement"].first().dropna()
                ax.plot(theory.index, theory, color=style.THEORY, linewidth=0.8, zorder=5)
                _crossing(ax, comparable(mine))
    axes[0].set_ylim(-0.08, 2.12)
    axes[0].set_yticks([0, 0.5, 1, 1.5, 2])
    axes[0].set_ylabel("displacement $\\rho$")
    for ax, x, y, text, color in (
        (axes[0], 0.97, 0.97, "dots: students", "#444444"),
        (axes[0], 0.97, 0.89, "blue: teacher start", style.START["teacher"]),
        (axes[0], 0.97, 0.81, "orange, dashed: random start", style.START["random"]),
        (axes[1], 0.97, 0.97, "grey: shuffled pairs (null)", "#666666"),
        (axes[1], 0.97, 0.89, "hollow: failed the law gate", "#444444"),
        (axes[2], 0.97, 0.86, "black: $F_d(\\Xi)$, nothing fitted to dots", style.THEORY),
        (axes[2], 0.97, 0.78, "shaded: heavy-tailed normaliser", "#444444"),
    ):
        ax.text(x, y, text, color=color, ha="right", va="top", fontsize=7, transform=ax.transAxes)
    return fig


def _null(ax, table: pd.DataFrame) -> None:
    null = table.groupby("dim")[["displacement_low", "displacement_high"]].mean().dropna()
    ax.fill_between(
        null.index,
        null["displacement_low"],
        null["displacement_high"],
        color=style.NULL,
        alpha=0.5,
        linewidth=0,
        zorder=1,
    )


def _crossing(ax, table: pd.DataFrame) -> None:
    """Marks where copying begins or ends, if it does within the swept range."""
    try:
        found = onset(table)
    except ValueError:
        return
    if found.kind == "none":
        return
    ax.errorbar(
        found.at,
        0.5,
        xerr=[[found.at - found.low], [found.high - found.at]],
        color=style.THEORY,
        marker="|",
        markersize=5,
        linewidth=1.4,
        zorder=6,
    )
    ax.text(
        0.97,
        0.05,
        f"copying {found.kind}\nat $d$ = {found.at:.3g}",
        ha="right",
        va="bottom",
        fontsize=7,
        transform=ax.transAxes,
    )
