"""Null laws: over all permutations where they are exact, and over new independent pairs by the measures themselves."""

import math
from itertools import permutations

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from sandbox.measure import gauge, pairing
from sandbox.student.initialise import haar_rotation
from sandbox.theory import nulls


def normals(n, dim, seed):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, dim)))


def rng():
    return np.random.default_rng(0)


def spectrum(dim):
    return torch.linspace(0.3, 2.0, dim, dtype=torch.float64)


def agrees(values, null, standard_errors, finite=0.0):
    """Mean and standard deviation of a sample within standard errors of a null law (and, of the latter, a share)."""
    values, n = np.asarray(values), len(values)
    kurtosis = ((values - values.mean()) ** 4).mean() / values.var() ** 2
    sd_error = values.std() * math.sqrt((kurtosis - 1) / (4 * n))
    assert abs(values.mean() - null.mean) <= standard_errors * values.std() / math.sqrt(n)
    assert abs(values.std() - null.sd) <= standard_errors * sd_error + finite * null.sd


class TestAllPermutations:
    """Mean and standard deviation over all 720 pairings of six points: exact."""

    N = 6

    def pairings(self, measure, s, t):
        values = [measure(s, t[list(pi)], rng()).value for pi in permutations(range(self.N))]
        return np.mean(values), np.std(values)

    @pytest.mark.parametrize("dim", [1, 3])
    @pytest.mark.parametrize("tolerance", [1e-10])
    def test_displacement_and_correlation_distance(self, dim, tolerance, monkeypatch):
        monkeypatch.setattr(pairing, "SHUFFLES", 1)
        s, t = normals(self.N, dim, 1) * spectrum(dim) + 0.4, normals(self.N, dim, 2)
        covs = [np.atleast_2d(np.cov(x.numpy().T, bias=True)) for x in (s, t)]
        offset = (s.mean(0) - t.mean(0)).square().sum().item()
        assert self.pairings(pairing.displacement, s, t) == pytest.approx(
            nulls.displacement(*covs, self.N, offset), rel=tolerance
        )
        assert self.pairings(pairing.correlation_distance, s, t) == pytest.approx(
            nulls.correlation_distance(*covs, self.N), rel=tolerance
        )

    @pytest.mark.parametrize(
        ("student", "teacher"), [((0, 0, 0, 1, 1, 2), (0, 0, 1, 1, 2, 2)), ((0, 0, 0, 0, 0, 1), (0, 1, 1, 1, 1, 1))]
    )
    @pytest.mark.parametrize("tolerance", [1e-10])
    def test_mode_agreement(self, student, teacher, tolerance):
        a, b = torch.tensor(student), torch.tensor(teacher)
        mean, sd = self.pairings(lambda s, t, r: pairing.mode_agreement(s, t, 3, r), a, b)
        shares = [np.bincount(v, minlength=3) / self.N for v in (student, teacher)]
        null = nulls.mode_agreement(*shares, self.N)
        assert (mean, sd) == (pytest.approx(null.mean, abs=tolerance), pytest.approx(null.sd, rel=tolerance))

    @pytest.mark.parametrize(("dim", "scale"), [(1, 1.0), (4, 1.0), (4, 1e-3)])
    @pytest.mark.parametrize("tolerance", [1e-10])
    def test_retrieval(self, dim, scale, tolerance):
        """At a small scale one teacher point is nearest to all: exactly one hit, whatever the pairing."""
        s, t = scale * normals(self.N, dim, 3), normals(self.N, dim, 4)
        counts = np.bincount(cdist(s, t).argmin(1), minlength=self.N)
        assert self.pairings(pairing.retrieval, s, t) == pytest.approx(
            nulls.retrieval(self.N, counts), rel=tolerance, abs=1e-12
        )
        assert (scale == 1e-3) == (nulls.retrieval(self.N, counts).sd == 0)


