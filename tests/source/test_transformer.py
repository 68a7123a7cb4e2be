"""`TransformerSource` and the toy meet the contract; saved and read back a transformer is the same, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sae import artefact
from sae.errors import ConfigError, StoreError
from sae.provenance import Run
from sae.source.site import ActivationSource
from sae.source.transformer import Site, TransformerSource, build_native, check_fit, load_source, site_of, write_source
from sae.source.transformer_config import TransformerConfig, fields_to_train
from tests.contracts.source_contract import SourceContract
from tests.support.toy_source import ToySource

N_VOCAB, LENGTH = 50, 12


def config(**changes: object) -> TransformerConfig:
    return TransformerConfig(**{"d_model": 16, "d_mlp": 32, "n_heads": 4, **changes})  # type: ignore[arg-type]


def tiny(norm: str | None = "LN", **changes: object) -> TransformerSource:
    """Random weights, biases and gains, so that no term hides behind a zero or a one."""
    params = config(**changes)
    bridge = build_native({**fields_to_train(params, N_VOCAB, LENGTH), "normalization_type": norm}, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return TransformerSource(bridge, site_of(params))


class TestToySource(SourceContract):
    @pytest.fixture
    def source(self) -> ToySource:
        return ToySource()

    def plain_activations(self, source: ToySource, tokens: Tensor) -> Tensor:
        return torch.from_numpy(np.maximum(source.W_E.numpy()[tokens.numpy()] @ source.W_in.numpy(), 0))

    def plain_logits(self, source: ToySource, tokens: Tensor, zeroed: bool) -> Tensor:
        x = source.W_E.numpy()[tokens.numpy()]
        if not zeroed:
            x = x + self.plain_activations(source, tokens).numpy() @ source.W_out.numpy()
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return torch.from_numpy(x * source.gain.numpy() @ source.W_U.numpy())

    def write(self, source: ToySource, acts: Tensor) -> Tensor:
        return acts @ source.W_out

    def read_out(self, source: ToySource, residual: Tensor) -> Tensor:
        return (residual - residual.mean(-1, keepdim=True)) * source.gain @ source.W_U

    def logit_bias(self, source: ToySource) -> Tensor:
        return torch.zeros(source.n_vocab)


class TestTransformerSource(SourceContract):
    """Second opinions: transformer_lens's own cache and a plain hook; the weights multiplied out one by one."""

    norm: str | None = "LN"

    @pytest.fixture(params=["relu", "gelu", "solu", "solu_ln"])
    def source(self, request: pytest.FixtureRequest) -> ActivationSource:
        return tiny(self.norm, activation=request.param)

    def plain_activations(self, source: TransformerSource, tokens: Tensor) -> Tensor:
        _, cache = source.bridge.run_with_cache(tokens)
        return cache["blocks.0.mlp.hook_post"]

    def plain_logits(self, source: TransformerSource, tokens: Tensor, zeroed: bool) -> Tensor:
        module = source.bridge.blocks[0].mlp.out.original_component
        handle = module.register_forward_pre_hook(lambda module, args: (torch.zeros_like(args[0]) if zeroed else args[0],))
        with torch.no_grad():
            logits: Tensor = source.bridge(tokens, return_type="logits")
        handle.remove()
        return logits

    def write(self, source: TransformerSource, acts: Tensor) -> Tensor:
        return acts @ source.bridge.state_dict()["blocks.0.mlp.out.weight"].T

    def read_out(self, source: TransformerSource, residual: Tensor) -> Tensor:
        state = source.bridge.state_dict()
        if self.norm in ("LN", "LNPre"):
            residual = residual - residual.mean(-1, keepdim=True)
        return residual * state.get("ln_final.weight", torch.ones(16)) @ state["unembed.weight"].T

    def logit_bias(self, source: TransformerSource) -> Tensor:
        state = source.bridge.state_dict()
        return state["unembed.weight"] @ state.get("ln_final.bias", torch.zeros(16)) + state["unembed.bias"]


class TestPreNorm(TestTransformerSource):
    norm = "LNPre"

    @pytest.fixture
    def source(self) -> ActivationSource:
        return tiny(self.norm)


