"""Speed of packs of networks: against a loop over modules, against the machine's peak, and over the dimension.

As in `test_bench_packs`, nothing is asserted about time. Each test times its ways in turns within one run, and prints
and stores (`extra_info`) medians and ratios next to their goals; pytest-benchmark's own table only says how long the
comparison took. What is asserted is that the ways compared do the same arithmetic.
"""

import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from test_bench_packs import asked_for  # noqa: F401
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from sandbox.student.denoiser import FREQUENCIES, Denoiser, OneStep, one_step
from sandbox.student.distill import Recipe, Snapshot, distill
from sandbox.student.fake import NetworkFake
from sandbox.student.networks import Pack
from sandbox.student.noise import draw_noise
from sandbox.student.optimise import Adam
from sandbox.student.pretrain import ALL_BINS
from sandbox.teacher.families import random
from sandbox.teacher.mixture import GaussianMixture
from sandbox.teacher.schedule import KarrasBins

# DMD2: updates of the fake score per student update, Adam, noise levels.
UPDATES, LR, BETAS, BINS = 5, 1e-3, (0.9, 0.999), KarrasBins()
# Steps that a pack may be asked for, and repeats of a comparison.
MOST_STEPS, REPEATS = 1000, 7
# A number of threads this many times slower than another one is not tried again: where another process holds a core,
# two threads wait for each other for seconds.
HOPELESS = 3.0
GOALS = {128: 1.4, 32: 2.5}
GOAL_OF_PEAK, GOAL_EXPONENT, GOAL_ON_A_GPU = 0.55, 1.1, 30.0
PEAK_SIZE = 1024


@pytest.fixture(autouse=True)
def one_thread():
    """Unless a test takes more. One thread's processor time does not count what other processes take in between."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Problem:
    """Students of one shape, their teacher a mixture of eight Gaussians."""

    width: int
    students: int = 16
    dim: int = 8
    depth: int = 2
    batch: int = 128
    device: str = "cpu"

    def teacher(self) -> GaussianMixture:
        return random(self.dim)

    def denoiser(self, seed: int) -> Denoiser:
        """An untrained network, but with an output: every parameter has a gradient from the first step."""
        generator = torch.Generator().manual_seed(seed)
        network = Denoiser(self.dim, self.width, self.depth, generator)
        with torch.no_grad():
            outward = network.net.outward
            outward.copy_(torch.randn(outward.shape, generator=generator) / math.sqrt(self.width))
        return network.to(self.device)

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)


class InAPack:
    """The students as the laboratory trains them."""

    def __init__(self, problem: Problem, compiled: bool = False, captured: bool = False):
        p = self.problem = problem
        networks = Pack.of([p.denoiser(seed) for seed in range(p.students)])
        self.teachers = GaussianMixture.stack([p.teacher()] * p.students).to(p.device)
        fake = NetworkFake.of(networks, Adam(LR, *BETAS), ALL_BINS, p.dim, batch=p.batch, updates=UPDATES)
        recipe = Recipe(MOST_STEPS, LR, p.batch, law=BINS, optimiser="adam", beta1=BETAS[0], beta2=BETAS[1])
        self.generators = [p.generator(seed) for seed in range(p.students)]
        marks = range(MOST_STEPS)
        self.trained: Iterator[Snapshot] = distill(
            self.teachers,
            one_step(networks),
            recipe,
            self.generators,
            marks,
            fake,
            compiled=compiled,
            captured=captured,
        )
        self.run(1)  # the start

    def run(self, steps: int) -> Snapshot:
        for _ in range(steps):
            snapshot = next(self.trained)
        return snapshot


class Alone:
    """One student, in plain PyTorch."""

    def __init__(self, problem: Problem, seed: int):
        self.problem, self.generator = problem, problem.generator(seed)
        self.fake = problem.denoiser(seed)
        self.student = OneStep(self.fake)
        self.teacher = problem.teacher().to(torch.float32).to(problem.device)
        self.of_student, self.of_fake = (
            torch.optim.Adam(module.parameters(), LR, BETAS) for module in (self.student, self.fake)
        )

    def noise(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        where = {"generator": self.generator, "device": self.problem.device}
        z, eps = torch.randn(2, self.problem.batch, self.problem.dim, **where)
        return z, eps, torch.rand(self.problem.batch, **where)

    def step(self) -> None:
        for _ in range(UPDATES):
            z, eps, uniform = self.noise()
            with torch.no_grad():
                x = self.student(z)
            sigma = ALL_BINS.draw(uniform)
            error = (self.fake(x + sigma[:, None] * eps, sigma) - x).square().mean(-1)
            self.of_fake.zero_grad()
            ((1 / sigma**2 + 1) * error).mean().backward()
            self.of_fake.step()
        z, eps, uniform = self.noise()
        x = self.student(z)
        with torch.no_grad():
            sigma = BINS.draw(uniform)
            noised = x + sigma[:, None] * eps
            real = self.teacher.denoise(noised, sigma)
            direction = (self.fake(noised, sigma) - real) / (x - real).abs().mean(-1, keepdim=True)
        self.of_student.zero_grad()
        (0.5 * mse_loss(x, x.detach() - direction, reduction="sum") / len(x)).backward()
        self.of_student.step()


class InALoop:
    """One student after the other."""

    def __init__(self, problem: Problem):
        self.each = [Alone(problem, seed) for seed in range(problem.students)]

    def run(self, steps: int) -> None:
        for student in self.each:
            for _ in range(steps):
                student.step()


def assert_the_same(pack: InAPack, loop: InALoop, tolerance: float = 1e-4) -> None:
    """Students and fake scores after one step from the same start with the same noise, by parameter and student."""
    snapshot = pack.run(1)
    loop.run(1)
    for name in ("student", "fake"):
        got = snapshot.students.parameters if name == "student" else snapshot.fake.networks.parameters
        for e, alone in enumerate(loop.each):
            for key, want in getattr(alone, name).named_parameters():
                assert (got[key][e] - want).norm() <= tolerance * want.norm(), f"{name} {e}: {key}"


def seconds(way: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    begun = clock()
    way()
    return clock() - begun


def gpu_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def in_turns(ways: dict, repeats: int, clock: Callable[[], float] = time.perf_counter) -> dict:
    """The median seconds of each way, all of them timed in every repeat, after a first one that does not count."""
    times: dict = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, way in ways.items():
            times[name].append(seconds(way, clock))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def over_threads(ways: dict, probes: dict, threads: tuple[int, ...], repeats: int) -> dict[str, dict[int, float]]:
    """The median seconds of each way on each number of threads, in turns; without numbers that its probe, a short piece
    of it, finds hopeless."""

    def on(n: int, way: Callable[[], object]) -> Callable[[], object]:
        def run():
            torch.set_num_threads(n)
            way()

        return run

    tried = {}
    for name, probe in probes.items():
        took = {n: seconds(on(n, probe)) for n in threads}
        tried |= {(name, n): on(n, ways[name]) for n in threads if took[n] <= HOPELESS * min(took.values())}
    found: dict[str, dict[int, float]] = {name: {} for name in ways}
    for (name, n), median in in_turns(tried, repeats).items():
        found[name][n] = median
    return found


@pytest.fixture
def report(benchmark, capsys):
    """Measures once under the benchmark's name, stores what was found and shows it; returns it."""

    def run(measure: Callable[[], dict]) -> dict:
        found = benchmark.pedantic(measure, rounds=1, iterations=1)
        benchmark.extra_info.update(found)
        if not benchmark.disabled:
            with capsys.disabled():
                print(f"\n{benchmark.name}")
                for name, value in found.items():
                    print(f"    {name:32} {f'{value:.4g}' if isinstance(value, float) else value}")
        return found

    return run


