"""Section `interpret`: how rules are fitted and scored."""

from dataclasses import dataclass

from sae.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class InterpretConfig:
    """Section `interpret`."""

    n_tokens: int = 393_216
    """Held-out tokens to read, in whole contexts; half of their documents are fitted on, the others scored."""
    n_units: int = 0
    """Units of each population that are scored, drawn by chance; 0: all. A report of some says so."""
    beside: tuple[str, ...] = ()
    """Further dictionaries that are scored on the same tokens beside this one, with the neurons of each other transformer: a
    smaller one (A/0), or that of a transformer with shuffled weights (S/0)."""
    n_gram: int = 3
    """Tokens of the longest gram; the token rule beside it looks at one."""
    min_count: int = 4
    """Fitting tokens that a gram must end; rarer ones back off to a shorter gram."""
    window: int = 16
    """Tokens of the windows in which a firing is to be detected."""
    min_active: int = 20
    """Units that fire on fewer scoring tokens are not counted (the paper leaves out those with fewer than 20 examples)."""
    n_intervals: int = 11
    """Levels of the stratified sample, as the paper's."""
    per_interval: int = 30
    """Tokens of each level at most."""
    n_silent: int = 210
    """Tokens of the sample on which the unit is silent; with 11 levels of 30 about the paper's 540 predictions."""
    n_top: int = 20
    """Top examples, one a document, whose tokens are all the same for a single-token unit (the paper's definition)."""
    logit_min_count: int = 10
    """Tokens rarer than this in the train split are no candidates of the logit test (features.logit_min_count)."""
    n_bootstrap: int = 1000
    """Resamplings of units behind each interval of a median."""
    memory_mb: int = 2048
    """Memory for the firings of each population, 48 bytes each while they are read."""
    seed: int = 0
    """Of the documents' sides, the samples, the shuffles, the candidates and the bootstrap."""

    def __post_init__(self) -> None:
        positive = (
            *("n_tokens", "n_gram", "min_count", "window", "min_active", "n_intervals", "per_interval", "n_silent", "n_top"),
            *("n_bootstrap", "memory_mb"),
        )
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        for name in ("logit_min_count", "seed", "n_units"):
            if getattr(self, name) < 0:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must not be negative")
