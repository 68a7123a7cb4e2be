"""The user's own text: globs of txt, jsonl, jsonl.zst, parquet."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import zstandard

from sae.errors import ConfigError, CorpusError, needs
from sae.source.corpus_document import Document
from sae.source.globbing import files_of

with needs("pipeline"):
    import pyarrow
    import pyarrow.parquet

_WILD = ("*", "?", "[")


def read_files(globs: list[str], text_field: str) -> Iterator[Document]:
    """The documents of all files that match, sorted by path within a glob; blank ones are left out.

    A txt file is one document; in the other formats each record is one. Its kind is the record's field `kind`, else the
    file's suffix. Raises `ConfigError` for a glob without a match and an unknown suffix, `CorpusError` for content.
    """
    seen: set[str] = set()
    for pattern in globs:
        matches = matching(pattern)
        if not matches:
            raise ConfigError(
                f"corpus.files: nothing matches '{pattern}' (from {Path.cwd()}); mend the glob or put the files there"
            )
        root = _literal_folder(pattern)
        for path in matches:
            if os.path.realpath(path) not in seen:
                seen.add(os.path.realpath(path))
                yield from _read(Path(path), os.path.relpath(path, root), text_field)


def matching(pattern: str) -> list[str]:
    """The files that a glob of `corpus.files` names, sorted by path."""
    return files_of(os.path.expanduser(pattern))


def to_document(record: Mapping[str, Any], text_field: str, source: str, kind: str, advice: str) -> Document | None:
    """A record's text, with its own `kind` if it has one; None where the text is null or blank."""
    if text_field not in record:
        raise CorpusError(f"{source} has no field '{text_field}' (it has: {', '.join(map(str, record)) or 'none'}); {advice}")
    text = record[text_field]
    if text is None or (isinstance(text, str) and not text.strip()):
        return None
    if not isinstance(text, str):
        raise CorpusError(f"{source}: field '{text_field}' holds {type(text).__name__}, not text; {advice}")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:  # JSON may hold half a surrogate pair, "\\ud83d"
            raise CorpusError(
                f"{source}: character {error.start} is half of a surrogate pair, no text; mend the record"
            ) from None
    return Document(text, str(record.get("kind") or kind), source)


def _literal_folder(pattern: str) -> str:
    """The part of a glob before its first wildcard: sources are named relative to it, so that no machine's path is kept."""
    parts = Path(os.path.expanduser(pattern)).parts
    literal = next((i for i, part in enumerate(parts) if any(sign in part for sign in _WILD)), len(parts) - 1)
    return os.path.join(*parts[:literal]) if literal else "."


def _read(path: Path, source: str, text_field: str) -> Iterator[Document]:
    readers: dict[str, Callable[[Path, str, str], Iterator[Document]]] = {
        ".jsonl.zst": _jsonl_zst,
        ".jsonl": _jsonl,
        ".parquet": _parquet,
        ".txt": _txt,
    }
    for suffix, reader in readers.items():
        if path.name.endswith(suffix):
            yield from reader(path, source, text_field)
            return
    raise ConfigError(f"corpus.files: {path} is none of {', '.join(sorted(readers))}; rename or convert it, or narrow the glob")


def _decode(raw: bytes, path: Path, offset: int) -> str:
    """`raw`, which begins at byte `offset` of the (unpacked) file, as text."""
    try:
        return raw.decode().removeprefix("\ufeff") if offset == 0 else raw.decode()
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {offset + error.start} ({error.reason}); "
            "convert it (iconv -f <its encoding> -t UTF-8) or take it out of corpus.files"
        ) from None


def _txt(path: Path, source: str, _text_field: str) -> Iterator[Document]:
    text = _decode(path.read_bytes(), path, 0)
    if text.strip():
        yield Document(text, "txt", source)


def _jsonl(path: Path, source: str, text_field: str) -> Iterator[Document]:
    with open(path, "rb") as file:
        yield from _lines(file.read, path, source, text_field)


def _jsonl_zst(path: Path, source: str, text_field: str) -> Iterator[Document]:
    try:
        with open(path, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as unpacked:
            yield from _lines(unpacked.read, path, source, text_field)
    except zstandard.ZstdError as error:
        raise CorpusError(f"{path} is no whole zstd file ({error}); fetch it again or take it out of corpus.files") from None


def _lines(read: Callable[[int], bytes], path: Path, source: str, text_field: str) -> Iterator[Document]:
    offset = 0
    for number, raw in enumerate(_split(read), start=1):
        line = _decode(raw, path, offset)
        offset += len(raw)
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(
                f"{path}, line {number} is no JSON ({error}); mend it or take the file out of corpus.files"
            ) from None
        if not isinstance(record, dict):
            raise CorpusError(f"{path}, line {number} is not a JSON object but {type(record).__name__}; mend it")
        document = to_document(record, text_field, f"{source}:{number}", "jsonl", "set corpus.text_field")
        if document:
            yield document


def _split(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Lines with their ends (zstd's reader gives none itself)."""
    rest = b""
    while block := read(1 << 20):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _parquet(path: Path, source: str, text_field: str) -> Iterator[Document]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in (text_field, "kind")]
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=columns if text_field in columns else None):
                for record in batch.to_pylist():
                    number += 1
                    document = to_document(record, text_field, f"{source}:{number}", "parquet", "set corpus.text_field")
                    if document:
                        yield document
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{path} is no whole parquet file ({error}); fetch it again or take it out of corpus.files") from None
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}, column '{text_field}', row {number + 1} or later is not UTF-8 ({error}); write it again"
        ) from None
