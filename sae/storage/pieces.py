"""Pieces: rows that one task harvested, sorted by their place in the store, in one file that says of itself whether it is whole.

A file is the records (`Layout.record`), then for each shard of the store where its records begin and their crc32c, then the sums
of the rows, and which task of which plan it is. It is written aside and renamed, so whoever is killed leaves it there or not; and
what a shard reads from it is checked, so that no bit that turned on the way goes into a store. For that reason it is not synced:
a power cut costs at most the work on pieces that had not reached the disk, and most are removed before they need to.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from crc32c import crc32c

from sae import artefact
from sae.errors import raise_if_of_disk
from sae.shapes import Rows
from sae.storage.layout import Layout

MAGIC = b"saepiece"
SLICE_BYTES = 1 << 18
"""What a shard wants to read from a piece at once; where pieces hold less for it, they are joined first."""


class DamagedPieceError(Exception):
    """A piece that is not what was written; it is made again."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path}: {why}")
        self.path = path


@dataclass(frozen=True)
class Sums:
    """Over the rows of a piece, of what the store's record states as means."""

    n_rows: int
    total: np.ndarray
    """Σ x, float64 [d_mlp]."""
    norm: float
    """Σ ‖x‖."""
    square: float
    """Σ ‖x‖²."""
    dropped: tuple[int, ...] = ()
    """Places of rows that were not finite and were left out."""

    @classmethod
    def of(cls, values: Rows) -> "Sums":
        """Of the rows of one batch, float32: summed in that over the batch, beyond it in float64."""
        norms = torch.linalg.vector_norm(values, dim=1).double()
        return cls(len(values), values.sum(0).double().numpy(), float(norms.sum()), float(norms.square().sum()))

    @classmethod
    def join(cls, parts: Sequence["Sums"]) -> "Sums":
        """Of all rows together."""
        return cls(
            sum(one.n_rows for one in parts),
            np.sum([one.total for one in parts], axis=0),
            sum(one.norm for one in parts),
            sum(one.square for one in parts),
            tuple(place for one in parts for place in one.dropped),
        )


def write_piece(path: Path, layout: Layout, plan: str, records: np.ndarray, sums: Sums) -> None:
    """`records`, by place, as one piece; `plan` is what it belongs to."""
    assert (np.diff(records["place"]) > 0).all(), "not by place"
    starts = np.searchsorted(records["place"], np.arange(layout.n_shards + 1) * layout.shard_rows)
    slices = (records[starts[i] : starts[i + 1]] for i in range(layout.n_shards))
    _write(path, plan, slices, sums)


def join_pieces(path: Path, layout: Layout, plan: str, parts: Sequence["Piece"]) -> None:
    """The records of several pieces in one. Reads each from its beginning to its end, and holds one shard's records."""
    sums = Sums.join([part.sums for part in parts])
    _write(path, plan, (records_of(parts, shard) for shard in range(layout.n_shards)), sums)


def fields_of(pieces: Sequence["Piece"], shard: int, layout: Layout) -> dict[str, np.ndarray] | None:
    """The fields of all records of a shard but their places, in the order of those; None where `pieces` do not make it up.

    One piece after the other goes to where it belongs. Sorted as records they would be copied twice more, once by zarr, which
    wants a field in one block. Raises `DamagedPieceError`."""
    rows = layout.shard(shard)
    n = rows.stop - rows.start
    if sum(piece.n_in(shard) for piece in pieces) != n:
        return None
    buffer, there = np.empty(max(piece.n_in(shard) for piece in pieces), layout.record), np.zeros(n, bool)
    found = {name: np.empty(n, buffer.dtype[name]) for name in ("origin", "values")}
    for piece in pieces:
        records = buffer[: piece.n_in(shard)]
        piece.read(shard, records)
        at = records["place"] - rows.start
        if len(at) and not 0 <= at.min() <= at.max() < n:
            return None
        there[at] = True
        for name, values in found.items():
            values[at] = records[name]
    return found if there.all() else None


def records_of(pieces: Sequence["Piece"], shard: int) -> np.ndarray:
    """Those of a shard in all of `pieces`, by place. Raises `DamagedPieceError`."""
    ends = np.cumsum([piece.n_in(shard) for piece in pieces])
    records = np.empty(ends[-1], pieces[0].record)
    for piece, end in zip(pieces, ends, strict=True):
        piece.read(shard, records[end - piece.n_in(shard) : end])
    whole = records.view(f"V{records.itemsize}")  # numpy copies these twice as fast as records field by field
    return whole[np.argsort(records["place"], kind="stable")].view(records.dtype)


def _of(path: Path, plan: str) -> str:
    """What a piece says that it is: one of another plan, or under another's name, is none."""
    return f"{plan} {path.parent.name}/{path.name}"


def _write(path: Path, plan: str, slices: Iterator[np.ndarray], sums: Sums) -> None:
    starts, crcs = [0], []
    with artefact.replacing(path, synced=False) as partial, open(partial, "wb") as file:
        for records in slices:
            file.write(records.data)
            starts.append(starts[-1] + len(records))
            crcs.append(crc32c(records.data))
        stated = {**vars(sums), "total": sums.total.tolist(), "starts": starts, "crcs": crcs, "of": _of(path, plan)}
        footer = json.dumps(stated).encode()
        file.write(footer + np.array([len(footer), crc32c(footer)], "<u8").tobytes() + MAGIC)


class Piece:
    """One that was written. Raises `DamagedPieceError` where it was not, or not whole."""

    def __init__(self, path: Path, layout: Layout, plan: str):
        self.path, self.record = path, layout.record
        stated = self._footer()
        if stated.pop("of") != _of(path, plan):
            raise DamagedPieceError(path, "of another plan or task")
        self._starts, self._crcs = stated.pop("starts"), stated.pop("crcs")
        stated["total"], stated["dropped"] = np.array(stated["total"]), tuple(stated["dropped"])
        self.sums = Sums(**stated)

    def _footer(self) -> dict:
        tail = 16 + len(MAGIC)
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size - tail))
                end = file.read()
                if end[16:] != MAGIC:
                    raise DamagedPieceError(self.path, "no piece")
                length, crc = (int(value) for value in np.frombuffer(end[:16], "<u8"))
                if length > size - tail:
                    raise DamagedPieceError(self.path, "cut off")
                file.seek(size - tail - length)
                footer = file.read(length)
        except OSError as error:
            if error.errno != errno.EIO:  # that is of this piece's place on the disk: it is made again, elsewhere
                raise_if_of_disk(error, f"reading {self.path}")
            raise DamagedPieceError(self.path, str(error)) from None
        if crc32c(footer) != crc:
            raise DamagedPieceError(self.path, "its footer is damaged")
        return json.loads(footer)

    def n_in(self, shard: int) -> int:
        """How many of its records belong to a shard."""
        return self._starts[shard + 1] - self._starts[shard]

    def read(self, shard: int, into: np.ndarray) -> None:
        """Fill `into` with those of a shard, by place. Raises `DamagedPieceError` where a bit has turned."""
        with open(self.path, "rb") as file:
            file.seek(self._starts[shard] * self.record.itemsize)
            n_bytes = file.readinto(into.view("u1").data)
        if n_bytes != into.nbytes or crc32c(into.data) != self._crcs[shard]:
            raise DamagedPieceError(self.path, f"its records of shard {shard} are damaged")
