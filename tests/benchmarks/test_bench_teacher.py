"""Cost of the teacher: its score against autograd and against the machine, its map against two ODE solvers, its memory.

As in `test_bench_networks`, nothing is asserted about time. Ways are timed in turns within one run, by the processor
time of one thread, and medians and ratios are printed and stored (`extra_info`) next to their goals, as rows of a
table. What is asserted is that the ways compared agree, and how memory grows, which does not depend on the machine.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import scipy.integrate
import torch
from problems import relative_error
from test_bench_networks import in_turns, one_thread  # noqa: F401
from test_bench_packs import asked_for  # noqa: F401
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.profiler import ProfilerActivity, profile

from sandbox.teacher import flow
from sandbox.teacher.covariance import Covariance, Diagonal, Isotropic, LowRank
from sandbox.teacher.families import memorising, random
from sandbox.teacher.flow import teacher_map
from sandbox.teacher.mixture import GaussianMixture

GOAL_OF_FLOOR, GOAL_OF_AUTOGRAD, GOAL_OF_SOLVERS = 3.0, 40.0, 10.0


@pytest.fixture
def table(benchmark, capsys):
    """Measures once under the benchmark's name, stores the rows found, and shows them as a Markdown table."""

    def cell(value) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    def run(measure: Callable[[], list[dict]]) -> list[dict]:
        rows = benchmark.pedantic(measure, rounds=1, iterations=1)
        benchmark.extra_info["rows"] = rows
        if not benchmark.disabled:
            lines = [list(rows[0]), ["---"] * len(rows[0]), *([cell(v) for v in row.values()] for row in rows)]
            with capsys.disabled():
                print(f"\n{benchmark.name}", *(f"| {' | '.join(line)} |" for line in lines), sep="\n")
        return rows

    return run


