"""Displacement against dimension: linear students under three protocols, and networks by two readings."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY, comparable, gated, several
from sandbox.measure.onset import THRESHOLD, onset

NEEDS = "dimension"
CAPTION = (
    "Remapping of one-step students against dimension. Top, linear students of N(0, I), displacement: 0, the student "
    "copies the teacher's noise-data pairs; 1, the value of independent pairs. DMD with the exact fake score and "
    "DMD2's per-sample normaliser, plain gradient descent, updates until the law is settled; panels differ only in "
    "learning rate, batch and the number of updates that goes with them. Bottom, networks of a mixture of eight modes "
    "(means N(0, 1), standard deviation .3 per coordinate), trained as DMD2 (learned fake score, five updates per "
    "student update, Adam), from teacher networks fitted to the closed-form denoiser for 3000 or for 100 updates: "
    "displacement, mode agreement (1 copy, 0 chance), and the share of students that copy (displacement < 1/2). Real "
    "score and reference map are the analytic ones throughout. One dot per student; line and band: mean and 95 % "
    "bootstrap interval over the seeds that pass the law gate (f: share and Wilson interval), at one held-out set of "
    "1024 points; hollow: failed the gate. Grey: 95 % range of the shuffled-pair null; a random start ends with one "
    "rotation unrelated to the teacher's, whose displacement averages 1 and scatters more, by 1/d. Thin black: "
    "F_d(Xi), no constant fitted to students; none at d = 1, where the normaliser's mean drift is infinite (shaded: "
    "its gradient's variance is). Black bar: where the mean passes 1/2, with its 95 % interval (shaded dimensions left "
    "out)."
)

PANELS = (
    ("linear, lr .01, batch 64", ("teacher start, lr .01", "random start, lr .01")),
    ("linear, lr .04, batch 64", ("teacher start, lr .04", "random start, lr .04")),
    ("linear, lr .64/$d$, batch 4$d$", ("teacher start, lr ~ 1/d, batch ~ d",)),
)
FEWEST = 2  # network students for a mean
# Arm: its colour, its line, its jitter and what it is called.
NETWORKS = {
    "network, converged teacher": (style.START["teacher"], "-", 0, "3000 teacher updates"),
    "network, young teacher": (style.YOUNG, "--", 1, "100 teacher updates"),
}
COLUMNS = (
    *IDENTITY,
    "displacement",
    "displacement_null",
    "displacement_low",
    "displacement_high",
    "mode_agreement",
    "mode_agreement_low",
    "mode_agreement_high",
    "gauge_polar",
    "predicted_displacement",
    "xi",
    "start_cosine_between",
    "start_error_ratio_between",
)


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"]
    networks = table[table["arm"].isin(NETWORKS)]
    rows = 2 if len(networks) else 1
    fig = style.figure(style.DOUBLE, 2.5 * rows)
    axes = fig.subplots(rows, len(PANELS), squeeze=False)
    _linear(axes[0], table)
    if len(networks):
        _networks(axes[1], networks)
    return fig


def _linear(axes, table: pd.DataFrame) -> None:
    dims = table.loc[table["student"] == "linear", "dim"].unique()
    for letter, ax, (title, arms) in zip("abc", axes, PANELS):
        mine = table[table["arm"].isin(arms)]
        _panel(ax, letter, title, dims, mine, "displacement")
        ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
        for i, arm in enumerate(arms):
            _arm(ax, mine[mine["arm"] == arm], i)
        ax.set_ylim(-0.08, 2.12)
        ax.set_yticks([0, 0.5, 1, 1.5, 2], [] if ax is not axes[0] else None)
    axes[0].set_ylabel("displacement $\\rho$")
    style.notes(axes[0], ("dots: students", "#444444"), ("blue: teacher start", style.START["teacher"]))
    style.notes(axes[0], ("orange, dashed: random start", style.START["random"]), below=2)
    style.notes(axes[1], ("grey: shuffled pairs (null)", "#666666"), ("hollow: failed the law gate", "#444444"))
    style.notes(axes[2], ("black: $F_d(\\Xi)$, nothing fitted to dots", style.THEORY), below=1)
    style.notes(axes[2], ("shaded: heavy-tailed normaliser", "#444444"), below=2)


def _panel(ax: Axes, letter: str, title: str, dims, table: pd.DataFrame, value: str) -> None:
    """Axis, null and the shade over dimensions in which the per-sample normaliser is heavy-tailed."""
    style.panel_letter(ax, letter, title)
    style.dimension_axis(ax, dims)
    null = table.groupby("dim")[[f"{value}_low", f"{value}_high"]].mean().dropna()
    ax.fill_between(null.index, null.iloc[:, 0], null.iloc[:, 1], color=style.NULL, alpha=0.5, linewidth=0, zorder=1)
    ax.axvspan(min(dims) / 1.25, 2.4, color="#000000", alpha=0.06, linewidth=0, zorder=0)


def _arm(ax: Axes, mine: pd.DataFrame, seed: int) -> None:
    if not len(mine):
        return
    start = mine["start"].iloc[0]
    color = style.START[start]
    style.dots(ax, mine["dim"], mine["displacement"], mine["law_passes"], color, seed=seed)
    style.draw_mean(ax, style.mean_band(gated(mine), "displacement"), color, "-" if start == "teacher" else "--")
    if start == "teacher":
        theory = mine.groupby("dim")["predicted_displacement"].first().dropna()
        ax.plot(theory.index, theory, color=style.THEORY, linewidth=0.8, zorder=5)
        _crossing(ax, comparable(mine))


def _networks(axes, table: pd.DataFrame) -> None:
    dims = table["dim"].unique()
    displacement, agreement, share = axes
    for letter, ax, title, value in (
        ("d", displacement, "networks, displacement", "displacement"),
        ("e", agreement, "the same, mode agreement", "mode_agreement"),
    ):
        _panel(ax, letter, title, dims, table, value)
        for arm, (color, line, seed, _) in NETWORKS.items():
            mine = table[table["arm"] == arm]
            style.dots(ax, mine["dim"], mine[value].astype(float), mine["law_passes"], color, "mlp", seed)
            style.draw_mean(ax, style.mean_band(several(mine, FEWEST), value), color, line)
            if value == "displacement":
                _crossing(ax, comparable(mine))
    displacement.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    displacement.set_ylim(-0.06, 1.6)
    displacement.set_ylabel("displacement $\\rho$")
    agreement.set_ylim(-0.28, 1.06)
    agreement.set_ylabel("mode agreement $\\kappa$")

    style.panel_letter(share, "f", "share that copy ($\\rho < 1/2$)")
    style.dimension_axis(share, dims)
    for arm, (color, line, *_) in NETWORKS.items():
        mine = several(table[table["arm"] == arm], FEWEST)
        if len(mine):
            style.draw_mean(share, style.share_band(mine, mine["displacement"] < THRESHOLD), color, line)
    share.set_ylim(-0.03, 1.03)
    share.set_ylabel("share of students")
    for i, (color, line, _, text) in enumerate(NETWORKS.values()):
        style.notes(displacement, (f"{'solid' if line == '-' else 'dashed'}: {text}", color), below=i)


def _crossing(ax: Axes, table: pd.DataFrame) -> None:
    """Marks where copying begins or ends, if it does within the swept range."""
    try:
        found = onset(table, models=False)
    except ValueError:
        return
    if found.kind == "none":
        return
    ax.errorbar(
        found.at,
        THRESHOLD,
        xerr=[[found.at - found.low], [found.high - found.at]],
        color=style.THEORY,
        marker="|",
        markersize=5,
        linewidth=1.4,
        zorder=6,
    )
    # Where the curve is not: it rises to the right where copying ends, and falls where it begins.
    ends = found.kind == "ends"
    ax.text(
        0.97 if ends else 0.5,
        0.05,
        f"copying {found.kind}\nat $d$ = {found.at:.3g}",
        ha="right" if ends else "center",
        va="bottom",
        fontsize=7,
        transform=ax.transAxes,
    )
