"""Batches: batch k is a function of the seed and of k, every row comes once an epoch, and looking aside moves nothing."""

import subprocess
import sys
from itertools import islice

import pytest
import torch

from sae.errors import ConfigError
from sae.training.data import SCALE_BATCHES, Feed, IteratorFeed, RowSource, TensorRows, mean_square
from tests.storage.test_activations import make_store, small_chunks
from tests.support.live import numbered_live_rows
from tests.support.toy_training import toy_rows

__all__ = ["small_chunks"]  # a fixture of that module's, for all tests here: stores of several chunks and shards


def numbered(n_rows, d_mlp=4):
    """Row i holds i, i, i, i."""
    return torch.arange(float(n_rows))[:, None].repeat(1, d_mlp)


@pytest.fixture(params=["tensor", "store", "live"])
def make_source(request, tmp_path):
    """Makes a source of n numbered rows."""

    def make(n_rows):
        if request.param == "live":
            return numbered_live_rows(tmp_path / "tokens", n_rows)
        return TensorRows(numbered(n_rows)) if request.param == "tensor" else make_store(tmp_path / "store", n_rows)

    return make


def ids(batches):
    return [batch[:, 0].long().tolist() for batch in batches]


def test_sources_meet_the_protocol(make_source):
    source = make_source(300)
    assert isinstance(source, RowSource)
    assert source.d_mlp == 4
    batch = next(source.batches(7))
    assert (batch.shape, batch.dtype) == ((7, 4), torch.float32)


