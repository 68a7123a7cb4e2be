"""The fast path to a site is transformer_lens's own pass to the hook, over every shape that it takes, and is left to
transformer_lens everywhere else."""

import copy
import warnings
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sae.errors import ConfigError
from sae.source import fast_site as module
from sae.source.fast_forward import FastForward
from sae.source.fast_site import PLACES, shape_of, weights_of
from sae.source.transformer import Site, TransformerSource, build_native, load_weights
from sae.source.transformer_config import TransformerConfig, fields_to_train
from tests.source.test_pretrained import CONFIG, hooked_transformer_weights

N_VOCAB, LENGTH = 50, 12


@cache
def shared_bridge(n_layers: int, activation: str, norm: str = "LN") -> Any:
    """For tests that leave it as it is."""
    return bridge_of(n_layers, activation, normalization_type=norm)


def bridge_of(n_layers: int = 1, activation: str = "relu", **changes: object) -> Any:
    """Random weights, biases and gains, so that no term hides behind a zero or a one."""
    params = TransformerConfig(n_layers=n_layers, d_model=16, d_mlp=32, n_heads=4)
    fields = {**fields_to_train(params, N_VOCAB, LENGTH), "act_fn": activation, **changes}
    bridge = build_native(fields, seed=1)
    shake(bridge, seed=2)
    return bridge


