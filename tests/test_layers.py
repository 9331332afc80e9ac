"""The floors of the house, and its front door."""

import ast
import inspect
from pathlib import Path

import pytest

import sandbox

ROOT = Path(sandbox.__file__).parent
FLOORS = ("teacher", "student", "measure", "theory", "lab")
FILES = sorted(path for floor in FLOORS for path in (ROOT / floor).glob("**/*.py"))

# The stable public face; other names may come and go.
PUBLIC = {
    "GaussianMixture": "weights means covariance",
    "Isotropic": "variance",
    "Diagonal": "variances",
    "LowRank": "factors floor",
    "Full": "matrices",
    "teacher_map": "z sigma_max tolerance",
    "teacher_encode": "x sigma_max tolerance",
    "teacher_jacobian": "z sigma_max tolerance",
    "distill": "teachers students recipe generators",
    "jacobian_spectrum": "f z",
    "effective_rank": "s",
    "stable_rank": "s",
    "participation_ratio": "s",
    "numerical_rank": "s rtol",
    "pairing": "student_x teacher_x",
    "measurements": "student teacher z",
    "onset": "table",
}
METHODS = ("log_prob", "responsibilities", "score", "denoise", "posterior_cov", "score_jacobian", "sample")


def imported(source):
    """Every module that a source names in an import, wherever in the file, relative ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = "." * node.level + (node.module or "")
            yield stem
            # `from sandbox import lab` names the floor on the right-hand side.
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def floors_of(source):
    return {name.split(".")[1] for name in imported(source) if name.startswith("sandbox.")} & set(FLOORS)


def test_the_check_sees_every_kind_of_import():
    source = "import sandbox.lab.cell\ndef f():\n  from sandbox import theory\n  from sandbox.measure.law import x\n"
    assert floors_of(source) == {"lab", "theory", "measure"}
    assert list(imported("from ..lab import cell")) == ["..lab", "..lab.cell"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_floor_imports_only_floors_before_it(path):
    floor = path.relative_to(ROOT).parts[0]
    allowed = set(FLOORS[: FLOORS.index(floor) + 1])
    source = path.read_text()
    assert floors_of(source) <= allowed
    # A relative import would pass unseen, and the package itself imports every floor but the last.
    assert not [name for name in imported(source) if name.startswith(".") or name == "sandbox"]
    # Experiments and figures stand on the house; only the lab, which runs and draws them, may look for them.
    assert not [name for name in imported(source) if name.split(".")[0] in ("experiments", "figures")]


def test_there_is_a_file_on_every_floor():
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == set(FLOORS)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_names_take_their_arguments(name):
    assert name in sandbox.__all__
    parameters = inspect.signature(getattr(sandbox, name)).parameters
    assert set(PUBLIC[name].split()) <= set(parameters)


@pytest.mark.parametrize("name", ["teacher_map", "teacher_encode", "teacher_jacobian"])
def test_the_teachers_maps_have_their_stated_defaults(name):
    parameters = inspect.signature(getattr(sandbox, name)).parameters
    assert (parameters["sigma_max"].default, parameters["tolerance"].default) == (80.0, 1e-6)
    assert parameters["return_error"].default is False


def test_a_mixture_has_its_closed_forms():
    assert all(callable(getattr(sandbox.GaussianMixture, name)) for name in METHODS)
    law = sandbox.families.ring(2)
    assert (law.mean.shape, law.cov.shape) == ((2,), (2, 2))


def test_every_exported_name_exists():
    assert [name for name in sandbox.__all__ if not hasattr(sandbox, name)] == []
