"""Sweeps expand in their stated order; packs hold every cell once, with its like only."""

import pytest

from sandbox.lab.cell import Cell
from sandbox.lab.sweep import RIDES_A_NETWORK_PACK, RIDES_A_PACK, Sweep, axis_values, cost, packs


def test_arms_come_first_and_the_last_axis_is_the_fastest():
    sweep = Sweep("s", {"steps": 5}, {"a": {"lr": 0.1}, "b": {"lr": 0.2}}, {"dim": (2, 4), "seed": (0, 1)})
    found = [(arm, cell.lr, cell.dim, cell.seed) for arm, cell in sweep.students()]
    want = [(arm, lr, dim, seed) for arm, lr in (("a", 0.1), ("b", 0.2)) for dim in (2, 4) for seed in (0, 1)]
    assert found == want
    assert {cell.steps for cell in sweep.cells()} == {5}


def test_functions_see_what_was_resolved_before_them():
    arm = {"lr": lambda c: 0.64 / c["dim"], "batch": lambda c: c["batch"] * c["dim"]}
    sweep = Sweep("s", {"batch": 8}, {"a": arm}, {"dim": (2, 4)})
    assert [(c.lr, c.batch) for c in sweep.cells()] == [(0.32, 16), (0.16, 32)]


def test_derived_values_come_last_once_per_condition():
    asked = []

    def steps(cell):
        asked.append(cell)
        return 10 * cell.dim + cell.batch

    sweep = Sweep("s", {"batch": 4}, {"a": {}}, {"dim": (2, 3), "seed": (0, 1, 2)}, derived={"steps": steps})
    assert [(c.dim, c.seed, c.steps) for c in sweep.cells()] == [(d, s, 10 * d + 4) for d in (2, 3) for s in (0, 1, 2)]
    assert [c.dim for c in asked] == [2, 3]


def test_cells_that_arms_share_are_one():
    sweep = Sweep("s", {}, {"a": {"lr": 0.02}, "b": {}}, {"seed": (0, 1)})
    assert len(sweep.students()) == 4
    assert sweep.cells() == [Cell(seed=0), Cell(seed=1)]


def test_a_narrowed_sweep_replaces_its_axes():
    sweep = Sweep("s", axes={"dim": (2, 4), "seed": (0, 1)})
    narrow = sweep.narrowed({"dim": (8,), "lr": (0.1, 0.2)})
    assert [(c.dim, c.seed, c.lr) for c in narrow.cells()] == [(8, s, lr) for s in (0, 1) for lr in (0.1, 0.2)]
    assert {c.dim for c in sweep.cells()} == {2, 4}


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        (Sweep("s", axes={"dim": ()}), "dim must have at least one value"),
        (Sweep("s", {"breadth": 3}), "breadth is not a field"),
        (Sweep("s", {"width": 3}), "width means nothing with student linear, got 3"),
        (Sweep("s", axes={"dims": (1,)}), "dims is not a field"),
        (Sweep("s", arms={"a": {"lr": -1}}), "lr must be > 0, got -1"),
        (Sweep("s", derived={"steps": lambda c: 0}), "steps must be >= 1, got 0"),
    ],
)
def test_bad_sweeps_are_named(sweep, words):
    with pytest.raises(ValueError, match=words):
        sweep.students()


MIXED = [
    *(Cell(dim=d, steps=s, seed=i) for d in (1, 2) for s in (3, 4) for i in range(5)),
    *(Cell(dim=2, steps=3, lr=lr, start="random", variance=2.0) for lr in (0.1, 0.2)),
    *(Cell(dim=2, steps=3, exponent=1.5, seed=i) for i in range(3)),
    *(Cell(teacher="ring", dim=2, steps=3, modes=m) for m in (4, 5)),
]


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_packs_hold_every_cell_once_with_its_like(size):
    found = packs(MIXED, size)
    held = [cell for pack in found for cell in pack]
    assert len(held) == len(MIXED)
    assert set(held) == set(MIXED)
    assert all(1 <= len(pack) <= size for pack in found)
    for pack in found:
        # What a pack shares: tensors' shapes, the loop's length, and teachers that can be stacked.
        assert len({(c.dim, c.batch, c.steps, c.teacher, c.student, c.modes, bool(c.exponent)) for c in pack}) == 1
        plain = {n: getattr(Cell(), n) for n in RIDES_A_PACK}
        assert len({c.replace(**plain) for c in pack if c.teacher == "gaussian"}) <= 1
    # Cells that differ in nothing but their seed do ride together.
    assert max(map(len, found)) == min(size, 7)
    assert [cost(pack) for pack in found] == sorted(map(cost, found), reverse=True)


MLP = Cell(teacher="random", dim=2, student="mlp", fake_score="network", width=8, depth=1)
# Values of fields that network students of one pack share, and of fields in which they may differ.
ALIKE = {
    "teacher": "gaussian",
    "dim": 3,
    "modes": 5,
    "separation": 2.0,
    "std": 0.2,
    "teacher_seed": 1,
    "width": 16,
    "depth": 2,
    "start": "residual",
    "sigma_init": 40.0,
    "real_score": "network",
    "reference": "network",
    "fake_lr": 1e-2,
    "fake_batch": 16,
    "fake_updates": 2,
    "fake_warmup": 7,
    "batch": 32,
    "steps": 7,
    "decay": 0.3,
    "clip": 1.0,
    "average": 0.9,
    "antithetic": True,
}
RIDING = {
    "seed": 1,
    "lr": 0.1,
    "start_error": 0.5,
    "network_seed": 3,
    "teacher_steps": 7,
    "teacher_lr": 0.1,
    "teacher_batch": 16,
}


