"""Random numbers from a seed, for a named purpose: seeds, purposes and places in a run never share a stream."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """numpy's generator of `seed` for `purpose`, at `place` (an epoch, a step: numbers below 2**32).

    Not torch's: its CPU generator keeps 32 bits of a seed, so that seeds 2**32 apart are one. And by spawn keys, as entropy in
    lists runs together: to numpy [2**32 * a + b] is [b, a], and [b] is [b, 0]."""
    key = (zlib.crc32(purpose.encode()), *place)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
