"""The page's data files read back as the page reads them, written a second time, in Python."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np


def read(path: Path) -> tuple[dict, bytes]:
    """Header and bytes of one data file."""
    text = path.read_text(encoding="ascii")
    assert text.startswith("SAE.receive(")
    assert text.endswith(");\n")
    _, header, payload = json.loads("[" + text.removeprefix("SAE.receive(").removesuffix(");\n") + "]")
    return header, zlib.decompress(base64.b64decode(payload))


def columns(layout: list[dict], count: int, raw: bytes) -> dict[str, np.ndarray]:
    """The arrays in `raw`; whole numbers that are the largest of their type are -1."""
    found, offset = {}, 0
    for column in layout:
        dtype, shape = np.dtype("<" + column["dtype"]), (count, *column["shape"])
        size = dtype.itemsize * int(np.prod(shape))
        values = np.frombuffer(raw[offset : offset + size], dtype).reshape(shape)
        if dtype.kind == "u":
            values = np.where(values == np.iinfo(dtype).max, -1, values.astype(np.int64))
        found[column["name"]], offset = values, offset + size
    assert offset == len(raw)
    return found
