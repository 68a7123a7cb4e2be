"""A finished project in a temporary folder: tokens with a tokenizer, a toy transformer, dictionary, features, page, figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sae import artefact
from sae.dictionary.disk import write_dictionary
from sae.features.collect import collect
from sae.features.config import FeaturesConfig
from sae.provenance import Run
from sae.reports import write_figures
from sae.source.tokenizer import train_tokenizer
from sae.storage.tokens import TokenStore, write_tokens
from sae.web.browser import BrowserConfig, build
from tests.features.toy import random_dictionary
from tests.support.toy_source import ToySource

TEXTS = ["the cat sat on the mat", "שלום, the cat ran to the cat", "def cat(mat):\n\treturn mat"]
CONTEXT, N_VOCAB = 16, 280
METRICS = {
    "features": {"ultralow_threshold": 1e-5},
    "reconstruction": {"l0": 16.94, "n_tokens": 262144},
    "transformer": {"loss_recovered_zero": 0.939},
}


def source() -> ToySource:
    return ToySource(n_vocab=N_VOCAB, context_length=CONTEXT)


def make(root: Path, kinds: Sequence[str] = ("english", "python")) -> Path:
    """Fill `root` with data/ and reports/ for the dictionary A/1, whose features 3 and 5 never and always fire."""
    data = root / "data"
    tokens = _tokens(data / "tokens", kinds)
    with artefact.writing(data / "A/transformer", Run(kind="transformer", id="A", facts={"heldout_loss": 3.25})):
        pass
    dictionary, where = random_dictionary(), data / "A/1"
    dictionary.b_enc[3], dictionary.b_enc[5] = -1e3, 100.0
    run = Run(kind="dictionary", id="A/1", seed=7, params={"l1": 0.003}, facts={"n_steps": 12345})
    with artefact.writing(where / "dictionary", run) as draft:
        write_dictionary(dictionary, draft.path)
    parents = {"data/A/1/dictionary": artefact.digest(where / "dictionary")}
    with artefact.writing(where / "features", Run(kind="features", id="A/1", parents=parents)) as draft:
        config = FeaturesConfig(n_tokens=400, n_top=3, n_intervals=5, examples_per_interval=2, window=3, logit_min_count=1)
        table = collect(source(), dictionary, tokens, config)
        table.write(draft.path)
    parents_of_page = {"data/A/1/features": artefact.digest(where / "features")}
    with artefact.writing(where / "browser", Run(kind="browser", id="A/1", parents=parents_of_page)) as draft:
        build(table, draft.path, BrowserConfig())
    with artefact.writing(root / "reports/evaluate", Run(kind="evaluation", parents=parents)) as draft:
        write_figures(draft.path, "metrics", METRICS)
    return data


def _tokens(path: Path, kinds: Sequence[str]) -> TokenStore:
    tokenizer = train_tokenizer(TEXTS * 3, N_VOCAB)
    ids = [i for text in TEXTS * 60 for (i,) in zip(*tokenizer.encode([text]), strict=True)]
    n_contexts = len(ids) // (CONTEXT - 1)
    tokens = np.zeros((n_contexts, CONTEXT), np.uint16)
    tokens[:, 1:] = np.array(ids[: n_contexts * (CONTEXT - 1)]).reshape(n_contexts, CONTEXT - 1)
    document = np.repeat(np.arange(n_contexts, dtype=np.int32)[:, None], CONTEXT, 1)
    document[:, 0] = -1
    with artefact.writing(path, Run(kind="tokens")) as draft:
        split = (tokens, document)
        write_tokens(
            draft.path,
            {"train": split, "heldout": split},
            np.arange(n_contexts) % 2,
            kinds,
            tokenizer.vocabulary + [b""] * (N_VOCAB - len(tokenizer.vocabulary)),
            tokenizer.bos,
        )
        tokenizer.save(draft.path / "tokenizer")
    return TokenStore.open(path)
