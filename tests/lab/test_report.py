"""The report is one page that needs nothing else, and says what the claims say."""

import itertools
from html.parser import HTMLParser

import pandas as pd
import pytest

from sandbox.__main__ import main
from sandbox.lab import gallery
from sandbox.lab.execute import run
from sandbox.lab.report import COMMITTED, README, chapter, write_report
from sandbox.lab.store import Store
from sandbox.lab.sweep import Sweep
from sandbox.lab.told import told

FEW = ("growth_noise", "matched", "recipe_cost")


class Page(HTMLParser):
    """Links, ids and words of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.sources, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named["href"]] if "href" in named else []
        self.sources += [named["src"]] if "src" in named else []
        assert tag not in ("script", "link", "iframe")

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def none(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("report") / "none", create=False)


@pytest.fixture(scope="module")
def written(none, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "EXPERIMENTS", FEW)
        return write_report(none, "quick", tmp_path_factory.mktemp("page") / "report.html").read_text()


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def test_nothing_has_to_be_fetched(page, written):
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert all(link.startswith("#") for link in page.links)
    assert "url(" not in written
    assert "@import" not in written


def test_every_link_leads_somewhere(page):
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_every_claim_is_there_with_its_verdict_rule_and_students(page, none):
    text = " ".join(page.words)
    for name in FEW:
        mine = chapter(name, none, "quick", COMMITTED)
        assert mine.answers
        assert mine.figures
        for answer in mine.answers:
            assert answer.question.claim in text
            assert answer.verdict in text
            assert str(answer.question.rule) in text
            assert all(key in text for key in answer.effect.keys)
        for figure in mine.figures:
            assert figure.caption in text


def test_both_colour_schemes(written):
    assert "prefers-color-scheme: dark" in written
    assert "color-scheme: light dark" in written


def test_the_same_students_give_the_same_bytes(none, tmp_path, written, monkeypatch):
    monkeypatch.setattr(gallery, "EXPERIMENTS", FEW)
    assert write_report(none, "quick", tmp_path / "again.html").read_text() == written


def test_an_experiment_without_tables_says_so(none, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "EXPERIMENTS", FEW)
    text = " ".join(Page(write_report(none, "quick", tmp_path / "r.html", tmp_path / "nowhere").read_text()).words)
    assert "no students yet" in text
    assert "python -m sandbox run --experiment matched" in text


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gallery, "EXPERIMENTS", FEW)
    assert main(["report", "--results", str(tmp_path / "none"), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").exists()
    assert not (tmp_path / "none").exists()
    assert main(["report", "--preset", "huge", "--results", str(tmp_path / "none")]) == 2
    assert "preset must be one of" in capsys.readouterr().err


def test_what_a_person_wrote_stands_above_the_verdicts_and_leads_nowhere_else(written):
    """Planted markdown, and the README's own table."""
    assert written.index('id="found"') < written.index('id="answers"') < written.index('id="claims"')
    rows = told(README)
    assert len(rows) >= 8
    assert all(question in written and found in written for question, found in rows)
    assert "](" not in "".join(itertools.chain(*rows))


def test_markdown_of_one_line_becomes_html(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        "# Title\n\n## The answer so far\n\n| question | found |\n|---|---|\n"
        "| **Is** it? | *No*: a < b, [the rule](x.md) says. [More](y.md#z) |\n\n"
        "## Next\n\n| not | this |\n|---|---|\n| a | b |\n"
    )
    assert told(readme) == [("<strong>Is</strong> it?", "<em>No</em>: a &lt; b, the rule says.")]
    assert told(tmp_path / "none.md") == []


def test_rules_written_after_the_runs_are_counted(none, written):
    asked = [answer.question for name in FEW for answer in chapter(name, none, "quick", COMMITTED).answers]
    after = sum(question.declared == "after" for question in asked)
    assert after > 0
    assert f"{len(asked)} claims; {after} of their rules were written after" in written


def test_committed_students_are_where_the_page_says(none, page):
    text = " ".join(page.words)
    for name in FEW:
        mine = chapter(name, none, "quick", COMMITTED)
        assert mine.tables
        keys = set().union(*(pd.read_csv(path)["key"] for path in mine.tables))
        assert all(path in text for path in mine.tables)
        assert all(key in keys for answer in mine.answers for key in answer.effect.keys)
        assert "table --experiment" not in text


def test_arms_without_students_are_not_listed(none):
    """The full phase experiment has more controls than the committed, quick one."""
    for answer in chapter("phase", none, "quick", COMMITTED).answers:
        assert len(answer.arms) == len(set(answer.arms))
        assert set(answer.arms) == set(pd.read_csv(COMMITTED / "phase.csv")["arm"]) & set(answer.question.arms)


def test_students_of_the_folder_count_and_the_page_says_that_more_are_committed(tmp_path, monkeypatch):
    """Two students of one experiment; of another's teachers there are none, so that its sweep is not worked out."""
    monkeypatch.setattr(gallery, "EXPERIMENTS", ("growth_noise", "phase"))
    expand = Sweep.students

    def students(sweep):
        assert sweep.name != "phase"
        return expand(sweep)

    monkeypatch.setattr(Sweep, "students", students)
    store = Store(tmp_path / "results")
    assert run(gallery.experiment("growth_noise", "smoke").cells()[:2], store, quiet=True) == 0
    assert store.teachers() == {"random"}
    text = " ".join(Page(write_report(store, "smoke", tmp_path / "r.html").read_text()).words)
    assert "Students of this folder: growth_noise (preset smoke)" in text
    assert "The committed tables of growth_noise are larger" in text
    assert "table --experiment growth_noise --preset smoke --csv" in text


def test_an_empty_folder_has_no_teachers_and_a_damaged_student_hides_no_other(none, tmp_path):
    assert none.teachers() == set()
    store = Store(tmp_path)
    for name, text in (("a", '{"cell": {"teacher": "ring"}}'), ("b", "{"), ("c", "[]")):
        (store.folder / f"{name}.json").write_text(text)
    assert store.teachers() == {"ring"}
