"""Streams of random numbers: the same for the same, another for all else, whatever the bits of the seed."""

import numpy as np

from sae.chance import generator, subsets


def drawn(*how):
    return tuple(generator(*how).integers(2**63, size=4).tolist())


def test_the_same_gives_the_same():
    assert drawn(5, "rows", 1, 2) == drawn(5, "rows", 1, 2)


def test_no_two_share_a_stream():
    """Among them all that numpy's lists of entropy, and torch's 32 bits, take for one."""
    seeds = [0, 1, 2**32, 2**32 + 1, 2**33, 2**62, 2**63 - 1, 2**64]
    places = [(), (0,), (0, 0), (1,), (1, 0), (0, 1)]
    streams = {drawn(seed, purpose, *place) for seed in seeds for purpose in ("rows", "weights") for place in places}
    assert len(streams) == len(seeds) * 2 * len(places)


def splitmix64(state: int, n: int) -> list[int]:
    """Steele, Lea and Flood's generator in Python's own numbers."""
    drawn = []
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        drawn.append(z ^ (z >> 31))
    return drawn


def test_subsets_are_those_with_the_least_bits_of_splitmix64():
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]  # the published test of its seed
    key = int(generator(7, "test").integers(0, 2**64, dtype=np.uint64))
    stream = np.array(splitmix64(key, 12 * 15), dtype=object).reshape(12, 15)
    expected = [sorted(sorted(range(15), key=lambda i, bits=bits: bits[i])[:4]) for bits in stream]
    np.testing.assert_array_equal(subsets(7, "test", 0, 12, 4, 15), expected)
    np.testing.assert_array_equal(subsets(7, "test", 5, 3, 4, 15), expected[5:8])
    np.testing.assert_array_equal(subsets(7, "test", 0, 2, 15, 15), [range(15)] * 2)


def test_subsets_hold_every_pair_equally_often():
    chosen = subsets(0, "test", 0, 20_000, 3, 7)
    pairs = np.zeros((7, 7))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        np.add.at(pairs, (chosen[:, a], chosen[:, b]), 1)
    counts = pairs[np.triu_indices(7, 1)]
    expected = 20_000 * 3 / 21
    assert counts.sum() == 60_000
    assert (abs(counts - expected) < 5 * expected**0.5).all()
