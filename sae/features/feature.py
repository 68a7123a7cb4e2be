"""`Feature`: one row of a FeatureTable in words. Text of the corpus is data: nothing in it reaches a terminal unescaped."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy import ndarray

from sae.shown import printable


class Example(NamedTuple):
    """One place where a feature fires."""

    before: str
    """Text to the left; bytes that are no whole character appear as \\xd8."""
    token: str
    after: str
    activation: float
    context: int
    """Of the held-out split."""
    position: int
    document: int
    interval: int
    """0: a top example; 1 ... n: from the n-th interval of activation, the highest first."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What is known of one feature; `print` it."""

    id: str
    """As in the paper: A/1/3450."""
    index: int
    density: float
    """Fraction of tokens on which it fires."""
    n_active: int
    max_activation: float
    mean_activation: float
    """Over the tokens on which it fires."""
    kinds: dict[str, int]
    """Active tokens by kind of document, the most first; kinds without any are left out."""
    examples: tuple[Example, ...]
    """The top ones first, then by interval from the highest."""
    positive_logits: tuple[tuple[str, float], ...]
    """Tokens that it makes more likely, with logit weights."""
    negative_logits: tuple[tuple[str, float], ...]
    correlated_neurons: tuple[tuple[int, float], ...]
    """With Pearson correlations of activations."""
    correlated_features: tuple[tuple[str, float], ...]
    """Of the same dictionary, by their ids, with Pearson correlations of activations."""
    correlated_elsewhere: tuple[tuple[str, float], ...]
    """The same of another dictionary, where the table was made beside one (`features.other`)."""
    coefficients: tuple[tuple[int, float], ...]
    """Largest entries (neuron, value) of the unit dictionary vector."""
    encoder_bias: float
    encoder_decoder_cosine: float

    @property
    def top_examples(self) -> tuple[Example, ...]:
        return tuple(example for example in self.examples if example.interval == 0)

    def __str__(self) -> str:
        if not self.n_active:
            return f"{self.id}: never fired on the tokens looked at (encoder bias {self.encoder_bias:.3g})"
        kinds = ", ".join(f"{kind} {n / self.n_active:.0%}" for kind, n in list(self.kinds.items())[:4])
        lines = [
            f"{self.id}: density {self.density:.2e} ({self.n_active:,} tokens), max {self.max_activation:.3g}, "
            f"mean {self.mean_activation:.3g}; {kinds}",
            "  more likely: " + _logits(self.positive_logits),
            "  less likely: " + _logits(self.negative_logits),
            "  neurons:     " + _correlated(self.correlated_neurons),
            "  features:    " + _correlated(self.correlated_features),
        ]
        if self.correlated_elsewhere:
            lines.append("  elsewhere:   " + _correlated(self.correlated_elsewhere))
        lines += [
            f"  {example.activation:8.3g}  {example.before}[[{example.token}]]{example.after}"
            for example in self.top_examples[:10]
        ]
        return "\n".join(lines)


def _correlated(pairs: tuple[tuple[int, float], ...] | tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{name} (r {r:.2f})" for name, r in pairs[:3])


def _logits(pairs: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"'{token}' {value:+.2f}" for token, value in pairs[:8])


def describe(
    index: int, row: dict[str, ndarray], dictionary_id: str, kinds: tuple[str, ...], vocabulary: list[bytes], other: str = ""
) -> Feature:
    """`row` holds every column of the table at this feature; `other` is the dictionary of its `other_` columns."""
    order = np.argsort(-row["kind_counts"], kind="stable")

    def logits(name: str) -> tuple[tuple[str, float], ...]:
        pairs = zip(row[f"logit_{name}_ids"].tolist(), row[f"logit_{name}_values"].tolist(), strict=True)
        return tuple((printable(vocabulary[token]), value) for token, value in pairs if token >= 0)

    def neurons(name: str) -> tuple[tuple[int, float], ...]:
        pairs = zip(row[f"neuron_{name}_ids"].tolist(), row[f"neuron_{name}_values"].tolist(), strict=True)
        return tuple((neuron, value) for neuron, value in pairs if neuron >= 0)

    def features(name: str, of: str) -> tuple[tuple[str, float], ...]:
        pairs = zip(row[f"{name}_correlated_ids"].tolist(), row[f"{name}_correlated_values"].tolist(), strict=True)
        return tuple((f"{of}/{feature}" if of else str(feature), value) for feature, value in pairs if feature >= 0)

    return Feature(
        id=f"{dictionary_id}/{index}" if dictionary_id else str(index),
        index=index,
        density=float(row["density"]),
        n_active=int(row["n_active"]),
        max_activation=float(row["max_activation"]),
        mean_activation=float(row["mean_activation"]),
        kinds={printable(kinds[i]): int(row["kind_counts"][i]) for i in order if row["kind_counts"][i]},
        examples=tuple(_example(row, slot, vocabulary) for slot in np.flatnonzero(row["example_interval"] >= 0).tolist()),
        positive_logits=logits("top"),
        negative_logits=logits("bottom"),
        correlated_neurons=neurons("correlated"),
        correlated_features=features("feature", dictionary_id),
        correlated_elsewhere=features("other", other),
        coefficients=neurons("coefficient"),
        encoder_bias=float(row["encoder_bias"]),
        encoder_decoder_cosine=float(row["encoder_decoder_cosine"]),
    )


def _example(row: dict[str, ndarray], slot: int, vocabulary: list[bytes]) -> Example:
    ids = row["example_tokens"][slot]
    middle = len(ids) // 2

    def text(part: ndarray) -> str:
        return printable(b"".join(vocabulary[token] for token in part.tolist() if token >= 0))

    return Example(
        before=text(ids[:middle]),
        token=text(ids[middle : middle + 1]),
        after=text(ids[middle + 1 :]),
        activation=float(row["example_peak"][slot]),
        context=int(row["example_context"][slot]),
        position=int(row["example_position"][slot]),
        document=int(row["example_document"][slot]),
        interval=int(row["example_interval"][slot]),
    )
