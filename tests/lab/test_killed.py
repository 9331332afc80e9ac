"""Runs that are killed outright, and workers that are lost."""

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
from stored import contents

from sandbox.lab import execute
from sandbox.lab.cell import Cell
from sandbox.lab.execute import run
from sandbox.lab.progress import read_status
from sandbox.lab.store import Store

ROOT = Path(execute.__file__).parents[2]

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


def test_a_pack_whose_workers_were_lost_says_so():
    class Cancelled:
        def exception(self):
            return None

    assert "the workers were lost" in str(execute._exception_of(Cancelled()))
