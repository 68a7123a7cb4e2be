"""How well rows are mixed, counted: pairs of rows of one context in batches, beside those of an ideal shuffle."""

from itertools import islice

import numpy as np
import pytest
import torch

from sae import harvest as harvest_module
from sae.storage import layout, writer
from sae.storage.activations import ActivationStore
from tests.support.stores import make_tokens
from tests.support.toy_harvest import toy_harvest
from tests.support.toy_source import ToySource

BATCH, PER_CONTEXT, N_CONTEXTS = 8192, 10, 6554
N_ROWS = 8 * BATCH


@pytest.fixture(params=["pieces", "joined"], scope="module")
def store(request, tmp_path_factory):
    """Of 65,536 rows, 10 of each context, written by the harvest in 13 pieces (joined by fours, or not) and 16 shards."""
    folder = tmp_path_factory.mktemp("shuffle")
    tokens = make_tokens(folder / "tokens", n_train=N_CONTEXTS, n_heldout=4, context_length=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harvest_module, "TASK_BYTES", 5120 * 56)
        patch.setattr(layout, "CHUNK_BYTES", 1024 * 32)
        patch.setattr(layout, "CHUNKS_PER_SHARD", 4)
        joined = 4.5 if request.param == "joined" else 0.5
        patch.setattr(writer, "SLICE_BYTES", joined * N_ROWS * 56 / 13 / 16)
        sizes = {"n_rows": N_ROWS, "positions_per_context": PER_CONTEXT, "batch_contexts": 512}
        assert toy_harvest(folder / "store", tokens, Numbering(), **sizes)
    opened = ActivationStore.open(folder / "store")
    assert opened.layout.n_shards == 16
    return opened


class Numbering(ToySource):
    """Whose rows say which context they are of; it sees all contexts in order."""

    n_seen = 0

    def activations(self, tokens):
        contexts = torch.arange(self.n_seen, self.n_seen + len(tokens))[:, None]
        self.n_seen += len(tokens)
        rows = torch.zeros(*tokens.shape, self.d_mlp)
        rows[..., 0], rows[..., 1] = contexts // 256, contexts % 256
        return rows


def contexts_of(rows):
    return (256 * rows[:, 0] + rows[:, 1]).long().numpy()


def pairs(contexts):
    """Of rows that are of one context."""
    n = np.unique(contexts, return_counts=True)[1]
    return int((n * (n - 1) // 2).sum())


def expected(contexts):
    """In a batch drawn from all rows without regard to their contexts: each pair is in it with (B choose 2) / (N choose 2)."""
    return pairs(contexts) * BATCH * (BATCH - 1) / (N_ROWS * (N_ROWS - 1))


def test_stored_order(store):
    contexts = store.origin()[:, 0]
    found = [pairs(contexts[start : start + BATCH]) for start in range(0, N_ROWS, BATCH)]
    assert np.mean(found) <= 1.1 * expected(contexts)
    assert max(found) <= 1.1 * expected(contexts), "in no batch is it more, at this size"


def test_batches_of_later_epochs(store):
    contexts = store.origin()[:, 0]
    np.testing.assert_array_equal(contexts_of(torch.from_numpy(store[:].astype(np.float32))), contexts)
    for batch in islice(store.batches(BATCH, seed=5, start=11), 8):
        assert pairs(contexts_of(batch)) <= 1.1 * expected(contexts)


def test_the_count_tells_a_store_that_is_not_shuffled(store):
    contexts = np.sort(store.origin()[:, 0])
    assert pairs(contexts[:BATCH]) > 5 * expected(contexts)
