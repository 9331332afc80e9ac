"""The pairing of students of teachers that have memorised n points, against n."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.memorisation import POPULATION
from sandbox.lab import style
from sandbox.lab.arms_panel import COLORS, MARKERS
from sandbox.lab.table import IDENTITY, PAIRING, gated

NEEDS = "memorisation"
CAPTION = (
    "Network students (width 64, two blocks, 2000 updates, Adam, learning rate 2e-3, batch 128; teacher network of "
    "3000 updates; real score and reference: the analytic ones) of a mixture of eight modes of standard deviation .3 "
    "per coordinate, and of teachers that have memorised n points drawn from it: n components of standard deviation .1 "
    "at the points, drawn twice; pop.: the mixture itself. To the student's own teacher at 1024 held-out points: (a) "
    "displacement (0 copy, 1 independent); (b) mode agreement (1 copy, 0 chance), modes being the population's; (c) "
    "agreement of the training points nearest to the student's and to the teacher's sample (Cohen's kappa), for "
    "teachers that have such points; (d) share of samples within the radius of a training point that holds 99 % of "
    "that point's own, with what samples read that know the modes and not the points (grey line for each d). One mark "
    "per student, six seeds each in the quick preset, hollow where it failed the law gate, which judges the "
    "population's modes; bars: mean and 95 % bootstrap interval over those that pass, seeds resampled; grey bands in "
    "(a) to (c): 95 % range of the shuffled-pair null. At d = 2 the per-sample normaliser is heavy-tailed."
)
COLUMNS = (
    *IDENTITY,
    "teacher",
    "points",
    "trained_on",
    *PAIRING,
    "point_agreement",
    "point_agreement_low",
    "point_agreement_high",
    "memorised_share",
    "memorised_share_teacher",
    "memorised_share_null",
    "start_cosine_between",
    "sliced_w2",
    "sliced_w2_null",
)
PANELS = {
    "displacement": "displacement $\\rho$",
    "mode_agreement": "mode agreement $\\kappa$",
    "point_agreement": "nearest-point agreement $\\kappa$",
    "memorised_share": "share near a training point",
}
SAYS = {"a": "hollow: fails the gate", "d": "grey: null"}
# Steps of log2 n from the most points to the population's place.
GAP = 3.0


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"].copy()
    points = sorted(int(n) for n in table["points"].dropna().unique())
    last = np.log2(points[-1]) if points else 0.0
    table["place"] = np.log2(table["points"].astype(float)).where(table["arm"] != POPULATION, last + GAP)
    dims = sorted(table["dim"].unique())
    fig = style.figure(style.DOUBLE, 2.4)
    axes = fig.subplots(1, len(PANELS))
    for letter, ax, (value, label) in zip("abcd", axes, PANELS.items(), strict=True):
        style.panel_letter(ax, letter, SAYS.get(letter, ""))
        _null(ax, table, value, dims)
        for i, dim in enumerate(dims):
            mine = table[table["dim"] == dim]
            # Side by side, as far as the neighbouring numbers of points let them.
            mine = mine.assign(place=mine["place"] + 0.4 * (i - (len(dims) - 1) / 2))
            for place, group in mine.groupby("place"):
                _students(ax, group, value, float(place), COLORS[i % 3], MARKERS[i % 3])
        ax.set_xlabel("points $n$")
        ax.set_ylabel(label)
        _axis(ax, points, last, table["arm"].eq(POPULATION).any() and value in ("displacement", "mode_agreement"))
    axes[0].set_ylim(-0.05, None)
    axes[3].set_ylim(None, 1.03)
    for i, dim in enumerate(dims):
        axes[0].scatter([], [], s=12, color=COLORS[i % 3], marker=MARKERS[i % 3], linewidths=0, label=f"$d$ = {dim}")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(dims), frameon=False)
    return fig


def _axis(ax: Axes, points: list[int], last: float, population: bool) -> None:
    places, names = [np.log2(n) for n in points], [str(n) for n in points]
    if population:
        ax.axvline(last + GAP / 2, color=style.NULL, linewidth=0.6, linestyle=":", zorder=1)
        places, names = [*places, last + GAP], [*names, "pop."]
    ax.set_xticks(places, names, fontsize=7)
    if places:
        ax.set_xlim(places[0] - 1.2, places[-1] + 1.2)


def _null(ax: Axes, table: pd.DataFrame, value: str, dims) -> None:
    if value == "memorised_share":
        known = table[table[f"{value}_null"].notna()]
        for i, dim in enumerate(dims):
            mine = known[known["dim"] == dim].groupby("place")[f"{value}_null"].mean()
            ax.plot(mine.index, mine, color=style.NULL, linewidth=1.0, marker=MARKERS[i % 3], markersize=2.5, zorder=1)
        return
    low, high = table[[f"{value}_low", f"{value}_high"]].astype(float).mean()
    if np.isfinite(low):
        ax.axhspan(low, high, color=style.NULL, alpha=0.4, linewidth=0, zorder=1)


def _students(ax: Axes, mine: pd.DataFrame, value: str, place: float, color: str, marker: str) -> None:
    passed, y = mine["law_passes"].eq(True).to_numpy(), mine[value].to_numpy(float)
    kind = {"s": 9, "marker": marker, "zorder": 3}
    x = place + np.linspace(-0.25, 0.25, len(mine)) if len(mine) > 1 else np.array([place])
    ax.scatter(x[passed], y[passed], color=color, linewidths=0, alpha=0.45, **kind)  # type: ignore[arg-type]
    ax.scatter(x[~passed], y[~passed], facecolors="none", edgecolors=color, linewidths=0.6, **kind)  # type: ignore[arg-type]
    good = gated(mine)
    band = style.mean_band(good, value)
    if len(good) > 1 and len(band):
        ax.plot([place] * 2, [band["low"][0], band["high"][0]], color=color, linewidth=1.2, zorder=4)
        ax.plot([place - 0.45, place + 0.45], [band["mean"][0]] * 2, color=color, linewidth=1.6, zorder=4)
