"""Every switch of the distillation, from a cell to its record: it trains, it does what it says, and a student's numbers
do not depend on its pack."""

import math
from functools import lru_cache

import numpy as np
import pytest
import torch

from sandbox.lab import students
from sandbox.lab.cell import cell_from
from sandbox.lab.remeasure import student_of
from sandbox.lab.students import linear_student, prepare
from sandbox.lab.teach import network_of, networks_of, train_networks
from sandbox.lab.work import train_pack
from sandbox.student.adversarial import AdversarialFake
from sandbox.student.moment_fake import MomentFake

LINEAR = {"dim": 3, "steps": 4}
WITHOUT_NETWORK = {
    "teacher": "random",
    "student": "mlp",
    "dim": 3,
    "width": 8,
    "depth": 1,
    "steps": 4,
    "batch": 16,
    "teacher_steps": 4,
    "teacher_batch": 16,
    "optimiser": "adam",
    "lr": 1e-3,
    "sigma_law": "karras",
}
MLP = {**WITHOUT_NETWORK, "fake_score": "network", "fake_warmup": 4, "fake_batch": 16}
KINDS = {
    "adversarial with R1": {**MLP, "gan": 3e-3, "gan_r1": 1.0},
    "moments": {**WITHOUT_NETWORK, "fake_score": "moments", "fake_batch": 32},
    "real score alone": {**WITHOUT_NETWORK, "fake_score": "none"},
    "fitted eps": {**MLP, "fake_weighting": "epsilon"},
    "SiD": {**MLP, "loss": "sid"},
    "regression": {**MLP, "regression": 0.25, "pairs": 64},
    "trained skip": {**MLP, "skip": "trained"},
    "no skip": {**MLP, "skip": "off"},
    "bottleneck": {**MLP, "bottleneck": 2},
    "turned": {**MLP, "skip": "trained", "start": "rotated", "rotation": 0.5},
    "two steps": {**MLP, "sampling_steps": 2},
    "another teacher's start": {**MLP, "start_teacher_seed": 3},
    "AdamW": {**MLP, "weight_decay": 0.1},
    "linear, SiD": {**LINEAR, "loss": "sid"},
    "linear, regression": {**LINEAR, "regression": 0.25, "pairs": 64},
    "linear, moments": {**LINEAR, "fake_score": "moments"},
    "linear, real score alone": {**LINEAR, "fake_score": "none"},
    "linear, momentum": {**LINEAR, "momentum": 0.9},
    "linear, turned": {**LINEAR, "start": "rotated", "rotation": 0.3},
}


def pack_of(fields, seeds):
    return [cell_from({**fields, "seed": seed}) for seed in seeds]


@pytest.fixture(autouse=True)
def _short_fit(monkeypatch):
    monkeypatch.setattr(students, "FIT_STEPS", 20)


@lru_cache
def plain(student):
    """The weights of the student of seed 0 with every switch as it is by default."""
    return train_pack(pack_of(MLP if student == "mlp" else LINEAR, (0,)))[0][1]


@pytest.mark.parametrize("kind", KINDS)
def test_trains_apart_as_together_and_its_switch_does_something(kind):
    """And a finished student is the same map when it is made of its stored weights again."""
    fields = KINDS[kind]
    together, alone = train_pack(pack_of(fields, (0, 1))), train_pack(pack_of(fields, (1,)))
    (record, arrays), (own, same) = together[1], alone[0]
    assert record["status"] == "done"
    assert record["measures"] == own["measures"]
    assert record["trajectory"] == own["trajectory"]
    assert all(np.array_equal(arrays[name], same[name]) for name in arrays)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert student_of(pack_of(fields, (1,))[0], arrays)(z).isfinite().all()
    first, usual = together[0][1], plain(fields.get("student", "linear"))
    shared = (set(first) & set(usual)) - {"rotation"}
    assert set(first) != set(usual) or not all(np.array_equal(first[name], usual[name]) for name in shared)


def test_parts_change_rounding_only():
    whole, parts = plain("mlp"), train_pack(pack_of({**MLP, "parts": 4}, (0,)))[0][1]
    assert all(np.allclose(whole[name], parts[name], rtol=1e-4, atol=1e-6) for name in whole)


def prepared(name):
    cells = pack_of(KINDS[name], (0, 1))
    trained = train_networks(networks_of(cells))
    return cells, prepare(cells, [weights for _, weights in trained])


def test_fake_scores_are_what_the_cells_say():
    fake = prepared("adversarial with R1")[1].fake
    assert isinstance(fake, AdversarialFake)
    assert (fake.student_weight, fake.critic_weight, fake.r1) == (3e-3, 1e-2, 1.0)
    fake = prepared("moments")[1].fake
    assert isinstance(fake, MomentFake)
    assert (fake.batch, fake.memory) == (32, 0.9)


