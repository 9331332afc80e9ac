"""A pack that was stopped on its way goes on to the bits that it would have reached without the stop."""

import warnings

import pytest
import torch
from tiny import NETWORK

from sandbox.lab.cell import Cell
from sandbox.lab.execute import run
from sandbox.lab.store import Store
from sandbox.lab.unfinished import Unfinished
from sandbox.lab.work import train_pack

LINEAR = Cell(dim=3, steps=12, lr=0.05, batch=8, measures="closed")
LEVELS = LINEAR.replace(sigma_law="log-grid", fake_score="levels", optimiser="adam", average=0.9, decay=0.5)
MLP = NETWORK.replace(steps=12, average=0.9, clip=0.5, beta1=0.5)


class Stopped(Exception):
    pass


def stop_at(share):
    def report(done):
        if done >= share:
            raise Stopped

    return report


def pack(cell, count=3):
    return [cell.replace(seed=i) for i in range(count)]


def assert_same(got, want):
    for (record, arrays), (expected, weights) in zip(got, want, strict=True):
        assert record == expected
        assert arrays.keys() == weights.keys()
        assert all(arrays[name].tobytes() == weights[name].tobytes() for name in arrays)


@pytest.mark.parametrize(
    "cells",
    [pack(LINEAR), pack(LEVELS), pack(MLP), [*pack(LINEAR, 2), LINEAR.replace(seed=2, lr=1e12)]],
    ids=["exact fake", "matrices", "networks", "one diverges"],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_going_on_gives_the_bits_of_never_having_stopped(cells, share, tmp_path):
    want = train_pack(cells)
    unfinished = Unfinished(tmp_path, seconds=0)
    with pytest.raises(Stopped):
        train_pack(cells, stop_at(share), unfinished=unfinished)
    assert unfinished.path(cells).exists()
    seen = []
    assert_same(train_pack(cells, seen.append, unfinished=unfinished), want)
    assert seen[0] > share - 0.1  # it did go on, and did not begin again


def test_a_pack_is_written_only_as_often_as_asked(tmp_path):
    train_pack(pack(LINEAR), unfinished=Unfinished(tmp_path, seconds=3600))
    assert not list(tmp_path.iterdir())


def test_a_worker_that_does_not_share_the_folder_trains_all_the_same(tmp_path):
    elsewhere = Unfinished(tmp_path / "elsewhere", seconds=0)
    assert_same(train_pack(pack(LINEAR), unfinished=elsewhere), train_pack(pack(LINEAR)))
    assert not elsewhere.folder.exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-200]),
        lambda path: path.write_bytes(b""),
        lambda path: torch.save({"cells": []}, path),
        lambda path: torch.save({"code": pytest.approx}, path),
    ],
    ids=["cut", "empty", "incomplete", "code"],
)
def test_a_damaged_file_is_named_and_the_pack_trained_from_its_start(damage, tmp_path):
    cells = pack(LINEAR)
    unfinished = Unfinished(tmp_path, seconds=0)
    with pytest.raises(Stopped):
        train_pack(cells, stop_at(0.5), unfinished=unfinished)
    damage(unfinished.path(cells))
    with pytest.warns(UserWarning, match=unfinished.path(cells).name):
        assert_same(train_pack(cells, unfinished=unfinished), train_pack(cells))


class TestRuns:
    @pytest.fixture
    def cells(self):
        return pack(LINEAR, 5)

    @pytest.fixture
    def left(self, cells, tmp_path):
        """A results folder in which a pack of three was under way."""
        store = Store(tmp_path)
        with pytest.raises(Stopped):
            train_pack(cells[1:4], stop_at(0.5), unfinished=Unfinished(store.unfinished, seconds=0))
        return store

    def test_a_pack_under_way_goes_on_as_it_was_and_its_file_goes(self, cells, left, tmp_path, monkeypatch):
        trained = []

        def watched(items, *rest):
            trained.append(list(items))
            return train_pack(items, *rest)

        monkeypatch.setattr("sandbox.lab.execute.train_pack", watched)
        assert run(cells, left, pack_size=2, quiet=True) == 0
        assert trained[0] == cells[1:4]
        assert sorted(c.seed for items in trained[1:] for c in items) == [0, 4]
        assert not list(left.unfinished.iterdir())
        whole = Store(tmp_path / "whole")
        run(cells, whole, quiet=True)
        for cell in cells:
            assert left.get(cell) == whole.get(cell)

    def test_one_with_students_that_are_not_asked_for_stays(self, cells, left):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert run(cells[:2], left, quiet=True) == 0
        assert len(list(left.unfinished.iterdir())) == 1
