"""Section `claims`."""

from dataclasses import dataclass, field
from typing import Any

from sae.errors import ConfigError
from sae.proxies.hypotheses import ProxiesConfig


@dataclass(frozen=True, kw_only=True)
class ClaimsConfig:
    """Section `claims`: which hypotheses are studied, on how much text."""

    hypotheses: tuple[str, ...] = ("arabic", "hebrew", "dna", "base64-competing")
    """Of those that come with the library (`proxies.hypotheses`)."""
    own: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further ones, as in `proxies.own`."""
    other: str = ""
    """The dictionary in which the feature is looked for again, such as B/1; "" for none: then universality is not tested."""
    n_tokens: int = 262_144
    """Held-out tokens that the figures are over; half of the split where it is smaller."""
    n_choice_tokens: int = 131_072
    """Further held-out tokens, on which the best feature and the best neuron are chosen."""
    n_sample_tokens: int = 1_048_576
    """Train tokens by which the proxies know the corpus."""
    n_controls: int = 20
    """Random directions, and features of like density, that are ablated beside the feature."""
    n_continuations: int = 16
    """Texts that are continued with the feature pinned, and without."""
    continued_tokens: int = 32
    """Tokens that are drawn for each."""
    contexts_per_batch: int = 16
    """Contexts in one forward pass."""
    memory_mb: int = 2048
    """Memory for what fires."""
    n_bootstrap: int = 1000
    """Resamplings of contexts behind each interval."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_tokens", "n_choice_tokens", "n_controls", "n_continuations", "continued_tokens", "contexts_per_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"'{name}' = {getattr(self, name)}: must be at least 1")
        if self.n_bootstrap < 2:
            raise ConfigError(f"'n_bootstrap' = {self.n_bootstrap}: an interval needs at least 2 resamplings")
        self.proxies()

    def proxies(self) -> ProxiesConfig:
        """As the proxies take them. Raises `ConfigError` for a hypothesis that there is not."""
        return ProxiesConfig(
            n_tokens=self.n_choice_tokens,
            hypotheses=self.hypotheses,
            own=self.own,
            n_sample_tokens=self.n_sample_tokens,
            n_strongest=1,
            seed=self.seed,
        )
