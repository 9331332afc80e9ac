"""The pairing of students with and without an adversarial loss."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from experiments.adversarial import ARMS
from sandbox.lab.arms_panel import arms_figure
from sandbox.lab.table import IDENTITY, PAIRING

NEEDS = "adversarial"
CAPTION = (
    "Network students of a mixture of eight modes (width 64, two blocks, 2000 updates, Adam, learning rate 2e-3, "
    "batch 128; teacher network of 3000 updates; real score and reference: the analytic ones), distilled as DMD2 does "
    "with its adversarial loss left out, at the weight of .003 that DMD2 has (nominally: its distribution matching "
    "gradient is divided by a far larger d) and at ten times that. The critic is a head on the fake score's last "
    "features, of weight .01 in its loss, on noised samples of the exact teacher. Displacement (0 copy, 1 "
    "independent) and mode agreement (1 copy, 0 chance) at 1024 held-out points. One mark per student, six seeds each "
    "in the quick preset and 16 in the full one, hollow where it failed the law gate; bar: mean and 95 % bootstrap "
    "interval over those that pass; grey: 95 % range of the shuffled-pair null. At d = 2 the per-sample normaliser is "
    "heavy-tailed."
)
COLUMNS = (
    *IDENTITY,
    "gan",
    "trained_on",
    *PAIRING,
    "sliced_w2",
    "sliced_w2_null",
    "fake_error_at_2000",
)


def draw(table: pd.DataFrame) -> Figure:
    """The figure from one row per student."""
    values = {"displacement": "displacement $\\rho$", "mode_agreement": "mode agreement $\\kappa$"}
    return arms_figure(table, list(ARMS), values, 2.2)
