"""An array of token ids instead of text."""

from pathlib import Path

import numpy as np
import pytest

from sae import artefact
from sae.errors import ConfigError, CorpusError
from sae.provenance import Run
from sae.source import ids as ids_module
from sae.source.contexts import Summary, TokensConfig
from sae.source.ids import contexts_of_ids
from sae.storage.tokens import SPLITS, TokenStore


def make(folder: Path, array: np.ndarray, **values: object) -> tuple[TokenStore, Summary]:
    np.save(folder / "ids.npy", array, allow_pickle=True)
    config = TokensConfig(source="ids", path=str(folder / "ids.npy"), **{"n_vocab": None, **values})  # type: ignore[arg-type]
    with artefact.writing(folder / "tokens", Run(kind="tokens", code="test")) as draft:
        summary = contexts_of_ids(config, draft.path)
    return TokenStore.open(folder / "tokens"), summary


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, ">i4"])
def test_each_row_is_a_context_and_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(ids_module, "CHUNK_CONTEXTS", 7)
    array = np.random.default_rng(0).integers(0, 113, (40, 5)).astype(dtype)
    array[0, 0] = 112
    store, summary = make(tmp_path, array)
    assert (store.n_vocab, store.context_length, store.bos, store.kinds) == (113, 5, None, ("ids",))
    assert store.tokenizer_path is None
    assert store.vocabulary[112] == b" 112"
    seen = []
    for name in SPLITS:
        part = store.split(name)[0:100]
        seen += part.document[:, 0].tolist()
        assert (part.document == part.document[:, :1]).all()
        assert (part.kind == 0).all()
        assert (part.tokens == array[part.document[:, 0]]).all()
        assert summary.n_tokens[name] == {"ids": part.tokens.size}
    assert sorted(seen) == list(range(40))
    assert seen != list(range(40))  # shuffled
    assert summary.n_contexts == {"train": 34, "heldout": 6}


def test_one_dimension_is_cut_into_contexts(tmp_path: Path) -> None:
    store, summary = make(tmp_path, np.arange(101), context_length=10, n_vocab=200, heldout_fraction=0.2)
    assert store.n_vocab == 200
    assert summary.n_contexts == {"train": 8, "heldout": 2}
    assert summary.remainder_dropped == {"train": 1, "heldout": 0}
    part = store.split("train")[0:1]
    assert part.tokens.tolist() == [[10 * int(part.document[0, 0]) + i for i in range(10)]]


def test_equal_rows_stay_but_in_one_split(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 2, (200, 3))
    store, summary = make(tmp_path, array, heldout_fraction=0.3)
    rows = [{tuple(row) for row in store.split(name)[0:1000].tokens.tolist()} for name in SPLITS]
    assert summary.duplicates_kept == 200 - 8
    assert len(rows[0]) + len(rows[1]) == 8
    assert not rows[0] & rows[1]
    assert sum(summary.n_contexts.values()) == 200


def test_rows_that_begin_with_bos(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 7, (20, 4))
    array[:, 0] = 7
    store, summary = make(tmp_path, array, bos=True)
    part = store.split("train")[0:100]
    assert store.bos == 7
    assert (part.document[:, 0] == -1).all()
    assert (part.document[:, 1:] >= 0).all()
    assert summary.n_tokens["train"] == {"ids": 17 * 3}


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (30, 4))
    stores = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        stores.append(make(tmp_path / name, array, seed=5)[0])
    assert stores[0].run.files == stores[1].run.files


GOOD = np.arange(40).reshape(10, 4)


@pytest.mark.parametrize(
    ("array", "values", "message"),
    [
        (GOOD / 2, {}, r"float64 \[10, 4\]; token ids must be integers"),
        (GOOD > 2, {}, r"bool \[10, 4\]"),
        (GOOD.reshape(10, 2, 2), {}, r"int64 \[10, 2, 2\]"),
        (GOOD - 1, {}, "holds the id -1"),
        (GOOD, {"n_vocab": 39}, "holds the id 39, tokens.n_vocab is 39"),
        (np.where(GOOD, GOOD, -100).astype(np.uint32), {}, r"id 4294967196 \(.* may have been -100\): .* below 1,048,576"),
        (np.where(GOOD, GOOD, -1).astype(">u8"), {}, r"id 18446744073709551615 \(.* may have been -1\)"),
        (np.where(GOOD, GOOD, -100).astype(np.uint16), {"n_vocab": 50}, r"id 65436 \(.* been -100\), tokens.n_vocab is 50"),
        (np.where(GOOD, GOOD, 10**9), {}, r"id 1000000000: with tokens.n_vocab null ids must be below 1,048,576"),
        (GOOD, {"bos": True}, "rows begin with different ids"),
        (GOOD[:1], {}, "makes 1 contexts of 4"),
        (GOOD[:, :1], {}, "makes 10 contexts of 1"),
        (GOOD[0], {"context_length": 3}, "makes 1 contexts of 3"),
        (GOOD[:0], {}, "makes 0 contexts"),
        (GOOD * 0, {}, "all 10 rows .* are equal"),
        (np.array([{"a": 1}], dtype=object), {}, r"is no .npy array"),
    ],
)
def test_an_array_that_cannot_do_is_refused(tmp_path: Path, array: np.ndarray, values: dict[str, object], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        make(tmp_path, array, **values)
    assert not (tmp_path / "tokens").exists()


def test_a_file_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        contexts_of_ids(TokensConfig(source="ids", path=str(tmp_path / "none.npy")), tmp_path)
    with pytest.raises(ConfigError, match=r"one-dimensional and tokens.bos is true"):
        make(tmp_path, GOOD[0], bos=True)
    config = TokensConfig(source="ids", path=str(tmp_path / "x"))
    for content in (b"", b"0 1 2 3\n"):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(CorpusError, match=r"is no .npy array"):
            contexts_of_ids(config, tmp_path)
    with pytest.raises(ConfigError, match="is a folder"):
        contexts_of_ids(TokensConfig(source="ids", path=str(tmp_path)), tmp_path)
    np.savez(tmp_path / "ids.npz", GOOD)
    with pytest.raises(CorpusError, match="an archive of arrays"):
        contexts_of_ids(TokensConfig(source="ids", path=str(tmp_path / "ids.npz")), tmp_path)


def test_a_vocabulary_has_a_limit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at most 1,048,576, not 2147483648"):
        TokensConfig(source="ids", path="x.npy", n_vocab=2**31)


def test_an_array_that_claims_more_rows_than_its_file_has_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", GOOD)
    content = (tmp_path / "ids.npy").read_bytes()
    claimed = content.replace(b"(10, 4), }            ", b"(1000000000000000, 4)}")
    assert claimed != content
    (tmp_path / "ids.npy").write_bytes(claimed)
    with pytest.raises(CorpusError, match=r"is no .npy array"):
        contexts_of_ids(TokensConfig(source="ids", path=str(tmp_path / "ids.npy")), tmp_path)
