"""The noise plane, coloured by where each z is sent: the picture that explains the project at a glance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure

from sandbox.lab import style
from sandbox.lab.table import IDENTITY, gated
from sandbox.teacher.families import gaussian
from sandbox.teacher.flow import teacher_map

NEEDS = "dimension"
CAPTION = (
    "The noise plane at d = 2, each z coloured by the direction of the point to which it is sent (hue: direction, as "
    "in a, where z stays in place). Lines lead from z (open dot) to where the map sends it (full dot). Left to right: "
    "the teacher; of all linear students that pass the law gate, the teacher-start one of least displacement, the "
    "teacher-start one of largest displacement, and the random-start one whose displacement is nearest to 1, the value "
    "of independent pairs."
)

RADIUS = 2.4
COLUMNS = (
    *IDENTITY,
    "displacement",
    "weight_00",
    "weight_01",
    "weight_10",
    "weight_11",
)


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student; students chosen by the rule in the caption."""
    fig = style.figure(style.DOUBLE, 2.15)
    axes = fig.subplots(1, 4)
    plane = gated(table[(table["dim"] == 2) & (table["student"] == "linear")])
    plane = plane[~plane["arm"].str.contains("power law")]
    own, random = plane[plane["start"] == "teacher"], plane[plane["start"] == "random"]
    shown: list[tuple] = [("teacher $T$", _teacher, None)]
    for title, group, choose in (
        ("a student that copied", own, lambda rho: rho.idxmin()),
        ("one that remapped", own, lambda rho: rho.idxmax()),
        ("one from a random start", random, lambda rho: (rho - 1).abs().idxmin()),
    ):
        if len(group):
            row = group.loc[choose(group["displacement"])]
            A = row[["weight_00", "weight_01", "weight_10", "weight_11"]].to_numpy(float).reshape(2, 2)
            shown.append((title, lambda z, A=A: z @ A.T, row["displacement"]))
    for letter, ax, (title, send, rho) in zip("abcd", axes, shown):
        _plane(ax, send)
        ax.set_title(f"$\\bf{{{letter}}}$  {title}", loc="left", fontsize=8)
        ax.set_xlabel("$\\rho = 0$" if rho is None else f"$\\rho = {rho:.2f}$", labelpad=3)
    for ax in axes[len(shown) :]:
        ax.set_axis_off()
    return fig


def _colour(x: np.ndarray) -> np.ndarray:
    """One hue per direction, paler towards the origin; (..., 2) -> (..., 3)."""
    hue = (np.arctan2(x[..., 1], x[..., 0]) / (2 * np.pi)) % 1
    size = np.clip(np.hypot(x[..., 0], x[..., 1]) / RADIUS, 0, 1)
    # Saturated hues of equal value differ in lightness; a modest saturation keeps the lines on top readable.
    return hsv_to_rgb(np.stack([hue, 0.15 + 0.6 * size, np.full_like(hue, 0.95)], -1))


def _teacher(z: np.ndarray) -> np.ndarray:
    """The teacher's map; the experiment's flat teacher is N(0, I)."""
    return teacher_map(gaussian(2), torch.as_tensor(z.reshape(-1, 2))).numpy().reshape(z.shape)


def _plane(ax, send) -> None:
    side = np.linspace(-RADIUS, RADIUS, 241)
    z = np.stack(np.meshgrid(side, side), -1)
    image = _colour(send(z))
    outside = np.hypot(z[..., 0], z[..., 1]) > RADIUS
    rgba = np.concatenate([image, 1.0 - outside[..., None].astype(float)], -1)
    ax.imshow(rgba, extent=[-RADIUS, RADIUS, -RADIUS, RADIUS], origin="lower", interpolation="bilinear")
    angle = np.arange(10) * 2 * np.pi / 10 + 0.2
    points = np.concatenate(
        [r * np.stack([np.cos(angle + t), np.sin(angle + t)], -1) for r, t in ((0.9, 0.3), (1.75, 0.0))]
    )
    for p, q in zip(points, send(points)):
        ax.plot([p[0], q[0]], [p[1], q[1]], color="#111111", linewidth=0.6, alpha=0.8)
        ax.plot(*p, marker="o", markersize=2.6, markerfacecolor="white", markeredgecolor="#111111", markeredgewidth=0.5)
        ax.plot(*q, marker="o", markersize=2.2, color="#111111")
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlim(-RADIUS * 1.08, RADIUS * 1.08)
    ax.set_ylim(-RADIUS * 1.08, RADIUS * 1.08)
