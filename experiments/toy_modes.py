"""Two modes in the plane: what the real score alone, real and fake score, and regression on pairs find (DMD, Fig. 3).

Students start at networks of eight other laws of two modes, four at each, whose one step from noise 80 is a small
cloud at that law's mean. What is counted is how many have at least half of each mode's mass and variance.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.sweep import Sweep

ARMS = {
    "real score alone": {"fake_score": "none"},
    "real and fake": {},
    "with regression": {"regression": 0.25},
}


def _sweep(seeds: int, **fields) -> Sweep:
    base = {
        **NETWORK,
        "modes": 2,
        "separation": 2.0,
        "start_teacher_seed": lambda c: 1 + c["seed"] % 8,
        "width": 32,
        "depth": 1,
        "steps": 1000,
        "teacher_steps": 1000,
        **fields,
    }
    return Sweep(
        "toy_modes", {}, {arm: {**base, **own} for arm, own in ARMS.items()}, {"dim": (2,), "seed": range(seeds)}
    )


PRESETS = {
    "smoke": _sweep(2, width=8, steps=4, teacher_steps=4),
    "quick": _sweep(32),
    "full": _sweep(128),
}

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "toy_modes", *sys.argv[1:]]))
