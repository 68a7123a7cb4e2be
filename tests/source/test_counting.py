"""Symbols of which some come by chance: what the pipeline says of them is what one says who chooses the positions by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sae import artefact
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError, CorpusError
from sae.features.collect import collect
from sae.features.config import FeaturesConfig
from sae.features.evaluation import EvaluateConfig, evaluate
from sae.harvest import HarvestConfig, harvest
from sae.provenance import Run
from sae.source.baselines import measure_baselines
from sae.source.contexts import TokensConfig
from sae.source.heldout import measure
from sae.source.ids import contexts_of_ids
from sae.source.train_transformer import train_transformer
from sae.source.transformer import TransformerSource, build_native, fast_forward, site_of
from sae.source.transformer_config import TransformerConfig, fields_to_train
from sae.storage.activations import ActivationStore
from sae.storage.tokens import Sequences, TokenStore

BASE, EQUALS, PAD = 10, 10, 11
ANSWER = slice(2, 4)
"""Positions at which the two digits of a sum are predicted; its contexts are a b = s s PAD PAD."""
SUM = [3, 4]


def sums(n: int = 600) -> np.ndarray:
    """[context, 7]: two digits, which nothing predicts, their sum's two digits, which all does, and padding."""
    a, b = np.random.default_rng(0).integers(0, BASE, (2, n))
    fixed = [np.full(n, EQUALS), (a + b) // BASE, (a + b) % BASE, np.full(n, PAD), np.full(n, PAD)]
    return np.stack([a, b, *fixed], axis=1)


def store(folder: Path, array: np.ndarray, **values: object) -> TokenStore:
    np.save(folder / "ids.npy", array)
    config = TokensConfig(source="ids", path=str(folder / "ids.npy"), n_vocab=None, **values)  # type: ignore[arg-type]
    with artefact.writing(folder / "tokens", Run(kind="tokens", code="test")) as draft:
        contexts_of_ids(config, draft.path)
    return TokenStore.open(folder / "tokens")


@pytest.fixture(scope="module")
def adder(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenStore, TransformerSource]:
    """A transformer trained on the sums' digits alone, by the library."""
    tokens = store(tmp_path_factory.mktemp("adder"), sums(), pad=PAD, predicted=(3, 6))
    config = TransformerConfig(d_model=32, d_mlp=64, n_heads=2, n_tokens=100_000, contexts_per_batch=64, learning_rate=0.01)
    bridge = build_native(fields_to_train(config, tokens.n_vocab, 7), 0)
    fast = fast_forward(bridge, torch.float32)
    train = tokens.split("train").sequences()
    train_transformer(list(fast.weights.values()), fast.summed_loss, train, config, torch.device("cpu"))
    return tokens, TransformerSource(bridge, site_of(config), torch.device("cpu"))


def by_hand(source: TransformerSource, tokens: torch.Tensor, replace=None) -> float:
    """Mean loss of the sums' digits."""
    return float(source.loss(tokens, replace)[:, ANSWER].double().mean())


def test_the_figures_are_those_of_positions_chosen_by_hand(adder) -> None:
    tokens, source = adder
    split = tokens.split("heldout")
    contexts = split[0 : split.n_contexts]
    ids = torch.from_numpy(contexts.tokens.astype(np.int64))
    assert (source.logits(ids)[:, ANSWER].argmax(-1) == ids[:, 3:5]).double().mean() > 0.6, "it adds digits that it never saw"
    found = measure(source, tokens.split("train").sequences(), split.sequences())
    assert found.n_heldout_tokens == 2 * split.n_contexts
    assert found.heldout_loss == pytest.approx(by_hand(source, ids), rel=1e-5)
    assert found.zero_ablated_loss == pytest.approx(by_hand(source, ids, torch.zeros_like), rel=1e-5)
    everything = measure(source, *[Sequences.whole(contexts.tokens)] * 2)
    assert everything.heldout_loss > found.heldout_loss + 1, "digits by chance and padding would have been counted"

    rows = source.activations(ids)[:, ANSWER].flatten(0, 1)
    directions = torch.nn.functional.normalize(torch.randn(96, source.d_mlp, generator=torch.Generator().manual_seed(0)), dim=1)
    dictionary = TiedBiasDictionary(directions, torch.zeros(96), directions, torch.zeros(source.d_mlp))
    told = evaluate(source, dictionary, split, EvaluateConfig(n_bootstrap=2))
    f = dictionary.encode(rows)
    assert told.densities.features.n_rows == len(rows)
    torch.testing.assert_close(told.densities.features.density, (f > 0).double().mean(0))

    def replaced(x: torch.Tensor) -> torch.Tensor:
        changed = x.clone()
        changed[:, ANSWER] = dictionary(x[:, ANSWER])
        return changed

    clean, zero, spliced = (by_hand(source, ids, replace) for replace in (None, torch.zeros_like, replaced))
    metrics = told.metrics(EvaluateConfig(n_bootstrap=2))["transformer"]
    assert metrics["n_predicted"] == len(rows)
    assert metrics["loss_reconstructed"] == pytest.approx(spliced, rel=1e-5)
    assert metrics["loss_recovered_zero"] == pytest.approx((zero - spliced) / (zero - clean), rel=1e-4)
    table = collect(source, dictionary, tokens, FeaturesConfig(n_tokens=10_000, memory_mb=64, window=2))
    assert table.n_tokens == len(rows)
    np.testing.assert_allclose(table["density"], (f > 0).double().mean(0).numpy())
    positions = table["example_position"]
    assert set(np.unique(positions[positions >= 0])) <= {2, 3}


def test_the_rows_harvested_are_those_where_the_answer_is_predicted(adder, tmp_path: Path) -> None:
    tokens, source = adder
    split = tokens.split("train")
    config = HarvestConfig(n_rows=2 * split.n_contexts, positions_per_context=5, batch_contexts=50, dtype="float32")
    harvest(source, split, tokens.bos, config, tmp_path / "rows", Run(kind="activations", code="test"))
    rows = ActivationStore.open(tmp_path / "rows")
    origin = rows.origin()
    assert len({tuple(pair) for pair in origin.tolist()}) == 2 * split.n_contexts
    assert set(origin[:, 1]) == {2, 3}
    ids = torch.from_numpy(split[0 : split.n_contexts].tokens.astype(np.int64))
    wanted = source.activations(ids)[origin[:, 0].astype(int), origin[:, 1].astype(int)]
    np.testing.assert_allclose(rows[0 : len(rows)], wanted.numpy(), rtol=1e-4, atol=1e-5)
    more = HarvestConfig(n_rows=2 * split.n_contexts + 1, positions_per_context=5)
    with pytest.raises(CorpusError, match=f"give {2 * split.n_contexts}"):
        harvest(source, split, tokens.bos, more, tmp_path / "more", Run(kind="activations", code="test"))


def test_contexts_of_unequal_length_give_what_they_have(tmp_path: Path) -> None:
    """A mask, padding, BOS that has padding's id, and contexts that come in several blocks of the forward pass."""
    from tests.support.toy_source import ToySource

    rng = np.random.default_rng(0)
    array = rng.integers(1, 9, (40, 8))
    length = rng.integers(2, 9, 40)
    array[np.arange(8) >= length[:, None]] = 0
    array[:, 0] = 0
    mask = rng.random(array.shape) < 0.7
    np.save(tmp_path / "mask.npy", mask)
    tokens = store(tmp_path, array, bos=True, pad=0, predicted_mask=str(tmp_path / "mask.npy"))
    n_rows = 0
    for name in ("train", "heldout"):
        split = tokens.split(name)
        contexts = split[0 : split.n_contexts]
        number = contexts.document[:, 1]
        wanted = np.zeros(contexts.tokens.shape, bool)
        for row, document in enumerate(number):
            for t in range(1, length[document]):
                wanted[row, t - 1] = mask[document, t]
        np.testing.assert_array_equal(contexts.counts, wanted)
        np.testing.assert_array_equal(split.sequences().predicted, wanted[:, :-1])
        if name == "train":
            n_rows = int(np.minimum(wanted[:, 1:].sum(1), 3).sum())
    split = tokens.split("train")
    kept = split[0 : split.n_contexts].kept()
    config = HarvestConfig(n_rows=n_rows, positions_per_context=3, batch_contexts=7)
    harvest(ToySource(), split, tokens.bos, config, tmp_path / "rows", Run(kind="activations", code="test"))
    origin = ActivationStore.open(tmp_path / "rows").origin()
    assert len({tuple(pair) for pair in origin.tolist()}) == n_rows
    assert kept[origin[:, 0], origin[:, 1]].all()
    np.testing.assert_array_equal(np.bincount(origin[:, 0], minlength=len(kept)), np.minimum(kept.sum(1), 3))


def test_baselines_see_what_counts_alone() -> None:
    """Of pairs 1 2 and 2 1 the second counts alone: that 1 comes after 2 is then certain, but for the smoothing."""
    contexts = np.tile([1, 2, 1, 2, 1], (50, 1))
    counted = np.zeros((50, 4), bool)
    counted[:, 1::2] = True
    losses = measure_baselines(Sequences(contexts, counted), Sequences(contexts, counted), 3)
    assert losses.unigram == pytest.approx(-np.log(100.5 / 101.5))
    assert losses.bigram < 0.05


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"pad": -1}, ConfigError, "'pad' = -1: must be a token id"),
        ({"predicted": (0, 3)}, ConfigError, "position 0 is predicted by nothing"),
        ({"predicted": (3, 2)}, ConfigError, "give the first and the last position"),
        ({"predicted": (3, 7)}, ConfigError, r"'predicted' = \[3, 7\], but the contexts of .* have the positions 0 to 6"),
        ({"predicted": (6, 6), "pad": PAD}, CorpusError, "no prediction of the train split .* counts"),
        ({"predicted_mask": "nowhere.npy"}, ConfigError, "tokens.predicted_mask = 'nowhere.npy': no such file"),
    ],
)
def test_what_cannot_count_is_refused(tmp_path: Path, values: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        store(tmp_path, sums(20), **values)


def test_a_mask_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    for bad, message in ((np.ones((20, 6), bool), "has an entry for every id"), (np.ones((20, 7)), "a mask is of bool")):
        np.save(tmp_path / "mask.npy", bad)
        with pytest.raises(CorpusError, match=message):
            store(tmp_path, sums(20), predicted_mask=str(tmp_path / "mask.npy"))
    with pytest.raises(ConfigError, match="are for source: ids"):
        TokensConfig(pad=3)
