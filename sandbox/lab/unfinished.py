"""Packs under way: where a long training can go on after an interruption.

    <folder>/<key of the pack>.pt    what training carries from update to update, and what was read so far

One file per pack, replaced whole from time to time, read with torch's `weights_only` (no code can come with it), and
removed when its students are finished. Going on from it gives the same bits as never having stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch

from sandbox.lab.cell import Cell
from sandbox.lab.store import write_atomically
from sandbox.student.distill import Carried
from sandbox.student.optimise import Moments

# A pack that trains for less is not worth a file; one that is stopped loses at most this.
SECONDS = 60.0

CPU, CUDA = "cpu", "cuda"

Trajectories = list[list[dict]]
"""Each student's points so far."""


@dataclass
class Unfinished:
    """The packs under way of a results folder.

    Args:
        folder: where they are; nothing is written or found if it does not exist, as on a worker that does not share it.
        device: where networks train. On another one they would go on with other noise, and train from their start
            instead; linear students are always on the CPU.
        seconds: time between two writings of a pack.
    """

    folder: Path
    device: str = CPU
    seconds: float = SECONDS
    _written: float = field(default_factory=time.monotonic, init=False)

    def path(self, cells: Sequence[Cell]) -> Path:
        """The file of a pack; the order of its cells counts."""
        return self._path(cells, self._device(cells))

    def _device(self, cells: Sequence[Cell]) -> str:
        return self.device if cells[0].student == "mlp" else CPU

    def _path(self, cells: Sequence[Cell], device: str) -> Path:
        text = " ".join([*([] if device == CPU else [device]), *(cell.key for cell in cells)])
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.pt"

    def due(self) -> bool:
        """Whether a pack has trained long enough to be written (again)."""
        return time.monotonic() - self._written >= self.seconds and self.folder.is_dir()

    def write(self, cells: Sequence[Cell], carried: Carried, trajectories: Trajectories) -> None:
        """Writes a pack, in place of what was there."""
        content = {
            "device": self._device(cells),
            "cells": [cell.key for cell in cells],
            "carried": {f.name: getattr(carried, f.name) for f in fields(carried)},
            "trajectories": json.dumps(trajectories),
        }
        write_atomically(self.path(cells), lambda file: torch.save(content, file))
        self._written = time.monotonic()

    def read(self, cells: Sequence[Cell]) -> tuple[Carried, Trajectories] | None:
        """Where a pack was left, or None; a damaged file is named and counts as absent."""
        self._written = time.monotonic()
        content = _content(self.path(cells))
        if content is None:
            return None
        return Carried(**content["carried"]), json.loads(content["trajectories"])

    def packs(self, cells: Sequence[Cell]) -> list[list[Cell]]:
        """The packs under way that consist of `cells` only: they go on together, however packs are made now."""
        by_key = {cell.key: cell for cell in cells}
        found = []
        for path in sorted(self.folder.glob("*.pt")):
            content = _content(path)
            if content is None or not all(key in by_key for key in content["cells"]):
                continue
            pack = [by_key[key] for key in content["cells"]]
            if content["device"] == self._device(pack):
                found.append([by_key.pop(key) for key in content["cells"]])
        return found

    def remove(self, cells: Sequence[Cell]) -> None:
        """Forgets a pack, on whatever device it was under way."""
        for device in (CPU, CUDA):
            self._path(cells, device).unlink(missing_ok=True)


def _content(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        with torch.serialization.safe_globals([Moments]):
            # Onto the CPU: this process may have no device, or only want to know which students these are.
            content = {"device": CPU} | torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        if set(content) != {"device", "cells", "carried", "trajectories"} or set(content["carried"]) != FIELDS:
            raise ValueError("it is no pack under way")
        return content
    except Exception as problem:  # whatever is wrong with it, the pack can be trained from its start
        reason = str(problem).partition("\n")[0]
        warnings.warn(f"{path} is damaged; its students train from their start ({reason})", stacklevel=3)
        return None


FIELDS = {f.name for f in fields(Carried)}
