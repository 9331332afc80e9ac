"""A user's pairs: sums in chunks against the whole arrays, standard errors against the bootstrap, nulls against the
permutation law, and every bad array named."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cosine

from sandbox.measure import arrays as module
from sandbox.measure.arrays import Pairs
from sandbox.measure.pairing import displacement, mode_agreement
from sandbox.measure.pairs import ASSIGNED, LAW_POINTS, MEASURES, Measure, Measured, caveats, read_pairs

RNG = np.random.default_rng


def correlated(n, d, share=0.8, seed=0, scale=1.0, shift=0.0, dtype=np.float64):
    """Teacher N(0, I) and a student of correlation `share` with it, scaled and shifted; z is the teacher's noise."""
    rng = RNG(seed)
    T = rng.standard_normal((n, d))
    S = scale * (share * T + math.sqrt(1 - share**2) * rng.standard_normal((n, d))) + shift
    return {"z": T.astype(dtype), "student": S.astype(dtype), "teacher": T.astype(dtype)}


def read(given, *names, **options):
    """The named readings of arrays."""
    pairs = given if isinstance(given, Pairs) else Pairs.of(given)
    found, _ = read_pairs(pairs, measures=[m for m in MEASURES if m.name in names], **options)
    by_name = {r.name: r for r in found}
    return by_name[names[0]] if len(names) == 1 else [by_name[name] for name in names]


@pytest.mark.parametrize("chunk", [8, 1000, 2**22])
@pytest.mark.parametrize("d", [1, 2, 17])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 1e-13), (np.float16, 1e-13)])
def test_sums_in_chunks_are_those_of_the_whole_arrays(monkeypatch, dtype, tolerance, d, chunk):
    # A shift far above the spread: sums that were taken in the arrays' own precision would be off by far more.
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    given = correlated(100, d, scale=1.5, shift=30.0, dtype=dtype)
    S, T = (given[name].astype(np.float64) for name in ("student", "teacher"))
    rho, r, ratio = read(given, "displacement", "correlation_distance", "variance_ratio")
    independent = S.var(0).sum() + T.var(0).sum() + np.square(S.mean(0) - T.mean(0)).sum()
    assert rho.value == pytest.approx(np.square(S - T).sum(1).mean() / independent, abs=tolerance)
    assert r.value == pytest.approx(cosine((S - S.mean(0)).ravel(), (T - T.mean(0)).ravel()), abs=tolerance)
    assert ratio.value == pytest.approx(S.var(0).sum() / T.var(0).sum(), rel=tolerance)
    assert rho.n == r.n == ratio.n == 100


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_a_copy_reads_exactly_that(scale, shift):
    x = scale * (RNG(0).standard_normal((64, 5)) + shift)
    rho, r, ratio, share = read(
        {"z": x, "S": x, "T": x}, "displacement", "correlation_distance", "variance_ratio", "student_linear_share"
    )
    assert (rho.value, rho.error, ratio.value, ratio.error) == (0.0, 0.0, 1.0, 0.0)
    assert r.value == pytest.approx(0, abs=1e-15)
    assert share.value == pytest.approx(1, abs=1e-12)


def labels(n, seed):
    """The teacher's large mode is mostly kept, its small ones are merged: kappa's chance agreement then has more than
    half again of its standard error."""
    rng = RNG(seed)
    a = rng.choice(3, n, p=[0.85, 0.1, 0.05])
    return {"student_modes": np.where(a == 0, rng.random(n) > 0.9, 2).astype(int), "teacher_modes": a}


# scipy's bootstrap of 400 resamples knows a standard error to 3.5 %.
@pytest.mark.parametrize("relative", [0.12])
@pytest.mark.parametrize("name", ["displacement", "correlation_distance", "variance_ratio", "mode_agreement"])
def test_standard_errors_are_the_bootstraps(monkeypatch, name, relative):
    # The null's shuffles would be most of the work, and a resample has no use for them.
    monkeypatch.setattr(module, "SHUFFLES", 1)
    n = 250
    given = correlated(n, 3, 0.7, scale=2.0, shift=1.0) | labels(n, 1)

    def statistic(index):
        return read({key: v[index.astype(int)] for key, v in given.items()}, name).value

    sampled = stats.bootstrap(
        (np.arange(n),), statistic, n_resamples=400, vectorized=False, method="percentile", random_state=RNG(0)
    )
    assert read(given, name).error == pytest.approx(sampled.standard_error, rel=relative)


