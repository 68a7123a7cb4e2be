"""The embedded corpus at a small size: how much of what, from where, and the same each time."""

import random
from collections import Counter
from itertools import islice

import pytest

from sae.source import corpus_installed
from sae.source.corpus import SHARES
from sae.source.corpus_document import Document, count
from sae.source.corpus_installed import KINDS, Found, Installed, installed, installed_files, mixed, varied

N_BYTES = 400_000


@pytest.fixture(scope="module")
def small():
    return installed(0, N_BYTES, SHARES)


def test_bytes_and_shares(small):
    documents, short = small
    facts = count(documents)
    assert short == {}
    assert abs(facts["n_bytes"] - N_BYTES) < 0.02 * N_BYTES
    assert set(facts["by_kind"]) == set(KINDS)
    for kind, share in SHARES.items():
        expected = N_BYTES * share / sum(SHARES.values())
        assert abs(facts["by_kind"][kind]["bytes"] - expected) < 60 + 0.01 * expected, kind


def test_no_document_is_blank_and_no_source_names_this_machine(small):
    for document in small[0]:
        assert document.text.strip()
        assert not document.source.startswith(("/", "~", "."))
        assert ".." not in document.source
        assert "site-packages" not in document.source


def test_kinds_look_like_themselves(small):
    texts = {kind: "".join(d.text for d in small[0] if d.kind == kind) for kind in KINDS}
    assert texts["python"].count("def ") > texts["english"].count("def ") * 3
    assert texts["cpp"].count(";") > texts["english"].count(";") * 3
    assert next(Installed(0).stream("pem")).text.count("-----END CERTIFICATE-----") == 1
    words = Counter(texts["english"].lower().split())
    assert words["the"] > 0.03 * words.total()


def test_the_seed_decides_and_nothing_else(small):
    shares = {"english": 3.0, "python": 2.0, "json": 1.0, "pem": 0.5, "base64": 1.0, "hexadecimal": 1.0, "dna": 1.0}
    first, again, other = (installed(seed, 30_000, shares) for seed in (0, 0, 1))
    assert first == again != other


def test_own_files_and_pips_are_left_out():
    files = installed_files()
    assert files == sorted(files)
    assert not [file for file in files if "sae" in file.owner or file.name.startswith(("sae/", "pipelines/", "pip/"))]
    assert {file.owner for file in files} >= {"python", "torch", "numpy", "certifi"}
    assert not [file for file in files if "/tests/" in f"/{file.name}" or "_sysconfigdata" in file.name]


def test_what_a_kind_lacks_is_made_up_by_the_plentiful(monkeypatch):
    monkeypatch.setattr(Installed, "_plain", lambda self, kind, rng: iter([Document("x" * 5000, kind, "one")]))
    documents, short = installed(0, 100_000, {"english": 30.0, "python": 20.0, "javascript": 50.0})
    facts = count(documents)
    assert short == {"javascript": 5000}
    assert abs(facts["n_bytes"] - 100_000) < 2000
    by_kind = {kind: counts["bytes"] for kind, counts in facts["by_kind"].items()}
    assert by_kind["english"] / by_kind["python"] == pytest.approx(1.5, rel=0.02)


def test_varied_takes_a_distribution_by_the_root_of_its_files(tmp_path):
    files = [Found(owner, f"{owner}/{i}", tmp_path, 1) for owner, n in (("big", 900), ("small", 9)) for i in range(n)]
    order = varied(files, random.Random(0))
    assert sorted(order) == sorted(files)
    first = Counter(file.owner for file in order[:66])
    assert first["small"] == pytest.approx(6, abs=2)  # 3 of every 33


def test_mixed_gives_everything_by_weight():
    streams = [iter([("a", i) for i in range(100)]), iter([("b", i) for i in range(900)])]
    items = list(mixed(streams, (10.0, 90.0), random.Random(0)))
    assert len(items) == 1000
    assert [i for name, i in items if name == "a"] == list(range(100))
    assert 20 < sum(name == "a" for name, _ in items[:400]) < 60


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"x = 1\n" * 100, True),
        (b"# This file was automatically generated, do not edit\n" + b"x = 1\n" * 100, False),
        (b"x" * 2000, False),  # minified: one line
        (b"caf\xe9\n" * 100, False),
        (b"12345 67890\n" * 100, False),
        (b"a\0b\n" * 100, False),
    ],
)
def test_which_files_are_text_worth_having(tmp_path, content, wanted):
    (tmp_path / "f.py").write_bytes(content)
    assert bool(Found("o", "f.py", tmp_path / "f.py", len(content)).text()) == wanted
    assert Found("o", "gone.py", tmp_path / "gone.py", 1).text() == ""


def test_english_holds_no_paragraph_twice(small):
    english = islice(Installed(1).stream("english"), 40)
    paragraphs = Counter(" ".join(p.split()) for document in english for p in document.text.split("\n\n"))
    assert max(paragraphs.values()) == 1
    assert corpus_installed.LONGEST == 20_000
