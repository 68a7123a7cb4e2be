"""Blocks on several threads: each once, results in order, errors told only when no thread works any more."""

import multiprocessing
import threading
import time

import pytest
import torch

from sae.kernels.threads import for_blocks


@pytest.fixture(params=[1, 2, 3])
def n_threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_blocks", [0, 1, 2, 17])
def test_each_block_once_and_results_in_order(n_threads, n_blocks):
    taken = []

    def work(block):
        taken.append(block)
        time.sleep(0.001 * (block % 3))  # so that they end in another order than they began
        return block * block

    assert for_blocks(work, n_blocks) == [block * block for block in range(n_blocks)]
    assert sorted(taken) == list(range(n_blocks))


def test_results_that_cannot_be_compared(n_threads):
    """Order is of the blocks alone."""
    assert for_blocks(lambda block: {"block": block}, 3) == [{"block": 0}, {"block": 1}, {"block": 2}]


def test_as_many_threads_as_torch_uses(n_threads):
    barrier = threading.Barrier(n_threads)  # broken unless all are at work together

    def work(_):
        barrier.wait(timeout=300)
        return threading.get_ident()

    assert len(set(for_blocks(work, n_threads))) == n_threads


@pytest.mark.parametrize("failing", [0, 3, 9])
def test_an_error_ends_it_and_leaves_no_one_at_work(n_threads, failing):
    """The caller's buffers are its own again when the error reaches it."""
    at_work = []

    def work(block):
        at_work.append(block)
        try:
            if block == failing:
                raise ArithmeticError(f"block {block}")
            time.sleep(0.01)
        finally:
            at_work.remove(block)

    with pytest.raises(ArithmeticError, match=f"block {failing}"):
        for_blocks(work, 10)
    assert at_work == []
    assert for_blocks(lambda block: block, 4) == [0, 1, 2, 3]


def test_a_forked_child_has_threads_of_its_own(n_threads):
    """A fork copies the pool and none of its threads: a child that asks it waits for ever (a DataLoader worker)."""
    for_blocks(lambda block: block, 4)  # so that there is a pool to inherit
    context = multiprocessing.get_context("fork")
    answers, told = context.Pipe(duplex=False)
    child = context.Process(target=lambda: told.send(for_blocks(lambda block: block * block, 5)))
    child.start()
    try:
        assert answers.poll(20), "the child hangs"
        assert answers.recv() == [0, 1, 4, 9, 16]
        child.join(300)
        assert child.exitcode == 0
    finally:
        child.kill()
    assert for_blocks(lambda block: block, 4) == [0, 1, 2, 3]
