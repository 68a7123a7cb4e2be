"""The tokenizer: trained, pretrained from a folder or a hub cache laid out by hand, and each id's bytes."""

import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sae.errors import ConfigError, StoreError, UnavailableError
from sae.source.tokenizer import (
    END_OF_TEXT,
    TextTokenizer,
    byte_characters,
    pretrained_tokenizer,
    read_tokenizer,
    train_tokenizer,
    vocabulary_bytes,
)

TEXTS = ["def f(x):\n    return x\n", "the cat sat on the mat, the cat ran", "שלום שלום", "日本語 🙂", "a\x00\t\x7f\xa0é"] * 3
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def trained() -> TextTokenizer:
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def folder(trained: TextTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    trained.save(path)
    return path


def test_the_bytes_of_the_ids_are_the_bytes_of_the_text(trained: TextTokenizer) -> None:
    everything = [*TEXTS, "".join(map(chr, range(0x300))), "unseen: ሰላም สวัสดี \U0001f980"]
    for text, ids in zip(everything, trained.encode(everything), strict=True):
        assert b"".join(trained.vocabulary[i] for i in ids) == text.encode()
    assert len(trained.vocabulary) == 300
    assert len(set(trained.vocabulary)) == 300
    assert {bytes([byte]) for byte in range(256)} < set(trained.vocabulary)
    assert trained.vocabulary[0] == END_OF_TEXT.encode()
    assert trained.bos == trained.separator == 0


def test_the_table_of_bytes_is_gpt2s() -> None:
    assert byte_characters() == bytes_to_unicode()


def test_training_does_not_depend_on_the_order_of_texts(trained: TextTokenizer) -> None:
    shuffled = random.Random(1).sample(TEXTS, len(TEXTS))
    assert train_tokenizer(shuffled, 300).backend.to_str() == trained.backend.to_str()


def test_special_names_truncation_and_padding_do_not_touch_a_text(trained: TextTokenizer) -> None:
    trained.backend.enable_truncation(2)
    trained.backend.enable_padding(length=50)
    (ids,) = trained.encode([f"x{END_OF_TEXT}y"])
    assert 0 not in ids
    assert b"".join(trained.vocabulary[i] for i in ids) == f"x{END_OF_TEXT}y".encode()


def test_many_texts_are_encoded_in_batches_in_their_order(trained: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(trained.encode(TEXTS))
    monkeypatch.setattr("sae.source.tokenizer.CHARACTERS_AT_ONCE", 40)
    assert list(trained.encode(iter(TEXTS))) == whole
    assert list(trained.encode([])) == []


def test_the_folder_is_read_by_transformers_and_by_tokenizers_alike(trained: TextTokenizer, folder: Path) -> None:
    with_bos = AutoTokenizer.from_pretrained(str(folder), add_bos_token=True)  # as transformer_lens reads it
    plain, ours = AutoTokenizer.from_pretrained(str(folder)), read_tokenizer(folder)
    assert with_bos.bos_token_id == with_bos.eos_token_id == 0
    assert len(plain) == 300
    for text, ids in zip(TEXTS, trained.encode(TEXTS), strict=True):
        assert ours.encode(text, add_special_tokens=False).ids == ids
        assert plain.encode(text, add_special_tokens=False) == ids
        assert with_bos.encode(text) == [0, *ids]
        assert plain.decode(ids) == text
    assert str(folder.parent) not in "".join(file.read_text() for file in folder.iterdir())


def test_a_pretrained_tokenizer_from_a_folder(trained: TextTokenizer, folder: Path) -> None:
    again = pretrained_tokenizer(str(folder), None)
    assert again.vocabulary == trained.vocabulary
    assert (again.bos, again.separator) == (0, 0)
    assert list(again.encode(TEXTS)) == list(trained.encode(TEXTS))


def test_a_pretrained_tokenizer_from_a_filled_hub_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: TextTokenizer
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file in folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    for revision in (COMMIT, "main"):
        found = pretrained_tokenizer("owner/name", revision)
        assert found.origin == f"owner/name@{COMMIT}"
        assert found.vocabulary == trained.vocabulary
    with pytest.raises(UnavailableError, match="owner/other"):
        pretrained_tokenizer("owner/other", COMMIT)


@pytest.mark.parametrize(
    ("name", "message"),
    [("owner/name", "pin it"), ("nowhere", "neither 'train', nor a folder"), ("/no/such/folder", "neither 'train'")],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrained_tokenizer(name, None)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no tokenizer that can be read"):
        pretrained_tokenizer(str(tmp_path), None)
    with pytest.raises(StoreError, match="no readable tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(StoreError, match="no readable tokenizer"):
        read_tokenizer(tmp_path)


def test_bos_and_separator_of_a_pretrained_tokenizer(trained: TextTokenizer, tmp_path: Path) -> None:
    """The separator is the end of text where there is one, else BOS; BOS is the separator where there is none."""
    backend = Tokenizer.from_str(trained.backend.to_str())
    backend.add_special_tokens(["<begin>", "<end>"])
    begin, end = backend.token_to_id("<begin>"), backend.token_to_id("<end>")
    cases = [
        ({"bos_token": "<begin>", "eos_token": "<end>"}, (begin, end)),
        ({"bos_token": "<begin>"}, (begin, begin)),
        ({"eos_token": "<end>"}, (end, end)),
    ]
    for i, (special, expected) in enumerate(cases):
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
        trained._replace(backend=backend, config=config).save(tmp_path / str(i))
        found = pretrained_tokenizer(str(tmp_path / str(i)), None)
        assert (found.bos, found.separator) == expected
        assert found.vocabulary[begin] == b"<begin>"
        found.save(tmp_path / f"again{i}")
        again = pretrained_tokenizer(str(tmp_path / f"again{i}"), None)
        assert (again.bos, again.separator, again.config) == (*expected, found.config)
    trained._replace(backend=backend, config={"tokenizer_class": "PreTrainedTokenizerFast"}).save(tmp_path / "none")
    with pytest.raises(ConfigError, match="neither an end-of-text nor a BOS"):
        pretrained_tokenizer(str(tmp_path / "none"), None)


def test_bytes_of_a_sentencepiece_vocabulary() -> None:
    vocabulary = {"<unk>": 0, "▁the": 1, "<0x0A>": 2, "é": 3, "▁": 4, "<0xZZ": 5}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken("<s>▁", special=True)])
    assert vocabulary_bytes(backend) == [b"<unk>", b" the", b"\n", "é".encode(), b" ", b"<0xZZ", "<s>▁".encode()]


def test_with_a_revision_a_folder_of_the_repositorys_name_is_not_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(folder)
    assert pretrained_tokenizer("owner/name", None).origin == "owner/name"
    with pytest.raises(UnavailableError, match="owner/name"):
        pretrained_tokenizer("owner/name", COMMIT)
    with pytest.raises(ConfigError, match=r"leave tokens\.tokenizer_revision empty"):
        pretrained_tokenizer(str(folder), COMMIT)
