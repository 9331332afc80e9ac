"""What Jacobian rank sees, and what it does not."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY, gated

NEEDS = "dimension"
CAPTION = (
    "Jacobian rank does not see the pairing. a, effective rank of the Jacobian at held-out noise (mean over 16 "
    "points) of students (dots) and of their teachers (lines) for a flat and a power-law spectrum (lambda_k ~ "
    "k^-1.5, trace d). b, displacement within the leading eigenmodes (the fewest that hold half of the variance) "
    "and within the rest, power-law teacher; black: mode equations, no fitted constant (known to be low for the "
    "rest at small d). c, displacement against the student's effective rank over its teacher's, all students at d "
    "> 1 that pass the law gate: for linear students the law fixes the Jacobian's spectrum, so copies and "
    "remapped students have one and the same rank. Dots: students; bands: 95 % bootstrap interval of the mean "
    "over seeds, at one held-out set; hollow: failed the law gate; grey: shuffled-pair null of each part."
)

FLAT, POWER = "teacher start, lr .04", "teacher start, power law, lr .02"
LEADING, REST = "#0072B2", "#7FB8D8"  # one start, hence one hue
COLUMNS = (
    *IDENTITY,
    "displacement",
    "displacement_leading",
    "displacement_leading_low",
    "displacement_leading_high",
    "displacement_rest",
    "displacement_rest_low",
    "displacement_rest_high",
    "predicted_leading",
    "predicted_rest",
    "student_effective_rank",
    "teacher_effective_rank",
)


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["student"] == "linear"]
    fig = style.figure(style.DOUBLE, 2.5)
    rank, modes, blind = fig.subplots(1, 3)
    dims = table["dim"].unique()
    table = table[table["status"] == "done"]
    _rank(rank, table, dims)
    _modes(modes, table[table["arm"] == POWER], dims)
    _blind(blind, gated(table))
    return fig


def _rank(ax, table: pd.DataFrame, dims) -> None:
    style.panel_letter(ax, "a", "rank of the Jacobian")
    style.dimension_axis(ax, dims)
    ax.set_yscale("log", base=2)
    ax.set_yticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    ax.set_ylabel("effective rank")
    for i, arm in enumerate((FLAT, POWER)):
        mine = table[table["arm"] == arm]
        style.dots(ax, mine["dim"], mine["student_effective_rank"], mine["law_passes"], style.START["teacher"], seed=i)
        teacher = mine.groupby("dim")["teacher_effective_rank"].first()
        ax.plot(
            teacher.index, teacher, color=style.THEORY, linewidth=0.8, linestyle="-" if arm == FLAT else "--", zorder=5
        )
    ax.text(10, 22, "flat", ha="right", color="#444444")
    ax.text(64, 11, "power law", ha="right", va="top", color="#444444")
    ax.text(
        0.03,
        0.97,
        "line: teacher\ndots: students",
        ha="left",
        va="top",
        transform=ax.transAxes,
        fontsize=7,
        color="#444444",
    )


def _modes(ax, table: pd.DataFrame, dims) -> None:
    style.panel_letter(ax, "b", "power law, by eigenmode")
    style.dimension_axis(ax, dims)
    ax.set_ylabel("displacement $\\rho$")
    for i, (part, color) in enumerate((("leading", LEADING), ("rest", REST))):
        null = table.groupby("dim")[[f"displacement_{part}_low", f"displacement_{part}_high"]].mean().dropna()
        ax.fill_between(
            null.index, null.iloc[:, 0], null.iloc[:, 1], color=style.NULL, alpha=0.35, linewidth=0, zorder=1
        )
        style.dots(ax, table["dim"], table[f"displacement_{part}"].astype(float), table["law_passes"], color, seed=i)
        style.draw_mean(
            ax, style.mean_band(gated(table), f"displacement_{part}"), color, "-" if part == "leading" else "--"
        )
        theory = table.groupby("dim")[f"predicted_{part}"].first().dropna()
        ax.plot(
            theory.index,
            theory,
            color=style.THEORY,
            linewidth=0.8,
            linestyle="-" if part == "leading" else "--",
            zorder=5,
        )
    ax.set_ylim(-0.08, 2.12)
    ax.text(0.03, 0.97, "leading modes (solid)", color=LEADING, va="top", transform=ax.transAxes)
    ax.text(0.03, 0.89, "the rest (dashed)", color="#4C93BA", va="top", transform=ax.transAxes)
    ax.text(0.03, 0.81, "black: mode equations", color=style.THEORY, va="top", transform=ax.transAxes, fontsize=7)


def _blind(ax, table: pd.DataFrame) -> None:
    style.panel_letter(ax, "c", "rank against pairing")
    for start in ("random", "teacher"):
        mine = table[(table["start"] == start) & (table["dim"] > 1)]
        ratio = mine["student_effective_rank"] / mine["teacher_effective_rank"]
        ax.scatter(ratio, mine["displacement"], s=6, color=style.START[start], alpha=0.35, linewidths=0)
    ax.set_xlabel("effective rank, student / teacher")
    ax.set_ylabel("displacement $\\rho$")
    ax.set_xlim(0.79, 1.21)
    ax.set_ylim(-0.08, 2.12)
    ax.axvline(1, color=style.NULL, linewidth=0.5, linestyle=":", zorder=0)
    ax.text(0.03, 0.97, "random start", color=style.START["random"], va="top", transform=ax.transAxes)
    ax.text(0.03, 0.89, "teacher start", color=style.START["teacher"], va="top", transform=ax.transAxes)
