"""Training recipes that experiments share."""

from __future__ import annotations

# One-step network students of a mixture of eight modes, distilled as DMD2 does: start, fake score and its five updates
# per student update from one teacher network; noise levels in Karras bins 20 .. 980 for the student, all 1000 for the
# fake score; per-sample normaliser; mean over coordinates. Adam without a first moment: a moving target needs no
# memory. At this rate all of 25 students passed the law gate at d = 2, 4 and 8 each; at half of it 24, 25 and 12, at a
# quarter 25, 25 and none, whose modes were still too wide. 1000 updates are too few from d = 8 on, and 2000
# from d = 64 on, also at width 128.
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
    "lr": 2e-3,
    "batch": 128,
    "decay": 0.5,
    "average": 0.99,
    "steps": 2000,
}

# The same losses with twenty times smaller student steps, twice the batch and twice the depth. Seven times the work:
# 100 core seconds a student. Passes at d = 32, 64 and 128 in 15 or 16 of 16 students; at d = 8 hardly ever with 2000
# updates, and in 7 of 8 with 4000.
GENTLE = {
    **NETWORK,
    "width": 128,
    "depth": 4,
    "fake_lr": 1e-3,
    "fake_batch": 256,
    "lr": 1e-4,
    "batch": 256,
    "decay": 0.3,
    "average": 0.0,
}
