import base64
import json
import zlib

import numpy as np
import pytest

from sae.errors import StoreError
from sae.web.packing import escape_json, layout, narrow, pack, pack_tokens, script
from tests.web.fake_table import HOSTILE


def test_escaped_json_holds_nothing_that_ends_a_script_and_reads_back():
    value = {token.decode("utf-8", "replace"): [token.decode("latin-1")] for token in HOSTILE}
    text = escape_json(value)
    assert text.isascii()
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("values", "maximum", "dtype", "expected"),
    [
        ([-1, 0, 254], None, "u1", [255, 0, 254]),
        ([-1, 0, 255], None, "u2", [65535, 0, 255]),
        ([-1, 3], 65534, "u2", [65535, 3]),
        ([-1, 3], 65535, "u4", [2**32 - 1, 3]),
        ([7], 2**40, "f8", [7.0]),
        ([-1, 2**53], None, "f8", [-1.0, 2.0**53]),
    ],
)
def test_narrow_keeps_every_number_and_turns_none_into_the_largest(values, maximum, dtype, expected):
    narrowed = narrow(np.array(values, np.int64), maximum)
    assert narrowed.dtype.str[-2:] == dtype
    assert narrowed.tolist() == expected


def test_narrow_keeps_floats_and_refuses_what_it_cannot_say():
    assert narrow(np.array([0.5, np.nan], np.float16)).dtype == np.float16
    with pytest.raises(StoreError, match="-2"):
        narrow(np.array([-2]))


def test_a_data_file_is_one_call_whose_payload_is_the_arrays():
    arrays = {"a": np.arange(6, dtype="<u2").reshape(2, 3), "b": np.array([1.5, -2], "<f4")}
    text = script("index", {"columns": layout(arrays)}, pack(arrays))
    name, header, payload = json.loads("[" + text.removeprefix("SAE.receive(").removesuffix(");\n") + "]")
    assert name == "index"
    assert header["columns"] == [{"name": "a", "dtype": "u2", "shape": [3]}, {"name": "b", "dtype": "f4", "shape": []}]
    assert zlib.decompress(base64.b64decode(payload)) == arrays["a"].tobytes() + arrays["b"].tobytes()


def test_the_vocabulary_keeps_its_bytes():
    parts = pack_tokens(HOSTILE)
    assert parts["bytes"].tobytes() == b"".join(HOSTILE)
    assert parts["lengths"].tolist() == [len(token) for token in HOSTILE]
