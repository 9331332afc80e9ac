"""Where along training a student that starts well is sent elsewhere, under six kinds of update noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY
from sandbox.measure.onset import THRESHOLD

NEEDS = "growth_noise"
CAPTION = (
    "The same starts under different training noise: network students of a mixture of eight modes at d = 2 (the "
    "smallest dimension in the table), from teacher networks of 3000 updates, trained as DMD2 does, analytic real "
    "score and reference. Arms differ from the recipe (learning rate 2e-3, batch 128, per-sample normaliser, 2000 "
    "updates) in what they name; seed by seed, the arms share their starts. Left: correlation distance to the "
    "teacher's map (0 copy of any size, 1 independent) along training, mean over seeds; grey line: mean scale, the "
    "student's total variance over the teacher's, of the recipe: it has the teacher's size where it is 1. Right: "
    "displacement at the end, one dot per seed (hollow: failed the law gate), bar: mean; grey: 95 % range of the "
    "shuffled-pair null."
)
STEPS = (*(2**k for k in range(11)), 2000)
COLUMNS = (
    *IDENTITY,
    "antithetic",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "mode_agreement",
    "start_cosine_between",
    *(f"{name}_at_{step}" for name in ("correlation_distance", "scale") for step in STEPS),
)
LINES = {
    "recipe": ("#111111", "-"),
    "lr / 4": ("#0072B2", "-"),
    "batch x 4": ("#D55E00", "-"),
    "batch normaliser": ("#D55E00", "--"),
    "antithetic": ("#0072B2", "--"),
    "antithetic, batch x 2": ("#0072B2", ":"),
}


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[(table["status"] == "done") & (table["dim"] == table["dim"].min())]
    fig = style.figure(style.DOUBLE, 2.6)
    path, end = fig.subplots(1, 2, width_ratios=[1.1, 1])
    style.panel_letter(path, "a", "same starts, along training")
    style.panel_letter(end, "b", f"at the end, {table['seed'].nunique()} seeds each")
    for place, (arm, (color, line)) in enumerate(LINES.items()):
        mine = table[table["arm"] == arm]
        if not len(mine):
            continue
        means = [mine[f"correlation_distance_at_{step}"].astype(float).mean() for step in STEPS]
        path.plot(STEPS, means, color=color, linestyle=line, label=arm)
        y, passed = mine["displacement"].to_numpy(float), mine["law_passes"].astype(bool).to_numpy()
        x = place + np.linspace(-0.2, 0.2, len(mine))
        end.scatter(x[passed], y[passed], s=12, color=color, linewidths=0, alpha=0.7, zorder=3)
        end.scatter(x[~passed], y[~passed], s=12, facecolors="none", edgecolors=color, linewidths=0.7, zorder=3)
        end.plot([place - 0.3, place + 0.3], [y.mean()] * 2, color=color, linewidth=1.4, zorder=4)
    recipe = table[table["arm"] == "recipe"]
    if len(recipe):
        scale = [recipe[f"scale_at_{step}"].astype(float).mean() for step in STEPS]
        path.plot(STEPS, scale, color=style.NULL, linewidth=2.2, alpha=0.6, zorder=1)
        path.text(150, 0.85, "variance / teacher's", color="#666666", fontsize=7, ha="right")
    null = table[["displacement_low", "displacement_high"]].mean()
    end.axhspan(null.iloc[0], null.iloc[1], color=style.NULL, alpha=0.5, linewidth=0, zorder=1)
    end.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    path.set_xscale("log", base=2)
    path.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1024"])
    path.set_ylim(-0.03, 1.1)
    path.set_xlabel("student update")
    path.set_ylabel("correlation distance")
    path.legend(frameon=False, loc="upper left", handlelength=2.4, fontsize=7)
    end.set_xticks(range(len(LINES)), [arm.replace(", ", ",\n").replace(" n", "\nn") for arm in LINES], fontsize=7)
    end.tick_params(axis="x", labelrotation=30)
    end.set_ylim(-0.05, 2.0)
    end.set_ylabel("displacement $\\rho$")
    return fig