class TestRootMeanSquare(TestPreNorm):
    norm = "RMS"


class TestNoNorm(TestPreNorm):
    norm = None

    def test_logit_weights_say_how_the_logits_move(self, source: ActivationSource, tokens: Tensor) -> None:
        """Without a norm the logits are linear in the direction, and the factor is exactly 1."""
        one, direction = tokens[:1, :1], torch.randn(1, source.d_mlp, generator=torch.Generator().manual_seed(3))
        assert source.mean_inverse_scale(one) == 1.0
        change = (source.logits(one, lambda acts: acts + direction) - source.logits(one))[0, 0]
        weights = source.logit_weights(direction, 1.0)[0]
        torch.testing.assert_close(change - change.median(), weights, atol=1e-4, rtol=1e-4)


def test_mean_inverse_scale_is_the_mean_of_the_reciprocal() -> None:
    source = tiny()
    tokens = torch.arange(24).view(2, 12)
    _, cache = source.bridge.run_with_cache(tokens)
    x = cache["blocks.0.hook_resid_post"].double().numpy()
    assert source.mean_inverse_scale(tokens) == pytest.approx(float((1 / np.sqrt(x.var(-1) + 1e-5)).mean()), rel=1e-6)


def test_the_default_site_of_a_deeper_transformer_is_that_layers_mlp() -> None:
    source = tiny(n_layers=2, layer=1)
    tokens = torch.arange(12)[None]
    _, cache = source.bridge.run_with_cache(tokens)
    torch.testing.assert_close(source.activations(tokens), cache["blocks.1.mlp.hook_post"])
    assert not torch.allclose(source.activations(tokens), cache["blocks.0.mlp.hook_post"])


def test_a_site_with_more_than_the_norm_between_it_and_the_logits_has_no_readout() -> None:
    assert tiny(n_layers=2, layer=0).readout() is None
    assert tiny(hook="blocks.0.hook_resid_mid").readout() is None  # the MLP reads it too
    assert tiny(hook="blocks.0.ln2.hook_normalized").readout() is None
    assert tiny(n_layers=2, layer=1).readout() is not None


def test_a_site_in_the_residual_stream() -> None:
    source = tiny(hook="blocks.0.hook_mlp_out")
    assert source.d_mlp == 16
    directions = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    through_mlp = tiny().logit_weights(directions, 1.0)
    written = directions @ source.bridge.state_dict()["blocks.0.mlp.out.weight"].T
    torch.testing.assert_close(source.logit_weights(written, 1.0), through_mlp, atol=1e-4, rtol=1e-4)


def test_the_site_before_the_norm_of_solu() -> None:
    source = tiny(activation="solu_ln", hook="blocks.0.mlp.ln.hook_in")
    tokens = torch.arange(12)[None]
    after, before = tiny(activation="solu_ln").activations(tokens), source.activations(tokens)
    state = source.bridge.state_dict()
    normed = torch.nn.functional.layer_norm(before, (32,), state["blocks.0.mlp.ln.weight"], state["blocks.0.mlp.ln.bias"])
    torch.testing.assert_close(normed, after, atol=1e-5, rtol=1e-5)
    direction = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    gained = (direction - direction.mean()) * state["blocks.0.mlp.ln.weight"]
    expected = tiny(activation="solu_ln").logit_weights(gained, 1.0)
    torch.testing.assert_close(source.logit_weights(direction, 1.0), expected, atol=1e-4, rtol=1e-4)


def test_a_layer_that_it_lacks_is_refused_with_the_number_it_has() -> None:
    bridge = build_native(fields_to_train(config(), N_VOCAB, LENGTH))
    with pytest.raises(ConfigError, match=r"layer 3 asked for, but the transformer has 1 layer"):
        TransformerSource(bridge, site_of(config(source="folder", path="x", layer=3)))


def test_an_unknown_hook_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no hook point 'blocks.0.mlp.hook_pst'; the nearest are: blocks.0.mlp.hook_post"):
        tiny(hook="blocks.0.mlp.hook_pst")


def test_a_hook_of_another_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hook blocks.1.mlp.hook_post is not in layer 0"):
        tiny(n_layers=2, hook="blocks.1.mlp.hook_post")


