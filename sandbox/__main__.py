"""The command line: `python -m sandbox` runs the quick dimension sweep and draws its figures."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import tyro

from sandbox.lab import cell as cells
from sandbox.lab import gallery, validate
from sandbox.lab import table as tables
from sandbox.lab.between_seeds import between_seeds, between_seeds_text
from sandbox.lab.execute import STATUS_FILE, available_cores, run
from sandbox.lab.options import OPTIONS
from sandbox.lab.pairs_file import check_out, measure_files, write_table
from sandbox.lab.progress import read_status
from sandbox.lab.remeasure import extra_named
from sandbox.lab.remeasure_report import remeasure, report_text
from sandbox.lab.report import write_report
from sandbox.lab.store import Store, StoreError
from sandbox.lab.sweep import Sweep, axis_values
from sandbox.lab.units import UNITS

Values = tuple[str, ...]

# What it means not to give these.
UNSAID = {
    "network_seed": "the student's seed",
    "bottleneck": "none",
    "rotation": "any rotation",
    "start_teacher_seed": "the student's own teacher",
}

AXES = [f for f in dataclasses.fields(cells.Cell) if f.name != "algorithm_version"]


def _default(field: dataclasses.Field) -> str:
    own = field.default
    if field.name in OPTIONS:
        own = " or ".join(str(v) for v in dict.fromkeys(OPTIONS[field.name][1].values()))
    elif own is None:
        own = UNSAID.get(field.name, "the family's own")
    return f"(default: the experiment's, else {own})"


Axes = dataclasses.make_dataclass(
    "Axes",
    [
        (
            f.name,
            Annotated[Values, tyro.conf.arg(metavar="VALUES", help=UNITS[f.name], help_behavior_hint=_default(f))],
            dataclasses.field(default=()),
        )
        for f in AXES
    ],
    namespace={"__doc__": "Axes that replace or extend the experiment's own: values as 2,8,32 or '2 8 32' or 0:8."},
)


@dataclasses.dataclass(frozen=True)
class Where:
    """Which students, and where their results are."""

    experiment: str = "dimension"
    """experiment, one of the files in experiments/"""
    preset: str = "quick"
    """size of the experiment: smoke, quick or full"""
    results: Path = Path("results")
    """folder of stored results"""
    arms: Values = ()
    """words in the names of the arms to look at (default: all)"""


@dataclasses.dataclass(frozen=True)
class Run(Where):
    """Train the students that are not finished yet, then print the arms' table and draw the figures.

    Any field of a cell may be given as an axis: values as 2,8,32 or '2 8 32' or, half open, 0:8."""

    workers: int = 0
    """processes, one thread each; 0: one per core of this machine (number)"""
    scheduler: str | None = None
    """address of a running dask scheduler, tcp://host:port, instead of local workers"""
    pack: int = 32
    """students trained together at most, fewer where memory is short; changes no number on a CPU (number)"""
    device: str = "auto"
    """where networks train: cpu, cuda, or auto (cuda where there is one)"""
    out: Path | None = None
    """folder for the figures (default: figures/ in the results folder)"""
    draw: bool = True
    """draw the figures at the end"""
    axes: Annotated[Axes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Axes)  # type: ignore[valid-type]


@dataclasses.dataclass(frozen=True)
class Status(Where):
    """How far a run is: callable from another shell."""

    axes: Annotated[Axes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Axes)  # type: ignore[valid-type]


@dataclasses.dataclass(frozen=True)
class Table(Where):
    """The arms' table as text, or one row per student as CSV."""

    csv: bool = False
    """print every finished student as CSV instead"""
    axes: Annotated[Axes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Axes)  # type: ignore[valid-type]


@dataclasses.dataclass(frozen=True)
class Figures(Where):
    """Draw the figures from stored results; trains nothing."""

    out: Path | None = None
    """folder for the figures (default: figures/ in the results folder)"""
    fallback: Path | None = Path("figures/gallery")
    """folder of CSV tables to draw from where the results folder holds none of a figure's students"""
    only: Values = ()
    """names of figures (default: all)"""


