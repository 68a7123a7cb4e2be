"""Documents to contexts, against a slow plain-Python packing; splits, duplicates, errors."""

import hashlib
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sae import artefact
from sae.config import build
from sae.errors import ConfigError, CorpusError
from sae.provenance import Run
from sae.source import contexts
from sae.source.contexts import Summary, TokensConfig, make_contexts, n_heldout, survey, table
from sae.source.corpus_document import Document
from sae.source.tokenizer import END_OF_TEXT, read_tokenizer
from sae.storage.tokens import SPLITS, TokenStore

WORDS = ("the", "cat", "sat", "on", "a", "mat", "while", "dog", "ran", "to", "sea", "and", "sang", "of", "nothing", "at", "all")
CONFIG = TokensConfig(n_vocab=300, context_length=16, seed=3)


def some_documents(n: int = 60, seed: int = 0) -> list[Document]:
    """English, some code, and two rare kinds with characters of several bytes."""
    rng = random.Random(seed)
    documents = []
    for i in range(n):
        text = " ".join(rng.choices(WORDS, k=rng.randrange(5, 60))) + f" {i}."
        documents.append(Document(text, "python" if i % 3 == 0 else "english", f"{i}.txt"))
    for i in range(6):
        documents.append(Document(f"שלום {i} " * (i + 3), "hebrew", f"h{i}"))
        documents.append(Document(f"日本語 {i} 🙂" * (i + 3), "japanese", f"j{i}"))
    rng.shuffle(documents)
    return documents


def make(path: Path, documents: list[Document], config: TokensConfig = CONFIG) -> tuple[TokenStore, Summary]:
    run = Run(kind="tokens", code="test")
    with artefact.writing(path, run) as draft:
        summary = make_contexts(lambda: documents, config, draft.path)
    return TokenStore.open(path), summary


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    found = some_documents()
    return [*found, found[5], Document("", "english", "empty"), found[5]._replace(kind="other")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> tuple[TokenStore, Summary]:
    return make(tmp_path_factory.mktemp("made") / "tokens", documents)


def slow_streams(store: TokenStore, documents: list[Document], config: TokensConfig) -> dict[str, list[tuple[int, int]]]:
    """(token, document) of each split's whole stream, from the definition, with dictionaries and loops."""
    assert store.tokenizer_path is not None
    tokenizer = read_tokenizer(store.tokenizer_path)
    first: dict[str, int] = {}
    for number, document in enumerate(documents):
        if document.text:
            first.setdefault(document.text, number)

    def key(number: int) -> bytes:
        return hashlib.blake2b(documents[number].text.encode(), key=str(config.seed).encode(), digest_size=16).digest()

    members: dict[str, list[int]] = {"train": [], "heldout": []}
    for kind in {documents[number].kind for number in first.values()}:
        ours = sorted((number for number in first.values() if documents[number].kind == kind), key=key)
        sizes = [len(documents[number].text.encode()) for number in ours]
        goal = config.heldout_fraction * sum(sizes)
        n = min(range(1, len(ours)), key=lambda n: abs(sum(sizes[:n]) - goal)) if len(ours) > 1 else 0
        members["heldout"] += ours[:n]
        members["train"] += ours[n:]
    streams = {}
    for name, numbers in members.items():
        stream = []
        for number in sorted(numbers, key=lambda number: key(number)[8:]):
            ids = tokenizer.encode(documents[number].text, add_special_tokens=False).ids
            stream += [(token, number) for token in [*ids, 0]]
        streams[name] = stream
    return streams


def test_every_context_is_what_a_slow_packing_makes(
    made: tuple[TokenStore, Summary], documents: list[Document], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(contexts, "CHUNK_CONTEXTS", 7)  # several blocks, and documents that lie across them
    blockwise, _ = make(tmp_path / "tokens", documents)
    streams = slow_streams(made[0], documents, CONFIG)
    for name in SPLITS:
        expected = [streams[name][i : i + 15] for i in range(0, len(streams[name]) - 14, 15)]
        for store in (made[0], blockwise):
            got = store.split(name)[0:10_000]
            assert len(expected) == len(got.tokens) > 14
            assert (got.tokens[:, 0] == 0).all()
            assert (got.document[:, 0] == -1).all()
            assert (got.kind[:, 0] == -1).all()
            assert got.tokens[:, 1:].tolist() == [[token for token, _ in row] for row in expected]
            assert got.document[:, 1:].tolist() == [[document for _, document in row] for row in expected]
        assert made[1].remainder_dropped[name] == len(streams[name]) - 15 * len(expected)


def test_a_document_reads_back_as_its_text_with_its_kind(made: tuple[TokenStore, Summary], documents: list[Document]) -> None:
    store, _ = made
    complete = 0
    for name in SPLITS:
        part = store.split(name)[0:10_000]
        for number in np.unique(part.document[part.document >= 0]):
            here = part.document == number
            ids = part.tokens[here].tolist()
            assert {store.kinds[kind] for kind in part.kind[here]} == {documents[number].kind}
            if ids[-1] == store.bos:  # else its end lies in the remainder that was dropped
                assert store.text(ids[:-1]) == documents[number].text
                complete += 1
    assert complete >= len(documents) - 3 - 2


def test_the_summary_counts_what_is_in_the_contexts(made: tuple[TokenStore, Summary]) -> None:
    store, summary = made
    assert summary.duplicates_dropped == 2
    assert summary.empty_dropped == 1
    assert summary.n_vocab == store.n_vocab == 300
    for name in SPLITS:
        part = store.split(name)[0:10_000]
        tokens = Counter(store.kinds[kind] for kind in part.kind.ravel() if kind >= 0)
        assert summary.n_tokens[name] == {kind: tokens[kind] for kind in store.kinds}
        assert summary.n_contexts[name] == len(part.tokens)
    assert sum(summary.n_documents["train"].values()) + sum(summary.n_documents["heldout"].values()) == 72
    assert "hebrew" in table(summary)


def test_bytes_per_token(tmp_path: Path) -> None:
    documents = [Document(text, "english", "") for text in ("ab" * 20, "cd" * 30, "ef" * 40)]
    _, summary = make(tmp_path / "tokens", documents, TokensConfig(n_vocab=257, context_length=4))
    assert summary.bytes_per_token == 1.0  # a vocabulary of bytes alone


def test_the_split_is_by_document_stratified_and_free_of_the_corpus_order(documents: list[Document]) -> None:
    def heldout(documents: list[Document], seed: int) -> set[str]:
        split = survey(documents, seed).splits(0.15)
        return {document.text for document, where in zip(documents, split, strict=True) if where == 1}

    held_out = heldout(documents, 0)
    other_order = documents[:60] + documents[:59:-1]
    assert heldout(other_order, 0) == held_out
    assert heldout(documents, 1) != held_out
    for kind in ("english", "python", "hebrew", "japanese"):
        texts = {document.text for document in documents if document.kind == kind and document.text}
        assert 0 < len(texts & held_out) < len(texts)
        share = sum(len(text) for text in texts & held_out) / sum(len(text) for text in texts)
        assert abs(share - 0.15) < 0.1


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [([10] * 10, 0.15, 1), ([10] * 10, 0.26, 3), ([90, 5, 5], 0.15, 1), ([1, 1, 98], 0.9, 2), ([7], 0.5, 0), ([], 0.5, 0)],
)
def test_n_heldout(sizes: list[int], fraction: float, expected: int) -> None:
    assert n_heldout(np.array(sizes), fraction) == expected


def test_a_special_tokens_name_in_a_text_is_text(tmp_path: Path) -> None:
    documents = [Document(f"{i} before {END_OF_TEXT} after", "english", "") for i in range(20)]
    store, _ = make(tmp_path / "tokens", documents)
    part = store.split("train")[0:1000]
    stream, owner = part.tokens[:, 1:].ravel(), part.document[:, 1:].ravel()
    ends = np.flatnonzero(stream == store.bos)
    assert (owner[ends[:-1]] != owner[ends[:-1] + 1]).all()
    assert END_OF_TEXT in store.text(stream[: ends[0]].tolist())


def test_the_tokenizer_has_not_seen_held_out_documents(tmp_path: Path) -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=8)) for _ in range(20)]
    documents = [Document(" ".join([word] * 30), "english", "") for word in words]
    store, _ = make(tmp_path / "tokens", documents, TokensConfig(n_vocab=2000, context_length=16))
    for name, known in (("train", True), ("heldout", False)):
        part = store.split(name)[0:1000]
        for number in np.unique(part.document[part.document >= 0]):
            assert ((b" " + words[number].encode()) in store.vocabulary) == known


