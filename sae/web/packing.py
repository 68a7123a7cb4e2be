"""Data for a page that is opened from disk: arrays and JSON as classic scripts, which need neither a server nor `fetch`.

A data file is one call, `SAE.receive("name", {...}, "...")`. Everything that came from the corpus travels in the last
argument: arrays of numbers and bytes, deflated, in base64, so that no text of it is ever parsed as script or markup.
"""

import base64
import json
import zlib
from typing import Any

import numpy as np

from sae.errors import StoreError

_ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def escape_json(value: Any) -> str:
    """JSON that is safe inside a script, also an inline one: ASCII, without `<`, `>`, `&`."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"), allow_nan=False).translate(_ESCAPED)


def narrow(values: np.ndarray, maximum: int | None = None) -> np.ndarray:
    """`values` in the smallest type that the page reads: floats keep theirs, whole numbers become u1, u2, u4 or f8.

    `maximum` fixes the type for values up to it, so that all chunks of a column have the same. -1 ("none") becomes the
    largest value of u1, u2, u4, which no real one reaches. Raises `StoreError` for other negative whole numbers.
    """
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    if values.size and int(values.min()) < -1:
        raise StoreError(f"the page's columns hold no whole number under -1, but {int(values.min())} was given")
    top = int(values.max(initial=0)) if maximum is None else maximum
    for size, name in ((1, "u1"), (2, "<u2"), (4, "<u4")):
        none = 256**size - 1
        if top < none:
            return np.ascontiguousarray(np.where(values < 0, np.int64(none), values).astype(name))
    return np.ascontiguousarray(values, dtype="<f8")


def layout(arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """For each array in order its name, type, and shape after the first axis (which is the number of features in the file)."""
    return [{"name": name, "dtype": array.dtype.str[-2:], "shape": list(array.shape[1:])} for name, array in arrays.items()]


def pack(arrays: dict[str, np.ndarray]) -> str:
    """The arrays' bytes one after the other, little-endian, deflated (zlib, level 9), in base64."""
    raw = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def pack_tokens(vocabulary: list[bytes]) -> dict[str, np.ndarray]:
    """The vocabulary as two arrays: each token's length in bytes, and all the bytes."""
    lengths = np.array([len(token) for token in vocabulary], dtype=np.int64)
    return {"lengths": narrow(lengths, 2**16), "bytes": np.frombuffer(b"".join(vocabulary), dtype=np.uint8)}


def script(name: str, header: Any, payload: str) -> str:
    """The text of a data file."""
    return f'SAE.receive({escape_json(name)},{escape_json(header)},"{payload}");\n'
