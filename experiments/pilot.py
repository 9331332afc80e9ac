"""Mode agreement and displacement of networks trained gently: a small learning rate, wide and deep, no averaging.

The recipe of the pilot measurements with which the question was first put on Gaussian mixtures: DMD2's losses at
a student rate twenty times below that of `recipes.NETWORK`, where the noise of an update is small and the start has the
last word. Teacher networks of two convergences, d = 1 to 128.
"""

from __future__ import annotations

from sandbox.lab.sweep import Sweep

# DMD2 as in `recipes.NETWORK`, with the pilot's sizes and rates.
PILOT = {
    "teacher": "random",
    "student": "mlp",
    "width": 128,
    "depth": 4,
    "fake_score": "network",
    "fake_lr": 1e-3,
    "fake_batch": 256,
    "sigma_law": "karras",
    "sigma_min": 0.002,
    "normaliser": "per-sample",
    "reduction": "mean",
    "optimiser": "adam",
    "beta1": 0.0,
    "lr": 1e-4,
    "batch": 256,
    "decay": 0.3,
    "steps": 2000,
}
ARMS = {
    "gentle, converged teacher": {"teacher_steps": 3000},
    "gentle, young teacher": {"teacher_steps": 400},
}
DIMS = (1, 2, 4, 8, 16, 32, 64, 128)


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    return Sweep("pilot", {**PILOT, **fields}, ARMS, {"dim": dims, "seed": tuple(range(seeds))})


PRESETS = {
    "smoke": _sweep((2,), 2, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((2, 8), 4),
    "full": _sweep(DIMS, 16),
}

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "pilot", *sys.argv[1:]]))
