"""The pairing of students of teachers that have memorised n points."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.memorisation import PRESETS
from sandbox.lab.arms_panel import arms_figure
from sandbox.lab.table import IDENTITY

NEEDS = "memorisation"
CAPTION = (
    "Network students (width 64, two blocks, 2000 updates, Adam, learning rate 2e-3, batch 128; teacher network of "
    "3000 updates; real score and reference: the analytic ones) of a mixture of eight modes of standard deviation .3 "
    "per coordinate, and of teachers that have memorised n points drawn from it: n modes of standard deviation .1 at "
    "the points, drawn twice. Displacement (0 copy, 1 independent) and mode agreement (1 copy, 0 chance; modes are "
    "the points for a memorising teacher) to the student's own teacher at 1024 held-out points. One mark per student, "
    "six seeds each in the quick preset, hollow where it failed the law gate; bar: mean and 95 % bootstrap interval "
    "over those that pass; grey: 95 % range of the shuffled-pair null. At d = 2 the per-sample normaliser is "
    "heavy-tailed."
)
COLUMNS = (
    *IDENTITY,
    "teacher",
    "points",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "mode_agreement",
    "mode_agreement_low",
    "mode_agreement_high",
    "start_cosine_between",
    "sliced_w2",
    "sliced_w2_null",
)


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    arms = [arm for arm in PRESETS["full"].arms if (table["arm"] == arm).any()]
    values = {"displacement": "displacement $\\rho$", "mode_agreement": "mode agreement $\\kappa$"}
    return arms_figure(table, arms, values, 2.6)
