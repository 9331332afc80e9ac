"""How many of two modes students find with the real score alone, with the fake score, and with regression."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import binomtest

from experiments.toy_modes import ARMS
from sandbox.lab import style
from sandbox.lab.table import IDENTITY

NEEDS = "toy_modes"
CAPTION = (
    "Two modes in the plane, after Yin et al. (2023), Fig. 3: network students (width 32, one block, 1000 updates) "
    "that start at networks of eight other laws of two modes, four at each, with the real score alone (no fake "
    "score), with a learned fake score (DMD2; it starts where the student does), and with DMD's regression on 1024 "
    "pairs of the teacher beside it (weight .25, half the squared distance, mean over coordinates). Bars: share of 32 "
    "students in which each mode has at least half of its mass and of its variance (black), half of its mass but not "
    "of its variance (grey), or which miss half of a mode's mass (light); whiskers: 95 % Wilson interval of the "
    "first, as if starts were independent. No gate: what it would refuse is what is counted."
)
COLUMNS = (
    *IDENTITY,
    "start_teacher_seed",
    "trained_on",
    "mass_ratio_low",
    "mass_ratio_high",
    "variance_ratio_low",
    "variance_ratio_high",
    "displacement",
    "mode_agreement",
)
# As in the law gate: half of what the teacher has, of a mode's mass and of its variance.
HALF = 0.5
TONES = {"both modes": "#111111", "both, too narrow": "#8A8A8A", "one mode": "#D9D9D9"}


def found(table: pd.DataFrame) -> pd.Series:
    """What each student found: both modes, both but without their spread, or one mode."""
    mass, variance = table["mass_ratio_low"].astype(float), table["variance_ratio_low"].astype(float)
    what = pd.Series("one mode", table.index)
    what[mass >= HALF] = "both, too narrow"
    what[(mass >= HALF) & (variance >= HALF)] = "both modes"
    return what


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"]
    fig = style.figure(style.SINGLE, 2.0)
    ax = fig.subplots()
    for row, arm in enumerate(ARMS):
        what = found(table[table["arm"] == arm])
        left = 0.0
        for outcome, tone in TONES.items():
            share = float((what == outcome).mean()) if len(what) else 0.0
            ax.barh(row, share, left=left, height=0.6, color=tone, label=outcome if not row else None)
            left += share
        if len(what):
            hits = int((what == "both modes").sum())
            interval = binomtest(hits, len(what)).proportion_ci(0.95, method="wilson")
            ax.plot([interval.low, interval.high], [row + 0.4] * 2, color="#D55E00", linewidth=1.4)
            ax.text(1.02, row, f"{hits}/{len(what)}", va="center", fontsize=7)
    ax.set_yticks(range(len(ARMS)), list(ARMS))
    ax.invert_yaxis()
    ax.set_xlim(0, 1.14)
    ax.set_xticks([0, 0.5, 1])
    ax.set_xlabel("share of students (number: both modes)")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=7)
    return fig
