"""What dictionaries are compared on: training rows in memory, scaled to a mean ‖x‖² of d_mlp, and rows held out to judge by."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measures import BATCH_SIZE, N_ROWS, Quality, measure
from sae.dictionary.base import Dictionary
from sae.errors import ConfigError
from sae.features.evaluation import EvaluateConfig, measure_splices
from sae.metrics.losses import summarize
from sae.shapes import Rows
from sae.source.transformer import load_source
from sae.storage.activations import ActivationStore
from sae.storage.tokens import TokenStore
from sae.toys.synthetic import SyntheticConfig, SyntheticRows
from sae.training.config import input_scale
from sae.training.data import mean_square

N_GLANCED = 32_768
"""Held-out rows on which the search sees L0 and FVU: the first of those that are measured in the end."""


class Subject:
    """Rows to train on and rows to judge by."""

    def __init__(self, rows: Tensor):
        """`rows` as they come; `scale` is the factor that was put on them."""
        self.scale = input_scale(mean_square(rows.split(1 << 16)), rows.shape[1])
        self.rows = rows.mul_(self.scale)

    def heldout(self) -> Iterator[Rows]:
        """Batches of rows that no training sees, scaled as `rows`; at least `N_ROWS`."""
        raise NotImplementedError

    def glance(self, dictionary: Dictionary) -> Quality:
        """Reconstruction and density alone, on few rows."""
        return measure(dictionary, self.heldout(), n_rows=N_GLANCED)

    def judge(self, dictionary: Dictionary) -> Quality:
        """All that is known, over `N_ROWS`."""
        raise NotImplementedError


class Synthetic(Subject):
    """Rows made from known features. Held-out rows are of another seed."""

    def __init__(self, config: SyntheticConfig, n_rows: int):
        self.toy = SyntheticRows(config)
        batches = islice(self.toy.batches(BATCH_SIZE, seed=0), -(-n_rows // BATCH_SIZE))
        super().__init__(torch.cat(list(batches))[:n_rows])

    def heldout(self) -> Iterator[Rows]:
        return (rows * self.scale for rows in self.toy.batches(BATCH_SIZE, seed=1))

    def judge(self, dictionary: Dictionary) -> Quality:
        return measure(dictionary, self.heldout(), directions_true=self.toy.directions)


class Activations(Subject):
    """The first rows of a pipeline's store to train on, its last ones to judge by, and its transformer on held-out tokens.

    The store's rows are of its train split in a shuffled order, so the last rows come from contexts of which others were trained
    on; the tokens of `loss recovered` are of documents that no training saw.
    """

    def __init__(self, data: Path, letter: str, n_rows: int, n_tokens: int):
        self.store = ActivationStore.open(data / letter / "activations")
        if n_rows + N_ROWS > len(self.store):
            most = len(self.store) - N_ROWS
            raise ConfigError(
                f"{n_rows} rows to train on and {N_ROWS} held out from a store of {len(self.store)}; take at most {most} rows"
            )
        self.source = load_source(data / letter / "transformer")
        self.split = TokenStore.open(data / "tokens").split("heldout")
        self.config = EvaluateConfig(n_tokens=n_tokens)
        rows = torch.from_numpy(self.store[0:n_rows]).float()
        self.mean = rows.mean(0, dtype=torch.float64).float()
        super().__init__(rows)

    def heldout(self) -> Iterator[Rows]:
        for start in range(len(self.store) - N_ROWS, len(self.store), BATCH_SIZE):
            yield torch.from_numpy(self.store[start : start + BATCH_SIZE]).float() * self.scale

    def judge(self, dictionary: Dictionary) -> Quality:
        unscaled = type(dictionary)(
            dictionary.W_enc, dictionary.b_enc / self.scale, dictionary.W_dec, dictionary.b_dec / self.scale
        )
        with torch.no_grad():
            losses = measure_splices(self.source, unscaled, self.split, self.mean, self.config).losses
        found = measure(dictionary, self.heldout())
        return found._replace(losses=summarize(losses, self.config.n_bootstrap, self.config.seed))
