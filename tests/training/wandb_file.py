"""Reads the history of a `.wandb` file: LevelDB's log framing around wandb's protocol buffers."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = 7


def _records(path: Path) -> Iterator[bytes]:
    content = path.read_bytes()
    assert content[:4] == b":W&B", content[:8]
    at, whole = HEADER, b""
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        _, length, kind = struct.unpack_from("<IHB", content, at)
        if left < HEADER or kind == 0:  # the rest of a block is padding
            at += left
            continue
        whole += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield whole
            whole = b""


def history(path: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in _records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, last = item.nested_key or [item.key]
                into = row
                for key in outer:  # a histogram's parts come one by one
                    into = into.setdefault(key, {})
                into[last] = json.loads(item.value_json)
            rows.append(row)
    return rows
