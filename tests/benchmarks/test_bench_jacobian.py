"""What the Jacobian's measures cost beside the naive way: torch.func.jacrev of the whole batch, all singular values.

As in `test_bench_networks`, nothing is asserted about time: ways are timed in turns within one run, and medians, ratios
and errors are printed and stored next to their goals. What is asserted is that the ways agree. Students are networks of
width 256 in single precision: one at random weights, and one like a trained one, a closed-form power law s_k ~ k^-3/4
with a small network added. One whole point is one dense Jacobian and its singular values in float64.
"""

import math
import resource
import time

import pytest
import torch
from test_bench_networks import REPEATS, in_turns, one_thread, report  # noqa: F401
from test_bench_packs import asked_for  # noqa: F401
from torch.func import jacrev, vmap

from sandbox.measure.jacobian import capped_spectrum, curl, effective_rank, jacobian, jacobian_spectrum, ranks
from sandbox.measure.matrix_free import estimated_curl, estimated_ranks, leading_triplets
from sandbox.student.denoiser import Correction, Denoiser, OneStep

WIDTH, DEPTH, POINTS = 256, 2, 16
LEADING, DEEP = 16, 6
# Share of the whole spectrum's cost, relative error, and seconds for all measures of the points at d = 4096.
GOAL_COST, GOAL_ERROR, GOAL_SECONDS = 0.1, 0.02, 60.0


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_output(student, size: float):
    outward = student.net.outward
    with torch.no_grad():
        outward.copy_(size * torch.randn(outward.shape, generator=generator(1)) / math.sqrt(WIDTH))
    return student.requires_grad_(False)


def random_weights(dim: int):
    return with_output(OneStep(Denoiser(dim, WIDTH, DEPTH, generator(0))), 1.0)


def trained_like(dim: int):
    """Of a teacher with variance one per coordinate."""
    s = torch.arange(1, dim + 1, dtype=torch.float64) ** -0.75
    s = (s * (dim / s.square().sum()).sqrt()).float()
    small = with_output(Correction(Denoiser(dim, WIDTH, DEPTH, generator(0))), 0.1)
    return lambda z: z * s + small(z)


STUDENTS = {"random": random_weights, "trained": trained_like}


def naive(f, z: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(vmap(jacrev(lambda point: f(point[None])[0]))(z).double())


def noise(n: int, dim: int) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator(2))


@pytest.mark.benchmark(group="spectra of a network of width 256: in chunks against the naive way")
@pytest.mark.parametrize("name", STUDENTS)
def test_a_whole_spectrum(benchmark, report, name):  # noqa: F811
    dim, n, repeats = (64, 4, 1) if benchmark.disabled else (512, POINTS, 3)
    f, z = STUDENTS[name](dim), noise(n, dim)
    torch.testing.assert_close(jacobian_spectrum(f, z), naive(f, z), rtol=0, atol=1e-4)

    def measure():
        ways = {"naive": lambda: naive(f, z), "chunks": lambda: jacobian_spectrum(f, z)}
        found = in_turns(ways, repeats, time.process_time)
        return {
            **{f"{way}: ms a point": 1e3 * took / n for way, took in found.items()},
            "naive / chunks": found["naive"] / found["chunks"],
        }

    report(measure)


def errors(f, z: torch.Tensor, s: torch.Tensor) -> dict[str, float]:
    """Root mean square over points of what is found without the matrix less what the whole spectrum says, relative."""
    found, want = estimated_ranks(f, z, generator(3)), ranks(s)
    off = {name: estimate.value / want[name] - 1 for name, estimate in found.items()}
    leading = leading_triplets(f, z, LEADING, generator(3), DEEP).s / s[:, :LEADING] - 1
    off["leading singular values"] = leading.abs().amax(-1)
    return {
        **{f"{name}: error": e.square().mean().sqrt().item() for name, e in off.items()},
        **{f"{name}: error of the mean": e.mean().abs().item() for name, e in off.items()},
        **{f"{name}: standard error": (e.error / e.value).mean().item() for name, e in found.items()},
        "effective_rank: truncation": (found["effective_rank"].truncation / want["effective_rank"]).mean().item(),
    }


@pytest.mark.benchmark(
    group="a network of width 256, d = 1024: ranks, triplets and curl from products against the matrix"
)
@pytest.mark.parametrize("name", STUDENTS)
def test_without_the_matrix(benchmark, report, name):  # noqa: F811
    dim, n, repeats = (96, 4, 1) if benchmark.disabled else (1024, POINTS, REPEATS)
    whole = min(n, 4)  # the dense ways are timed on fewer points, and counted per point
    f, z = STUDENTS[name](dim), noise(n, dim)
    J = jacobian(f, z)
    s = torch.linalg.svdvals(J)
    found = estimated_curl(f, z, generator(3))
    assert ((found.value - curl(J)) / found.error).abs().max() <= 6
    ways = {
        "naive": lambda: naive(f, z[:whole]),
        "whole": lambda: jacobian_spectrum(f, z[:whole]),
        "ranks": lambda: estimated_ranks(f, z, generator(3)),
        "triplets": lambda: leading_triplets(f, z, LEADING, generator(3), DEEP),
        "curl": lambda: estimated_curl(f, z, generator(3)),
    }
    if isinstance(f, OneStep):
        torch.testing.assert_close(capped_spectrum(f, z), s, rtol=0, atol=1e-4)
        ways["capped"] = lambda: capped_spectrum(f, z)

    def measure():
        took = in_turns(ways, repeats, time.process_time)
        per_point = {way: t / (whole if way in ("naive", "whole") else n) for way, t in took.items()}
        return {
            **{f"{way}: ms a point": 1e3 * t for way, t in per_point.items()},
            **{f"{way} / whole": t / per_point["whole"] for way, t in per_point.items()},
            "goal of the cost": GOAL_COST,
            **errors(f, z, s),
            "goal of the error": GOAL_ERROR,
        }

    report(measure)


@pytest.mark.benchmark(group="ranks, triplets and curl of a network of width 256, d = 4096, on one and two threads")
@pytest.mark.parametrize("name", STUDENTS)
def test_beyond_the_matrix(benchmark, report, name):  # noqa: F811
    dim, n = (128, 2) if benchmark.disabled else (4096, POINTS)
    f, z = STUDENTS[name](dim), noise(n, dim)

    def timed(threads):
        torch.set_num_threads(threads)
        begun, busy = time.perf_counter(), time.process_time()
        found = estimated_ranks(f, z, generator(3))
        leading_triplets(f, z, LEADING, generator(3), DEEP)
        estimated_curl(f, z, generator(3))
        return found, {
            f"seconds for 16 points on {threads}": time.perf_counter() - begun,
            f"processor seconds on {threads}": time.process_time() - busy,
        }

    def measure():
        found, of_one = timed(1)
        # Where other processes hold the cores, two threads wait for each other.
        result = {
            **of_one,
            **timed(2)[1],
            "goal": GOAL_SECONDS,
            **{key: (e.error / e.value).mean().item() for key, e in found.items()},
            "effective_rank: truncation": (found["effective_rank"].truncation / found["effective_rank"].value)
            .mean()
            .item(),
            "peak memory of the process, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        }
        if isinstance(f, OneStep):
            begun = time.perf_counter()
            exact = effective_rank(capped_spectrum(f, z))
            result["capped: seconds for 16 points"] = time.perf_counter() - begun
            result["effective_rank: error"] = (found["effective_rank"].value / exact - 1).square().mean().sqrt().item()
        return result

    report(measure)
