"""Executors: whatever the order, the packs, the workers and the interruptions, the stored numbers are the same."""

from pathlib import Path

import pytest
from blind import Blind
from stored import contents
from tiny import NETWORK

from sandbox.lab import execute, work
from sandbox.lab.cell import Cell
from sandbox.lab.execute import run
from sandbox.lab.progress import read_status
from sandbox.lab.store import Store
from sandbox.lab.teach import network_of, networks_of

ROOT = Path(execute.__file__).parents[2]

CELLS = [
    *(Cell(dim=2, steps=6, seed=i) for i in range(3)),
    Cell(dim=2, steps=6, start="random", lr=0.05),
    Cell(dim=2, steps=6, start="rotated", variance=2.0, seed=1),
    *(Cell(dim=3, steps=5, exponent=1.5, batch=8, seed=i) for i in range(2)),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("uninterrupted"))
    assert run(CELLS, store, pack_size=3, quiet=True) == 0
    return contents(store, CELLS)


@pytest.mark.parametrize("size", [1, 16])
def test_the_size_of_a_pack_changes_no_bit(tmp_path, uninterrupted, size):
    store = Store(tmp_path)
    run(CELLS, store, pack_size=size, quiet=True)
    assert contents(store, CELLS) == uninterrupted


def test_a_resumed_sweep_equals_an_uninterrupted_one(tmp_path, uninterrupted, monkeypatch):
    store, real, done = Store(tmp_path), execute.train_pack, []

    def interrupted(pack, *rest):
        if done:
            raise KeyboardInterrupt
        done.append(len(pack))
        return real(pack, *rest)

    monkeypatch.setattr(execute, "train_pack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(CELLS, store, pack_size=3, quiet=True)
    left = store.missing(CELLS)
    assert len(CELLS) - len(left) == done[0] > 0
    assert read_status(tmp_path / "status.json")["state"] == "interrupted"

    trained = []
    monkeypatch.setattr(execute, "train_pack", lambda pack, *rest: trained.extend(pack) or real(pack, *rest))
    assert run(CELLS, store, pack_size=2, quiet=True) == 0
    assert sorted(c.key for c in trained) == sorted(c.key for c in left)
    assert contents(store, CELLS) == uninterrupted
    assert read_status(tmp_path / "status.json")["state"] == "finished"


def test_a_finished_sweep_trains_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    run(CELLS[:1], store, quiet=True)

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(execute, "train_pack", never)
    assert run(CELLS[:1] * 2, store, quiet=True) == 0


def test_a_damaged_record_is_trained_again(tmp_path):
    store, cell = Store(tmp_path), CELLS[0]
    run([cell], store, quiet=True)
    before = contents(store, [cell])
    (store.folder / f"{cell.key}.json").write_text("{")
    with pytest.warns(UserWarning, match="damaged"):
        run([cell], store, quiet=True)
    assert contents(store, [cell]) == before


def test_a_pack_that_fails_does_not_cost_the_others(tmp_path, monkeypatch, capsys, uninterrupted):
    store, real = Store(tmp_path), execute.train_pack

    def fragile(pack, *rest):
        if any(cell.start == "random" for cell in pack):
            raise RuntimeError("planted")
        return real(pack, *rest)

    monkeypatch.setattr(execute, "train_pack", fragile)
    failed = run(CELLS, store, pack_size=1, quiet=True)
    assert failed == 1
    assert [cell.start for cell in store.missing(CELLS)] == ["random"]
    assert "RuntimeError: planted" in capsys.readouterr().err
    assert read_status(tmp_path / "status.json")["failed"] == 1
    others = [cell for cell in CELLS if cell.start != "random"]
    assert contents(store, others) == {key: v for key, v in uninterrupted.items() if key in {c.key for c in others}}


def test_a_student_that_diverges_is_a_result(tmp_path, uninterrupted):
    wild = Cell(dim=2, steps=6, lr=1e12)
    store = Store(tmp_path)
    assert run([wild, *CELLS[:2]], store, quiet=True) == 0
    record = store.get(wild)
    assert (record["status"], record["measures"]) == ("diverged", {})
    assert 1 <= record["diverged_at"] <= 6
    # It rode in one pack with these.
    assert contents(store, CELLS[:2]) == {c.key: uninterrupted[c.key] for c in CELLS[:2]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workers": 0}, "workers must be >= 1, got 0"),
        ({"pack_size": 0}, "pack must be >= 1, got 0"),
    ],
)
def test_bad_options_are_named(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(CELLS[:1], Store(tmp_path), quiet=True, **options)


@pytest.mark.slow
def test_two_workers_give_the_same_bits(tmp_path, uninterrupted):
    store = Store(tmp_path)
    assert run(CELLS, store, workers=2, pack_size=3, quiet=True) == 0
    assert contents(store, CELLS) == uninterrupted


MLP = NETWORK.replace(teacher="gaussian", exponent=1.5)
# Two students of every network, networks of two teachers and of two lengths of training, and a linear student.
NETWORKED = [
    *(MLP.replace(seed=seed, lr=lr) for lr in (1e-3, 2e-3) for seed in range(3)),
    *(MLP.replace(variance=2.0, seed=seed) for seed in range(2)),
    *(MLP.replace(teacher_steps=4, seed=seed) for seed in range(2)),
    Cell(dim=2, steps=6),
]


def lessons(store):
    """Everything a store says of its teacher networks."""
    found = {}
    for path in store.networks.glob("*.json"):
        _, weights = store.network(path.stem)
        found[path.stem] = (path.read_bytes(), {k: (w.dtype, w.shape, w.tobytes()) for k, w in weights.items()})
    return found


class TestNetworks:
    @pytest.fixture(autouse=True)
    def _blind(self, monkeypatch):
        monkeypatch.setattr(work, "readings", Blind)

        def never(*_):
            raise AssertionError("a network was trained with its students")

        monkeypatch.setattr(work, "train_networks", never)

    @pytest.fixture
    def trained(self, monkeypatch):
        """The networks that are trained from here on."""
        real, seen = execute.train_networks, []
        monkeypatch.setattr(
            execute, "train_networks", lambda networks, *rest: seen.extend(networks) or real(networks, *rest)
        )
        return seen

    @pytest.fixture
    def expected(self, tmp_path_factory):
        store = Store(tmp_path_factory.mktemp("expected"))
        assert run(NETWORKED, store, pack_size=3, quiet=True) == 0
        return contents(store, NETWORKED), lessons(store)

    def test_are_trained_once_and_stored(self, tmp_path, trained):
        store, wanted = Store(tmp_path), networks_of(NETWORKED)
        assert run(NETWORKED, store, quiet=True) == 0
        assert len(wanted) == 7
        assert sorted(n.key for n in trained) == sorted(n.key for n in wanted) == sorted(lessons(store))
        for network in wanted:
            record, _ = store.network(network.key)
            assert (record["seed"], Cell(**record["cell"])) == (network.seed, network.cell)
        trained.clear()
        assert run(NETWORKED, store, quiet=True) == 0
        # Others that start from the same networks, and the same ones again.
        others = [cell.replace(batch=4) for cell in NETWORKED]
        before = contents(store, NETWORKED)
        (store.folder / f"{NETWORKED[0].key}.json").unlink()
        assert run([*others, *NETWORKED], store, quiet=True) == 0
        assert trained == []
        assert contents(store, NETWORKED) == before

    @pytest.mark.parametrize("size", [1, 2, 16])
    def test_the_size_of_a_pack_changes_no_bit(self, tmp_path, expected, size):
        store = Store(tmp_path)
        assert run(NETWORKED, store, pack_size=size, quiet=True) == 0
        assert (contents(store, NETWORKED), lessons(store)) == expected

    def test_the_order_of_the_cells_changes_no_bit(self, tmp_path, expected):
        store = Store(tmp_path)
        assert run(NETWORKED[::-1], store, pack_size=3, quiet=True) == 0
        assert (contents(store, NETWORKED), lessons(store)) == expected

    @pytest.mark.parametrize("after", [0, 1, 2])
    def test_a_run_stopped_between_networks_resumes(self, tmp_path, expected, monkeypatch, trained, after):
        store, real = Store(tmp_path), execute.train_networks

        def interrupted(networks, *rest):
            if len(lessons(store)) >= 2 * after:
                raise KeyboardInterrupt
            return real(networks, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(execute, "train_networks", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(NETWORKED, store, pack_size=2, quiet=True)
        kept = lessons(store)
        assert len(kept) >= 2 * after
        assert store.missing(NETWORKED) == NETWORKED
        trained.clear()
        assert run(NETWORKED, store, pack_size=3, quiet=True) == 0
        assert not {n.key for n in trained} & kept.keys()
        assert len(trained) + len(kept) == 7
        assert (contents(store, NETWORKED), lessons(store)) == expected

    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_a_run_stopped_after_the_networks_resumes(self, tmp_path, expected, monkeypatch, trained, after):
        store, real, done = Store(tmp_path), execute.train_pack, []

        def interrupted(pack, *rest):
            if len(done) == after:
                raise KeyboardInterrupt
            done.append(pack)
            return real(pack, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(execute, "train_pack", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(NETWORKED, store, pack_size=2, quiet=True)
        assert lessons(store) == expected[1]
        assert len(store.missing(NETWORKED)) == len(NETWORKED) - sum(map(len, done))
        assert read_status(tmp_path / "status.json")["state"] == "interrupted"
        trained.clear()
        assert run(NETWORKED, store, pack_size=3, quiet=True) == 0
        assert trained == []
        assert contents(store, NETWORKED) == expected[0]

    def test_a_damaged_one_is_trained_again(self, tmp_path, expected, trained):
        store = Store(tmp_path)
        run(NETWORKED, store, quiet=True)
        network = network_of(NETWORKED[0])
        (store.networks / f"{network.key}.npz").write_bytes(b"text")
        trained.clear()
        for cell in NETWORKED[:3]:
            (store.folder / f"{cell.key}.json").unlink()
        with pytest.warns(UserWarning, match=f"{network.key}.json is damaged and was skipped"):
            assert run(NETWORKED, store, quiet=True) == 0
        assert trained == [network]
        assert (contents(store, NETWORKED), lessons(store)) == expected

    def test_one_that_diverges_costs_its_own_students_alone(self, tmp_path, expected, capsys):
        # They ride in one pack with students of other networks.
        wild = [MLP.replace(teacher_lr=1e12, seed=seed) for seed in range(2)]
        store = Store(tmp_path)
        assert run([*NETWORKED, *wild], store, quiet=True) == 2
        assert store.missing([*NETWORKED, *wild]) == wild
        assert (contents(store, NETWORKED), lessons(store)) == expected
        assert read_status(tmp_path / "status.json")["failed"] == 2
        said = capsys.readouterr().err
        assert "1 teacher networks failed" in said
        assert "ValueError: teacher_lr 1000000000000.0 made a teacher network diverge" in said

    @pytest.mark.parametrize("size", [1, 16])
    def test_one_of_a_pack_that_diverges_costs_no_other(self, tmp_path, expected, monkeypatch, capsys, size):
        """Planted: the network of seed 1 diverges, its pack-mates do not."""
        real = execute.train_networks

        def planted(networks, *rest):
            found = real(networks, *rest)
            return [ValueError("planted") if n.seed == 1 else t for n, t in zip(networks, found, strict=True)]

        monkeypatch.setattr(execute, "train_networks", planted)
        store = Store(tmp_path)
        lost = [cell for cell in NETWORKED if cell.student == "mlp" and cell.seed == 1]
        assert run(NETWORKED, store, pack_size=size, quiet=True) == len(lost) == 4
        assert store.missing(NETWORKED) == lost
        others = [cell for cell in NETWORKED if cell not in lost]
        assert contents(store, others) == {cell.key: expected[0][cell.key] for cell in others}
        said = capsys.readouterr().err
        assert said.count("1 teacher networks failed") == 3
        assert '"seed": 1' in said
        # Later, without what was planted, only what is missing is made up for.
        monkeypatch.setattr(execute, "train_networks", real)
        assert run(NETWORKED, store, quiet=True) == 0
        assert (contents(store, NETWORKED), lessons(store)) == expected

    def test_a_pack_of_them_that_fails_costs_its_own_students_alone(self, tmp_path, expected, monkeypatch, capsys):
        real = execute.train_networks

        def fragile(networks, *rest):
            if networks[0].cell.variance == 2.0:
                raise RuntimeError("planted")
            return real(networks, *rest)

        monkeypatch.setattr(execute, "train_networks", fragile)
        store = Store(tmp_path)
        assert run(NETWORKED, store, quiet=True) == 2
        assert {cell.variance for cell in store.missing(NETWORKED)} == {2.0}
        others = [cell for cell in NETWORKED if cell.variance != 2.0]
        assert contents(store, others) == {cell.key: expected[0][cell.key] for cell in others}
        assert "2 teacher networks failed" in capsys.readouterr().err

    def test_a_student_that_diverges_is_a_result(self, tmp_path, expected):
        wild = MLP.replace(lr=1e12)
        store = Store(tmp_path)
        assert run([wild, *NETWORKED], store, quiet=True) == 0
        record = store.get(wild)
        assert (record["status"], record["measures"], record["diverged_at"]) == ("diverged", {}, 1)
        assert contents(store, NETWORKED) == expected[0]


@pytest.mark.slow
def test_two_workers_give_the_same_bits_to_network_students(tmp_path):
    # Measured in full, as workers do. Some of LAPACK's results differ from process to process, in many dimensions more
    # often than in two.
    cells = [MLP.replace(dim=dim) for dim in (2, 17)]
    cells.append(MLP.replace(teacher_lr=1e12))
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    assert run(cells, one, quiet=True) == 1
    assert run(cells, two, workers=2, pack_size=2, quiet=True) == 1
    assert contents(two, cells[:2]) == contents(one, cells[:2])
    assert lessons(two) == lessons(one)
    assert len(lessons(two)) == 2
