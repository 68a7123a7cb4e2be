"""Where batches come from. A `RowSource` can be entered at any batch, which is what makes resumption exact and cheap."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from inspect import signature
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import torch
from crc32c import crc32c
from torch import Tensor

from sae.chance import generator
from sae.errors import ConfigError
from sae.shapes import Rows
from sae.training.uploads import uploaded

SCALE_BATCHES = 8
"""Batches whose mean square norm stands for all, where the source does not know its own."""


@runtime_checkable
class RowSource(Protocol):
    """Rows of activations in a reproducible order: an `ActivationStore`, `TensorRows`, `sae.toys.synthetic`'s rows.

    One that knows the mean over its rows of ‖x‖² says so as `mean_square_norm`; else the first batches stand for all. One whose
    rows or order may change and leave the first batch as it was says in `identity` (JSON) what decides them, for checkpoints.
    One whose `batches` takes `pin` is told whether they go to a GPU, and so had better be page-locked; one that takes `raw` as
    well, whether numbers may stay in the 16 bits that they are kept in."""

    @property
    def d_mlp(self) -> int: ...

    def batches(self, n_rows: int, *, seed: int = 0, start: int = 0) -> Iterator[Rows]:
        """Endless float32 batches of `n_rows` from batch `start` on; batch k depends on `seed` and k alone."""
        ...


class TensorRows:
    """A tensor [row, d_mlp] as a source: every row once an epoch, in another order each epoch, no batch short."""

    def __init__(self, rows: Tensor):
        if rows.ndim != 2 or not rows.is_floating_point() or len(rows) == 0:
            raise ConfigError(f"rows must be a floating-point tensor [row, d_mlp], not {rows.dtype} {tuple(rows.shape)}")
        if rows.is_meta or rows.layout is not torch.strided:
            found = "on the meta device, without numbers" if rows.is_meta else f"of layout {rows.layout}"
            raise ConfigError(f"rows must be a dense tensor with its numbers, not one {found}: rows.to_dense()")
        self.rows = rows.detach()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def d_mlp(self) -> int:
        return self.rows.shape[1]

    @property
    def mean_square_norm(self) -> float:
        return mean_square(self.rows.split(1 << 16))

    @property
    def identity(self) -> dict[str, Any]:
        """Number of rows, and their crc32c: the first batch alone stays as it is where another row changes."""
        crc = 0
        for part in self.rows.split(1 << 16):
            crc = crc32c(part.cpu().contiguous().view(torch.uint8).numpy().data, crc)
        return {"n_rows": len(self), "crc32c": crc}

    def batches(self, n_rows: int, *, seed: int = 0, start: int = 0) -> Iterator[Rows]:
        if n_rows > len(self):
            raise ConfigError(f"batches of {n_rows} rows from {len(self)}; give more rows or take smaller batches")
        epoch, skipped = divmod(start * n_rows, len(self))
        order = self._order(seed, epoch)[skipped:]
        while True:
            while len(order) < n_rows:
                epoch += 1
                order = torch.cat([order, self._order(seed, epoch)])
            yield self.rows[order[:n_rows].to(self.rows.device)].float()
            order = order[n_rows:]

    def _order(self, seed: int, epoch: int) -> Tensor:
        return torch.from_numpy(generator(seed, "order of rows", epoch).permutation(len(self)))


class Feed:
    """Batches in order, from a source that can be entered anywhere. `device`: where they are used; a GPU gets each batch while
    the one before it is used (`uploads`). None: wherever the source makes them."""

    def __init__(self, source: RowSource, batch_size: int, seed: int, start: int = 0, *, device: torch.device | None = None):
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self._gpu = device if device is not None and device.type != "cpu" else None
        self._told = {}
        if device is not None:
            asked = signature(source.batches).parameters
            self._told = {name: self._gpu is not None for name in ("pin", "raw") if name in asked}
        self.home: torch.device | None = None
        """Where the source makes its batches; known once there is one."""
        self._first: Rows | None = None
        self.enter(start)

    def enter(self, start: int) -> None:
        """Go to batch `start`."""
        self.position = start
        self._batches = self._from(start)

    @property
    def mean_square_norm(self) -> float:
        known = getattr(self.source, "mean_square_norm", None)
        if known is not None:
            return float(known)
        return mean_square(islice(self._from(0), SCALE_BATCHES))

    def next(self) -> Rows:
        self.position += 1
        return next(self._batches)

    def first(self) -> Rows:
        """Batch 0, wherever the feed is; read once, as a source may read (or make) many rows to give the first."""
        if self._first is None and self.position == 0:
            self._first = next(self._batches)
            self._batches = chain([self._first], self._batches)
        elif self._first is None:
            self._first = next(self._from(0))
        return self._first

    def others(self, n_batches: int) -> Iterator[Rows]:
        """Batches for resampling, in an order of their own that depends on the position; the position stays."""
        return islice(self._from(self.position * n_batches, resampling_seed(self.seed)), n_batches)

    def _from(self, start: int, seed: int | None = None) -> Iterator[Rows]:
        seed = self.seed if seed is None else seed
        batches = self._noting_home(self.source.batches(self.batch_size, seed=seed, start=start, **self._told))
        return batches if self._gpu is None else uploaded(batches, self._gpu)

    def _noting_home(self, batches: Iterator[Rows]) -> Iterator[Rows]:
        for batch in batches:
            self.home = batch.device
            yield batch


class IteratorFeed:
    """Batches of a plain iterator, as they come. Resampling looks ahead: those batches stay in memory until they are trained on.

    To resume, hand over the same iterator from its beginning: the batches that were trained on are read again and passed over.
    """

    def __init__(self, batches: Iterable[Tensor], start: int = 0):
        self._source, self._ahead = iter(batches), deque[Tensor]()
        self.position = 0
        self._first = self._peek(1)[0]
        self.batch_size = len(self._first)
        self._mean_square = mean_square(self._peek(SCALE_BATCHES, short=True))
        self.enter(start)

    def enter(self, start: int) -> None:
        """Pass over batches, up to batch `start`."""
        while self.position < start:
            self.next()

    @property
    def mean_square_norm(self) -> float:
        return self._mean_square

    @property
    def home(self) -> torch.device:
        """Where the iterator's batches lie."""
        return self._first.device

    def first(self) -> Rows:
        return self._first

    def next(self) -> Rows:
        x = self._peek(1)[0]
        if x.shape != self._first.shape:
            raise ConfigError(
                f"batch {self.position} is {tuple(x.shape)}, the first was {tuple(self._first.shape)}: keep them alike"
            )
        self._ahead.popleft()
        self.position += 1
        return x

    def others(self, n_batches: int) -> Iterator[Rows]:
        return iter(self._peek(n_batches, short=True))

    def _peek(self, n_batches: int, *, short: bool = False) -> list[Tensor]:
        while len(self._ahead) < n_batches:
            try:
                self._ahead.append(_checked(next(self._source)))
            except StopIteration:
                if short and self._ahead:
                    break
                raise ConfigError(
                    f"the iterator ended after {self.position + len(self._ahead)} batches, before the last step: "
                    "give it more batches, or train for fewer steps"
                ) from None
        return list(islice(self._ahead, n_batches))


