"""What does a network student cost whose law passes the gate, and which part of a recipe moves its pairing?

From the brisk recipe of the main sweep one thing at a time is changed, most towards the gentle one (`recipes`; the
batch of student and fake score together), and in the gentle one the learning rate alone is raised to the brisk one's.
Converged teacher networks throughout.
"""

from __future__ import annotations

from experiments.recipes import GENTLE, NETWORK
from sandbox.lab.claims import RIVAL, Question, Rule
from sandbox.lab.effects import Group, difference
from sandbox.lab.sweep import Sweep

BRISK = {**NETWORK, "width": 128}
RECIPES = {
    "brisk": BRISK,
    "half the width": {**BRISK, "width": 64},
    "no average": {**BRISK, "average": 0.0},
    "batch x 2": {**BRISK, "batch": 256, "fake_batch": 256},
    "four blocks": {**BRISK, "depth": 4},
    "4000 updates": {**BRISK, "steps": 4000},
    "lr / 4": {**BRISK, "lr": NETWORK["lr"] / 4},
    "lr / 20": {**BRISK, "lr": GENTLE["lr"]},
    "gentle": GENTLE,
    "gentle, lr x 20": {**GENTLE, "lr": NETWORK["lr"]},
}


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    arms = {name: {**recipe, "teacher_steps": 3000, **fields} for name, recipe in RECIPES.items()}
    return Sweep("recipe_cost", {}, arms, {"dim": dims, "seed": tuple(range(seeds))})


PRESETS = {
    "smoke": _sweep((2,), 1, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4, fake_batch=8, batch=8),
    "quick": _sweep((32,), 4),
    "full": _sweep((8, 32, 64, 128), 8),
}

QUESTIONS = tuple(
    Question(
        name,
        "Does the learning rate alone move copying?",
        f"At d = 32 the learning rate alone moves copying ({fast} against {slow}).",
        RIVAL,
        (fast, slow),
        difference("displacement", Group(fast, (fast,), (32, 32)), Group(slow, (slow,), (32, 32)), "displacement"),
        Rule(low=0.1),
        "after",
    )
    for name, fast, slow in (
        ("gentle-recipe-rate", "gentle, lr x 20", "gentle"),
        ("brisk-recipe-quarter-rate", "brisk", "lr / 4"),
        ("brisk-recipe-rate", "brisk", "lr / 20"),
    )
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "recipe_cost", *sys.argv[1:]]))
