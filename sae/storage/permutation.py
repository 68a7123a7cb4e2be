"""A random order of n things without a table of n numbers: entry i is computed, so any process can place any row by itself."""

import numpy as np

from sae.chance import generator, mixed

N_ROUNDS = 8


class Permutation:
    """A permutation of 0 ... n − 1 that depends on `seed` alone.

    A Feistel network of `N_ROUNDS` rounds on the least number of bits that holds n, each round's function a 64-bit mixer
    (`chance.mixed`) with a key of its own; numbers beyond n are sent through again until
    they fall below it ("cycle walking": Black and Rogaway 2002), fewer than two rounds on average.
    """

    def __init__(self, n: int, seed: int):
        self.n = n
        bits = max(2, (n - 1).bit_length())
        self._bits = (bits - bits // 2, bits // 2)
        self._keys = generator(seed, "place of a row").integers(0, 2**64, N_ROUNDS, dtype=np.uint64)

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """Where the things `index` (int64, each below n) come, int64."""
        return self._walk(index, back=False)

    def inverse(self, place: np.ndarray) -> np.ndarray:
        """What comes at the places `place` (int64, each below n), int64."""
        return self._walk(place, back=True)

    def _walk(self, start: np.ndarray, *, back: bool) -> np.ndarray:
        """Through the network until all are below n."""
        value = self._network(np.asarray(start).astype(np.uint64), back=back)
        beyond = np.flatnonzero(value >= self.n)
        while len(beyond):
            value[beyond] = self._network(value[beyond], back=back)
            beyond = beyond[value[beyond] >= self.n]
        return value.astype(np.int64)

    def _network(self, value: np.ndarray, *, back: bool) -> np.ndarray:
        n_left, n_right = self._bits
        left, right = value >> np.uint64(n_right), value & np.uint64(2**n_right - 1)
        for i in range(N_ROUNDS)[:: -1 if back else 1]:
            if i % 2:
                right ^= mixed(left + self._keys[i]) & np.uint64(2**n_right - 1)
            else:
                left ^= mixed(right + self._keys[i]) & np.uint64(2**n_left - 1)
        return (left << np.uint64(n_right)) | right
