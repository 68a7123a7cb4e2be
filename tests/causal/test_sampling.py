"""Continuations beside a loop of one's own: the likeliest tokens, and counts of draws against the softmax."""

import numpy as np
import pytest
import torch

from sae.causal.interventions import pin
from sae.causal.sampling import sample
from sae.errors import ConfigError
from tests.features.toy import random_dictionary
from tests.support.toy_source import ToySource

PREFIX = [0, 7, 12, 3]


class Summing(ToySource):
    """Its activations depend on all tokens of the context, so that what is left out of one shows."""

    def activations(self, tokens):
        return super().activations(tokens).cumsum(1) / 4


def lacks(written, logits):
    """By how much any of the tokens `written` after the prefix is less likely than the likeliest there, but for BOS."""
    ids, most = list(PREFIX), 0.0
    for token in written:
        after = logits(ids)[0, -1]
        most = max(most, float(after[1:].max() - after[token]))
        ids.append(token)
    return most


def test_at_temperature_0_every_token_is_the_likeliest():
    source = Summing()
    written = sample(source, PREFIX, 6, temperature=0.0, bos=0)
    assert lacks(written, lambda ids: source.logits(torch.tensor([ids]))) < 1e-5
    assert len(set(written)) > 1


def test_pinned_the_changed_activations_are_sampled_from():
    source, dictionary = Summing(), random_dictionary()

    def pinned(ids):
        x = source.activations(torch.tensor([ids]))
        f = torch.relu((x - dictionary.b_dec) @ dictionary.W_enc[5] + dictionary.b_enc[5])
        changed = x + (4.0 - f)[..., None] * dictionary.W_dec[5]
        return source.logits(torch.tensor([ids]), lambda _: changed)

    written = sample(source, PREFIX, 6, temperature=0.0, change=pin(dictionary, 5, 4.0), bos=0)
    assert lacks(written, pinned) < 1e-5
    assert lacks(written, lambda ids: source.logits(torch.tensor([ids]))) > 1e-2, "as they are another is likelier"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_are_as_frequent_as_the_softmax_says(temperature):
    source, n = ToySource(), 1500
    logits = source.logits(torch.tensor([PREFIX]))[0, -1].double()
    p = (logits / temperature).softmax(-1).numpy()
    source.logits = lambda tokens, replace=None: logits.float()[None, None]  # the pass is not what is counted here
    drawn = np.bincount([sample(source, PREFIX, 1, temperature=temperature, seed=seed)[0] for seed in range(n)], minlength=50)
    assert (p > 5e-3).sum() >= 5
    deviation = (drawn - n * p) / np.sqrt(n * p * (1 - p))
    assert abs(deviation[n * p > 5]).max() < 4


def test_one_seed_draws_one_text_and_another_draws_another():
    source = Summing()
    assert sample(source, PREFIX, 20, seed=1) == sample(source, PREFIX, 20, seed=1) != sample(source, PREFIX, 20, seed=2)


@pytest.mark.parametrize("bos", [0, None])
def test_a_text_longer_than_the_context_is_continued_from_its_end(bos):
    source = Summing(context_length=6)
    seen = []
    source.logits = lambda tokens, replace=None: seen.append(tokens[0].tolist()) or ToySource.logits(source, tokens)
    long = [0, *range(1, 10)]
    ids = long + sample(source, long, 2, temperature=0.0, bos=bos)
    first = [0] if bos == 0 else [5 - 1]
    assert seen == [first + ids[5:10], ([0] if bos == 0 else [5]) + ids[6:11]]


def test_padding_of_the_vocabulary_and_bos_are_never_drawn():
    source = ToySource()
    source.logits = lambda tokens, replace=None: torch.tensor([9.0, 1, 2, 9, 9]).expand(1, 1, 5)
    assert sample(source, PREFIX, 3, temperature=0.0, bos=0, n_vocab=3) == [2, 2, 2]
    assert set(sample(source, PREFIX, 50, bos=0, n_vocab=3)) == {1, 2}


def test_what_cannot_be_sampled():
    with pytest.raises(ConfigError, match="no token to continue"):
        sample(ToySource(), [], 1)
    with pytest.raises(ConfigError, match="temperature = -1"):
        sample(ToySource(), PREFIX, 1, temperature=-1.0)
