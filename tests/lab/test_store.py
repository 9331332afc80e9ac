"""The store keeps finished students whole, whatever else lies in its folder."""

import json
import os
import warnings

import numpy as np
import pytest

from sandbox.lab import store as stores
from sandbox.lab.cell import Cell
from sandbox.lab.store import Store, StoreError, write_atomically, write_json

RECORD = {"status": "done", "measures": {"displacement": 0.1 + 0.2, "kappa": None}, "trajectory": [{"step": 0}]}
ARRAYS = {"weight": np.random.default_rng(0).standard_normal((3, 3)), "rotation": np.eye(3)}


def listing(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_what_is_put_is_got_back_exactly(tmp_path):
    cell = Cell(seed=3)
    store = Store(tmp_path / "results")
    assert cell not in store
    store.put(cell, RECORD, ARRAYS)
    again = Store(tmp_path / "results", create=False)
    record = again.get(cell)
    assert record == {**RECORD, "cell": json.loads(cell.canonical())}
    arrays = again.arrays(cell)
    assert set(arrays) == set(ARRAYS)
    assert all(arrays[name].tobytes() == ARRAYS[name].tobytes() for name in ARRAYS)
    assert again.missing([Cell(seed=2), cell, Cell(seed=1)]) == [Cell(seed=2), Cell(seed=1)]
    assert listing(tmp_path / "results") == [f"cells/{cell.key}.json", f"cells/{cell.key}.npz", "schema.json"]


def test_an_absent_folder_is_empty_and_stays_absent(tmp_path):
    store = Store(tmp_path / "none", create=False)
    assert store.get(Cell()) is None
    assert store.missing([Cell()]) == [Cell()]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    write_json(tmp_path / "a.json", {"old": 1})

    def half(file):
        file.write(b"half of the n")
        raise failure

    with pytest.raises(type(failure)):
        write_atomically(tmp_path / "a.json", half)
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert listing(tmp_path) == ["a.json"]


def test_a_student_counts_only_once_its_json_is_there(tmp_path, monkeypatch):
    store, cell = Store(tmp_path), Cell()

    def fail(path, content):
        raise OSError("disk full")

    monkeypatch.setattr(stores, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        store.put(cell, RECORD, ARRAYS)
    assert cell not in store
    # The weights came first: a JSON never stands without them.
    assert (tmp_path / "cells" / f"{cell.key}.npz").exists()


def test_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    write_json(tmp_path / "a.json", {})
    assert order == ["fsync", "replace"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"status": "do',
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe\x00",
        b'{"status": "running"}',
    ],
)
def test_a_damaged_record_is_named_and_skipped(tmp_path, content):
    store, good, bad = Store(tmp_path), Cell(seed=1), Cell(seed=2)
    store.put(good, RECORD, ARRAYS)
    store.put(bad, RECORD, ARRAYS)
    path = tmp_path / "cells" / f"{bad.key}.json"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{bad.key}.json is damaged and was skipped"):
        assert store.missing([good, bad]) == [bad]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get(good)["measures"] == RECORD["measures"]
    assert path.read_bytes() == content  # it may still be of use to somebody


def test_a_record_under_another_cells_name_is_not_taken(tmp_path):
    store = Store(tmp_path)
    store.put(Cell(seed=1), RECORD, ARRAYS)
    moved = tmp_path / "cells" / f"{Cell(seed=2).key}.json"
    moved.write_bytes((tmp_path / "cells" / f"{Cell(seed=1).key}.json").read_bytes())
    with pytest.warns(UserWarning, match="does not belong to its name"):
        assert Cell(seed=2) not in store


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 half a zip", b"text"])
def test_missing_or_damaged_arrays_are_named(tmp_path, content):
    store, cell = Store(tmp_path), Cell()
    store.put(cell, RECORD, ARRAYS)
    path = tmp_path / "cells" / f"{cell.key}.npz"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StoreError, match=f"{cell.key}.npz cannot be read"):
        store.arrays(cell)


def test_cut_off_arrays_are_named(tmp_path):
    store, cell = Store(tmp_path), Cell()
    store.put(cell, RECORD, ARRAYS)
    path = tmp_path / "cells" / f"{cell.key}.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StoreError, match=f"{cell.key}.npz cannot be read"):
        store.arrays(cell)


