"""Is dimension still a cause at a matched copying number? Networks under other training noise, beside the map.

Students of converged teacher networks by the recipe of the main sweep, at other learning rates, batches and start
levels, and all students of the map of convergence that are compared with the analytic one (experiment `convergence`:
the same students, trained once). A copying number X is worked out for each of them from its start and its recipe,
before the first update and with no constant fitted. If networks of equal X end alike in few and in many dimensions,
dimension acts through X; if they do not, or if X tells no fates, X is not what decides.
"""

from __future__ import annotations

from experiments import convergence
from experiments.convergence import CONVERGED, DIMS, QUICK_DIMS, TENTH, TINY, UPDATES, taught
from experiments.recipes import NETWORK
from sandbox.lab.claims import RIVAL, Question, Rule
from sandbox.lab.effects import READINGS, Group, area, difference, mean
from sandbox.lab.matched_effects import matched_slope
from sandbox.lab.sweep import Sweep
from sandbox.theory.network_start import expected_displacement

# Levels beside the recipe's own, which the arm of 3000 teacher updates holds.
QUICK = {"lr": (1e-3, 4e-3), "batch": (32,), "sigma_init": (10.0,)}
FULL = {"lr": (5e-4, 1e-3, 4e-3, 8e-3), "batch": (32, 64, 256, 512), "sigma_init": (2.5, 5.0, 10.0, 20.0, 40.0)}
FEW_DIMS = (2, 8, 32)
NUMBERS = {"network_number": "X", "network_number_late": "X with late drift"}
# What the noise of growth is expected to leave of a start's own cosine with the exact one.
ANGLE = "kept_cosine"
TOLD = NUMBERS | {ANGLE: "the kept cosine"}


def _sweep(levels, few_dims, dims, seeds: int, updates=UPDATES, **fields) -> Sweep:
    controls = {f"{name} {v:g}": {name: v} for name, values in levels.items() for v in values}
    base = NETWORK | {"teacher_steps": max(updates)} | fields
    arms = controls | {arm: {"teacher_steps": n} for arm, n in zip(taught(updates), updates)}
    fewer = {arm: {"dim": few_dims} for arm in controls}
    return Sweep("noise", base, arms, {"dim": dims, "seed": tuple(range(seeds))}, fewer)


PRESETS = {
    "smoke": _sweep({"lr": (1e-3,), "sigma_init": (10.0,)}, (2,), (2, 3), 2, (4, 8), **TINY),
    "quick": _sweep(QUICK, FEW_DIMS, QUICK_DIMS, 5),
    "full": _sweep(FULL, DIMS, (*DIMS, 128), 16, width=128),
}

ALL = tuple(PRESETS["full"].arms)
START = ("dim", "teacher_steps", "seed")
RECIPE = taught((max(CONVERGED),))
EVERY, FROM_3 = Group("all d", ALL), Group("d >= 3", ALL, (3, 128))


def _at_few(table):
    return table["displacement"].where(table["dim"].isin(FEW_DIMS))


def _missed(number: str):
    """How far the displacement expected of a number, or of a cosine, is from the measured one."""

    def missed(table):
        known = table[number].astype(float)
        expected = 1 - known if number == ANGLE else known.map(expected_displacement, na_action="ignore").astype(float)
        return (table["displacement"] - expected).abs()

    return missed


QUESTIONS = (
    *(
        Question(
            f"recipe-{name}",
            "Does training noise decide, in networks of converged teachers?",
            f"Students end further from the teacher's pairs at {worse} than at {better}.",
            RIVAL,
            (*more, *less),
            difference(_at_few, Group(worse, more), Group(better, less), "displacement"),
            Rule(low=TENTH),
            "before",
        )
        for name, worse, more, better, less in (
            ("rate", "learning rate 4e-3", ("lr 0.004",), "learning rate 1e-3", ("lr 0.001",)),
            ("batch", "batch 32", ("batch 32",), "batch 128", RECIPE),
            ("level", "start level 80", RECIPE, "start level 10", ("sigma_init 10",)),
        )
    ),
    *(
        Question(
            f"through-{number.replace('_', '-')}-{reading.replace('_', '-')}-{first}",
            "Does dimension act on networks through the copying number alone?",
            f"At matched {what} {READINGS[reading][1]} does not change with d ({group.name}).",
            RIVAL,
            ALL,
            matched_slope(reading, number, group, START, f"{READINGS[reading][1]} per doubling of d"),
            Rule(low=-convergence.PER_DOUBLING, high=convergence.PER_DOUBLING),
            "before",
        )
        for number, what in NUMBERS.items()
        for reading in READINGS
        for first, group in (("from-2", EVERY), ("from-3", FROM_3))
    ),
    *(
        Question(
            f"tells-{number.replace('_', '-')}",
            "Does the copying number tell who copies?",
            f"Of two students of one dimension of which one copies, {what} tells which (area above .75).",
            RIVAL,
            ALL,
            area(number, EVERY, START, "area under the ROC curve"),
            Rule(low=0.75),
            "before",
        )
        for number, what in TOLD.items()
    ),
    *(
        Question(
            f"predicts-{number.replace('_', '-')}",
            "Does the copying number say how far a student ends from the teacher's pairs?",
            f"Displacement is, to within .15 on average, what {what} says, with nothing fitted.",
            RIVAL,
            ALL,
            mean(_missed(number), EVERY, "displacement, absolute difference"),
            Rule(high=0.15),
            "before",
        )
        for number, what in TOLD.items()
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "noise", *sys.argv[1:]]))