@pytest.mark.parametrize("kind", ["turned", "linear, turned"])
def test_a_turned_start_is_the_start_at_turned_noise(kind):
    fields = KINDS[kind]
    straight = {name: v for name, v in fields.items() if name != "rotation"} | {"start": "teacher"}
    z = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if fields.get("student") == "mlp":
        z = z.float()
        got, want = prepared(kind)[1], prepare(pack_of(straight, (0, 1)), _weights(straight))
        R = torch.stack(list(got.rotations)).to(z)
        torch.testing.assert_close(got.students(z), want.students(z @ R.mT), rtol=1e-4, atol=1e-5)
    else:
        (got, R), (want, _) = (linear_student(cell_from(f)) for f in (fields, straight))
        torch.testing.assert_close(got(z), want(z @ R.mT), rtol=1e-12, atol=1e-12)
        R = R[None]
    turn = torch.linalg.eigvals(R[0].double()).angle().abs().max().item()
    assert turn == pytest.approx(fields["rotation"], abs=1e-6)


def _weights(fields):
    return [weights for _, weights in train_networks(networks_of(pack_of(fields, (0, 1))))]


def test_another_teachers_start_is_its_network():
    cell = cell_from(KINDS["another teacher's start"])
    own = cell_from({**MLP, "teacher_seed": 3})
    assert network_of(cell) == network_of(own)
    assert network_of(cell) != network_of(cell_from(MLP))
    assert cell.mixture().means.equal(cell_from(MLP).mixture().means)


BAD = {
    "unknown loss": ({"loss": "kl"}, "loss must be one of dmd, sid, got 'kl'"),
    "ratio below one": ({**MLP, "fake_updates": 0}, "fake_updates must be >= 1, got 0"),
    "exact fake score of a network": (
        {**WITHOUT_NETWORK, "fake_score": "exact"},
        "fake_score must be one of network, moments, none for student mlp, got 'exact'",
    ),
    "wide bottleneck": ({**MLP, "bottleneck": 4}, "bottleneck must be <= dim 3, got 4"),
    "no bottleneck at all": ({**MLP, "bottleneck": 0}, "bottleneck must be >= 1, got 0"),
    "adam's momentum": ({"momentum": 0.5, "optimiser": "adam"}, r"momentum 0.5 needs optimiser sgd"),
    "momentum of one": ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    "odd parts": ({"parts": 3}, "parts must divide the batch of 64, got 3"),
    "parts of a batch's normaliser": ({"parts": 2, "normaliser": "batch"}, "parts must be 1 with the batch's own"),
    "pairs for nothing": ({"pairs": 64}, "pairs means nothing with regression 0, got 64"),
    "critic for nothing": ({**MLP, "gan_r1": 1.0}, "gan_r1 means nothing with gan 0, got 1.0"),
    "critic without features": ({**KINDS["moments"], "gan": 3e-3}, "gan 0.003 needs fake_score network"),
    "negative weight": ({**MLP, "gan": -1.0}, "gan must be >= 0, got -1.0"),
    "weighting of nothing": ({**KINDS["moments"], "fake_weighting": "epsilon"}, "fake_weighting epsilon needs"),
    "angle without rotation": ({"rotation": 0.5}, "rotation 0.5 needs start rotated, got 'teacher'"),
    "angle beyond pi": ({"rotation": 3.2, "start": "rotated"}, r"rotation must be in \[0, pi\], got 3.2"),
    "a fixed path turned": ({**MLP, "start": "rotated"}, "skip must be trained or off for a start that is rotated"),
    "a linear student's skip": ({"skip": "off"}, "skip off needs student mlp, got 'linear'"),
    "a path beside the exact one": ({**MLP, "skip": "off", "start": "residual"}, "skip off needs another start"),
    "steps from nowhere": ({**MLP, "sampling_steps": 2, "start": "random"}, "sampling_steps 2 needs start teacher"),
    "steps with pairs": ({**MLP, "sampling_steps": 2, "antithetic": True}, "sampling_steps 2 is not there with"),
    "a start without seeds": ({**MLP, "teacher": "ring", "start_teacher_seed": 1}, "teacher_seed|seed"),
    "another's real score": (
        {**MLP, "start_teacher_seed": 1, "real_score": "network"},
        "real_score network needs a start from the teacher's own network",
    ),
}


@pytest.mark.parametrize(("fields", "message"), BAD.values(), ids=BAD)
def test_what_does_not_go_together_is_named(fields, message):
    with pytest.raises(ValueError, match=message) as error:
        cell_from(fields)
    assert "\n" not in str(error.value)


def test_the_largest_rotation_is_half_a_turn():
    assert cell_from({"start": "rotated", "rotation": math.pi}).rotation == math.pi
