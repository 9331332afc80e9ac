"""A pack's work does not depend on who is in the pack."""

import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from blind import Blind
from tiny import NETWORK

from sandbox.lab.cell import Cell
from sandbox.lab.teach import network_of, networks_of, train_networks
from sandbox.lab.work import train_pack


@pytest.mark.parametrize("dim", [2, 8, 17])
@pytest.mark.parametrize(
    "changes",
    [
        # One teacher for all, and one each: a shared teacher must not round otherwise than a pack of different ones.
        [{"seed": 0}, {"seed": 1}, {"seed": 2}],
        [{"variance": 1.0}, {"variance": 2.0}, {"variance": 0.5}],
        [{"exponent": 1.5}, {"exponent": 1.0}, {"exponent": 1.5, "seed": 1}],
        [{"teacher": "random", "student": "affine", "teacher_seed": s} for s in range(3)],
        [{"optimiser": "adam", "lr": lr} for lr in (1e-3, 1e-2, 1e-4)],
        [{"sigma_law": "log-grid", "fake_score": "levels", "lr": lr} for lr in (0.05, 0.02, 0.01)],
    ],
    ids=["seeds", "variances", "exponents", "mixtures", "adam", "learned"],
)
def test_a_student_alone_and_in_a_pack_is_the_same(changes, dim, monkeypatch):
    # The training is compared; measuring a mixture's students would follow its flow for seconds.
    monkeypatch.setattr("sandbox.lab.work.readings", Blind)
    monkeypatch.setattr("sandbox.lab.work._finish", lambda cell, snapshot, i, *_: _weights(snapshot, i))
    cells = [Cell(dim=dim, steps=30, lr=0.05, start="random").replace(**change) for change in changes]
    together = train_pack(cells)
    for cell, expected in zip(cells, together, strict=True):
        (alone,) = train_pack([cell])
        assert alone.keys() == expected.keys()
        assert all(np.array_equal(alone[name], expected[name]) for name in alone)


