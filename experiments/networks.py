"""Do networks copy because the dimension is high, or because their training is calm? Two recipes, d = 1 to 128.

Network students of a mixture of eight modes, distilled as DMD2 does. Two recipes that both reach the teacher's law:

    gentle   lr 1e-4, batch 256, four blocks, no average: as in the pilot measurements of this question
    brisk    lr 2e-3, batch 128, two blocks, averaged weights: the recipe of the main sweep (`recipes.NETWORK`)

each from teacher networks of its own shape that are converged (3000 updates on the closed-form denoiser) and from young
ones. Dimension, teacher and loss are the same; how far an update can carry a student is not. At d = 8, where a gentle
student's law is not settled after 2000 updates, also with 4000.
"""

from __future__ import annotations

from experiments.recipes import GENTLE, NETWORK
from sandbox.lab.claims import PAPER, RIVAL, Question, Rule
from sandbox.lab.effects import FEW, MANY, READINGS, Group, copying_gained, mean, of_means
from sandbox.lab.sweep import Sweep

ARMS = {
    "gentle, converged teacher": {**GENTLE, "teacher_steps": 3000},
    "gentle, young teacher": {**GENTLE, "teacher_steps": 400},
    "brisk, converged teacher": {**NETWORK, "width": 128, "teacher_steps": 3000},
    "brisk, young teacher": {**NETWORK, "width": 128, "teacher_steps": 100},
}
LONGER = {
    "gentle, 4000 updates, converged teacher": {**GENTLE, "teacher_steps": 3000, "steps": 4000},
    "gentle, 4000 updates, young teacher": {**GENTLE, "teacher_steps": 400, "steps": 4000},
}


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    arms = {arm: {**recipe, **fields} for arm, recipe in ARMS.items()}
    if 8 in dims:
        arms |= {arm: {**recipe, **fields} for arm, recipe in LONGER.items()}
    own_axes = {arm: {"dim": (8,), "seed": tuple(range(min(seeds, 8)))} for arm in LONGER}
    return Sweep("networks", {}, arms, {"dim": dims, "seed": tuple(range(seeds))}, own_axes)


PRESETS = {
    "smoke": _sweep((2, 3), 2, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((2, 8, 32), 2),
    "full": _sweep((1, 2, 4, 8, 16, 32, 64, 128), 16),
}

RECIPES = ("gentle", "brisk")
BOTH = ("converged teacher", "young teacher")
LOW, HALF = (2, 4), 0.5


def _start_over_dimension(recipe: str, reading: str):
    """By how much the teacher network's convergence moves a reading more than dimension does."""
    converged, young = (f"{recipe}, {teacher}" for teacher in BOTH)
    groups = (
        Group("young teacher, d >= 3", (young,), (3, 128)),
        Group("converged teacher, d >= 3", (converged,), (3, 128)),
        Group("converged teacher, d >= 32", (converged,), MANY),
        Group("converged teacher, d = 4", (converged,), FEW),
    )
    sizes = f"{READINGS[reading][1]}, difference of two sizes"
    return of_means(reading, groups, lambda m: abs(m[:, 0] - m[:, 1]) - abs(m[:, 2] - m[:, 3]), sizes)


QUESTIONS = (
    *(
        Question(
            f"begins-gentle-{teacher.split()[0]}-{reading.replace('_', '-')}",
            "Does copying begin as dimension grows, in networks?",
            f"Students copy more in many dimensions than in few (gentle, {teacher}, by {reading.replace('_', ' ')}).",
            PAPER,
            (f"gentle, {teacher}",),
            copying_gained(f"gentle, {teacher}", reading),
            Rule(low=0.1),
            "after",
        )
        for teacher in BOTH
        for reading in READINGS
    ),
    *(
        Question(
            f"remap-{recipe}-{reading.replace('_', '-')}",
            "Do students of converged teachers remap in few dimensions?",
            f"At d = 2 and 4 students from converged teachers remap ({recipe}, by {READINGS[reading][1]}).",
            PAPER,
            (f"{recipe}, converged teacher",),
            mean(reading, Group("d = 2, 4", (f"{recipe}, converged teacher",), LOW), READINGS[reading][1]),
            Rule(low=HALF) if reading == "displacement" else Rule(high=HALF),
            "after",
        )
        for recipe in RECIPES
        for reading in READINGS
    ),
    *(
        Question(
            f"convergence-over-dimension-{recipe}-{reading.replace('_', '-')}",
            "Does the teacher network's convergence decide more than the dimension?",
            f"Teacher convergence moves copying more than dimension does ({recipe}, by {READINGS[reading][1]}).",
            RIVAL,
            tuple(f"{recipe}, {teacher}" for teacher in BOTH),
            _start_over_dimension(recipe, reading),
            Rule(low=0.0),
            "after",
        )
        for recipe in RECIPES
        for reading in READINGS
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "networks", *sys.argv[1:]]))