# -- against a loop --------------------------------------------------------------------------------------------------


@pytest.mark.benchmark(group="16 networks, d = 8, batch 128: a pack against a loop over modules")
@pytest.mark.parametrize("width", [32, 128])
def test_a_pack_against_a_loop(benchmark, report, width):
    problem = Problem(width)
    pack, loop = InAPack(problem), InALoop(problem)
    assert_the_same(pack, loop)
    threads, repeats = ((1,), 1) if benchmark.disabled else ((1, 2), REPEATS)

    def measure():
        ways = {"pack": lambda: pack.run(1), "loop": lambda: loop.run(1)}
        found = over_threads(ways, ways | {"loop": loop.each[0].step}, threads, repeats)
        return {
            **{f"{name}: ms a step on {n}": 1e3 * t for name, times in found.items() for n, t in times.items()},
            "loop / pack": min(found["loop"].values()) / min(found["pack"].values()),
            "goal": GOALS[width],
        }

    report(measure)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available() is false")
@pytest.mark.benchmark(group="64 networks on a GPU, d = 8, batch 128: a pack against a loop over modules")
@pytest.mark.parametrize("width", [32, 128])
def test_a_pack_against_a_loop_on_a_gpu(benchmark, report, width):
    assert BINS.levels.device.type == "cpu"  # kept once computed, also for who comes after
    problem = Problem(width, students=64, device="cuda")
    pack, graph, loop = InAPack(problem), InAPack(problem, captured=True), InALoop(problem)
    # A device's products of a batch round otherwise than single ones, and Adam's first step divides by the gradient.
    assert_the_same(pack, loop, 1e-3)
    graph.run(1)  # records

    def measure():
        ways = {"pack": lambda: pack.run(1), "graph": lambda: graph.run(10), "loop": lambda: loop.run(1)}
        found = in_turns(ways, 1 if benchmark.disabled else REPEATS, gpu_clock)
        found["graph"] /= 10
        return {
            **{f"{name}: ms a step": 1e3 * t for name, t in found.items()},
            "loop / pack": found["loop"] / found["pack"],
            "loop / graph": found["loop"] / found["graph"],
            "goal": GOAL_ON_A_GPU,
            "GPU": torch.cuda.get_device_name(),
        }

    report(measure)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler: c++ is not on the path")
