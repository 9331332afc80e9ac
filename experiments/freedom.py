"""The paper's explanation itself: does copying follow the student's geometric freedom when dimension is held still?

Network students of a mixture of eight modes in eight dimensions, by the recipe of the main sweep. What changes is how
freely a student can move: its width and depth; the linear path around it (EDM's fixed one, a trained matrix, none); and
a bottleneck of rank r in its first layer, beside which the fixed linear path remains. As in DMD2, teacher network and
fake score have the student's width, depth and bottleneck, so that the quality of the start and of the critic change
with them: the table has both. A student without a linear path is first fitted (1000 updates) to the start that it would
have with it. A bottleneck below d loses directions that a copy would need: shown, and no question asked of it.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.claims import PAPER, RIVAL, Question, Rule
from sandbox.lab.effects import Group, Read, difference
from sandbox.lab.sweep import Sweep

BASE = "width 64, depth 2"
ARMS = {
    BASE: {},
    "width 16": {"width": 16},
    "width 32": {"width": 32},
    "width 128": {"width": 128},
    "depth 1": {"depth": 1},
    "depth 4": {"depth": 4},
    "trained linear path": {"skip": "trained"},
    "no linear path": {"skip": "off"},
    "bottleneck 4": {"bottleneck": 4},
}


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    base = {**NETWORK, "teacher_steps": 3000}
    arms = {arm: {**own, **fields} for arm, own in ARMS.items()}
    return Sweep("freedom", base, arms, {"dim": dims, "seed": tuple(range(seeds))})


PRESETS = {
    "smoke": _sweep((8,), 2, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((8,), 6),
    "full": _sweep((8, 32), 16),
}


def _between(tight: str, free: str) -> Read:
    """Displacement of the freer students less that of the others."""
    return difference(
        "displacement", Group(free, (free,), (8, 8)), Group(tight, (tight,), (8, 8)), "displacement, freer less tighter"
    )


LESS = "At one dimension, does less freedom mean more copying?"

QUESTIONS = (
    *(
        Question(
            name,
            LESS,
            f"Students {less} end closer to the teacher's pairs than students {more}, at d = 8.",
            PAPER,
            (tight, free),
            _between(tight, free),
            Rule(low=0.05),
            "before",
        )
        for name, tight, less, free, more in (
            ("width", "width 16", "of width 16, like their teacher networks and fake scores,", "width 128", "of 128"),
            ("depth", "depth 1", "of one block, like their teacher networks and fake scores,", "depth 4", "of four"),
            ("trained-path", BASE, "with a fixed linear path", "trained linear path", "with a trained one"),
        )
    ),
    Question(
        "no-linear-path",
        "At one dimension, is the linear path indifferent?",
        "Students without EDM's fixed linear path, started alike, end as close to the teacher's pairs as with it.",
        RIVAL,
        ("no linear path", BASE),
        _between(BASE, "no linear path"),
        Rule(low=-0.05, high=0.05),
        "before",
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "freedom", *sys.argv[1:]]))
