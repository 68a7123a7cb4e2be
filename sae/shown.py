"""The one way by which text of a corpus (tokens, kinds, names) reaches a terminal, a page, Markdown (`printable`) or JSON."""

import json
import re
from typing import Any

_NAMED = {"\n": "↵", "\t": "→"}
_PERHAPS = re.compile("[^\n -~]")
_DRAWS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]"  # as in web/pages/text.js
)


def printable(text: bytes | str) -> str:
    """Text as one line: no control character, no direction override, nothing that draws nothing and no part of a character is let
    through as it is. Each stands as its escape, such as \\x1b; line ends and tabs as ↵ and →."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="backslashreplace")
    return "".join(_NAMED.get(char) or (char if _is_plain(char) else _escape(char)) for char in text)


def printable_lines(text: str) -> str:
    """The same of a message of several lines, which it keeps."""
    return "\n".join(printable(line) for line in text.split("\n"))


def json_text(value: Any) -> str:
    """`value` as JSON with sorted keys, line by line. What `printable` would escape is escaped as JSON does it, so the text does
    nothing on a terminal, and reads back as what it was."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return _PERHAPS.sub(lambda found: found[0] if _is_plain(found[0]) else _json_escape(found[0]), text)


def _is_plain(char: str) -> bool:
    return char.isprintable() and not _DRAWS_NOTHING.match(char)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(char: str) -> str:
    return "\\u007f" if char == "\x7f" else json.dumps(char)[1:-1]
