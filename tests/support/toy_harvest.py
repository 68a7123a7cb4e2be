"""Harvests of a size that a test can hold, yet with several tasks, pieces, shards and chunks."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sae import harvest as harvest_module
from sae.harvest import HarvestConfig, harvest
from sae.provenance import Run
from sae.storage import layout, writer
from tests.support.toy_source import ToySource

N_ROWS = 200


def small(patch: pytest.MonkeyPatch, *, joined: bool = False, n_rows: int = N_ROWS) -> None:
    """200 rows of 16 numbers become 6 tasks and 7 shards; with `joined` the pieces are joined by twos."""
    patch.setattr(harvest_module, "TASK_BYTES", 2000)
    patch.setattr(layout, "CHUNK_BYTES", 128)
    patch.setattr(layout, "FEWEST_ROWS", 8)
    patch.setattr(layout, "CHUNKS_PER_SHARD", 4)
    n_tasks, n_shards = -(-n_rows // 35), -(-n_rows // 32)
    slice_bytes = n_rows * layout.Layout(n_rows, 16).record.itemsize / n_tasks / n_shards
    patch.setattr(writer, "SLICE_BYTES", 2.5 * slice_bytes if joined else 1)


def toy_config(**changes) -> HarvestConfig:
    return HarvestConfig(**{"n_rows": N_ROWS, "positions_per_context": 5, "batch_contexts": 7, **changes})


def toy_run(code="toy", parents=None, **changes) -> Run:
    config = toy_config(**changes)
    return Run(kind="activations", params=vars(config), seed=config.seed, parents=parents or {}, code=code, versions={})


def toy_harvest(path, tokens, source=None, *, share=None, keep=False, parents=None, code="toy", **changes) -> bool:
    """Of the train split of a token store; whether the store is committed."""
    run = toy_run(code, parents, **changes)
    given = (tokens.split("train"), tokens.bos, toy_config(**changes), path, run)
    return harvest(source or ToySource(), *given, share=share, keep=keep)


class StoppedError(Exception):
    pass


class Stopping(ToySource):
    """Raises before its `n`-th forward pass."""

    def __init__(self, n: int):
        super().__init__()
        self.n_left = n

    def activations(self, tokens):
        if self.n_left == 0:
            raise StoppedError
        self.n_left -= 1
        return super().activations(tokens)


class ByThreads(ToySource):
    """Its activations depend on the number of threads, as the last bits of a real one's may."""

    def activations(self, tokens):
        return super().activations(tokens) * torch.get_num_threads()


@contextmanager
def threads(n: int):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    yield
    torch.set_num_threads(before)


def bytes_of(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
