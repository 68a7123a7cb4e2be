"""The user's own text: globs of txt, jsonl, jsonl.zst, parquet.

Nothing of a file is held but the record at hand, so files may be of any size. What would not end (a small file that unpacks to
gigabytes, a line without an end) stops at a limit that the error names.
"""

import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import zstandard

from sae.errors import ConfigError, CorpusError, needs
from sae.source.corpus_bytes import BLOCK, check_unpacked, decoded, in_blocks, in_lines, not_utf8, shown, unpacked
from sae.source.corpus_document import LONGEST, PART, Document, in_parts, parts
from sae.source.globbing import files_of

with needs("pipeline"):
    import pyarrow
    import pyarrow.parquet

_WILD = ("*", "?", "[")
ROWS_AT_ONCE = 32
BYTES_AT_ONCE = 16_000_000
"""Of a parquet file at most. So few rows, because of one long text that all of them repeat the file holds one copy."""


def read_files(globs: list[str], text_field: str) -> Iterator[Document]:
    """The documents of all files that match, sorted by path within a glob; blank ones are left out.

    A txt file is one document; in the other formats each record is one. One longer than `LONGEST` comes in parts. Its kind is
    the record's field `kind`, else the file's suffix. Raises `ConfigError` for a glob without a match and an unknown suffix,
    `CorpusError` for content.
    """
    seen: set[str] = set()
    for pattern in globs:
        root, matches = _matches(pattern)
        for path in matches:
            if os.path.realpath(path) not in seen:
                seen.add(os.path.realpath(path))
                yield from _read(Path(path), shown(os.path.relpath(path, root)), text_field)


def to_document(record: Mapping[str, Any], text_field: str, source: str, kind: str, advice: str) -> Document | None:
    """A record's text, with its own `kind` if it has one; None where the text is null or blank.

    `text_field` may name a field within a field, as in `message.text`."""
    text = _field(record, text_field, source, advice)
    if text is None or (isinstance(text, str) and not text.strip()):
        return None
    if not isinstance(text, str):
        within = f"; it has: {', '.join(map(str, text))}" if isinstance(text, Mapping) else ""
        raise CorpusError(f"{source}: field '{text_field}' holds {type(text).__name__}, not text{within}; {advice}")
    _check_unicode(text, source, "")
    return Document(text, _kind(record, source) or kind, source)


def _field(record: Mapping[str, Any], name: str, source: str, advice: str) -> Any:
    if name in record:
        return record[name]
    outer, _, inner = name.partition(".")
    if inner and isinstance(record.get(outer), Mapping):
        return _field(record[outer], inner, f"{source}: field '{outer}'", advice)
    if inner and outer in record and record[outer] is None:
        return None
    raise CorpusError(f"{source} has no field '{name}' (it has: {', '.join(map(str, record)) or 'none'}); {advice}")


def _kind(record: Mapping[str, Any], source: str) -> str:
    """What the record says that it is; empty where it does not."""
    kind = record.get("kind")
    if kind is None:
        return ""
    if isinstance(kind, bool) or not isinstance(kind, str | int):
        raise CorpusError(f"{source}: field 'kind' holds {type(kind).__name__}, not the name of a kind; mend the record")
    name = str(kind).strip()
    _check_unicode(name, source, " of field 'kind'")
    return name


