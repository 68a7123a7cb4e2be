"""Transformer and tokens in, an ActivationStore out (Towards Monosemanticity, "Dataset": a fixed number of tokens from
each context, then a global shuffle, so that a batch mixes contexts)."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sae.errors import ConfigError, CorpusError, DiskError, NumericsError
from sae.progress import ProgressBar
from sae.shapes import Activations
from sae.source.site import ActivationSource
from sae.storage.shuffle import HarvestedRows, bytes_needed, write_shuffled
from sae.storage.tokens import Split, to_tensor

DTYPE = np.dtype(np.float16)


@dataclass(frozen=True, kw_only=True)
class HarvestConfig:
    """Section `harvest`."""

    n_rows: int = 1_048_576
    """Rows in the store, exactly."""
    positions_per_context: int = 32
    """Positions taken from each context, sampled without replacement (the paper: 250 of its undisclosed context length)."""
    skip_bos: bool = True
    """Leave out position 0 of contexts that begin with BOS: its activation is the same vector every time."""
    batch_contexts: int = 32
    """Contexts in one forward pass."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_rows", "positions_per_context", "batch_contexts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")


class Plan:
    """Which positions of which contexts become rows. Refuses what the corpus cannot give."""

    def __init__(self, config: HarvestConfig, split: Split, bos: int | None):
        self.config = config
        self.first_position = 1 if (config.skip_bos and bos is not None) else 0
        n_positions = split.context_length - self.first_position
        self.per_context = config.positions_per_context
        if self.per_context > n_positions:
            raise ConfigError(
                f"'positions_per_context' = {self.per_context}, but a context has {n_positions} positions to take from"
            )
        self.n_contexts = -(-config.n_rows // self.per_context)
        if self.n_contexts > split.n_contexts:
            most = split.n_contexts * self.per_context
            raise CorpusError(
                f"{config.n_rows} rows asked for, but {split.n_contexts} train contexts at {self.per_context} positions each "
                f"give {most}; nothing is repeated to fill the gap: lower harvest.n_rows, raise positions_per_context (up to "
                f"{n_positions}), or give a larger corpus"
            )

    def positions(self, start: int, n_contexts: int, context_length: int) -> np.ndarray:
        """[n_contexts, per_context] sorted positions; those of one context depend on the seed and its index alone."""
        chosen = np.empty((n_contexts, self.per_context), np.int64)
        span = context_length - self.first_position
        for i in range(n_contexts):
            rng = np.random.default_rng([self.config.seed, 0, start + i])
            chosen[i] = np.sort(rng.choice(span, self.per_context, replace=False)) + self.first_position
        return chosen


def harvested(source: ActivationSource, split: Split, plan: Plan) -> Iterator[HarvestedRows]:
    """The planned rows in 2-byte floats, context by context. Raises `NumericsError` for NaN, infinity or overflow."""
    start = 0
    n_left = plan.config.n_rows
    for contexts in split.batches(plan.config.batch_contexts, limit=plan.n_contexts):
        tokens = to_tensor(contexts.tokens, source.device)
        positions = plan.positions(start, *tokens.shape)
        taken = _take(source.activations(tokens), positions)[:n_left]
        index = np.repeat(np.arange(start, start + len(tokens)), plan.per_context)
        origin = np.stack([index, positions.ravel()], axis=1)[:n_left].astype(np.uint32)
        with np.errstate(over="ignore"):
            values = taken.astype(DTYPE)
        _refuse_nonfinite(values, taken, origin)
        yield HarvestedRows(values, origin)
        start += len(tokens)
        n_left -= len(values)


def harvest(source: ActivationSource, split: Split, bos: int | None, config: HarvestConfig, path: Path) -> dict[str, object]:
    """Write the store's arrays into the draft directory `path`; returns the facts for its `Run`."""
    plan = Plan(config, split, bos)
    check_space(path, bytes_needed(config.n_rows, source.d_mlp, DTYPE.itemsize))
    total = np.zeros(source.d_mlp)
    square = 0.0

    def counted() -> Iterator[HarvestedRows]:
        nonlocal square
        with ProgressBar("harvest", config.n_rows) as bar:
            for rows in harvested(source, split, plan):
                values = rows.values.astype(np.float32)
                np.add(total, values.sum(0, dtype=np.float64), out=total)
                square += float(np.vdot(values, values))
                yield rows
                bar.advance(len(values))

    write_shuffled(path, counted(), config.n_rows, source.d_mlp, DTYPE, config.seed)
    return {
        "n_rows": config.n_rows,
        "d_mlp": source.d_mlp,
        "dtype": DTYPE.name,
        "n_contexts": plan.n_contexts,
        "mean_square_norm": square / config.n_rows,
        "square_norm_of_mean": float(np.square(total / config.n_rows).sum()),
    }


def check_space(path: Path, needed: int) -> None:
    """Raises `DiskError` where fewer than `needed` bytes are free on the disk of `path`."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise DiskError(
            f"the harvest needs {needed / 2**30:.1f} GiB at its peak, {free / 2**30:.1f} GiB are free on the disk of "
            f"{path.parent}; free some, or lower harvest.n_rows"
        )


def _take(activations: Activations, positions: np.ndarray) -> np.ndarray:
    index = torch.from_numpy(positions).to(activations.device)[..., None].expand(-1, -1, activations.shape[-1])
    return activations.gather(1, index).flatten(0, 1).float().cpu().numpy()


def _refuse_nonfinite(values: np.ndarray, taken: np.ndarray, origin: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    row, neuron = np.argwhere(bad)[0]
    context, position = origin[row]
    raise NumericsError(
        f"activation {taken[row, neuron]} of neuron {neuron} at train context {context}, position {position} "
        f"is not finite in {DTYPE.name}; the transformer is broken, or its activations exceed {np.finfo(DTYPE).max:.0f}"
    )
