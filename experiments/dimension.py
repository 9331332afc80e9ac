"""Does copying begin as dimension grows? Linear students, where theory says what to expect, and networks.

The loss never prefers the teacher's pairing, so whatever copying there is was decided by the start and by the noise of
the first updates. Three training protocols for the same teacher N(0, I), the same linear student with the exact fake
score and the same loss:

    lr .01, lr .04       learning rate and batch held still while d grows
    lr ~ 1/d, batch ~ d  the learning rate per coordinate falls and the batch grows with d

each from the teacher's one-step denoiser, the first two also from a random start. One more arm has an image-like
spectrum, lambda_k ~ k^-1.5 with trace d, in which leading and trailing modes can be told apart.

Two arms of networks on a mixture of eight modes, distilled as DMD2 does, from teacher networks that were fitted to the
closed-form denoiser for 3000 or for 100 updates: one recipe, two starts.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.cell import Cell
from sandbox.lab.claims import PAPER, RIVAL, Question, Rule
from sandbox.lab.effects import FEW, MANY, Group, copying_gained, difference, mean, of_means
from sandbox.lab.predict import settled_steps
from sandbox.lab.sweep import Sweep

LINEAR = {
    "teacher start, lr .01": {"lr": 0.01},
    "teacher start, lr .04": {"lr": 0.04},
    "teacher start, lr ~ 1/d, batch ~ d": {"lr": lambda c: 0.64 / c["dim"], "batch": lambda c: 4 * c["dim"]},
    "random start, lr .01": {"lr": 0.01, "start": "random"},
    "random start, lr .04": {"lr": 0.04, "start": "random"},
    "teacher start, power law, lr .02": {"lr": 0.02, "exponent": 1.5},
}
NETWORKS = {
    "network, converged teacher": {**NETWORK, "teacher_steps": 3000},
    "network, young teacher": {**NETWORK, "teacher_steps": 100},
}

BASE = {"teacher": "gaussian", "normaliser": "per-sample", "batch": 64}


def _steps(cell: Cell) -> int:
    """A linear student trains until its law is settled, a network as long as its recipe says."""
    return cell.steps if cell.student == "mlp" else settled_steps(cell)


def _sweep(
    dims: tuple[int, ...], seeds: int, network_dims: tuple[int, ...], network_seeds: int, **network_fields
) -> Sweep:
    arms = {**LINEAR, **{arm: {**fields, **network_fields} for arm, fields in NETWORKS.items()}}
    own_axes = {arm: {"dim": network_dims, "seed": tuple(range(network_seeds))} for arm in NETWORKS}
    return Sweep("dimension", BASE, arms, {"dim": dims, "seed": tuple(range(seeds))}, own_axes, {"steps": _steps})


PRESETS = {
    "smoke": _sweep((1, 2, 4), 2, (2,), 2, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    # Half of the recipe's updates, to fit into minutes.
    "quick": _sweep((1, 2, 4, 8, 16, 32, 48), 8, (2, 4, 8, 16, 32), 6, steps=1000),
    # Networks at least as wide as the data: a narrower one cannot fill every direction of the law.
    "full": _sweep(
        (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128), 16, (1, 2, 4, 8, 16, 32, 64, 128), 16, width=128
    ),
}

# A tenth of the way from independent pairs (displacement 1, mode agreement 0) to a copy (0 and 1).
TENTH = 0.1
BEGINS = "Does copying begin as dimension grows, in {}?"
READ = [(arm, "displacement") for arm in (*LINEAR, *NETWORKS)] + [(arm, "mode_agreement") for arm in NETWORKS]
FIXED, SCALED, RANDOM = "teacher start, lr .01", "teacher start, lr ~ 1/d, batch ~ d", "random start, lr .01"
ENDS = [
    Group(f"{arm}, {name}", (arm,), dims)
    for arm in (FIXED, SCALED)
    for name, dims in (("d = 3, 4", FEW), ("d >= 32", MANY))
]

QUESTIONS = (
    *(
        Question(
            f"begins-{i}-{reading.replace('_', '-')}",
            BEGINS.format("networks" if arm in NETWORKS else "linear students"),
            f"Students copy more in many dimensions than in few ({arm}, by {reading.replace('_', ' ')}).",
            PAPER,
            (arm,),
            copying_gained(arm, reading),
            Rule(low=TENTH),
            "after",
        )
        for i, (arm, reading) in enumerate(READ, 1)
    ),
    Question(
        "dimension-is-the-cause",
        "In linear students, is dimension itself the cause?",
        "Copying changes with dimension alike whether the learning rate and batch are fixed or scale with d.",
        PAPER,
        (FIXED, SCALED),
        of_means("displacement", ENDS, lambda m: (m[:, 1] - m[:, 0]) - (m[:, 3] - m[:, 2]), "displacement, change"),
        Rule(low=-TENTH, high=TENTH),
        "after",
    ),
    Question(
        "start-at-few-dimensions",
        "Does the start decide?",
        "In few dimensions a random start ends further from the teacher's pairs than the teacher's start does.",
        RIVAL,
        (FIXED, RANDOM),
        difference(
            "displacement",
            Group("random start, d = 3, 4", (RANDOM,), FEW),
            Group("teacher start, d = 3, 4", (FIXED,), FEW),
            "displacement",
        ),
        Rule(low=TENTH),
        "after",
    ),
    Question(
        "random-start-copies",
        "Does a random start end in a copy where dimension is high?",
        "In many dimensions students copy from a random start too: displacement below 1/2 at d >= 32.",
        PAPER,
        (RANDOM,),
        mean("displacement", Group("d >= 32", (RANDOM,), MANY), "displacement"),
        Rule(high=0.5),
        "after",
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "dimension", *sys.argv[1:]]))