@pytest.mark.benchmark(group="16 networks, d = 8, batch 128: compiled against eager")
@pytest.mark.parametrize("width", [32, 128])
def test_compiled_against_eager(benchmark, report, width):
    if benchmark.disabled:
        pytest.skip("compiles for half a minute; whether it computes the same is tested elsewhere")
    problem = Problem(width)
    packs = {"eager": InAPack(problem), "compiled": InAPack(problem, compiled=True)}
    compiling = seconds(lambda: packs["compiled"].run(3))  # the second and third meet numbers that have changed

    def measure():
        found = in_turns({name: lambda p=p: p.run(1) for name, p in packs.items()}, REPEATS, time.process_time)
        return {
            **{f"{name}: ms a step": 1e3 * t for name, t in found.items()},
            "seconds to compile": compiling,
            "eager / compiled": found["eager"] / found["compiled"],
        }

    report(measure)


# -- against the machine ---------------------------------------------------------------------------------------------


def product_flops(problem: Problem) -> int:
    """Of the matrix products in a step of a pack: 2 m n k each, and in a backward pass the same again for the gradient
    of either factor, where it has one; points and noise levels have none. A pack's single level is multiplied out."""
    p = problem
    ends = 2 * p.batch * p.dim * p.width  # inward, and outward
    square = 2 * p.depth * 2 * p.batch * p.width**2
    noise = p.depth * 2 * p.batch * 2 * FREQUENCIES * p.width
    of_student = 2 * ends + square
    of_fake = of_student + noise
    back_of_student = 3 * ends + 2 * square
    back_of_fake = back_of_student + noise
    of_update = of_student + of_fake + back_of_fake
    return p.students * (UPDATES * of_update + of_student + back_of_student + of_fake)


@pytest.mark.benchmark(group="16 networks, d = 8, batch 128: matrix products against the machine's peak")
@pytest.mark.parametrize("width", [32, 64, 128])
def test_products_against_the_peak(benchmark, report, width):
    problem = Problem(width)
    pack, flops = InAPack(problem), product_flops(problem)
    with FlopCounterMode(display=False) as counter:
        pack.run(1)
    assert counter.get_total_flops() == pytest.approx(flops, rel=1e-3)
    A, B = torch.randn(2, PEAK_SIZE, PEAK_SIZE, generator=torch.Generator().manual_seed(0))

    def measure():
        ways = {"step": lambda: pack.run(1), "peak": lambda: A @ B}
        found = in_turns(ways, 1 if benchmark.disabled else 15, time.process_time)
        rate, peak = flops / found["step"], 2 * PEAK_SIZE**3 / found["peak"]
        return {
            "ms a step": 1e3 * found["step"],
            "GFLOP a step": flops / 1e9,
            "GFLOP/s": rate / 1e9,
            "peak GFLOP/s": peak / 1e9,
            "share of peak": rate / peak,
            "goal": GOAL_OF_PEAK,
        }

    report(measure)


# -- over the dimension ----------------------------------------------------------------------------------------------


def slope(cost: dict[int, float]) -> float:
    """Exponent of d by least squares in log-log."""
    x, y = (torch.tensor([math.log(v) for v in values], dtype=torch.float64) for values in (cost, cost.values()))
    x = x - x.mean()
    return ((x * y).sum() / x.square().sum()).item()


@pytest.mark.benchmark(group="2 networks, width 64, batch 32: cost of a step over d")
def test_cost_over_the_dimension(benchmark, report):
    dims, repeats = ((64, 128), 1) if benchmark.disabled else ([2**k for k in range(6, 13)], 7)

    def parts(dim: int) -> dict[str, float]:
        problem = Problem(64, students=2, dim=dim, batch=32)
        pack = InAPack(problem)
        teachers = pack.teachers.to(torch.float32)
        x, sigma = torch.randn(2, 32, dim), BINS.draw(torch.rand(2, 32))
        sources = [problem.generator(seed) for seed in range(2)]

        def noise():
            for _ in range(UPDATES + 1):
                draw_noise(sources, problem.batch, dim, False, torch.float32)

        ways = {"step": lambda: pack.run(1), "teacher": lambda: teachers.denoise(x, sigma), "noise": noise}
        return in_turns(ways, repeats, time.process_time)

    def measure():
        with torch.random.fork_rng(devices=[]):
            found = {dim: parts(dim) for dim in dims}
        cost = {dim: f["step"] for dim, f in found.items()}
        upper = {dim: took for dim, took in cost.items() if dim >= max(dims) // 8}
        shares = {
            f"share of {part} at d = {dim}": times[part] / times["step"]
            for dim, times in found.items()
            for part in ("teacher", "noise")
        }
        networks = {dim: f["step"] - f["teacher"] - f["noise"] for dim, f in found.items()}
        return {
            **{f"ms a step at d = {dim}": 1e3 * took for dim, took in cost.items()},
            **shares,
            "exponent": slope(cost),
            "exponent of the last octaves": slope(upper),
            "exponent of the networks": slope(networks),
            "exponent of the teacher": slope({dim: f["teacher"] for dim, f in found.items()}),
            "goal": GOAL_EXPONENT,
        }

    report(measure)
