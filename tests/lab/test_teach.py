"""Teacher networks: one per teacher, shape, training and seed, whoever needs it and whatever it is trained with."""

import dataclasses

import numpy as np
import pytest
import torch

from sandbox.lab.cell import Cell
from sandbox.lab.teach import (
    ERROR_LEVELS,
    SHARED,
    TeacherNetwork,
    cost,
    network_of,
    network_packs,
    networks_of,
    pack_of,
    train_networks,
)

TINY = {"width": 8, "depth": 1, "teacher_steps": 5, "teacher_batch": 16}
MLP = Cell(teacher="random", dim=2, student="mlp", fake_score="network", sigma_law="karras", optimiser="adam", **TINY)
GAUSSIAN = MLP.replace(teacher="gaussian")
RING = MLP.replace(teacher="ring")
HELD = MLP.replace(hold="trace")
GROUPS = MLP.replace(teacher="hierarchical", modes=12)
MANIFOLD = MLP.replace(teacher="manifold", dim=4)
IMAGES = MLP.replace(teacher="image_like")
SHEAR = MLP.replace(teacher="shear")
MEMORY = MLP.replace(teacher="memorising", points=5)
DIGITS = MLP.replace(teacher="digits", dim=4, modes=2, rank=2)

# Another value of each field that a teacher network depends on, and a base where that field means something.
ITS_OWN = {
    "teacher": (MLP, "ring"),
    "dim": (MLP, 3),
    "variance": (GAUSSIAN, 2.0),
    "exponent": (GAUSSIAN, 1.5),
    "modes": (MLP, 5),
    "radius": (RING, 2.0),
    "separation": (MLP, 2.0),
    "std": (MLP, 0.2),
    "teacher_seed": (MLP, 1),
    "hold": (MLP, "trace"),
    "held": (HELD, 2.0),
    "groups": (GROUPS, 3),
    "inner": (GROUPS, 0.5),
    "intrinsic": (MANIFOLD, 3),
    "floor": (MANIFOLD, 0.01),
    "share": (IMAGES, 0.5),
    "length": (SHEAR, 1.0),
    "angle": (SHEAR, 30.0),
    "points": (MEMORY, 6),
    "bandwidth": (MEMORY, 0.2),
    "population": (MEMORY, "ring"),
    "points_seed": (MEMORY, 1),
    "rank": (DIGITS, 1),
    "reduce": (DIGITS, "components"),
    "width": (MLP, 16),
    "depth": (MLP, 2),
    "bottleneck": (MLP, 1),
    "teacher_steps": (MLP, 6),
    "teacher_lr": (MLP, 1e-3),
    "teacher_batch": (MLP, 17),
}
NOT_ITS_OWN = {
    "start": "residual",
    "skip": "off",
    "sampling_steps": 2,
    "loss": "sid",
    "gan": 3e-3,
    "regression": 0.25,
    "fake_weighting": "epsilon",
    "weight_decay": 0.1,
    "parts": 2,
    "start_scale": 0.2,
    "start_error": 0.5,
    "sigma_init": 40.0,
    "real_score": "network",
    "reference": "network",
    "fake_lr": 1e-2,
    "fake_batch": 64,
    "fake_updates": 1,
    "fake_warmup": 0,
    "normaliser": "batch",
    "reduction": "mean",
    "sigma_law": "log-grid",
    "sigma_min": 0.01,
    "sigma_max": 90.0,
    "antithetic": True,
    "optimiser": "sgd",
    "beta1": 0.5,
    "beta2": 0.9,
    "lr": 0.1,
    "batch": 32,
    "steps": 7,
    "decay": 0.3,
    "clip": 1.0,
    "average": 0.9,
}
# Its seed is looked at for itself, as is another teacher's; the rest has one value for network students, or means
# something beside another choice only.
ELSEWHERE = {"seed", "network_seed", "student", "fake_score", "measures", "algorithm_version", "bins"} | {
    "start_teacher_seed",
    "rotation",
    "fake_memory",
    "sid_alpha",
    "gan_critic",
    "gan_r1",
    "pairs",
    "momentum",
}


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes() for name in one
    )


