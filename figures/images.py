"""Real images: patches of photographs and handwritten digits, networks and linear students, and what they send z to."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbox.lab import examples, style
from sandbox.lab.table import IDENTITY, gated
from sandbox.measure.onset import THRESHOLD

NEEDS = "images"
CAPTION = (
    "Students of laws fitted to images, against dimension d = side^2. a, b, networks of eight-mode mixtures fitted to "
    "patches of photographs, distilled as DMD2 does, from teacher networks of 3000 and of 100 updates: displacement "
    "(0 copy, 1 independent) and mode agreement (1 copy, 0 chance). c, handwritten digits: networks (squares, dark; "
    "five-mode mixtures of pooled digits, 3000 teacher updates) and linear students (circles, light, dashed; one "
    "Gaussian, principal components, per-sample normaliser, learning rate .02, batch 64). d, linear students of one "
    "Gaussian with the patches' covariance (exact fake score, no normaliser, learning rate .1) with a batch of 64 and "
    "of d. e, displacement within the leading eigenmodes (the fewest that hold half of the variance: a patch's mean "
    "grey value) and within the rest: squares, the networks of 3000 teacher updates in a; circles, the linear students "
    "of batch d in d. f, where the same six z are sent, at the largest d in a at which two networks pass the law "
    "gate, or, where there is none, at the largest d: the teacher, the student of least and the one of largest "
    "displacement; grey values from -2.5 to 2.5 standard "
    "deviations, each image's contrast around its own mean enlarged threefold. One mark per student; line and band: "
    "mean and 95 % bootstrap interval over those that pass the law gate, seeds resampled, at one held-out set of 1024 "
    "points; hollow: failed the gate. Grey: 95 % range of the shuffled-pair null. Thin black: mode equations for the "
    "images' own eigenvalues, no constant fitted to students. Shaded: d <= 2, where the per-sample normaliser is "
    "heavy-tailed."
)
PARTS = ("", "_leading", "_rest")
COLUMNS = (
    *IDENTITY,
    "teacher",
    "teacher_steps",
    *(f"displacement{part}{end}" for part in PARTS for end in ("", "_low", "_high")),
    "mode_agreement",
    "mode_agreement_low",
    "mode_agreement_high",
    "predicted_displacement",
    "predicted_leading",
    "predicted_rest",
    "start_cosine_between",
    "start_error_ratio_between",
    "variance_ratio_low",
    "variance_ratio_high",
    *examples.COLUMNS,
)
FIRST, LIGHT = style.START["teacher"], "#7FB8D8"  # one start, hence one hue
CONVERGED, YOUNG, SCALED = "network, converged teacher", "network, young teacher", "linear, batch d"
# Arm: its colour and line.
PATCHES = {CONVERGED: (FIRST, "-"), YOUNG: (style.YOUNG, "--")}
DIGITS = {"network, digits": (FIRST, "-"), "linear, digits": (LIGHT, "--")}
LINEAR = {"linear, batch 64": (FIRST, "-"), SCALED: (LIGHT, "--")}
LIMIT, GAP = 2.5, 0.12  # grey values shown, and the white between images over their side
CONTRAST = 3.0  # details are a third of a standard deviation


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table[table["status"] == "done"]
    fig = style.figure(style.DOUBLE, 4.7)
    (a, b, c), (d, e, f) = fig.subplots(2, 3)
    _panel(a, "a", "patches, networks", table, PATCHES)
    _panel(b, "b", "the same students", table, PATCHES, "mode_agreement")
    _panel(c, "c", "digits", table, DIGITS)
    _panel(d, "d", "patches, linear", table, LINEAR)
    _parts(e, "e", table)
    style.notes(a, ("dark: converged teacher", FIRST), ("light, dashed: young", style.YOUNG))
    style.notes(c, ("squares: networks", FIRST), ("circles: linear", LIGHT), ("black: mode equations", style.THEORY))
    style.notes(d, ("dark: batch 64", FIRST), ("light, dashed: batch $d$", LIGHT), ("grey: null", "#666666"))
    style.notes(e, ("dark: leading eigenmodes", FIRST), ("light, dashed: the rest", LIGHT))
    _examples(f, "f", table[table["arm"].isin(PATCHES)])
    return fig


def _panel(ax: Axes, letter: str, title: str, table: pd.DataFrame, arms: dict, value: str = "displacement") -> None:
    style.panel_letter(ax, letter, title)
    mine = table[table["arm"].isin(arms)]
    if len(mine):
        _axis(ax, mine["dim"])
        _null(ax, mine, value)
        _shade(ax, mine)
    for i, (arm, (color, line)) in enumerate(arms.items()):
        _curve(ax, mine[mine["arm"] == arm], value, "predicted_displacement", color, line, i)
    if value == "mode_agreement":
        ax.set_ylim(-0.28, 1.06)
        ax.set_ylabel("mode agreement $\\kappa$")
    else:
        _displacement_axis(ax)


def _parts(ax: Axes, letter: str, table: pd.DataFrame) -> None:
    style.panel_letter(ax, letter, "coarse and fine, patches")
    mine = table[table["arm"].isin((CONVERGED, SCALED)) & (table["dim"] > 1)]
    if len(mine):
        _axis(ax, mine["dim"])
    for part, color, line in (("leading", FIRST, "-"), ("rest", LIGHT, "--")):
        _null(ax, mine, f"displacement_{part}")
        for i, arm in enumerate((CONVERGED, SCALED)):
            value, predicted = f"displacement_{part}", f"predicted_{part}"
            _curve(ax, mine[mine["arm"] == arm], value, predicted, color, line, i)
    _displacement_axis(ax)


def _curve(ax: Axes, mine: pd.DataFrame, value: str, predicted: str, color: str, line: str, seed: int) -> None:
    """An arm's students, their mean, and what is predicted of them."""
    if not len(mine):
        return
    style.dots(ax, mine["dim"], mine[value].astype(float), mine["law_passes"], color, mine["student"].iloc[0], seed)
    style.draw_mean(ax, style.mean_band(gated(mine), value), color, line)
    if value.startswith("displacement"):
        theory = mine.groupby("dim")[predicted].first().dropna()
        ax.plot(theory.index, theory, color=style.THEORY, linewidth=0.8, zorder=5)


