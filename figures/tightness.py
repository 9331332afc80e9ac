"""How free students are beside how they copy: over arms at one dimension, over dimensions, and along training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.freedom import ARMS, BASE, OTHER, rank_kept, used_while_growing
from sandbox.lab import style
from sandbox.lab.table import IDENTITY, gated

NEEDS = "freedom"
CAPTION = (
    "Does copying follow geometric freedom? Network students of a mixture of eight modes (2000 updates, Adam, learning "
    "rate 2e-3, batch 128; teacher networks of 3000 updates, which like the fake scores have the student's own shape; "
    "real score and reference: the analytic ones). Top, at d = 8, a row for each arm: displacement (0 copy, 1 "
    "independent; grey: 95 % range of the shuffled-pair null), the freedom available at the end (share of the energy "
    "of random parameter changes that leaves the law as it is; an upper bound, 1 for random fields), the freedom used "
    "(the same of the latest 100 updates or so, mean at updates 64 to 512), and the Jacobian's effective rank over the "
    "teacher's. One mark per student, hollow where it failed the law gate; bar: mean and 95 % bootstrap interval over "
    "those that pass, six seeds in the quick preset. Bottom, e: displacement against available freedom, one mark per "
    "student, shade by dimension; discs: the arm of width 64 and depth 2, crosses: other arms, hollow: failed the law "
    "gate. f, g: freedom used and effective rank over the teacher's along training, the arm of width 64 and depth 2, "
    "a thin line per student that passes, a thick one for their mean. A student without a linear path is first fitted "
    "(1000 updates) to the start it would have with it; a bottleneck is the rank of the first matrix."
)
STEPS = (*(2**k for k in range(11)), 2000)
COLUMNS = (
    *IDENTITY,
    "width",
    "depth",
    "skip",
    "bottleneck",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "mode_agreement",
    "start_available_freedom",
    "start_available_freedom_se",
    "end_available_freedom",
    "end_available_freedom_se",
    "net_freedom",
    "net_freedom_se",
    "student_effective_rank",
    "teacher_effective_rank",
    "start_linear_share",
    "linear_share",
    "start_cosine_between",
    "start_error_ratio_between",
    "sliced_w2",
    "sliced_w2_null",
    *(f"{name}_at_{step}" for name in ("used_freedom", "student_effective_rank") for step in STEPS),
)
HELD = 8  # the dimension at which arms are compared
# A colour for each dimension, from light to dark; the one that is held is the start's own.
COLORS = {2: "#E69F00", 4: "#56B4E9", HELD: style.START["teacher"], 16: "#8B4789", 32: "#111111", 64: "#009E73"}
ALONG = (2, HELD, 32)
LABELS = {
    "displacement": "displacement $\\rho$",
    "end_available_freedom": "available freedom",
    "_used": "used while growing",
    "_rank": "Jacobian rank / teacher's",
}


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    # Students stored before a measure existed have no column of it.
    table = table.reindex(columns=list(dict.fromkeys((*table.columns, *COLUMNS))))
    table = table[table["status"] == "done"].assign(_used=used_while_growing, _rank=rank_kept)
    fig = style.figure(style.DOUBLE, 5.2)
    top, bottom = fig.subfigures(2, 1, height_ratios=(1.15, 1))
    axes = top.subplots(1, len(LABELS), sharey=True)
    held = table[(table["dim"] == HELD) & table["arm"].isin(list(ARMS))]
    for letter, ax, (value, label) in zip("abcd", axes, LABELS.items(), strict=True):
        style.panel_letter(ax, letter, {"a": f"$d$ = {HELD}", "b": "hollow: fails the gate"}.get(letter, ""))
        _arms(ax, held, value)
        ax.set_xlabel(label)
    axes[0].set_yticks(range(len(ARMS)), list(ARMS))
    axes[0].set_ylim(len(ARMS) - 0.4, -0.6)
    scatter, used, rank = bottom.subplots(1, 3)
    _scatter(scatter, table)
    base = table[table["arm"].isin([BASE, OTHER])]
    _along(used, gated(base), "used_freedom", lambda mine: 1.0)
    _along(rank, gated(base), "student_effective_rank", lambda mine: mine["teacher_effective_rank"].astype(float))
    for letter, ax, label in (("f", used, "freedom used"), ("g", rank, LABELS["_rank"])):
        style.panel_letter(ax, letter)
        ax.set_ylabel(label)
    return fig


def _arms(ax: Axes, table: pd.DataFrame, value: str) -> None:
    if value == "displacement":
        null = table[["displacement_low", "displacement_high"]].astype(float).mean()
        style.null_span(ax, *null)
    color = COLORS[HELD]
    for row, arm in enumerate(ARMS):
        if row % 2:
            ax.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.035, linewidth=0, zorder=0)
        mine = table[table["arm"] == arm]
        _dots(ax, mine[value], row + np.linspace(-0.2, 0.2, len(mine)), mine["law_passes"].eq(True), color, "o")
        band = style.mean_band(gated(mine), value)
        if len(band) and len(gated(mine)) > 1:
            ax.plot([band["low"][0], band["high"][0]], [row] * 2, color=color, linewidth=1.2, zorder=4)
            ax.plot([band["mean"][0]] * 2, [row - 0.3, row + 0.3], color=color, linewidth=1.8, zorder=4)


def _dots(ax: Axes, x, y, passed, color: str, marker: str) -> None:
    x, y, passed = np.asarray(x, float), np.asarray(y, float), np.asarray(passed, bool)
    ax.scatter(x[passed], y[passed], s=11, color=color, marker=marker, alpha=0.6, linewidths=0.8 * (marker == "x"))
    if (~passed).any():
        ax.scatter(x[~passed], y[~passed], s=13, facecolors="none", edgecolors=color, marker="o", linewidths=0.6)


def _scatter(ax: Axes, table: pd.DataFrame) -> None:
    style.panel_letter(ax, "e", "crosses: other arms")
    for dim, mine in table.groupby("dim"):
        for base, marker in ((False, "x"), (True, "o")):
            some = mine[mine["arm"].isin([BASE, OTHER]) == base]
            passed = some["law_passes"].eq(True)
            _dots(ax, some["end_available_freedom"], some["displacement"], passed, COLORS[int(dim)], marker)
        ax.scatter([], [], s=14, color=COLORS[int(dim)], label=f"$d$ = {dim}")
    ax.set_xlabel(LABELS["end_available_freedom"])
    ax.set_ylabel(LABELS["displacement"])
    if len(table):
        ax.legend(
            frameon=False, fontsize=7, handletextpad=0.1, labelspacing=0.2, loc="center left", bbox_to_anchor=(1, 0.5)
        )


def _along(ax: Axes, table: pd.DataFrame, name: str, over) -> None:
    columns = [f"{name}_at_{step}" for step in STEPS]
    for dim in ALONG:
        mine = table[table["dim"] == dim]
        paths = mine[columns].astype(float).div(over(mine), axis=0).to_numpy()
        if np.isfinite(paths).any():
            color = COLORS[dim]
            ax.plot(STEPS, paths.T, color=color, linewidth=0.5, alpha=0.4)
            mean = np.ma.masked_invalid(paths).mean(0)
            ax.plot(STEPS, mean, color=color, linewidth=1.8, label=f"$d$ = {dim}")
    ax.set_xscale("log", base=2)
    ax.set_xticks([1, 16, 256, 2000], ["1", "16", "256", "2000"])
    ax.set_xlabel("student update")
    if name == "used_freedom" and ax.lines:
        ax.legend(frameon=False, fontsize=7, loc="upper left", handlelength=1.2)
