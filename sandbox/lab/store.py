"""The result store: one JSON file per finished student, written whole or not at all.

    <root>/schema.json               what the folder is
    <root>/cells/<key>.json          a finished student: its cell, status and numbers
    <root>/cells/<key>.npz           its trained weights, written before the JSON
    <root>/networks/<key>.json, .npz a teacher network: how far from its teacher it ended, and its weights
    <root>/unfinished/               packs under way (see `unfinished`)

A student is finished when its JSON exists. Files are written beside their place, flushed to disk and renamed, so that a
killed run leaves finished students and nothing half-written under a final name. A damaged file is named and skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from sandbox.lab.cell import Cell, cell_from

SCHEMA_VERSION = 1
FINISHED = ("done", "diverged")


class StoreError(ValueError):
    """The results folder cannot be used; the message says why and what to do."""


def write_atomically(path: Path, write: Callable) -> None:
    """Calls write(binary file) on a temporary file in the same folder, then renames it to path."""
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes atomically."""
    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path, content) -> None:
    """Writes JSON atomically: sorted keys, no NaN (absent values are null)."""
    text = json.dumps(content, sort_keys=True, allow_nan=False, indent=1)
    write_bytes(path, text.encode())


class Store:
    """A results folder.

    Args:
        root: the folder. create: make it if it is not there; with False an absent folder is empty.
    Raises:
        StoreError: the folder cannot be written, is of another schema version, or is no results folder.
    """

    def __init__(self, root: str | Path, create: bool = True):
        self.root = Path(root)
        self.folder = self.root / "cells"
        self.networks = self.root / "networks"
        self.unfinished = self.root / "unfinished"
        schema = self.root / "schema.json"
        if schema.exists():
            try:
                version = json.loads(schema.read_text())["schema_version"]
            except (ValueError, KeyError, TypeError, OSError):
                raise StoreError(
                    f"{schema} is damaged; if {self.root} holds results of this project, write "
                    f'{{"schema_version": {SCHEMA_VERSION}}} into it'
                ) from None
            if version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.root} holds results of schema version {version}, this program reads version "
                    f"{SCHEMA_VERSION}; move the folder away or choose another one with --results"
                )
        if create:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.networks.mkdir(exist_ok=True)
                self.unfinished.mkdir(exist_ok=True)
                if not schema.exists():
                    write_json(schema, {"schema_version": SCHEMA_VERSION})
                else:  # a folder that can no longer be written is found now, not after an hour's training
                    write_atomically(self.root / ".writable", lambda file: None)
                    (self.root / ".writable").unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"results folder {self.root} cannot be written: {error.strerror or error}") from None

    def __contains__(self, cell: Cell) -> bool:
        return self.get(cell) is not None

    def get(self, cell: Cell) -> dict | None:
        """The record of a finished student, or None."""
        path = self.folder / f"{cell.key}.json"
        return self._read(path) if path.exists() else None

    def teachers(self) -> set[str]:
        """The teachers' families of all students that are there, finished or damaged: cheap to know."""
        found = set()
        for path in self.folder.glob("*.json"):
            with contextlib.suppress(ValueError, KeyError, TypeError, OSError):  # `get` says what is damaged
                found.add(json.loads(path.read_text())["cell"]["teacher"])
        return found

    def _read(self, path: Path) -> dict | None:
        try:
            record = json.loads(path.read_text())
            if record["status"] not in FINISHED or cell_from(record["cell"]).key != path.stem:
                raise ValueError("its content does not belong to its name")
            return record
        except (ValueError, KeyError, TypeError, OSError) as problem:
            warnings.warn(f"{path} is damaged and was skipped ({problem})", stacklevel=3)
            return None

    def put(self, cell: Cell, record: dict, arrays: dict[str, np.ndarray]) -> None:
        """Stores a finished student: arrays first, then the JSON that makes it count."""
        if record.get("status") not in FINISHED:
            raise ValueError(f"status must be one of {', '.join(FINISHED)}, got {record.get('status')!r}")
        write_atomically(self.folder / f"{cell.key}.npz", lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
        write_json(self.folder / f"{cell.key}.json", {**record, "cell": json.loads(cell.canonical())})

    def arrays(self, cell: Cell) -> dict[str, np.ndarray]:
        """A finished student's arrays; raises StoreError if they are missing or damaged."""
        return _arrays(self.folder / f"{cell.key}.npz")

    def network(self, key: str) -> tuple[dict, dict[str, np.ndarray]] | None:
        """The record and the weights of a teacher network, or None; a damaged one is named and counts as absent."""
        path = self.networks / f"{key}.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text()), _arrays(path.with_suffix(".npz"))
        except (ValueError, OSError) as problem:
            warnings.warn(f"{path} is damaged and was skipped ({problem})", stacklevel=2)
            return None

    def put_network(self, key: str, record: dict, weights: dict[str, np.ndarray]) -> None:
        """Stores a teacher network: weights first, then the JSON that makes it count."""
        write_atomically(self.networks / f"{key}.npz", lambda file: np.savez(file, **weights))  # type: ignore[arg-type]
        write_json(self.networks / f"{key}.json", record)

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that are not finished, in order."""
        return [cell for cell in cells if cell not in self]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise StoreError(f"{path} cannot be read: {problem}") from None
