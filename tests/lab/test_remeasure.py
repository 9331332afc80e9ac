"""Finished students read again from their weights: the same bits if nothing changed, and no reading lost if it did."""

import json
import math
import os

import numpy as np
import pytest
import torch
from tiny import NETWORK

from sandbox.lab.cell import Cell
from sandbox.lab.execute import run
from sandbox.lab.reference import held_out
from sandbox.lab.remeasure import Unread, caveats, change, read_again, read_many, same, skip_gain, student_of
from sandbox.lab.remeasure_report import remeasure, report_text
from sandbox.lab.store import Store, StoreError
from sandbox.lab.sweep import Sweep
from sandbox.lab.teach import network_of

LINEAR = Cell(dim=3, steps=4, lr=0.05, batch=8)
# Gaussian teachers: their flow is known in closed form, a mixture's takes seconds.
MLP = NETWORK.replace(teacher="gaussian", dim=3)
CELLS = [
    LINEAR,
    LINEAR.replace(start="rotated", seed=1),
    LINEAR.replace(student="affine"),
    LINEAR.replace(measures="closed"),
    LINEAR.replace(sigma_law="log-grid", fake_score="levels"),
    MLP,
    MLP.replace(start="residual"),
    MLP.replace(start="random"),
    MLP.replace(reference="network", real_score="network", start_error=0.5),
]
DIVERGED = LINEAR.replace(lr=1e12)


def sweep_of(cells):
    """A sweep of the given cells: one arm each."""
    return Sweep("made", arms={str(i): json.loads(cell.canonical()) for i, cell in enumerate(cells)})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("trained"))
    assert run([*CELLS, DIVERGED], store, quiet=True) == 0
    return store


@pytest.fixture
def store(trained, tmp_path):
    """A copy that may be spoilt."""
    copied = Store(tmp_path / "results")
    for folder in ("cells", "networks"):
        for path in (trained.root / folder).iterdir():
            (copied.root / folder / path.name).write_bytes(path.read_bytes())
    return copied


def everything(store):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in store.root.rglob("*") if path.is_file()}


def rewritten(store, cell, **measures):
    """A cell's record with some measures changed by hand; None takes one out."""
    path = store.folder / f"{cell.key}.json"
    record = json.loads(path.read_text())
    record["measures"] = {k: v for k, v in (record["measures"] | measures).items() if v != "absent"}
    path.write_text(json.dumps(record))


def described(cell):
    return f"{cell.student} {cell.start} {cell.measures} {cell.fake_score} {cell.reference}"


@pytest.mark.parametrize("cell", CELLS, ids=described)
def test_a_student_read_again_reads_the_same_bits(trained, cell):
    stored = trained.get(cell)["measures"]
    assert read_again(cell, trained) == stored
    assert len(stored) > 5


@pytest.mark.parametrize("cell", [CELLS[i] for i in (2, 3, 5, 6)], ids=described)
def test_other_weights_read_otherwise(store, cell):
    arrays = store.arrays(cell)
    np.savez(store.folder / f"{cell.key}.npz", **{name: 1.25 * a for name, a in arrays.items()})
    found = change(cell, store.get(cell)["measures"], read_again(cell, store))
    assert "displacement" in found.differ
    assert not found.new