def permutation_spread(S, T):
    """Standard deviation of mean_i <s_i, t_pi(i)> over uniform pi (Hoeffding 1951, Theorem 2)."""
    s, t = S - S.mean(0), T - T.mean(0)
    return math.sqrt(np.square(s @ t.T).sum() / (len(s) - 1)) / len(s)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("n", [40, 700])
# 30 draws of 64 shuffles: the spread is known to 1.6 %, the mean to sqrt(1/64 + 1/256)/sqrt(30) of the spread.
@pytest.mark.parametrize(("relative", "errors"), [(0.06, 4.0)])
def test_the_null_is_that_of_uniform_shuffles(n, share, relative, errors):
    off, spread = [], []
    for seed in range(30):
        given = correlated(n, 6, share, seed)
        want = permutation_spread(given["student"], given["teacher"])
        drawn = Pairs.of(given).shuffled_products / want
        off.append(drawn.mean())
        spread.append(drawn.var() + drawn.mean() ** 2)
    # Of a copy as of independent pairs: a point meets its own partner no more often than any other.
    assert abs(np.mean(off)) < errors * math.sqrt((1 / 64 + 1 / 256) / 30)
    assert math.sqrt(np.mean(spread)) == pytest.approx(1, rel=relative)


def test_the_null_is_the_one_of_stored_students():
    given = correlated(200, 8, 0.5)
    ours = read(given, "displacement")
    theirs = displacement(*(torch.from_numpy(given[name]) for name in ("student", "teacher")), RNG(0))
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx(theirs.value, abs=1e-14)
    assert ours.null == pytest.approx(theirs.null, abs=width / 4)
    assert ours.high - ours.low == pytest.approx(width, rel=0.4)  # two ranges of 64 shuffles each


def test_labels_are_compared_as_those_of_stored_students():
    given = correlated(300, 2) | labels(300, 0)
    want = mode_agreement(*(torch.from_numpy(given[f"{who}_modes"]) for who in ("student", "teacher")), 3, RNG(0))
    assert read(given, "mode_agreement").value == pytest.approx(want.value, abs=1e-15)
    a, b = (np.bincount(given[f"{who}_modes"]) for who in ("student", "teacher"))
    assert read(given, "mass_ratio").value == pytest.approx(min((a / b).min(), (b / a).min()))


@pytest.mark.parametrize(
    ("scale", "share", "low", "high"),
    [(1.0, 0.0, 0.8, 1.2), (1.0, 1.0, 0.8, 1.2), (2.0, 0.0, 2.5, 20), (0.3, 0.9, 2.5, 20)],
)
def test_the_law_is_compared_whatever_the_pairing(scale, share, low, high):
    found = read(correlated(1000, 4, share, scale=scale), "law_distance")
    assert low < found.value < high
    assert found.null == pytest.approx(1)
    assert found.low < 1 < found.high


def test_the_linear_share_of_unrelated_noise_is_its_null():
    given = correlated(400, 10)
    given["z"] = RNG(9).standard_normal((400, 20))
    ours, theirs = read(given, "student_linear_share", "teacher_linear_share")
    # 10 coordinates of a share that scatters by sqrt(2 * 20) / 400 each
    assert ours.value == pytest.approx(ours.null, abs=4 * math.sqrt(40) / 400 / math.sqrt(10))
    assert ours.null == theirs.null == 20 / 399


def test_jacobians_are_read_over_their_own_points():
    given = correlated(50, 4) | {"jacobian_student": np.stack([np.eye(4), np.diag([1.0, 1, 0, 0])])}
    rank, stable = read(given, "student_effective_rank", "student_stable_rank")
    assert (rank.value, rank.error, rank.n) == (pytest.approx(3), pytest.approx(1), 2)
    assert (stable.value, stable.n) == (pytest.approx(3), 2)
    assert not [r for r in read_pairs(Pairs.of(given))[0] if r.name.startswith("teacher_") and "rank" in r.name]