@dataclasses.dataclass(frozen=True)
class Validate:
    """Hold the theory's predictions against fresh students: prints the table, stores it, draws it.

    Exits with 1 if a tolerance that was declared before the run is broken."""

    preset: str = "quick"
    """size of the validation: smoke, quick (minutes) or full (hours)"""
    results: Path = Path("results")
    """folder of stored results; students that are there are not trained again"""
    workers: int = 0
    """processes, one thread each; 0: one per core of this machine (number)"""
    out: Path | None = None
    """folder for the table and the figure (default: validation/ in the results folder)"""
    only: Values = ()
    """words in the names of the predictions to look at (default: all)"""


@dataclasses.dataclass(frozen=True)
class Measure(Where):
    """Read finished students again from their stored weights, or measure pairs of your own; trains nothing.

    Without FILES: every measure of the experiment's finished students again, and what changed goes into their records.
    With one .npz of arrays z (n, d_z), student (n, d) and teacher (n, d): S and T are other names for these two,
    images (n, c, h, w) are flattened, n >= 16; student_modes, teacher_modes (n,) and jacobian_student,
    jacobian_teacher (m, d, d_z) are optional. With two such files, of the same z and teacher: whether the two students
    are closer to each other than to the teacher."""

    files: tyro.conf.Positional[tuple[Path, ...]] = ()
    """one or two .npz files of pairs; none: stored students"""
    extra: Values = ()
    """stored students: more measures, module:function, a function (student, teacher, z) -> {name: value}"""
    dry_run: bool = False
    """stored students: print what would change, write nothing"""
    seeds_compared: bool = False
    """stored students: instead, are a condition's seeds closer to each other than to the teacher?"""
    workers: int = 0
    """stored students: processes, one thread each; 0: one per core of this machine (number)"""
    out: Path | None = None
    """file for the table, .json or .csv (default: none)"""
    axes: Annotated[Axes, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Axes)  # type: ignore[valid-type]


@dataclasses.dataclass(frozen=True)
class Report:
    """One HTML page with every claim, its verdict and its rule, every figure, and the students behind them.

    Trains nothing: where the results folder holds no students of an experiment, the committed tables are used."""

    preset: str = "quick"
    """size of the experiments whose stored students are looked for: smoke, quick or full"""
    results: Path = Path("results")
    """folder of stored results"""
    out: Path | None = None
    """file to write (default: report.html in the results folder)"""


def _sweep(command: Where) -> Sweep:
    sweep = _with_arms(gallery.experiment(command.experiment, command.preset), command.arms)
    axes = getattr(command, "axes", None)
    given = {f.name: getattr(axes, f.name) for f in AXES if axes is not None and getattr(axes, f.name)}
    kinds = cells.field_types()
    readers: dict[type, Callable] = {bool: _truth, int: int, float: float, str: str}
    chosen = {}
    for name, words in given.items():
        try:
            chosen[name] = axis_values(words, readers[kinds[name][0]])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if not chosen:
        return sweep
    return _with_axes(sweep, chosen)


def _with_arms(sweep: Sweep, words: Values) -> Sweep:
    """The sweep's arms that have one of the words in their name."""
    kept = {arm: fields for arm, fields in sweep.arms.items() if not words or any(word in arm for word in words)}
    if not kept:
        raise ValueError(f"arms must name one of {'; '.join(sweep.arms)}, got {' '.join(words)!r}")
    return dataclasses.replace(sweep, arms=kept)


def _with_axes(sweep: Sweep, chosen: dict[str, list]) -> Sweep:
    """The sweep with a user's axes; what the user sets, no arm or rule of the experiment sets again.

    Values other than dimensions and seeds tell students of one dimension apart, so each becomes an arm of its own,
    named by what it holds."""
    across = {name: values for name, values in chosen.items() if name not in ("dim", "seed")}
    arms: dict[str, dict] = {}
    own_axes: dict[str, dict] = {}
    for arm, fields in sweep.arms.items():
        kept = {name: value for name, value in fields.items() if name not in chosen}
        name = arm if len(kept) == len(fields) else _described(kept)
        for values in itertools.product(*across.values()):
            own = dict(zip(across, values, strict=True))
            described = ", ".join(filter(None, (name, _described(own))))
            arms[described] = {**kept, **own}
            own_axes[described] = {axis: v for axis, v in sweep.own_axes.get(arm, {}).items() if axis not in chosen}
    along = {name: values for name, values in chosen.items() if name in ("dim", "seed")}
    rules = {name: rule for name, rule in sweep.derived.items() if name not in chosen}
    return dataclasses.replace(sweep.narrowed(along), arms=arms, derived=rules, own_axes=own_axes)


