"""Kinds and texts that would act on a terminal, go with the features, the figures, the words and the pages, and act on nobody."""

import json

import pytest

import sae
from sae import artefact
from sae.claims.config import ClaimsConfig
from sae.claims.study import study
from sae.features.side_by_side import Side
from sae.library import locate
from sae.provenance import Run
from sae.proxies.hypotheses import ProxiesConfig
from sae.proxies.report import find
from sae.proxies.report import report as proxies_report
from sae.reports import write_figures
from sae.shown import json_text, printable
from sae.storage.tokens import TokenStore
from sae.web.report import report
from tests.web.toy_project import make, source

KINDS = ["\x1b]0;x\x07", "\u202ekind\u2066 \x9b31m\x7f|`<b>"]
TEXTUAL = {".json", ".md", ".html", ".txt", ".js"}


def acting(text):
    """Characters that do something to who prints them, or are not seen."""
    return sorted(char for char in set(text) if char != "\n" and printable(char) != char)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A finished project whose documents are of such kinds, with the reports that tell of kinds."""
    root = tmp_path_factory.mktemp("hostile")
    place = locate("A/1", make(root, kinds=KINDS))
    tokens, dictionary = TokenStore.open(place.tokens), sae.load(place.dictionary)
    parents = {"data/A/1/dictionary": artefact.digest(place.dictionary)}
    config = ClaimsConfig(
        hypotheses=(),
        own={"odd": {"kinds": [KINDS[1]], "title": KINDS[0]}},
        n_tokens=400,
        n_choice_tokens=400,
        n_controls=2,
        n_continuations=1,
        continued_tokens=1,
        n_bootstrap=2,
    )
    (found,) = study(tokens, Side("A/1", source(), dictionary), config)
    with artefact.writing(place.reports / "claims", Run(kind="claims", parents=parents, facts={"kinds": KINDS})) as draft:
        write_figures(draft.path, "claims", {found.hypothesis: found.to_dict()})
        draft.tell(f"{found}\n{KINDS}\n{KINDS[0]}")
    config = ProxiesConfig(hypotheses=("hebrew",), n_tokens=400, n_sample_tokens=400)
    with artefact.writing(place.reports / "proxies", Run(kind="proxies", parents=parents)) as draft:
        write_figures(draft.path, "proxies", proxies_report(find(tokens, source(), dictionary, config), config))
    with artefact.writing(place.reports / "evaluate", Run(kind="evaluation", parents=parents)) as draft:
        write_figures(draft.path, "metrics", {"kinds": dict.fromkeys(KINDS, 0.5), KINDS[0]: {"text": KINDS[1]}})
    return place


def test_no_file_of_a_report_or_a_page_acts(project):
    report(project)
    read = [
        file
        for folder in (project.reports, project.report, project.browser, project.features, project.tokens)
        for file in folder.rglob("*")
        if file.suffix in TEXTUAL and "tokenizer" not in file.parts
    ]
    assert len(read) > 15
    assert {file.name: found for file in read if (found := acting(file.read_text(encoding="utf-8")))} == {}


def test_what_they_are_is_seen_and_reads_back(project):
    folder = report(project)
    for name in ("report.md", "index.html"):
        assert "]0;x\\x07" in (folder / name).read_text(encoding="utf-8").replace("\\\\", "\\").replace("\\]", "]")
    figures = json.loads((project.reports / "proxies/proxies.json").read_text(encoding="utf-8"))
    assert figures["kinds"].keys() == set(KINDS)
    assert artefact.read_run(project.reports / "claims", "claims").facts["kinds"] == KINDS


def test_features_and_words_printed_do_not_act(project, capsys):
    loaded = sae.load(project.dictionary)
    words = [str(loaded.feature(i)) for i in range(24)]
    assert not acting("".join(words))
    assert any("\\x1b]0;x\\x07" in each for each in words)
    with artefact.writing(project.reports / "more", Run(kind="more")) as draft:
        draft.tell("\n".join(KINDS))
    assert not acting(capsys.readouterr().out)


def test_json_of_any_text_reads_back():
    value = {"".join(map(chr, range(0x2100))): ["\udc80", "\U000e0100", "👍 שלום", 0.5, None]}
    text = json_text(value)
    assert json.loads(text) == value
    assert not acting(text)
    assert "👍 שלום" in text


def test_a_record_that_an_earlier_version_wrote_is_read(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            "sae.provenance.json_text", lambda fields: json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        )
        with artefact.writing(tmp_path / "a", Run(kind="corpus", facts={"kinds": KINDS})):
            pass
    assert acting((tmp_path / "a/run.json").read_text())
    assert artefact.read_run(tmp_path / "a", "corpus").facts["kinds"] == KINDS