def _axis(ax: Axes, dims: pd.Series) -> None:
    """The dimension axis, numbers at sides that are powers of two and at the last one."""
    style.dimension_axis(ax, dims)
    ticks = sorted(int(d) for d in dims.unique())
    ax.set_xticks(ticks, [str(d) if np.log2(d) % 2 == 0 or d == ticks[-1] else "" for d in ticks])


def _displacement_axis(ax: Axes) -> None:
    ax.axhline(THRESHOLD, color=style.NULL, linewidth=0.5, linestyle=":", zorder=1)
    ax.set_ylim(-0.06, 1.9)
    ax.set_ylabel("displacement $\\rho$")


def _null(ax: Axes, table: pd.DataFrame, value: str) -> None:
    null = table.groupby("dim")[[f"{value}_low", f"{value}_high"]].mean().dropna()
    ax.fill_between(null.index, null.iloc[:, 0], null.iloc[:, 1], color=style.NULL, alpha=0.4, linewidth=0, zorder=1)


def _shade(ax: Axes, table: pd.DataFrame) -> None:
    if table["dim"].min() <= 2:
        ax.axvspan(table["dim"].min() / 1.25, 2.4, color="#000000", alpha=0.06, linewidth=0, zorder=0)


def _examples(ax: Axes, letter: str, table: pd.DataFrame) -> None:
    """Rows of images: the teacher's, and those of the students of least and of largest displacement."""
    style.panel_letter(ax, letter)
    ax.set_axis_off()
    table = table[table[examples.COLUMNS[0]].notna()]
    shown = gated(table)
    shown = shown[shown.groupby("dim")["dim"].transform("size") > 1]
    if not len(shown):
        shown = table
    if not len(shown):
        return
    failed = "" if shown["law_passes"].eq(True).all() else ", law gate failed"
    shown = shown[shown["dim"] == shown["dim"].max()].sort_values("displacement", kind="stable")
    least, largest = shown.iloc[0], shown.iloc[-1]
    rows = [("$T(z)$", "teacher", least)]
    rows += [(f"$S(z)$, $\\rho$ = {row['displacement']:.2f}{failed}", "student", row) for row in (least, largest)]
    for i, (label, who, row) in enumerate(rows):
        images = [examples.as_image(row[f"example_{who}_{k}"]) for k in range(examples.COUNT)]
        for k, image in enumerate(images):
            box = (k * (1 + GAP), k * (1 + GAP) + 1, i * 1.6 + 1, i * 1.6)
            image = image.mean() + CONTRAST * (image - image.mean())
            ax.imshow(image, cmap="gray", vmin=-LIMIT, vmax=LIMIT, extent=box, interpolation="nearest")
        ax.text(0, i * 1.6 - 0.08, label, fontsize=7, va="bottom")
    ax.set_xlim(-0.05, examples.COUNT * (1 + GAP))
    ax.set_ylim(len(rows) * 1.6 - 0.45, -0.5)
    ax.set_title(f"$\\bf{{{letter}}}$   patches, $d$ = {int(least['dim'])}", loc="left", fontsize=8)