def _described(fields: dict) -> str:
    return ", ".join(f"{name} {'by rule' if callable(value) else value}" for name, value in fields.items())


def _truth(word: str) -> bool:
    if word.lower() not in ("true", "false"):
        raise ValueError(word)
    return word.lower() == "true"


def _say_table(sweep: Sweep, store: Store) -> None:
    table = tables.students(sweep, store)
    summary = tables.arms(sweep, table)
    print(tables.arms_text(summary))
    total, done = int(summary["of"].sum()), int(summary["students"].sum())
    gate = tables.gated(table) if len(table) else table
    shared = done - (table["key"].nunique() if len(table) else 0)
    twice = f" ({shared} of them stand in two arms)" if shared else ""
    print(
        f"\n{done} of {total} students finished{twice}, {len(gate)} pass the law gate.\n"
        "Core seconds are what the scheduler expects of a student, without its teacher network; in brackets, of one\n"
        "that passes.\n"
        "Displacement is measured against the analytic teacher's map (real score: analytic).\n"
        "Onset: where the mean displacement of the students that pass passes 1/2 (d <= 2 left out where the\n"
        "per-sample normaliser is heavy-tailed); nothing in d* predicted is fitted to students."
    )


def _run(command: Run) -> int:
    for name, least in (("workers", 0), ("pack", 1)):
        if getattr(command, name) < least:
            raise ValueError(f"{name} must be >= {least}, got {getattr(command, name)}")
    sweep = _sweep(command)
    Store(command.results, create=False)  # a folder of another schema is refused before the sweep is worked out
    wanted = sweep.cells()
    store = Store(command.results)
    workers = command.workers or available_cores()
    started = time.time()
    try:
        failed = run(wanted, store, workers, command.scheduler, command.pack, device=command.device)
    except KeyboardInterrupt:
        left = len(store.missing(wanted))
        print(
            f"\ninterrupted: {len(wanted) - left} of {len(wanted)} students are stored in {command.results}; "
            "run again to go on",
            file=sys.stderr,
        )
        return 130
    seconds = time.time() - started
    print(f"\n{sweep.name} ({command.preset}): {len(wanted)} students in {command.results}, {seconds:.0f} s\n")
    _say_table(sweep, store)
    if command.draw and list(sweep.arms) == list(gallery.experiment(command.experiment, command.preset).arms):
        _draw(sweep, command, store, command.out, None, gallery.FIGURES)
        print("the report of all experiments, a minute or two", flush=True)
        print(f"report: {write_report(store, command.preset, command.results / 'report.html')}")
    elif command.draw:
        print("\nno figures: they show the experiment's own arms, not these; `table --csv` has every student")
    return 1 if failed else 0


def _draw(sweep: Sweep, command: Where, store: Store, out: Path | None, fallback: Path | None, names) -> None:
    folder = out or command.results / "figures"
    written = gallery.draw(names, sweep, command.preset, store, folder, fallback)
    drawn = ", ".join(p.name for p in written if p.suffix == ".png")
    print(f"\nfigures in {folder}: {drawn}" if drawn else "\nno figure shows these; `table --csv` has every student")


def _existing(results: Path) -> Store:
    if not results.is_dir():
        raise StoreError(f"results folder {results} is not there; `run` makes it, --results names another one")
    return Store(results, create=False)


def _status(command: Status) -> int:
    sweep = _sweep(command)
    store = _existing(command.results)
    missing = set(store.missing(sweep.cells()))
    for arm in sweep.arms:
        mine = [cell for name, cell in sweep.students() if name == arm]
        print(f"{arm:40s} {sum(cell not in missing for cell in mine):5d} of {len(mine)} students finished")
    last = read_status(command.results / STATUS_FILE)
    if last is not None:
        ago = time.time() - last["updated"]
        left = (
            ""
            if last["state"] != "running" or last["seconds_left"] is None
            else f", about {last['seconds_left']:.0f} s left"
        )
        print(
            f"last run: {last['state']} (process {last['pid']}), {last['share']:.0%} of its work{left}; "
            f"written {ago:.0f} s ago"
        )
    return 0


