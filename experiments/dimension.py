"""Does copying begin as dimension grows? Linear students with the exact fake score, where theory says what to expect.

The loss never prefers the teacher's pairing, so whatever copying there is was decided by the start and by the noise of
the first updates. Three training protocols for the same teacher N(0, I), the same student and the same loss:

    lr .01, lr .04       learning rate and batch held still while d grows
    lr ~ 1/d, batch ~ d  the learning rate per coordinate falls and the batch grows with d

each from the teacher's one-step denoiser, the first two also from a random start. One more arm has an image-like
spectrum, lambda_k ~ k^-1.5 with trace d, in which leading and trailing modes can be told apart.
"""

from __future__ import annotations

from sandbox.lab.predict import settled_steps
from sandbox.lab.sweep import Sweep

ARMS = {
    "teacher start, lr .01": {"lr": 0.01},
    "teacher start, lr .04": {"lr": 0.04},
    "teacher start, lr ~ 1/d, batch ~ d": {"lr": lambda c: 0.64 / c["dim"], "batch": lambda c: 4 * c["dim"]},
    "random start, lr .01": {"lr": 0.01, "start": "random"},
    "random start, lr .04": {"lr": 0.04, "start": "random"},
    "teacher start, power law, lr .02": {"lr": 0.02, "exponent": 1.5},
}

BASE = {"teacher": "gaussian", "normaliser": "per-sample", "batch": 64}
DERIVED = {"steps": settled_steps}


def _sweep(dims: tuple[int, ...], seeds: int) -> Sweep:
    return Sweep("dimension", BASE, ARMS, {"dim": dims, "seed": tuple(range(seeds))}, DERIVED)


PRESETS = {
    "smoke": _sweep((1, 2, 4), 2),
    "quick": _sweep((1, 2, 4, 8, 12, 16, 24, 32, 64), 16),
    "full": _sweep((1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128), 64),
}

if __name__ == "__main__":
    import sys

    from sandbox.__main__ import main

    sys.exit(main(["run", "--experiment", "dimension", *sys.argv[1:]]))