def noise(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the score -------------------------------------------------------------------------------------------------------

MODES = 64
# Among the modes, where the smallest noise makes the largest exponents, and far out.
LEVELS = (0.0, 0.5, 80.0)
# Numbers n K d that autograd takes at once. Each of its arrays is as large: 8 MiB stay near the processor and are its
# fastest by a factor of two to four; 128 MiB are what writing log_prob(x).sum() comes to at d = 64, and may still be
# held several times over at d = 4096, where all points at once would take 8 GiB an array.
CACHED, WHOLE = 2**20, 2**24
# Autograd's own points at d = 4096, a share of ours: it goes chunk by chunk, so that its time grows with their number.
SHARE = {64: 1, 512: 1, 4096: 8}
REPEATS = {64: 9, 512: 3, 4096: 2}


def through_autograd(law: GaussianMixture, x: Tensor, sigma: float, elements: int) -> Tensor:
    """The score of an isotropic mixture, by the derivative of torch's own log-density, in chunks of points."""
    std = (law.covariance.variance + sigma**2).sqrt()[:, None].expand(law.components, law.dim)
    reference = MixtureSameFamily(Categorical(law.weights), Independent(Normal(law.means, std), 1))
    scores = []
    for points in x.split(max(1, elements // (law.components * law.dim))):
        points = points.clone().requires_grad_()
        scores.append(torch.autograd.grad(reference.log_prob(points).sum(), points)[0])
    return torch.cat(scores)


@pytest.mark.benchmark(group="mixture score, K = 64, float64, one thread: against autograd and two matrix products")
@pytest.mark.parametrize("dim", [64, 512, 4096])
@pytest.mark.parametrize("tolerance", [1e-8])  # of autograd, which adds up K vectors of length |x - mu| / s^2
def test_mixture_score(benchmark, table, dim, tolerance):
    n, repeats = (256, 1) if benchmark.disabled else (4096, REPEATS[dim])
    law, few = random(dim, MODES), n // SHARE[dim]
    x = law.sample(n, torch.Generator().manual_seed(0))
    points = {sigma: x + sigma * noise(n, dim, 1) for sigma in LEVELS}
    r = law.responsibilities(points[0.5], 0.5)
    for sigma, at in points.items():
        want = through_autograd(law, at[: few // 8], sigma, CACHED)
        assert relative_error(law.score(at, sigma)[: few // 8], want) <= tolerance

    def measure():
        products = {"floor": lambda: (x @ law.means.T, r @ law.means)}
        scores = {sigma: lambda s=sigma, at=at: law.score(at, s) for sigma, at in points.items()}
        reference = {
            name: lambda elements=elements: through_autograd(law, points[0.5][:few], 0.5, elements)
            for name, elements in (("cached", CACHED), ("whole", WHOLE))
        }
        # Apart: whatever comes after autograd finds its memory given back, and takes it anew.
        found = in_turns(products | scores, 5 * repeats, time.process_time)
        found |= in_turns(reference, repeats, time.process_time)
        score, autograd = max(found[sigma] for sigma in LEVELS), SHARE[dim] * min(found["cached"], found["whole"])
        return [
            {
                "d": dim,
                "n": n,
                "two products (ms)": 1e3 * found["floor"],
                **{f"score, sigma = {sigma:g} (ms)": 1e3 * found[sigma] for sigma in LEVELS},
                "autograd, 8 MiB arrays (ms)": 1e3 * SHARE[dim] * found["cached"],
                "autograd, 128 MiB arrays (ms)": 1e3 * SHARE[dim] * found["whole"],
                "slowest score / products": score / found["floor"],
                "at most": GOAL_OF_FLOOR,
                "faster autograd / slowest score": autograd / score,
                "slower autograd / slowest score": SHARE[dim] * max(found["cached"], found["whole"]) / score,
                "at least": GOAL_OF_AUTOGRAD,
            }
        ]

    table(measure)


# -- memory ----------------------------------------------------------------------------------------------------------


def peak_bytes(way: Callable[[], object], folder: Path) -> int:
    """The most that torch held at once beyond what it held before, from the profiler's record of every allocation."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        way()
    path = folder / "trace.json"
    record.export_chrome_trace(str(path))
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        most = max(most, held)
    return most


def of_kind(kind: str, modes: int, dim: int) -> Covariance:
    if kind == "isotropic":
        return Isotropic([0.1] * modes)
    if kind == "diagonal":
        return Diagonal(0.1 + torch.rand(modes, dim, generator=torch.Generator().manual_seed(0)).double())
    return LowRank(noise(modes * dim, 4).reshape(modes, dim, 4), 0.1)


@pytest.mark.benchmark(group="mixture score: memory")
@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "low-rank"])
# Arrays of n (K + d) numbers held at once, low-rank covariances with their products the most; one array of n K d would
# be 30 of them. And the growth of the peak when a size doubles.
@pytest.mark.parametrize(("arrays", "growth"), [(7, 2.05)])
def test_memory_of_the_score(table, tmp_path, kind, arrays, growth):
    smaller = {"n": 1024, "K": 32, "d": 512}

    def peak(n: int, modes: int, dim: int) -> int:
        law, x = GaussianMixture([1 / modes] * modes, noise(modes, dim), of_kind(kind, modes, dim)), noise(n, dim, 1)
        return peak_bytes(lambda: law.score(x, 0.5), tmp_path)

    def measure():
        rows = []
        for doubled in ("", *smaller):
            n, modes, dim = (size * (2 if name == doubled else 1) for name, size in smaller.items())
            most = peak(n, modes, dim)
            rows.append(
                {
                    "covariance": kind,
                    "n": n,
                    "K": modes,
                    "d": dim,
                    "peak (MB)": most / 1e6,
                    "in arrays n (K + d)": most / (8 * n * (modes + dim)),
                    "in arrays n K d": most / (8 * n * modes * dim),
                }
            )
        return rows

    rows = table(measure)
    for row in rows:
        assert row["in arrays n (K + d)"] <= arrays, row
        assert row["peak (MB)"] <= growth * rows[0]["peak (MB)"], row


# -- the map ---------------------------------------------------------------------------------------------------------

SIGMA_MAX, GOAL_ERROR = 80.0, 1e-6
# Tolerances tried, from loose to tight, until the error that is really made is below the goal.
TOLERANCES = tuple(10 ** (-k / 4) for k in range(12, 45))


@dataclass(frozen=True)
class Variable:
    """A variable t of integration: sigma and dsigma/dt at t, and where it starts and ends."""

    at: Callable[[float], tuple[float, float]]
    start: float
    end: float


def variables(law: GaussianMixture) -> dict[str, Variable]:
    """sigma itself; its logarithm, down to where what is left out is far below the goal; and arcsinh as the map's."""
    c = law.smallest_std
    return {
        "sigma": Variable(lambda t: (t, 1.0), SIGMA_MAX, 0.0),
        "log sigma": Variable(lambda t: (math.exp(t), math.exp(t)), math.log(SIGMA_MAX), math.log(1e-4 * c)),
        "arcsinh": Variable(lambda t: (c * math.sinh(t), c * math.cosh(t)), math.asinh(SIGMA_MAX / c), 0.0),
    }


class Counted:
    """A teacher that counts the points that it is asked for."""

    def __init__(self, law: GaussianMixture):
        self.law, self.points = law, 0
        self.dim, self.smallest_std = law.dim, law.smallest_std

    def score(self, x: Tensor, sigma) -> Tensor:
        self.points += len(x)
        return self.law.score(x, sigma)


def velocity(teacher, variable: Variable) -> Callable[[float, Tensor], Tensor]:
    def of(t: float, x: Tensor) -> Tensor:
        sigma, rate = variable.at(t)
        return -sigma * rate * teacher.score(x, abs(sigma))

    return of


def by_map(teacher, z: Tensor, tolerance: float) -> Tensor:
    """Of a teacher that counts, the points at which its map's own right-hand side is evaluated are counted."""
    if not isinstance(teacher, Counted):
        return teacher_map(teacher, z, SIGMA_MAX, tolerance)
    advance = flow.advance

    def counting(velocity, *args):
        def counted(y: Tensor, tau: Tensor) -> Tensor:
            teacher.points += len(tau)
            return velocity(y, tau)

        return advance(counted, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "advance", counting)
        return teacher_map(teacher.law, z, SIGMA_MAX, tolerance)


def by_scipy(teacher, z: Tensor, variable: Variable, tolerance: float) -> Tensor:
    of, times = velocity(teacher, variable), (variable.start, variable.end)

    def flat(t, y):
        return of(t, torch.from_numpy(y).reshape(z.shape)).numpy().ravel()

    start = (SIGMA_MAX * z).numpy().ravel()
    found = scipy.integrate.solve_ivp(flat, times, start, method="DOP853", rtol=tolerance, atol=tolerance)
    return torch.from_numpy(found.y[:, -1]).reshape(z.shape)


def by_torchdiffeq(teacher, z: Tensor, variable: Variable, tolerance: float) -> Tensor:
    import torchdiffeq

    of, times = velocity(teacher, variable), torch.tensor([variable.start, variable.end], dtype=torch.float64)
    # Left to itself it steps past the end and interpolates back.
    settings = {"rtol": tolerance, "atol": tolerance, "method": "dopri5", "options": {"step_t": times[1:]}}
    return torchdiffeq.odeint(lambda t, x: of(t.item(), x), SIGMA_MAX * z, times, **settings)[-1]


@pytest.mark.benchmark(group="teacher map of a mixture to a true error of 1e-6, n = 1024, float64, one thread")
@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize(("asked", "agreement"), [(1e-10, 1e-9)])
def test_map_at_equal_error(benchmark, table, dim, asked, agreement):
    pytest.importorskip("torchdiffeq")
    law, repeats = random(dim), 1 if benchmark.disabled else 5
    z, of = noise(16 if benchmark.disabled else 1024, dim), variables(law)
    reference = by_scipy(law, z, of["arcsinh"], 1e-12)
    assert (teacher_map(law, z, SIGMA_MAX, asked) - reference).norm(dim=-1).amax() <= agreement

    def loosest(way) -> tuple[float, float, float]:
        """The loosest tolerance that keeps the error below the goal, by bisection; that error; and scores a point."""
        tried = {}
        low, high = 0, len(TOLERANCES) - 1
        while low < high or high not in tried:
            middle = (low + high) // 2
            teacher = Counted(law)
            error = error_of(way(teacher, TOLERANCES[middle]))
            tried[middle] = TOLERANCES[middle], error, teacher.points / len(z)
            low, high = (low, middle) if error < GOAL_ERROR else (middle + 1, high)
        assert tried[high][1] < GOAL_ERROR, "even the tightest tolerance leaves a larger error"
        return tried[high]

    def error_of(x: Tensor) -> float:
        return (x - reference).norm(dim=-1).amax().item()

    def measure():
        ways = {("teacher_map", ""): lambda teacher, tolerance: by_map(teacher, z, tolerance)}
        for name, by in {"DOP853": by_scipy, "dopri5": by_torchdiffeq}.items():
            for variable, v in of.items():
                ways[name, variable] = lambda teacher, tolerance, by=by, v=v: by(teacher, z, v, tolerance)
        tuned = {key: loosest(way) for key, way in ways.items()}
        timed = {key: lambda key=key: ways[key](law, tuned[key][0]) for key in ways}
        # As it is used: by the bound that it has on its own error, and not by the error itself.
        default, teacher = ("teacher_map by its own estimate", ""), Counted(law)
        error = error_of(by_map(teacher, z, GOAL_ERROR))
        tuned[default] = GOAL_ERROR, error, teacher.points / len(z)
        timed[default] = lambda: teacher_map(law, z, SIGMA_MAX, GOAL_ERROR)
        found = in_turns(timed, repeats, time.process_time)
        return [
            {
                "d": dim,
                "way": key[0],
                "variable": key[1],
                "tolerance": tuned[key][0],
                "error": tuned[key][1],
                "scores a point": tuned[key][2],
                "ms": 1e3 * took,
                "times teacher_map": took / found["teacher_map", ""],
                "at least": GOAL_OF_SOLVERS if key[1] else "",
            }
            for key, took in found.items()
        ]

    table(measure)


@pytest.mark.benchmark(group="teacher map of a memorising teacher, d = 8, to an estimated error of 1e-6, one thread")
def test_map_of_a_memorising_teacher(benchmark, table):
    noises, sizes = (16, (64,)) if benchmark.disabled else (1024, (256, 4096))
    z = noise(noises, 8)

    def measure():
        rows = []
        for points in sizes:
            law = memorising(8, points=points)
            teacher, began = Counted(law), time.process_time()
            x = by_map(teacher, z, GOAL_ERROR)
            took = time.process_time() - began
            again = teacher_map(law, z[:16], SIGMA_MAX, GOAL_ERROR / 100)
            rows.append(
                {
                    "points": points,
                    "noises": noises,
                    "s": took,
                    "scores a point": teacher.points / noises,
                    "error, of 16": (x[:16] - again).norm(dim=-1).max().item(),
                }
            )
        return rows

    for row in table(measure):
        assert row["error, of 16"] <= GOAL_ERROR, row
