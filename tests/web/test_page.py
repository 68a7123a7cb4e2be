"""The page in headless Chromium, opened from disk, over a vocabulary of hostile tokens. Skipped where no Chromium is there."""

import base64
import json
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest

from sae.web.browser import BrowserConfig, build
from tests.web.fake_table import DEAD, EMPTY, KINDS, VOCABULARY, make

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1280,900", "--virtual-time-budget=30000"),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def table():
    return make(80)


@pytest.fixture(scope="module")
def found(table, tmp_path_factory):
    """What tests/web/drive.js saw."""
    page, profile = tmp_path_factory.mktemp("page"), tmp_path_factory.mktemp("profile")
    build(table, page, BrowserConfig(chunk=16))
    shutil.copy(Path(__file__).with_name("drive.js"), page / "drive.js")
    html = (page / "index.html").read_text(encoding="utf-8")
    (page / "driven.html").write_text(html.replace("</body>", '<script src="drive.js"></script>\n</body>'), encoding="utf-8")
    address = (page / "driven.html").as_uri()
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", address],
        capture_output=True,
        timeout=300,
        check=True,
    )
    result = re.search(rb'<pre id="result">([^<]*)</pre>', done.stdout)
    assert result, done.stdout[-2000:]
    seen = json.loads(base64.b64decode(result[1]))
    assert seen["errors"] == []
    return seen


def test_the_list_is_sorted_and_filtered(found, table):
    density = table["density"]
    by_density = sorted(range(len(table)), key=lambda i: (-density[i], i))
    assert found["all"] == by_density[: len(found["all"])]
    assert 20 < len(found["all"]) < len(table), "only the rows in view are elements"
    assert found["sorted"]["index"] == list(range(len(table)))[::-1]
    for name in ("density", "encoder_bias", "encoder_decoder_cosine", "n_neurons_above_tenth"):
        assert found["sorted"][name] == sorted(range(len(table)), key=lambda i: (-table[name][i], i))
    assert found["sorted"]["max_activation"][-1] == DEAD, "where a number says nothing, it sorts last"
    assert found["dead"] == [DEAD]
    assert found["address"] == "#?state=dead"
    assert found["range"] == [i for i in by_density if 1e-3 <= density[i] <= 1e-2]
    assert found["shownNothing"] == "0 of 80 features; nothing matches all of these"


def test_search_looks_into_top_tokens_and_logits(found, table):
    hits = {i for i, token in enumerate(VOCABULARY) if b"<script>" in token}
    expected = [
        feature
        for feature in range(len(table))
        if hits & set(table["logit_top_ids"][feature, :10].tolist())
        or hits & set(table["example_tokens"][feature, table["example_interval"][feature] == 0, table.window].tolist())
    ]
    assert sorted(found["search"]) == expected


def test_the_header_says_what_the_dictionary_is(found):
    facts = found["facts"]
    assert facts == {"Features": "80", "Alive": "78", "Ultralow": "1", "Dead": "1", "Tokens looked at": "5,000,000"}
    assert found["kinds"] == ["any", *KINDS]


def test_a_feature_is_what_the_table_says(found, table):
    assert found["heading"] == "A/1/0"
    assert found["examples"] == int((table["example_interval"][0] >= 0).sum())
    assert [heading.split(" ")[0] for heading in found["sections"]] == ["Strongest", *["Interval"] * 5]
    shown = [found["plain"][i].replace("·", " ") for i in table["logit_top_ids"][0]]
    assert found["logits"][:20] == shown
    assert float(found["logitValues"][0]) == pytest.approx(table["logit_top_values"][0, 0], rel=0.06)
    assert found["neurons"][0] == f"A/neurons/{table['neuron_correlated_ids'][0, 0]}"
    assert found["partners"][:5] == [f"A/1/{i}" for i in table["feature_correlated_ids"][0]]
    assert found["partners"][5:] == [f"A/0/{i}" for i in table["other_correlated_ids"][0]]
    assert found["partnerLink"] == f"#{table['feature_correlated_ids'][0, 0]}"
    context, position = table["example_context"][0, 1], table["example_position"][0, 1]
    assert found["detail"].endswith(f"context {context:,} · position {position}")
    assert found["featureFacts"]["Active tokens"] == f"{table['n_active'][0]:,} of 5,000,000"


def test_tokens_that_make_a_character_together_are_joined_and_keep_their_values(found, table):
    assert found["first"][:4] == [" word1", "👩", "ا", " word2"]
    assert found["strongest"] == "👩"
    assert found["gradient"][1]
    parts = found["tip"].split("\n\n")
    assert len(parts) == 4
    for byte, slot, part in zip("👩".encode(), range(1, 5), parts, strict=True):
        value = float(table["example_activations"][0, 0, slot])
        token, number, activation = part.split("\n")
        assert (token, number) == (f"token \\x{byte:02x}", f"id {table['example_tokens'][0, 0, slot]}")
        assert float(activation.split()[1]) == pytest.approx(value, rel=5e-3), "2-byte floats are decoded in JavaScript"


def test_dead_ultralow_and_missing_features_are_said_to_be_so(found):
    assert found["deadNote"].startswith("Never active. Not one of the 5,000,000 tokens")
    assert found["deadExamples"] == 0
    assert found["lowNote"].startswith("Ultralow density")
    assert (EMPTY, found["lowExamples"]) == (4, 1)
    assert "no feature 99999" in found["missing"].replace(",", "")


def test_keys(found):
    assert found["selected"] == str(found["all"][1])
    assert found["help"]
    assert found["wrapped"]
    assert found["random"] != DEAD


def test_nothing_of_the_corpus_runs_and_no_network_is_reached(found):
    assert found["titleAtEnd"].startswith("A/1")
    assert (found["fetched"], found["markup"], found["images"]) == ("refused", "refused", 0)
    assert {"connect-src", "require-trusted-types-for"} == set(found["violations"]), "only what the test itself tried"
    assert found["isolated"], "a token must not turn the direction of its neighbours"
    assert not found["listScrolls"]
    assert not found["featureScrolls"]


def test_every_token_shows_what_it_is(found):
    """Against Python's own decoder and character database."""
    for token, plain, escaped in zip(VOCABULARY, found["plain"], found["escaped"], strict=True):
        decoded = token.decode("utf-8", errors="backslashreplace")
        expected = "".join(shown(char) for char in decoded) or "∅"
        assert plain == expected, token
        if any(byte >= 0x80 for byte in token) and "\\x" in decoded:
            assert "\\x" in escaped
        hidden = [char for char in plain if unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Co", "Cs")]
        assert hidden == [], token


def shown(char: str) -> str:
    if char in " \n\t":
        return {" ": "·", "\n": "↵", "\t": "→"}[char]
    if ord(char) < 0x20 or ord(char) == 0x7F:
        return f"\\x{ord(char):02x}"
    if unicodedata.category(char) in ("Cc", "Cf", "Co", "Zl", "Zp", "Zs") or char == "\ufe0f":
        return f"U+{ord(char):04X}"
    return char
