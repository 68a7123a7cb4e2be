"""An array of token ids in, contexts out: for transformers over symbols, where there is neither text nor tokenizer."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sae.errors import ConfigError, CorpusError, raise_if_of_disk
from sae.paths import given
from sae.provenance import sha256_file
from sae.shapes import TokenArray
from sae.source.contexts import LARGEST_VOCABULARY, Summary, TokensConfig, n_heldout
from sae.source.counting import Counting
from sae.storage.tokens import CHUNK_CONTEXTS, NO_DOCUMENT, SPLITS, Blocks, write_tokens

KIND = "ids"


def contexts_of_ids(config: TokensConfig, folder: Path) -> Summary:
    """Fill `folder`, the draft of a token store, with the rows of the array at `config.path`: each is a context and a document.

    The file is mapped, not read, so memory holds one block of contexts and 24 bytes a row.
    Raises `ConfigError` where the file is missing or does not fit the params, `CorpusError` for an array of the wrong kind.
    """
    rows, remainder = _rows(config)
    largest = _largest(rows, config)
    n_vocab = largest + 1 if config.n_vocab is None else config.n_vocab
    bos = _checked_bos(rows) if config.bos else None
    counting = Counting.of(config, rows, remainder)
    n_repeated, splits = _split(rows, config)
    n_counted = None if counting is None else {name: _n_counted(rows, order, counting) for name, order in splits.items()}
    _check_counted(n_counted, config)
    blocks = {
        name: Blocks(n_contexts=len(order), context_length=rows.shape[1], blocks=_blocks(rows, order, bos, counting))
        for name, order in splits.items()
    }
    vocabulary = [f" {i}".encode() for i in range(n_vocab)]
    kinds = np.zeros(len(rows), np.int16)
    write_tokens(folder, blocks, kinds, (KIND,), vocabulary, bos, masked=counting is not None)
    width = rows.shape[1] - (bos is not None)
    return Summary(
        n_vocab=n_vocab,
        context_length=rows.shape[1],
        n_contexts={name: len(order) for name, order in splits.items()},
        n_documents={name: {KIND: len(order)} for name, order in splits.items()},
        n_tokens={name: {KIND: len(order) * width} for name, order in splits.items()},
        duplicates_kept=n_repeated,
        remainder_dropped={"train": remainder, "heldout": 0},
        largest_id=largest,
        ids_sha256=sha256_file(given(config.path)),
        n_counted=n_counted,
        mask_sha256=sha256_file(given(config.predicted_mask)) if config.predicted_mask else None,
    )


def _rows(config: TokensConfig) -> tuple[TokenArray, int]:
    """The array as rows, mapped into memory; and how many ids at its end fill no row."""
    path = given(config.path)
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ConfigError(f"tokens.path = {config.path!r}: no such file here; give an .npy file of token ids") from None
    except IsADirectoryError:
        raise ConfigError(f"tokens.path = {config.path!r} is a folder; give the .npy file in it") from None
    except (OSError, ValueError, TypeError, OverflowError, EOFError, RecursionError, MemoryError) as error:
        raise_if_of_disk(error, f"reading {path}")
        raise CorpusError(f"{path} is no .npy array ({error}); write it with numpy.save") from None
    if not isinstance(ids, np.ndarray) or not np.issubdtype(ids.dtype, np.integer) or ids.ndim not in (1, 2):
        found = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, np.ndarray) else "an archive of arrays"
        raise CorpusError(f"{path} holds {found}; token ids must be integers [context, position] or [position]")
    remainder = 0
    if ids.ndim == 1:
        if config.bos:
            raise ConfigError(
                f"{path} is one-dimensional and tokens.bos is true: give rows that begin with BOS, or set it to false"
            )
        remainder = len(ids) % config.context_length
        ids = ids[: len(ids) - remainder].reshape(-1, config.context_length)
    if len(ids) < 2 or ids.shape[1] < 2:
        raise CorpusError(
            f"{path} makes {len(ids)} contexts of {ids.shape[1]} ids; one to train on and one to hold out, of 2 ids, is the least"
        )
    return ids, remainder


def _largest(rows: TokenArray, config: TokensConfig) -> int:
    """The largest id. Raises `CorpusError` for one that is no place in a vocabulary."""
    lowest, highest = 0, 0
    for start in range(0, len(rows), CHUNK_CONTEXTS):
        part = rows[start : start + CHUNK_CONTEXTS]
        lowest = min(lowest, int(part.min()))
        highest = max(highest, int(part.max()))
    if lowest < 0:
        raise CorpusError(f"{config.path} holds the id {lowest}; token ids must not be negative")
    limit = LARGEST_VOCABULARY if config.n_vocab is None else config.n_vocab
    if highest < limit:
        return highest
    # What marks "no token" elsewhere (-100 for torch's loss, -1) is a huge number in an unsigned array.
    signed = int(np.array(highest, rows.dtype).astype(rows.dtype.newbyteorder("=").str.replace("u", "i")))
    meant = f" (stored without a sign; it may have been {signed})" if signed < 0 else ""
    if config.n_vocab is None:
        raise CorpusError(
            f"{config.path} holds the id {highest}{meant}: with tokens.n_vocab null ids must be below "
            f"{LARGEST_VOCABULARY:,}, the largest vocabulary; number the symbols from 0 without gaps"
        )
    raise CorpusError(
        f"{config.path} holds the id {highest}{meant}, tokens.n_vocab is {config.n_vocab}: every id must be below it (or null)"
    )


def _checked_bos(rows: TokenArray) -> int:
    first = rows[:, 0]
    if (first != first[0]).any():
        raise CorpusError(
            f"tokens.bos is true, but rows begin with different ids ({first.min()} to {first.max()}): set it to false"
        )
    return int(first[0])


def _split(rows: TokenArray, config: TokensConfig) -> tuple[int, dict[str, np.ndarray]]:
    """How many rows repeat an earlier one; and the rows of each split in a seeded order. Equal rows are in one split."""
    seed = str(config.seed).encode()
    keys = np.empty(len(rows), np.uint64)
    for i, row in enumerate(rows):
        keys[i] = int.from_bytes(hashlib.blake2b(row.astype("<i8").tobytes(), key=seed, digest_size=8).digest(), "big")
    distinct, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    n = n_heldout(sizes, config.heldout_fraction)
    if n == 0:
        raise CorpusError(f"all {len(rows)} rows of {config.path} are equal: there is nothing to hold out")
    order = np.random.default_rng(config.seed).permutation(len(rows))
    held_out = group[order] < n
    return len(rows) - len(distinct), dict(zip(SPLITS, (order[~held_out], order[held_out]), strict=True))


def _blocks(rows: TokenArray, order: np.ndarray, bos: int | None, counting: Counting | None) -> Iterator[tuple[np.ndarray, ...]]:
    for start in range(0, len(order), CHUNK_CONTEXTS):
        here = order[start : start + CHUNK_CONTEXTS]
        tokens = np.asarray(rows[here])
        document = np.repeat(here.astype(np.int32)[:, None], rows.shape[1], axis=1)
        if bos is not None:
            document[:, 0] = NO_DOCUMENT
        yield (tokens, document) if counting is None else (tokens, document, counting.counts(tokens, here))


def _n_counted(rows: TokenArray, order: np.ndarray, counting: Counting) -> int:
    """Positions that count in the contexts `order`."""
    parts = [order[start : start + CHUNK_CONTEXTS] for start in range(0, len(order), CHUNK_CONTEXTS)]
    return sum(int(counting.counts(np.asarray(rows[part]), part).sum()) for part in parts)


def _check_counted(n_counted: dict[str, int] | None, config: TokensConfig) -> None:
    for name, n in (n_counted or {}).items():
        if n == 0:
            raise CorpusError(
                f"no prediction of the {name} split of {config.path} counts: look at tokens.pad ({config.pad}), "
                f"tokens.predicted ({config.predicted}) and tokens.predicted_mask ({config.predicted_mask!r})"
            )