def test_the_same_bytes_every_time(tmp_path: Path, documents: list[Document], made: tuple[TokenStore, Summary]) -> None:
    again, _ = make(tmp_path / "tokens", documents)
    assert again.run.files == made[0].run.files
    assert (again.path / "run.json").read_bytes() == (made[0].path / "run.json").read_bytes()
    other, _ = make(tmp_path / "other", documents, TokensConfig(n_vocab=300, context_length=16, seed=4))
    assert other.run.files != again.run.files
    assert not list(tmp_path.rglob("ids"))  # the spool is gone


def test_without_bos(tmp_path: Path) -> None:
    config = TokensConfig(n_vocab=300, context_length=16, bos=False)
    store, summary = make(tmp_path / "tokens", some_documents(), config)
    assert store.bos is None
    part = store.split("train")[0:1000]
    assert (part.document >= 0).all()
    assert part.tokens.shape[1] == 16
    assert sum(summary.n_tokens["train"].values()) == part.tokens.size


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "the corpus is empty"),
        ([Document("", "english", "")], "the corpus is empty"),
        ([Document("word " * 100, "english", "")], "the heldout split has 0 tokens in 0 documents"),
        ([Document("word", "english", ""), Document("words " * 100, "english", "")], "too few for one context of 15"),
        ([Document("a\ud800", "english", "broken.txt")], r"document 0 \(broken.txt\) is no Unicode text"),
    ],
)
def test_a_corpus_that_cannot_do_is_refused(tmp_path: Path, documents: list[Document], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        make(tmp_path / "tokens", documents)
    assert [file.name for file in tmp_path.iterdir()] == [".tokens.lock"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_vocab": 256}, "at least 257"),
        ({"n_vocab": None}, "at least 257"),
        ({"context_length": 1}, "context_length must be at least 2"),
        ({"heldout_fraction": 0}, "heldout_fraction"),
        ({"heldout_fraction": 1.0}, "heldout_fraction"),
        ({"source": "ids"}, "needs a path"),
        ({"source": "ids", "path": "x.npy", "n_vocab": 1}, "n_vocab must be at least 2"),
        ({"source": "text"}, "tokens.source"),
        ({"contextlength": 3}, "did you mean 'context_length'"),
    ],
)
def test_impossible_params_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TokensConfig, values, "tokens")
