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
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from sandbox.lab.cell import Cell
from sandbox.lab.memory import free_bytes
from sandbox.lab.progress import Progress
from sandbox.lab.store import Store
from sandbox.lab.sweep import cost, packs
from sandbox.lab.teach import TeacherNetwork, network_of, network_packs, networks_of, train_networks
from sandbox.lab.teach import cost as network_cost
from sandbox.lab.unfinished import Unfinished
from sandbox.lab.work import Report, Weights, train_pack

STATUS_FILE = "status.json"
WATCH_SECONDS = 0.5
KEEP_BYTES = 2**28


@dataclass(frozen=True)
class Lesson:
    """Teacher networks that train together."""

    items: Sequence[TeacherNetwork]
    device: str = "cpu"

    @property
    def cost(self) -> float:
        return network_cost(self.items)

    def train(self, report: Report | None) -> list:
        return train_networks(self.items, report, self.device)


@dataclass(frozen=True)
class Pack:
    """Cells that train together, with the teacher networks that they start from."""

    items: Sequence[Cell]
    networks: dict[str, Weights]
    unfinished: Unfinished | None = None
    device: str = "cpu"

    @property
    def cost(self) -> float:
        return cost(self.items)

    def train(self, report: Report | None) -> list:
        return train_pack(self.items, report, self.networks, self.unfinished, self.device)


