"""Copying over dimension and the convergence of the teacher network, with the border that the start predicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, FigureBase
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from seaborn import color_palette

from sandbox.lab import style
from sandbox.lab.effects import copies
from sandbox.lab.table import IDENTITY, PAIRING, gated
from sandbox.measure.onset import THRESHOLD
from sandbox.theory.network_start import expected_displacement

NEEDS = "convergence"
CAPTION = (
    "Network students of a mixture of eight modes, distilled as DMD2 does (recipe of the main sweep at width 64), "
    "from teacher networks of 50 to 3000 updates on the closed-form denoiser; real score analytic. (a-c) Maps over "
    "dimension and teacher updates, against the analytic map: mean displacement (0 copy, 1 independent), share of "
    "students that copy (displacement below 1/2), mean mode agreement (1 copy, 0 chance); dark: copied. Means over "
    "the seeds of a cell that pass the law gate; digits: how many pass, where not all do; hatched: fewer than two. "
    "Dashed: where the start's signal equals its error along the directions between the modes (mean of the logarithm "
    "over seeds), known before training; solid white: where the displacement passes 1/2, the share 1/2, the agreement "
    "1/2. (d) The same students compared with the analytic map (left of each pair) and with their teacher network's "
    "own (right), lines join a student; light: 100 teacher updates, dark: 3000. (e, f) Displacement and mode "
    "agreement against the start's signal-to-error s, one dot per student, hollow: failed the law gate; black: 1 - s "
    "/ sqrt(1 + s^2), the displacement of a student that keeps its start's expected angle, no fitted constant; "
    "dotted: s = 1. Grey: 95 % range of the shuffled-pair null."
)
COLUMNS = (
    *IDENTITY,
    "teacher_steps",
    "reference",
    "trained_on",
    "core_seconds",
    *PAIRING,
    "start_cosine_between",
    "start_error_ratio_between",
    "network_number",
    "network_number_late",
    "kept_cosine",
    "variance_ratio_high",
)
MARKERS = "os^DvPX*"
NUMBER_TICKS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
FEWEST = 2  # passing students for a cell of a map to have a colour


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"]
    table = table.assign(_signal=1 / table["start_error_ratio_between"].astype(float), _copies=copies(table))
    analytic = table[table["reference"] == "analytic"]
    fig = style.figure(style.DOUBLE, 4.5)
    (a, b, c), (d, e, f) = fig.subplots(2, 3)
    border = np.log2(analytic["_signal"]).groupby([analytic["teacher_steps"], analytic["dim"]]).mean().unstack()
    for letter, ax, value, text, palette in (
        ("a", a, "displacement", "displacement $\\rho$ (white: 1/2)", "cividis"),
        ("b", b, "_copies", "share that copies (dashed: $s$ = 1)", "cividis_r"),
        ("c", c, "mode_agreement", "mode agreement $\\kappa$", "cividis_r"),
    ):
        style.panel_letter(ax, letter, text)
        heat(fig, ax, analytic, "teacher_steps", value, palette, THRESHOLD, (border, 0.0))
        ax.set_ylabel("teacher updates")
    _references(d, table)
    for letter, ax, value in (("e", e, "displacement"), ("f", f, "mode_agreement")):
        style.panel_letter(ax, letter, "against the start")
        against(ax, analytic, "_signal", value)
        ax.axvline(1, color=style.NULL, linewidth=0.6, linestyle=":", zorder=1)
        ax.set_xlabel("signal / error of the start, $s$")
    s = np.geomspace(*e.get_xlim(), 200)
    e.plot(s, expected_displacement(s), color=style.THEORY, linewidth=0.8, zorder=5)
    e.text(
        0.97, 0.99, "black: hypothesis,\nno fitted constant", fontsize=7, ha="right", va="top", transform=e.transAxes
    )
    # Room for words above the highest student, which no legend may hide.
    for ax, room in ((e, 0.2), (f, 0.3)):
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + room * (high - low))
    f.legend(frameon=False, fontsize=6.5, handletextpad=0.1, labelspacing=0.2, loc="upper left", ncols=2)
    return fig


def heat(fig: FigureBase, ax: Axes, table: pd.DataFrame, control: str, value: str, palette: str, half: float, border):
    """A map of a mean over dimension and a control: passing students only, the number of them where not all pass.

    border: a table over control and dimension and the level at which its dashed line is drawn."""
    every = table.groupby([control, "dim"])["key"].nunique().unstack()
    passed = gated(table)
    count = passed.groupby([control, "dim"])["key"].nunique().unstack().reindex_like(every).fillna(0)
    mean = passed.groupby([control, "dim"])[value].mean().unstack().reindex_like(every).where(count >= FEWEST)
    x, y = np.log2(every.columns.to_numpy(float)), np.arange(len(every))
    image = ax.pcolormesh(x, y, mean, cmap=palette, vmin=0, vmax=1, shading="nearest", rasterized=True)
    few = np.ma.masked_where(~((count < FEWEST) & every.notna()).to_numpy(), np.ones(every.shape))
    ax.pcolor(
        x, y, few, cmap="Greys", vmin=0, vmax=9, hatch="////", edgecolor="#AAAAAA", linewidth=0, shading="nearest"
    )
    for i, j in np.argwhere((count < every).to_numpy()):
        light = True  # a cell without a mean is hatched on white
        if np.isfinite(mean.iloc[i, j]):
            red, green, blue, _ = image.to_rgba(mean.iloc[i, j])
            light = 0.3 * red + 0.6 * green + 0.1 * blue > 0.5
        front, behind = ("#222222", "white") if light else ("white", "#222222")
        text = {"color": front, "fontsize": 6, "ha": "center", "va": "center", "zorder": 6}
        outline = [withStroke(linewidth=1.5, foreground=behind)]  # lines of the map may cross it
        ax.text(x[j], y[i], f"{count.iloc[i, j]:.0f}", path_effects=outline, **text)
    for values, level, dash, colour in ((mean, half, "-", "white"), (*border, "--", "#D55E00")):
        v = np.ma.masked_invalid(values.reindex_like(every).to_numpy(float))
        if min(v.shape) > 1 and v.count() and v.min() < level < v.max():
            ax.contour(x, y, v, levels=[level], colors=[colour], linewidths=1.4, linestyles=[dash], zorder=5)
    ax.set_xticks(x, [str(int(d)) for d in every.columns])
    ax.set_yticks(y, [f"{v:g}" for v in every.index])
    ax.yaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("dimension $d$")
    fig.colorbar(image, ax=ax, pad=0.01, aspect=25, ticks=[0, 0.5, 1])


def against(ax: Axes, table: pd.DataFrame, number: str, value: str, logarithmic: bool = True) -> None:
    """A reading of each student against a number, one colour and marker per dimension."""
    dims = sorted(table["dim"].unique())
    colours = [to_hex(c) for c in color_palette("viridis", len(dims) + 1)[: len(dims)]]
    for dim, colour, marker in zip(dims, colours, MARKERS):
        mine = table[(table["dim"] == dim) & table[number].gt(0 if logarithmic else -np.inf)]
        good = mine["law_passes"].eq(True).to_numpy()
        x, y = mine[number].to_numpy(float), mine[value].to_numpy(float)
        kind = {"marker": marker, "s": 10, "zorder": 3}
        ax.scatter(x[good], y[good], color=colour, linewidths=0, alpha=0.8, label=f"$d$ = {dim}", **kind)
        ax.scatter(x[~good], y[~good], facecolors="none", edgecolors=colour, linewidths=0.5, **kind)
    null = table[[f"{value}_low", f"{value}_high"]].mean()
    ax.axhspan(null.iloc[0], null.iloc[1], color=style.NULL, alpha=0.5, linewidth=0, zorder=1)
    if logarithmic:
        ax.set_xscale("log")
        low, high = ax.get_xlim()
        ticks = [v for v in NUMBER_TICKS if low <= v <= high]
        ax.set_xticks(ticks, [f"{v:g}" for v in ticks])
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylabel("displacement $\\rho$" if value == "displacement" else "mode agreement $\\kappa$")


def _references(ax: Axes, table: pd.DataFrame) -> None:
    style.panel_letter(ax, "d", "whose map? analytic, own")
    own = table[table["reference"] == "network"]
    steps, dims = sorted(own["teacher_steps"].unique()), sorted(own["dim"].unique())
    looks = (style.YOUNG, "o"), (style.START["teacher"], "s")
    for shift, n, (colour, marker) in zip((-0.22, 0.22), steps, looks):
        for place, dim in enumerate(dims):
            pair = table[(table["teacher_steps"] == n) & (table["dim"] == dim)].pivot_table(
                index="seed", columns="reference", values=["displacement", "law_passes"], aggfunc="first"
            )
            if ("displacement", "network") not in pair or ("displacement", "analytic") not in pair:
                continue
            for _, student in pair.dropna().iterrows():
                x = place + shift + np.array([-0.12, 0.12])
                y = [student["displacement", name] for name in ("analytic", "network")]
                ax.plot(x, np.array(y, float), color=colour, linewidth=0.7, zorder=2)
                face = colour if student["law_passes", "analytic"] else "white"
                ax.scatter(x, y, s=11, marker=marker, facecolors=face, edgecolors=colour, linewidths=0.6, zorder=3)
    null = own[["displacement_low", "displacement_high"]].mean()
    ax.axhspan(null.iloc[0], null.iloc[1], color=style.NULL, alpha=0.5, linewidth=0, zorder=1)
    ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    ax.set_xticks(range(len(dims)), [str(d) for d in dims])
    ax.set_xlim(-0.5, max(0.5, len(dims) - 0.5))
    ax.set_ylim(-0.05, 1.25 * ax.get_ylim()[1])
    for n, (colour, marker) in zip(steps, looks):
        ax.scatter([], [], s=11, marker=marker, color=colour, label=f"{n} teacher updates")
    ax.legend(frameon=False, fontsize=6.5, loc="upper right", handletextpad=0.1, labelspacing=0.2)
    ax.set_xlabel("dimension $d$")
    ax.set_ylabel("displacement $\\rho$")
