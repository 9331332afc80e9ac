"""How every figure looks, and how it is written so that the same numbers give the same bytes."""

from __future__ import annotations

import io
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from sandbox.lab.store import write_bytes, write_json

SINGLE, DOUBLE = 3.4, 7.0  # inches

# One colour per start, the same in every figure (Okabe & Ito 2008); they also differ in lightness.
START = {"teacher": "#0072B2", "random": "#D55E00", "rotated": "#009E73"}
# Students of a teacher network that is far from converged: the same start, hence a neighbouring hue.
YOUNG = "#56B4E9"
NULL = "#9A9A9A"
THEORY = "#111111"
MARKER = {"linear": "o", "affine": "D", "mlp": "s"}

RC = {
    **sns.axes_style("ticks"),
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "font.family": "DejaVu Sans",
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "dmd-sandbox",
    "figure.dpi": 100,
    "savefig.dpi": 220,
    "figure.constrained_layout.use": True,
}


@contextmanager
def style():
    """The house style, for the duration of a drawing."""
    with mpl.rc_context(RC):
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure, inches; not registered with pyplot, so that nothing global holds on to it."""
    return Figure(figsize=(width, height), layout="constrained")


def dimension_axis(ax: Axes, dims) -> None:
    """A log2 axis with the swept dimensions as ticks."""
    dims = sorted({int(d) for d in dims})
    ax.set_xscale("log", base=2)
    ax.set_xlim(dims[0] / 1.25, dims[-1] * 1.25)
    # Neighbours closer than this would print over each other.
    shown: list[int] = []
    for d in dims:
        if not shown or np.log2(d / shown[-1]) > 0.75:
            shown.append(d)
    ax.set_xticks(dims, [str(d) if d in shown else "" for d in dims])
    ax.set_xlabel("dimension $d$")


def panel_letter(ax: Axes, letter: str, text: str = "") -> None:
    """A bold panel letter and, beside it, what the panel holds still."""
    ax.set_title(f"$\\bf{{{letter}}}$   {text}".rstrip(), loc="left", fontsize=8)


def notes(ax: Axes, *lines: tuple[str, str], below: int = 0) -> None:
    """Lines of text, each (text, colour), in the upper right corner, from line `below` on."""
    for i, (text, color) in enumerate(lines, below):
        ax.text(
            0.97, 0.97 - 0.08 * i, text, color=color, ha="right", va="top", fontsize=7, transform=ax.transAxes, zorder=7
        )


def null_span(ax: Axes, low: float, high: float) -> None:
    """The null's range on the horizontal axis, with its name above it."""
    ax.axvspan(low, high, color=NULL, alpha=0.4, linewidth=0, zorder=1)
    at = ax.get_xaxis_transform()
    ax.text((low + high) / 2, 1.02, "null", transform=at, ha="center", fontsize=7, color="#666666")


def jitter(n: int, seed: int, width: float = 0.06) -> np.ndarray:
    """Factors that spread dots on a logarithmic axis, the same at every drawing."""
    return np.exp(np.random.default_rng(seed).uniform(-width, width, n))


def dots(ax: Axes, x, y, passed, color: str, student: str = "linear", seed: int = 0) -> None:
    """One dot per student; those that failed the law gate are hollow."""
    x, y, passed = np.asarray(x, float) * jitter(len(x), seed), np.asarray(y, float), np.asarray(passed, bool)
    kind: dict[str, Any] = {"marker": MARKER[student], "s": 7, "linewidths": 0.5, "zorder": 3}
    ax.scatter(x[passed], y[passed], facecolors=color, edgecolors="none", alpha=0.35, **kind)
    ax.scatter(x[~passed], y[~passed], facecolors="none", edgecolors=color, alpha=0.8, **kind)


def mean_band(table: pd.DataFrame, value: str, resamples: int = 2000) -> pd.DataFrame:
    """Mean over seeds at each dimension with its 95 % percentile interval (seeds resampled): columns dim, mean, low,
    high."""
    rng = np.random.default_rng(0)
    rows = []
    for dim, group in table.groupby("dim"):
        y = group[value].to_numpy(float)
        y = y[np.isfinite(y)]
        if len(y):
            drawn = y[rng.integers(len(y), size=(resamples, len(y)))].mean(1)
            rows.append((dim, y.mean(), *np.quantile(drawn, [0.025, 0.975])))
    return pd.DataFrame(rows, columns=["dim", "mean", "low", "high"], dtype=float)


def draw_mean(ax: Axes, band: pd.DataFrame, color: str, linestyle: str = "-") -> None:
    """A mean line and its interval as a band."""
    ax.fill_between(band["dim"], band["low"], band["high"], color=color, alpha=0.25, linewidth=0, zorder=2)
    ax.plot(band["dim"], band["mean"], color=color, linestyle=linestyle, zorder=4)


def share_band(table: pd.DataFrame, hit: pd.Series) -> pd.DataFrame:
    """Share of students at each dimension for which `hit` is true, with its 95 % Wilson interval: columns as
    `mean_band`."""
    rows = []
    for dim, group in hit.groupby(table["dim"]):
        interval = binomtest(int(group.sum()), len(group)).proportion_ci(0.95, method="wilson")
        rows.append((dim, group.mean(), interval.low, interval.high))
    return pd.DataFrame(rows, columns=["dim", "mean", "low", "high"], dtype=float)


def write_figure(fig: Figure, table: pd.DataFrame, manifest: dict, folder: Path, name: str) -> list[Path]:
    """Writes name.svg, name.png, name.csv (the numbers drawn) and name.json (the cells they came from).

    Nothing in the files depends on the clock or on the machine's name."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for ending, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        buffer = io.BytesIO()
        with mpl.rc_context(RC):
            fig.savefig(buffer, format=ending, metadata=metadata)
        path = folder / f"{name}.{ending}"
        write_bytes(path, buffer.getvalue())
        written.append(path)
    text = table.to_csv(index=False, lineterminator="\n").encode()
    write_bytes(folder / f"{name}.csv", text)
    write_json(folder / f"{name}.json", manifest)
    return [*written, folder / f"{name}.csv", folder / f"{name}.json"]
