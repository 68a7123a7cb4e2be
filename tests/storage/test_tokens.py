"""The token store: what is written is read back, and nothing else opens."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sae import artefact
from sae.errors import StoreError
from sae.provenance import Run, sha256_file
from sae.storage import tokens as module
from sae.storage.tokens import Blocks, TokenStore, to_tensor, token_dtype, write_tokens

VOCABULARY = [b"<|endoftext|>", b"a", b" b", "é".encode()[:1], "é".encode()[1:]]
KINDS = ("english", "hebrew")
DOCUMENT_KIND = np.array([1, 0, 1])


def splits(n_train: int = 20, n_heldout: int = 3) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    found = {}
    for name, n in (("train", n_train), ("heldout", n_heldout)):
        tokens, document = rng.integers(1, 5, (n, 4)), rng.integers(0, 3, (n, 4))
        tokens[:, 0], document[:, 0] = 0, -1
        found[name] = (tokens, document)
    return found


def write(path: Path, **values: object) -> TokenStore:
    given = {"splits": splits(), "vocabulary": VOCABULARY, "bos": 0, **values}
    with artefact.writing(path, Run(kind="tokens", code="test")) as draft:
        write_tokens(draft.path, document_kind=DOCUMENT_KIND, kinds=KINDS, **given)  # type: ignore[arg-type]
    return TokenStore.open(path)


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return write(tmp_path / "tokens")


def test_contexts_read_back_with_document_and_kind(store: TokenStore) -> None:
    for name, (tokens, document) in splits().items():
        part = store.split(name)[0:100]
        assert part.tokens.tolist() == tokens.tolist()
        assert part.document.tolist() == document.tolist()
        slow = [[-1 if d < 0 else int(DOCUMENT_KIND[d]) for d in row] for row in document]
        assert part.kind.tolist() == slow
        assert (part.tokens.dtype, part.document.dtype, part.kind.dtype) == (np.uint16, np.int32, np.int16)
    split = store.split("train")
    assert (split.n_contexts, split.context_length, split.n_tokens) == (20, 4, 80)
    assert (store.n_vocab, store.context_length, store.bos, store.kinds) == (5, 4, 0, KINDS)
    assert store.tokenizer_path is None
    assert split[5:7].tokens.tolist() == splits()["train"][0][5:7].tolist()


@pytest.mark.parametrize(("size", "limit"), [(1, None), (3, None), (7, 11), (100, 5), (5, 1000), (4, 0)])
def test_batches_are_the_contexts_in_order(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch, size: int, limit: int | None
) -> None:
    monkeypatch.setattr(module, "CHUNK_CONTEXTS", 8)  # less than the split: blocks end within it
    batches = list(store.split("train").batches(size, limit=limit))
    expected = splits()["train"][0][:limit].tolist()
    assert [row for batch in batches for row in batch.tokens.tolist()] == expected
    assert all(0 < len(batch.tokens) <= size for batch in batches)


def test_blocks_give_the_same_bytes_as_arrays(store: TokenStore, tmp_path: Path) -> None:
    blocks = {
        name: Blocks(
            n_contexts=len(tokens),
            context_length=4,
            blocks=[(tokens[i : i + 2], document[i : i + 2]) for i in range(0, len(tokens), 2)],
        )
        for name, (tokens, document) in splits().items()
    }
    assert write(tmp_path / "blockwise", splits=blocks).run.files == store.run.files


def test_ids_of_a_large_vocabulary_take_four_bytes(tmp_path: Path) -> None:
    assert token_dtype(2**16) == np.uint16
    assert token_dtype(2**16 + 1) == np.uint32
    large = {name: (tokens + 65_530, document) for name, (tokens, document) in splits().items()}
    store = write(tmp_path / "tokens", splits=large, vocabulary=[b"x"] * 70_000, bos=None)
    assert store.split("train")[0:20].tokens.tolist() == large["train"][0].tolist()
    assert store.split("train")[0:20].tokens.max() > 65_530
    assert store.bos is None


def test_text_joins_bytes_so_that_halves_of_a_character_meet(store: TokenStore) -> None:
    assert store.text([1, 2, 3, 4]) == "a bé"
    assert store.text(np.array([3, 1])) == "\ufffda"
    assert store.text([0]) == "<|endoftext|>"


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_to_tensor(dtype: type) -> None:
    ids = np.array([[0, 65_535], [7, 1]], dtype=dtype)
    assert to_tensor(ids).dtype == torch.int64
    assert to_tensor(ids).tolist() == ids.tolist()
    assert to_tensor(ids[:, ::-1]).tolist() == ids[:, ::-1].tolist()


def test_an_unknown_split_is_an_error(store: TokenStore) -> None:
    with pytest.raises(StoreError, match=r"no split 'test'.*train, heldout"):
        store.split("test")


def files(path: Path) -> list[str]:
    return sorted(json.loads((path / "run.json").read_text())["files"])


def test_every_flipped_byte_and_every_missing_or_empty_file_is_refused(store: TokenStore) -> None:
    names = files(store.path)
    assert {"vocabulary.json", "tokens.zarr/train/tokens/c/0/0", "tokens.zarr/zarr.json"} < set(names)
    for name in names:
        file = store.path / name
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        for damaged in (bytes(flipped), content[:-1], b"", None):
            file.unlink()
            if damaged is not None:
                file.write_bytes(damaged)
            with pytest.raises(StoreError, match=r"damaged|missing"):
                TokenStore.open(store.path)
            file.write_bytes(content)
    TokenStore.open(store.path)


def test_what_is_no_token_store_is_refused(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no tokens at .*; make it with: dvc repro tokens"):
        TokenStore.open(tmp_path / "nowhere")
    with artefact.writing(tmp_path / "other", Run(kind="corpus")):
        pass
    with pytest.raises(StoreError, match="is a corpus, not a tokens"):
        TokenStore.open(tmp_path / "other")
    (store.path / "run.json").unlink()
    with pytest.raises(StoreError, match="unfinished or foreign"):
        TokenStore.open(store.path)


@pytest.mark.parametrize("name", ["document_kind", "train/tokens"])
@pytest.mark.parametrize(("chunk_rows", "message"), [(None, r"claims the shape \[1000000"), (10**15, "bytes of numbers")])
def test_a_store_that_claims_more_than_its_files_hold_ends_at_once(
    store: TokenStore, name: str, chunk_rows: int | None, message: str
) -> None:
    """In one file or in many: nothing of that size is made before it is told."""
    described = f"tokens.zarr/{name}/zarr.json"
    content = json.loads((store.path / described).read_text())
    content["shape"][0] = 10**15
    if chunk_rows:
        content["chunk_grid"]["configuration"]["chunk_shape"][0] = chunk_rows
    (store.path / described).write_text(json.dumps(content))
    files = {**store.run.files, described: sha256_file(store.path / described)}
    (store.path / "run.json").write_text(dataclasses.replace(store.run, files=files).to_json())
    with pytest.raises(StoreError, match=message):
        TokenStore.open(store.path)
