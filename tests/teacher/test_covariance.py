"""Every structured covariance against its dense twin, through one inherited class."""

import pytest
import scipy.linalg
import torch

from sandbox.teacher.covariance import Diagonal, Full, Isotropic, LowRank

COMPONENTS = 3
POINTS = 5
DIMS = (1, 2, 7, 40)
PACKS = ((), (2,), (2, 3))

# name -> (phi at noise variance s2, the same function of a dense matrix)
FUNCTIONS = {
    "identity": (lambda lam, s2: lam, lambda m, s2, eye: m),
    "inverse": (lambda lam, s2: 1 / (lam + s2), lambda m, s2, eye: torch.linalg.inv(m + s2 * eye)),
    "shrink": (lambda lam, s2: lam / (lam + s2), lambda m, s2, eye: torch.linalg.solve(m + s2 * eye, m)),
    "sqrt": (lambda lam, s2: lam.sqrt(), lambda m, s2, eye: torch.from_numpy(scipy.linalg.sqrtm(m.numpy())).real),
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class CovarianceAgainstDense:
    """Subclasses give `make(pack, dim, seed)`: a covariance and its matrices (*pack, K, d, d), built without it."""

    # Whether the smallest eigenvalue is far enough from zero to solve without noise.
    well_conditioned = True

    def make(self, pack, dim, seed=0):
        raise NotImplementedError

    @pytest.mark.parametrize("pack", PACKS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("name", FUNCTIONS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_apply(self, name, dim, pack, tolerance):
        covariance, dense = self.make(pack, dim)
        phi, twin = FUNCTIONS[name]
        delta, eye = draw(*pack, POINTS, dim, seed=1), torch.eye(dim, dtype=torch.float64)
        for k in range(COMPONENTS):
            got = covariance.apply(lambda lam: phi(lam, 0.3), k, delta)
            matrices = dense[..., k, :, :].reshape(-1, dim, dim)
            functions = torch.stack([twin(m, 0.3, eye) for m in matrices]).reshape(*pack, dim, dim)
            want = delta @ functions.mT
            assert got.shape == delta.shape
            assert (got - want).norm() <= tolerance * want.norm()

    @pytest.mark.parametrize("pack", PACKS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_noise_level_per_point(self, dim, pack, tolerance):
        covariance, dense = self.make(pack, dim)
        s2 = torch.logspace(-2, 3, POINTS, dtype=torch.float64).expand(*pack, POINTS)
        delta, eye = draw(*pack, POINTS, dim, seed=1), torch.eye(dim, dtype=torch.float64)
        for k in range(COMPONENTS):
            got = covariance.apply(lambda lam: 1 / (lam + s2[..., None]), k, delta)
            noised = dense[..., k, None, :, :] + s2[..., None, None] * eye
            want = torch.linalg.solve(noised, delta[..., None])[..., 0]
            assert ((got - want).norm(dim=-1) <= tolerance * want.norm(dim=-1)).all()
            logdet = covariance.trace(lambda lam: torch.log(lam + s2[..., None]), k, dim)
            assert logdet.shape == (*pack, POINTS)
            torch.testing.assert_close(logdet, torch.linalg.slogdet(noised).logabsdet, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("pack", PACKS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_trace_of_the_identity_function(self, dim, pack, tolerance):
        covariance, dense = self.make(pack, dim)
        for k in range(COMPONENTS):
            got = covariance.trace(lambda lam: lam, k, dim)
            want = dense[..., k, :, :].diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
            assert got.shape == (*pack, 1)
            torch.testing.assert_close(got, want, rtol=tolerance, atol=0)

    @pytest.mark.parametrize("pack", PACKS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_smallest_eigenvalue(self, dim, pack, tolerance):
        covariance, dense = self.make(pack, dim)
        want = torch.linalg.eigvalsh(dense)[..., 0]
        got = covariance.smallest()
        assert got.shape == (*pack, COMPONENTS)
        assert ((got - want).abs() <= tolerance * dense.norm(dim=(-2, -1))).all()

    @pytest.mark.parametrize("pack", PACKS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("tolerance", [1e-13])
    def test_dense(self, dim, pack, tolerance):
        covariance, dense = self.make(pack, dim)
        for k in range(COMPONENTS):
            error = covariance.dense(k, dim) - dense[..., k, :, :]
            assert error.norm() <= tolerance * dense.norm()

    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("variance", [0.0, 0.3, 1e3])
    @pytest.mark.parametrize("tolerance", [1e-11])
    def test_the_algebra(self, dim, variance, tolerance):
        """Every named operation against dense algebra; the tolerance is 1e-13 times condition numbers up to 100."""
        covariance, dense = self.make((), dim)
        delta, eye = draw(POINTS, dim, seed=1), torch.eye(dim, dtype=torch.float64)
        for k in range(COMPONENTS):
            matrix = dense[k]
            noised = matrix + variance * eye
            pairs = {
                "solve": (covariance.solve(k, delta, variance), torch.linalg.solve(noised, delta.T).T),
                "shrink": (covariance.shrink(k, delta, variance), torch.linalg.solve(noised, matrix @ delta.T).T),
                "root": (covariance.root(k, covariance.root(k, delta)), delta @ matrix),
                "logdet": (covariance.logdet(k, dim, variance), torch.linalg.slogdet(noised).logabsdet[None]),
                "noised": (covariance.noised(variance).dense(k, dim), noised),
                "noised twice": (
                    covariance.noised(variance).solve(k, delta, 0.5),
                    covariance.solve(k, delta, variance + 0.5),
                ),
                "noised smallest": (covariance.noised(variance).smallest()[k], torch.linalg.eigvalsh(noised)[0]),
            }
            if self.well_conditioned or variance:
                for name, (got, want) in pairs.items():
                    assert (got - want).norm() <= tolerance * max(want.norm(), 1.0), name

    @pytest.mark.parametrize("pack", PACKS)
    @pytest.mark.parametrize("dim", DIMS)
    @pytest.mark.parametrize("tolerance", [1e-12])
    def test_average_over_the_components(self, pack, dim, tolerance):
        covariance, dense = self.make(pack, dim)
        shares, delta = draw(*pack, COMPONENTS, POINTS, seed=5).abs(), draw(*pack, POINTS, dim, seed=6)
        levels = torch.logspace(-2, 1, POINTS, dtype=torch.float64)[:, None]
        eye = torch.eye(dim, dtype=torch.float64)
        for s2 in (torch.tensor(0.3, dtype=torch.float64), levels):
            got = covariance.average(lambda lam, s2=s2: 1 / (lam + s2), shares, delta)
            inverse = torch.linalg.inv(dense[..., None, :, :] + s2.expand(POINTS, 1)[..., None] * eye)
            want = torch.einsum("...kn,...knij,...nj->...ni", shares, inverse, delta)
            assert (got - want).norm() <= tolerance * want.norm()

    @pytest.mark.parametrize("dim", DIMS)
    def test_stack_holds_each_member(self, dim):
        members = [self.make((), dim, seed)[0] for seed in (0, 1)]
        pack = type(members[0]).stack(members)
        delta = draw(2, POINTS, dim, seed=2)
        for k in range(COMPONENTS):
            got = pack.apply(torch.sqrt, k, delta)
            for e, member in enumerate(members):
                torch.testing.assert_close(got[e], member.apply(torch.sqrt, k, delta[e]), rtol=1e-14, atol=1e-14)

    def test_stack_refuses_another_type(self):
        covariance, _ = self.make((), 2)
        other = Diagonal(torch.ones(3, 2)) if not isinstance(covariance, Diagonal) else Isotropic(torch.ones(3))
        with pytest.raises(TypeError, match=rf"{type(covariance).__name__}"):
            type(covariance).stack([covariance, other])

    def test_map_reaches_every_tensor(self):
        covariance, _ = self.make((), 2)
        single = covariance.map(lambda t: t.float())
        assert type(single) is type(covariance)
        assert single.apply(lambda lam: lam, 0, torch.ones(1, 2)).dtype == torch.float32
        assert single.smallest().dtype == torch.float32
        assert covariance.smallest().dtype == torch.float64, "map must leave the original as it was"


class TestIsotropic(CovarianceAgainstDense):
    def make(self, pack, dim, seed=0):
        variance = 0.1 + draw(*pack, COMPONENTS, seed=seed).abs()
        return Isotropic(variance), variance[..., None, None] * torch.eye(dim, dtype=torch.float64)


class TestDiagonal(CovarianceAgainstDense):
    def make(self, pack, dim, seed=0):
        variances = 0.1 + draw(*pack, COMPONENTS, dim, seed=seed).abs()
        return Diagonal(variances), torch.diag_embed(variances)


class TestLowRank(CovarianceAgainstDense):
    rank = 2

    def make(self, pack, dim, seed=0):
        factors = draw(*pack, COMPONENTS, dim, self.rank, seed=seed)
        floor = 0.1 + draw(*pack, COMPONENTS, seed=seed + 10).abs()
        dense = factors @ factors.mT + floor[..., None, None] * torch.eye(dim, dtype=torch.float64)
        return LowRank(factors, floor), dense


class TestLowRankAboveTheDimension(TestLowRank):
    rank = 9  # more factors than dimensions at d = 1, 2, 7


class TestFull(CovarianceAgainstDense):
    def make(self, pack, dim, seed=0):
        factors = draw(*pack, COMPONENTS, dim, dim, seed=seed) / dim**0.5
        dense = factors @ factors.mT + 0.1 * torch.eye(dim, dtype=torch.float64)
        return Full(dense), dense


class TestGram(CovarianceAgainstDense):
    well_conditioned = False

    def make(self, pack, dim, seed=0):
        factors = draw(*pack, COMPONENTS, dim, dim + 3, seed=seed)
        return Full.gram(factors), factors @ factors.mT


class TestSingularValuesOfTheFactors:
    def test_deficient_factors_leave_the_floor(self):
        """Two equal columns: the second direction of the decomposition carries the floor and nothing else."""
        column = draw(1, 5, 1)
        covariance = LowRank(torch.cat([column, column], -1), 0.25)
        want = 2 * column[0] @ column[0].T + 0.25 * torch.eye(5, dtype=torch.float64)
        torch.testing.assert_close(covariance.dense(0, 5), want, rtol=0, atol=1e-14)

    def test_a_shared_floor_reaches_every_component(self):
        covariance = LowRank(draw(3, 5, 2), 0.25)
        assert covariance.smallest().tolist() == [0.25] * 3

    def test_no_floor_is_singular(self):
        assert LowRank(draw(1, 5, 2), 0.0).smallest().item() == 0

    def test_rounding_below_zero_is_clamped(self):
        """A rank-one matrix has eigenvalues of either sign at rounding level; none may come out negative."""
        column = draw(1, 30, 1)
        assert Full(column @ column.mT).smallest().item() >= 0


@pytest.mark.parametrize(
    "values", [[0.1], torch.tensor([0.1], dtype=torch.float64)], ids=["python floats", "float64 tensor"]
)
def test_python_floats_keep_their_precision(values):
    assert Isotropic(values).variance.double().item() == 0.1


NAN = float("nan")
ASYMMETRIC = torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])
INDEFINITE = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Isotropic([0.5, -1.0]), r"variance must be >= 0, got -1"),
        (lambda: Isotropic([NAN]), r"variance must be finite, got \[nan\]"),
        (lambda: Diagonal([[1.0, -0.25]]), r"variances must be >= 0, got -0\.25"),
        (lambda: Diagonal([[1.0, float("inf")]]), r"variances must be finite, got \[\[1\.0, inf\]\]"),
        (lambda: LowRank(torch.ones(1, 3, 1), -0.5), r"floor must be >= 0, got -0\.5"),
        (lambda: LowRank(torch.full((1, 3, 1), NAN), 0.5), r"factors must be finite, got"),
        (lambda: LowRank(torch.ones(1, 3, 1), NAN), r"floor must be finite, got nan"),
        (lambda: Full(torch.ones(2, 3, 4)), r"matrices must have shape \(K, d, d\), got \(2, 3, 4\)"),
        (lambda: Full(torch.eye(3)), r"matrices must have shape \(K, d, d\), got \(3, 3\)"),
        (lambda: Full(ASYMMETRIC), r"matrices must be symmetric, got an asymmetry of 0\.5"),
        (lambda: Full(INDEFINITE), r"matrices must be positive semi-definite, got an eigenvalue of -1"),
        (lambda: Full(torch.full((1, 2, 2), NAN)), r"matrices must be finite, got"),
    ],
)
def test_bad_input_names_the_argument_and_the_value(build, message):
    with pytest.raises(ValueError, match=message):
        build()
