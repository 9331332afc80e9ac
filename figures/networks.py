"""Networks by a gentle and by a brisk recipe, over the dimension and along training."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY, several
from sandbox.measure.onset import THRESHOLD

NEEDS = "networks"
CAPTION = (
    "Network students of a mixture of eight modes (means N(0, 1), standard deviation .3 per coordinate), distilled as "
    "DMD2 does (learned fake score, five updates per student update, per-sample normaliser, Adam; real score and "
    "reference map: the analytic ones). Top, a gentle recipe (learning rate 1e-4, batch 256, width 128, four blocks, "
    "2000 updates, the last 30 % with a falling rate); bottom, a brisk one (2e-3, batch 128, two blocks, averaged "
    "weights, the rate falling over the last half). Dark, solid: teacher network of 3000 updates on the closed-form "
    "denoiser; light, dashed: of 400 (top) and 100 (bottom). First two columns: mode agreement (1 copy, 0 chance) and "
    "displacement (0 copy, 1 independent) after training; one square per student, hollow where it failed the law "
    "gate; line and band: mean and 95 % bootstrap interval over those that pass, seeds resampled, where at least five "
    "of the 16 do, at one held-out set of 1024 points; grey: 95 % range of the shuffled-pair null; shaded: d <= 2, "
    "where the normaliser is heavy-tailed. Last column: mean displacement along training, all students of the "
    "3000-update teachers that did not diverge, at 512 of the points; a student begins small, at displacement 1, and "
    "has the teacher's total variance within a tenth by 512 updates (brisk) and 1024 (gentle). Gentle students of "
    "4000 updates at d = 8 are in the table only."
)
STEPS = (*(2**k for k in range(11)), 2000)
COLUMNS = (
    *IDENTITY,
    "teacher_steps",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "displacement_leading",
    "displacement_rest",
    "mode_agreement",
    "mode_agreement_low",
    "mode_agreement_high",
    "student_effective_rank",
    "teacher_effective_rank",
    "variance_ratio_high",
    "start_cosine_between",
    "start_error_ratio_between",
    *(f"{name}_at_{step}" for name in ("displacement", "scale") for step in STEPS),
)
FEWEST = 5  # students for a mean and an interval
RECIPES = {"gentle": "gentle, lr 1e-4", "brisk": "brisk, lr 2e-3"}
TEACHERS = {"converged teacher": (style.START["teacher"], "-", 0), "young teacher": (style.YOUNG, "--", 1)}
PATHS = {2: "-", 8: "--", 32: "-.", 128: ":"}


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    fig = style.figure(style.DOUBLE, 4.6)
    axes = fig.subplots(2, 3)
    for row, letters, (recipe, title) in zip(axes, ("abc", "def"), RECIPES.items(), strict=True):
        mine = table[table["arm"].isin([f"{recipe}, {teacher}" for teacher in TEACHERS])]
        if len(mine):
            _recipe(row, letters, title, recipe, mine)
    style.notes(axes[1, 0], ("dark: converged teacher", style.START["teacher"]), ("light, dashed: young", style.YOUNG))
    style.notes(axes[0, 1], ("hollow: failed the law gate", "#444444"), ("grey: shuffled pairs (null)", "#666666"))
    return fig


def _recipe(row, letters: str, title: str, recipe: str, table: pd.DataFrame) -> None:
    agreement, displacement, path = row
    for letter, ax, value, what in (
        (letters[0], agreement, "mode_agreement", "mode agreement $\\kappa$"),
        (letters[1], displacement, "displacement", "displacement $\\rho$"),
    ):
        style.panel_letter(ax, letter, title if ax is agreement else f"{recipe}, same students")
        style.dimension_axis(ax, table["dim"].unique())
        null = table.groupby("dim")[[f"{value}_low", f"{value}_high"]].mean().dropna()
        band = {"color": style.NULL, "alpha": 0.5, "linewidth": 0, "zorder": 1}
        ax.fill_between(null.index, null.iloc[:, 0], null.iloc[:, 1], **band)
        ax.axvspan(table["dim"].min() / 1.25, 2.4, color="#000000", alpha=0.06, linewidth=0, zorder=0)
        for teacher, (color, line, seed) in TEACHERS.items():
            mine = table[(table["arm"] == f"{recipe}, {teacher}") & (table["status"] == "done")]
            if len(mine):
                style.dots(ax, mine["dim"], mine[value].astype(float), mine["law_passes"], color, "mlp", seed)
                band = style.mean_band(several(mine, FEWEST), value)
                style.draw_mean(ax, band, color, line)
        ax.set_ylabel(what)
    agreement.set_ylim(-0.28, 1.06)
    displacement.set_ylim(-0.06, 1.6)
    displacement.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    converged = table[(table["arm"] == f"{recipe}, converged teacher") & (table["status"] == "done")]
    _path(path, letters[2], f"{recipe}, along training", converged)


def _path(ax: Axes, letter: str, title: str, table: pd.DataFrame) -> None:
    style.panel_letter(ax, letter, title)
    for dim, line in PATHS.items():
        mine = table[table["dim"] == dim]
        means = np.array([mine[f"displacement_at_{step}"].astype(float).mean() for step in STEPS])
        if len(mine) and np.isfinite(means).any():
            ax.plot(STEPS, means, color=style.START["teacher"], linestyle=line, label=f"$d$ = {dim}")
    ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    ax.set_xscale("log", base=2)
    ax.set_xlim(8, 2400)
    ax.set_xticks([16, 64, 256, 1024], ["16", "64", "256", "1024"])
    ax.set_ylim(-0.03, 1.05)
    ax.set_xlabel("student update")
    ax.set_ylabel("displacement $\\rho$")
    if ax.lines:
        ax.legend(frameon=False, loc="lower left", handlelength=2.2)
