"""Text that is no language: DNA (composed), base64 and hexadecimal (of files that are really installed)."""

import base64
import hashlib
import random
from collections.abc import Callable, Iterator, Sequence

from sae.source.corpus_document import Document

Blobs = Sequence[tuple[str, bytes]]
"""(source, content) of files."""

_ORGANISMS = (
    "Homo sapiens", "Mus musculus", "Danio rerio", "Drosophila melanogaster", "Escherichia coli K-12", "Arabidopsis thaliana",
    "Saccharomyces cerevisiae", "Caenorhabditis elegans", "Bacillus subtilis", "Xenopus laevis", "Gallus gallus", "Zea mays",
)  # fmt: skip
_COMPLEMENT = str.maketrans("ACGT", "TGCA")


def _bases(rng: random.Random, n: int) -> str:
    """A sequence with the unevenness of real ones: GC content that drifts, tandem repeats, inverted copies."""
    parts: list[str] = []
    length = 0
    while length < n:
        gc = rng.uniform(0.3, 0.65)
        piece = "".join(rng.choices("ACGT", weights=(1 - gc, gc, gc, 1 - gc), k=rng.randint(60, 400)))
        chance = rng.random()
        if chance < 0.12:
            piece = piece[: rng.randint(2, 6)] * rng.randint(5, 25)
        elif chance < 0.24 and parts:
            piece = rng.choice(parts)[::-1].translate(_COMPLEMENT)
        parts.append(piece)
        length += len(piece)
    return "".join(parts)[:n]


def _lines(text: str, width: int) -> str:
    return "\n".join(text[i : i + width] for i in range(0, len(text), width)) + "\n"


def _fasta(rng: random.Random) -> str:
    width, records = rng.choice((60, 60, 70, 80)), []
    for _ in range(rng.randint(1, 3)):
        start, n = rng.randint(1, 9_000_000), rng.randint(150, 400)
        header = rng.choice(
            (
                f">chr{rng.randint(1, 22)}:{start}-{start + n - 1}",
                f">NC_{rng.randint(1, 99_999):06d}.{rng.randint(1, 12)} {rng.choice(_ORGANISMS)}, complete genome",
                f">contig_{rng.randint(1, 9999)} length={n}",
                f">seq{rng.randint(1, 999)}",
            )
        )
        records.append(header + "\n" + _lines(_bases(rng, n), width))
    return "".join(records)


def _fasta_lower(rng: random.Random) -> str:
    sequence = _bases(rng, rng.randint(200, 600))
    if rng.random() < 0.5:
        return f">seq{rng.randint(1, 999)} soft-masked\n" + _lines(sequence.lower(), 60)
    start = rng.randint(0, 200)
    masked = sequence[:start] + sequence[start : start + 240].lower() + sequence[start + 240 :]
    return f">scaffold_{rng.randint(1, 999)}\n" + _lines(masked, 60)


def _blocks(rng: random.Random) -> str:
    """GenBank's ORIGIN: numbered lines of six blocks of ten."""
    sequence = _bases(rng, rng.randint(200, 500)).lower()
    lines = ["ORIGIN"]
    for i in range(0, len(sequence), 60):
        row = sequence[i : i + 60]
        lines.append(f"{i + 1:>9} " + " ".join(row[j : j + 10] for j in range(0, len(row), 10)))
    return "\n".join([*lines, "//", ""])


def _primers(rng: random.Random) -> str:
    """Short ones as in a methods section: 5'-...-3', some in codons with dashes or spaces."""
    lines = []
    for i in range(rng.randint(8, 20)):
        primer = _bases(rng, rng.randint(18, 48))
        separator = rng.choice(("", "", "", "-", " "))
        if separator:
            primer = separator.join(primer[j : j + 3] for j in range(0, len(primer), 3))
        lines.append(f"{rng.choice(('F', 'R', 'P'))}{i + 1}: 5'-{primer}-3'")
    return "\n".join(lines) + "\n"


