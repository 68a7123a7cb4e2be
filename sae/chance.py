"""Random numbers from a seed, for a named purpose: seeds, purposes and places in a run never share a stream."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *place: int) -> np.random.Generator:
    """numpy's generator of `seed` for `purpose`, at `place` (an epoch, a step: numbers below 2**32).

    Not torch's: its CPU generator keeps 32 bits of a seed, so that seeds 2**32 apart are one. And by spawn keys, as entropy in
    lists runs together: to numpy [2**32 * a + b] is [b, a], and [b] is [b, 0]."""
    key = (zlib.crc32(purpose.encode()), *place)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def mixed(value: np.ndarray) -> np.ndarray:
    """Each uint64 as another one that tells nothing of it, one to one: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def subsets(seed: int, purpose: str, first: int, n: int, size: int, of: int) -> np.ndarray:
    """Of each of `n` things, numbered from `first` on, `size` of the numbers below `of`, without replacement, sorted: int64
    [n, size]. Those of a thing depend on `seed`, `purpose` and its own number.

    SplitMix64 is read at any place of its stream: every number gets 64 bits, and those with the least are taken. 13 times as
    fast as a generator for each thing, which were a tenth of a harvest."""
    bits = subset_keys(seed, purpose, first, n, of)
    return np.sort(np.argpartition(bits, size - 1, axis=1)[:, :size], axis=1)


def subset_keys(seed: int, purpose: str, first: int, n: int, of: int) -> np.ndarray:
    """Of each of `n` things, numbered from `first` on, a random number for each below `of`: uint64 [n, of]. Those of a thing
    depend on `seed`, `purpose`, its own number and `of`."""
    key = generator(seed, purpose).integers(0, 2**64, dtype=np.uint64)
    number = np.arange(first * of, (first + n) * of, dtype=np.uint64).reshape(n, of)
    return mixed(key + (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
