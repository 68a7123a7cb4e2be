"""The bytes of the user's files: in blocks, unpacked, as text, as lines; each with the limit at which reading stops."""

import codecs
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from sae.errors import CorpusError

BLOCK = 1 << 20
"""Bytes read at a time."""
LONGEST_RECORD = 64_000_000
"""Bytes of a JSON line, which is held whole. (A txt file is not: it may be of any size.)"""
MOST_UNPACKED = 100_000_000
MOST_TIMES = 1_000
"""A packed file may unpack to either of these, bytes or times its size. Text packs 3 to 10 times, 3 GB of zeros 30,000 times."""


def shown(path: str | os.PathLike[str]) -> str:
    """A path as text: bytes of a file's name that are not UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def in_blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def not_utf8(path: Path, error: UnicodeDecodeError, offset: int) -> CorpusError:
    """`error` came from bytes that begin at `offset` of the (unpacked) file."""
    byte = error.object[error.start]
    return CorpusError(
        f"{shown(path)} is not UTF-8: byte 0x{byte:02x} at offset {offset + error.start} ({error.reason}); "
        "convert it (iconv -f <its encoding> -t UTF-8) or take it out of corpus.files"
    )


def decoded(blocks: Iterable[bytes], path: Path) -> Iterator[str]:
    """The text of a file, block by block."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    for last, block in _with_end(blocks):
        kept = len(decoder.getstate()[0])  # bytes of a character that the block before ended within
        try:
            text = decoder.decode(block, final=last)
        except UnicodeDecodeError as error:
            raise not_utf8(path, error, offset - kept) from None
        yield text.removeprefix("\ufeff") if offset == 0 else text
        offset += len(block)


def _with_end(blocks: Iterable[bytes]) -> Iterator[tuple[bool, bytes]]:
    """Each block, and at last an empty one, marked."""
    for block in blocks:
        yield False, block
    yield True, b""


def unpacked(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The content of all frames. (zstandard's own reader over several frames ends without a word where one is cut.)"""
    size = path.stat().st_size
    frame = zstandard.ZstdDecompressor().decompressobj()
    n_bytes = 0
    # Of 1 KB of packed zeros come 32 MB at once: that is what bounds memory.
    while packed := file.read(1024):
        while packed:
            if frame.eof:
                frame = zstandard.ZstdDecompressor().decompressobj()
            block = frame.decompress(packed)
            n_bytes += len(block)
            check_unpacked(n_bytes, size, path)
            yield block
            packed = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise zstandard.ZstdError("it ends in the middle of a frame: the end was cut off")


def check_unpacked(n_bytes: int, size: int, path: Path) -> None:
    if n_bytes > max(MOST_UNPACKED, MOST_TIMES * size):
        raise CorpusError(
            f"{shown(path)} ({size:,} bytes) unpacks to more than {MOST_UNPACKED:,} bytes and "
            f"{MOST_TIMES:,} times its size, as no text does; if it is meant, unpack it yourself and name that file"
        )


def in_lines(blocks: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """Lines with their ends."""
    begun: list[bytes] = []  # of a line whose end has not come yet
    n_bytes = 0
    for block in blocks:
        first, end, after = block.partition(b"\n")
        n_bytes += len(first)
        if n_bytes > LONGEST_RECORD:
            raise CorpusError(
                f"{shown(path)} has a line of more than {LONGEST_RECORD:,} bytes; a document that long may be a .txt file"
            )
        begun.append(first)
        if not end:
            continue
        yield b"".join(begun) + b"\n"
        *lines, rest = after.split(b"\n")
        yield from (line + b"\n" for line in lines)
        begun = [rest]
        n_bytes = len(rest)
    if n_bytes:
        yield b"".join(begun)