class TestArrays:
    def test_images_are_flattened_and_other_names_are_taken(self):
        images = RNG(0).random((20, 3, 4, 4)).astype(np.float32)
        pairs = Pairs.of({"z": images, "S": images, "T": (255 * images).astype(np.uint8), "note": np.array("x")})
        assert (pairs.n, pairs.d) == (20, 48)
        assert torch.equal(pairs.student, torch.from_numpy(images.reshape(20, 48)))
        assert read(pairs, "variance_ratio").value < 1e-3

    def test_a_line_of_numbers_is_one_dimension(self):
        assert Pairs.of(dict.fromkeys("zST", np.arange(16.0))).d == 1

    @pytest.mark.parametrize("dtype", [">f8", ">i2", np.uint16, np.uint64, bool, np.longdouble])
    def test_numbers_of_every_kind_are_read(self, dtype):
        x = (np.arange(32).reshape(16, 2) % 3).astype(dtype)
        want = read(dict.fromkeys("zST", x.astype(np.float64)), "variance_ratio", "displacement")
        assert read(dict.fromkeys("zST", x), "variance_ratio", "displacement") == want

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"teacher": None}, "teacher must be given once, as teacher or T, got only student, z"),
            ({"S": np.zeros((20, 3))}, "student must be given once, as student or S, got both"),
            ({"teacher": np.zeros((20, 4))}, "student and teacher must have one shape, got (20, 3) and (20, 4)"),
            ({"z": np.zeros((19, 3))}, "z and student must have shapes (n, d_z) and (n, d), got (19, 3) and (20, 3)"),
            ({"z": np.zeros((20, 0))}, "d must be >= 1, got 0"),
            ({"z": np.zeros((20, 3), complex)}, "z must be an array of real numbers, got complex128 of shape (20, 3)"),
            ({"z": np.array("a")}, "z must be an array of real numbers, got <U1 of shape ()"),
            ({"student": np.full((20, 3), np.nan)}, "student must be finite, got 20 of 20 rows that are not"),
            ({"z": np.diag(np.full(20, np.inf))[:, :3]}, "z must be finite, got 3 of 20 rows that are not"),
            ({"student_modes": np.zeros(20, int)}, "teacher_modes must be there beside the other's, got none"),
            (
                {"student_modes": np.zeros(19, int), "teacher_modes": np.zeros(20, int)},
                "student_modes must have shape (20,), got (19,)",
            ),
            (
                {"student_modes": np.zeros(20, int), "teacher_modes": np.full(20, -1)},
                "teacher_modes must be integers >= 0, got -1",
            ),
            (
                {"student_modes": np.zeros(20), "teacher_modes": np.zeros(20, int)},
                "student_modes must be integers >= 0, got torch.float64",
            ),
            ({"jacobian_student": np.zeros((4, 3, 2))}, "jacobian_student must have shape (m, 3, 3), got (4, 3, 2)"),
            ({"jacobian_teacher": np.full((2, 3, 3), np.nan)}, "jacobian_teacher must be finite, got 2 of 2 rows"),
        ],
        ids=lambda v: v if isinstance(v, str) else "",
    )
    def test_what_is_wrong_is_named(self, changes, said):
        given = {name: v for name, v in (correlated(20, 3) | changes).items() if v is not None}
        with pytest.raises(ValueError, match=r"^\S") as refused:
            Pairs.of(given)
        assert str(refused.value).startswith(said)
        assert "\n" not in str(refused.value)

    @pytest.mark.parametrize("chunk", [24, 2**22])
    def test_bad_rows_are_counted_across_chunks(self, monkeypatch, chunk):
        monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
        given = correlated(100, 3)
        given["teacher"][[3, 50, 50, 99], [0, 0, 2, 1]] = [np.nan, np.inf, np.nan, -np.inf]
        with pytest.raises(ValueError, match=r"teacher must be finite, got 3 of 100 rows that are not"):
            Pairs.of(given)

    @pytest.mark.parametrize("n", [1, 15])
    def test_too_few_points_are_refused_and_sixteen_are_enough(self, n):
        with pytest.raises(ValueError, match=rf"n must be >= 16, got {n}"):
            Pairs.of(correlated(n, 3))
        found, left_out = read_pairs(Pairs.of(correlated(16, 3)))
        assert {r.name for r in found} == {m.name for m in MEASURES if not m.needs}
        assert not left_out
        assert all(math.isfinite(r.value) for r in found)