def shake(bridge: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def some_tokens(n_contexts: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(0, N_VOCAB, (n_contexts, length), generator=torch.Generator().manual_seed(3))


def oracle(source: TransformerSource, tokens: Tensor) -> Tensor:
    """transformer_lens's whole pass, nothing stopped."""
    seen: list[Tensor] = []
    with torch.no_grad():
        source.bridge.run_with_hooks(tokens, fwd_hooks=[(source.site.hook, lambda x, hook: seen.append(x.clone()))])
    return seen[0]


def source_at(bridge: Any, layer: int = 0, name: str = "mlp.hook_post") -> TransformerSource:
    return TransformerSource(bridge, Site(layer, f"blocks.{layer}.{name}"))


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert float((found - expected).norm()) <= 2e-6 * float(expected.norm())


def closed(source: TransformerSource, monkeypatch: pytest.MonkeyPatch) -> TransformerSource:
    """`source` with transformer_lens's way shut: what comes from it came by the fast path."""

    def refuse(*args: object) -> Tensor:
        raise AssertionError("the slow way was taken")

    monkeypatch.setattr(source, "_stopped_at", refuse)
    return source


TAKEN = [
    [list(range(LENGTH))] * 3,  # all
    [[0]] * 3,
    [[LENGTH - 1], [0], [5]],  # one, another in each context
    [[1, 4, 11, 6], [0, 2, 3, 3], [11, 7, 0, 10]],  # in any order, twice
    [[], [], []],
]


@pytest.mark.parametrize("norm", ["LN", "LNPre"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new", "silu", "solu", "solu_ln"])
@pytest.mark.parametrize(("n_layers", "layer"), [(1, 0), (2, 0), (2, 1)])
def test_it_is_transformer_lenss(n_layers: int, layer: int, activation: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_at(shared_bridge(n_layers, activation, norm), layer)
    expected = oracle(source, some_tokens())
    closed(source, monkeypatch)
    assert_near(source.activations(some_tokens()), expected)
    for positions in TAKEN:
        some = torch.from_numpy(expected.numpy()[np.arange(3)[:, None], np.array(positions, int)])
        for activations_at in (source.activations_at, source.frozen().activations_at):
            assert_near(activations_at(some_tokens(), torch.tensor(positions, dtype=torch.int64)), some)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (activation, name)
        for activation in ("relu", "solu_ln")
        for name in PLACES
        if activation == "solu_ln" or ".ln." not in name
    ],
)
def test_every_place_that_it_knows(activation: str, layer: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_at(shared_bridge(2, activation), layer, name)
    expected = oracle(source, some_tokens())
    closed(source, monkeypatch)
    assert_near(source.activations(some_tokens()), expected)
    positions = torch.tensor([[7, 0], [3, 11], [1, 2]])
    some = torch.stack([expected[i, positions[i]] for i in range(3)])
    assert_near(source.activations_at(some_tokens(), positions), some)
    assert_near(source.frozen().activations_at(some_tokens(), positions), some)


@pytest.mark.parametrize(
    "shape", [{"d_head": 8}, {"attn_scale": 2.0}, {"eps": 0.1}, {"n_key_value_heads": 4}, {"d_vocab_out": 7}]
)
def test_other_shapes_that_it_takes(shape: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_at(bridge_of(**shape))
    expected = oracle(source, some_tokens())
    assert_near(closed(source, monkeypatch).activations(some_tokens()), expected)
    assert_near(
        source.frozen().activations_at(some_tokens(), torch.tensor([[7], [0], [3]])), expected[[0, 1, 2], [7, 0, 3]][:, None]
    )


@pytest.mark.parametrize("norm", ["LN", "LNPre"])
@pytest.mark.parametrize("activation", ["gelu", "solu_ln"])
def test_a_hooked_transformers_checkpoint(activation: str, norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {key: value for key, value in CONFIG.items() if key not in ("ln_eps", "normalization", "tokenizer_name")}
    bridge = build_native({**fields, "eps": 1e-5, "act_fn": activation, "normalization_type": norm})
    weights = hooked_transformer_weights()
    weights |= {"blocks.0.mlp.ln.w": torch.rand(32), "blocks.0.mlp.ln.b": torch.rand(32)} if activation == "solu_ln" else {}
    norms = [name for name in weights if "ln" in name and "mlp" not in name and norm == "LNPre"]
    load_weights(bridge, {name: value for name, value in weights.items() if name not in norms}, "here")
    source = source_at(bridge)
    expected = oracle(source, some_tokens())
    assert_near(closed(source, monkeypatch).activations(some_tokens()), expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalization_type": "RMS"},
        {"normalization_type": "RMSPre"},
        {"normalization_type": None},
        {"positional_embedding_type": "rotary"},
        {"gated_mlp": True},
        {"n_key_value_heads": 2},
        {"attn_scores_soft_cap": 5.0},
        {"attn_scale": 3.0},
        {"attention_dir": "bidirectional"},
        {"attn_only": True},
        {"activation": "ReLU"},
    ],
    ids=str,
)
def test_what_it_does_not_know_is_transformer_lenss(changes: dict[str, Any]) -> None:
    name = "hook_resid_post" if changes.get("attn_only") else "mlp.hook_post"
    source = source_at(bridge_of(**changes), name=name)
    assert source._fast is None
    expected = oracle(source, some_tokens())
    assert_near(source.activations(some_tokens()), expected)
    assert_near(source.activations_at(some_tokens(), torch.tensor([[5], [0], [11]])), expected[torch.arange(3), [5, 0, 11], None])


def test_frozen_keys_are_those_of_the_weights_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_at(bridge_of())
    expected, positions = oracle(source, some_tokens()), torch.arange(LENGTH).expand(3, -1)
    before = source.frozen()
    assert_near(before.activations_at(some_tokens(), positions), expected)
    weights = weights_of(source.bridge)
    weights["layers.0.attn.v.weight"].data.mul_(3.0)
    assert_near(before.activations_at(some_tokens(), positions), expected)
    changed = oracle(source, some_tokens())
    assert (changed - expected).norm() > 0.01 * expected.norm()
    assert_near(source.frozen().activations_at(some_tokens(), positions), changed)


def test_a_table_that_is_wrong_is_told_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    source, positions = source_at(bridge_of()), torch.arange(LENGTH).expand(3, -1)
    right = FastForward.key_table
    monkeypatch.setattr(FastForward, "key_table", lambda self: right(self)._replace(position=right(self).position * 1.5))
    with pytest.warns(UserWarning, match="keys are multiplied, not looked up: their table gives something else here"):
        frozen = source.frozen()
    assert_near(frozen.activations_at(some_tokens(), positions), oracle(source, some_tokens()))


def test_a_hook_closes_the_frozen_fast_path_too() -> None:
    source, positions = source_at(bridge_of()), torch.arange(LENGTH).expand(3, -1)
    frozen, seen = source.frozen(), []
    hook = source.bridge.blocks[0].mlp.register_forward_hook(lambda *args: seen.append(1))
    expected = oracle(source, some_tokens())
    assert_near(frozen.activations_at(some_tokens(), positions), expected)
    hook.remove()


def test_other_hooks_are_transformer_lenss() -> None:
    source = source_at(bridge_of(2), 1, "ln2.hook_normalized")
    assert source._fast is None
    assert_near(source.activations(some_tokens()), oracle(source, some_tokens()))


def test_another_precision_is_transformer_lenss() -> None:
    source = source_at(bridge_of().to(torch.bfloat16))
    assert source._fast is None
    assert torch.equal(source.activations(some_tokens()), oracle(source, some_tokens()).float())


def add_in_place(bridge: Any) -> None:
    shake(bridge, seed=4)


def write_past_autograd(bridge: Any) -> None:
    """No version counter rises."""
    for parameter in bridge.parameters():
        parameter.data.mul_(1.5)


def assign(bridge: Any) -> None:
    """New tensors at other addresses."""
    bridge.load_state_dict({name: 1.5 * value for name, value in bridge.state_dict().items()}, assign=True)


def replace_one(bridge: Any) -> None:
    component = bridge.blocks[0].mlp.out.original_component  # beyond the site of layer 0, before that of layer 1
    component.weight = nn.Parameter(1.5 * component.weight.detach(), requires_grad=False)


def fold_norms(bridge: Any) -> None:
    bridge.enable_compatibility_mode(disable_warnings=True)


def to_half(bridge: Any) -> None:
    bridge.to(torch.bfloat16)


CHANGES = [add_in_place, write_past_autograd, assign, replace_one, fold_norms, to_half]


@pytest.mark.parametrize("norm", ["LN", "LNPre"])
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_afterwards(change: Any, norm: str) -> None:
    source = source_at(bridge_of(2, normalization_type=norm), layer=1)
    before = source.activations(some_tokens())
    change(source.bridge)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformer_lens's own
        expected = oracle(source, some_tokens()).float()
    found = source.activations(some_tokens())
    assert_near(found, expected)
    assert change is fold_norms or not torch.allclose(found, before, rtol=1e-3)


def test_hooks_put_in_afterwards_are_called() -> None:
    source = source_at(bridge_of(2), layer=1)
    clean = source.activations(some_tokens())
    source.bridge.add_hook("blocks.0.mlp.hook_post", lambda x, hook: torch.zeros_like(x))
    ablated = source.activations(some_tokens())
    assert not torch.allclose(ablated, clean, rtol=1e-3)
    assert_near(ablated, oracle(source, some_tokens()))
    source.bridge.reset_hooks()
    assert torch.equal(source.activations(some_tokens()), clean)
    handle = source.bridge.blocks[0].mlp.out.original_component.register_forward_pre_hook(lambda m, args: (args[0] * 0,))
    assert_near(source.activations(some_tokens()), ablated)
    handle.remove()


def test_hooks_put_in_before_are_called_and_it_says_that_it_is_slow() -> None:
    bridge = bridge_of(2)
    bridge.add_hook("blocks.0.mlp.hook_post", lambda x, hook: torch.zeros_like(x))
    with pytest.warns(UserWarning, match="slower than the fast path, which is closed by a hook"):
        source = source_at(bridge, layer=1)
    assert_near(source.activations(some_tokens()), oracle(source, some_tokens()))


def test_where_it_differs_transformer_lens_is_taken_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    right = FastForward.at
    monkeypatch.setattr(FastForward, "at", lambda self, *args: right(self, *args) * 1.001)
    with pytest.warns(
        UserWarning, match=r"blocks.0.mlp.hook_post come by transformer_lens.*something else here \(difference 0.0"
    ):
        source = source_at(bridge_of())
    assert_near(source.activations(some_tokens()), oracle(source, some_tokens()))


def test_where_it_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> Tensor:
        raise KeyError("layers.0.ln1.weight")

    monkeypatch.setattr(FastForward, "at", fail)
    with pytest.warns(UserWarning, match=r"fails here \(KeyError\('layers.0.ln1.weight'\)\)"):
        source = source_at(bridge_of())
    assert_near(source.activations(some_tokens()), oracle(source, some_tokens()))


def test_a_wrong_shape_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACES", {"mlp.hook_post": "mlp_out"})
    with pytest.warns(UserWarning, match=r"shape \(2, 12, 16\) here, not \(2, 12, 32\)"):
        source_at(bridge_of())


def test_a_broken_transformer_is_left_as_it_is() -> None:
    bridge = bridge_of()
    with torch.no_grad():
        next(bridge.parameters())[:] = float("nan")
    assert source_at(bridge).activations(some_tokens()).isnan().all()


def test_it_reads_no_weights_beyond_the_site() -> None:
    bridge = bridge_of(2, "solu_ln")
    needed = {name: weight for name, weight in weights_of(bridge).items() if not name.startswith(("layers.1", "ln_out", "head"))}
    needed = {name: weight for name, weight in needed.items() if "fc_out" not in name}
    found = FastForward(needed, shape_of(bridge), torch.float32).at(some_tokens(), 0, "post")
    assert_near(found.detach(), oracle(source_at(bridge), some_tokens()))


@pytest.mark.parametrize("name", ["mlp.hook_post", "hook_resid_pre", "hook_resid_post"])
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, int], name: str) -> None:
    source = source_at(bridge_of(2), 1, name)
    assert source.activations(torch.zeros(shape, dtype=torch.int64)).shape == (*shape, source.d_mlp)


@pytest.mark.parametrize("length", [1, 2, 7, 11])
def test_shorter_contexts(length: int) -> None:
    source = source_at(bridge_of(2, "gelu"), 1)
    tokens = some_tokens(length=length)
    assert_near(source.activations(tokens), oracle(source, tokens))


def test_contexts_too_long_and_unknown_tokens_are_refused() -> None:
    source = source_at(bridge_of())
    with pytest.raises(ValueError, match="13 exceeds n_ctx=12"):
        source.activations(some_tokens(length=13))
    with pytest.raises(ConfigError, match="token ids from 50 to 50 were given"):
        source.activations(torch.full((1, 3), N_VOCAB))


def test_no_gradients_and_no_random_numbers() -> None:
    bridge = bridge_of(2)
    before = torch.get_rng_state()
    source = source_at(bridge)
    bridge.requires_grad_(True)
    found = source.activations(some_tokens())
    assert not found.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    (found * torch.ones(32, requires_grad=True)).sum().backward()  # a tensor that autograd takes, none of inference mode


def test_results_are_the_callers_own() -> None:
    source = source_at(bridge_of(), name="hook_resid_pre")
    first = source.activations(some_tokens())
    kept = first.clone()
    first.zero_()
    assert torch.equal(source.activations(some_tokens()), kept)


def test_a_copy_looks_at_its_own_weights() -> None:
    source = source_at(bridge_of(2), 1)
    other = copy.deepcopy(source)
    shake(other.bridge, seed=7)
    assert_near(other.activations(some_tokens()), oracle(other, some_tokens()))
    assert not torch.allclose(other.activations(some_tokens()), source.activations(some_tokens()), rtol=1e-3)
