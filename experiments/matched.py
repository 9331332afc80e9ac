"""With equally good starts, is dimension still a cause? A known error is added to converged starts, dimension by
dimension.

Network students from converged teacher networks, whose start is given an error of a chosen size over the exact start's
signal. If the curves of displacement against the quality of the start lie on each other, dimension acts through the
start alone. Two more arms: the exact start (the closed-form denoiser plus a network that is zero at first), and a start
at a low noise level, where the one-step denoiser already has a tenth to a third of the teacher's variance, and next to
none at level 80.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.claims import RIVAL, Question, Rule
from sandbox.lab.effects import Group, difference, mean
from sandbox.lab.sweep import Sweep

ERRORS = (0.0, 0.5, 1.0, 2.0, 4.0)
ARMS = {
    "added error": {},
    "exact start": {"start": "residual"},
    "start at sigma 2.5": {"sigma_init": 2.5},
}


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    base = {**NETWORK, "teacher_steps": 3000, **fields}
    own_axes = {"added error": {"dim": dims, "start_error": ERRORS, "seed": tuple(range(seeds))}}
    return Sweep("matched", base, ARMS, {"dim": dims, "seed": tuple(range(seeds))}, own_axes)


PRESETS = {
    "smoke": _sweep((2,), 1, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((2, 8, 32), 5),
    "full": _sweep((2, 4, 8, 16, 32, 64), 16),
}

EVERY = (1, 128)

QUESTIONS = (
    *(
        Question(
            f"matched-error-{error:g}",
            "Does dimension act on networks through the quality of the start alone?",
            f"At an error of the start of {error:g} signals, displacement is the same at d = 2 and 32.",
            RIVAL,
            ("added error",),
            difference(
                "displacement",
                *(
                    Group(f"d = {d}, error {error:g}", ("added error",), (d, d), (("start_error", error),))
                    for d in (32, 2)
                ),
                "displacement",
            ),
            Rule(low=-0.1, high=0.1),
            "after",
        )
        for error in ERRORS[:-1]
    ),
    *(
        Question(
            name,
            "Is a good first output enough for a copy?",
            f"Students copy: mean displacement below 1/2 ({arm}).",
            RIVAL,
            (arm,),
            mean("displacement", Group("all d", (arm,), EVERY), "displacement"),
            Rule(high=0.5),
            "after",
        )
        for name, arm in (("exact-start-copies", "exact start"), ("low-level-start-copies", "start at sigma 2.5"))
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "matched", *sys.argv[1:]]))
