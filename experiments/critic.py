"""Is it the fake score's lag that moves the pairing? Learned fake scores of several update ratios, and one without lag.

Network students of a mixture of eight modes from converged teachers, by the recipe of the main sweep. The fake score is
a network that makes 1, 2, 5 (DMD2) or 10 updates for each of the student's; or a mixture with the moments of 2048
samples drawn at each update (`moments`), which remembers nothing and whose score is a gradient field, but which is no
network: it can hold less, and its noise is that of its samples. In the last arm epsilon comes in antithetic pairs, at
twice the batch, so that there are as many different z.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.claims import RIVAL, Question, Rule
from sandbox.lab.effects import Group, difference
from sandbox.lab.sweep import Sweep

ARMS = {
    "1 update": {"fake_updates": 1},
    "2 updates": {"fake_updates": 2},
    "5 updates (DMD2)": {},
    "10 updates": {"fake_updates": 10},
    "moments": {"fake_score": "moments", "fake_memory": 0.0, "fake_batch": 2048},
    "antithetic": {"antithetic": True, "batch": 2 * NETWORK["batch"], "fake_batch": 2 * NETWORK["batch"]},
}


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    base = {**NETWORK, "teacher_steps": 3000, **fields}
    return Sweep("critic", base, ARMS, {"dim": dims, "seed": tuple(range(seeds))})


PRESETS = {
    "smoke": _sweep((2,), 2, width=8, depth=1, steps=4, teacher_steps=4),
    "quick": _sweep((2, 32), 6),
    "full": _sweep((2, 4, 8, 16, 32, 64), 16, width=128),
}

LAG = "Does the fake score's lag move the pairing?"

QUESTIONS = tuple(
    Question(
        f"{name}-{dim}",
        asks,
        f"At d = {dim} students {what} are closer to the teacher's pairs than with DMD2's five updates.",
        RIVAL,
        (arm, "5 updates (DMD2)"),
        difference(
            "displacement",
            Group("5 updates (DMD2)", ("5 updates (DMD2)",), (dim, dim)),
            Group(arm, (arm,), (dim, dim)),
            "displacement, DMD2's less this one's",
        ),
        Rule(low=0.1),
        "before",
    )
    for name, asks, arm, what in (
        (
            "ten-updates",
            "Would more updates of the fake score keep the pairing?",
            "10 updates",
            "of a fake score with ten",
        ),
        ("no-lag", LAG, "moments", "of a fake score without lag"),
        ("antithetic", "Does antithetic noise keep the pairing?", "antithetic", "trained with antithetic noise"),
    )
    for dim in (2, 32)
) + tuple(
    Question(
        f"one-update-{dim}",
        LAG,
        f"At d = {dim} students of a fake score with one update are further from the teacher's pairs than with DMD2's "
        "five.",
        RIVAL,
        ("1 update", "5 updates (DMD2)"),
        difference(
            "displacement",
            Group("1 update", ("1 update",), (dim, dim)),
            Group("5 updates (DMD2)", ("5 updates (DMD2)",), (dim, dim)),
            "displacement, one less five",
        ),
        Rule(low=0.1),
        "before",
    )
    for dim in (2, 32)
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "critic", *sys.argv[1:]]))
