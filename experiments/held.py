"""What must grow with dimension for copying to change with it? One mixture, four things held still, three normalisers.

Network students of a mixture of eight modes from converged teacher networks, by the recipe of the main sweep. As d
grows, each arm holds something else: the scale of a coordinate (lambda_max, trace and speciation level then grow), the
largest eigenvalue of the between-mode covariance (modes of one size come nearer to each other in every coordinate), the
trace, or the speciation level sigma_S in units of the schedule's sigma_max. At d = 8 all four are one teacher, so that
these students are shared. Two more arms change the normaliser of DMD2's gradient instead: the batch's mean, or none.

When these had been seen, arms were added that ask whether what was seen at d = 2 is the dimension's doing: the same
without a normaliser at a quarter of the learning rate, and with and without one for six other mixtures, one per seed.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.claims import PAPER, RIVAL, Question, Rule
from sandbox.lab.effects import READINGS, Group, difference, mean, of_means
from sandbox.lab.sweep import Sweep
from sandbox.teacher.scaling import REFERENCE_DIM

COORDINATE = "coordinate"
OTHERS = ("lambda_max", "trace", "speciation")
# None is the family's own hold, of the coordinate: at its reference dimension all of them are one law.
HELD = {COORDINATE: {}} | {
    hold: {"hold": lambda c, hold=hold: None if c["dim"] == REFERENCE_DIM else hold} for hold in OTHERS
}
NORMALISERS = {"batch normaliser": {"normaliser": "batch"}, "no normaliser": {"normaliser": "off"}}
SLOWER = {"no normaliser, lr / 4": {"normaliser": "off", "lr": NETWORK["lr"] / 4}}
# Another draw of the means for every seed; the arms above have one mixture for all of theirs.
OTHER = {"teacher_seed": lambda c: 1 + c["seed"]}
MIXTURES = {"other mixtures": OTHER, "other mixtures, no normaliser": {**OTHER, "normaliser": "off"}}
ARMS = HELD | NORMALISERS


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    base = {**NETWORK, "teacher_steps": 3000, **fields}
    own_axes = {arm: {"dim": dims[:1]} for arm in SLOWER} | {arm: {"dim": dims[:3]} for arm in MIXTURES}
    return Sweep("held", base, ARMS | SLOWER | MIXTURES, {"dim": dims, "seed": tuple(range(seeds))}, own_axes)


PRESETS = {
    "smoke": _sweep((2, 8), 2, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((2, 4, 8, 16, 32), 6),
    "full": _sweep((2, 4, 8, 16, 32, 64, 128), 16, width=128),
}

# Few dimensions without d = 2, where the per-sample normaliser is heavy-tailed; many, where enough pass the law gate.
FEW, MANY = (4, 4), (16, 128)
TENTH = 0.1


def _ends(arm: str) -> tuple[Group, Group]:
    return Group(f"{arm}, d >= 16", (arm,), MANY), Group(f"{arm}, d = 4", (arm,), FEW)


def _gained(arm: str, reading: str):
    """How much more an arm's students copy in many dimensions than in few."""
    sign, name = READINGS[reading]
    return of_means(reading, _ends(arm), lambda m: sign * (m[:, 0] - m[:, 1]), f"{name}, towards a copy")


QUESTIONS = (
    *(
        Question(
            f"begins-{arm.replace(' ', '-').replace('_', '-')}-{reading.replace('_', '-')}",
            "Does copying begin as dimension grows, whatever is held still?",
            f"Students copy more at d >= 16 than at 4 ({arm}, by {READINGS[reading][1]}).",
            PAPER,
            (arm,),
            _gained(arm, reading),
            Rule(low=TENTH),
            "before",
        )
        for arm in ARMS
        for reading in READINGS
    ),
    *(
        Question(
            f"differs-{hold.replace('_', '-')}",
            "Does it matter what is held still as dimension grows?",
            f"From d = 4 to d >= 16 displacement changes otherwise where {hold} is held than where the coordinate is.",
            RIVAL,
            (hold, COORDINATE),
            of_means(
                "displacement",
                (*_ends(hold), *_ends(COORDINATE)),
                lambda m: abs((m[:, 0] - m[:, 1]) - (m[:, 2] - m[:, 3])),
                "displacement, difference of two changes",
            ),
            Rule(low=TENTH),
            "before",
        )
        for hold in OTHERS
    ),
    *(
        Question(
            f"begins-at-2-{arm.replace(',', '').replace(' ', '-')}",
            "Do students remap in the plane and copy in more dimensions, whatever the normaliser?",
            f"Displacement is smaller at d = 4 and 8 than at 2 by more than .1 ({arm}).",
            PAPER,
            (arm,),
            difference(
                "displacement",
                Group(f"{arm}, d = 2", (arm,), (2, 2)),
                Group(f"{arm}, d = 4, 8", (arm,), (4, 8)),
                "displacement",
            ),
            Rule(low=TENTH),
            "before" if arm in MIXTURES else "after",
        )
        for arm in (COORDINATE, *NORMALISERS, *MIXTURES)
    ),
    Question(
        "slower-copies-at-2",
        "Is it the noise of updates that remaps in the plane?",
        "Without a normaliser, students of a quarter of the learning rate copy at d = 2: displacement below 1/2.",
        RIVAL,
        tuple(SLOWER),
        mean("displacement", Group("d = 2, lr / 4", tuple(SLOWER), (2, 2)), "displacement"),
        Rule(high=0.5),
        "before",
    ),
    Question(
        "normaliser-at-4",
        "Does DMD2's per-sample normaliser keep the pairing?",
        "At d = 4 students trained without a normaliser end further from the teacher's pairs.",
        RIVAL,
        ("no normaliser", COORDINATE),
        difference(
            "displacement",
            Group("no normaliser", ("no normaliser",), FEW),
            Group("per-sample normaliser", (COORDINATE,), FEW),
            "displacement",
        ),
        Rule(low=TENTH),
        "before",
    ),
    Question(
        "normaliser-at-many",
        "Does DMD2's per-sample normaliser keep the pairing?",
        "At d >= 16 students trained without a normaliser end further from the teacher's pairs.",
        RIVAL,
        ("no normaliser", COORDINATE),
        difference(
            "displacement",
            Group("no normaliser", ("no normaliser",), MANY),
            Group("per-sample normaliser", (COORDINATE,), MANY),
            "displacement",
        ),
        Rule(low=TENTH),
        "before",
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "held", *sys.argv[1:]]))
