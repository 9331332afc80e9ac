"""What recipes cost, how often they reach the law, and where they leave the pairing."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY
from sandbox.measure.onset import THRESHOLD

NEEDS = "recipe_cost"
CAPTION = (
    "Recipes of network students in many dimensions, from converged teacher networks (3000 updates on the closed-form "
    "denoiser), mixture of eight modes, DMD2's losses, analytic real score and reference. Each differs from the brisk "
    "one (learning rate 2e-3, batch 128, width 128, two blocks, 2000 updates, averaged weights) in what it names; the "
    "gentle one has learning rate 1e-4, falling over the last 30 % of the updates instead of the last half, batch "
    "256, four blocks and no average. One dot per student: displacement after training (0 copy, 1 independent), "
    "hollow where it failed the law gate; bar: mean of all that did not diverge. On the right: students that pass the "
    "gate, of all dimensions drawn, and the seconds of one core that a student is expected to take by the scheduler's "
    "cost model, without its teacher network. Grey: 95 % range of the shuffled-pair null."
)
COLUMNS = (
    *IDENTITY,
    "width",
    "depth",
    "steps",
    "average",
    "core_seconds",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "displacement_leading",
    "mode_agreement",
    "variance_ratio_high",
    "sliced_w2",
    "sliced_w2_null",
    "kl",
)
SHADES = ("#0072B2", "#D55E00", "#009E73", "#111111")


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"]
    arms = list(table.groupby("arm")["displacement"].mean().sort_values(ascending=False).index)
    dims = sorted(table["dim"].unique())[-len(SHADES) :]
    table = table[table["dim"].isin(dims)]
    fig = style.figure(style.DOUBLE * 0.75, 0.5 + 0.26 * len(arms))
    ax = fig.subplots()
    shifts = np.linspace(-0.2, 0.2, len(dims)) if len(dims) > 1 else [0.0]
    for dim, color, shift in zip(dims, SHADES, shifts, strict=False):
        ax.scatter([], [], s=12, color=color, label=f"$d$ = {dim}")
        for place, arm in enumerate(arms):
            mine = table[(table["arm"] == arm) & (table["dim"] == dim)]
            if not len(mine):
                continue
            x, passed = mine["displacement"].to_numpy(float), mine["law_passes"].eq(True).to_numpy()
            y = np.full(len(x), place + shift)
            ax.scatter(x[passed], y[passed], s=12, color=color, linewidths=0, alpha=0.7, zorder=3)
            ax.scatter(x[~passed], y[~passed], s=12, facecolors="none", edgecolors=color, linewidths=0.7, zorder=3)
            ax.plot([x.mean()] * 2, [place + shift - 0.3, place + shift + 0.3], color=color, linewidth=1.4, zorder=4)
    for place, arm in enumerate(arms):
        mine = table[table["arm"] == arm]
        passed = int(mine["law_passes"].eq(True).sum())
        text = f"{passed} of {len(mine)} pass, {mine['core_seconds'].mean():.0f} s"
        ax.text(1.02, place, text, transform=ax.get_yaxis_transform(), va="center", fontsize=7)
    null = table[["displacement_low", "displacement_high"]].mean()
    ax.axvspan(null.iloc[0], null.iloc[1], color=style.NULL, alpha=0.5, linewidth=0, zorder=1)
    ax.axvline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    ax.set_yticks(range(len(arms)), arms)
    ax.set_xlim(-0.02, max(1.1, 1.05 * table["displacement"].max()))
    ax.set_xlabel("displacement $\\rho$" + (f", $d$ = {dims[0]}" if len(dims) == 1 else ""))
    if len(dims) > 1:
        ax.legend(frameon=False, loc="lower right", fontsize=7)
    return fig
