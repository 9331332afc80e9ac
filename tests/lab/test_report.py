"""The report is one page that needs nothing else, and says what the claims say."""

from html.parser import HTMLParser

import pytest

from sandbox.__main__ import main
from sandbox.lab import gallery
from sandbox.lab.report import COMMITTED, chapter, write_report
from sandbox.lab.store import Store

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
        told = chapter(name, none, "quick", COMMITTED)
        assert told.answers
        assert told.figures
        for answer in told.answers:
            assert answer.question.claim in text
            assert answer.verdict in text
            assert str(answer.question.rule) in text
            assert all(key in text for key in answer.effect.keys)
        for figure in told.figures:
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
