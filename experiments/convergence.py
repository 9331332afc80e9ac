"""Does copying begin with dimension, or with the convergence of the teacher network? A map of both.

Network students of a mixture of eight modes by the recipe of the main sweep, from teacher networks of 50 to 3000
updates on the closed-form denoiser, d = 2 to 64. Real score and reference map are the analytic ones. A student of an
imprecise teacher network may be far from the analytic map because it left its teacher's pairs, or because it kept them:
a second set of arms compares the same students with their teacher network's own map.
"""

from __future__ import annotations

from collections.abc import Iterable

from experiments.recipes import NETWORK
from sandbox.lab.claims import PAPER, RIVAL, Question, Rule
from sandbox.lab.effects import READINGS, Group, copies, difference, mean, slope
from sandbox.lab.sweep import Sweep

UPDATES = (50, 100, 200, 400, 1000, 3000)
YOUNG, CONVERGED = (50, 100), (1000, 3000)
# Teacher updates and dimensions of the students that are compared with their teacher network.
OWN = {100: (2, 8, 32), 3000: (2, 32)}
TENTH, HALF = 0.1, 0.5
# A tenth over the five doublings from d = 2 to 64.
PER_DOUBLING = 0.02


def taught(updates: Iterable[int]) -> tuple[str, ...]:
    """The arms of these numbers of teacher updates."""
    return tuple(f"{n} teacher updates" for n in updates)


def own(updates: Iterable[int]) -> tuple[str, ...]:
    """The arms of the same, compared with the teacher network's own map."""
    return tuple(f"{arm}, own map" for arm in taught(updates))


def _sweep(dims, seeds: int, own_seeds: int, updates=UPDATES, own_dims=OWN, **fields) -> Sweep:
    arms = {arm: {"teacher_steps": n} for arm, n in zip(taught(updates), updates)}
    arms |= {arm: {"teacher_steps": n, "reference": "network"} for arm, n in zip(own(own_dims), own_dims)}
    fewer = {arm: {"dim": d, "seed": tuple(range(own_seeds))} for arm, d in zip(own(own_dims), own_dims.values())}
    return Sweep("convergence", NETWORK | fields, arms, {"dim": dims, "seed": tuple(range(seeds))}, fewer)


TINY = {"width": 8, "depth": 1, "steps": 4, "fake_warmup": 4}
DIMS = (2, 4, 8, 16, 32, 64)
QUICK_DIMS = DIMS[:-1]  # at width 64 few students pass the law gate at d = 64
PRESETS = {
    "smoke": _sweep((2, 3), 2, 2, (4, 8), {4: (2,)}, **TINY),
    "quick": _sweep(QUICK_DIMS, 5, 5),
    "full": _sweep((*DIMS, 128), 16, 16, width=128),
}


def _at(dims):
    return lambda t: t["displacement"].where(t["dim"].isin(dims))


def _copies_if_signal(above: bool):
    """Whether a student copies, of those whose start's signal stands above (or not above) its error."""
    return lambda t: copies(t).where((t["start_error_ratio_between"] < 1) == above)


ANALYTIC = Group("analytic reference, all d", taught(UPDATES))
QUESTIONS = (
    *(
        Question(
            f"follows-convergence-{dim}-{reading.replace('_', '-')}",
            "Does copying follow the convergence of the teacher network?",
            f"At d = {dim} students of teachers of 1000 and 3000 updates copy more than of 50 and 100, "
            f"by {READINGS[reading][1]}.",
            PAPER,
            taught(YOUNG + CONVERGED),
            difference(
                reading,
                *(Group(f"{name}, d = {dim}", taught(updates), (dim, dim)) for name, updates in order),
                f"{READINGS[reading][1]}, towards a copy",
            ),
            Rule(low=TENTH),
            "before",
        )
        for dim in OWN[100]
        for reading, order in (
            ("displacement", (("young teachers", YOUNG), ("converged teachers", CONVERGED))),
            ("mode_agreement", (("converged teachers", CONVERGED), ("young teachers", YOUNG))),
        )
    ),
    *(
        Question(
            f"begins-at-fixed-convergence-{reading.replace('_', '-')}",
            "Does copying begin as dimension grows, at a fixed number of teacher updates?",
            f"Among students of equally long trained teachers, copying grows with d, by {READINGS[reading][1]}.",
            PAPER,
            taught(UPDATES),
            slope(reading, Group("d >= 3", taught(UPDATES), (3, 128)), f"{READINGS[reading][1]} per doubling of d"),
            rule,
            "before",
        )
        for reading, rule in (
            ("displacement", Rule(high=-PER_DOUBLING)),
            ("mode_agreement", Rule(low=PER_DOUBLING)),
        )
    ),
    *(
        Question(
            f"boundary-{side}",
            "Is the border of copying where the start's signal equals its error?",
            f"Of the students whose start's signal stands {side} its error, {what} copy.",
            RIVAL,
            taught(UPDATES),
            mean(_copies_if_signal(side == "above"), ANALYTIC, "share that copies"),
            rule,
            "before",
        )
        for side, what, rule in (
            ("above", "more than half", Rule(low=HALF)),
            ("below", "fewer than half", Rule(high=HALF)),
        )
    ),
    Question(
        "young-students-near-their-own-teacher",
        "Do students of imprecise teachers copy their teachers' own pairs?",
        "Students of 100-update teachers end nearer to their teacher network's map than to the analytic one.",
        RIVAL,
        taught((100,)) + own((100,)),
        difference(
            _at(OWN[100]),
            Group("from the analytic map", taught((100,))),
            Group("from the network's map", own((100,))),
            "displacement",
        ),
        Rule(low=TENTH),
        "before",
    ),
    Question(
        "young-students-copy-their-own-teacher",
        "Do students of imprecise teachers copy their teachers' own pairs?",
        "Students of 100-update teachers copy their teacher network's map: mean displacement below 1/2.",
        RIVAL,
        own((100,)),
        mean("displacement", Group("from the network's map", own((100,))), "displacement"),
        Rule(high=HALF),
        "before",
    ),
    Question(
        "converged-references-differ",
        "Does it matter whose map a student of a converged teacher is compared with?",
        "Students of 3000-update teachers end nearer to their teacher network's map than to the analytic one.",
        RIVAL,
        taught((3000,)) + own((3000,)),
        difference(
            _at(OWN[3000]),
            Group("from the analytic map", taught((3000,))),
            Group("from the network's map", own((3000,))),
            "displacement",
        ),
        Rule(low=TENTH),
        "before",
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "convergence", *sys.argv[1:]]))