def resampling_seed(data_seed: int) -> int:
    """The seed of the order in which resampling looks at rows. Drawn, and no sum: a source may keep few bits of it."""
    return int(generator(data_seed, "rows to resample from").integers(2**63))


def _checked(batch: Any) -> Rows:
    """A batch of an iterator in float32, as a copy: it is looked at again, when the iterator may have filled its buffer anew.
    Raises `ConfigError` where it is none."""
    if not isinstance(batch, Tensor) or batch.ndim != 2 or not batch.is_floating_point():
        what = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
        raise ConfigError(f"batches must be floating-point tensors [row, d_mlp], not {what}")
    return batch.to(torch.float32, copy=True)


def fingerprint(first: Rows) -> str:
    """What tells one source of rows from another, for checkpoints: sha256 of its first batch, which depends on all that decides
    the order of rows."""
    shape = "x".join(map(str, first.shape))
    return hashlib.sha256(shape.encode() + first.float().cpu().contiguous().numpy().tobytes()).hexdigest()


def mean_square(batches: Iterable[Tensor]) -> float:
    """Mean over all rows of ‖x‖², in float64; 0 for none."""
    total, n_rows = 0.0, 0
    for batch in batches:
        total, n_rows = total + float(batch.double().square().sum()), n_rows + len(batch)
    return total / max(1, n_rows)
