"""Training recipes that experiments share."""

from __future__ import annotations

# One-step network students of a mixture of eight modes, distilled as DMD2 does: start, fake score and its five updates
# per student update from one teacher network; noise levels in Karras bins 20 .. 980 for the student, all 1000 for the
# fake score; per-sample normaliser; mean over coordinates. Adam without a first moment: a moving target needs no
# memory. 2000 updates are what it takes for the variance within a mode to come within a factor 2 of the teacher's at
# d = 8 and 32: after 1000 it is still 2.2 to 2.4 times too wide.
NETWORK = {
    "teacher": "random",
    "student": "mlp",
    "width": 64,
    "depth": 2,
    "fake_score": "network",
    "sigma_law": "karras",
    "sigma_min": 0.002,
    "normaliser": "per-sample",
    "reduction": "mean",
    "optimiser": "adam",
    "beta1": 0.0,
    "lr": 1e-3,
    "batch": 128,
    "decay": 0.5,
    "average": 0.99,
    "steps": 2000,
}
