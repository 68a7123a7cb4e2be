"""The training loop: which contexts it sees, its schedule, that it learns, that it repeats itself, that it stops at NaN."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sae.errors import ConfigError, CorpusError, NumericsError
from sae.source.train_transformer import batches, learning_rate, train_transformer
from sae.source.transformer import build_native, fast_forward
from sae.source.transformer_config import TransformerConfig, fields_to_train
from sae.storage.tokens import Sequences

CPU = torch.device("cpu")


def config(**changes: object) -> TransformerConfig:
    small = {"d_model": 16, "d_mlp": 32, "n_heads": 2, "n_tokens": 1000, "contexts_per_batch": 4, "weight_decay": 0.01}
    return TransformerConfig(**{**small, **changes})  # type: ignore[arg-type]


def chain(n_contexts: int = 64, length: int = 16, seed: int = 0) -> np.ndarray:
    """Token t+1 is token t plus 1 or 2, modulo 20: ln 2 nats a token at best."""
    steps = np.random.default_rng(seed).integers(1, 3, size=(n_contexts, length))
    return (np.cumsum(steps, axis=1) % 20).astype(np.uint16)


def train(params: TransformerConfig, contexts: np.ndarray) -> tuple[dict[str, Tensor], float]:
    bridge = build_native(fields_to_train(params, 20, contexts.shape[1]), params.seed)
    fast = fast_forward(bridge, torch.float32)
    trained = train_transformer(list(fast.weights.values()), fast.summed_loss, Sequences.whole(contexts), params, CPU)
    return {name: weight.detach() for name, weight in fast.weights.items()}, trained.last_loss


def test_it_learns_a_chain_down_to_its_entropy() -> None:
    _, loss = train(config(n_tokens=24_000, learning_rate=0.02, contexts_per_batch=16, shards=1), chain(400))
    assert np.log(2) - 0.02 < loss < np.log(2) + 0.08


@pytest.mark.parametrize("threads", [1, 2])
def test_two_runs_give_the_same_bits_whatever_the_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        weights, _ = train(config(), chain())
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    again, _ = train(config(), chain())
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())
    other, _ = train(config(seed=1), chain())
    assert not torch.equal(weights["head.weight"], other["head.weight"])


def test_shards_add_up_to_the_whole_batch() -> None:
    """Also where they are unequal: 5 contexts in 2 shards are 3 and 2. (The gradient of a key's bias is zero but for rounding,
    which Adam blows up.)"""
    whole, _ = train(config(shards=1, contexts_per_batch=5, n_tokens=400), chain())
    parts, _ = train(config(shards=2, contexts_per_batch=5, n_tokens=400), chain())
    for name in whole.keys() - {"layers.0.attn.k.bias"}:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-4, rtol=1e-3)


def test_every_context_is_seen_once_before_any_is_seen_twice() -> None:
    contexts = np.arange(10)[:, None].repeat(3, axis=1)
    seen = np.concatenate([batch.tokens[:, 0] for batch in batches(Sequences.whole(contexts), 4, 10, seed=0)])
    assert len(seen) == 40
    for epoch in range(4):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:20])
    assert list(seen) == [c for batch in batches(Sequences.whole(contexts), 4, 10, seed=0) for c in batch.tokens[:, 0]]


def test_fewer_contexts_than_a_batch_are_refused() -> None:
    with pytest.raises(CorpusError, match="3 train contexts are fewer than one batch"):
        next(batches(Sequences.whole(np.zeros((3, 2), dtype=int)), 4, 1, seed=0))


def test_the_schedule_rises_and_falls() -> None:
    params = config(learning_rate=0.1, final_learning_rate=0.2, warmup=0.1)
    rates = [learning_rate(step, 100, params) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == pytest.approx(0.1)
    assert rates[54] == pytest.approx(0.1 * (0.2 + 0.8 / 2))  # half way down, between 1 and 0.2
    assert rates[99] == pytest.approx(0.02)
    assert max(rates) == rates[9]


def test_a_loss_of_nan_stops_before_it_reaches_the_weights() -> None:
    weight = nn.Parameter(torch.ones(2))

    def loss(tokens: Tensor, counted: Tensor | None) -> Tensor:
        return (weight * (float("nan") if 7 in tokens else 1.0)).sum()

    contexts = np.zeros((40, 4), dtype=np.uint16)
    contexts[-1] = 7
    with pytest.raises(NumericsError, match=r"became nan at step \d+; nothing is saved. Lower transformer.learning_rate"):
        train_transformer([weight], loss, Sequences.whole(contexts), config(n_tokens=200), CPU)
    assert torch.isfinite(weight).all()


def test_weight_decay_is_for_matrices_only() -> None:
    matrix, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    params = config(weight_decay=1.0, learning_rate=0.1, n_tokens=100)
    contexts = Sequences.whole(np.zeros((8, 4), dtype=int))
    train_transformer([matrix, bias], lambda tokens, counted: 0 * (matrix.sum() + bias.sum()), contexts, params, CPU)
    assert matrix.detach().max() < 0.9
    assert bias.detach().min() == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_heads": 3}, "3 does not divide 16"),
        ({"layer": 1}, r"layer 1 asked for, but the transformer has 1 \(n_layers\)"),
        ({"layer": -1}, "layer counts from 0"),
        ({"n_tokens": 0}, "n_tokens must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"warmup": 1.5}, "warmup must lie in 0 to 1"),
        ({"beta2": 1.0}, "beta2 must be at least 0 and below 1"),
        ({"source": "folder"}, "needs path"),
        ({"source": "pretrained"}, "needs name"),
        ({"source": "pretrained", "name": "a/b"}, "needs revision"),
        ({"source": "pretrained", "name": "a/b", "revision": "main"}, "'main' would let it change"),
    ],
)
def test_impossible_params_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**changes)
