"""Where is the border between copying and remapping? Maps of dimension against one control, all others held still.

Linear students of N(0, I) from the teacher's one-step denoiser, DMD2's per-sample normaliser, exact fake score, plain
gradient descent until settled. The controls: learning rate, batch, and the noise level at which the student starts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sandbox.lab.claims import PAPER, RIVAL, Question, Rule
from sandbox.lab.effects import Group, slope
from sandbox.lab.predict import settled_steps
from sandbox.lab.sweep import Sweep

# Control: its range, and what the maps of the other controls hold it at.
CONTROLS = {"lr": (0.0025, 0.16), "batch": (8, 512), "sigma_init": (5.0, 80.0)}
BASE = {
    "teacher": "gaussian",
    "normaliser": "per-sample",
    "lr": 0.02,
    "batch": 64,
    "sigma_init": 80.0,
    "measures": "closed",
}
DERIVED = {"steps": settled_steps}
DIMS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 56, 64)


def levels(control: str, count: int) -> list[float]:
    """Values of a control, evenly spaced in its logarithm, to three digits."""
    values = np.geomspace(*CONTROLS[control], count)
    return [float(f"{v:.0f}" if control == "batch" else f"{v:.3g}") for v in values]


def _sweep(count: int, dims: Sequence[int], seeds: int) -> Sweep:
    arms = {f"{control} {value:g}": {control: value} for control in CONTROLS for value in levels(control, count)}
    return Sweep("phase", BASE, arms, {"dim": tuple(dims), "seed": tuple(range(seeds))}, derived=DERIVED)


PRESETS = {
    "smoke": _sweep(2, (2, 4), 2),
    "quick": _sweep(8, DIMS[::2], 5),
    "full": _sweep(16, DIMS, 16),
}

ALL = tuple(arm for preset in ("quick", "smoke") for arm in PRESETS[preset].arms)
# A tenth over the five doublings from d = 2 to 64.
PER_DOUBLING = 0.02
FROM_3 = Group("d >= 3", ALL, (3, 64))

QUESTIONS = (
    Question(
        "begins-at-fixed-controls",
        "Does copying begin as dimension grows, in linear students?",
        "At a fixed learning rate, batch and start level, linear students copy more as dimension grows.",
        PAPER,
        ALL,
        slope("gauge_polar", FROM_3, "gauge displacement per doubling of d"),
        Rule(high=-PER_DOUBLING),
        "after",
    ),
    Question(
        "through-xi-alone",
        "Does dimension act on linear students through the copying number alone?",
        "Beyond the copying number Xi, dimension has no effect: measured less predicted does not change with d.",
        RIVAL,
        ALL,
        slope(lambda t: t["gauge_polar"] - t["predicted_gauge"], FROM_3, "gauge displacement per doubling of d"),
        Rule(low=-PER_DOUBLING, high=PER_DOUBLING),
        "after",
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "phase", *sys.argv[1:]]))
