"""Executors: the same packs in this process, on local workers, or on a cluster. This process alone writes results."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Iterable, Sequence

import torch

from sandbox.lab.cell import Cell
from sandbox.lab.progress import Progress
from sandbox.lab.store import Store
from sandbox.lab.sweep import cost, packs
from sandbox.lab.work import train_pack

STATUS_FILE = "status.json"
WATCH_SECONDS = 0.5
KEEP_BYTES = 2**28

Outcome = tuple[list[Cell], list | Exception]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    cells: Iterable[Cell],
    store: Store,
    workers: int = 1,
    scheduler: str | None = None,
    pack_size: int = 16,
    quiet: bool = False,
) -> int:
    """Trains and stores every cell that the store does not hold yet; returns the number of cells that failed.

    Args:
        cells: students to train. store: where results are and go.
        workers: 1 is a plain loop in this process; more are processes of one thread each on this machine's loopback.
        scheduler: address of a running dask scheduler (tcp://host:port), used instead of local workers.
        pack_size: students trained together. Changes no number.
    Raises:
        ValueError: workers or pack_size < 1. ConnectionError: no scheduler answers at the address.
    """
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    if pack_size < 1:
        raise ValueError(f"pack must be >= 1, got {pack_size}")
    cells = list(dict.fromkeys(cells))
    todo = store.missing(cells)
    work = packs(todo, pack_size)
    if len(work) < workers and scheduler is None and todo:
        work = packs(todo, max(1, -(-len(todo) // workers)))
    with Progress(sum(map(cost, work)), len(cells), store.root / STATUS_FILE, quiet) as progress:
        progress.count(finished=len(cells) - len(todo))
        if scheduler is not None:
            outcomes = _on_scheduler(work, scheduler, progress)
        elif min(workers, len(work)) > 1:
            outcomes = _on_local_workers(work, min(workers, len(work)), progress)
        else:
            outcomes = _in_this_process(work, progress)
        # Closing the generator stops the workers, also when this loop is interrupted.
        with contextlib.closing(outcomes):
            for pack, outcome in outcomes:
                if isinstance(outcome, Exception):
                    progress.count(failed=len(pack))
                    _say_failed(pack, outcome)
                    continue
                for cell, (record, arrays) in zip(pack, outcome, strict=True):
                    store.put(cell, record, arrays)
                    progress.count(finished=1)
        return progress.failed


def _say_failed(pack: Sequence[Cell], error: Exception) -> None:
    print(f"\n{len(pack)} students failed ({pack[0].canonical()}): {type(error).__name__}: {error}", file=sys.stderr)
    for line in traceback.format_exception(error)[-3:]:
        print(line.rstrip(), file=sys.stderr)


def _in_this_process(work: list[list[Cell]], progress: Progress) -> Generator[Outcome, None, None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small batched products only lose by a second thread
    try:
        for pack in work:
            yield pack, _attempt(pack, _reporter(pack, progress))
    finally:
        torch.set_num_threads(threads)


def _reporter(pack: list[Cell], progress: Progress) -> Callable[[float], None]:
    whole, told = cost(pack), 0.0

    def report(share: float) -> None:
        nonlocal told
        progress.advance((share - told) * whole)
        told = share

    return report


def _attempt(pack: list[Cell], report: Callable[[float], None] | None = None) -> list | Exception:
    """A pack's results, or the exception that stopped it: one pack that fails must not cost the others."""
    try:
        return train_pack(pack, report)
    except Exception as error:  # whatever it is, it is reported with its students
        return error


def work_remotely(pack: list[Cell], index: int, topic: str) -> list | Exception:
    """What a dask worker runs; tells the scheduler under `topic` how far pack `index` is."""
    from distributed import get_worker

    torch.set_num_threads(1)
    worker = get_worker()
    return _attempt(pack, lambda share: worker.log_event(topic, {"pack": index, "share": share}))


def _on_scheduler(work: list[list[Cell]], address: str, progress: Progress) -> Generator[Outcome, None, None]:
    from distributed import Client

    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"scheduler {address} does not answer ({error or 'timed out'})") from None
    with client:
        yield from _results(client, work, progress)


def _on_local_workers(work: list[list[Cell]], workers: int, progress: Progress) -> Generator[Outcome, None, None]:
    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.worker.daemon": True,
        # By default workers give freed memory back at once; a training step would then fault its arrays in anew every
        # time, which took as long as the arithmetic.
        "distributed.nanny.pre-spawn-environ": {
            "MALLOC_TRIM_THRESHOLD_": str(KEEP_BYTES),
            "MALLOC_MMAP_THRESHOLD_": str(KEEP_BYTES),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    }
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-") as scratch,
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=scratch,
            silence_logs=50,
            memory_limit=0,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        # Should this process be killed outright, its workers have nobody to tell them to stop.
        client.run(end_with_parent)
        yield from _results(client, work, progress)


def end_with_parent() -> None:
    """Starts a thread that ends this worker's process when the process that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _results(client, work: list[list[Cell]], progress: Progress) -> Generator[Outcome, None, None]:
    from distributed import as_completed

    topic = f"sandbox-{uuid.uuid4().hex}"
    told = [0.0] * len(work)
    lock = threading.Lock()

    def tell(index: int, share: float) -> None:
        # Events arrive in a thread of the client's, and may come after the result that they were ahead of.
        with lock:
            if share > told[index]:
                progress.advance((share - told[index]) * cost(work[index]))
                told[index] = share

    client.subscribe_topic(topic, lambda event: tell(event[1]["pack"], event[1]["share"]))
    futures = {client.submit(work_remotely, pack, i, topic, pure=False, priority=-i): i for i, pack in enumerate(work)}
    for future in as_completed(list(futures), loop=client.loop):
        index = futures.pop(future)
        outcome = future.result() if future.status == "finished" else _exception_of(future)
        tell(index, 1.0)
        yield work[index], outcome
        future.release()


def _exception_of(future) -> Exception:
    error = future.exception()
    return error if isinstance(error, Exception) else RuntimeError(str(error))
