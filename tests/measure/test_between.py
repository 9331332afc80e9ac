"""Students beside each other: planted rotations with known displacements, intervals against scipy's bootstrap."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sandbox.measure.arrays import Pairs
from sandbox.measure.between import Interval, agreement, compared, displacement_matrix, verdict
from sandbox.measure.pairing import displacement

RNG = np.random.default_rng


def turned(angles, n=200):
    """The plane's noise, turned by each angle: displacements are 1 - cos of the difference, for centred points."""
    z = RNG(0).standard_normal((n, 2))
    z -= z.mean(0)
    c, s = np.cos(angles), np.sin(angles)
    R = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    return torch.from_numpy(z @ R.swapaxes(-1, -2)), torch.from_numpy(z)


def noisy(share, own, count=2, n=400, d=5, seed=0):
    """Students T + `share` x one error for all + `own` x an error of each; and T."""
    rng = RNG(seed)
    T = rng.standard_normal((n, d))
    students = T + share * rng.standard_normal((n, d)) + own * rng.standard_normal((count, n, d))
    return students, T


class TestMatrix:
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_is_the_displacement_of_every_pair(self, tolerance):
        maps = torch.from_numpy(np.stack([k * RNG(k).standard_normal((60, 4)) + k for k in range(1, 6)]))
        got = displacement_matrix(maps)
        want = [[displacement(a, b, RNG(0)).value for b in maps] for a in maps]
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance)

    def test_near_copies_are_not_rounded_away(self):
        x = torch.from_numpy(RNG(0).standard_normal((100, 3)))
        near = displacement_matrix(torch.stack([x, x + 1e-9 * x]))
        assert near[0, 1].item() == pytest.approx(1e-18 / 2, rel=0.1)
        assert near[0, 0] == 0

    @pytest.mark.parametrize(
        ("maps", "said"),
        [
            (torch.zeros(3, 2), r"maps must have shape \(E, n, d\) with n >= 2, got \(3, 2\)"),
            (torch.zeros(3, 1, 2), r"with n >= 2, got \(3, 1, 2\)"),
            (torch.full((2, 3, 1), math.nan), "maps must be finite, got 6 points that are not"),
            (torch.ones(2, 3, 1), "maps must not be constant, got 2 of 2 that are"),
        ],
    )
    def test_bad_maps_are_named(self, maps, said):
        with pytest.raises(ValueError, match=said):
            displacement_matrix(maps)


class TestSeeds:
    @pytest.mark.parametrize("angles", [[0.1, 0.2], [1.0, 1.1, 1.2], [0.5, -0.5, 0.5, -0.5], [0.0, 1.0, 2.0]], ids=str)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_turned_students_read_one_minus_the_cosine(self, angles, tolerance):
        students, teacher = turned(np.array(angles))
        found = agreement(students, teacher)
        own = np.mean(1 - np.cos(angles))
        pairs = [1 - math.cos(a - b) for i, a in enumerate(angles) for b in angles[:i]]
        assert found.to_teacher.value == pytest.approx(own, abs=tolerance)
        assert found.between.value == pytest.approx(np.mean(pairs), abs=tolerance)
        assert found.closer.value == pytest.approx(own - np.mean(pairs), abs=tolerance)
        assert found.seeds == len(angles)

    @pytest.mark.parametrize(("share", "own", "side"), [(1.0, 0.2, 1), (0.0, 0.5, -1)])
    def test_a_shared_error_brings_students_together_and_their_own_apart(self, share, own, side):
        students, teacher = (torch.from_numpy(x) for x in noisy(share, own, count=6))
        closer = agreement(students, teacher).closer
        assert closer.low < closer.value < closer.high
        assert side * closer.low > 0
        assert side * closer.high > 0
        assert verdict(closer) == ("to each other" if side > 0 else "to the teacher")

    @pytest.mark.parametrize("relative", [0.08])  # two sets of 2000 resamples
    def test_intervals_are_the_bootstraps_over_seeds(self, relative):
        angles = RNG(1).normal(0.6, 0.3, 12)
        students, teacher = turned(angles)
        found = agreement(students, teacher)
        own, between = 1 - np.cos(angles), 1 - np.cos(angles[:, None] - angles)

        def pairs(index, axis=-1):
            """The mean over pairs of different seeds, one resample at a time."""
            i = index.astype(int)
            other = i[:, None] != i
            return between[np.ix_(i, i)][other].mean()

        options = {"n_resamples": 2000, "method": "percentile", "random_state": RNG(3)}
        want = stats.bootstrap((own,), np.mean, **options).confidence_interval
        also = stats.bootstrap((np.arange(12),), pairs, vectorized=False, **options).confidence_interval
        for got, (low, high) in ((found.to_teacher, want), (found.between, also)):
            assert (got.low, got.high) == pytest.approx((low, high), abs=relative * (high - low))

    def test_two_seeds_have_no_interval_and_three_have(self):
        students, teacher = turned(np.array([0.3, 0.9, 0.7]))
        assert math.isnan(agreement(students[:2], teacher).closer.low)
        assert verdict(agreement(students[:2], teacher).closer) == "not known"
        three = agreement(students, teacher)
        assert three.to_teacher.low < three.to_teacher.value < three.to_teacher.high

    @pytest.mark.parametrize(
        ("shape", "said"),
        [
            ((1, 9, 2), "students must be at least 2, got 1"),
            ((3, 8, 2), r"shapes \(E, n, d\) and \(n, d\), got \(3, 8, 2\)"),
        ],
    )
    def test_bad_shapes_are_named(self, shape, said):
        with pytest.raises(ValueError, match=said):
            agreement(torch.rand(shape), torch.rand(9, 2))


