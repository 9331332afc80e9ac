"""Does a network student's start decide whether it copies? Its fate against what is known before the first update.

Network students of one recipe from teacher networks of very different convergence (50 to 3000 updates on the
closed-form denoiser), at three learning rates: each student's start is compared with the exact one-step denoiser, and
each recipe's noise with its gradient, before it trains. Whether the student then copies is counted afterwards.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.claims import RIVAL, Question, Rule
from sandbox.lab.effects import Group, area
from sandbox.lab.sweep import Sweep


def _sweep(
    seeds: dict[tuple[int, ...], int], convergence: tuple[int, ...], rates: tuple[float, ...], **fields
) -> Sweep:
    """seeds: starts per convergence, for dimensions that have the same number."""
    arms, own_axes = {}, {}
    for dims, count in seeds.items():
        for lr in rates:
            arm = f"lr {lr:g}, d = {', '.join(map(str, dims))}"
            arms[arm] = {**NETWORK, "lr": lr, **fields}
            own_axes[arm] = {"dim": dims, "teacher_steps": convergence, "seed": tuple(range(count))}
    return Sweep("start_decides", {}, arms, {}, own_axes)


CONVERGENCE = (50, 100, 200, 400, 3000)
RATES = (5e-4, 1e-3, 2e-3)

PRESETS = {
    "smoke": _sweep({(2,): 2}, (4, 8), (1e-3, 2e-3), width=8, depth=1, steps=4, fake_warmup=4),
    # At d = 8 half of the students fail the law gate.
    "quick": _sweep({(2, 4): 5, (8,): 10}, CONVERGENCE, RATES),
    "full": _sweep({(2, 4, 8, 16, 32): 16}, CONVERGENCE, RATES),
}

ALL = tuple(PRESETS["quick"].arms)
# Three students, one per learning rate, share a start.
START = ("teacher_steps", "seed")

QUESTIONS = tuple(
    Question(
        name,
        asks,
        claim,
        RIVAL,
        ALL,
        area("start_cosine_between", Group("all students", ALL), START, "area under the ROC curve"),
        Rule(low=least),
        "after",
    )
    for name, asks, claim, least in (
        ("start-tells", "Does the start decide?", "The start tells who will copy (area above .75).", 0.75),
        ("start-alone", "Does the start alone decide?", "The start alone decides who copies (area above .95).", 0.95),
    )
)
