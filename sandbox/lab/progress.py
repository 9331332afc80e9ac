"""Progress: a bar with an estimate of the time left, plain lines where there is no terminal, and a file for other
shells."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from tqdm import tqdm

from sandbox.lab.store import write_json

EVERY_SECONDS = 1.0
EARLY = 0.01  # of the work, before which no time left is told
LINE_EVERY_SECONDS = 10.0


class Progress:
    """Work done, out of a total, in units of cost; use as a context manager.

    Args:
        total: cost of all the work, in milliseconds of one laptop core. students: number of students in it.
        status: file that tells other shells how far it is.
        quiet: show nothing here (the file is still written).
    """

    def __init__(self, total: float, students: int, status: Path, quiet: bool = False):
        self.total, self.students, self.status = max(total, 1e-12), students, status
        self.done = 0.0
        self.finished = self.failed = 0
        self.started = time.time()
        self._said = self._written = 0.0
        self._terminal = sys.stderr.isatty() and not quiet
        self._quiet = quiet
        self._bar: tqdm | None = None

    def __enter__(self) -> Progress:
        if self._terminal:
            self._bar = tqdm(
                total=self.total, bar_format="{percentage:3.0f}% |{bar}| {postfix} [{elapsed} < {remaining}]"
            )
        self._show(force=True)
        return self

    def __exit__(self, kind, *_) -> None:
        self._show(force=True, state="finished" if kind is None else "interrupted")
        if self._bar is not None:
            self._bar.close()

    def advance(self, cost: float) -> None:
        """Adds finished work, in units of cost."""
        self.done = min(self.done + cost, self.total)
        self._show()

    def count(self, finished: int = 0, failed: int = 0) -> None:
        """Counts students that are stored, or that could not be trained."""
        self.finished += finished
        self.failed += failed
        self._show()

    def seconds_left(self) -> float | None:
        """The estimate from the work done so far; None before there is enough: the start of processes is not work."""
        if self.done < EARLY * self.total:
            return None
        return (time.time() - self.started) * (self.total - self.done) / self.done

    def _show(self, force: bool = False, state: str = "running") -> None:
        now = time.time()
        left = self.seconds_left()
        text = f"{self.finished} of {self.students} students" + (f", {self.failed} failed" if self.failed else "")
        if self._bar is not None:
            self._bar.n = self.done
            self._bar.set_postfix_str(text, refresh=force)
            self._bar.update(0)
        elif not self._quiet and (force or now - self._said >= LINE_EVERY_SECONDS):
            self._said = now
            hours = f", {self.total / 3.6e6:.2g} core hours expected" if self.total > 1 else ""
            ahead = hours if left is None else f", about {left:.0f} s left"
            print(
                f"{self.done / self.total:4.0%}  {text}, {now - self.started:.0f} s{ahead}", file=sys.stderr, flush=True
            )
        if force or now - self._written >= EVERY_SECONDS:
            self._written = now
            write_json(
                self.status,
                {
                    "state": state,
                    "pid": os.getpid(),
                    "share": self.done / self.total,
                    "finished": self.finished,
                    "failed": self.failed,
                    "students": self.students,
                    "seconds": now - self.started,
                    "seconds_left": left,
                    "updated": now,
                },
            )


def read_status(path: Path) -> dict | None:
    """What the last run in a results folder said of itself; None if there was none or its file is damaged.

    A run that says it is running but whose process is gone is reported as `killed`."""
    try:
        status = json.loads(path.read_text())
        if status["state"] == "running":
            try:
                os.kill(status["pid"], 0)
            except ProcessLookupError:
                status["state"] = "killed"
            except PermissionError:
                pass
        return status
    except (OSError, ValueError, KeyError, TypeError):
        return None
