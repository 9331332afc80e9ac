"""A network student that trains within milliseconds: too short for any number to mean something."""

from sandbox.lab.cell import Cell

NETWORK = Cell(
    teacher="random",
    dim=2,
    student="mlp",
    fake_score="network",
    sigma_law="karras",
    optimiser="adam",
    lr=1e-3,
    width=8,
    depth=1,
    teacher_steps=5,
    teacher_batch=16,
    fake_warmup=3,
    fake_updates=2,
    fake_batch=8,
    batch=8,
    steps=6,
)
