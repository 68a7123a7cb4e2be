"""The report of a dictionary: what is there stands in it, what is not is named, and nothing of the corpus is markup."""

import base64
import html
import re

import pytest
from typer.testing import CliRunner

from sae import artefact
from sae.cli.main import app
from sae.errors import StoreError
from sae.library import locate
from sae.provenance import Run
from sae.web.rendering import Part, Rows, to_html, to_markdown
from sae.web.report import STUDIES, report
from tests.web.toy_project import make

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


@pytest.fixture
def place(tmp_path):
    return locate("A/1", make(tmp_path))


def leave(place, folder, kind, words, parents=None):
    parents = {"data/A/1/dictionary": artefact.digest(place.dictionary)} if parents is None else parents
    with artefact.writing(place.reports / folder, Run(kind=kind, parents=parents)) as draft:
        draft.tell(words)
        (draft.path / "plot.png").write_bytes(PIXEL)


def texts(place):
    folder = report(place)
    assert {path.name for path in folder.iterdir()} >= {"index.html", "report.md", "report.js", "run.json"}
    return (folder / "index.html").read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


def test_what_is_there_stands_in_both(place):
    leave(place, "claims", "claims", "Arabic: it holds")
    leave(place, "universality", "universality", "A/1 with B/1: 0.5")
    for text in texts(place):
        assert "Dictionary A/1" in text
        assert "93.9 %" in text  # loss recovered
        assert "16.94" in text
        assert "Arabic: it holds" in text
        assert "A/1 with B/1: 0.5" in text
        assert "participation ratio" in text
        assert all(study.title.split(",")[0].split("'")[0] in text for study in STUDIES)
    page, words = texts(place)
    assert page.count("data:image/png;base64," + base64.b64encode(PIXEL).decode()) == 2
    assert (place.report / "claims-plot.png").read_bytes() == PIXEL
    assert "![claims](claims-plot.png)" in words


def test_what_is_not_there_is_named_with_the_command_that_makes_it(place):
    for text in texts(place):
        for study in STUDIES[1:]:
            assert html.escape(f"Not there; made by: {study.made_by}") in text or study.made_by in text


def test_what_is_of_another_dictionary_is_left_out(place):
    leave(place, "claims", "claims", "of an older one", {"data/A/1/dictionary": "0"})
    leave(place, "universality", "universality", "of others", {"data/A/7/dictionary": "0"})
    for text in texts(place):
        assert "of an older one" not in text
        assert "of others" not in text
        assert "is not of this dictionary" in text
        assert "A/1 as it is now is not among those compared" in text


def test_made_twice_it_is_the_same(place):
    def contents():
        return {path.name: path.read_bytes() for path in report(place).iterdir()}

    assert contents() == contents()


def test_text_of_the_corpus_is_no_markup():
    evil = "<script>alert(1)</script> | ```\n# heading\n<img src=x>"
    parts = [Part("x", evil, evil, rows=Rows(("a|b", "c"), ((evil, "*d*"),)), text=evil)]
    page, words = to_html(evil, parts), to_markdown("title", parts)
    assert "<script" not in page
    assert "<img" not in page
    fenced = re.search(r"^(`{4,})text\n(.*?)\n\\1$".replace("\\\\", "\\"), words, re.M | re.S)
    assert fenced is not None
    assert fenced[2] == evil
    assert r"\<script\>" in words
    assert r"a\|b" in words


def test_the_command_and_its_errors(place):
    root = str(place.tokens.parent)
    done = CliRunner().invoke(app, ["report", "A/1", "--root", root])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [str(place.report / "index.html"), str(place.report / "report.md")]
    missing = CliRunner().invoke(app, ["report", "A/9", "--root", root])
    assert missing.exit_code != 0
    assert "no dictionary 'A/9'" in missing.output
    (place.features / "run.json").unlink()
    with pytest.raises(StoreError):
        report(place)


def test_what_is_shared_is_of_this_very_dictionary(place):
    """Not of one of the same name that was made before, nor of one whose name ends alike."""
    for parents in ({"data/A/1/dictionary": "0" * 64}, {"data/AA/1/dictionary": "0" * 64}):
        leave(place, "splitting", "splitting", "0.123", parents)
        for text in texts(place):
            assert "0.123" not in text
            assert "A/1 as it is now is not among those compared" in text


def test_the_controls_are_made_from_proxies(place):
    """Whose own parent is the dictionary: `pipelines.controls`."""
    leave(place, "proxies", "proxies", "proxies of A/1")
    made_from = {"reports/proxies": artefact.digest(place.reports / "proxies"), "reports/S-0/proxies": "1" * 64}
    leave(place, "controls", "controls", "beside shuffled weights", made_from)
    assert all("beside shuffled weights" in text for text in texts(place))
    leave(place, "proxies", "proxies", "of another", {"data/A/1/dictionary": "0" * 64})
    leave(place, "controls", "controls", "stale", {"reports/proxies": artefact.digest(place.reports / "proxies")})
    assert not any("stale" in text for text in texts(place))


def test_words_that_are_no_text_are_shown_as_far_as_they_are(place):
    run = Run(kind="claims", parents={"data/A/1/dictionary": artefact.digest(place.dictionary)})
    with artefact.writing(place.reports / "claims", run) as draft:
        (draft.path / artefact.TOLD).write_bytes(b"before \xff after")
    assert all("before \ufffd after" in text for text in texts(place))


@pytest.mark.parametrize("name", [artefact.TOLD, "plot.png"])
def test_words_and_plots_that_were_changed_are_refused(place, name):
    leave(place, "claims", "claims", "Arabic: it holds")
    file = place.reports / "claims" / name
    file.write_bytes(file.read_bytes() + b".")
    with pytest.raises(StoreError, match=f"{name} is damaged"):
        report(place)


def test_what_was_found_on_other_tokens_is_left_out(place):
    parents = {"data/A/1/dictionary": artefact.digest(place.dictionary), "data/tokens": "0" * 64}
    leave(place, "claims", "claims", "on other text", parents)
    assert not any("on other text" in text for text in texts(place))