def _table(command: Table) -> int:
    sweep = _sweep(command)
    store = _existing(command.results)
    if command.csv:
        table = tables.students(sweep, store)
        if not len(table):
            print(f"no students of {sweep.name} ({command.preset}) in {command.results}", file=sys.stderr)
        table.to_csv(sys.stdout, index=False)
    else:
        _say_table(sweep, store)
    return 0


def _figures(command: Figures) -> int:
    names = command.only or gallery.FIGURES
    _draw(_sweep(command), command, Store(command.results, create=False), command.out, command.fallback, names)
    return 0


def _report(command: Report) -> int:
    store = Store(command.results, create=False)
    print(f"report: {write_report(store, command.preset, command.out or command.results / 'report.html')}")
    return 0


def _measure(command: Measure) -> int:
    if command.workers < 0:
        raise ValueError(f"workers must be >= 0, got {command.workers}")
    check_out(command.out)
    for name in ("extra", "dry_run", "seeds_compared"):
        if command.files and getattr(command, name):
            raise ValueError(f"{name} is for stored students, got files {' '.join(map(str, command.files))}")
    if command.files:
        said, table = measure_files(command.files)
        return _say_measured(command, said, table)
    for name in command.extra:
        extra_named(name)
    sweep = _sweep(command)
    store = _existing(command.results)
    if command.seeds_compared:
        table = between_seeds(sweep, store)
        return _say_measured(command, between_seeds_text(table), table)
    report = remeasure(sweep, store, command.extra, command.workers or available_cores(), command.dry_run)
    _say_measured(command, report_text(report, command.dry_run), report.table())
    return 1 if report.failed else 0


def _say_measured(command: Measure, said: str, table) -> int:
    print(said)
    if command.out is not None:
        write_table(command.out, table)
        print(f"table in {command.out}")
    return 0


def _validate(command: Validate) -> int:
    if command.workers < 0:
        raise ValueError(f"workers must be >= 0, got {command.workers}")
    claims = gallery.claims(command.preset, command.only)
    store = Store(command.results)
    workers = command.workers or available_cores()
    started = time.time()
    # Students whose step costs nothing gain from a large pack.
    failed = run(validate.cells_of(claims), store, workers, pack_size=256)
    rows = validate.table(claims, store, validate.simulate(claims, workers))
    print(validate.text(rows))
    print(validate.summary(rows).to_string(index=False))
    written = gallery.draw_validation(rows, command.preset, command.out or command.results / "validation")
    broken = int(rows["verdict"].isin((validate.BROKEN, validate.OPEN)).sum())
    known = int(rows["verdict"].eq(validate.KNOWN).sum())
    print(
        f"\n{len(rows)} predictions ({command.preset}), {time.time() - started:.0f} s: {broken} broken "
        f"or without students, {known} fail where they are known to; table and figure in {written[0].parent}"
    )
    return 1 if broken or failed else 0


COMMANDS: dict[str, Callable] = {
    "run": Run,
    "status": Status,
    "table": Table,
    "figures": Figures,
    "measure": Measure,
    "validate": Validate,
    "report": Report,
}
ACTIONS: dict[type, Callable[..., int]] = {
    Run: _run,
    Status: _status,
    Table: _table,
    Figures: _figures,
    Measure: _measure,
    Validate: _validate,
    Report: _report,
}


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 1 if students failed, 2 for bad input, 130 if interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # small products only lose by a second thread, most of all on a machine that is busy
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=arguments or ["run"],
        prog="python -m sandbox",
        description="Why does a student distilled by distribution matching copy its teacher's noise-data pairing, and "
        "where does copying begin? Without a command: run the quick dimension sweep and draw its figures.",
    )
    try:
        return ACTIONS[type(command)](command)
    except KeyboardInterrupt:
        print("\ninterrupted: finished students are stored; run again to go on", file=sys.stderr)
        return 130
    except (StoreError, ValueError, ImportError, ConnectionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