@pytest.mark.parametrize(("n_rows", "batch"), [(300, 50), (300, 70), (301, 37), (101, 101), (100, 99), (50, 1)])
def test_entering_at_batch_k_gives_the_same_batches(make_source, n_rows, batch):
    """At batches in each of more than three epochs, odd sizes and all."""
    source = make_source(n_rows)
    n_batches = 3 * n_rows // batch + 2
    straight = ids(islice(source.batches(batch, seed=3), n_batches))
    for start in range(0, n_batches, max(1, n_batches // 9)):
        n_left = min(n_batches - start, 5)
        assert ids(islice(source.batches(batch, seed=3, start=start), n_left)) == straight[start : start + n_left]


@pytest.mark.parametrize(("n_rows", "batch"), [(300, 50), (301, 43), (64, 64), (97, 10)])
def test_every_row_once_an_epoch_in_another_order_each(make_source, n_rows, batch):
    n_batches = -(-3 * n_rows // batch)
    rows = torch.cat(list(islice(make_source(n_rows).batches(batch, seed=5), n_batches)))[:, 0].tolist()
    epochs = [rows[i * n_rows : (i + 1) * n_rows] for i in range(3)]
    assert all(sorted(epoch) == list(range(n_rows)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_another_seed_is_another_order(make_source):
    source = make_source(300)
    a, b, c = (ids(islice(source.batches(50, seed=seed), 3)) for seed in (0, 0, 1))
    assert a == b != c


def test_orders_of_all_seeds_and_epochs_differ(make_source):
    """A seed in a list of entropy runs into what follows: 2**32, epoch 0, was the order of 0, epoch 1."""
    source = make_source(100)
    seeds = (0, 1, 2**32, 2**32 + 1, 2**62)
    orders = [tuple(order) for seed in seeds for order in ids(islice(source.batches(100, seed=seed), 3))]
    assert len(set(orders)) == 3 * len(seeds)


def test_a_batch_larger_than_all_rows_is_refused(make_source):
    with pytest.raises(ConfigError, match="batches of 301 rows"):
        next(make_source(300).batches(301))


@pytest.mark.parametrize("rows", [torch.zeros(3), torch.zeros(3, 2, 1), torch.zeros(0, 4), torch.zeros(3, 4, dtype=torch.int64)])
def test_what_is_no_table_of_rows_is_refused(rows):
    with pytest.raises(ConfigError, match="floating-point tensor \\[row, d_mlp\\]"):
        TensorRows(rows)


def test_half_precision_rows_come_as_float32():
    rows = toy_rows(100).half()
    batch = next(TensorRows(rows).batches(100))
    assert batch.dtype == torch.float32
    assert sorted(batch[:, 0].tolist()) == sorted(rows[:, 0].float().tolist())


def test_order_is_the_same_in_another_process():
    code = "import torch; from sae.training.data import TensorRows; "
    code += "print(next(TensorRows(torch.arange(50.0)[:, None]).batches(50, seed=2, start=7))[:, 0].long().tolist())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(ids([next(TensorRows(numbered(50)).batches(50, seed=2, start=7))])[0])


def test_looking_at_the_first_batch_takes_none_away():
    feed, batches = Feed(TensorRows(numbered(90)), 10, 0), TensorRows(numbered(90)).batches(10, seed=0)
    expected = ids(islice(batches, 3))
    assert ids([feed.first(), feed.next(), feed.next(), feed.first(), feed.next()]) == [expected[i] for i in (0, 0, 1, 0, 2)]


def feeds():
    """A feed and an iterator's feed over the same thirty batches of ten rows."""
    batches = list(islice(TensorRows(numbered(90)).batches(10, seed=0), 30))
    return [Feed(TensorRows(numbered(90)), 10, 0), IteratorFeed(iter(batches))]


@pytest.mark.parametrize("which", [0, 1])
def test_others_leave_the_position_alone(which):
    straight, aside = feeds()[which], feeds()[which]
    first = ids([straight.first()])
    expected = ids(straight.next() for _ in range(30))
    got = []
    for k in range(30):
        if k in (0, 3, 4):
            assert len(ids(aside.others(5))) == 5
            next(iter(aside.others(3)))  # begun and left
        assert aside.position == k
        assert ids([aside.first()]) == first
        got += ids([aside.next()])
    assert got == expected


def test_others_depend_on_the_position_and_on_nothing_else():
    """A run that resumes looks at the same rows."""
    source = TensorRows(numbered(90))
    straight, resumed = Feed(source, 10, 0), Feed(source, 10, 0, start=7)
    early = ids(straight.others(4))
    for _ in range(7):
        straight.next()
    assert ids(straight.others(4)) == ids(resumed.others(4)) != early
    assert ids([straight.next()]) == ids([resumed.next()])


def test_others_are_another_order_than_training_s():
    feed = Feed(TensorRows(numbered(90)), 10, 0)
    assert ids(feed.others(9)) != ids(feed.next() for _ in range(9))


def test_others_are_another_order_than_training_s_in_any_epoch():
    feed = Feed(TensorRows(numbered(90)), 90, 0)
    (others,) = ids(feed.others(1))
    assert others not in ids(feed.next() for _ in range(4))


class KeepsThirtyTwoBits:
    """Rows in torch's own order, as another source may have them."""

    d_mlp = 4

    def batches(self, n_rows, *, seed=0, start=0):
        while True:
            yield numbered(90)[torch.randperm(90, generator=torch.Generator().manual_seed(seed + start))]


def test_others_are_another_order_of_a_source_that_keeps_32_bits_too():
    feed = Feed(KeepsThirtyTwoBits(), 90, 0)
    assert ids(feed.others(1)) != ids([feed.first()])


def test_an_iterator_s_others_are_what_comes():
    feed = feeds()[1]
    ahead = ids(feed.others(4))
    assert ids(feed.next() for _ in range(4)) == ahead


def test_an_iterator_is_entered_by_passing_over():
    batches = [torch.full((2, 3), float(k)) for k in range(6)]
    feed = IteratorFeed(iter(batches), start=4)
    assert feed.position == 4
    assert float(feed.next()[0, 0]) == 4.0
    assert float(feed.first()[0, 0]) == 0.0


def test_an_iterator_that_ends_early_is_told():
    feed = IteratorFeed(torch.ones(2, 3) for _ in range(3))
    assert len(list(feed.others(10))) == 3
    for _ in range(3):
        feed.next()
    with pytest.raises(ConfigError, match="ended after 3 batches, before the last step"):
        feed.next()
    with pytest.raises(ConfigError, match="ended after 2 batches"):
        IteratorFeed(iter([torch.ones(2, 3)] * 2), start=3)


def test_an_iterator_whose_batches_change_is_told():
    for odd in (torch.ones(1, 3), torch.ones(2, 4)):
        feed = IteratorFeed(iter([torch.ones(2, 3), odd]))
        feed.next()
        with pytest.raises(ConfigError, match=r"batch 1 is .* the first was \(2, 3\)"):
            feed.next()


@pytest.mark.parametrize("batch", [torch.ones(3), torch.ones(2, 3, dtype=torch.int64), numbered(3).numpy(), "ab"])
def test_an_iterator_of_anything_but_batches_is_told(batch):
    with pytest.raises(ConfigError, match="floating-point tensors \\[row, d_mlp\\]"):
        IteratorFeed(iter([batch]))


def test_mean_squares():
    """A source's own where it knows it, else its first batches'; the seed of the data matters to that."""
    rows = toy_rows(400)
    exact = float(rows.double().square().sum(1).mean())
    assert mean_square([rows[:1], rows[1:]]) == pytest.approx(exact, rel=1e-12)
    assert mean_square([]) == 0.0
    assert Feed(TensorRows(rows), 10, 0).mean_square_norm == pytest.approx(exact, rel=1e-12)

    class Unknowing:
        d_mlp = 8
        batches = TensorRows(rows).batches

    head = torch.cat(list(islice(TensorRows(rows).batches(10, seed=3), SCALE_BATCHES)))
    feed = Feed(Unknowing(), 10, 3)
    for _ in range(2):
        assert feed.mean_square_norm == pytest.approx(float(head.double().square().sum(1).mean()))
        feed.next()
    assert IteratorFeed(TensorRows(rows).batches(10, seed=3)).mean_square_norm == feed.mean_square_norm


def test_a_store_says_its_own_mean_square(tmp_path):
    """Row i of 300 is i four times."""
    mean_square = 4 * sum(i * i for i in range(300)) / 300
    assert Feed(make_store(tmp_path / "store"), 10, 0).mean_square_norm == pytest.approx(mean_square, rel=1e-12)
