"""Text to token ids and back: a byte-level BPE trained here, or a pretrained transformer's own tokenizer.

Either way it is kept as a folder that `transformers.AutoTokenizer` reads (transformer_lens wants one to reload from) and
that the `tokenizers` package alone reads too (`read_tokenizer`), which is 0.05 s to import instead of 2 s.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sae.errors import ConfigError, StoreError, needs, raise_if_of_disk
from sae.paths import given
from sae.source.hub import snapshot

with needs("pipeline"):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
"""Of a tokenizer trained here: id 0, both BOS and the separator that ends each document."""
SMALLEST_VOCABULARY = 257
"""Every byte and END_OF_TEXT."""
TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "config.json")
"""All that is fetched of a hub repository: no weights."""
CHARACTERS_AT_ONCE = 1_000_000
"""An `Encoding` holds each token's text and offsets beside its id, some 100 bytes a token: 1e6 characters are 30 to 100 MB."""


class TextTokenizer(NamedTuple):
    """A tokenizer and what its special tokens are."""

    backend: Tokenizer
    bos: int
    """Id that begins a context; the separator where a pretrained tokenizer has no BOS."""
    separator: int
    """Id put after each document."""
    vocabulary: list[bytes]
    """Each id's bytes; empty for an id that no token has."""
    config: dict[str, Any]
    """Content of tokenizer_config.json."""
    origin: str
    """`train`, or where a pretrained one came from."""

    def encode(self, texts: Iterable[str]) -> Iterator[list[int]]:
        """Ids of each text, without BOS or separator. Text is data: a special token's name in it becomes ordinary tokens."""
        as_data(self.backend)
        for batch in _batches(texts):
            for encoding in self.backend.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def save(self, folder: Path) -> None:
        """Write a folder for AutoTokenizer, with nothing in it that depends on where it lies."""
        folder.mkdir(parents=True)
        self.backend.encode_special_tokens = False
        (folder / "tokenizer.json").write_text(self.backend.to_str(pretty=True), encoding="utf-8")
        text = json.dumps(self.config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def train_tokenizer(texts: Iterable[str], n_vocab: int) -> TextTokenizer:
    """Byte-level BPE with GPT-2's pre-tokenization and at most `n_vocab` ids (fewer where the text has too few pairs).

    All 256 bytes are in it, so that every text can be encoded: the paper's features for halves of characters need that
    (Towards Monosemanticity, "Arabic Script Feature"). The same texts in any order give the same tokenizer.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
    end = 0  # special tokens come first
    return TextTokenizer(backend, end, end, vocabulary_bytes(backend), config, "train")


def read_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of a token store's `tokenizer_path`, to encode text as data: `.encode(text, add_special_tokens=False).ids`.

    Raises `StoreError` where the folder has no readable tokenizer.json.
    """
    path = given(folder) / "tokenizer.json"
    try:
        backend = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the package raises plain Exception
        raise_if_of_disk(error, f"reading {path}")
        raise StoreError(f"{path} is no readable tokenizer ({error}); make it again: dvc repro tokens") from None
    return as_data(backend)


def as_data(backend: Tokenizer) -> Tokenizer:
    """Switch off all that would make more or less of a text than its own tokens: special names, truncation, padding.

    (The installed corpus does hold `<|endoftext|>` in its text: without this it would be read as the end of a document.)
    """
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    return backend


def pretrained_tokenizer(name: str, revision: str | None) -> TextTokenizer:
    """The tokenizer of the folder `name`, or, where a `revision` is given, of the hub's repository `name` at it.

    With a revision the disk is never looked at: a folder that is called as the repository is another tokenizer.
    Raises `ConfigError` where there is none or it can't be used, `UnavailableError` where the hub can't be reached.
    """
    folder, origin = given(name), name
    if revision or not folder.is_dir():
        if name.count("/") != 1 or folder.is_absolute():
            if revision and folder.is_dir():
                raise ConfigError(f"tokens.tokenizer = {name!r} is a folder: leave tokens.tokenizer_revision empty")
            raise ConfigError(
                f"tokens.tokenizer = {name!r} is neither 'train', nor a folder here, nor a hub repository 'owner/name'"
            )
        if not revision:
            raise ConfigError(f"tokens.tokenizer = {name!r} is on the hub: pin it, tokens.tokenizer_revision = a commit's hash")
        folder = snapshot(name, revision, patterns=TOKENIZER_FILES, needed=("tokenizer*",))
        origin = f"{name}@{folder.name}"
    # transformers takes 2 s to import, and nothing but a pretrained tokenizer needs it: kept out of the default path.
    with needs("pipeline"):
        from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        backend = loaded.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise_if_of_disk(error, f"reading the tokenizer {name!r}")
        raise ConfigError(f"tokens.tokenizer = {name!r} holds no tokenizer that can be read: {error}") from None
    separator = loaded.eos_token_id if loaded.eos_token_id is not None else loaded.bos_token_id
    if separator is None:
        raise ConfigError(f"tokens.tokenizer = {name!r} has neither an end-of-text nor a BOS token to separate documents with")
    bos = loaded.bos_token_id if loaded.bos_token_id is not None else separator
    special = {key: str(value) for key, value in sorted(loaded.special_tokens_map.items()) if isinstance(value, str)}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    return TextTokenizer(backend, bos, separator, vocabulary_bytes(backend), config, origin)


def vocabulary_bytes(backend: Tokenizer) -> list[bytes]:
    """The bytes that each id stands for.

    Byte-level tokens go through GPT-2's table of byte <-> character; SentencePiece's `▁` is a space and `<0x0A>` a byte;
    added (special) tokens are their own text.
    """
    added = {i: token.content for i, token in backend.get_added_tokens_decoder().items()}
    byte_level = "ByteLevel" in json.dumps([json.loads(backend.to_str()).get(part) for part in ("pre_tokenizer", "decoder")])
    table = {character: bytes([byte]) for byte, character in byte_characters().items()}
    tokens = backend.get_vocab(with_added_tokens=True)
    vocabulary = [b""] * (max(tokens.values()) + 1)
    for token, i in tokens.items():
        if i in added:
            vocabulary[i] = added[i].encode()
        elif byte_level:
            vocabulary[i] = b"".join(table.get(character, character.encode()) for character in token)
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            vocabulary[i] = bytes.fromhex(token[3:5])
        else:
            vocabulary[i] = token.replace("▁", " ").encode()
    return vocabulary


def byte_characters() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where printable in Latin-1, else the next of U+0100, U+0101 ..."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def _batches(texts: Iterable[str]) -> Iterator[Sequence[str]]:
    """Lists of whole texts with about CHARACTERS_AT_ONCE characters."""
    batch: list[str] = []
    n_characters = 0
    for text in texts:
        batch.append(text)
        n_characters += len(text)
        if n_characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch
