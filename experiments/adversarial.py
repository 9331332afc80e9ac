"""Does an adversarial loss change the pairing?

Network students of a mixture of eight modes from converged teachers, by the recipe of the main sweep, with DMD2's
adversarial term: none, at DMD2's nominal weight of 3e-3, and at ten times that. The critic is a head on the fake
score's last features that sees noised samples of the exact teacher (weight 1e-2 in the fake score's loss). The weight
is nominal: the distribution matching gradient is a mean over coordinates and is divided by d, the adversarial one is
not, so that at DMD2's d = 12288 the same weight is larger beside it, 6000 times than at d = 2, 400 times than at 32.

The full preset was cut to the two dimensions of the questions and to width 64 after six of its 16 seeds, the quick
preset's, had been seen and left every question open; the questions and their rules are older than both.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.claims import PAPER, Question, Rule
from sandbox.lab.effects import Group, difference
from sandbox.lab.sweep import Sweep

ARMS = {"no adversarial loss": {}, "weight .003": {"gan": 3e-3}, "weight .03": {"gan": 3e-2}}


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    base = {**NETWORK, "teacher_steps": 3000, **fields}
    return Sweep("adversarial", base, ARMS, {"dim": dims, "seed": tuple(range(seeds))})


PRESETS = {
    "smoke": _sweep((2,), 2, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((2, 32), 6),
    "full": _sweep((2, 32), 16),
}

# Within a tenth of the way from independent pairs to a copy, either way, counts as unchanged.
QUESTIONS = tuple(
    Question(
        f"{name}-{reading.replace('_', '-')}-{few}",
        "Is the pairing the same with an adversarial loss as without?",
        f"At d = {few} the pairing is the same with {arm} of the adversarial loss as without, by "
        f"{reading.replace('_', ' ')}.",
        PAPER,
        (arm, "no adversarial loss"),
        difference(
            reading,
            Group(arm, (arm,), (few, few)),
            Group("without", ("no adversarial loss",), (few, few)),
            f"{reading.replace('_', ' ')}, with less without",
        ),
        Rule(low=-0.1, high=0.1),
        "before",
    )
    for name, arm in (("weight", "weight .003"), ("tenfold", "weight .03"))
    for few in (2, 32)
    for reading in ("displacement", "mode_agreement")
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "adversarial", *sys.argv[1:]]))
