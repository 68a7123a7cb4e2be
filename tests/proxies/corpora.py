"""Token stores, a source and dictionaries whose proxies and agreements can be worked out by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sae import artefact
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.provenance import Run
from sae.shapes import Activations, Tokens
from sae.storage.tokens import NO_DOCUMENT, TokenStore, write_tokens
from tests.support.toy_source import ToySource

Document = tuple[str, list[int]]
"""Its kind and its tokens."""


def pack(documents: Sequence[Document], length: int, first: int, bos: int) -> tuple[np.ndarray, np.ndarray]:
    """One context for each stretch of `length - 1` tokens of a document, BOS before it; the rest of the last is BOS too
    (all of it, where the document is empty)."""
    tokens, owners = [], []
    for number, (_, text) in enumerate(documents, start=first):
        for start in range(0, max(len(text), 1), length - 1):
            part = text[start : start + length - 1]
            padding = length - 1 - len(part)
            tokens.append([bos, *part, *[bos] * padding])
            owners.append([NO_DOCUMENT, *[number] * len(part), *[NO_DOCUMENT] * padding])
    return np.array(tokens), np.array(owners)


def write_store(
    path: Path, vocabulary: Sequence[bytes], train: Sequence[Document], heldout: Sequence[Document], length: int = 9
) -> TokenStore:
    """A committed store; the last id of the vocabulary is BOS."""
    kinds = sorted({kind for kind, _ in (*train, *heldout)})
    bos = len(vocabulary) - 1
    splits = {"train": pack(train, length, 0, bos), "heldout": pack(heldout, length, len(train), bos)}
    document_kind = np.array([kinds.index(kind) for kind, _ in (*train, *heldout)])
    with artefact.writing(path, Run(kind="tokens")) as draft:
        write_tokens(draft.path, splits, document_kind, kinds, vocabulary, bos)
    return TokenStore.open(path)


class OneHotSource(ToySource):
    """Neuron i is active, with `strength[i]`, on token i and on no other."""

    def __init__(self, strength: torch.Tensor, context_length: int = 9):
        super().__init__(n_vocab=len(strength), d_mlp=len(strength), context_length=context_length)
        self.strength = strength.float()

    def activations(self, tokens: Tokens) -> Activations:
        return torch.nn.functional.one_hot(tokens, self.n_vocab) * self.strength


def dictionary_of(weights: dict[int, dict[int, float]], n_features: int, d_mlp: int) -> TiedBiasDictionary:
    """Feature i has activation Σ_j weights[i][j] x_j; features not named are never active."""
    w_enc = torch.zeros(n_features, d_mlp)
    for feature, row in weights.items():
        for neuron, value in row.items():
            w_enc[feature, neuron] = value
    return TiedBiasDictionary(w_enc, torch.zeros(n_features), w_enc, torch.zeros(d_mlp))
