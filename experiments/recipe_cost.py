"""What does a network student cost whose law passes the gate? Recipes against the share of students that pass.

In many dimensions the recipe of a few leaves modes too wide. Longer training, larger batches, wider networks and a
calmer fake score are tried at three learning rates, from a converged and from a young teacher network.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.sweep import Sweep

RECIPES = {
    "2000 updates": {"steps": 2000},
    "4000 updates": {"steps": 4000},
    "8000 updates": {"steps": 8000},
    "4000 updates, batch x 4": {"steps": 4000, "batch": 512, "fake_batch": 512},
    "4000 updates, fake lr / 3": {"steps": 4000, "fake_lr": 3e-4},
    "4000 updates, width x 2": {"steps": 4000, "width": 256},
}
RATES = (5e-4, 1e-3, 2e-3)


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    base = {**NETWORK, "width": 128}
    arms = {name: {**recipe, **fields} for name, recipe in RECIPES.items()}
    axes = {"dim": dims, "teacher_steps": (100, 3000), "lr": RATES, "seed": tuple(range(seeds))}
    return Sweep("recipe_cost", base, arms, axes)


PRESETS = {
    "smoke": _sweep((2,), 1, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4, fake_batch=8),
    "quick": _sweep((32,), 2),
    "full": _sweep((32, 64, 128), 4),
}

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "recipe_cost", *sys.argv[1:]]))
