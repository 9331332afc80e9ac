"""Executors: whatever the order, the packs, the workers and the interruptions, the stored numbers are the same."""

import json
import os
import random
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from sandbox.lab import execute
from sandbox.lab.cell import Cell
from sandbox.lab.execute import run
from sandbox.lab.progress import read_status
from sandbox.lab.store import Store

ROOT = Path(execute.__file__).parents[2]

CELLS = [
    *(Cell(dim=2, steps=6, seed=i) for i in range(3)),
    Cell(dim=2, steps=6, start="random", lr=0.05),
    Cell(dim=2, steps=6, start="rotated", variance=2.0, seed=1),
    *(Cell(dim=3, steps=5, exponent=1.5, batch=8, seed=i) for i in range(2)),
]


def contents(store, cells):
    """Everything a store says of its cells: the JSON files' bytes and the arrays' bits."""
    found = {}
    for cell in cells:
        arrays = store.arrays(cell)
        found[cell.key] = (
            (store.folder / f"{cell.key}.json").read_bytes(),
            {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()},
        )
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("uninterrupted"))
    assert run(CELLS, store, pack_size=3, quiet=True) == 0
    return contents(store, CELLS)


@pytest.mark.parametrize("size", [1, 16])
def test_the_size_of_a_pack_changes_no_bit(tmp_path, uninterrupted, size):
    store = Store(tmp_path)
    run(CELLS, store, pack_size=size, quiet=True)
    assert contents(store, CELLS) == uninterrupted


def test_a_resumed_sweep_equals_an_uninterrupted_one(tmp_path, uninterrupted, monkeypatch):
    store, real, done = Store(tmp_path), execute.train_pack, []

    def interrupted(pack, report):
        if done:
            raise KeyboardInterrupt
        done.append(len(pack))
        return real(pack, report)

    monkeypatch.setattr(execute, "train_pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(CELLS, store, pack_size=3, quiet=True)
    left = store.missing(CELLS)
    assert len(CELLS) - len(left) == done[0] > 0
    assert read_status(tmp_path / "status.json")["state"] == "interrupted"

    trained = []
    monkeypatch.setattr(execute, "train_pack", lambda pack, report: trained.extend(pack) or real(pack, report))
    assert run(CELLS, store, pack_size=2, quiet=True) == 0
    assert sorted(c.key for c in trained) == sorted(c.key for c in left)
    assert contents(store, CELLS) == uninterrupted
    assert read_status(tmp_path / "status.json")["state"] == "finished"


def test_a_finished_sweep_trains_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    run(CELLS[:1], store, quiet=True)

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(execute, "train_pack", never)
    assert run(CELLS[:1] * 2, store, quiet=True) == 0


def test_a_damaged_record_is_trained_again(tmp_path):
    store, cell = Store(tmp_path), CELLS[0]
    run([cell], store, quiet=True)
    before = contents(store, [cell])
    (store.folder / f"{cell.key}.json").write_text("{")
    with pytest.warns(UserWarning, match="damaged"):
        run([cell], store, quiet=True)
    assert contents(store, [cell]) == before


def test_a_pack_that_fails_does_not_cost_the_others(tmp_path, monkeypatch, capsys, uninterrupted):
    store, real = Store(tmp_path), execute.train_pack

    def fragile(pack, report):
        if any(cell.start == "random" for cell in pack):
            raise RuntimeError("planted")
        return real(pack, report)

    monkeypatch.setattr(execute, "train_pack", fragile)
    failed = run(CELLS, store, pack_size=1, quiet=True)
    assert failed == 1
    assert [cell.start for cell in store.missing(CELLS)] == ["random"]
    assert "RuntimeError: planted" in capsys.readouterr().err
    assert read_status(tmp_path / "status.json")["failed"] == 1
    others = [cell for cell in CELLS if cell.start != "random"]
    assert contents(store, others) == {key: v for key, v in uninterrupted.items() if key in {c.key for c in others}}


def test_a_student_that_diverges_is_a_result(tmp_path, uninterrupted):
    wild = Cell(dim=2, steps=6, lr=1e12)
    store = Store(tmp_path)
    assert run([wild, *CELLS[:2]], store, quiet=True) == 0
    record = store.get(wild)
    assert (record["status"], record["measures"]) == ("diverged", {})
    assert 1 <= record["diverged_at"] <= 6
    # It rode in one pack with these.
    assert contents(store, CELLS[:2]) == {c.key: uninterrupted[c.key] for c in CELLS[:2]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"pack_size": 0}, "pack must be >= 1, got 0"),
    ],
)
def test_bad_options_are_named(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(CELLS[:1], Store(tmp_path), quiet=True, **options)


@pytest.mark.slow
def test_two_workers_give_the_same_bits(tmp_path, uninterrupted):
    store = Store(tmp_path)
    assert run(CELLS, store, workers=2, pack_size=3, quiet=True) == 0
    assert contents(store, CELLS) == uninterrupted


SWEEP = [Cell(dim=2, steps=400, lr=lr, seed=seed) for lr in (0.01, 0.02) for seed in range(12)]
MARK = "SANDBOX_TEST_RUN"
# What `python -m sandbox run` does, without the plotting libraries that it would spend its seconds on.
DRIVER = """
import json, sys
from sandbox.lab.cell import cell_from
from sandbox.lab.execute import run
from sandbox.lab.store import Store
cells = [cell_from(fields) for fields in json.loads(sys.argv[3])]
run(cells, Store(sys.argv[1]), workers=int(sys.argv[2]), pack_size=2, quiet=True)
"""


def start(results, workers, mark):
    cells = json.dumps([json.loads(cell.canonical()) for cell in SWEEP])
    command = [sys.executable, "-c", DRIVER, str(results), str(workers), cells]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, MARK: mark, "OMP_NUM_THREADS": "1"},
    )


def alive(mark):
    """Every process that a run has left, known by what it inherited; a zombie has ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def finished(folder):
    return {path.name: path.read_bytes() for path in folder.glob("cells/*.json")}


def wait_for_start(process, results):
    """Until the run says that it has begun: kills during the imports would only test the imports."""
    for _ in range(600):
        last = read_status(results / "status.json")
        if process.poll() is not None or (last and last["pid"] == process.pid):
            return
        time.sleep(0.05)
    raise AssertionError("the run did not begin")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("whole"))
    run(SWEEP, store, pack_size=2, quiet=True)
    return contents(store, SWEEP)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "times", "latest"), [(1, 6, 1.5), (2, 4, 5.0)])
def test_killed_runs_lose_nothing_and_leave_nobody(tmp_path, whole, workers, times, latest):
    # Two workers take seconds to come up; the moments reach from before the first result to the middle of the run.
    moments = random.Random(workers)
    killed = 0
    for _ in range(times):
        mark = uuid.uuid4().hex
        process = start(tmp_path, workers, mark)
        wait_for_start(process, tmp_path)
        time.sleep(moments.uniform(0.0, latest))
        before = finished(tmp_path)
        killed += process.poll() is None
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while (left := alive(mark)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left == []
        after = finished(tmp_path)
        assert before.items() <= after.items()
        # Nothing half-written under a final name, and no record without its weights.
        assert all(content == whole[name.removesuffix(".json")][0] for name, content in after.items())
        assert all((tmp_path / "cells" / name).with_suffix(".npz").exists() for name in after)
    assert killed >= 1
    store = Store(tmp_path)
    assert run(SWEEP, store, pack_size=2, quiet=True) == 0
    assert contents(store, SWEEP) == whole