class TestStudent:
    @pytest.mark.parametrize("student", ["linear", "affine"])
    def test_a_linear_one_is_its_matrix(self, trained, student):
        cell = LINEAR.replace(student=student)
        arrays, z = trained.arrays(cell), held_out(3)
        want = z.numpy() @ arrays["weight"].T + arrays.get("bias", 0)
        np.testing.assert_allclose(student_of(cell, arrays)(z).detach(), want, rtol=0, atol=1e-14)

    @pytest.mark.parametrize("tolerance", [1e-5])  # float32
    def test_a_network_is_the_denoisers_one_step(self, trained, tolerance):
        arrays, z = trained.arrays(MLP), held_out(3)
        denoiser = network_of(MLP).untrained()
        denoiser.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
        want = denoiser(MLP.sigma_init * z.float(), MLP.sigma_init).double()
        torch.testing.assert_close(student_of(MLP, arrays)(z), want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("tolerance", [1e-5])
    def test_a_residual_one_without_its_correction_is_the_exact_denoiser(self, trained, tolerance):
        cell, z = MLP.replace(start="residual"), held_out(3)
        arrays = {name: 0 * a for name, a in trained.arrays(cell).items()}
        want = cell.mixture().denoise(cell.sigma_init * z, cell.sigma_init)
        torch.testing.assert_close(student_of(cell, arrays)(z), want, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize(
        "spoil",
        [lambda a: a | {"weight": a["weight"][:2]}, lambda a: a | {"more": np.zeros(1)}, lambda a: {}],
        ids=["shape", "name", "none"],
    )
    def test_weights_that_do_not_fit_are_named(self, trained, spoil):
        said = rf"weights of student {LINEAR.key} must be \{{'weight': \(3, 3\)\}}, got"
        with pytest.raises(ValueError, match=said):
            student_of(LINEAR, spoil(trained.arrays(LINEAR)))


class TestRecords:
    def test_nothing_is_written_where_nothing_changed(self, store):
        before = everything(store)
        report = remeasure(sweep_of(CELLS[2:4]), store, quiet=True)
        assert everything(store) == before
        assert (len(report.changes), report.failed, report.unread) == (2, 0, {})
        assert "No record changed." in report_text(report)

    def test_changed_values_are_counted_and_replaced_and_others_stay(self, store):
        right = store.get(LINEAR)["measures"]
        others = {path: seen for path, seen in everything(store).items() if LINEAR.key not in path.name}
        weights = (store.folder / f"{LINEAR.key}.npz").read_bytes()
        off = right["displacement"] * (1 + 1e-12)
        rewritten(store, LINEAR, displacement=off, retrieval=0.75, law_passes=None, gauge_polar="absent", somebodys=4.5)
        report = remeasure(sweep_of(CELLS[:2]), store, quiet=True)
        done = report.changes[LINEAR]
        assert done.differ == {"retrieval": (0.75, right["retrieval"]), "law_passes": (None, right["law_passes"])}
        assert done.new == ("gauge_polar",)
        record = store.get(LINEAR)
        # What was no further off than rounding keeps the stored digits, so that another machine changes no record.
        assert record["measures"] == right | {"displacement": off, "somebodys": 4.5}
        assert record["trajectory"]
        assert record["trained"]
        assert (store.folder / f"{LINEAR.key}.npz").read_bytes() == weights
        assert {path: seen for path, seen in everything(store).items() if LINEAR.key not in path.name} == others
        said = report_text(report)
        assert "2 stored values of 1 students differ by more than rounding." in said
        assert f"0.75 -> {right['retrieval']:.4g}" in said
        assert "1 records written." in said

    def test_a_dry_run_writes_nothing(self, store):
        rewritten(store, LINEAR, retrieval=0.75)
        before = everything(store)
        report = remeasure(sweep_of(CELLS[:2]), store, dry_run=True, quiet=True)
        assert everything(store) == before
        assert list(report.changes[LINEAR].differ) == ["retrieval"]
        assert "1 records would change; dry run, nothing written." in report_text(report, dry_run=True)

    def test_a_write_that_fails_leaves_the_record_whole(self, store, monkeypatch):
        rewritten(store, LINEAR, retrieval=0.75)
        before = everything(store)

        def refuse(*_):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OSError, match="disk full"):
            remeasure(sweep_of([LINEAR]), store, quiet=True)
        assert everything(store) == before

    def test_students_without_weights_are_named_and_the_others_read(self, store, capsys):
        elsewhere, damaged, taught = CELLS[0], CELLS[2], CELLS[5]
        (store.folder / f"{elsewhere.key}.npz").unlink()
        (store.folder / f"{damaged.key}.npz").write_bytes(b"PK")
        network = network_of(taught).key
        (store.networks / f"{network}.json").unlink()
        report = remeasure(sweep_of([*CELLS[:3], taught, DIVERGED, LINEAR.replace(seed=99)]), store)
        assert set(report.changes) == {CELLS[1]}
        assert set(report.unread) == {elsewhere, damaged, taught}
        assert (report.failed, report.diverged, report.unfinished) == (0, 1, 1)
        err = capsys.readouterr().err
        assert all(f"student {cell.key} (d = 3, seed 0) was skipped: " in err for cell in (elsewhere, damaged, taught))
        assert f"its teacher network {network} is not stored" in err
        said = report_text(report)
        assert said.startswith(
            "1 of 6 students read again; 1 not finished; 1 diverged, which have nothing to read; "
            "3 without weights skipped."
        )

    def test_a_student_that_breaks_does_not_stop_the_others(self, store, capsys):
        arrays = store.arrays(LINEAR)
        np.savez(store.folder / f"{LINEAR.key}.npz", weight=np.full((3, 3), np.nan), rotation=arrays["rotation"])
        report = remeasure(sweep_of(CELLS[:2]), store)
        assert (report.failed, set(report.changes)) == (1, {CELLS[1]})
        assert f"student {LINEAR.key} (d = 3, seed 0) could not be read: ValueError: student must be finite" in (
            capsys.readouterr().err
        )

    @pytest.mark.slow  # processes start
    def test_more_workers_read_the_same(self, trained):
        lost = LINEAR.replace(seed=50)
        found = dict(read_many([*CELLS, lost], trained, workers=2, quiet=True))
        assert isinstance(found.pop(lost), Unread)  # a reason comes back as what it is
        assert found == {cell: trained.get(cell)["measures"] for cell in CELLS}

    def test_workers_must_be_positive(self, trained):
        with pytest.raises(ValueError, match="workers must be >= 1, got 0"):
            list(read_many(CELLS, trained, workers=0))

    def test_a_missing_student_is_a_store_error(self, trained):
        with pytest.raises(StoreError, match="cannot be read"):
            read_again(LINEAR.replace(seed=7), trained)


@pytest.mark.parametrize(
    ("one", "other", "relative", "equal"),
    [
        (1.0, 1.0 + 1e-10, 1e-9, True),
        (1.0, 1.0 + 1e-8, 1e-9, False),
        (1e6, 1e6 + 1e-4, 1e-9, True),
        (0.0, 1e-10, 1e-9, True),
        (None, None, 1e-9, True),
        (None, 0.0, 1e-9, False),
        (True, True, 1e-9, True),
        (True, False, 1e-9, False),
        (True, 1.0, 1e-9, False),
        (math.inf, math.inf, 1e-9, True),
    ],
)
def test_what_counts_as_rounding(one, other, relative, equal):
    assert same(one, other, relative) is equal
    assert same(other, one, relative) is equal


class TestExtra:
    @pytest.fixture(autouse=True)
    def _module(self, tmp_path, monkeypatch):
        (tmp_path / "my_measures.py").write_text(
            "import numpy as np, torch\n"
            "def size(student, teacher, z):\n"
            "    x = student(z)\n"
            "    return {'my_size': x.square().mean(), 'my_points': len(x), 'my_nan': float('nan'),\n"
            "            'my_wide': bool(teacher.dim > 2), 'my_noise': torch.randn(()), 'my_np': np.float32(2)}\n"
            "def taken(student, teacher, z): return {'displacement': 1.0}\n"
            "def words(student, teacher, z): return {'mine': 'many'}\n"
            "def alone(student, teacher, z): return 1.0\n"
            "def breaks(student, teacher, z): return {'mine': 1 / 0}\n"
            "number = 3\n"
        )
        monkeypatch.syspath_prepend(tmp_path)

    def test_a_users_measure_is_kept_beside_the_others(self, store):
        cells = [LINEAR, LINEAR.replace(measures="closed"), MLP]
        before = {cell: store.get(cell)["measures"] for cell in cells}
        remeasure(sweep_of(cells), store, ("my_measures:size",), quiet=True)
        for cell in cells:
            record = store.get(cell)["measures"]
            mine = {name: record.pop(name) for name in list(record) if name.startswith("my_")}
            assert record == before[cell]
            want = student_of(cell, store.arrays(cell))(held_out(3)).square().mean().item()
            noise = mine.pop("my_noise")
            assert mine == {"my_size": want, "my_points": 1024, "my_nan": None, "my_wide": True, "my_np": 2}
            assert type(noise) is float
        # A second time it is nothing new; a measure that draws noise draws the same, whatever was drawn before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            again = remeasure(sweep_of(cells), store, ("my_measures:size",), quiet=True)
        assert not any(again.changes.values())
        # And a plain reading afterwards leaves it.
        remeasure(sweep_of([LINEAR]), store, quiet=True)
        assert "my_size" in store.get(LINEAR)["measures"]

    def test_the_global_generator_is_left_as_it_was(self, store):
        state = torch.random.get_rng_state()
        read_again(LINEAR, store, ("my_measures:size",))
        assert torch.equal(torch.random.get_rng_state(), state)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("taken", "must return new names, got displacement"),
            ("words", "must return names with numbers, got 'mine': 'many'"),
            ("alone", "must return {name: value}, got float"),
            ("breaks", "ZeroDivisionError: division by zero"),
        ],
    )
    def test_one_that_does_not_keep_to_the_rules_fails_and_nothing_is_written(self, store, name, said):
        before = everything(store)
        report = remeasure(sweep_of([LINEAR]), store, (f"my_measures:{name}",), quiet=True)
        assert report.failed == 1
        assert said in report.unread[LINEAR].reason
        assert everything(store) == before


