"""Students that can move more and less freely, at one dimension."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.freedom import ARMS
from sandbox.lab.arms_panel import arms_figure
from sandbox.lab.table import IDENTITY

NEEDS = "freedom"
CAPTION = (
    "Geometric freedom changed while the dimension stays: network students of a mixture of eight modes (2000 updates, "
    "Adam, learning rate 2e-3, batch 128; teacher networks of 3000 updates, which like the fake scores have the "
    "student's own shape; real score and reference: the analytic ones). A student without a linear path is first "
    "fitted (1000 updates) to the start it would have with it; a bottleneck is the rank of the first matrix, beside "
    "EDM's fixed linear path. Displacement: 0 copy, 1 independent. Effective rank: of the student's Jacobian over the "
    "teacher's. Linear share: the part of the start's variance that is linear in the noise. One mark per student, six "
    "seeds each in the quick preset, hollow where it failed the law gate; bar: mean and 95 % bootstrap interval over "
    "those that pass; grey: 95 % range of the shuffled-pair null."
)
COLUMNS = (
    *IDENTITY,
    "width",
    "depth",
    "skip",
    "bottleneck",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "mode_agreement",
    "student_effective_rank",
    "teacher_effective_rank",
    "start_linear_share",
    "linear_share",
    "start_cosine_between",
    "start_error_ratio_between",
    "sliced_w2",
    "sliced_w2_null",
)


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    ratio = table["student_effective_rank"].astype(float) / table["teacher_effective_rank"].astype(float)
    values = {
        "displacement": "displacement $\\rho$",
        "rank": "effective rank / teacher's",
        "start_linear_share": "linear share of the start",
    }
    return arms_figure(table.assign(rank=ratio), list(ARMS), values, 3.6)