class TestList:
    def test_a_new_measure_joins_and_changes_no_other(self):
        pairs, seen = Pairs.of(correlated(400, 3)), []

        def mine(some, rng):
            seen.append((some.n, some.student.dtype))
            return Measured(rng.random())

        more = (Measure("mine", mine, "none", "all", most=100), *MEASURES)
        before, after = read_pairs(pairs)[0], read_pairs(pairs, measures=more)[0]
        assert repr(after[1:]) == repr(before)
        assert (after[0].name, after[0].n, seen) == ("mine", 100, [(100, torch.float64)])
        assert read_pairs(pairs, seed=1, measures=more)[0][0].value != after[0].value

    def test_a_part_of_the_points_is_random_and_its_pairs_stay_together(self):
        n = 5000
        x = np.arange(float(n))[:, None]
        some = Pairs.of({"z": x, "S": 2 * x, "T": 3 * x}).some(200, RNG(0))
        assert torch.equal(some.student, 2 * some.z)
        assert torch.equal(some.teacher, 3 * some.z)
        assert len(some.z.unique()) == 200
        # Of a file in order, the first 200 would be below 200.
        assert some.z.mean() == pytest.approx(n / 2, rel=0.15)

    def test_what_cannot_be_read_is_left_out_with_its_reason(self):
        given = correlated(30, 40)
        given["student"] = np.ones((30, 40))
        found, left_out = read_pairs(Pairs.of(given))
        assert left_out["correlation_distance"] == "student and teacher must not be constant"
        assert left_out["teacher_linear_share"] == "n must be >= d + 2 = 42, got 30"
        assert {r.name for r in found} >= {"displacement", "variance_ratio", "retrieval"}

    def test_an_inefficiency_has_the_error_of_its_scatter(self):
        """Other points of the same maps: their values scatter as one reading says, to a factor of 1.5."""
        given = correlated(4000, 2)
        parts = [Pairs.of({k: v[i : i + 200] for k, v in given.items()}) for i in range(0, 4000, 200)]
        read = [next(r for r in read_pairs(part)[0] if r.name == "inefficiency") for part in parts]
        scatter = np.std([r.value for r in read], ddof=1)
        assert 1 / 1.5 < np.mean([r.error for r in read]) / scatter < 1.5

    def test_the_number_of_points_is_told(self):
        found, _ = read_pairs(Pairs.of(correlated(3000, 2)))
        told = {r.name: r.n for r in found}
        assert told == {m.name: m.most or 3000 for m in MEASURES if not m.needs}
        assert (told["inefficiency"], told["law_distance"]) == (ASSIGNED, LAW_POINTS)


class TestCaveats:
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (correlated(2000, 2, scale=1.6), ["law_distance", "variance_ratio"]),
            (correlated(2000, 2, scale=0.5, share=1.0), ["law_distance", "variance_ratio 0.25"]),
            (correlated(2000, 2, shift=1.0), ["law_distance"]),
            (correlated(159, 20), ["n = 159 is below 8 d = 160"]),
            (
                correlated(200, 2) | {"student_modes": np.arange(200) // 150, "teacher_modes": np.arange(200) // 60},
                ["mass_ratio"],
            ),
        ],
        ids=["wide", "narrow", "moved", "few", "modes"],
    )
    def test_they_are_said_where_they_apply(self, given, words):
        pairs = Pairs.of(given)
        said = caveats(pairs, read_pairs(pairs)[0])
        assert all(any(word in sentence for sentence in said) for word in words)
        assert any(s.startswith("law gate failed") for s in said) == ("n = 159" not in words[0])

    def test_eight_points_per_dimension_are_enough(self):
        assert not any(s.startswith("n = ") for s in caveats(Pairs.of(correlated(160, 20)), []))

    def test_and_not_where_they_do_not(self):
        pairs = Pairs.of(correlated(200, 2) | dict.fromkeys(("student_modes", "teacher_modes"), np.arange(200) % 3))
        assert (
            caveats(pairs, [r for r in read_pairs(pairs)[0] if r.name != "inefficiency" and r.name != "retrieval"])
            == []
        )


LARGE = """
import resource, numpy as np
from sandbox.measure.arrays import Pairs
from sandbox.measure.pairs import read_pairs
rng = np.random.default_rng(0)
n = 50_000
T = rng.standard_normal((n, 2, 4, 4), dtype=np.float32)
pairs = Pairs.of({"z": T, "S": T[::-1].copy(), "T": T})
read_pairs(Pairs.of({"z": T[:3000], "S": T[:3000], "T": T[:3000]}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert abs(read_pairs(pairs)[0][0].value - 1) < 0.01
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)
"""


@pytest.mark.slow  # a process of its own, for its memory to be seen
def test_fifty_thousand_points_take_no_more_memory_than_three_thousand():
    grown = float(subprocess.run([sys.executable, "-c", LARGE], check=True, capture_output=True, text=True).stdout)
    assert grown < 100  # MB; one matrix of all pairs would be 20 000
