"""`LiveRows`: the store's own rows without a store, each once an epoch; what is not finite; who makes them, and when.

That it can be entered at any batch, and the like, is tested in `tests/training/test_data.py`, for all sources alike."""

import threading
from itertools import islice

import numpy as np
import pytest
import torch

from sae.errors import ConfigError, CorpusError, NumericsError
from sae.live import rows as rows_module
from sae.live.ring import Ring, ahead
from sae.storage.activations import ActivationStore
from sae.training.data import RowSource
from tests.support.live import BUFFER, HARVEST, N_VOCAB, Prefixes, live_rows
from tests.support.stores import make_tokens
from tests.support.toy_harvest import toy_harvest


@pytest.fixture
def tokens(tmp_path):
    return make_tokens(tmp_path / "tokens", n_vocab=N_VOCAB)


def bytes_of(rows):
    return [row.tobytes() for row in np.ascontiguousarray(rows)]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_are_the_stores_bit_for_bit(tmp_path, tokens, dtype):
    """And each (context, position) of the plan comes once an epoch, whose end is within a batch."""
    assert toy_harvest(tmp_path / "store", tokens, Prefixes(), dtype=dtype, **HARVEST)
    store = ActivationStore.open(tmp_path / "store")
    stored = bytes_of(next(store.batches(200)).numpy())
    assert len(set(stored)) == 200
    live = live_rows(tokens, dtype=dtype)
    assert isinstance(live, RowSource)
    assert (len(live), live.d_mlp) == (200, 16)
    got = bytes_of(torch.cat(list(islice(live.batches(30, seed=1), 20))).numpy())
    epochs = [got[i : i + 200] for i in (0, 200, 400)]
    assert all(sorted(epoch) == sorted(stored) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_forward_passes_are_the_harvests_own(tokens):
    """The bits of a row may depend on what goes through the transformer with it."""

    class Recording(Prefixes):
        def activations(self, batch):
            seen.append(batch.numpy().tobytes())
            return super().activations(batch)

    seen: list[bytes] = []
    next(live_rows(tokens, Recording(), n_rows=199, batch_contexts=7, buffer_rows=8 * 35).batches(199))
    ids = tokens.split("train")[0:40].tokens.astype(np.int64)
    assert sorted(set(seen)) == sorted(ids[first : first + 7].tobytes() for first in range(0, 40, 7))


def test_scale_is_of_the_rows(tokens, monkeypatch):
    live = live_rows(tokens)
    rows = next(live.batches(200)).double()
    assert live.mean_square_norm == pytest.approx(float(rows.square().sum(1).mean()))
    monkeypatch.setattr(rows_module, "SCALE_ROWS", 100)
    sampled = [live_rows(tokens, seed=seed).mean_square_norm for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled[0] == pytest.approx(live.mean_square_norm, rel=0.3)


class Broken(Prefixes):
    """Not a number at position 9 of every third context of a forward pass."""

    def activations(self, tokens):
        activations = super().activations(tokens)
        activations[::3, 9, 3] = float("nan")
        return activations


def test_rows_not_finite_name_their_place(tokens):
    with pytest.raises(NumericsError, match=r"neuron 3 at train context \d+, position 9 \(document \d+\) is not finite"):
        next(live_rows(tokens, Broken()).batches(200))


def test_rows_not_finite_can_be_left_out(tmp_path, tokens):
    """They are those that the harvest drops; a finite row of the same forward pass comes twice instead."""
    how = {**HARVEST, "nonfinite": "drop"}
    assert toy_harvest(tmp_path / "store", tokens, Broken(), **how)
    n_dropped = ActivationStore.open(tmp_path / "store").run.facts["n_dropped"]
    live, whole = live_rows(tokens, Broken(), nonfinite="drop"), live_rows(tokens)
    got, expected = (bytes_of(next(source.batches(200)).numpy()) for source in (live, whole))
    next(islice(live.batches(200), 2, None))
    assert live.n_dropped == n_dropped > 0
    assert set(got) < set(expected)
    assert len(got) - len(set(got)) == n_dropped

    class Lost(Prefixes):
        def activations(self, tokens):
            return super().activations(tokens) * float("inf")

    with pytest.raises(NumericsError, match=r"none of the 15 rows of train contexts \d+ to \d+ is finite"):
        next(live_rows(tokens, Lost(), nonfinite="drop").batches(200))


def test_what_the_tokens_cannot_give_is_refused(tokens):
    with pytest.raises(CorpusError, match="60 train contexts at 5 positions each give 300"):
        live_rows(tokens, n_rows=301)
    with pytest.raises(ConfigError, match=f"a buffer of {BUFFER - 1} rows does not hold 8 batches"):
        live_rows(tokens, buffer_rows=BUFFER - 1)


def test_a_thread_makes_the_next_block_and_no_more():
    """Block k + 1 is begun when k is handed over, and k + 2 is not."""
    made, makers = [threading.Semaphore(0) for _ in range(9)], set()
    n_begun = 0

    def blocks():
        nonlocal n_begun
        for k in range(8):
            n_begun += 1
            makers.add(threading.get_ident())
            yield torch.full((3, 2), k)
            made[k].release()  # reached when the one after it is asked for

    coming = ahead(blocks(), "cpu")
    for k in range(6):
        assert int(next(coming)[0, 0]) == k
        assert made[k].acquire(timeout=300), "nobody makes the next one"
        assert n_begun <= k + 2
    coming.close()
    assert makers
    assert threading.get_ident() not in makers
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("live")]


def test_an_error_of_the_thread_is_the_users(tokens):
    class Dies(Prefixes):
        def activations(self, tokens):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        next(live_rows(tokens, Dies()).batches(20))


def test_a_ring_gives_back_what_was_put_in_and_frees_it():
    ring, chance, held = Ring(10, 2, torch.float32, "cpu"), np.random.default_rng(0), {}
    for step in range(200):
        n = int(chance.integers(0, 11 - len(held)))
        places = ring.reserve(n)
        assert len(set(places.tolist()) | held.keys()) == n + len(held)
        ring.put(places, torch.full((n, 2), float(step)))
        held |= dict.fromkeys(places.tolist(), step)
        out = chance.permutation(np.array(list(held), np.int64))[: int(chance.integers(0, len(held) + 1))]
        assert ring.take(out)[:, 1].tolist() == [held.pop(int(place)) for place in out]
