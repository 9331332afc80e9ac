"""A user's files: what is read, what is refused, what is written."""

import io
import json
import pickle

import numpy as np
import pandas as pd
import pytest

from sandbox.lab.pairs_file import aligned, in_words, load_pairs, measure_files, readings_text, write_table
from sandbox.measure.pairs import Reading


def saved(path, **changes):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 1, 2, 2)).astype(np.float32)
    arrays = {"z": x, "student": x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), "teacher": x} | changes
    np.savez(path, **{name: v for name, v in arrays.items() if v is not None})
    return path


class Exploit:
    def __reduce__(self):
        return (pytest.fail, ("a file was executed",))


def test_only_the_known_arrays_are_read(tmp_path):
    # One that cannot be read without running it is in the file, and none of our business.
    pairs = load_pairs(saved(tmp_path / "pairs.npz", note=np.array([Exploit()], dtype=object)))
    assert (pairs.n, pairs.d) == (40, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: None, "{path} is not there"),
        (lambda p: p.write_text("z student teacher"), "{path} must be an .npz of plain arrays, got "),
        (lambda p: p.write_bytes(b"PK\x03\x04 not really"), "{path} must be an .npz of plain arrays, got "),
        (lambda p: p.write_bytes(b""), "{path} must be an .npz of plain arrays, got "),
        (lambda p: p.write_bytes(pickle.dumps({"z": 1})), "{path} must be an .npz of plain arrays, got "),
        (lambda p: p.mkdir(), "{path} must be an .npz of plain arrays, got "),
        (lambda p: p.write_bytes(npy(np.zeros((20, 2)))), "{path} must be an .npz of plain arrays, got a single array"),
        (
            lambda p: saved(p, z=np.array([Exploit()] * 40, dtype=object)),
            "{path} must be an .npz of plain arrays, got ",
        ),
        (lambda p: saved(p, teacher=None), "{path}: teacher must be given once, as teacher or T, got only student, z"),
        (lambda p: saved(p, z=np.zeros((40, 0))), "{path}: d must be >= 1, got 0"),
    ],
    ids=["absent", "text", "zip", "empty", "pickle", "folder", "npy", "objects", "key", "width"],
)
def test_a_bad_file_costs_one_line_that_names_it(tmp_path, make, said):
    path = tmp_path / "pairs.npz"
    make(path)
    with pytest.raises(ValueError, match=r"pairs\.npz") as refused:
        load_pairs(path)
    assert str(refused.value).startswith(said.format(path=path))
    assert "\n" not in str(refused.value)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_damaged_archive_is_named(tmp_path):
    path = saved(tmp_path / "pairs.npz")
    content = bytearray(path.read_bytes())
    content[300:400] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be an \.npz of plain arrays, got "):
        load_pairs(path)


def test_more_than_two_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="files must be one or two, got 3"):
        measure_files([tmp_path / "a.npz"] * 3)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_a_table_is_written_whole_and_reads_back(tmp_path, suffix):
    table = pd.DataFrame({"name": ["a", "b,c"], "value": [0.1, float("nan")], "n": [16, 17], "passes": [True, False]})
    path = tmp_path / f"out{suffix}"
    path.write_text("what was there before")
    write_table(path, table)
    read = pd.DataFrame(json.loads(path.read_text())) if suffix == ".json" else pd.read_csv(path)
    pd.testing.assert_frame_equal(read.astype({"value": float}), table)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out.txt", "out must end in .json or .csv, got "),
        ("none/out.csv", "out must lie in a folder that is there, got "),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path, name, said):
    with pytest.raises(ValueError, match=said):
        write_table(tmp_path / name, pd.DataFrame({"a": [1]}))


def test_what_is_said_is_what_is_written(tmp_path):
    one, other = saved(tmp_path / "one.npz"), saved(tmp_path / "two.npz")
    said, table = measure_files([one])
    by_name = table.set_index("name")
    (line,) = [words.split() for words in said.splitlines() if words.startswith("displacement ")]
    assert float(line[1]) == pytest.approx(by_name.loc["displacement", "value"], rel=1e-3)
    assert "left out: student_linear_share" not in said
    assert f"{one}: student and teacher: n = 40, d = 4" in said
    said, table = measure_files([one, other])
    closer = table[table["name"] == "closer"].iloc[0]
    rho = table[table["name"] == "displacement"]["value"]
    assert closer["value"] == pytest.approx((rho.iloc[0] + rho.iloc[1]) / 2 - rho.iloc[2])
    assert rho.iloc[2] == 0  # the same student twice
    assert said.endswith("closer: to each other")


def test_columns_are_as_wide_as_their_widest_word():
    assert aligned([("a", "b"), ("long", "c")]) == "a     b\nlong  c"
    nan = float("nan")
    (head, line) = readings_text([Reading("mine", 0.25, nan, nan, nan, nan, 20, "none", "all")]).splitlines()
    assert head.split()[:2] == ["measure", "value"]
    assert line.split() == ["mine", "0.25", "-", "-", "20", "none", "all"]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (0.1, 0.02, "copies (displacement 0.1; a copy lies below 0.5)"),
        (0.47, 0.02, "is on neither side for certain"),
        (0.53, 0.02, "is on neither side for certain"),
        (0.6, 0.02, "remaps"),
        (0.45, float("nan"), "copies"),
        (0.97, 0.02, "reads as independent pairs do"),
        (1.8, 0.1, "remaps"),
    ],
)
def test_the_reading_in_words(value, error, words):
    assert f"the student {words}" in in_words(Reading("displacement", value, 1.0, 0.95, 1.05, error, 40, "", ""))


def test_one_file_is_put_in_words_and_a_comparison_of_students_is_not(tmp_path):
    one, other = saved(tmp_path / "one.npz"), saved(tmp_path / "two.npz")
    assert measure_files([one])[0].count("in words: ") == 1
    assert measure_files([one, other])[0].count("in words: ") == 2
