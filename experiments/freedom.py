"""The paper's explanation itself: does copying follow the student's geometric freedom when dimension is held still?

Network students of a mixture of eight modes in eight dimensions, by the recipe of the main sweep. What changes is how
freely a student can move: its width and depth; the linear path around it (EDM's fixed one, a trained matrix, none); and
a bottleneck of rank r in its first layer, beside which the fixed linear path remains. As in DMD2, teacher network and
fake score have the student's width, depth and bottleneck, so that the quality of the start and of the critic change
with them: the table has both. A student without a linear path is first fitted (1000 updates) to the start that it would
have with it. A bottleneck below d loses directions that a copy would need: shown, and no question asked of it.

What an arm's students can do is also measured: the freedom available to random changes of the trained parameters, used
by about the latest 100 updates while the student grows (mean of those at updates 64 to 512), used on balance from the
start to the end, and the Jacobian's effective rank over the teacher's. The same in other dimensions, for one arm; these
questions were put when three of its students (d = 2, 8, 32) had been read.
"""

from __future__ import annotations

import pandas as pd

from experiments.recipes import NETWORK
from sandbox.lab.claims import PAPER, RIVAL, Question, Rule
from sandbox.lab.correlations import rank_correlation
from sandbox.lab.effects import Group, Read, difference
from sandbox.lab.sweep import Sweep

BASE = "width 64, depth 2"
OTHER = "width 64, depth 2, other d"
NARROW = "bottleneck 4"
ARMS = {
    BASE: {},
    "width 16": {"width": 16},
    "width 32": {"width": 32},
    "width 128": {"width": 128},
    "depth 1": {"depth": 1},
    "depth 4": {"depth": 4},
    "trained linear path": {"skip": "trained"},
    "no linear path": {"skip": "off"},
    NARROW: {"bottleneck": 4},
}


def _sweep(dims: tuple[int, ...], seeds: int, other: tuple[int, ...], fewer: int, **fields) -> Sweep:
    base = {**NETWORK, "teacher_steps": 3000}
    arms = {arm: {**own, **fields} for arm, own in (ARMS | ({OTHER: {}} if other else {})).items()}
    own_axes = {OTHER: {"dim": other, "seed": tuple(range(fewer))}} if other else {}
    return Sweep("freedom", base, arms, {"dim": dims, "seed": tuple(range(seeds))}, own_axes)


PRESETS = {
    "smoke": _sweep((8,), 2, (), 0, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((8,), 6, (2, 4, 16, 32), 4),
    "full": _sweep((8, 32), 16, (2, 4, 16, 64), 16),
}

GROWING = (64, 128, 256, 512)


def used_while_growing(table: pd.DataFrame) -> pd.Series:
    """Mean freedom used by the latest updates at four checkpoints at which the student's scale rises to its law's."""
    return table.reindex(columns=[f"used_freedom_at_{step}" for step in GROWING]).astype(float).mean(axis=1)


def rank_kept(table: pd.DataFrame) -> pd.Series:
    """Effective rank of the student's Jacobian over the teacher's."""
    return table["student_effective_rank"].astype(float) / table["teacher_effective_rank"].astype(float)


FREEDOMS = {
    "available": ("end_available_freedom", "available freedom at the end"),
    "used": (used_while_growing, "freedom used while growing"),
    "net": ("net_freedom", "freedom used on balance"),
    "rank": (rank_kept, "Jacobian rank over the teacher's"),
}
COMPARED = tuple(arm for arm in ARMS if arm != NARROW)
ALIKE = Group("eight arms, d = 8", COMPARED, (8, 8))
# As in other trends, without d <= 2, where the per-sample normaliser is heavy-tailed.
OVER = Group("base arm, d = 4 to 64", (BASE, OTHER), (3, 64))


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
    *(
        Question(
            f"{name}-{where}",
            "At one dimension, do students of less measured freedom copy more?",
            f"Displacement rises with the {told}, {over}, at d = 8.",
            PAPER,
            COMPARED,
            rank_correlation(measure, "displacement", ALIKE, "rank correlation with displacement", (cluster,), within),
            Rule(low=0.2),
            "before",
        )
        for name, (measure, told) in FREEDOMS.items()
        for where, over, cluster, within in (
            ("over-arms", "over students of all arms (arms resampled)", "arm", ()),
            ("in-arms", "among students of one arm (seeds resampled)", "seed", ("arm",)),
        )
    ),
    *(
        Question(
            f"{name}-over-dimension",
            "Is there less freedom in more dimensions?",
            f"The {told} falls with the dimension, from d = 4 on.",
            PAPER,
            (BASE, OTHER),
            rank_correlation(measure, lambda table: table["dim"], OVER, "rank correlation with the dimension"),
            Rule(high=-0.2),
            "after",
        )
        for name, (measure, told) in FREEDOMS.items()
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
