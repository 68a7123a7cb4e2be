"""Small token stores, made in a temporary folder."""

import numpy as np

from sae import artefact
from sae.provenance import Run
from sae.storage.tokens import TokenStore, write_tokens


def make_tokens(path, *, n_vocab=50, n_train=60, n_heldout=20, context_length=16, n_kinds=3, bos=0, seed=0):
    """A token store of random ids; every context holds two documents, and document i is of kind i modulo `n_kinds`."""
    rng = np.random.default_rng(seed)
    first = 0 if bos is None else 1
    splits, n_documents = {}, 0
    for name, n_contexts in (("train", n_train), ("heldout", n_heldout)):
        tokens = rng.integers(1, n_vocab, (n_contexts, context_length))
        document = np.repeat(np.arange(2 * n_contexts).reshape(n_contexts, 2) + n_documents, context_length // 2, axis=1)
        if first:
            tokens[:, 0], document[:, 0] = bos, -1
        splits[name] = (tokens.astype(np.uint16), document.astype(np.int32))
        n_documents += 2 * n_contexts
    kinds = [f"kind{i}" for i in range(n_kinds)]
    vocabulary = [f"<{i}>".encode() for i in range(n_vocab)]
    with artefact.writing(path, Run(kind="tokens")) as draft:
        write_tokens(draft.path, splits, np.arange(n_documents) % n_kinds, kinds, vocabulary, bos)
    return TokenStore.open(path)
