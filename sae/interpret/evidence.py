"""What rules are fitted and scored on: one pass over held-out text, what fired in it, and its documents on two sides."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy import ndarray

from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.errors import CorpusError
from sae.features.firings import Firings, FiringsReader
from sae.features.passes import batches, encode, kept_rows, n_contexts
from sae.metrics.density import active_entries
from sae.source.site import ActivationSource
from sae.storage.tokens import NO_DOCUMENT, Contexts, TokenStore

MAX_CONTEXTS_PER_BATCH = 16


class Evidence(NamedTuple):
    """Contexts, with everything that fired. Token indices run over [context, position], flattened."""

    contexts: Contexts
    firings: dict[str, Firings]
    """By population: `features` and `neurons`."""
    fitting: Bool[ndarray, " token"]
    """Tokens of the documents that rules are fitted on, of those that count (`Contexts.kept`)."""
    scoring: Bool[ndarray, " token"]
    """Such tokens of the other documents."""

    @property
    def scored(self) -> Int64[ndarray, " place"]:
        """Indices of the scoring tokens, in order."""
        return np.flatnonzero(self.scoring)


@torch.no_grad()
def read(
    source: ActivationSource, dictionary: Dictionary, tokens: TokenStore, n_tokens: int, *, memory_mb: int, seed: int
) -> Evidence:
    """One pass over `n_tokens` held-out tokens, in whole contexts.

    Raises `ConfigError` where a population's firings exceed `memory_mb`, `CorpusError` where the text is of fewer than two
    documents, `NumericsError` for NaN in activations.
    """
    split = tokens.split("heldout")
    limit = n_contexts(split, n_tokens)
    sizes = {"features": dictionary.n_features, "neurons": dictionary.d_mlp}
    readers = {name: FiringsReader(size, memory_mb * 2**20, "interpret") for name, size in sizes.items()}
    seen = []
    for batch in batches(source, split, limit, label="interpret", contexts_per_batch=MAX_CONTEXTS_PER_BATCH, skip_bos=True):
        rows = kept_rows(source.activations(batch.tokens), batch)
        token = np.flatnonzero(batch.keep.flatten().cpu().numpy()) + batch.first * split.context_length
        done = (batch.first + len(batch.contexts.tokens)) / limit
        for name, values in (("features", encode(dictionary, rows)), ("neurons", rows)):
            readers[name].add(active_entries(values), token, fraction_read=done)
        seen.append(batch.contexts)
    contexts = Contexts(*(np.concatenate(parts) for parts in zip(*seen, strict=True)))
    mine, kept = side(contexts, seed), contexts.kept().ravel()
    fitting, scoring = mine & kept, ~mine & kept
    return Evidence(contexts, {name: reader.result() for name, reader in readers.items()}, fitting, scoring)


def side(contexts: Contexts, seed: int) -> Bool[ndarray, " token"]:
    """Tokens of half of the documents, drawn by chance. Raises `CorpusError` for a single document."""
    document = contexts.document.ravel()
    documents = np.unique(document[document != NO_DOCUMENT])
    if len(documents) < 2:
        raise CorpusError(
            f"{len(documents)} held-out document: rules are fitted on some and scored on others; read more of the held-out "
            "split (interpret.n_tokens), or make the tokens from more documents"
        )
    chosen = generator(seed, "documents to fit rules on").permutation(documents)[: len(documents) // 2]
    return np.isin(document, chosen)
