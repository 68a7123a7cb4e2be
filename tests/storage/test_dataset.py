"""`store.dataset`: the store's own batches, each once, whatever the number of workers and of ranks."""

import os
import pickle
from itertools import chain, islice

import pytest
import torch
import torch.distributed
from torch.utils.data import DataLoader

from sae.errors import ConfigError
from sae.storage import activations
from tests.storage.test_activations import make_store

N_ROWS, BATCH = 300, 35


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # more workers than there are cores


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(activations, "CHUNKS_MIXED", 3)
    return make_store(tmp_path / "store", N_ROWS)


def ids(batches):
    return [batch[:, 0].long().tolist() for batch in batches]


def loader(store, n_workers, **options):
    return DataLoader(store.dataset(BATCH, seed=2, **options), batch_size=None, num_workers=n_workers)


@pytest.mark.parametrize("n_ranks", [1, 2, 3])
@pytest.mark.parametrize("n_workers", [0, 1, 2, 3])
def test_two_epochs_by_workers_and_ranks(store, n_workers, n_ranks):
    """Each row twice, in the order of `batches`, dealt out to the ranks in turn."""
    straight = ids(islice(store.batches(BATCH, seed=2), 17))
    of_ranks = [ids(loader(store, n_workers, share=(rank, n_ranks), epochs=2)) for rank in range(n_ranks)]
    n_batches = -(-2 * N_ROWS // BATCH)
    dealt = [of_ranks[k % n_ranks][k // n_ranks] for k in range(n_batches)]
    assert sum(map(len, of_ranks)) == n_batches
    assert dealt[:17] == straight
    rows = list(chain.from_iterable(dealt))
    assert sorted(rows[:N_ROWS]) == sorted(rows[N_ROWS:]) == list(range(N_ROWS))


@pytest.mark.parametrize(("before", "after", "n_ranks"), [((3, 2), (1, 2), 2), ((2, 3), (3, 3), 3), ((0, 1), (2, 1), 1)])
def test_going_on_in_the_middle_of_an_epoch(store, before, after, n_ranks):
    """With other numbers of workers than before: (workers, batches that each rank has had)."""
    rows = []
    for rank in range(n_ranks):
        first = list(islice(loader(store, before[0], share=(rank, n_ranks), epochs=1), after[1]))
        rest = list(loader(store, after[0], share=(rank, n_ranks), epochs=1, start=after[1]))
        rows += [row for batch in ids([*first, *rest]) for row in batch]
    assert sorted(rows) == list(range(N_ROWS))


def test_lengths_are_what_comes(store):
    for n_ranks in (1, 2, 4):
        for options in ({"epochs": 1}, {"epochs": 2, "drop_last": True}, {"epochs": 1, "start": 2}):
            sets = [store.dataset(BATCH, share=(rank, n_ranks), **options) for rank in range(n_ranks)]
            assert [len(one) for one in sets] == [len(list(one)) for one in sets]
    with pytest.raises(TypeError, match="'epochs'"):
        len(store.dataset(BATCH))
    with pytest.raises(ConfigError, match="'drop_last' without 'epochs'"):
        store.dataset(BATCH, drop_last=True)


def test_dropping_the_last_gives_all_ranks_alike(store):
    sets = [store.dataset(BATCH, share=(rank, 4), epochs=1, drop_last=True) for rank in range(4)]
    assert [[len(batch) for batch in one] for one in sets] == [[BATCH, BATCH]] * 4


def test_ranks_of_the_environment_and_of_torch(store, monkeypatch, tmp_path):
    assert store.dataset(BATCH).share == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert store.dataset(BATCH).share == (1, 3)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        assert store.dataset(BATCH).share == (0, 1)
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(ConfigError, match="3/3"):
        store.dataset(BATCH, share=(3, 3))


def test_a_dataset_can_be_sent_to_workers_that_are_spawned(store):
    dataset = store.dataset(BATCH, seed=2, epochs=1)
    assert ids(pickle.loads(pickle.dumps(dataset))) == ids(dataset)
    assert os.environ.get("RANK") is None