@pytest.mark.parametrize("changes", [{}, {"antithetic": True, "student": "affine"}], ids=str)
@pytest.mark.parametrize(("dim", "batch", "size"), [(64, 64, 10), (33, 256, 16)])
def test_a_large_pack_of_mixtures_is_its_students(dim, batch, size, changes, monkeypatch):
    """Where a pack's components are too many numbers to be computed at once, and one student's are not."""
    monkeypatch.setattr("sandbox.lab.work.readings", Blind)
    cell = Cell(teacher="random", dim=dim, batch=batch, steps=3, start="random").replace(**changes)
    cells = [cell.replace(seed=s) for s in range(size)]
    together = train_pack(cells)
    for i in (0, size // 2, size - 1):
        assert same_bits(train_pack(cells[i : i + 1])[0][1], together[i][1])


def _weights(snapshot, i):
    return {name: p[i].detach().numpy() for name, p in snapshot.students.parameters.items()}


@pytest.mark.parametrize("fields", [{}, {"exponent": 1.5}, {"start": "rotated"}, {"start": "map"}], ids=str)
@pytest.mark.parametrize("tolerance", [0.05])
def test_closed_measures_are_what_the_sampled_ones_estimate(fields, tolerance):
    cells = [Cell(dim=6, steps=400, lr=0.05, measures=kind, **fields) for kind in ("all", "closed")]
    (sampled, arrays), (closed, same) = (train_pack([cell])[0] for cell in cells)
    assert np.array_equal(arrays["weight"], same["weight"])
    for name in ("gauge_polar", "covariance_error"):
        assert closed["measures"][name] == pytest.approx(sampled["measures"][name], rel=1e-9, abs=1e-12)
    # 1024 held-out points against the population.
    assert closed["measures"]["displacement"] == pytest.approx(sampled["measures"]["displacement"], abs=tolerance)
    assert closed["measures"]["law_passes"] == sampled["measures"]["law_passes"]
    for point, other in zip(closed["trajectory"], sampled["trajectory"], strict=True):
        assert point["step"] == other["step"]
        assert point["scale"] == pytest.approx(other["scale"], rel=2 * tolerance)


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


@cache
def _taught(network):
    return train_networks([network])[0][1]


def taught(cells):
    """The weights of the cells' teacher networks, by key."""
    return {network.key: _taught(network) for network in networks_of(cells)}


class TestNetworkPacks:
    """Bit for bit: every sum over a student's numbers has an order of its own, whoever is in the pack."""

    @pytest.fixture(autouse=True)
    def _blind(self, monkeypatch):
        monkeypatch.setattr("sandbox.lab.work.readings", Blind)

    @pytest.mark.parametrize("dim", [1, 2, 8, 17])
    @pytest.mark.parametrize(
        "fields",
        [
            {"start": "teacher"},
            {"start": "residual"},
            {"start": "random"},
            {"real_score": "network"},
            {"clip": 0.5, "average": 0.9, "antithetic": True, "decay": 0.5, "normaliser": "batch"},
            {"optimiser": "sgd", "normaliser": "off", "sigma_law": "log-uniform", "reduction": "mean"},
        ],
        ids=lambda fields: " ".join(map(str, fields.values())),
    )
    def test_a_student_alone_and_in_a_pack_is_the_same(self, fields, dim):
        # Every rider differs; a shared network too, so that two of its students ride beside each other.
        cells = [
            NETWORK.replace(dim=dim, seed=i, lr=1e-3 * (1 + i), network_seed=i // 2 if i < 4 else None, **fields)
            for i in range(16)
        ]
        if fields.get("start", "teacher") == "teacher":
            cells = [c.replace(start_error=0.5 * (i % 3)) for i, c in enumerate(cells)]
        networks = taught(cells)
        together = [arrays for _, arrays in train_pack(cells, networks=networks)]
        for some in ([0], [15], [2, 3], range(9, 14)):
            alone = train_pack([cells[i] for i in some], networks=networks)
            for i, (record, arrays) in zip(some, alone, strict=True):
                assert record["status"] == "done"
                assert same_bits(arrays, together[i])
        assert not same_bits(together[0], together[1])

    @pytest.mark.parametrize(
        "fields",
        [
            {"dim": 32, "width": 64, "depth": 2, "batch": 64, "fake_batch": 128, "teacher_batch": 256},
            {"dim": 3, "width": 33, "depth": 2, "batch": 63, "fake_batch": 1},
            {"dim": 2, "width": 1, "batch": 1},
            {"dim": 33, "teacher": "ring", "batch": 256, "start": "residual"},
            {"dim": 5, "teacher": "gaussian", "exponent": 1.5, "real_score": "network"},
        ],
        ids=str,
    )
    def test_whatever_the_sizes(self, fields):
        cells = [NETWORK.replace(seed=i, **fields) for i in range(16)]
        networks = taught(cells)
        together = train_pack(cells, networks=networks)
        for some in ([0], [15], [3, 4, 5]):
            for i, (_, arrays) in zip(some, train_pack([cells[i] for i in some], networks=networks), strict=True):
                assert same_bits(arrays, together[i][1])

    def test_networks_given_or_trained_here_are_the_same(self):
        cells = [NETWORK.replace(seed=i) for i in range(2)]
        given = train_pack(cells, networks=taught(cells))
        some = train_pack(cells, networks=taught(cells[1:]))
        for (_, a), (_, b), (_, c) in zip(given, train_pack(cells), some, strict=True):
            assert same_bits(a, b)
            assert same_bits(a, c)

    def test_teachers_of_different_training_ride_together(self):
        cells = [NETWORK.replace(teacher_steps=t, teacher_lr=lr) for t, lr in ((5, 1e-2), (0, 1e-2), (5, 1e-3))]
        for cell, (_, arrays) in zip(cells, train_pack(cells), strict=True):
            assert same_bits(train_pack([cell])[0][1], arrays)

    @pytest.mark.parametrize("fields", [{}, {"start": "residual"}, {"average": 0.9, "clip": 1.0}], ids=str)
    def test_a_student_that_diverges_disturbs_nobody(self, fields):
        rates = (1e-3, 1e12, 2e-3)
        cells = [NETWORK.replace(seed=i, lr=lr, **fields) for i, lr in enumerate(rates)]
        networks = taught(cells)
        (first, a), (lost, _), (last, b) = train_pack(cells, networks=networks)
        assert (lost["status"], lost["diverged_at"], lost["measures"]) == ("diverged", 1, {})
        # What was seen of it before it was lost.
        assert [point["step"] for point in lost["trajectory"]] == [0]
        calm = train_pack([cells[0], cells[1].replace(lr=1e-3), cells[2]], networks=networks)
        for cell, (record, arrays), (_, beside) in zip(
            (cells[0], cells[2]), ((first, a), (last, b)), (calm[0], calm[2]), strict=True
        ):
            assert record["status"] == "done"
            assert same_bits(arrays, beside)
            assert same_bits(arrays, train_pack([cell], networks=networks)[0][1])

    def test_students_of_one_network_have_noise_of_their_own(self):
        cells = [NETWORK.replace(network_seed=0, seed=s) for s in (0, 1)]
        assert network_of(cells[0]) == network_of(cells[1])
        (_, one), (_, other) = train_pack(cells)
        assert not same_bits(one, other)

    def test_a_teacher_network_that_diverges_is_named(self):
        with pytest.raises(ValueError, match=r"teacher_lr 1000000000000\.0 made a teacher network diverge"):
            train_pack([NETWORK.replace(teacher_lr=1e12)])

    def test_the_global_generator_is_left_alone(self):
        before = torch.random.get_rng_state()
        train_pack([NETWORK])
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_reports_rise_to_the_end(self):
        told = []
        train_pack([NETWORK, NETWORK.replace(seed=1)], told.append)
        assert told == sorted(told)
        assert told[-1] == 1.0


# Every measure of a network student, but for the null and its range that many have beside them.
WITH_NULL = {
    "displacement",
    "displacement_leading",
    "displacement_rest",
    "gauge_displacement",
    "correlation_distance",
    "inefficiency",
    "retrieval",
    "mode_agreement",
}
OTHERS = {
    "student_effective_rank",
    "student_stable_rank",
    "student_participation_ratio",
    "teacher_effective_rank",
    "teacher_stable_rank",
    "teacher_participation_ratio",
    "start_cosine",
    "start_cosine_between",
    "start_error_ratio",
    "start_error_ratio_between",
    "start_linear_share",
    "exact_linear_share",
    "linear_share",
    "kl",
    "law_passes",
    "start_available_freedom",
    "start_available_freedom_se",
    "end_available_freedom",
    "end_available_freedom_se",
    "net_freedom",
    "net_freedom_se",
}
POINT = {
    "step",
    "displacement",
    "correlation_distance",
    "scale",
    "linear_share",
    "energy_distance",
    "kl",
    "fake_error",
    "fake_curl",
    "agreement",
    "used_freedom",
    "student_effective_rank",
    "student_curl",
}


MEASURED = [NETWORK, NETWORK.replace(seed=1, lr=1e12)]


@pytest.fixture(scope="module")
def measured():
    return train_pack(MEASURED)


class TestNetworkRecords:
    """Measured in full, and hence few."""

    def test_has_every_measure_finite_or_null(self, measured):
        record = measured[0][0]
        measures = record["measures"]
        named = WITH_NULL | {f"{name}_{part}" for name in WITH_NULL for part in ("null", "low", "high")} | OTHERS
        assert named <= measures.keys()
        assert record["status"] == "done"
        json.dumps(record, allow_nan=False)
        for name in named:
            assert isinstance(measures[name], (float, bool)), name
            assert math.isfinite(measures[name]), name

    def test_has_a_trajectory(self, measured):
        trajectory = measured[0][0]["trajectory"]
        assert [point["step"] for point in trajectory] == [0, 1, 2, 4, 6]
        for point in trajectory:
            assert point.keys() == POINT
            assert all(v is None or math.isfinite(v) for v in point.values())
        # Its end is the student that is measured, at some of the points.
        last, measures = trajectory[-1], measured[0][0]["measures"]
        assert last["kl"] == measures["kl"]
        assert last["student_effective_rank"] == measures["student_effective_rank"]
        # Without an average of the weights there is nothing that they lag behind.
        assert all(point["used_freedom"] is None for point in trajectory)
        assert last["displacement"] == pytest.approx(measures["displacement"], abs=0.1)

    def test_has_a_start(self, measured):
        start, teacher = measured[0][0]["start"], NETWORK.mixture()
        assert start.keys() >= {"variance", "signal", "error", "offset", "gain", "noise", "noise_share"}
        for name in ("variance", "signal", "error", "offset"):
            assert len(start[name]) == NETWORK.dim
        # Two of seven directions between eight modes are all that there are in the plane.
        assert len(start["gain"]) == len(start["noise"]) == NETWORK.dim
        assert start["variance"] == pytest.approx(torch.linalg.eigvalsh(teacher.cov).flip(0).tolist())
        assert all(g >= n > 0 for g, n in zip(start["gain"], start["noise"], strict=True))
        assert 0 <= start["noise_share"] <= 1

    def test_of_a_student_that_diverged_says_so(self, measured):
        record = measured[1][0]
        assert (record["status"], record["measures"], record["diverged_at"]) == ("diverged", {}, 1)
        assert [point["step"] for point in record["trajectory"]] == [0]
        assert record["start"].keys() == measured[0][0]["start"].keys()

    def test_does_not_depend_on_the_pack(self, measured):
        record, arrays = train_pack([NETWORK])[0]
        assert json.dumps(record) == json.dumps(measured[0][0])
        assert same_bits(arrays, measured[0][1])

    def test_against_a_network_is_of_the_same_student(self, measured):
        record, arrays = train_pack([NETWORK.replace(reference="network")])[0]
        assert same_bits(arrays, measured[0][1])
        analytic = measured[0][0]
        for name in ("displacement", "correlation_distance", "teacher_effective_rank"):
            assert record["measures"][name] != analytic["measures"][name]
        for name in ("kl", "linear_share", "start_cosine", "law_passes", "student_effective_rank"):
            assert record["measures"][name] == analytic["measures"][name]
        assert record["start"] == analytic["start"]
