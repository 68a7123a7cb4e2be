"""A report's parts as HTML and as Markdown. All text is data (it holds tokens of the corpus): none of it is markup, and none
acts on who prints it."""

import base64
import html
from pathlib import Path
from typing import NamedTuple

from sae.shown import printable, printable_lines

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem }
h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem }
nav ul { columns: 2; padding-left: 1.2rem }
pre { overflow-x: auto; font-size: .8rem; line-height: 1.35; background: #8881; padding: .8rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #8883 }
figure { margin: 1rem 0 }
img { max-width: 100%; background: #fff }
figcaption, .note { color: #777; font-size: .85rem }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Rows(NamedTuple):
    """A table."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Part(NamedTuple):
    """A section."""

    name: str
    """For links and files."""
    title: str
    defined: str
    """Heading in docs/method.md that has the definitions."""
    rows: Rows | None = None
    text: str = ""
    """Set as it stands, line by line."""
    images: tuple[Path, ...] = ()
    note: str = ""
    """Why there is nothing, where there is not."""


def to_html(title: str, parts: list[Part]) -> str:
    """One page with its pictures in it, without scripts."""
    e = html.escape
    links = "".join(f'<li><a href="#{e(part.name)}">{e(part.title)}</a></li>' for part in parts)
    body = "\n".join(_html_part(part) for part in parts)
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{e(title)}</title><style>{STYLE}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><h1>{e(title)}</h1>\n<nav><ul>{links}</ul></nav>\n{body}\n</body></html>\n"
    )


def _html_part(part: Part) -> str:
    e = html.escape
    found = [f'<section id="{e(part.name)}"><h2>{e(part.title)}</h2>']
    if part.note:
        found.append(f'<p class="note">{e(printable(part.note))}</p>')
    if part.rows is not None:
        head = "".join(f"<th>{e(cell)}</th>" for cell in part.rows.header) if any(part.rows.header) else ""
        rows = "".join("<tr>" + "".join(f"<td>{e(printable(cell))}</td>" for cell in row) + "</tr>" for row in part.rows.rows)
        found.append(f"<table><tr>{head}</tr>{rows}</table>")
    if part.text:
        found.append(f"<pre>{e(printable_lines(part.text))}</pre>")
    for image in part.images:
        data = base64.b64encode(image.read_bytes()).decode()
        caption = e(f"{part.name}/{image.name}")
        found.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        )
    found.append(f'<p class="note">Definitions: docs/method.md, “{e(part.defined)}”</p></section>')
    return "\n".join(found)


def to_markdown(title: str, parts: list[Part], preface: str = "") -> str:
    """The same; pictures by the paths that `parts` have. `title` and `preface` are Markdown."""
    lines = [f"# {title}", "", *([preface, ""] if preface else [])]
    for part in parts:
        lines += [f"## {part.title}", ""]
        if part.note:
            lines += [printable(part.note), ""]
        if part.rows is not None:
            lines += [_markdown_row(part.rows.header), _markdown_row(("---",) * len(part.rows.header), raw=True)]
            lines += [*(_markdown_row(row) for row in part.rows.rows), ""]
        if part.text:
            text = printable_lines(part.text)
            fence = "`" * max(3, _longest_run(text, "`") + 1)
            lines += [f"{fence}text", text, fence, ""]
        for image in part.images:
            lines += [f"![{part.name}]({image.as_posix()})", ""]
        lines += [f"Definitions: docs/method.md, “{part.defined}”.", ""]
    return "\n".join(lines)


def _markdown_row(cells: tuple[str, ...], *, raw: bool = False) -> str:
    escaped = cells if raw else tuple("".join(f"\\{c}" if c in "\\|`*_<>[]" else c for c in printable(cell)) for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def _longest_run(text: str, character: str) -> int:
    longest = run = 0
    for each in text:
        run = run + 1 if each == character else 0
        longest = max(longest, run)
    return longest
