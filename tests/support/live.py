"""Live feeds of a size that a test can hold."""

import numpy as np

from sae import artefact
from sae.harvest import HarvestConfig
from sae.live.rows import LiveRows
from sae.provenance import Run
from sae.storage.tokens import SPLITS, TokenStore, write_tokens
from tests.support.toy_source import ToySource

HARVEST = {"n_rows": 200, "positions_per_context": 5, "batch_contexts": 3}
BUFFER = 8 * 15
N_VOCAB = 20_000


class Prefixes(ToySource):
    """Activations depend on all tokens up to the position's own: with so many tokens no two rows of a test are equal."""

    def __init__(self, seed=0):
        super().__init__(N_VOCAB, seed=seed)

    def activations(self, tokens):
        return (self.W_E[tokens].cumsum(1) @ self.W_in).abs()


class Numbered(ToySource):
    """The activation at a position is its token's number, in each of 4 neurons."""

    n_vocab, d_mlp, context_length = 2**16, 4, 8

    def __init__(self):
        pass

    def activations(self, tokens):
        return tokens[..., None].repeat(1, 1, 4).float()


def live_rows(tokens, source=None, *, buffer_rows=BUFFER, **changes):
    config = HarvestConfig(**{**HARVEST, **changes})
    return LiveRows(source or Prefixes(), tokens.split("train"), tokens.bos, config, buffer_rows=buffer_rows)


def numbered_live_rows(path, n_rows):
    """Row i holds i, i, i, i; a context holds seven of them, after its BOS."""
    n_contexts = -(-n_rows // 7)
    numbers = np.arange(7 * n_contexts).reshape(n_contexts, 7)
    tokens = np.pad(numbers, ((0, 0), (1, 0))).astype(np.uint32)
    splits = dict.fromkeys(SPLITS, (tokens, np.zeros(tokens.shape, np.int32)))
    with artefact.writing(path, Run(kind="tokens")) as draft:
        write_tokens(draft.path, splits, np.zeros(1, np.int64), ["kind"], [b"t"] * (7 * n_contexts), 0)
    how = {"n_rows": n_rows, "positions_per_context": 7, "batch_contexts": 4, "dtype": "float32"}
    return live_rows(TokenStore.open(path), Numbered(), buffer_rows=8 * 28, **how)