def _check_unicode(text: str, source: str, where: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may hold half a surrogate pair, "\\ud83d"
        raise CorpusError(
            f"{source}: character {error.start}{where} is half of a surrogate pair, no text; mend the record"
        ) from None


def matching(pattern: str) -> list[str]:
    """The files that a glob of `corpus.files` names, sorted by path. What is there under a name with brackets is meant
    literally. Raises `OSError` for what cannot be looked at."""
    return files_of(_escaped(pattern)[1])


def _escaped(pattern: str) -> tuple[str, str]:
    """The folder that sources are named relative to, so that no machine's path is kept; and the glob with what comes before its
    first wildcard escaped."""
    pieces = Path(os.path.expanduser(pattern)).parts
    literal = 0
    while literal < len(pieces) and _is_literal(pieces[: literal + 1]):
        literal += 1
    root = os.path.join("", *pieces[: min(literal, len(pieces) - 1)])
    return root or ".", os.path.join(glob.escape(os.path.join("", *pieces[:literal])), *pieces[literal:])


def _matches(pattern: str) -> tuple[str, list[str]]:
    """That folder, and the files that a glob names. Raises `ConfigError` where nothing matches."""
    root, matches = _escaped(pattern)[0], matching(pattern)
    if not matches and os.path.isdir(os.path.expanduser(pattern)):
        raise ConfigError(f"corpus.files: '{pattern}' is a folder; say which files in it, as in {pattern.rstrip('/')}/**/*.txt")
    if not matches:
        raise ConfigError(f"corpus.files: nothing matches '{pattern}' (from {Path.cwd()}); mend the glob or put the files there")
    return root, matches


def _is_literal(pieces: tuple[str, ...]) -> bool:
    return not any(sign in pieces[-1] for sign in _WILD) or os.path.lexists(os.path.join(*pieces))


def _read(path: Path, source: str, text_field: str) -> Iterator[Document]:
    readers: dict[str, Callable[[Path, str, str], Iterator[Document]]] = {
        ".jsonl.zst": _jsonl_zst,
        ".jsonl": _jsonl,
        ".parquet": _parquet,
        ".txt": _txt,
    }
    for suffix, reader in readers.items():
        if path.name.endswith(suffix):
            for document in reader(path, source, text_field):
                yield from in_parts(document)
            return
    raise ConfigError(
        f"corpus.files: {shown(path)} is none of {', '.join(sorted(readers))}; rename or convert it, or narrow the glob"
    )


def _txt(path: Path, source: str, _text_field: str) -> Iterator[Document]:
    with open(path, "rb") as file:
        texts = decoded(in_blocks(file), path)
        texts = parts(texts, PART) if path.stat().st_size > LONGEST else iter(["".join(texts)])
        for number, text in enumerate(texts):
            if text.strip():
                yield Document(text, "txt", f"{source}#{number}" if number else source)


def _jsonl(path: Path, source: str, text_field: str) -> Iterator[Document]:
    with open(path, "rb") as file:
        yield from _lines(in_blocks(file), path, source, text_field)


def _jsonl_zst(path: Path, source: str, text_field: str) -> Iterator[Document]:
    try:
        with open(path, "rb") as file:
            yield from _lines(unpacked(file, path), path, source, text_field)
    except zstandard.ZstdError as error:
        raise CorpusError(
            f"{shown(path)} is no whole zstd file ({error}); fetch it again or take it out of corpus.files"
        ) from None


def _lines(blocks: Iterable[bytes], path: Path, source: str, text_field: str) -> Iterator[Document]:
    offset = 0
    for number, raw in enumerate(in_lines(blocks, path), start=1):
        try:
            line = raw.decode().removeprefix("\ufeff") if offset == 0 else raw.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(path, error, offset) from None
        offset += len(raw)
        if not line.strip():
            continue
        document = to_document(
            _record(line, f"{shown(path)}, line {number}"), text_field, f"{source}:{number}", "jsonl", "set corpus.text_field"
        )
        if document:
            yield document


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except RecursionError:
        raise CorpusError(f"{where} nests too deeply to be read; mend it or take the file out of corpus.files") from None
    except ValueError as error:  # json's own, and that of a whole number with more than 4,300 digits
        raise CorpusError(f"{where} is no JSON ({error}); mend it or take the file out of corpus.files") from None
    if not isinstance(record, dict):
        raise CorpusError(f"{where} is not a JSON object but {type(record).__name__}; mend it")
    return record


def _parquet(path: Path, source: str, text_field: str) -> Iterator[Document]:
    size, n_bytes, number = path.stat().st_size, 0, 0
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=BLOCK) as file:
            names = file.schema_arrow.names
            text_column = text_field if text_field in names else text_field.partition(".")[0]
            columns = [name for name in names if name in (text_column, "kind")] if text_column in names else None
            claimed = _claimed(file)
            check_unpacked(claimed, size, path)
            n_rows = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE * file.metadata.num_rows // max(claimed, 1)))
            for batch in file.iter_batches(batch_size=n_rows, columns=columns):
                n_bytes += batch.nbytes
                check_unpacked(n_bytes, size, path)
                for record in batch.to_pylist():
                    number += 1
                    document = to_document(record, text_field, f"{source}:{number}", "parquet", "set corpus.text_field")
                    if document:
                        yield document
    except (pyarrow.ArrowException, OSError) as error:  # a bad page is an OSError
        raise CorpusError(
            f"{shown(path)} is no whole parquet file ({error}); fetch it again or take it out of corpus.files"
        ) from None
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{shown(path)}, column '{text_field}', row {number + 1} or later is not UTF-8 ({error}); write it again"
        ) from None


def _claimed(file: pyarrow.parquet.ParquetFile) -> int:
    """Bytes that all columns take unpacked, as the file's footer says."""
    return sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