Work = TypeVar("Work", Lesson, Pack)


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_named(name: str) -> str:
    """A device's name; `auto` is a CUDA device where there is one.

    Raises ValueError for another name, or a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device must be one of auto, cpu, cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda is not there: torch.cuda.is_available() is false; use auto or cpu")
    return name


def run(
    cells: Iterable[Cell],
    store: Store,
    workers: int = 1,
    scheduler: str | None = None,
    pack_size: int = 16,
    quiet: bool = False,
    device: str = "cpu",
) -> int:
    """Trains and stores every cell that the store does not hold yet; returns the number of cells that failed.

    Args:
        cells: students to train. store: where results are and go.
        workers: 1 is a plain loop in this process; more are processes of one thread each on this machine's loopback.
        scheduler: address of a running dask scheduler (tcp://host:port), used instead of local workers.
        pack_size: students trained together at most, fewer where memory is short. Changes no number on the CPU, and on
            a CUDA device no more than rounding does.
        device: where networks train: cpu, cuda, or auto for cuda where there is one. Its noise is another than the
            CPU's, of the same law. With a scheduler, whose workers must have the device, judged on this machine.
    Raises:
        ValueError: workers or pack_size < 1, or a device that is not there.
        ConnectionError: no scheduler answers at the address.
    """
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    if pack_size < 1:
        raise ValueError(f"pack must be >= 1, got {pack_size}")
    device = device_named(device)
    cells = list(dict.fromkeys(cells))
    todo = store.missing(cells)
    absent = [network for network in networks_of(todo) if store.network(network.key) is None]
    here, there = (free_bytes(place) / workers for place in ("cpu", device))
    lessons = [Lesson(items, device) for items in network_packs(absent, pack_size, there)]
    unfinished = Unfinished(store.unfinished, device)
    under_way = unfinished.packs(todo)
    rest = [cell for cell in todo if cell not in {c for items in under_way for c in items}]
    linear = [cell for cell in rest if cell.student != "mlp"]
    networks = [cell for cell in rest if cell.student == "mlp"]

    def together(size: int) -> list[list[Cell]]:
        made = packs(linear, size, memory=here) + packs(networks, size, device, there)
        return sorted(made, key=cost, reverse=True)

    work = together(pack_size)
    # Processes that share one device only get in each other's way; cores are there to be used.
    if len(under_way) + len(work) < workers and scheduler is None and rest and device == "cpu":
        work = together(max(1, -(-len(rest) // workers)))
    work = under_way + work
    total = sum(lesson.cost for lesson in lessons) + sum(map(cost, work))

    with Progress(total, len(cells), store.root / STATUS_FILE, quiet) as progress, contextlib.ExitStack() as stack:
        progress.count(finished=len(cells) - len(todo))
        client = stack.enter_context(_executor(min(workers, len(work)), scheduler))
        for lesson, outcome in train(client, sorted(lessons, key=lambda lesson: -lesson.cost), progress):
            if isinstance(outcome, Exception):
                _say_failed("teacher networks", lesson, outcome)
                continue
            for network, trained in zip(lesson.items, outcome, strict=True):
                if isinstance(trained, ValueError):
                    _say_failed("teacher networks", Lesson([network]), trained)
                    continue
                store.put_network(network.key, *trained)
        ready = []
        for items in work:
            stored = {n.key: store.network(n.key) for n in networks_of(items)}
            found = {key: network[1] for key, network in stored.items() if network}
            able = [cell for cell in items if cell.student != "mlp" or network_of(cell).key in found]
            progress.count(failed=len(items) - len(able))
            if able:
                ready.append(Pack(able, found, Unfinished(store.unfinished, device), device))
        for pack, outcome in train(client, ready, progress):
            if isinstance(outcome, Exception):
                progress.count(failed=len(pack.items))
                _say_failed("students", pack, outcome)
                continue
            for cell, (record, arrays) in zip(pack.items, outcome, strict=True):
                store.put(cell, record, arrays)
                progress.count(finished=1)
            unfinished.remove(pack.items)
        return progress.failed


def _say_failed(what: str, pack: Lesson | Pack, error: Exception) -> None:
    first = pack.items[0]
    text = (first.cell.replace(seed=first.seed) if isinstance(first, TeacherNetwork) else first).canonical()
    print(f"\n{len(pack.items)} {what} failed ({text}): {type(error).__name__}: {error}", file=sys.stderr)
    for line in traceback.format_exception(error)[-3:]:
        print(line.rstrip(), file=sys.stderr)


@contextlib.contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator:
    """A client of what trains packs, None for this process; leaving the context stops the workers."""
    with contextlib.ExitStack() as stack:
        if scheduler is not None:
            yield stack.enter_context(_on_scheduler(scheduler))
        else:
            yield stack.enter_context(_on_local_workers(workers)) if workers > 1 else None


def train(client, work: Sequence[Work], progress: Progress) -> Generator[tuple[Work, list | Exception], None, None]:
    """Trains packs, yielding each with its results or with what stopped it; the order is not the work's."""
    return _in_this_process(work, progress) if client is None else _results(client, work, progress)


def _in_this_process(work: Sequence[Work], progress: Progress) -> Generator[tuple[Work, list | Exception], None, None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small batched products only lose by a second thread
    try:
        for pack in work:
            yield pack, _attempt(pack, _reporter(pack, progress))
    finally:
        torch.set_num_threads(threads)


def _reporter(pack: Lesson | Pack, progress: Progress) -> Report:
    whole, told = pack.cost, 0.0

    def report(share: float) -> None:
        nonlocal told
        progress.advance((share - told) * whole)
        told = share

    return report


def _attempt(pack: Lesson | Pack, report: Report | None = None) -> list | Exception:
    """A pack's results, or the exception that stopped it: one pack that fails must not cost the others."""
    try:
        return pack.train(report)
    except Exception as error:  # whatever it is, it is reported with its students
        return error


def work_remotely(pack: Lesson | Pack, index: int, topic: str) -> list | Exception:
    """What a dask worker runs; tells the scheduler under `topic` how far pack `index` is."""
    from distributed import get_worker

    torch.set_num_threads(1)
    worker = get_worker()
    return _attempt(pack, lambda share: worker.log_event(topic, {"pack": index, "share": share}))


@contextlib.contextmanager
def _on_scheduler(address: str) -> Iterator:
    from distributed import Client

    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"scheduler {address} does not answer ({error or 'timed out'})") from None
    with client:
        yield client


@contextlib.contextmanager
def _on_local_workers(workers: int) -> Iterator:
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
        yield client


def end_with_parent() -> None:
    """Starts a thread that ends this worker's process when the process that started it is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end-with-parent").start()


def _results(client, work: Sequence[Work], progress: Progress) -> Generator[tuple[Work, list | Exception], None, None]:
    from distributed import as_completed

    topic = f"sandbox-{uuid.uuid4().hex}"
    told = [0.0] * len(work)
    lock = threading.Lock()

    def tell(index: int, share: float) -> None:
        # Events arrive in a thread of the client's, and may come after the result that they were ahead of.
        with lock:
            if share > told[index]:
                progress.advance((share - told[index]) * work[index].cost)
                told[index] = share

    client.subscribe_topic(topic, lambda event: tell(event[1]["pack"], event[1]["share"]))
    # Weights do not belong into a task's description, which the scheduler holds.
    sent = [client.scatter(pack, hash=False) if isinstance(pack, Pack) and pack.networks else pack for pack in work]
    futures = {client.submit(work_remotely, pack, i, topic, pure=False, priority=-i): i for i, pack in enumerate(sent)}
    for future in as_completed(list(futures), loop=client.loop):
        index = futures.pop(future)
        outcome = future.result() if future.status == "finished" else _exception_of(future)
        tell(index, 1.0)
        yield work[index], outcome
        future.release()


def _exception_of(future) -> Exception:
    error = future.exception()
    if error is None:  # cancelled, not failed: nobody heard from the workers for a while
        return RuntimeError("the workers were lost, as when a machine sleeps; run again to go on")
    return error if isinstance(error, Exception) else RuntimeError(str(error))