def pairs_of(students, T, k, **more):
    return Pairs.of({"z": T, "student": students[k], "teacher": T} | more)


class TestTwoFiles:
    @pytest.mark.parametrize("relative", [0.12])  # 400 resamples know a standard error to 3.5 %
    @pytest.mark.parametrize(("share", "own"), [(0.8, 0.5), (0.0, 0.7)])
    def test_the_error_of_the_difference_is_the_bootstraps(self, share, own, relative):
        students, T = noisy(share, own, n=250)
        _, found = compared(pairs_of(students, T, 0), pairs_of(students, T, 1))

        def closer(index):
            i = index.astype(int)
            return compared(pairs_of(students[:, i], T[i], 0), pairs_of(students[:, i], T[i], 1))[1].closer.value

        sampled = stats.bootstrap(
            (np.arange(250),), closer, n_resamples=400, vectorized=False, method="percentile", random_state=RNG(0)
        )
        assert (found.closer.high - found.closer.low) / 2 / 1.96 == pytest.approx(sampled.standard_error, rel=relative)

    @pytest.mark.parametrize(("share", "own", "word"), [(1.0, 0.2, "to each other"), (0.0, 0.5, "to the teacher")])
    def test_which_is_closer(self, share, own, word):
        students, T = noisy(share, own)
        between, found = compared(*(pairs_of(students, T, k) for k in (0, 1)))
        for interval, (a, b) in ((found.first, (students[0], T)), (found.between, (students[0], students[1]))):
            want = displacement(torch.from_numpy(a), torch.from_numpy(b), RNG(0)).value
            assert interval.value == pytest.approx(want, abs=1e-13)
        assert verdict(found.closer) == word
        assert torch.equal(between.teacher, torch.from_numpy(students[1]))

    def test_what_belongs_to_the_second_student_takes_the_teachers_place(self):
        students, T = noisy(0.1, 0.1, n=30)
        more = [
            {
                "student_modes": np.full(30, k),
                "teacher_modes": np.full(30, 7),
                "jacobian_student": np.full((2, 5, 5), k),
            }
            for k in (1, 2)
        ]
        between, _ = compared(*(pairs_of(students, T, k, **more[k]) for k in (0, 1)))
        assert (between.student_modes[0], between.teacher_modes[0]) == (1, 2)
        assert (between.jacobian_student[0, 0, 0], between.jacobian_teacher[0, 0, 0]) == (1, 2)
        between, _ = compared(pairs_of(students, T, 0, **more[0]), pairs_of(students, T, 1))
        assert between.student_modes is between.teacher_modes is None

    @pytest.mark.parametrize("name", ["z", "teacher"])
    def test_other_noise_or_another_teacher_is_refused(self, name):
        students, T = noisy(0.1, 0.1, n=40)
        other = {"z": T, "student": students[1], "teacher": T}
        moved = T.copy()
        moved[[3, 30]] += 0.01
        for change, said in (
            (moved, "got 2 of 40 rows that differ"),
            (T[:, :4], r"got shapes \(40, 5\) and \(40, 4\)"),
        ):
            if name == "teacher" and change.shape != T.shape:
                other |= {"student": students[1][:, :4]}
            with pytest.raises(ValueError, match=f"{name} must be the same in both, {said}"):
                compared(pairs_of(students, T, 0), Pairs.of(other | {name: change}))
        rounded = T.astype(np.float32)
        compared(pairs_of(students, T, 0), Pairs.of({"z": rounded, "student": students[1], "teacher": rounded}))


def test_an_interval_reads_as_text():
    assert [str(Interval(*v)) for v in ((0.25, 0.1, 0.4), (0.25,), (math.nan,))] == ["0.25 [0.1, 0.4]", "0.25", "-"]
    assert verdict(Interval(0.1, -0.1, 0.3)) == "neither, as far as these tell"
