"""Small activation stores, of rows that are given, written as the harvest writes them."""

import numpy as np

from sae.provenance import Run
from sae.storage.activations import ActivationStore
from sae.storage.layout import Layout, from_disk
from sae.storage.pieces import Sums
from sae.storage.writer import StoreWriter


def write_store(path, values, origin, *, seed=0, run=None, n_tasks=3, **sizes):
    """`values` [row, d_mlp], in a type that a store has, as a committed store."""
    layout = Layout(len(values), values.shape[1], **{"dtype": values.dtype.name, **sizes})
    with StoreWriter(path, run or Run(kind="activations"), layout, n_tasks, seed=seed) as writer:
        for task, index in enumerate(np.array_split(np.arange(len(values)), n_tasks)):
            index = index[np.argsort(writer.place(index))]
            records = np.empty(len(index), layout.record)
            records["place"], records["origin"], records["values"] = writer.place(index), origin[index], values[index]
            writer.put(task, records, Sums.of(from_disk(values[index], layout.dtype)))
        assert writer.join() == 0
        writer.shuffle()
        writer.commit({})
    return ActivationStore.open(path)


def small_store(path, seed=0, **sizes):
    """100 rows of 4 numbers in 7 chunks, 2 shards; returns its path."""
    values = np.random.default_rng(seed).normal(size=(100, 4)).astype(np.float16)
    origin = np.stack([np.arange(100) // 10, np.arange(100) % 10], axis=1).astype(np.uint32)
    write_store(path, values, origin, chunk_rows=16, chunks_per_shard=4, **sizes)
    return path
