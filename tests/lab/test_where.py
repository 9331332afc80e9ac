"""Where students train: a device that is not there is refused, one that is there is used and named in the record."""

import json

import pytest
import torch

from sandbox.__main__ import main
from sandbox.lab import execute
from sandbox.lab.cell import Cell
from sandbox.lab.execute import device_named, run
from sandbox.lab.store import Store
from sandbox.lab.students import fake_on, prepare
from sandbox.lab.sweep import packs
from sandbox.lab.teach import network_of, train_networks
from sandbox.lab.unfinished import Unfinished
from sandbox.lab.work import train_pack
from sandbox.student.distill import Carried
from tests.blind import Blind
from tests.tiny import NETWORK

LINEAR = Cell(dim=2, steps=5)
needs_a_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available() is false"
)
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@needs_no_gpu
def test_without_a_device(tmp_path, capsys):
    assert device_named("auto") == "cpu"
    with pytest.raises(ValueError, match=r"device cuda is not there: torch.cuda.is_available\(\) is false"):
        run([LINEAR], Store(tmp_path / "a"), quiet=True, device="cuda")
    assert main(["run", "--preset", "smoke", "--device", "cuda", "--results", str(tmp_path / "b")]) == 2
    assert capsys.readouterr().err.strip().startswith("error: device cuda is not there")
    assert not list((tmp_path / "b").rglob("*.json.*"))
    assert not list((tmp_path / "b").rglob("cells/*"))


def test_a_device_by_another_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match="device must be one of auto, cpu, cuda, got 'tpu'"):
        run([LINEAR], Store(tmp_path), quiet=True, device="tpu")


@pytest.mark.parametrize("cell", [LINEAR, NETWORK], ids=["linear", "network"])
def test_a_record_says_where_it_was_trained(cell, monkeypatch):
    monkeypatch.setattr("sandbox.lab.work.readings", lambda cells, prepared: Blind(cells, prepared))
    ((record, _),) = train_pack([cell])
    assert record["trained"] == {"torch": torch.__version__, "device": "CPU"}


def test_networks_fill_packs_on_a_device():
    wide = NETWORK.replace(width=128, depth=4, steps=1000, batch=256, fake_batch=256, fake_updates=5)
    cells = [wide.replace(seed=i) for i in range(40)] + [LINEAR.replace(seed=i) for i in range(40)]
    on_cpu, on_gpu = (
        {
            student: [len(p) for p in packs(cells, 32, device) if p[0].student == student]
            for student in ("mlp", "linear")
        }
        for device in ("cpu", "cuda")
    )
    assert max(on_cpu["mlp"]) < 20
    assert on_gpu["mlp"] == [20, 20]  # as few packs as the limit allows, of equal size
    assert on_gpu["linear"] == on_cpu["linear"]


def test_a_pack_of_another_device_does_not_go_on_here(tmp_path):
    there, here = Unfinished(tmp_path, "cuda", seconds=0.0), Unfinished(tmp_path, "cpu", seconds=0.0)
    taken = []

    def stop(share):
        taken.append(share)
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sandbox.lab.work.readings", lambda cells, prepared: Blind(cells, prepared))
        with pytest.raises(KeyboardInterrupt):
            train_pack([NETWORK], stop, unfinished=there)
    assert there.packs([NETWORK]) == [[NETWORK]]
    assert there.read([NETWORK]) is not None
    assert here.packs([NETWORK]) == []
    assert here.read([NETWORK]) is None
    assert len(list(tmp_path.glob("*.pt"))) == 1
    here.remove([NETWORK])  # it was finished here
    assert list(tmp_path.glob("*.pt")) == []


def test_linear_students_go_on_wherever_networks_train(tmp_path):
    cells = [LINEAR]
    there, here = Unfinished(tmp_path, "cuda"), Unfinished(tmp_path, "cpu")
    assert there.path(cells) == here.path(cells)
    there.write(cells, _carried(cells), [[]])
    assert here.packs(cells) == there.packs(cells) == [cells]


def test_a_pack_from_before_devices_goes_on(tmp_path):
    here = Unfinished(tmp_path)
    here.write([NETWORK], _carried([NETWORK]), [[{"step": 0}]])
    path = here.path([NETWORK])
    content = torch.load(path, weights_only=True)
    del content["device"]
    torch.save(content, path)
    assert here.packs([NETWORK]) == [[NETWORK]]
    carried, trajectories = here.read([NETWORK])
    assert trajectories == [[{"step": 0}]]
    assert carried.step == 3
    assert Unfinished(tmp_path, "cuda").packs([NETWORK]) == []


def _carried(cells):
    one = {"w": torch.ones(len(cells), 2)}
    generators = tuple(torch.Generator().get_state() for _ in cells)
    return Carried(3, one, one, None, torch.full((len(cells),), -1), None, generators)


def test_networks_and_linear_students_are_packed_by_their_own_memory(tmp_path, monkeypatch):
    """A device's memory counts for networks, this machine's for linear students."""
    asked = []

    def free(place):
        asked.append(place)
        return 1e12

    monkeypatch.setattr(execute, "free_bytes", free)
    monkeypatch.setattr(execute, "device_named", lambda name: "cuda")
    monkeypatch.setattr(execute, "_executor", stopped)
    seen = []
    monkeypatch.setattr(
        execute,
        "packs",
        lambda cells, size, device="cpu", memory=0.0: (
            seen.append(([cell.student for cell in cells], device, memory)) or []
        ),
    )
    with pytest.raises(KeyboardInterrupt):
        run([LINEAR, NETWORK], Store(tmp_path), workers=4, quiet=True, device="cuda")
    assert sorted(asked) == ["cpu", "cuda"]
    assert seen == [(["linear"], "cpu", 1e12 / 4), (["mlp"], "cuda", 1e12 / 4)]


def stopped(*_):
    raise KeyboardInterrupt


@needs_a_gpu
def test_on_a_device(tmp_path):
    store = Store(tmp_path)
    assert run([NETWORK, LINEAR], store, quiet=True, device="cuda") == 0
    record = store.get(NETWORK)
    assert record["trained"]["device"] == torch.cuda.get_device_name()
    assert store.get(LINEAR)["trained"]["device"] == "CPU"
    assert json.dumps(record)  # numbers, not tensors


@needs_a_gpu
def test_a_start_is_the_same_on_either_device():
    """Weights are drawn and fitted networks stored on the CPU: only the training's noise is a device's own."""
    ((_, weights),) = train_networks([network_of(NETWORK)])
    cell = NETWORK.replace(fake_warmup=0)
    here, there = prepare([cell], [weights]), prepare([cell], [weights], "cuda").to("cpu")
    for name, p in here.students.parameters.items():
        assert torch.equal(p, there.students.parameters[name])
    z = torch.randn(1, 4, cell.dim)
    sigma = torch.ones(1, 4)
    ours = here.fake.denoise(here.students, z, sigma)
    theirs = fake_on(there.fake, "cpu").denoise(there.students, z, sigma)
    assert torch.equal(ours, theirs)
