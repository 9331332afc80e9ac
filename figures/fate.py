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
    "Fate against start. Network students of a mixture of eight modes, from teacher networks of 50 to 3000 updates, "
    "at three learning rates; real score and reference map are the analytic ones. Top, final displacement (0 copy, 1 "
    "independent) against the cosine between the student's first output and the exact one-step denoiser, linear "
    "parts, along the directions between the modes: known before distillation. Dots: students, lighter at higher "
    "learning rate; hollow: failed the law gate; dotted: displacement 1/2. Black line: 1 - cosine, the displacement "
    "of a student that keeps its start's angle; nothing fitted. Bottom, of the students that pass the gate: ROC "
    "curves of that cosine for copying (displacement < 1/2) with the area and its 95 % interval over students (three, "
    "one per learning rate, share a start), diagonal: chance; the area for the correlation distance to the teacher's "
    "map that a student has after some updates (at the left edge the start's own), bands: 95 % intervals, dotted: "
    "chance; and calibration, measured displacement against 1 - kept cosine (the start's and the expected optimiser "
    "noise of its growth, nothing fitted) in fifths of the students, mean with standard error, diagonal: calibrated. "
    "Intervals and errors take students for independent, although three share a start."
)
STEPS = (0, *(2**k for k in range(11)), 2000)
COLUMNS = (
    *IDENTITY,
    "teacher_steps",
    "displacement",
    "mode_agreement",
    "start_cosine_between",
    "start_error_ratio_between",
    "kept_cosine",
    "noise_to_start",
    *(f"correlation_distance_at_{step}" for step in STEPS),
)
FIFTHS = 5
SHADES = ("#003A5C", "#0072B2", "#7FB8D8")
LINES = ("-", "--", ":", "-.", (0, (1, 3)))


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[(table["status"] == "done") & table["start_cosine_between"].notna()]
    dims = sorted(table["dim"].unique())[:3]
    fig = style.figure(style.DOUBLE, 4.3)
    top, bottom = fig.subplots(2, 3)
    for letter, ax, dim in zip("abc", top, dims):
        _fates(ax, letter, table[table["dim"] == dim], dim)
    for ax in top[len(dims) :]:
        ax.set_visible(False)
    top[0].set_ylabel("displacement $\\rho$")
    passed = gated(table)
    _curves(bottom[0], "d", passed, dims)
    _decided(bottom[1], "e", passed, dims)
    _calibration(bottom[2], "f", passed, dims)
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


def _decided(ax: Axes, letter: str, table: pd.DataFrame, dims) -> None:
    style.panel_letter(ax, letter, "when is it decided?")
    ax.axhline(0.5, color=style.NULL, linewidth=0.6, linestyle=":")
    for dim, line, color in zip(dims, LINES, SHADES):
        mine = table[table["dim"] == dim]
        rows = []
        for step in STEPS:
            so_far = mine[f"correlation_distance_at_{step}"].astype(float)
            known = so_far.notna()
            found = separation(-so_far[known].to_numpy(), mine["displacement"][known].to_numpy() < THRESHOLD)
            rows.append((max(step, 0.5), found.area, found.low, found.high))
        x, area, low, high = np.array(rows).T
        ax.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
        ax.plot(x, area, color=color, linestyle=line, label=f"$d$ = {dim}")
    ax.set_xscale("log", base=2)
    ax.set_xticks([0.5, 4, 32, 256, 2048], ["start", "4", "32", "256", "2048"])
    ax.set_ylim(0.3, 1.02)
    ax.set_xlabel("student update")
    ax.set_ylabel("area, by what it is then")
    if ax.lines:
        ax.legend(frameon=False, loc="lower right", fontsize=7)


def _calibration(ax: Axes, letter: str, table: pd.DataFrame, dims) -> None:
    style.panel_letter(ax, letter, "predicted, measured")
    ax.plot([0, 1.2], [0, 1.2], color=style.THEORY, linewidth=0.8)
    for dim, line, color in zip(dims, LINES, SHADES):
        mine = table[(table["dim"] == dim) & table["kept_cosine"].notna()].sort_values("kept_cosine", kind="stable")
        if len(mine) < 2 * FIFTHS:
            continue
        groups = [mine.iloc[part] for part in np.array_split(np.arange(len(mine)), FIFTHS)]
        x = [1 - group["kept_cosine"].mean() for group in groups]
        y = [group["displacement"].mean() for group in groups]
        error = [group["displacement"].std() / len(group) ** 0.5 for group in groups]
        ax.errorbar(x, y, error, color=color, linestyle=line, marker="o", markersize=2.5, linewidth=0.9)
    ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    ax.set_xlim(-0.03, 1.1)
    ax.set_ylim(-0.03, 1.3)
    ax.set_xlabel("1 - kept cosine, before training")
    ax.set_ylabel("displacement after it")
