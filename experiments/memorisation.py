"""Does a teacher that has memorised its training points make students copy?

Teachers with the law of a mixture of eight modes, and teachers that have memorised n points drawn from that mixture:
modes of standard deviation .1 per coordinate at the points, where the population's have .3. Network students from
converged networks of each, by the recipe of the main sweep, compared with their own teacher's map. Points are drawn
twice. Beyond 32 points 1024 samples cannot tell whether each has its share, and no student could pass the law gate.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.claims import PAPER, Question, Rule
from sandbox.lab.effects import Group, difference
from sandbox.lab.sweep import Sweep

POPULATION = "population"
MEMORISED = {"teacher": "memorising", "bandwidth": 0.1, "population": "random", "points_seed": lambda c: c["seed"] % 2}


def _sweep(dims: tuple[int, ...], seeds: int, points: tuple[int, ...], **fields) -> Sweep:
    arms = {POPULATION: {}} | {f"{n} points": {**MEMORISED, "points": n} for n in points}
    base = {**NETWORK, "teacher_steps": 3000, **fields}
    return Sweep("memorisation", base, arms, {"dim": dims, "seed": tuple(range(seeds))})


PRESETS = {
    "smoke": _sweep((2,), 2, (8,), width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((2, 8), 6, (8, 16)),
    "full": _sweep((2, 4, 8, 16, 32), 16, (8, 16, 32), width=128),
}

QUESTIONS = tuple(
    Question(
        f"points-{n}-{dim}",
        "Is copying no stronger where the teacher has memorised its data?",
        f"At d = {dim} students of a teacher that has memorised {n} points are not closer to its pairs than students "
        "of the population's teacher, by more than .1.",
        PAPER,
        (f"{n} points", POPULATION),
        difference(
            "displacement",
            Group(POPULATION, (POPULATION,), (dim, dim)),
            Group(f"{n} points", (f"{n} points",), (dim, dim)),
            "displacement, population's less memorised",
        ),
        Rule(high=0.1),
        "before",
    )
    for n in (8, 16)
    for dim in (2, 8)
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "memorisation", *sys.argv[1:]]))
