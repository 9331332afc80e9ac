"""Copying against dimension where different properties of the teacher are held still, and by normaliser."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.held import COORDINATE
from sandbox.lab import style
from sandbox.lab.table import IDENTITY, gated

NEEDS = "held"
CAPTION = (
    "One mixture of eight modes, four things held still as dimension grows, and three normalisers. Network students "
    "(width 64, two blocks, 2000 updates, Adam, learning rate 2e-3, batch 128) from teacher networks of 3000 updates; "
    "real score and reference: the analytic ones. (a) Displacement (0 copy, 1 independent) where the scale of a "
    "coordinate is held, so that lambda_max, trace and speciation level grow with d; and where the largest eigenvalue "
    "between modes, the trace, or the speciation level are held. At d = 8 the four are one teacher and share their "
    "students. (b) Mode agreement (1 copy, 0 chance) of the same students. (c) Displacement by the normaliser of "
    "DMD2's gradient, scale of a coordinate held. (d) The same for six other mixtures, one per student; triangles at "
    "d = 2: without a normaliser at a quarter of the learning rate. Squares: students, six per dimension and arm; "
    "hollow: failed the law gate; lines and bands: mean and 95 % bootstrap interval over those that pass; grey: 95 % "
    "range of the shuffled-pair null. At d = 2 the per-sample normaliser is heavy-tailed."
)
COLUMNS = (
    *IDENTITY,
    "hold",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "displacement_leading",
    "displacement_rest",
    "mode_agreement",
    "mode_agreement_low",
    "mode_agreement_high",
    "start_cosine_between",
    "start_error_ratio_between",
    "variance_ratio_high",
    "sliced_w2",
    "sliced_w2_null",
)
# arm: (its name here, colour, line, shift of its dots on the axis)
HELD = {
    COORDINATE: ("coordinate", "#0072B2", "-", 0.94),
    "lambda_max": ("$\\lambda_{max}$", "#D55E00", "--", 0.98),
    "trace": ("trace", "#009E73", ":", 1.02),
    "speciation": ("speciation level", "#111111", "-.", 1.06),
}
NORMALISERS = {
    COORDINATE: ("per sample", "#0072B2", "-", 0.96),
    "batch normaliser": ("batch mean", "#CC79A7", "--", 1.0),
    "no normaliser": ("none", "#111111", ":", 1.04),
}
MIXTURES = {
    "other mixtures": ("per sample", "#0072B2", "-", 0.96),
    "other mixtures, no normaliser": ("none", "#111111", ":", 1.04),
}
SLOWER = "no normaliser, lr / 4"


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"]
    fig = style.figure(style.DOUBLE, 4.8)
    axes = fig.subplots(2, 2).flat
    for letter, ax, looks, value, label, held in (
        ("a", axes[0], HELD, "displacement", "displacement $\\rho$", "held as $d$ grows"),
        ("b", axes[1], HELD, "mode_agreement", "mode agreement $\\kappa$", "held as $d$ grows"),
        ("c", axes[2], NORMALISERS, "displacement", "displacement $\\rho$", "by normaliser"),
        ("d", axes[3], MIXTURES, "displacement", "displacement $\\rho$", "by normaliser, other mixtures"),
    ):
        style.panel_letter(ax, letter, held)
        _panel(ax, table, looks, value)
        ax.set_ylabel(label)
    for passed, mine in table[table["arm"] == SLOWER].groupby(table["law_passes"].eq(True)):
        face = "#111111" if passed else "none"
        axes[3].scatter(
            mine["dim"] * 1.18, mine["displacement"], s=12, marker="^", facecolors=face, edgecolors="#111111"
        )
    for ax in (axes[0], axes[2], axes[3]):
        ax.legend(frameon=False, fontsize=7, loc="upper right", ncols=2, columnspacing=1, handlelength=2)
    return fig


def _panel(ax: Axes, table: pd.DataFrame, looks: dict, value: str) -> None:
    null = table.groupby("dim")[[f"{value}_low", f"{value}_high"]].mean()
    ax.fill_between(null.index, null.iloc[:, 0], null.iloc[:, 1], color=style.NULL, alpha=0.35, linewidth=0, zorder=1)
    for seed, (arm, (name, color, line, shift)) in enumerate(looks.items()):
        mine = table[table["arm"] == arm]
        if not len(mine):
            continue
        style.dots(ax, mine["dim"] * shift, mine[value].astype(float), mine["law_passes"].eq(True), color, "mlp", seed)
        style.draw_mean(ax, style.mean_band(gated(mine), value), color, line)
        ax.lines[-1].set_label(name)
    style.dimension_axis(ax, table["dim"].unique())
    ax.set_ylim(-0.1, 1.75 if value == "displacement" else 1.05)
