"""English prose out of Python sources: docstrings and comments, one document a module."""

import ast
import hashlib
import inspect
import re
import warnings
from collections.abc import Iterator

_TRIPLE = re.compile(r'"""|\'\'\'')
_DOCTEST = re.compile(r"^[ \t]*>>> .*(?:\n(?![ \t]*$).*)*\n?", re.MULTILINE)
_COMMENTS = re.compile(r"(?:^[ \t]*#(?!!).*\n){2,}", re.MULTILINE)
_LICENCE = re.compile(r"licen[cs]e|copyright", re.IGNORECASE)
_HEADER = re.compile(r"\A(?:[ \t]*(?:#(?![a-z])|//).*\n|[ \t]*\n|/\*(?s:.*?)\*/[ \t]*\n)+")
_WORD = re.compile(r"[A-Za-z]{2,}")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def share_in_triple_quotes(source: str) -> float:
    """Of the characters: an estimate of how much of a module is docstrings, a thousand times faster than parsing it."""
    return sum(map(len, _TRIPLE.split(source)[1::2])) / max(len(source), 1)


def without_header(source: str) -> str:
    """The source without its leading comments if those speak of a licence: the same twenty lines in a thousand files."""
    header = _HEADER.match(source)
    return source[header.end() :] if header and _LICENCE.search(header[0]) else source


def docstrings(source: str) -> list[str]:
    """Every docstring of the module in its order, indentation and doctests removed; none where it does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = []
    for node in [tree, *_definitions(tree.body)]:
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            found.append(_DOCTEST.sub("", inspect.cleandoc(first.value.value)))
    return found


def _definitions(statements: list[ast.stmt]) -> Iterator[Definition]:
    """Classes and functions at any depth. Expressions are not walked: they hold none, and are most of the tree."""
    for statement in statements:
        if isinstance(statement, Definition):
            yield statement
        for field in ("body", "orelse", "finalbody"):
            yield from _definitions(getattr(statement, field, []))


def comments(source: str) -> list[str]:
    """Blocks of at least two lines of comment."""
    blocks = []
    for match in _COMMENTS.finditer(source):
        blocks.append("\n".join(line.strip().lstrip("#").removeprefix(" ") for line in match[0].splitlines()))
    return blocks


def is_prose(paragraph: str) -> bool:
    """Whether a paragraph is words rather than a table, code or a rule."""
    letters = sum(len(word) for word in _WORD.findall(paragraph))
    return letters > 0.62 * len(paragraph) and len(paragraph) > 25


class Prose:
    """Collects paragraphs and never gives the same one twice (libraries repeat theirs in hundreds of docstrings)."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def keep(self, text: str) -> str:
        """The paragraphs of `text` that are prose and new."""
        kept = []
        for paragraph in re.split(r"\n[ \t]*\n", text):
            key = hashlib.blake2b(" ".join(paragraph.split()).encode(), digest_size=8).digest()
            if not is_prose(paragraph) or key in self._seen:
                continue
            self._seen.add(key)
            kept.append(paragraph.strip("\n"))
        return "\n\n".join(kept) + "\n" if kept else ""