def test_altered_arrays_are_named(tmp_path):
    store, cell = Store(tmp_path), Cell()
    store.put(cell, RECORD, ARRAYS)
    path = tmp_path / "cells" / f"{cell.key}.npz"
    data = bytearray(path.read_bytes())
    data[data.index(ARRAYS["weight"].tobytes()) + 5] ^= 0xFF  # one byte of the weights: the archive's checksum sees it
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=f"{cell.key}.npz cannot be read"):
        store.arrays(cell)


WEIGHTS = {"net.inward": np.random.default_rng(1).standard_normal((3, 2)).astype("float32")}
NETWORK = {"cell": {"dim": 2}, "seed": 1, "levels": [0.1, 80.0], "error": [0.1 + 0.2, 1e-30]}


def test_a_network_is_got_back_exactly(tmp_path):
    assert Store(tmp_path / "results").network("abc") is None
    Store(tmp_path / "results").put_network("abc", NETWORK, WEIGHTS)
    again = Store(tmp_path / "results", create=False)
    record, weights = again.network("abc")
    assert record == NETWORK
    assert {name: (w.dtype, w.tobytes()) for name, w in weights.items()} == {
        name: (w.dtype, w.tobytes()) for name, w in WEIGHTS.items()
    }
    assert again.network("abd") is None
    assert listing(tmp_path / "results") == ["networks/abc.json", "networks/abc.npz", "schema.json"]


def test_a_folder_without_networks_has_none(tmp_path):
    """As it was written before there were any."""
    store = Store(tmp_path)
    store.put(Cell(), RECORD, ARRAYS)
    store.networks.rmdir()
    assert Store(tmp_path, create=False).network("abc") is None
    Store(tmp_path).put_network("abc", NETWORK, WEIGHTS)
    assert Cell() in Store(tmp_path)
    assert Store(tmp_path).network("abc") is not None


def test_a_network_counts_only_once_its_json_is_there(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def fail(path, content):
        raise OSError("disk full")

    monkeypatch.setattr(stores, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        store.put_network("abc", NETWORK, WEIGHTS)
    assert store.network("abc") is None
    assert listing(tmp_path) == ["networks/abc.npz", "schema.json"]


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".json", b""),
        (".json", b'{"levels": [0.'),
        (".json", b"\xff\xfe\x00"),
        (".npz", None),
        (".npz", b""),
        (".npz", b"PK\x03\x04 half a zip"),
        (".npz", b"text"),
    ],
)
def test_a_damaged_network_is_named_and_skipped(tmp_path, suffix, content):
    store = Store(tmp_path)
    for key in ("good", "bad"):
        store.put_network(key, NETWORK, WEIGHTS)
    path = tmp_path / "networks" / f"bad{suffix}"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.warns(UserWarning, match="bad.json is damaged and was skipped"):
        assert store.network("bad") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.network("good")[0] == NETWORK
    # Trained again, it takes the damaged one's place.
    store.put_network("bad", NETWORK, WEIGHTS)
    assert store.network("bad")[1]["net.inward"].tobytes() == WEIGHTS["net.inward"].tobytes()


@pytest.mark.parametrize("create", [True, False])
def test_another_schema_version_is_refused_with_what_to_do(tmp_path, create):
    (tmp_path / "schema.json").write_text('{"schema_version": 7}')
    with pytest.raises(StoreError, match=r"version 7.*version 1; move the folder away or choose another .*--results"):
        Store(tmp_path, create)
    assert listing(tmp_path) == ["schema.json"]


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema_version"'])
def test_a_damaged_schema_is_refused_with_what_to_do(tmp_path, content):
    (tmp_path / "schema.json").write_text(content)
    with pytest.raises(StoreError, match=r'schema.json is damaged.*write \{"schema_version": 1\} into it'):
        Store(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for root in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(StoreError, match=f"results folder {root} cannot be written"):
            Store(root)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("status", ["running", "failed", None])
def test_an_unfinished_student_is_not_stored(tmp_path, status):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match=f"status must be one of done, diverged, got {status!r}"):
        store.put(Cell(), {**RECORD, "status": status}, ARRAYS)
    assert listing(tmp_path) == ["schema.json"]


def test_a_number_that_json_does_not_have_is_not_stored(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="JSON"):
        store.put(Cell(), {**RECORD, "measures": {"displacement": float("nan")}}, ARRAYS)
    assert Cell() not in store
