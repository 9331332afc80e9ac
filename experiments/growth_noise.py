"""What sends a student that starts at a converged teacher elsewhere? The same starts under different training noise.

At d = 2 a converged teacher network is a start at which the exact one-step denoiser's direction is all but perfect, and
still students end at different displacements. Each seed's start and its draws are those of the same seed in every arm;
what differs is how large the noise of an update is: learning rate, batch, normaliser, and antithetic epsilon, which
removes the part of the noise that is odd in epsilon.
"""

from __future__ import annotations

from experiments.recipes import NETWORK
from sandbox.lab.claims import RIVAL, Question, Rule
from sandbox.lab.effects import Group, difference
from sandbox.lab.sweep import Sweep

ARMS = {
    "recipe": {},
    "lr / 4": {"lr": NETWORK["lr"] / 4},
    "batch x 4": {"batch": 4 * NETWORK["batch"]},
    "batch normaliser": {"normaliser": "batch"},
    "antithetic": {"antithetic": True},
    "antithetic, batch x 2": {"antithetic": True, "batch": 2 * NETWORK["batch"]},
}


def _sweep(dims: tuple[int, ...], seeds: int, **fields) -> Sweep:
    base = {**NETWORK, "teacher_steps": 3000, **fields}
    return Sweep("growth_noise", base, ARMS, {"dim": dims, "seed": tuple(range(seeds))})


PRESETS = {
    "smoke": _sweep((2,), 2, width=8, depth=1, steps=4, teacher_steps=4, fake_warmup=4),
    "quick": _sweep((2,), 16),
    "full": _sweep((2, 4, 8, 16), 16),
}

LOW = (2, 2)


def _more_than(arm: str, other: str):
    groups = Group(f"{arm}, d = 2", (arm,), LOW), Group(f"{other}, d = 2", (other,), LOW)
    return difference("displacement", *groups, "displacement, paired by seed")


QUESTIONS = (
    Question(
        "rate-loses-the-start",
        "Does the learning rate alone move copying?",
        "At d = 2 a good start is lost less at a quarter of the learning rate.",
        RIVAL,
        ("recipe", "lr / 4"),
        _more_than("recipe", "lr / 4"),
        Rule(low=0.1),
        "after",
    ),
    Question(
        "normaliser-loses-the-start",
        "Does the per-sample normaliser make students remap in few dimensions?",
        "At d = 2 students remap more with the per-sample normaliser than with a batch one.",
        RIVAL,
        ("recipe", "batch normaliser"),
        _more_than("recipe", "batch normaliser"),
        Rule(low=0.1),
        "after",
    ),
)

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "growth_noise", *sys.argv[1:]]))