class TestCaveats:
    def test_a_network_narrower_than_its_data_keeps_only_the_skip(self):
        cell = MLP.replace(dim=12, width=4, sigma_init=5.0, variance=2.0)
        net = network_of(cell).untrained()
        with torch.no_grad():
            net.net.outward.normal_(generator=torch.Generator().manual_seed(0))
        student = student_of(cell, {name: p.detach().numpy() for name, p in net.named_parameters()})
        for z in held_out(12)[:5]:
            s = torch.linalg.svdvals(torch.autograd.functional.jacobian(lambda v: student(v[None])[0], z))
            # skip I + a matrix of rank 4: at least 12 - 2 * 4 singular values are the skip's (Weyl 1912)
            assert (s - skip_gain(cell)).abs().le(1e-5).sum() >= 4
            assert s[0] > 2 * skip_gain(cell)
        assert skip_gain(cell) == pytest.approx(2.0 * 5 / (25 + 2), rel=1e-12)
        (said,) = caveats(cell, {"law_passes": True})
        assert said == (
            "width 4 is below d = 12: outside 4 of its directions the student is 0.37 z, the skip, at sigma_init 5"
        )
        assert "is the exact denoiser at sigma_init 5" in caveats(cell.replace(start="residual"), {})[0]

    @pytest.mark.parametrize(
        ("cell", "measures", "said"),
        [
            (LINEAR, {"law_passes": True, "variance_ratio_low": 0.6, "variance_ratio_high": 1.9}, []),
            (LINEAR, {"law_passes": False}, ["law gate failed"]),
            (LINEAR, {"variance_ratio_low": 0.4, "variance_ratio_high": 1.0}, ["a variance over the teacher's"]),
            (LINEAR, {"variance_ratio_low": 0.9, "variance_ratio_high": 2.1}, ["a variance over the teacher's"]),
            (LINEAR, {"variance_ratio_low": None}, []),
            (LINEAR.replace(dim=128), {}, []),
            (LINEAR.replace(dim=129), {}, ["n = 1024 is below 8 d = 1032"]),
            (LINEAR.replace(dim=129, measures="closed"), {}, []),
            (MLP.replace(dim=8), {}, []),
            (MLP.replace(dim=9), {}, ["width 8 is below d = 9"]),
        ],
        ids=str,
    )
    def test_they_are_said_where_they_apply(self, cell, measures, said):
        found = caveats(cell, measures)
        assert len(found) == len(said)
        assert all(sentence.startswith(start) for sentence, start in zip(found, said, strict=True))

    def test_the_report_counts_them(self, store):
        report = remeasure(sweep_of(CELLS[:3]), store, quiet=True)
        failing = sum(store.get(cell)["measures"]["law_passes"] is False for cell in CELLS[:3])
        assert failing
        assert f"caution: {failing} students: law gate failed: their pairing does not count" in report_text(report)

    def test_the_table_has_a_row_per_student(self, store):
        rewritten(store, LINEAR, retrieval=0.75)
        table = remeasure(sweep_of(CELLS[:3]), store, dry_run=True, quiet=True).table().set_index("key")
        assert list(table.index) == [cell.key for cell in CELLS[:3]]
        assert list(table["differ"]) == [1, 0, 0]
        assert table.loc[CELLS[1].key, "displacement"] == store.get(CELLS[1])["measures"]["displacement"]