@pytest.mark.parametrize("name", ALIKE)
def test_network_students_of_different_teachers_or_training_share_no_pack(name):
    other = MLP.replace(**{name: ALIKE[name]})
    assert sorted(map(len, packs([MLP, other, MLP.replace(seed=1), other.replace(seed=1)]))) == [2, 2]


def test_network_students_that_differ_in_what_rides_share_one():
    assert set(RIDING) == set(RIDES_A_NETWORK_PACK)
    cells = [MLP, *(MLP.replace(**{name: value}) for name, value in RIDING.items())]
    assert packs(cells) == [cells]


@pytest.mark.parametrize("size", [1, 3, 16])
def test_packs_of_network_and_linear_students_hold_every_cell_once(size):
    linear = [Cell(teacher="random", dim=2, seed=i) for i in range(5)]
    networks = [MLP.replace(seed=i, sigma_init=sigma) for sigma in (80.0, 10.0) for i in range(5)]
    found = packs(linear + networks, size)
    assert sorted(c.key for pack in found for c in pack) == sorted(c.key for c in linear + networks)
    assert all(len(pack) <= size and len({(c.student, c.sigma_init) for c in pack}) == 1 for pack in found)


@pytest.mark.parametrize("field", ["width", "depth", "steps", "fake_updates", "fake_warmup", "fake_batch", "batch"])
def test_a_network_student_costs_more_the_more_there_is_to_do(field):
    assert cost([MLP]) < cost([MLP.replace(**{field: 2 * getattr(MLP, field)})])


def test_a_pack_costs_less_than_its_students_alone_and_more_than_one():
    one, many = cost([Cell()]), cost([Cell(seed=i) for i in range(16)])
    assert one < many < 16 * one
    with pytest.raises(ValueError, match="pack must be >= 1, got 0"):
        packs([Cell()], 0)


@pytest.mark.parametrize(
    ("text", "kind", "want"),
    [
        ("2,8,32", int, [2, 8, 32]),
        ("2 8 32", int, [2, 8, 32]),
        ("0:4", int, [0, 1, 2, 3]),
        (("2", "8"), int, [2, 8]),
        ("1, 3:5", int, [1, 3, 4]),
        ("0.1,1e-3", float, [0.1, 1e-3]),
        ([4, 5], int, [4, 5]),
        ("teacher,random", str, ["teacher", "random"]),
    ],
)
def test_axis_values_read_every_form(text, kind, want):
    assert axis_values(text, kind) == want


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("x", "'x'"),
        ("2,y", "'y'"),
        ("1.5", "'1.5'"),
        ("0:b", "'0:b'"),
        ("1:2:3", "'1:2:3'"),
        ("", "''"),
        ("4:4", "'4:4'"),
        ("3:1", "'3:1'"),
    ],
)
def test_axis_values_name_what_they_cannot_read(text, named):
    with pytest.raises(ValueError, match="an axis") as caught:
        axis_values(text, int)
    assert named in str(caught.value)


def test_an_arm_may_have_axes_of_its_own():
    sweep = Sweep("s", {}, {"a": {}, "b": {}}, {"dim": (2, 4), "seed": (0, 1)}, {"b": {"dim": (8,), "lr": (0.1, 0.2)}})
    found = [(arm, c.dim, c.seed, c.lr) for arm, c in sweep.students()]
    assert found[:4] == [("a", d, s, 0.02) for d in (2, 4) for s in (0, 1)]
    assert found[4:] == [("b", 8, s, lr) for s in (0, 1) for lr in (0.1, 0.2)]
    # What a user narrows, no arm keeps for itself.
    narrow = sweep.narrowed({"dim": (3,)})
    assert [(arm, c.dim) for arm, c in narrow.students()] == [("a", 3)] * 2 + [("b", 3)] * 4


def test_a_value_that_one_arm_cannot_take_names_the_arm():
    sweep = Sweep("s", {}, {"a": {}, "mixture": {"teacher": "random"}}, {"exponent": (1.0,)})
    with pytest.raises(ValueError, match=r"exponent is not an option of family 'random'.*\(arm 'mixture'\)"):
        sweep.students()


def test_values_of_a_field_are_found_without_a_cell():
    """As the cells have them: base, axes, arms in that order, and the default where none names it."""
    made = Sweep(
        "made",
        {"teacher": "ring"},
        {"plain": {}, "own": {"teacher": "random"}, "axis": {}},
        {"dim": (2,), "seed": (0, 1)},
        {"axis": {"teacher": ("gaussian", "ring")}},
    )
    assert made.values("teacher") == {"ring", "random", "gaussian"} == {cell.teacher for cell in made.cells()}
    assert made.values("seed") == {0, 1}
    assert made.values("batch") == {Cell().batch}
    scaled = Sweep(
        "scaled", {}, {"all": {"lr": lambda cell: 1 / cell["dim"]}}, {"dim": (2,)}, {}, {"steps": lambda c: 3}
    )
    assert scaled.values("lr") is None
    assert scaled.values("steps") is None
