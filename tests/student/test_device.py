"""Training stays on its device and never waits for it.

Meta tensors stand in for a device's: they have a place but no numbers, so that an operation with a tensor that was left
on the CPU raises, and so does looking at a number, for which a device would have to be waited for.
"""

from types import SimpleNamespace

import pytest
import torch

from sandbox.student.denoiser import Denoiser, one_step
from sandbox.student.distill import Recipe, distill
from sandbox.student.fake import LevelFake, NetworkFake
from sandbox.student.networks import LinearStudent, Pack
from sandbox.student.optimise import SGD, Adam
from sandbox.teacher.schedule import KarrasBins, LogGrid, LogUniform

DIM, STUDENTS, BATCH = 3, 2, 4
META = torch.device("meta")


class Generator:
    """As a device's, which a machine without one cannot make."""

    device = META


def denoisers(count=STUDENTS):
    return Pack.of([Denoiser(DIM, 8, 1, torch.Generator().manual_seed(i)).to(META) for i in range(count)])


@pytest.fixture(autouse=True)
def _draws(monkeypatch):
    def draw(generators, batch, dim, antithetic, dtype):
        assert all(generator.device == META for generator in generators)
        z = torch.empty(len(generators), batch, dim, dtype=dtype, device=META)
        return z, z.clone(), z[..., 0].clone()

    def written(data, *args, **kwargs):
        # A stand-in's is made in its place; a device's would be sent there, and waited for.
        assert isinstance(data, torch.Tensor) or kwargs.get("device") != META, f"{data!r} is sent to the device"
        return as_tensor(data, *args, **kwargs)

    as_tensor = torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", written)
    monkeypatch.setattr("sandbox.student.distill.draw_noise", draw)
    monkeypatch.setattr("sandbox.student.fake.draw_noise", draw)
    # Looked at once, before training.
    monkeypatch.setattr("sandbox.student.optimise._check", lambda lr, weight_decay: None)


# Its closed form checks its numbers when it is moved; what stands for the real score here is a network.
TEACHERS = SimpleNamespace(dim=DIM, means=torch.zeros(1, DIM), to=lambda target: TEACHERS)


@pytest.mark.parametrize("fake_optimiser", [Adam(1e-3, 0.0), SGD(1e-3)], ids=["adam", "sgd"])
@pytest.mark.parametrize(
    "recipe",
    [
        {"optimiser": "adam", "average": 0.9, "decay": 0.5, "clip": 1.0, "law": KarrasBins()},
        {"optimiser": "adam", "beta1": 0.9, "law": LogUniform(), "normaliser": "batch", "antithetic": True},
        {"optimiser": "sgd", "beta1": 0.9, "law": LogGrid(), "normaliser": "off"},
    ],
    ids=["as DMD2", "adam", "sgd"],
)
@pytest.mark.parametrize("lr", [1e-3, torch.full((STUDENTS,), 1e-3)], ids=["one rate", "rates"])
def test_networks(recipe, lr, fake_optimiser):
    fake = NetworkFake.of(denoisers(), fake_optimiser, KarrasBins(first=0, last=999), DIM, batch=BATCH)
    students = one_step(denoisers())
    steps = list(
        distill(
            TEACHERS, students, Recipe(3, lr, BATCH, **recipe), [Generator(), Generator()], range(4), fake, denoisers()
        )
    )
    assert [snapshot.step for snapshot in steps] == [0, 1, 2, 3]
    assert all(p.device == META for p in steps[-1].students.parameters.values())
    assert all(p.device == META for p in steps[-1].fake.networks.parameters.values())
    assert steps[-1].diverged_at.device == META


def test_matrices():
    law = LogGrid()
    fake = LevelFake(torch.empty(STUDENTS, law.bins, DIM, DIM, device=META), law, batch=BATCH)
    students = Pack.of([LinearStudent(torch.empty(DIM, DIM)).to(META) for _ in range(STUDENTS)])
    real = denoisers()
    *_, last = distill(
        TEACHERS, students, Recipe(3, 1e-3, BATCH, law=law), [Generator(), Generator()], None, fake, real
    )
    assert last.fake.weights.device == META


def test_the_stand_in_sees_both_faults():
    with pytest.raises(RuntimeError, match="device"):
        torch.empty(2, device=META) + torch.zeros(2)
    with pytest.raises(RuntimeError, match="meta"):
        bool(torch.empty((), device=META) > 0)