def test_a_hook_that_is_switched_off_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hook_attn_in cannot be a site: .*use_attn_in"):
        tiny(hook="blocks.0.hook_attn_in")


def test_logit_weights_are_refused_where_they_mean_nothing() -> None:
    with pytest.raises(ConfigError, match=r"no logit weights at the hook blocks.0.ln2.hook_normalized"):
        tiny(hook="blocks.0.ln2.hook_normalized").logit_weights(torch.zeros(1, 16), 1.0)


def test_a_hook_with_an_axis_too_many_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"hook_q gives tensors of shape \(1, 1, 4, 4\)"):
        tiny(hook="blocks.0.attn.hook_q")


@pytest.mark.parametrize(("n_vocab", "length", "said"), [(51, 12, "51 token ids.* only 50"), (50, 13, "13 tokens long.* 12")])
def test_a_token_store_that_does_not_fit(n_vocab: int, length: int, said: str) -> None:
    source = tiny()
    check_fit(source, N_VOCAB, LENGTH)
    with pytest.raises(ConfigError, match=said):
        check_fit(source, n_vocab, length)


def save(source: TransformerSource, path: Path) -> Path:
    with artefact.writing(path, Run(kind="transformer", id="A", facts={"heldout_loss": 1.5})) as draft:
        write_source(draft.path, source)
    return path


def test_saved_and_loaded_it_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    source = tiny(activation="solu_ln")
    loaded = load_source(save(source, tmp_path / "transformer"))
    tokens = torch.arange(24).view(2, 12)
    assert torch.equal(loaded.logits(tokens), source.logits(tokens))
    assert (loaded.site, loaded.d_mlp, loaded.n_vocab, loaded.context_length) == (source.site, 32, N_VOCAB, LENGTH)
    assert loaded.run is not None
    assert loaded.run.facts == {"heldout_loss": 1.5}
    again = save(loaded, tmp_path / "again")
    for name in ("weights.safetensors", "config.json"):
        assert (again / name).read_bytes() == (tmp_path / "transformer" / name).read_bytes()


def test_a_damaged_weight_file_is_refused(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "transformer")
    content = bytearray((path / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "weights.safetensors").write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        load_source(path)


def test_a_missing_or_foreign_artefact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="dvc repro transformer"):
        load_source(tmp_path / "nothing")
    with artefact.writing(tmp_path / "odd", Run(kind="transformer")) as draft:
        (draft.path / "config.json").write_text(json.dumps({"form": "native"}))
    with pytest.raises(StoreError, match="no transformer that this version reads"):
        load_source(tmp_path / "odd")


def test_site_of_params() -> None:
    assert site_of(config()) == Site(0, "blocks.0.mlp.hook_post")
    assert site_of(config(hook="blocks.0.hook_mlp_out")).hook == "blocks.0.hook_mlp_out"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_gives_the_same(tmp_path: Path) -> None:
    path = save(tiny(), tmp_path / "transformer")
    here, there = load_source(path), load_source(path, "cuda")
    tokens = torch.arange(24).view(2, 12)
    torch.testing.assert_close(there.logits(tokens.cuda()).cpu(), here.logits(tokens), atol=1e-3, rtol=1e-3)


def test_seeds_that_share_their_lower_bits_give_other_weights():
    starts = [build_native(fields_to_train(config(), N_VOCAB, LENGTH), seed) for seed in (1, 1, 1 + 2**32)]
    a, b, c = (torch.cat([parameter.flatten() for parameter in bridge.parameters()]) for bridge in starts)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("changes", [{"n_layers": 10**9}, {"d_mlp": 10**12}, {"d_model": 10**9}])
def test_a_transformer_too_large_to_train_is_refused_with_its_params(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="limit"):
        config(**changes)


def test_token_ids_above_the_vocabulary_are_told() -> None:
    source = tiny()
    tokens = torch.tensor([[1, N_VOCAB]])
    for call in (source.activations, source.logits, source.loss, lambda ids: source.activations_at(ids, torch.tensor([[0]]))):
        with pytest.raises(ConfigError, match=f"token ids from 1 to {N_VOCAB}.*vocabulary has {N_VOCAB}"):
            call(tokens)
