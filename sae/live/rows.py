"""`LiveRows`: what a harvest would store, made while training uses it; no disk is needed, and no row is kept.

The rows are those of the store that the same `HarvestConfig` gives, bit for bit: the same contexts go through the forward pass
together, and the numbers are cast to the store's type. Only the order is another one (`mixing`).
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sae.chance import generator
from sae.config import build
from sae.device import to_device
from sae.errors import ConfigError, NumericsError
from sae.harvest import HarvestConfig, Plan, take
from sae.live.mixing import EpochOrder, Mixing
from sae.live.ring import Ring, ahead
from sae.shapes import Rows
from sae.source.site import ActivationSource, Frozen
from sae.storage.permutation import Permutation
from sae.storage.tokens import Split, TokenStore
from sae.training.data import mean_square

BUFFER_ROWS = 2**18
"""docs/training.md, "Live", has what it costs and what it gives."""
SCALE_ROWS = 2**16
"""Rows whose mean square norm stands for all: 64 random batches of the default's forward pass."""


class LiveRows:
    """Meets `RowSource`: `n_rows` rows an epoch, each planned (context, position) exactly once, in another order each epoch.

    At most `buffer_rows` rows are in memory, in the store's type, on the source's device, for each iterator over batches
    (resampling opens a second one while it looks at rows); beside them a batch or two. Raises `ConfigError`, `CorpusError` for
    a plan that the tokens cannot give.
    """

    def __init__(
        self, source: ActivationSource, split: Split, bos: int | None, config: HarvestConfig, *, buffer_rows: int = BUFFER_ROWS
    ):
        self.source, self.split, self.config, self.buffer_rows = source, split, config, buffer_rows
        self.plan = Plan(config, split, bos, source.d_mlp)
        if not self.plan.positions.even:
            raise ConfigError(
                f"live rows take {self.plan.per_context} positions of every context, and in some fewer count: "
                "lower positions_per_context to what every context has (tokens.pad, tokens.predicted_mask), or harvest the rows "
                "(train.source: store)"
            )
        self.mixing = Mixing(config.n_rows, config.batch_contexts * self.plan.per_context, buffer_rows)
        self._dtype = getattr(torch, config.dtype)
        self._dropped: dict[int, int] = {}

    @classmethod
    def open(
        cls,
        transformer: str | Path,
        tokens: str | Path,
        *,
        n_rows: int | None = None,
        device: str = "auto",
        buffer_rows: int = BUFFER_ROWS,
        **changes: object,
    ) -> "LiveRows":
        """From the folders of a transformer and of a token store, over its train split.

        `n_rows` are those of an epoch, by default all that the split gives; `changes` may name other fields of `HarvestConfig`.
        Raises `StoreError` where a folder is missing or damaged, `ConfigError`, `CorpusError`."""
        from sae.source.transformer import load_source  # transformer_lens takes seconds to import

        opened = TokenStore.open(tokens)
        split = opened.split("train")
        config = build(HarvestConfig, changes, "live")
        config = dataclasses.replace(config, n_rows=n_rows or split.n_contexts * config.positions_per_context)
        return cls(load_source(transformer, to_device(device)), split, opened.bos, config, buffer_rows=buffer_rows)

    def __len__(self) -> int:
        return self.config.n_rows

    @property
    def d_mlp(self) -> int:
        return self.source.d_mlp

    @cached_property
    def _frozen(self) -> Frozen:
        return self.source.frozen()

    @property
    def identity(self) -> dict[str, object]:
        """What decides the rows and their order, but for transformer and tokens, which a first batch tells."""
        return {**vars(self.config), "buffer_rows": self.buffer_rows, "n_contexts": self.plan.n_contexts}

    @property
    def n_dropped(self) -> int:
        """Rows, of those made so far, that were not finite and were left out (`nonfinite: drop`). In the place of each stands
        another row of the same forward pass, a second time: so a batch can be made without making all before it."""
        return sum(self._dropped.values())

    @cached_property
    def mean_square_norm(self) -> float:
        """Mean of ‖x‖² over `SCALE_ROWS` rows of random forward passes (all, where there are no more), whatever the training's
        seed."""
        n = min(self.mixing.n_units, -(-SCALE_ROWS // self.mixing.unit_rows))
        order = Permutation(self.mixing.n_units, int(generator(self.config.seed, "rows for the scale").integers(2**63)))
        return mean_square(self._unit(int(unit)) for unit in np.sort(order.inverse(np.arange(n))))

    def batches(self, n_rows: int, *, seed: int = 0, start: int = 0) -> Iterator[Rows]:
        """Endless float32 batches of `n_rows`, on the source's device; what an epoch leaves over begins the next one.

        To enter anywhere but at an epoch's beginning, up to twice `buffer_rows` rows are made and half of them are used."""
        if n_rows > len(self):
            raise ConfigError(f"batches of {n_rows} rows from {len(self)}; let the plan have more, or take smaller batches")
        epoch, skipped = divmod(start * n_rows, len(self))
        left = torch.empty(0, self.d_mlp, dtype=self._dtype, device=self.source.device)
        for block in ahead(self._blocks(seed, epoch, skipped), self.source.device):
            joined = torch.cat([left, block])
            n_whole = len(joined) // n_rows * n_rows
            for first in range(0, n_whole, n_rows):
                yield joined[first : first + n_rows].float()
            left = joined[n_whole:].clone()

    def _blocks(self, seed: int, epoch: int, skipped: int) -> Iterator[Tensor]:
        """Mixed blocks, from row `skipped` of `epoch` on."""
        n_groups, reach = self.mixing.n_groups, self.mixing.reach
        orders = lru_cache(maxsize=2)(lambda epoch: EpochOrder(self.mixing, seed, epoch))
        first, skipped = orders(epoch).enter(skipped)
        ring = Ring(self.mixing.held_rows, self.d_mlp, self._dtype, self.source.device)
        places: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
        coming = epoch * n_groups + max(0, first - reach)  # the next group, counted through all epochs; so are blocks
        for at in count(epoch * n_groups + first):
            while coming <= at + reach:
                of, group = divmod(coming, n_groups)
                for block, held in self._deal(group, orders(of), ring, first if of == epoch else 0):
                    places[of, block].append(held)
                coming += 1
            of, block = divmod(at, n_groups)
            yield ring.take(orders(of).permute(block, np.concatenate(places.pop((of, block)))))[skipped:]
            skipped = 0

    def _deal(self, group: int, order: EpochOrder, ring: Ring, first: int) -> list[tuple[int, np.ndarray]]:
        """Make a group's rows; each block, from block `first` on, and the places in the ring that hold its share."""
        dealt = [share for share in order.deal(group) if share.block >= first]
        units = [int(unit) for unit in order.units(group)]
        place = np.full(len(units) * self.mixing.unit_rows, -1)
        wanted = np.concatenate([share.rows for share in dealt])
        place[wanted] = ring.reserve(len(wanted))
        done = 0
        for unit in units:
            values = self._unit(unit)
            here = place[done : done + len(values)]
            kept = np.flatnonzero(here >= 0)
            ring.put(here[kept], values if len(kept) == len(values) else values[torch.from_numpy(kept)])
            done += len(values)
        return [(share.block, place[share.rows]) for share in dealt]

    def _unit(self, unit: int) -> Tensor:
        """The rows of one of the harvest's own forward passes, in the store's type. Raises `NumericsError` as the harvest."""
        first = unit * self.config.batch_contexts
        batch = self.split[first : min(first + self.config.batch_contexts, self.plan.n_contexts)]
        rows = take(self._frozen, self.plan, first, batch)
        n = min(len(rows.values), len(self) - first * self.plan.per_context)
        values, finite = rows.values[:n], rows.finite[:n]
        bad, good = np.flatnonzero(~finite), np.flatnonzero(finite)
        if len(bad) == 0:
            return values
        if len(good) == 0:
            raise NumericsError(
                f"none of the {n} rows of train contexts {first} to {first + len(batch.tokens) - 1} is finite in "
                f"{self.config.dtype}; the transformer is broken, or see harvest.dtype"
            )
        self._dropped[unit] = len(bad)
        values[torch.from_numpy(bad)] = values[torch.from_numpy(good[np.searchsorted(good, bad) % len(good)])]
        return values
