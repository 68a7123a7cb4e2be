"""How `features.memory_mb` is divided: at most a quarter for sums with neurons, an eighth for what is computed at a time, the
rest for what fires."""

from collections.abc import Iterator
from dataclasses import dataclass

from sae.errors import ConfigError
from sae.features.config import FeaturesConfig
from sae.features.firings import BYTES_EACH
from sae.features.table import CHUNK_FEATURES, N_BINS, N_LOGITS

MOST_FEATURES = 4096
"""Whose columns are made at a time, however large the memory. Whole chunks of the table, and whole blocks of the logits."""
ENTRY_BYTES = 16
"""Of an entry [row, feature] while it is encoded: before and after the ReLU, whether it is above 0, and its place."""
SLOT_BYTES, NEURON_BYTES, WINDOW_BYTES = 48, 48, 6
"""Of a feature's columns while they are made: for each example, for each neuron (cosines are taken in float64, and neurons sorted
by correlation and by coefficient), for each token of an example's window."""
LEAST_CHUNKS = 3
"""The memory must hold so many times what one chunk of the table and its sums take: other arrays live beside, and holes in the
heap. With 2,048 neurons that is 58 MB, and the peak of 2,048 features was 97 to 167 MB, at budgets of 64 to 512."""


@dataclass(frozen=True)
class Budget:
    """All in bytes."""

    total: int
    sums: int
    """Of the sums with neurons that are held."""
    n_held: int
    """Features whose sums are held. For others there are further passes."""

    @classmethod
    def of(cls, config: FeaturesConfig, n_features: int, d_mlp: int) -> "Budget":
        """Raises `ConfigError` where one chunk of the table and its sums have no room."""
        total, each = config.memory_mb * 2**20, 8 * d_mlp
        n_least = min(n_features, CHUNK_FEATURES)
        least = LEAST_CHUNKS * n_least * (each + column_bytes(config, d_mlp))
        if total < least:
            raise ConfigError(
                f"features.memory_mb = {config.memory_mb} is too little for the columns of {n_least:,} features over {d_mlp:,} "
                f"neurons, the fewest that are made at a time: raise it to {-(-least // 2**20):,}, and by {BYTES_EACH} bytes for "
                "each activation above 0"
            )
        n_held = min(n_features, total // 4 // each)
        return cls(total, n_held * each, n_held)

    @property
    def working(self) -> int:
        """For what is computed at a time."""
        return self.total // 8

    @property
    def firings(self) -> int:
        """For all that fires."""
        return self.total - self.sums - self.working

    @property
    def entries(self) -> int:
        """Entries [row, feature] that are encoded at a time."""
        return self.working // ENTRY_BYTES

    def blocks(self, config: FeaturesConfig, n_features: int, d_mlp: int) -> Iterator[slice]:
        """Features whose columns are made at a time: whole chunks of the table, but at the end."""
        fit = self.working // column_bytes(config, d_mlp)
        size = max(CHUNK_FEATURES, min(MOST_FEATURES, fit // CHUNK_FEATURES * CHUNK_FEATURES))
        return (slice(first, min(first + size, n_features)) for first in range(0, n_features, size))


def column_bytes(config: FeaturesConfig, d_mlp: int) -> int:
    """Of one feature's columns while they are made."""
    choice = config.choice
    slots = choice.n_slots * (SLOT_BYTES + WINDOW_BYTES * (2 * choice.window + 1))
    return slots + NEURON_BYTES * d_mlp + 16 * (N_BINS + N_LOGITS)