class TestNewPairs:
    """Over new independent points, whose covariances are those of their laws to O(1/n)."""

    @pytest.mark.parametrize(("draws", "standard_errors"), [(300, 4.0)])
    @pytest.mark.parametrize(("n", "dim"), [(64, 1), (64, 4), (128, 32)])
    def test_displacement_and_correlation_distance(self, n, dim, draws, standard_errors, monkeypatch):
        monkeypatch.setattr(pairing, "_shuffled_products", lambda s, t, rng: np.zeros(2))
        lam = spectrum(dim)
        found = {"displacement": [], "correlation_distance": []}
        for i in range(draws):
            s, t = normals(n, dim, 2 * i) * lam.sqrt() + 0.5, 2 * normals(n, dim, 2 * i + 1)
            for name, values in found.items():
                values.append(getattr(pairing, name)(s, t, rng()).value)
        covs = np.diag(lam.numpy()), 4 * np.eye(dim)
        agrees(found["displacement"], nulls.displacement(*covs, n, 0.25 * dim), standard_errors, finite=1 / n)
        agrees(found["correlation_distance"], nulls.correlation_distance(*covs, n), standard_errors, finite=1 / n)

    @pytest.mark.parametrize(("draws", "standard_errors"), [(300, 4.0)])
    @pytest.mark.parametrize(("n", "dim"), [(32, 1), (32, 4), (64, 16)])
    def test_inefficiency(self, n, dim, draws, standard_errors):
        s, t = normals(n, dim, 1), normals(n, dim, 2) * spectrum(dim)
        cost = cdist(s, t, "sqeuclidean")
        gain = cost.mean() - cost[linear_sum_assignment(cost)].mean()
        covs = [np.atleast_2d(np.cov(x.numpy().T, bias=True)) for x in (s, t)]
        shuffle = np.random.default_rng(3)
        values = [pairing.inefficiency(s, t[shuffle.permutation(n)], rng()).value for _ in range(draws)]
        agrees(values, nulls.inefficiency(*covs, n, gain), standard_errors, finite=1 / n)

    @pytest.mark.parametrize(("draws", "standard_errors"), [(400, 4.0)])
    @pytest.mark.parametrize(("n", "modes"), [(100, 2), (400, 8)])
    def test_mode_agreement(self, n, modes, draws, standard_errors):
        p, q = np.arange(1, modes + 1) / (modes * (modes + 1) / 2), np.full(modes, 1 / modes)
        g = np.random.default_rng(modes)
        values = []
        for _ in range(draws):
            a, b = (torch.from_numpy(g.choice(modes, n, p=v)) for v in (p, q))
            values.append(pairing.mode_agreement(a, b, modes, rng()).value)
        agrees(values, nulls.mode_agreement(p, q, n), standard_errors, finite=2 / n)

    # one draw has about one hit; hubs make the null narrower, at d = 16 by a few per cent of its variance
    @pytest.mark.parametrize(("draws", "standard_errors"), [(300, 4.0)])
    @pytest.mark.parametrize(("n", "dim", "narrower"), [(32, 1, 0.05), (64, 4, 0.05), (64, 16, 0.1)])
    def test_retrieval(self, n, dim, narrower, draws, standard_errors):
        values = [
            pairing.retrieval(normals(n, dim, 2 * i), normals(n, dim, 2 * i + 1), rng()).value for i in range(draws)
        ]
        agrees(values, nulls.retrieval(n), standard_errors, finite=narrower)

    @pytest.mark.parametrize("dim", [2, 3, 8, 32])
    @pytest.mark.parametrize(("draws", "standard_errors"), [(1500, 4.0)])
    def test_polar_displacement(self, dim, draws, standard_errors):
        g = torch.Generator().manual_seed(dim)
        S = torch.diag(spectrum(dim))
        values = [gauge.polar_displacement(S @ haar_rotation(dim, g)).item() for _ in range(draws)]
        agrees(values, nulls.polar_displacement(dim), standard_errors)

    @pytest.mark.parametrize(("dim", "rank"), [(2, 1), (8, 3), (16, 12)])
    @pytest.mark.parametrize(("draws", "standard_errors"), [(2000, 4.0)])
    def test_subspace_overlap(self, dim, rank, draws, standard_errors):
        g = np.random.default_rng(dim)
        values = [
            (np.cos(scipy.linalg.subspace_angles(*g.standard_normal((2, dim, rank)))) ** 2).mean() for _ in range(draws)
        ]
        agrees(values, nulls.subspace_overlap(dim, rank), standard_errors)

    @pytest.mark.parametrize("dim", [1, 2, 5, 64])
    @pytest.mark.parametrize(("draws", "standard_errors"), [(4000, 4.0)])
    def test_cosine(self, dim, draws, standard_errors):
        """One of the two may have any law."""
        g = np.random.default_rng(dim)
        u, v = g.standard_normal((draws, dim)), np.abs(g.standard_normal((draws, dim))) + 1
        values = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
        agrees(values, nulls.cosine(dim), standard_errors)


class TestEnds:
    @pytest.mark.parametrize(("n", "dim"), [(10, 1), (65, 8)])
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_flat_spectra(self, n, dim, tolerance):
        want = (1, 1 / math.sqrt(dim * (n - 1)))
        for variance in (1.0, 7.0):
            cov = variance * np.eye(dim)
            assert nulls.displacement(cov, cov, n) == pytest.approx(want, rel=tolerance)
            assert nulls.correlation_distance(cov, 3 * cov, n) == pytest.approx(want, rel=tolerance)

    def test_no_freedom(self):
        assert nulls.polar_displacement(1) == (0, 0)
        assert nulls.subspace_overlap(5, 5) == (1, 0)
        assert nulls.subspace_overlap(1, 1) == (1, 0)

    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_retrieval_of_random_labels_is_binomial(self, tolerance):
        null = nulls.retrieval(50)
        assert null == pytest.approx((1 / 50, math.sqrt(1 / 50 * (1 - 1 / 50) / 50)), rel=tolerance)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: nulls.displacement(np.eye(2), np.eye(3), 9), r"shape.*\(2, 2\).*\(3, 3\)"),
            (lambda: nulls.displacement(np.eye(2), np.eye(2), 1), "n must be >= 2, got 1"),
            (lambda: nulls.displacement(np.eye(2), np.eye(2), 9, -1.0), r"offset must be >= 0, got -1\.0"),
            (lambda: nulls.displacement(0 * np.eye(2), 0 * np.eye(2), 9), "must not both be 0"),
            (lambda: nulls.correlation_distance(np.eye(2), 0 * np.eye(2), 9), "must not be 0"),
            (lambda: nulls.inefficiency(np.eye(2), np.eye(2), 9, 0.0), r"gain must be > 0, got 0\.0"),
            (lambda: nulls.mode_agreement([1.0], [0.5, 0.5], 9), r"shape \(K,\)"),
            (lambda: nulls.mode_agreement([0.5, 0.6], [0.5, 0.5], 9), "student_shares must be >= 0 and sum to 1"),
            (lambda: nulls.mode_agreement([1.0, 0.0], [1.0, 0.0], 9), "kappa is not defined"),
            (lambda: nulls.retrieval(3, [1, 1, 0]), r"counts must be 3 numbers with sum 3, got .* sum 2"),
            (lambda: nulls.polar_displacement(0), "dim must be >= 1, got 0"),
            (lambda: nulls.subspace_overlap(3, 4), "rank must be between 1 and dim = 3, got 4"),
            (lambda: nulls.cosine(0), "dim must be >= 1, got 0"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()
