"""What a transformer writes with one feature held at a value, beside what it writes without: the paper's pinned sampling."""

from dataclasses import dataclass

from sae.causal.interventions import pin
from sae.causal.sampling import sample
from sae.features.reading import Reader
from sae.shown import printable


@dataclass(frozen=True, kw_only=True)
class Steering:
    """How continuations are drawn."""

    text: str
    """What they continue; in the paper 1,2,3,4,5,6,7,8,9,10."""
    n_tokens: int = 60
    temperature: float = 1.0
    """0: always the likeliest token."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Steered:
    """Two continuations of one text from the same random numbers; bytes that are no whole character are written as \\xd8."""

    text: str
    value: float
    """That the feature was held at."""
    clean: str
    steered: str

    def __str__(self) -> str:
        rows = (("as it is", self.clean), (f"at {self.value:.3g}", self.steered))
        width = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{width}}  {self.text}[[{continuation}]]" for label, continuation in rows)


def steer(reader: Reader, feature: int, value: float, steering: Steering) -> Steered:
    """Both continuations, with `feature` held at `value` at every position but BOS.

    Raises `ConfigError` for text without a token, a feature that is not there, a temperature below 0.
    """
    change, tokens = pin(reader.dictionary, feature, value), reader.tokens
    start = [] if tokens.bos is None else [tokens.bos]
    prefix = start + reader.ids(steering.text)
    written = []
    for each in (None, change):
        ids = sample(
            reader.source,
            prefix,
            steering.n_tokens,
            temperature=steering.temperature,
            seed=steering.seed,
            change=each,
            bos=tokens.bos,
            n_vocab=len(tokens.vocabulary),
        )
        written.append(printable(b"".join(tokens.vocabulary[i] for i in ids)))
    return Steered(text=printable(steering.text.encode()), value=value, clean=written[0], steered=written[1])
