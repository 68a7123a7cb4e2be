"""Section `features` of params.yaml: what the feature pass reads, and what it puts into the table."""

from dataclasses import dataclass

from sae.errors import ConfigError
from sae.features.examples import Choice


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """Section `features`."""

    n_tokens: int = 262_144
    """Held-out tokens to read, in whole contexts; all of them where the split is smaller."""
    n_top: int = 20
    """Top examples of each feature, one a document."""
    n_intervals: int = 10
    """Intervals of equal width over (0, largest activation] (the paper: 11)."""
    examples_per_interval: int = 5
    """Examples drawn from each interval, one a document."""
    window: int = 8
    """Tokens shown on either side of an example's own."""
    logit_min_count: int = 10
    """Tokens rarer than this in the train split are left out of the logit lists: their unembedding is hardly trained."""
    skip_bos: bool = True
    """Leave BOS out of every statistic: the dictionary was not trained on it (harvest.skip_bos)."""
    contexts_per_batch: int = 16
    """Contexts in one forward pass."""
    ablation: bool = False
    """Fill the ablation columns: 5 µs of CPU for each firing, so some 20 s of the default run on 2 cores."""
    other: str = ""
    """Another dictionary over the same tokens, such as A/0 or B/1, of which each feature's most correlated ones are found; "" for
    none. It must be there before this stage runs: DVC does not know of it."""
    memory_mb: int = 2048
    """Memory for the pass, beside the transformer and the dictionary (`budget.py` divides it). 48 bytes for each activation above
    0, of which 2048 are enough for an L0 of 140 at 262,144 tokens; at most a quarter of it for sums with neurons: where those of
    all features, 8 bytes for each neuron, do not fit, the contexts are read again for the others."""
    seed: int = 0
    """Of the draw from intervals."""

    def __post_init__(self) -> None:
        positive = ("n_tokens", "n_top", "n_intervals", "examples_per_interval", "contexts_per_batch", "memory_mb")
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        for name in ("window", "logit_min_count", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must not be negative")
        if self.n_intervals > 127:
            raise ConfigError(f"'n_intervals' = {self.n_intervals}: at most 127")

    @property
    def choice(self) -> Choice:
        return Choice(self.n_top, self.n_intervals, self.examples_per_interval, self.window, self.seed)