class TestKey:
    def test_every_field_is_looked_at(self):
        assert set(ITS_OWN) == set(SHARED)
        assert set(ITS_OWN) | set(NOT_ITS_OWN) | ELSEWHERE == {f.name for f in dataclasses.fields(Cell)}

    @pytest.mark.parametrize("name", ITS_OWN)
    def test_follows_what_changes_the_weights(self, name):
        base, value = ITS_OWN[name]
        changed = base.replace(**{name: value})
        assert network_of(changed).key != network_of(base).key
        assert network_of(changed.replace(**{name: getattr(base, name)})).key == network_of(base).key

    @pytest.mark.parametrize("name", NOT_ITS_OWN)
    def test_follows_nothing_else(self, name):
        changed = MLP.replace(**{name: NOT_ITS_OWN[name]})
        assert changed.key != MLP.key
        assert network_of(changed) == network_of(MLP)
        assert network_of(changed).key == network_of(MLP).key

    def test_follows_the_students_seed_unless_the_network_has_its_own(self):
        def key(**fields):
            return network_of(MLP.replace(**fields)).key

        assert len({key(seed=0), key(seed=1), key(seed=2)}) == 3
        assert key(seed=5, network_seed=1) == key(seed=6, network_seed=1) == key(seed=1)
        assert key(seed=1, network_seed=0) == key(seed=0)

    def test_follows_the_version_of_the_algorithm(self):
        network = network_of(MLP)
        assert dataclasses.replace(network, algorithm_version=99).key != network.key

    @pytest.mark.parametrize("student", ["linear", "affine"])
    def test_other_students_have_no_network(self, student):
        with pytest.raises(ValueError, match=f"student must be mlp to have a teacher network, got '{student}'"):
            network_of(Cell(student=student))
        assert networks_of([Cell(student=student)]) == []


MANY = [MLP.replace(seed=s, width=w, lr=lr) for lr in (0.1, 0.2) for w in (8, 16) for s in (3, 1, 2)]


def test_the_networks_of_cells_are_distinct_and_in_order():
    found = networks_of([Cell(), *MANY, Cell(seed=1)])
    assert [(n.cell.width, n.seed) for n in found] == [(w, s) for w in (8, 16) for s in (3, 1, 2)]
    assert len({n.key for n in found}) == len(found)


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_packs_hold_every_network_once_with_its_like(size):
    networks = networks_of([*MANY, *(RING.replace(seed=s, teacher_lr=lr) for lr in (0.1, 0.2) for s in range(5))])
    packs = network_packs(networks, size)
    held = [network for pack in packs for network in pack]
    assert sorted(n.key for n in held) == sorted(n.key for n in networks)
    assert all(1 <= len(pack) <= size for pack in packs)
    assert all(len({network.cell for network in pack}) == 1 for pack in packs)
    assert max(map(len, packs)) == min(size, 5)


def test_no_networks_need_no_packs():
    assert network_packs([], 4) == []


@pytest.mark.parametrize(
    "fields",
    [
        *({"dim": dim} for dim in (1, 2, 8, 17)),
        {"teacher": "ring"},
        {"teacher": "gaussian", "exponent": 1.5, "dim": 3},
        # Wider sums are other kernels, and the teachers' components are added up in several groups.
        {"dim": 32, "width": 64, "depth": 2, "teacher_batch": 256},
    ],
    ids=str,
)
def test_a_network_alone_and_in_a_pack_is_the_same(fields):
    # One teacher_lr: different ones are different packs.
    networks = [network_of(MLP.replace(**fields, seed=s)) for s in range(16)]
    together = train_networks(networks)
    for some in ([0], [15], range(9, 13)):
        for i, (record, weights) in zip(some, train_networks([networks[i] for i in some]), strict=True):
            assert same_bits(weights, together[i][1])
            assert record == together[i][0]
    assert not same_bits(together[0][1], together[1][1])


def test_weights_come_back_as_the_network_that_they_were():
    networks = [network_of(MLP.replace(seed=s)) for s in range(3)]
    weights = [w for _, w in train_networks(networks)]
    pack = pack_of(networks, weights)
    assert len(pack) == 3
    for i, w in enumerate(weights):
        assert same_bits({name: p[i].numpy() for name, p in pack.parameters.items()}, w)
    untrained = dict(networks[0].untrained().named_parameters())
    assert {name: p.shape for name, p in untrained.items()} == {name: w.shape for name, w in weights[0].items()}
    assert all(w.dtype == np.float32 for w in weights[0].values())


