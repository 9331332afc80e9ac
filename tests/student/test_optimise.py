"""A pack's optimisers against torch's, one student at a time."""

import math

import pytest
import torch

from sandbox.student.optimise import SGD, Adam, clipped, decayed

SHAPES = {"weight": (3, 4), "bias": (4,)}
STUDENTS, STEPS = 3, 25
RATES = torch.tensor([1e-3, 1e-2, 3e-2], dtype=torch.float64)


def normal(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def starts():
    return {k: normal((STUDENTS, *shape), i) for i, (k, shape) in enumerate(SHAPES.items())}


def gradients(step):
    return {k: normal((STUDENTS, *shape), 100 * step + i) for i, (k, shape) in enumerate(SHAPES.items())}


def theirs(make, student, scales):
    leaves = {k: p[student].clone().requires_grad_() for k, p in starts().items()}
    optimiser = make(list(leaves.values()), RATES[student].item())
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATES[student].item() * scales[step]
        for k, leaf in leaves.items():
            leaf.grad = gradients(step)[k][student].clone()
        optimiser.step()
    return {k: leaf.detach() for k, leaf in leaves.items()}


@pytest.mark.parametrize("scales", [[1.0] * STEPS, [1 - s / STEPS for s in range(STEPS)]], ids=["constant", "decaying"])
@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (lambda lr: SGD(lr), lambda p, lr: torch.optim.SGD(p, lr)),
        (lambda lr: SGD(lr, 0.9), lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9)),
        (lambda lr: Adam(lr), lambda p, lr: torch.optim.Adam(p, lr)),
        (lambda lr: Adam(lr, 0.0, 0.99), lambda p, lr: torch.optim.Adam(p, lr, (0.0, 0.99))),
        (lambda lr: Adam(lr, weight_decay=0.5), lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.5)),
        (
            lambda lr: Adam(lr, 0.0, 0.99, weight_decay=0.01),
            lambda p, lr: torch.optim.AdamW(p, lr, (0.0, 0.99), weight_decay=0.01),
        ),
    ],
    ids=["sgd", "momentum", "adam", "adam without momentum", "adamw", "adamw without momentum"],
)
@pytest.mark.parametrize("tolerance", [1e-12])
def test_every_student_as_alone_in_torch(ours, torchs, scales, tolerance):
    method, parameters = ours(RATES), starts()
    state = method.init(parameters)
    for step in range(STEPS):
        parameters, state = method.step(parameters, gradients(step), state, scales[step])
    for student in range(STUDENTS):
        for k, want in theirs(torchs, student, scales).items():
            torch.testing.assert_close(parameters[k][student], want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("scales", [[1.0] * STEPS, [1 - s / STEPS for s in range(STEPS)]], ids=["constant", "decaying"])
@pytest.mark.parametrize(("decay", "tolerance"), [(0.5, 1e-13)])
def test_decay_of_sgd_does_not_enter_the_momentum(momentum, scales, decay, tolerance):
    """theta <- (1 - lr lambda) theta - lr v, student by student; torch's own SGD adds lambda theta to the gradient."""
    method, parameters = SGD(RATES, momentum, decay), starts()
    state = method.init(parameters)
    for step in range(STEPS):
        parameters, state = method.step(parameters, gradients(step), state, scales[step])
    for student, rate in enumerate(RATES.tolist()):
        for k, theta in starts().items():
            theta, v = theta[student], torch.zeros(SHAPES[k], dtype=torch.float64)
            for step, scale in enumerate(scales):
                v = momentum * v + gradients(step)[k][student]
                theta = theta - rate * scale * decay * theta - rate * scale * v
            torch.testing.assert_close(parameters[k][student], theta, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("make", [SGD, Adam])
def test_a_student_alone_to_the_last_bit(make, decay):
    def ends(members):
        method = make(RATES[members], weight_decay=decay)
        parameters = {k: p[members] for k, p in starts().items()}
        state = method.init(parameters)
        for step in range(STEPS):
            here = {k: g[members] for k, g in gradients(step).items()}
            parameters, state = method.step(parameters, here, state)
        return parameters

    together = ends(slice(None))
    for student in range(STUDENTS):
        for k, alone in ends([student]).items():
            assert torch.equal(alone[0], together[k][student])


@pytest.mark.parametrize("make", [SGD, Adam])
def test_without_gradient_only_decay_moves(make):
    """And without decay, nothing does."""
    still = {k: torch.zeros_like(p) for k, p in starts().items()}
    for decay in (0.0, 2.0):
        method = make(RATES, weight_decay=decay)
        moved, _ = method.step(starts(), still, method.init(starts()))
        for k, p in starts().items():
            for student, rate in enumerate(RATES):
                want = p[student] - rate * decay * p[student]
                assert torch.equal(moved[k][student], want)
                assert torch.equal(want, p[student]) == (decay == 0)


def test_no_decay_is_no_arithmetic():
    parameters = starts()
    assert decayed(parameters, RATES, 0.0) is parameters


@pytest.mark.parametrize("method", [SGD(0.1, 0.9, 0.1), Adam(0.1, weight_decay=0.1)], ids=["momentum", "adam"])
def test_nothing_is_modified(method):
    parameters = starts()
    state = method.init(parameters)
    first, _ = method.step(parameters, gradients(0), state)
    again, _ = method.step(parameters, gradients(0), state)
    assert all(torch.equal(parameters[k], p) for k, p in starts().items())
    assert all(torch.equal(first[k], again[k]) for k in SHAPES)


@pytest.mark.parametrize(("norm", "tolerance"), [(0.5, 1e-6), (100.0, 1e-6)])
def test_clipping_is_torchs_for_each_student(norm, tolerance):
    found = clipped(gradients(1), norm)
    for student in range(STUDENTS):
        leaves = [torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in SHAPES.values()]
        for leaf, g in zip(leaves, gradients(1).values(), strict=True):
            leaf.grad = g[student].clone()
        torch.nn.utils.clip_grad_norm_(leaves, norm)
        for leaf, g in zip(leaves, found.values(), strict=True):
            torch.testing.assert_close(g[student], leaf.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(0.0), "lr must be > 0, got 0.0"),
        (lambda: Adam(torch.tensor([0.1, math.nan])), "lr must be > 0"),
        (lambda: SGD(0.1, 1.0), r"momentum must be in \[0, 1\), got 1.0"),
        (lambda: Adam(0.1, -0.1), r"beta1 must be in \[0, 1\), got -0.1"),
        (lambda: Adam(0.1, 0.9, 1.0), r"beta2 must be in \[0, 1\), got 1.0"),
        (lambda: SGD(0.1, weight_decay=-0.1), "weight_decay must be >= 0, got -0.1"),
        (lambda: Adam(0.1, weight_decay=math.inf), "weight_decay must be >= 0, got inf"),
        (lambda: Adam(0.1, weight_decay=math.nan), "weight_decay must be >= 0, got nan"),
        (lambda: clipped(gradients(0), 0.0), "clip must be > 0, got 0.0"),
    ],
)
def test_bad_input_is_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
