"""A network student's fate against its start: is it decided before the first update?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY, gated
from sandbox.measure.fate import roc_curve, separation
from sandbox.measure.onset import THRESHOLD

NEEDS = "start_decides"
CAPTION = (
    "Fate against start. Network students of a mixture of eight modes, from teacher networks of 50 to 3000 updates, at "
    "three learning rates; real score and reference map are the analytic ones. Left, final displacement (0 copy, 1 "
    "independent) against the cosine between the student's first output and the exact one-step denoiser, linear parts, "
    "along the directions between the modes: known before distillation. Dots: students, lighter at higher learning "
    "rate; hollow: failed the law gate; dotted: displacement 1/2. Black line: 1 - cosine, the displacement of a "
    "student that keeps its start's angle; nothing fitted. Last panel, ROC curves of that cosine for copying "
    "(displacement < 1/2) among students that pass the gate, with the area and its 95 % interval over students (three, "
    "one per learning rate, share a start); diagonal: chance."
)
COLUMNS = (
    *IDENTITY,
    "teacher_steps",
    "displacement",
    "mode_agreement",
    "start_cosine_between",
    "start_error_ratio_between",
    "kept_cosine",
    "noise_to_start",
)
SHADES = ("#003A5C", "#0072B2", "#7FB8D8")
LINES = ("-", "--", ":", "-.", (0, (1, 3)))


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[(table["status"] == "done") & table["start_cosine_between"].notna()]
    dims = sorted(table["dim"].unique())[:3]
    fig = style.figure(style.DOUBLE * (len(dims) + 1) / 4, 2.2)
    axes = fig.subplots(1, len(dims) + 1, width_ratios=[1] * len(dims) + [1.15])
    for letter, ax, dim in zip("abc", axes, dims):
        _fates(ax, letter, table[table["dim"] == dim], dim)
    axes[0].set_ylabel("displacement $\\rho$")
    _curves(axes[-1], "abcd"[len(dims)], gated(table), dims)
    return fig


def _fates(ax: Axes, letter: str, table: pd.DataFrame, dim: int) -> None:
    style.panel_letter(ax, letter, f"$d$ = {dim}, {len(table)} students")
    for lr, color in zip(sorted(table["lr"].unique()), SHADES):
        mine = table[table["lr"] == lr]
        passed = mine["law_passes"].astype(bool)
        x, y = mine["start_cosine_between"], mine["displacement"]
        ax.scatter(x[passed], y[passed], s=9, color=color, linewidths=0, alpha=0.8, zorder=3)
        ax.scatter(x[~passed], y[~passed], s=9, facecolors="none", edgecolors=color, linewidths=0.6, zorder=3)
    ax.plot([-1, 1], [2, 0], color=style.THEORY, linewidth=0.8, zorder=4)
    ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    low = min(-0.15, table["start_cosine_between"].min() - 0.1)
    ax.set_xlim(low, 1.05)
    ax.set_ylim(-0.06, 2.06)
    ax.set_xlabel("cosine of the start")


def _curves(ax: Axes, letter: str, table: pd.DataFrame, dims) -> None:
    style.panel_letter(ax, letter, "does the start tell?")
    ax.plot([0, 1], [0, 1], color=style.NULL, linewidth=0.6, linestyle=":")
    lines = []
    for dim, line in zip(dims, LINES):
        mine = table[table["dim"] == dim]
        copied = mine["displacement"].to_numpy() < THRESHOLD
        found = separation(mine["start_cosine_between"].to_numpy(), copied)
        if np.isfinite(found.area):
            ax.plot(*roc_curve(mine["start_cosine_between"].to_numpy(), copied), color=SHADES[1], linestyle=line)
            lines.append(f"$d$ = {dim}: {found.area:.2f} [{found.low:.2f}, {found.high:.2f}]")
        else:
            lines.append(f"$d$ = {dim}: one fate only")
    ax.text(0.98, 0.03, "\n".join(lines), ha="right", va="bottom", fontsize=7, transform=ax.transAxes)
    ax.set_xlabel("remapped, called copies")
    ax.set_ylabel("copied, called copies")
    ax.set_xticks([0, 0.5, 1])
    ax.set_yticks([0, 0.5, 1])
