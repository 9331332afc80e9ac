"""With equally good starts, does dimension still matter? Displacement against a known error of the start."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY, gated
from sandbox.measure.onset import THRESHOLD

NEEDS = "matched"
CAPTION = (
    "Starts of matched quality. Network students of a mixture of eight modes, trained as DMD2 does (learning rate "
    "2e-3, batch 128, 2000 updates), analytic real score and reference, from teacher networks of 3000 updates on the "
    "closed-form denoiser. (a) To each start a random error of known size was added, in units of the exact start's "
    "signal (root mean square over z): displacement after training (0 copy, 1 independent) against that size, line "
    "and band: mean and 95 % bootstrap interval over students that pass the law gate, where at least three do; dots: "
    "students, hollow: failed it. (b) The same students against the cosine between their start and the exact one-step "
    "denoiser, along the directions between modes; black: 1 - cosine, the displacement of a student that keeps its "
    "start's angle, nothing fitted. (c) Starts without any error (closed-form denoiser plus a network that is zero at "
    "first), and starts at noise level 2.5 instead of 80, beside the converged teacher's; bars: means of all "
    "students, passed or not. At most four dimensions are drawn. Grey: 95 % range of the shuffled-pair null, mean "
    "over dimensions."
)
COLUMNS = (
    *IDENTITY,
    "start_error",
    "sigma_init",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "displacement_leading",
    "mode_agreement",
    "start_cosine_between",
    "start_error_ratio_between",
    "variance_ratio_high",
)
LOOKS = (("#0072B2", "-", "o"), ("#009E73", "--", "s"), ("#D55E00", ":", "^"), ("#111111", "-.", "D"))
FEWEST = 3  # students for a mean and an interval
STARTS = {"added error": "teacher\nnetwork", "exact start": "exact", "start at sigma 2.5": "$\\sigma$ = 2.5"}


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"]
    dims = sorted(table["dim"].unique())
    if len(dims) > len(LOOKS):
        dims = [dims[i] for i in np.linspace(0, len(dims) - 1, len(LOOKS)).round().astype(int)]
    fig = style.figure(style.DOUBLE, 2.5)
    axes = fig.subplots(1, 3, sharey=True)
    for ax in axes:
        null = table[["displacement_low", "displacement_high"]].mean()
        ax.axhspan(null.iloc[0], null.iloc[1], color=style.NULL, alpha=0.5, linewidth=0, zorder=1)
        ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    for dim, look in zip(dims, LOOKS):
        mine = table[table["dim"] == dim]
        _against_error(axes[0], mine[mine["arm"] == "added error"], dim, look)
        _against_cosine(axes[1], mine[mine["arm"] == "added error"], look)
        _other_starts(axes[2], mine, dims.index(dim), len(dims), look)
    style.panel_letter(axes[0], "a", "a known error of the start")
    axes[0].set_xlabel("error / exact start's signal")
    axes[0].set_ylabel("displacement $\\rho$")
    axes[0].set_ylim(-0.05, 1.6)
    axes[0].legend(frameon=False, loc="upper left", fontsize=7)
    style.panel_letter(axes[1], "b", "the same, by the start's cosine")
    axes[1].plot([-0.2, 1], [1.2, 0], color=style.THEORY, linewidth=0.8, zorder=4)
    axes[1].set_xlim(-0.25, 1.05)
    axes[1].set_xlabel("cosine of the start")
    style.panel_letter(axes[2], "c", "other starts")
    axes[2].set_xticks(range(len(STARTS)), list(STARTS.values()), fontsize=7)
    return fig


def _dots(ax: Axes, x, table: pd.DataFrame, look) -> None:
    color, _, marker = look
    passed = table["law_passes"].eq(True).to_numpy()
    x, y = np.asarray(x, float), table["displacement"].to_numpy(float)
    kind = {"marker": marker, "s": 9, "zorder": 3}
    ax.scatter(x[passed], y[passed], color=color, linewidths=0, alpha=0.5, **kind)
    ax.scatter(x[~passed], y[~passed], facecolors="none", edgecolors=color, linewidths=0.5, **kind)


def _against_error(ax: Axes, table: pd.DataFrame, dim: int, look) -> None:
    if not len(table):
        return
    errors = sorted(table["start_error"].unique())
    place = {error: i for i, error in enumerate(errors)}
    x = table["start_error"].map(place)
    _dots(ax, x + np.random.default_rng(dim).uniform(-0.12, 0.12, len(x)), table, look)
    # The house's mean and interval, over the sizes of the error in place of the dimensions.
    passed = gated(table).groupby("start_error").filter(lambda g: len(g) >= FEWEST)
    band = style.mean_band(passed.assign(dim=lambda t: t["start_error"].map(place)), "displacement")
    style.draw_mean(ax, band, look[0], look[1])
    ax.lines[-1].set_label(f"$d$ = {dim}")
    ax.set_xticks(range(len(errors)), [f"{error:g}" for error in errors])


def _against_cosine(ax: Axes, table: pd.DataFrame, look) -> None:
    _dots(ax, table["start_cosine_between"], table, look)


def _other_starts(ax: Axes, table: pd.DataFrame, i: int, count: int, look) -> None:
    for place, arm in enumerate(STARTS):
        mine = table[(table["arm"] == arm) & (table["start_error"] == 0)]
        if len(mine):
            at = place + (i - (count - 1) / 2) * 0.25
            _dots(ax, np.full(len(mine), at), mine, look)
            ax.plot([at - 0.1, at + 0.1], [mine["displacement"].mean()] * 2, color=look[0], linewidth=1.4, zorder=4)
