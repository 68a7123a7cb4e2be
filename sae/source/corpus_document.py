"""`Document`, and the few things that every source of documents needs: cutting to bytes, taking until enough."""

import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

SHORTEST = 60
"""Bytes: a cut-off rest shorter than this is not worth a document."""


class Document(NamedTuple):
    """One text of the corpus."""

    text: str
    kind: str
    """What it is (english, python, arabic, dna ...): the truth that features are later judged against."""
    source: str
    """Where it came from, without any path of this machine: `numpy/linalg/_linalg.py`."""


def n_bytes(text: str) -> int:
    """Length in UTF-8."""
    return len(text.encode())


def head(text: str, most: int) -> str:
    """At most `most` UTF-8 bytes from the start, ending with a whole line where that loses less than a fifth."""
    raw = text.encode()
    if len(raw) <= most:
        return text
    cut = raw[:most].decode(errors="ignore")
    line = cut.rfind("\n") + 1
    return cut[:line] if line > 0.8 * len(cut) else cut


def window(text: str, most: int, rng: random.Random) -> str:
    """At most `most` characters that begin at the start of a line chosen by `rng`."""
    if len(text) <= most:
        return text
    start = text.find("\n", rng.randrange(len(text) - most + 1)) + 1
    return head(text[start : start + most], most)


def take(documents: Iterable[Document], target: int) -> Iterator[Document]:
    """Documents until their text has `target` UTF-8 bytes; the last one is cut to fit. Fewer where `documents` end before."""
    left = target
    for document in documents:
        if left < SHORTEST:
            return
        text = head(document.text, left)
        left -= n_bytes(text)
        yield document._replace(text=text)
