"""The command line: every command is listed, bad input costs one clear line, and tables can be read."""

import dataclasses
import io
import json

import numpy as np
import pandas as pd
import pytest

from experiments import dimension
from sandbox.__main__ import main
from sandbox.lab.store import Store

COMMANDS = ("run", "status", "table", "figures", "measure")
# Linear arms only: an exponent means nothing to a network's mixture.
TINY = [
    "--dim",
    "2",
    "--steps",
    "3",
    "--seed",
    "0:2",
    "--lr",
    "0.02",
    "--exponent",
    "0",
    "--start",
    "teacher,random",
    "--arms",
    "start",
]


@pytest.fixture(scope="module", autouse=True)
def quick_rules():
    """The smoke preset without its rule for the number of updates: that solves for it, seconds at every expansion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(dimension.PRESETS, "smoke", dataclasses.replace(dimension.PRESETS["smoke"], derived={}))
        yield


def smoke(arguments):
    """The same on the smallest preset, unless the arguments choose one."""
    return arguments if "--preset" in arguments else (*arguments, "--preset", "smoke")


def said(capsys, *arguments):
    """Exit code, stdout and stderr of a command; tyro leaves by SystemExit."""
    try:
        code = main(list(arguments))
    except SystemExit as left:
        code = left.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def results(tmp_path_factory, quick_rules):
    folder = tmp_path_factory.mktemp("results")
    assert main(["run", "--preset", "smoke", *TINY, "--results", str(folder), "--workers", "1", "--no-draw"]) == 0
    return folder


def test_help_lists_every_command(capsys):
    code, out, _ = said(capsys, "--help")
    assert code == 0
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", ("--results", "--workers", "--scheduler", "--pack", "--out", "--no-draw", "--preset", "--dim", "--lr")),
        ("status", ("--results", "--preset")),
        ("table", ("--csv", "--dim")),
        ("figures", ("--fallback", "--only", "--out")),
        (
            "measure",
            ("--results", "--extra", "--dry-run", "--seeds-compared", "--workers", "--out", "--dim", "n >= 16"),
        ),
    ],
)
def test_every_command_explains_its_options(capsys, command, options):
    code, out, _ = said(capsys, command, "--help")
    assert code == 0
    assert all(option in out for option in options)
    assert "default:" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("run", "--experiment", "width"), ("experiment", "'width'")),
        (("run", "--preset", "huge"), ("preset", "'huge'")),
        (("run", "--dim", "0"), ("dim", "got 0")),
        (("run", "--dim", "x"), ("dim", "'x'")),
        (("run", "--lr", "-1"), ("lr", "got -1")),
        (("run", "--dim", "2", "--lr", "nan"), ("lr", "got nan")),
        (("run", "--teacher", "donut"), ("teacher", "'donut'")),
        (("run", "--antithetic", "maybe"), ("antithetic", "'maybe'")),
        (("run", "--workers", "-2"), ("workers", "got -2")),
        (("run", "--pack", "0"), ("pack", "got 0")),
        (("run", "--seed", "4:4"), ("seed", "'4:4'")),
        (("table", "--preset", "huge"), ("preset", "'huge'")),
        (("status", "--preset", "huge"), ("preset", "'huge'")),
        (("figures", "--only", "banner"), ("figure", "'banner'")),
        (("measure", "--preset", "huge"), ("preset", "'huge'")),
        (("measure", "--workers", "-2"), ("workers", "got -2")),
        (("measure", "--extra", "size"), ("extra must be module:function", "'size'")),
        (("measure", "--extra", "no_such_module:size"), ("extra", "'no_such_module:size'", "ModuleNotFoundError")),
        (("measure", "--extra", "math:size"), ("extra", "'math:size'", "AttributeError")),
        (("measure", "--extra", "math:pi"), ("extra must name a function", "'math:pi'")),
        (("measure", "--out", "table.txt"), ("out must end in .json or .csv", "got table.txt")),
        (("measure", "none.npz"), ("none.npz is not there",)),
        (("measure", "a.npz", "b.npz", "c.npz"), ("files must be one or two", "got 3")),
        (("measure", "a.npz", "--dry-run"), ("dry_run is for stored students", "got files a.npz")),
        (("measure", "a.npz", "--seeds-compared"), ("seeds_compared is for stored students", "got files a.npz")),
        (("measure", "a.npz", "--extra", "math:sqrt"), ("extra is for stored students", "got files a.npz")),
    ],
)
def test_bad_input_costs_one_line_and_nothing_is_written(capsys, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, *smoke(arguments), "--results", str(tmp_path / "results"))
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("fly",), ("run", "--dimension", "2"), ("run", "--workers", "many")])
def test_what_is_no_command_or_option_is_refused(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, *arguments)
    assert code == 2
    assert arguments[-1] in out + err or arguments[1] in out + err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_results_of_another_schema_are_refused(capsys, tmp_path, command):
    (tmp_path / "schema.json").write_text('{"schema_version": 0}')
    code, _, err = said(capsys, command, "--preset", "smoke", "--results", str(tmp_path))
    assert code == 2
    assert err == (
        f"error: {tmp_path} holds results of schema version 0, this program reads version 1; move the "
        "folder away or choose another one with --results\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["schema.json"]


def test_a_results_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = said(capsys, "run", "--preset", "smoke", "--results", str(tmp_path / "file" / "results"))
    assert code == 2
    assert err.startswith(f"error: results folder {tmp_path / 'file' / 'results'} cannot be written")
    assert err.count("\n") == 1


@pytest.mark.slow  # the address is tried for ten seconds
def test_a_scheduler_that_does_not_answer_is_named(capsys, tmp_path):
    code, _, err = said(
        capsys, "run", "--preset", "smoke", *TINY, "--results", str(tmp_path), "--scheduler", "tcp://127.0.0.1:1"
    )
    assert code == 2
    assert "error: scheduler tcp://127.0.0.1:1 does not answer" in err
    assert "Traceback" not in err
    assert list(tmp_path.glob("cells/*")) == []


@pytest.mark.parametrize("command", ["status", "table", "measure"])
def test_a_folder_that_is_not_there_is_named_and_not_made(capsys, tmp_path, command):
    code, out, err = said(capsys, command, "--preset", "smoke", "--results", str(tmp_path / "none"))
    assert (code, out) == (2, "")
    assert (
        err == f"error: results folder {tmp_path / 'none'} is not there; `run` makes it, --results names another one\n"
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", ["status", "table"])
def test_an_empty_folder_has_no_students(capsys, tmp_path, command):
    code, out, _ = said(capsys, command, "--preset", "smoke", "--results", str(tmp_path))
    assert code == 0
    arms = dimension.PRESETS["smoke"].arms
    assert out.count(" students finished" if command == "status" else "no students") == len(arms)
    assert out.count("0 of ") == len(arms) if command == "status" else 1
    assert list(tmp_path.iterdir()) == []


def test_a_field_given_as_an_axis_makes_the_arms(capsys, results):
    # lr, exponent and start are the user's: what is left of the arms is told apart by batch and by those alone.
    code, out, _ = said(capsys, "table", "--preset", "smoke", *TINY, "--results", str(results))
    assert code == 0
    rows = [line for line in out.splitlines() if "start teacher" in line or "start random" in line]
    assert len(rows) == 4
    assert not any("lr .01" in row or "lr .04" in row for row in rows)
    assert sum("batch by rule" in row for row in rows) == 2
    assert all("lr 0.02" in row for row in rows)


def test_a_finished_folder_has_a_status_and_a_table(capsys, results):
    code, out, _ = said(capsys, "status", "--preset", "smoke", "--results", str(results))
    assert code == 0
    assert "last run: finished" in out
    assert "100% of its work" in out
    code, out, _ = said(capsys, "table", "--preset", "smoke", *TINY, "--results", str(results))
    assert code == 0
    assert "8 of 8 students finished" in out


def test_csv_output_parses_and_is_the_stored_numbers(capsys, results):
    code, out, err = said(capsys, "table", "--csv", "--preset", "smoke", *TINY, "--results", str(results))
    assert (code, err) == (0, "")
    table = pd.read_csv(io.StringIO(out))
    # Six arms share the four cells that the axes leave, but for the one whose batch grows with d.
    assert (len(table), table["key"].nunique()) == (8, 8)
    store = Store(results, create=False)
    assert set(table["key"]) == {path.stem for path in store.folder.glob("*.json")}
    for _, row in table.drop_duplicates("key").iterrows():
        assert (row["dim"], row["steps"], row["status"]) == (2, 3, "done")
    assert set(table["start"]) == {"teacher", "random"}


def test_run_again_trains_nothing(capsys, results):
    before = {path.name: path.stat().st_mtime_ns for path in (results / "cells").iterdir()}
    code, _, _ = said(capsys, "run", "--preset", "smoke", *TINY, "--results", str(results), "--no-draw")
    assert code == 0
    assert {path.name: path.stat().st_mtime_ns for path in (results / "cells").iterdir()} == before


def test_a_damaged_record_is_named_on_stderr(capsys, results, tmp_path):
    (tmp_path / "cells").mkdir()
    for path in (results / "cells").iterdir():
        (tmp_path / "cells" / path.name).write_bytes(path.read_bytes())
    broken = next((tmp_path / "cells").glob("*.json"))
    broken.write_text("{")
    code, out, err = said(capsys, "table", "--preset", "smoke", *TINY, "--results", str(tmp_path))
    assert code == 0
    assert f"warning: {broken} is damaged and was skipped" in err
    assert "of 8 students finished" in out
    assert "8 of 8" not in out


def test_arms_are_chosen_by_words_in_their_names(capsys, results):
    code, out, _ = said(capsys, "table", "--preset", "smoke", "--arms", "random", "--results", str(results))
    assert code == 0
    shown = [line for line in out.splitlines() if "start, " in line or line.startswith("network")]
    assert [line.split(",")[0] for line in shown] == ["random start"] * 2
    code, _, err = said(capsys, "table", "--preset", "smoke", "--arms", "nobody", "--results", str(results))
    assert code == 2
    assert "arms must name one of teacher start, lr .01; " in err
    assert "got 'nobody'" in err


class TestMeasure:
    @pytest.fixture
    def copied(self, results, tmp_path):
        """The results, to be spoilt."""
        (tmp_path / "copied" / "cells").mkdir(parents=True)
        for path in [results / "schema.json", *(results / "cells").iterdir()]:
            (tmp_path / "copied" / path.relative_to(results)).write_bytes(path.read_bytes())
        return tmp_path / "copied"

    @staticmethod
    def arguments(folder, *more, seeds="0:1"):
        """One seed of two, as reading takes longer than training here: 4 students."""
        axes = [seeds if word == "0:2" else word for word in TINY]
        return ("measure", "--preset", "smoke", *axes, "--results", str(folder), "--workers", "1", *more)

    def test_finished_students_are_read_again(self, capsys, copied):
        before = {path.name: path.read_bytes() for path in (copied / "cells").iterdir()}
        code, out, _ = said(capsys, *self.arguments(copied))
        assert code == 0
        assert out.startswith(
            "4 of 4 students read again.\n0 stored values of 0 students differ by more than rounding."
        )
        assert "No record changed." in out
        assert {path.name: path.read_bytes() for path in (copied / "cells").iterdir()} == before

    def test_a_changed_measure_says_so_and_is_written_unless_dry(self, capsys, copied, tmp_path):
        path = next(p for p in (copied / "cells").glob("*.json") if json.loads(p.read_text())["cell"]["seed"] == 0)
        record = json.loads(path.read_text())
        right = record["measures"]["displacement"]
        path.write_text(json.dumps(record | {"measures": record["measures"] | {"displacement": 7.0}}))
        out_file = tmp_path / "readings.csv"
        for dry in ("--dry-run", "--no-dry-run"):
            assert json.loads(path.read_text())["measures"]["displacement"] == 7.0
            code, out, _ = said(capsys, *self.arguments(copied, dry, "--out", str(out_file)))
            assert code == 0
            assert "1 stored values of 1 students differ by more than rounding." in out
            assert f"7 -> {right:.4g}" in out
            table = pd.read_csv(out_file)
            assert (len(table), table["differ"].sum()) == (4, 1)
        assert json.loads(path.read_text())["measures"] == record["measures"]

    def test_students_without_weights_are_named_and_do_not_stop_it(self, capsys, copied):
        path = next(p for p in (copied / "cells").glob("*.json") if json.loads(p.read_text())["cell"]["seed"] == 0)
        lost = path.with_suffix(".npz")
        lost.unlink()
        code, out, err = said(capsys, *self.arguments(copied))
        assert code == 0
        assert f"student {lost.stem} (d = 2, seed " in err
        assert "was skipped: " in err
        assert out.startswith("3 of 4 students read again; 1 without weights skipped.")

    def test_a_user_measure_joins_and_one_that_fails_exits_with_one(self, capsys, copied, tmp_path, monkeypatch):
        (tmp_path / "users_own.py").write_text(
            "def size(student, teacher, z):\n    return {'size': student(z).square().mean()}\n"
            "def breaks(student, teacher, z):\n    return {'broken': 1 / 0}\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        code, out, _ = said(capsys, *self.arguments(copied, "--extra", "users_own:size"))
        assert code == 0
        assert "4 records written." in out
        code, table, _ = said(capsys, "table", "--csv", "--preset", "smoke", *TINY, "--results", str(copied))
        table = pd.read_csv(io.StringIO(table))
        assert (table["size"] > 0).eq(table["seed"] == 0).all()
        code, out, err = said(capsys, *self.arguments(copied, "--extra", "users_own:breaks"))
        assert code == 1
        assert out.startswith("0 of 4 students read again; 4 failed.")
        assert err.count("could not be read: ZeroDivisionError: division by zero") == 4
        assert "Traceback" not in err

    def test_seeds_are_compared(self, capsys, copied, tmp_path):
        for path in (copied / "cells").glob("*.json"):
            record = json.loads(path.read_text())
            record["measures"]["law_passes"] = True
            path.write_text(json.dumps(record))
        out_file = tmp_path / "seeds.json"
        code, out, _ = said(capsys, *self.arguments(copied, "--seeds-compared", "--out", str(out_file), seeds="0:2"))
        assert code == 0
        assert "between seeds" in out
        rows = json.loads(out_file.read_text())
        assert [row["passing"] for row in rows] == [2] * len(rows)
        by_condition: dict = {}
        for path in (copied / "cells").glob("*.json"):
            cell = json.loads(path.read_text())["cell"]
            with np.load(path.with_suffix(".npz")) as file:
                by_condition.setdefault((cell["start"], cell["batch"]), []).append(file["weight"])
        # |A - B|^2 / (|A|^2 + |B|^2) of two matrices, but for the noise of 1024 points.
        want = [np.square(a - b).sum() / (np.square(a).sum() + np.square(b).sum()) for a, b in by_condition.values()]
        assert sorted({row["between"] for row in rows}) == pytest.approx(sorted(want), abs=0.05)
        assert all(row["closer_low"] is None for row in rows)

    def test_pairs_of_a_users_own_are_measured(self, capsys, tmp_path):
        rng = np.random.default_rng(0)
        T = rng.standard_normal((200, 1, 2, 2))
        np.savez(tmp_path / "one.npz", z=T, S=T + 0.1, T=T)
        np.savez(tmp_path / "two.npz", z=T, S=rng.permutation(T), T=T)
        np.savez(tmp_path / "bad.npz", z=T, S=T[:, :, 0], T=T)
        out_file = tmp_path / "out.json"
        code, out, err = said(
            capsys, "measure", str(tmp_path / "one.npz"), str(tmp_path / "two.npz"), "--out", str(out_file)
        )
        assert (code, err) == (0, "")
        table = pd.DataFrame(json.loads(out_file.read_text()))
        values = table[table["name"] == "displacement"]["value"].tolist()
        assert values == pytest.approx([0.005, 1, 1], abs=0.15)
        assert "closer: to the teacher" in out
        code, out, err = said(capsys, "measure", str(tmp_path / "bad.npz"))
        assert (code, out) == (2, "")
        assert err == (
            f"error: {tmp_path / 'bad.npz'}: student and teacher must have one shape, got (200, 2) and (200, 4)\n"
        )
