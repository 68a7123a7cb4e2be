"""Streams of random numbers: the same for the same, another for all else, whatever the bits of the seed."""

from sae.chance import generator


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