def dna(rng: random.Random) -> Iterator[Document]:
    """Endless: two thirds plain FASTA, the rest in the forms that a proxy of letters A, C, G, T misses."""
    forms: tuple[Callable[[random.Random], str], ...] = (_fasta, _fasta_lower, _blocks, _primers)
    while True:
        form = rng.choices(forms, weights=(65, 12, 12, 11))[0]
        yield Document(form(rng), "dna", f"composed/dna/{form.__name__.strip('_')}")


def base64_texts(blobs: Blobs, rng: random.Random) -> Iterator[Document]:
    """Endless: slices of real files as MIME bodies, PEM-like bodies, data: URIs, fields of JSON, Python literals."""
    while True:
        source, content = rng.choice(blobs)
        n = rng.randint(200, 500)
        start = rng.randrange(max(1, len(content) - n))
        raw = content[start : start + n]
        if raw.count(0) > 0.3 * len(raw):  # AAAAAAAA: it would teach letters A, not base64
            continue
        text = base64.b64encode(raw).decode()
        form = rng.random()
        if form < 0.55:
            text = _lines(text, rng.choice((64, 76)))
        elif form < 0.7:
            subtype = rng.choice(("image/png", "font/woff2", "application/octet-stream", "image/gif"))
            text = f"data:{subtype};base64,{text}\n"
        elif form < 0.8:
            text = f'{{"encoding": "base64", "content": "{text}"}}\n'
        elif form < 0.9:
            text = 'b64decode(\n    "' + _lines(text, 72).rstrip().replace("\n", '"\n    "') + '"\n)\n'
        yield Document(text, "base64", source)


def _digests(blobs: Blobs, rng: random.Random) -> str:
    name = rng.choice(("md5", "sha1", "sha256", "sha256", "sha512"))
    chosen = [rng.choice(blobs) for _ in range(rng.randint(8, 24))]
    hashed = [hashlib.new(name, content[rng.randrange(64) :]).hexdigest() for _, content in chosen]
    if rng.random() < 0.3:
        return "".join(f"{digest}  {source.rpartition('/')[2]}\n" for digest, (source, _) in zip(hashed, chosen, strict=True))
    return "\n".join(hashed) + "\n"


def _dump(blobs: Blobs, rng: random.Random) -> str:
    """`od -A x -t x1` or `hexdump`: offsets and bytes, no column of characters."""
    _, content = rng.choice(blobs)
    start = rng.randrange(max(1, len(content) - 512)) & ~15
    lines = []
    for offset in range(start, start + 16 * rng.randint(16, 40), 16):
        row = content[offset : offset + 16]
        lines.append(f"{offset:08x}  {row[:8].hex(' ')}  {row[8:].hex(' ')}".rstrip())
    return "\n".join(lines) + "\n"


def _fingerprints(blobs: Blobs, rng: random.Random) -> str:
    chosen = [rng.choice(blobs)[1] for _ in range(rng.randint(6, 14))]
    raw = [hashlib.sha256(content[rng.randrange(64) :]).digest()[: rng.choice((16, 20, 32))] for content in chosen]
    form = rng.randrange(3)
    if form == 0:
        return "".join(digest.hex(":").upper() + "\n" for digest in raw)
    if form == 1:
        return ",\n".join(", ".join(f"0x{digest[i : i + 4].hex()}" for i in range(0, 16, 4)) for digest in raw) + "\n"
    return "\n".join(digest.hex(" ", 4) for digest in raw) + "\n"


def hexadecimal(blobs: Blobs, rng: random.Random) -> Iterator[Document]:
    """Endless: lists of digests, dumps, fingerprints of real files."""
    forms: tuple[Callable[[Blobs, random.Random], str], ...] = (_digests, _dump, _fingerprints)
    while True:
        form = rng.choices(forms, weights=(60, 25, 15))[0]
        yield Document(form(blobs, rng), "hexadecimal", f"composed/hexadecimal/{form.__name__.strip('_')}")
