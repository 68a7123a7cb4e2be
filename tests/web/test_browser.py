import re

import numpy as np
import pytest

from sae.config import build as build_config
from sae.errors import ConfigError
from sae.features import table as table_module
from sae.features.table import COLUMNS, Column, FeatureTable
from sae.web.browser import BrowserConfig, build
from sae.web.columns import ALIVE, DEAD, ULTRALOW
from sae.web.figures import Figure
from tests.web import reading_back
from tests.web.fake_table import DEAD as DEAD_FEATURE
from tests.web.fake_table import EMPTY, HOSTILE, VOCABULARY, make


@pytest.fixture(scope="module")
def table():
    return make()


@pytest.fixture(scope="module")
def page(table, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    build(table, out, BrowserConfig(chunk=4), [Figure(label="L0", value="<b>9</b>", meaning="</script>")])
    return out


def test_every_column_of_the_table_is_in_the_chunks(table, page):
    about, _ = reading_back.read(page / "data/index.js")
    for number, start in enumerate((0, 4, 8)):
        header, raw = reading_back.read(page / f"data/features_{number:04d}.js")
        assert header == {"start": start}
        stop = min(start + 4, len(table))
        found = reading_back.columns(about["chunk_columns"], stop - start, raw)
        assert found.keys() == {name for name, column in COLUMNS.items() if len(column.axes) > 1}
        for name, values in found.items():
            np.testing.assert_array_equal(values, table[name][start:stop])


def test_the_index_is_the_tables_numbers(table, page):
    about, raw = reading_back.read(page / "data/index.js")
    found = reading_back.columns(about["index_columns"], len(table), raw)
    for name in ("density", "n_active", "max_activation", "mean_activation", "encoder_bias", "n_neurons_above_tenth"):
        np.testing.assert_array_equal(found[name], table[name])
    alive = np.arange(len(table)) != DEAD_FEATURE
    assert found["state"].tolist() == [
        DEAD if i == DEAD_FEATURE else ULTRALOW if i == EMPTY else ALIVE for i in range(len(table))
    ]
    np.testing.assert_array_equal(found["kind"][alive], 0)
    np.testing.assert_allclose(found["kind_share"][alive], table["kind_counts"][alive, 0] / table["n_active"][alive], rtol=1e-6)
    assert np.isnan(found["kind_share"][DEAD_FEATURE])
    np.testing.assert_array_equal(found["top_logits"], table["logit_top_ids"][:, :10])
    assert about["id"] == "A/1"
    assert about["figures"] == [{"label": "L0", "value": "<b>9</b>", "meaning": "</script>"}]


def test_top_tokens_are_those_of_the_top_examples_most_frequent_first(table, page):
    about, raw = reading_back.read(page / "data/index.js")
    found = reading_back.columns(about["index_columns"], len(table), raw)["top_tokens"]
    for feature in range(len(table)):
        seen: dict[int, list[float]] = {}
        for slot, interval in enumerate(table["example_interval"][feature]):
            if interval == 0:
                token = int(table["example_tokens"][feature, slot, table.window])
                seen.setdefault(token, []).append(float(table["example_peak"][feature, slot]))
        slow = sorted(seen, key=lambda token: (-len(seen[token]), -max(seen[token]), token))[:5]
        assert [i for i in found[feature] if i >= 0] == slow


def test_tokens_keep_their_bytes(page):
    header, raw = reading_back.read(page / "data/tokens.js")
    lengths, count = header["columns"][0], header["n_vocab"]
    width = np.dtype(lengths["dtype"]).itemsize * count
    sizes = reading_back.columns([lengths], count, raw[:width])["lengths"]
    ends = width + np.cumsum(sizes)
    assert [raw[end - size : end] for size, end in zip(sizes, ends, strict=True)] == VOCABULARY


def test_no_text_of_the_corpus_stands_in_a_data_file_as_it_is(page):
    """Markup in tokens, kinds of document and figures travels in base64 or escaped JSON: no data file holds a `<`."""
    for file in (page / "data").iterdir():
        text = file.read_text(encoding="ascii")
        assert not set(text) & set("<>&"), file.name
        assert not any(token.decode("latin-1") in text for token in HOSTILE if b"owned" in token)


def test_the_page_makes_no_markup_from_text_and_asks_nothing_of_a_network(page):
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|\bfetch\(|XMLHttpRequest|\bimport\b"
        r"|https?://(?!www\.w3\.org/2000/svg)|@import|url\("
    )
    scripts = [file for file in page.iterdir() if file.is_file()]
    assert {file.suffix for file in scripts} == {".html", ".css", ".js"}
    for file in scripts:
        assert not forbidden.search(file.read_text(encoding="utf-8")), file.name


def test_the_content_security_policy_allows_own_files_only(page):
    html = (page / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self' file:"
    assert rules["require-trusted-types-for"] == "'script'"
    assert not re.search(r"<script>|<style|\son\w+=|style=", html), "the policy would refuse inline code"


def test_the_same_table_gives_the_same_bytes(table, page, tmp_path):
    build(table, tmp_path, BrowserConfig(chunk=4), [Figure(label="L0", value="<b>9</b>", meaning="</script>")])
    files = sorted(path.relative_to(page) for path in page.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        assert (page / file).read_bytes() == (tmp_path / file).read_bytes()


def test_fewer_features_are_the_first_ones(table, tmp_path):
    build(table, tmp_path, BrowserConfig(n_features=5, chunk=64))
    about, raw = reading_back.read(tmp_path / "data/index.js")
    assert (about["n_features"], about["n_features_in_dictionary"]) == (5, len(table))
    np.testing.assert_array_equal(reading_back.columns(about["index_columns"], 5, raw)["density"], table["density"][:5])
    assert sorted(file.name for file in (tmp_path / "data").iterdir()) == ["features_0000.js", "index.js", "tokens.js"]


def test_ultralow_is_told_only_where_the_tokens_allow_it(table, tmp_path):
    build(table, tmp_path, BrowserConfig(), ultralow=1e-7)  # 5 million tokens: 3 / 1e-7 would be needed
    about, raw = reading_back.read(tmp_path / "data/index.js")
    assert about["ultralow_told"] is False
    assert ULTRALOW not in reading_back.columns(about["index_columns"], len(table), raw)["state"]


def test_a_column_that_is_new_to_the_page_is_listed_by_its_declaration(table, tmp_path, monkeypatch):
    """A statistic is added by declaring it in the table (architecture.md): no change to the page is needed."""
    column = Column(name="label_score", axes=("feature",), dtype="f4", meaning="how well <i>the label</i> predicts")
    monkeypatch.setitem(table_module.COLUMNS, "label_score", column)
    scores = np.linspace(0, 1, len(table), dtype=np.float32)
    wider = FeatureTable(
        {**{name: table[name] for name in COLUMNS if name != "label_score"}, "label_score": scores},
        table.info,
        VOCABULARY,
        table.run,
    )
    build(wider, tmp_path, BrowserConfig())
    about, raw = reading_back.read(tmp_path / "data/index.js")
    assert "label_score" in about["statistics"]
    assert about["definitions"]["label_score"] == {"label": "Label score", "meaning": "How well <i>the label</i> predicts."}
    np.testing.assert_array_equal(reading_back.columns(about["index_columns"], len(table), raw)["label_score"], scores)


@pytest.mark.parametrize(
    ("values", "word"), [({"n_features": -1}, "n_features"), ({"chunk": 0}, "chunk"), ({"chunks": 4}, "chunk")]
)
def test_wrong_params_are_named(values, word):
    with pytest.raises(ConfigError, match=word):
        build_config(BrowserConfig, values, "browser")
