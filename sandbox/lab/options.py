"""The options of a cell: what they may be, what they mean beside each other, and their values when nothing is said."""

from __future__ import annotations

from typing import Any

from sandbox.student.denoiser import SKIPS
from sandbox.student.initialise import STARTS
from sandbox.student.losses import NORMALISERS, REDUCTIONS, WEIGHTINGS
from sandbox.student.optimise import OPTIMISERS
from sandbox.teacher.families import FAMILIES

# The starts that each kind of student knows.
STUDENTS = {"linear": STARTS, "affine": STARTS, "mlp": ("teacher", "rotated", "residual", "random")}
SIGMA_LAWS = ("log-uniform", "karras", "log-grid")
FAKE_SCORES = ("exact", "levels", "network", "moments", "none")
LOSSES = ("dmd", "sid")
# Whose score stands for the real one in the loss, and whose map a student is compared with.
OWNERS = ("analytic", "network")
# closed: only what follows in closed form from a linear student's matrix, for maps of thousands of students.
MEASURES = ("all", "closed")

# Fields that are one of some words.
CHOICES = {
    "teacher": tuple(sorted(FAMILIES)),
    "student": tuple(STUDENTS),
    "skip": SKIPS,
    "fake_score": FAKE_SCORES,
    "fake_weighting": WEIGHTINGS,
    "loss": LOSSES,
    "normaliser": NORMALISERS,
    "reduction": REDUCTIONS,
    "sigma_law": SIGMA_LAWS,
    "optimiser": OPTIMISERS,
    "real_score": OWNERS,
    "reference": OWNERS,
    "measures": MEASURES,
}

# Options that belong to a family; None means the family's own default.
TEACHER_OPTIONS = (
    "variance",
    "exponent",
    "modes",
    "radius",
    "separation",
    "std",
    "teacher_seed",
    "hold",
    "held",
    "groups",
    "inner",
    "intrinsic",
    "floor",
    "share",
    "length",
    "angle",
    "points",
    "bandwidth",
    "population",
    "points_seed",
    "rank",
    "reduce",
)

# Options that only mean something beside another choice: {option: (choice, {its value: the option's default})}.
# Elsewhere they stay None and out of a cell's identity.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bins": ("sigma_law", {"log-grid": 8}),
    "beta1": ("optimiser", {"adam": 0.9}),
    "beta2": ("optimiser", {"adam": 0.999}),
    "fake_lr": ("fake_score", {"levels": 0.1, "network": 1e-3}),
    "fake_batch": ("fake_score", {"levels": 64, "network": 128, "moments": 256}),
    "fake_memory": ("fake_score", {"moments": 0.9}),
    "fake_updates": ("fake_score", {"levels": 1, "network": 5}),
    "fake_warmup": ("fake_score", {"network": 500}),
    "sid_alpha": ("loss", {"sid": 1.2}),
    "width": ("student", {"mlp": 64}),
    "depth": ("student", {"mlp": 2}),
    "teacher_steps": ("student", {"mlp": 3000}),
    "teacher_lr": ("student", {"mlp": 1e-2}),
    "teacher_batch": ("student", {"mlp": 256}),
}

# Fields that a cell's text leaves out at the value that changes nothing, so that older results keep their names.
NEUTRAL = {
    "decay": 0.0,
    "clip": 0.0,
    "average": 0.0,
    "start_error": 0.0,
    "real_score": "analytic",
    "reference": "analytic",
    "skip": "fixed",
    "sampling_steps": 1,
    "fake_weighting": "edm",
    "loss": "dmd",
    "gan": 0.0,
    "gan_critic": 1e-2,
    "gan_r1": 0.0,
    "regression": 0.0,
    "pairs": 1024,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "parts": 1,
}


LEAST = {
    "dim": 1,
    "batch": 1,
    "steps": 1,
    "seed": 0,
    "width": 1,
    "depth": 1,
    "fake_batch": 1,
    "fake_updates": 1,
    "fake_warmup": 0,
    "teacher_steps": 0,
    "teacher_batch": 1,
    "network_seed": 0,
    "start_error": 0,
    "decay": 0,
    "clip": 0,
    "average": 0,
    "bottleneck": 1,
    "sampling_steps": 1,
    "start_teacher_seed": 0,
    "fake_memory": 0,
    "gan": 0,
    "gan_critic": 0,
    "gan_r1": 0,
    "regression": 0,
    "pairs": 1,
    "momentum": 0,
    "weight_decay": 0,
    "parts": 1,
    "rotation": 0,
}

# Fields with an upper end that they may not reach.
BELOW_ONE = ("average", "momentum", "fake_memory")
