"""Does a teacher that has memorised its training points make students copy?

Teachers with the law of a mixture of eight modes, and teachers that have memorised n points drawn from that mixture:
components of standard deviation .1 per coordinate at the points, where the population's modes have .3. Network students
from converged networks of each, by the recipe of the main sweep, compared with their own teacher's map. Points are
drawn twice. Modes are the population's for every teacher, as far as they have points, so that the law gate and mode
agreement ask the same of students at every n; whether a student knows the points themselves, and sends z to the
teacher's, is `measure/memorisation.py`'s. In the plane 512 points lie closer to each other than the bandwidth and 4096
would say nothing more; at d = 8 they do not.
"""

from __future__ import annotations

from dataclasses import replace

from experiments.recipes import NETWORK
from sandbox.lab.claims import PAPER, Question, Rule
from sandbox.lab.effects import Effect, Group, difference, slope
from sandbox.lab.sweep import Sweep

POPULATION = "population"
MEMORISED = {"teacher": "memorising", "bandwidth": 0.1, "population": "random", "points_seed": lambda c: c["seed"] % 2}
MOST = "4096 points"
COMPARED = (8, 64, 512)


def _sweep(dims: tuple[int, ...], seeds: int, points: tuple[int, ...], **fields) -> Sweep:
    arms: dict[str, dict] = {POPULATION: {}} | {f"{n} points": {**MEMORISED, "points": n} for n in points}
    base = {**NETWORK, "teacher_steps": 3000, **fields}
    own = {MOST: {"dim": tuple(d for d in dims if d >= 8)}} if MOST in arms else {}
    return Sweep("memorisation", base, arms, {"dim": dims, "seed": tuple(range(seeds))}, own)


PRESETS = {
    "smoke": _sweep((2,), 2, (8, 16), width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((2, 8), 6, (*COMPARED, 4096)),
    "full": _sweep((2, 4, 8, 16, 32), 16, (8, 32, 128, 512, 4096), width=128),
}


def _trend(dim: int):
    """Slope of displacement per doubling of the number of points: that over `dim`, with the points in its place."""
    over_points = slope("displacement", Group(f"d = {dim}", ("memorised",)), "displacement per doubling of n")

    def read(table) -> Effect:
        mine = table[table["dim"].eq(dim) & table["arm"].ne(POPULATION)]
        found = over_points(mine.assign(arm="memorised", dim=mine["points"].astype(float)))
        named = tuple(replace(p, lost=tuple(lost.replace("d = ", "n = ") for lost in p.lost)) for p in found.parts)
        return replace(found, parts=named)

    return read


QUESTIONS = (
    *(
        Question(
            f"points-{n}-{dim}",
            "Is copying no stronger where the teacher has memorised its data?",
            f"At d = {dim} students of a teacher that has memorised {n} points are not closer to its pairs than "
            "students of the population's teacher, by more than .1.",
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
        for n, dims in (*((n, (2, 8)) for n in COMPARED), (4096, (8,)))
        for dim in dims
    ),
    *(
        Question(
            f"trend-{dim}",
            "Does copying not depend on how many points the teacher has memorised?",
            f"At d = {dim} displacement changes by less than .015 per doubling of the points (.05 per factor of ten).",
            PAPER,
            tuple(f"{n} points" for n in COMPARED) + ((MOST,) if dim == 8 else ()),
            _trend(dim),
            Rule(-0.015, 0.015),
            "before",
        )
        for dim in (2, 8)
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "memorisation", *sys.argv[1:]]))