def test_without_steps_a_network_stays_at_its_first_weights():
    network = network_of(MLP.replace(teacher_steps=0, seed=2))
    ((record, weights),) = train_networks([network])
    assert same_bits(weights, {name: p.detach().numpy() for name, p in network.untrained().named_parameters()})
    assert all(np.isfinite(record["error"]))


@pytest.mark.parametrize(("variance", "tolerance"), [(1.0, 1e-12), (4.0, 1e-12)])
def test_an_untrained_network_knows_the_size_of_its_data(variance, tolerance):
    """It is the exact denoiser of N(0, sigma_data^2)."""
    ((record, _),) = train_networks([network_of(GAUSSIAN.replace(variance=variance, teacher_steps=0))])
    assert max(record["error"]) < tolerance


@pytest.mark.parametrize("dim", [2, 8])
@pytest.mark.parametrize(("steps", "factor", "lowest"), [(200, 2.0, 1e-6)])
def test_the_record_says_how_far_from_its_teacher_it_ended(dim, steps, factor, lowest):
    cell = MLP.replace(dim=dim, width=32, teacher_batch=128)
    networks = [network_of(cell.replace(teacher_steps=s)) for s in (0, steps)]
    (before,), (after,) = ([record for record, _ in train_networks([network])] for network in networks)
    for record, network in zip((before, after), networks, strict=True):
        assert record["levels"] == list(ERROR_LEVELS)
        assert len(record["error"]) == len(ERROR_LEVELS)
        assert np.isfinite(record["error"]).all()
        assert Cell(**record["cell"]) == network.cell
        assert record["seed"] == network.seed
    # At the lowest level the sample itself is the answer, trained or not.
    assert max(before["error"][0], after["error"][0]) < lowest
    for level, worse, better in zip(ERROR_LEVELS[1:], before["error"][1:], after["error"][1:], strict=True):
        assert better < worse / factor, level


@pytest.mark.parametrize("teacher_lr", [1e12, 1e30])
def test_a_network_that_diverges_names_its_learning_rate(teacher_lr):
    found = train_networks([network_of(MLP.replace(teacher_lr=teacher_lr, seed=s)) for s in range(2)])
    assert len(found) == 2
    for trained in found:
        assert isinstance(trained, ValueError)
        assert f"teacher_lr {teacher_lr}" in str(trained)
        assert "diverge" in str(trained)


def test_a_network_that_diverges_costs_no_other(monkeypatch):
    """Planted: one of three starts at weights that are not finite."""
    networks = [network_of(MLP.replace(seed=s)) for s in range(3)]
    alone, real = [train_networks([network])[0] for network in networks], TeacherNetwork.untrained

    def planted(network):
        module = real(network)
        if network.seed == 1:
            torch.nn.init.constant_(module.net.inward, torch.inf)
        return module

    monkeypatch.setattr(TeacherNetwork, "untrained", planted)
    first, lost, last = train_networks(networks)
    assert isinstance(lost, ValueError)
    for trained, expected in ((first, alone[0]), (last, alone[2])):
        assert same_bits(trained[1], expected[1])
        assert trained[0] == expected[0]


def test_training_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    train_networks([network_of(MLP)])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("steps", [0, 1, 5, 120])
def test_reports_rise_to_the_end(steps):
    told = []
    train_networks([network_of(MLP.replace(teacher_steps=steps, teacher_batch=1))], told.append)
    assert told == sorted(told)
    assert told[-1:] == ([1.0] if steps else [])
    assert len(told) <= 62


def test_a_pack_costs_less_than_its_networks_alone_and_more_than_one():
    networks = [network_of(MLP.replace(seed=s)) for s in range(8)]
    assert cost(networks[:1]) < cost(networks) < 8 * cost(networks[:1])
    assert cost([network_of(MLP.replace(teacher_steps=10))]) == pytest.approx(2 * cost(networks[:1]))
    assert cost([network_of(MLP.replace(teacher_steps=0))]) == 0
