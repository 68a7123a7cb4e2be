"""Training computes in the precision that it states, whatever the caller's code around it asks of torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Autocast is off while the block, or the decorated function, computes. Not around the reading of batches: an iterator may
    run a transformer that its owner wants cast."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
