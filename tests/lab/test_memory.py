"""Packs are no larger than what fits into memory."""

import os
import subprocess
import sys

import pytest

from sandbox.lab.cell import Cell
from sandbox.lab.memory import SHARE, fitting, free_bytes, student_bytes
from sandbox.lab.sweep import packs
from tests.tiny import NETWORK

WIDE = NETWORK.replace(width=256, depth=4, batch=256, fake_batch=256, dim=64, steps=2, fake_warmup=1, teacher_steps=1)
BATCH = NETWORK.replace(width=64, depth=2, batch=512, fake_batch=512, dim=16, steps=2, fake_warmup=1, teacher_steps=1)
LINEAR = Cell(dim=192, batch=512, steps=3)
# Between what a process's peak grows by with a student and the estimate.
FACTOR = 3.0

PEAK = """
import json, sys
import torch
import sandbox.lab.work as work
from sandbox.lab.cell import cell_from
from tests.blind import Blind
torch.set_num_threads(1)
work.readings = Blind
cell = cell_from(json.loads(sys.argv[1]))
work.train_pack([cell])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # imports have a peak of their own, which is forgotten here
work.train_pack([cell.replace(seed=i) for i in range(int(sys.argv[2]))])
with open("/proc/self/status") as file:
    print(next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")))
"""


def peak(cell, students):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK, cell.canonical(), str(students)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("cell", [WIDE, BATCH, LINEAR], ids=["wide", "batch", "linear"])
def test_the_estimate_is_that_of_a_process(cell):
    measured = (peak(cell, 24) - peak(cell, 8)) / 16
    assert measured / FACTOR < student_bytes(cell) < FACTOR * measured


def test_packs_fit():
    cells = [WIDE.replace(seed=i) for i in range(12)]
    three = 3 * student_bytes(WIDE) / SHARE
    assert fitting(WIDE, three * 1.01) == 3
    assert [len(p) for p in packs(cells, 12, "cuda", memory=three * 1.01)] == [3] * 4
    assert [len(p) for p in packs(cells, 12, "cuda")] == [12]
    assert [len(p) for p in packs(cells, 12, "cuda", memory=1.0)] == [1] * 12  # one is always tried


def test_there_is_memory():
    assert free_bytes() > 2**20


def test_without_the_system_file_half_of_all_is_taken(monkeypatch):
    def absent(*_):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", absent)
    assert free_bytes() == 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
