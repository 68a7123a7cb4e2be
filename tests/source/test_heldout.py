"""The table of held-out losses: evenly spread contexts, means over the same tokens, a plain verdict."""

import numpy as np
import pytest
import torch

from sae.errors import CorpusError
from sae.source.heldout import Heldout, measure, spread
from sae.storage.tokens import Sequences, Split
from tests.support.toy_source import ToySource


class FakeSplit(Split):
    """Context c holds c at every position."""

    def __init__(self, n_contexts: int, context_length: int = 4):
        self.n_contexts, self.context_length = n_contexts, context_length

    def sequences(self) -> Sequences:
        return Sequences.whole(np.arange(self.n_contexts)[:, None].repeat(self.context_length, axis=1))


def test_contexts_are_spread_over_the_whole_split() -> None:
    assert list(spread(FakeSplit(100), 20).tokens[:, 0]) == [0, 20, 40, 60, 80]
    assert list(spread(FakeSplit(3), 1000).tokens[:, 0]) == [0, 1, 2]
    assert list(spread(FakeSplit(7), 1).tokens[:, 0]) == [0]


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(CorpusError, match="held-out split holds no context"):
        spread(FakeSplit(0), 10)


def test_means_are_over_every_predicted_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.source.heldout.TOKENS_PER_BATCH", 30)  # 3 contexts of 8: batches of 3 + 3 + 1
    source = ToySource(context_length=8)
    contexts = np.random.default_rng(0).integers(0, 50, size=(7, 8))
    found = measure(source, Sequences.whole(contexts), Sequences.whole(contexts))
    tokens = torch.from_numpy(contexts)
    assert found.n_heldout_tokens == 49
    assert found.heldout_loss == pytest.approx(float(source.loss(tokens).mean()), rel=1e-5)
    assert found.zero_ablated_loss == pytest.approx(float(source.loss(tokens, torch.zeros_like).mean()), rel=1e-5)


def test_what_does_not_count_enters_no_mean() -> None:
    source = ToySource(context_length=8)
    contexts = np.random.default_rng(0).integers(0, 50, size=(7, 8))
    counted = np.random.default_rng(1).random((7, 7)) < 0.5
    found = measure(source, Sequences.whole(contexts), Sequences(contexts, counted))
    mine, tokens = torch.from_numpy(counted), torch.from_numpy(contexts)
    assert found.n_heldout_tokens == counted.sum()
    assert found.heldout_loss == pytest.approx(float(source.loss(tokens)[mine].mean()), rel=1e-5)
    assert found.zero_ablated_loss == pytest.approx(float(source.loss(tokens, torch.zeros_like)[mine].mean()), rel=1e-5)
    with pytest.raises(CorpusError, match="no prediction of the held-out contexts looked at counts"):
        measure(source, Sequences.whole(contexts), Sequences(contexts, np.zeros((7, 7), bool)))


def losses(transformer: float) -> Heldout:
    return Heldout(heldout_loss=transformer, zero_ablated_loss=5.0, unigram_loss=6.9, bigram_loss=4.6, n_heldout_tokens=1000)


def test_the_verdict() -> None:
    assert "beats the bigram clearly, by 0.400" in losses(4.2).report()
    assert "DOES NOT BEAT THE BIGRAM CLEARLY: by only 0.200" in losses(4.4).report()
    assert "DOES NOT BEAT THE BIGRAM CLEARLY: and is worse by 0.400" in losses(5.0).report()
    assert "BETTER WITHOUT ITS MLP, by 0.300" in losses(5.3).report()
    assert "WITHOUT ITS MLP" not in losses(5.0).report()
    assert losses(4.4).margin == pytest.approx(0.2)
