"""How good fake scores of several kinds are, and what that does to the law and to the pairing."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.critic import ARMS
from sandbox.lab.arms_panel import arms_figure
from sandbox.lab.table import IDENTITY

NEEDS = "critic"
CAPTION = (
    "Network students of a mixture of eight modes (width 64, two blocks, 2000 updates, Adam, learning rate 2e-3, "
    "batch 128; teacher network of 3000 updates; real score and reference: the analytic ones) with fake scores that "
    "make 1, 2, 5 (DMD2) or 10 updates for each of the student's; with a mixture of the moments of 2048 fresh samples "
    "in its place; and with DMD2's five at twice the batch in antithetic pairs of epsilon. Error of the fake score: "
    "the part of E|D - D_exact|^2 over the student's variance that a regression on the noised point and the teacher's "
    "denoiser sees, mean of three noise levels, at the last update, where rates have fallen to zero (0 for an exact "
    "one, and scattering about it; while the student grows this reading compares with its running average and says "
    "nothing). Law match: sliced Wasserstein distance over that of two samples of the teacher (the gate is at 2). "
    "Displacement: 0 copy, 1 independent. One mark per student, six seeds each in the quick preset, hollow where it "
    "failed the law gate; bar: mean and 95 % bootstrap interval over those that pass; grey: 95 % range of the "
    "shuffled-pair null. At d = 2 the per-sample normaliser is heavy-tailed."
)
COLUMNS = (
    *IDENTITY,
    "fake_score",
    "fake_updates",
    "antithetic",
    "trained_on",
    "displacement",
    "displacement_low",
    "displacement_high",
    "mode_agreement",
    "sliced_w2",
    "sliced_w2_null",
    "fake_error_at_2000",
    "fake_curl_at_2000",
)


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    table = table.assign(law=table["sliced_w2"].astype(float) / table["sliced_w2_null"].astype(float))
    values = {
        "fake_error_at_2000": "error of the fake score",
        "law": "law match (sliced $W_2$ / null)",
        "displacement": "displacement $\\rho$",
    }
    return arms_figure(table, list(ARMS), values, 3.4)
