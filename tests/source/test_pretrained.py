"""Other people's transformers: a hub cache laid out by hand with synthetic weights, and folders of the user's. No network."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from sae import artefact
from sae.errors import ConfigError, UnavailableError
from sae.provenance import Run
from sae.source.pretrained import from_folder, from_hub, shuffled
from sae.source.transformer import Site, TransformerSource, load_source, write_source

NAME, COMMIT = "NeelNanda/GELU_1L512W_C4_Code", "0123456789abcdef0123456789abcdef01234567"
CONFIG: dict[str, object] = {
    "d_model": 16,
    "n_layers": 1,
    "d_mlp": 32,
    "d_head": 4,
    "n_heads": 4,
    "n_ctx": 12,
    "d_vocab": 50,
    "ln_eps": 1e-5,
    "act_fn": "gelu",
    "attn_only": False,
    "normalization": "LN",
    "tokenizer_name": "NeelNanda/gpt-neox-tokenizer-digits",
}
"""The fields of the real repository's config.json, with smaller numbers."""
SITE = Site(0, "blocks.0.mlp.hook_post")
TOKENS = torch.arange(24).view(2, 12)


def hooked_transformer_weights(seed: int = 0) -> dict[str, Tensor]:
    """A state dict as HookedTransformer saved it: per-head matrices, and a mask among them."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embed.W_E": (50, 16),
        "pos_embed.W_pos": (12, 16),
        "unembed.W_U": (16, 50),
        "unembed.b_U": (50,),
    }
    for name in "QKV":
        shapes |= {f"blocks.0.attn.W_{name}": (4, 16, 4), f"blocks.0.attn.b_{name}": (4, 4)}
    shapes |= {"blocks.0.attn.W_O": (4, 4, 16), "blocks.0.attn.b_O": (16,)}
    shapes |= {"blocks.0.mlp.W_in": (16, 32), "blocks.0.mlp.b_in": (32,)}
    shapes |= {"blocks.0.mlp.W_out": (32, 16), "blocks.0.mlp.b_out": (16,)}
    for name in ("blocks.0.ln1", "blocks.0.ln2", "ln_final"):
        shapes |= {f"{name}.w": (16,), f"{name}.b": (16,)}
    weights = {name: 0.4 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    weights["blocks.0.attn.mask"] = torch.ones(12, 12, dtype=torch.bool).tril()
    return weights


def slow_logits(weights: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """The function of those weights, by einsum, in float64."""
    w = {name: value.double() for name, value in weights.items()}

    def norm(x: Tensor, name: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.w"] + w[f"{name}.b"]

    x = w["embed.W_E"][tokens] + w["pos_embed.W_pos"]
    h = norm(x, "blocks.0.ln1")
    q, k, v = (torch.einsum("bpd,hde->bhpe", h, w[f"blocks.0.attn.W_{n}"]) + w[f"blocks.0.attn.b_{n}"][:, None] for n in "QKV")
    scores = torch.einsum("bhqe,bhke->bhqk", q, k) / 2
    pattern = scores.masked_fill(~torch.ones(12, 12, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
    mixed = torch.einsum("bhqk,bhke->bhqe", pattern, v)
    x = x + torch.einsum("bhqe,hed->bqd", mixed, w["blocks.0.attn.W_O"]) + w["blocks.0.attn.b_O"]
    pre = norm(x, "blocks.0.ln2") @ w["blocks.0.mlp.W_in"] + w["blocks.0.mlp.b_in"]
    hidden = pre * (1 + torch.erf(pre / 2**0.5)) / 2
    x = x + hidden @ w["blocks.0.mlp.W_out"] + w["blocks.0.mlp.b_out"]
    return norm(x, "ln_final") @ w["unembed.W_U"] + w["unembed.b_U"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def lay_out(cache: Path, name: str = NAME) -> Path:
    """The folder of a repository's files in the cache, at COMMIT and at the tag v1."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text(COMMIT)
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def fill_legacy(cache: Path, **changes: object) -> dict[str, Tensor]:
    folder, weights = lay_out(cache), hooked_transformer_weights()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    torch.save(weights, folder / "model_final.pth")
    return weights


def test_a_legacy_repository_from_the_cache(cache: Path) -> None:
    weights = fill_legacy(cache)
    found = from_hub(NAME, COMMIT)
    logits = TransformerSource(found.bridge, SITE).logits(TOKENS)
    torch.testing.assert_close(logits.double(), slow_logits(weights, TOKENS), atol=1e-4, rtol=1e-4)
    assert found.hub is None
    assert found.origin == f"{NAME} at {COMMIT}"


def test_a_tag_is_resolved_to_its_commit(cache: Path) -> None:
    fill_legacy(cache)
    assert from_hub(NAME, "v1").origin == f"{NAME} at {COMMIT}"


def test_half_precision_weights_without_an_unembedding_bias(cache: Path) -> None:
    """As some legacy repositories are."""
    weights = {name: value.half() if value.is_floating_point() else value for name, value in fill_legacy(cache).items()}
    del weights["unembed.b_U"]
    torch.save(weights, next(cache.rglob("model_final.pth")))
    logits = TransformerSource(from_hub(NAME, COMMIT).bridge, SITE).logits(TOKENS)
    expected = slow_logits({**weights, "unembed.b_U": torch.zeros(50)}, TOKENS)
    torch.testing.assert_close(logits.double(), expected, atol=1e-4, rtol=1e-4)


def test_its_artefact_needs_no_hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = fill_legacy(cache)
    found = from_hub(NAME, COMMIT)
    with artefact.writing(tmp_path / "transformer", Run(kind="transformer")) as draft:
        write_source(draft.path, TransformerSource(found.bridge, SITE), found.hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nowhere"))
    logits = load_source(tmp_path / "transformer").logits(TOKENS)
    torch.testing.assert_close(logits.double(), slow_logits(weights, TOKENS), atol=1e-4, rtol=1e-4)


def test_without_cache_or_hub_it_says_in_seconds_what_to_do(cache: Path, slept: list[float]) -> None:
    with pytest.raises(UnavailableError, match=rf"{NAME} at revision {COMMIT} .*hf download {NAME} --revision {COMMIT}"):
        from_hub(NAME, COMMIT)
    assert sum(slept) < 5


def test_an_unreachable_hub_too(cache: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> None:
    """Online, but nobody listens there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="out of reach"):
        from_hub(NAME, COMMIT)
    assert sum(slept) < 5


def test_a_cache_without_the_weights_is_no_cache(cache: Path) -> None:
    fill_legacy(cache)
    next(cache.rglob("model_final.pth")).unlink()
    with pytest.raises(UnavailableError, match=r"final.pth"):
        from_hub(NAME, COMMIT)


def test_a_name_that_is_none(cache: Path) -> None:
    with pytest.raises(ConfigError, match="no name of a repository"):
        from_hub("gelu 1l", COMMIT)


def test_any_other_architecture_stays_in_the_cache(cache: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 50, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}
    theirs = GPT2LMHeadModel(GPT2Config(**small)).eval()
    theirs.save_pretrained(lay_out(cache, "someone/small-gpt2"))
    found = from_hub("someone/small-gpt2", "v1")
    assert found.hub == {"name": "someone/small-gpt2", "commit": COMMIT}
    source = TransformerSource(found.bridge, Site(1, "blocks.1.mlp.hook_post"))
    assert (source.d_mlp, source.n_layers, source.context_length) == (64, 2, 32)
    with artefact.writing(tmp_path / "transformer", Run(kind="transformer")) as draft:
        write_source(draft.path, source, found.hub)
    assert not list((tmp_path / "transformer").glob("*.safetensors"))
    loaded = load_source(tmp_path / "transformer")
    with torch.no_grad():
        torch.testing.assert_close(loaded.logits(TOKENS), theirs(TOKENS).logits, atol=1e-4, rtol=1e-4)
    directions = torch.eye(64)[:3]
    gain = theirs.transformer.ln_f.weight.detach()
    x = theirs.transformer.h[1].mlp.c_proj.weight.detach()[:3]
    expected = (x - x.mean(-1, keepdim=True)) * gain @ theirs.lm_head.weight.detach().T
    weights = loaded.logit_weights(directions, 1.0)
    torch.testing.assert_close(weights, expected - expected.median(-1, keepdim=True).values, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_folder_with_a_state_dict_of_old(tmp_path: Path, suffix: str) -> None:
    weights = hooked_transformer_weights()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    if suffix == "pth":
        torch.save(weights, tmp_path / "mine.pth")
    else:
        save_file(weights, tmp_path / "mine.safetensors")
    logits = TransformerSource(from_folder(tmp_path).bridge, SITE).logits(TOKENS)
    torch.testing.assert_close(logits.double(), slow_logits(weights, TOKENS), atol=1e-4, rtol=1e-4)


def test_a_folder_with_a_state_dict_of_today_and_one_that_the_stage_wrote(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(hooked_transformer_weights(), tmp_path / "mine.pth")
    bridge = from_folder(tmp_path).bridge
    torch.save(bridge.state_dict(), tmp_path / "mine.pth")
    again = from_folder(tmp_path).bridge
    with artefact.writing(tmp_path / "stage", Run(kind="transformer")) as draft:
        write_source(draft.path, TransformerSource(again, SITE))
    third = from_folder(tmp_path / "stage").bridge
    for name, value in bridge.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        assert torch.equal(value, third.state_dict()[name])


class Unsafe:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run by the unpickler",)


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save({"embed.W_E": Unsafe()}, tmp_path / "mine.pth")
    with pytest.raises(ConfigError, match="more than tensors"):
        from_folder(tmp_path)
    assert "run by" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_model": 8, "d_head": 2}, r"do not fit its config: .*shape"),
        ({"n_layers": 2}, "do not fit its config"),
        ({"act_fn": "swiglu"}, "cannot build such a transformer.*swiglu"),
        ({"positional_embedding_type": "shortformer"}, "cannot build such a transformer.*shortformer"),
        ({"parallel_attn_mlp": True}, "asks for parallel_attn_mlp"),
        ({"n_ctx": None}, "does not say n_ctx"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    config = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(hooked_transformer_weights(), tmp_path / "mine.pth")
    with pytest.raises(ConfigError, match=said):
        from_folder(tmp_path)


def test_a_folder_without_what_it_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        from_folder(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"must hold one file of weights.*found: none"):
        from_folder(tmp_path)
    (tmp_path / "mine.pth").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match=r"config.json is missing"):
        from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ConfigError, match=r"mine.pth"):
        from_folder(tmp_path)
    (tmp_path / "other.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"found: mine.pth, other.pt"):
        from_folder(tmp_path)


def test_shuffled_weights_keep_their_numbers_and_lose_their_places(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    torch.save(hooked_transformer_weights(), tmp_path / "mine.pth")
    before = {name: value.clone() for name, value in from_folder(tmp_path).bridge.original_model.named_parameters()}
    found, again, other = (shuffled(from_folder(tmp_path), seed) for seed in (0, 0, 1))
    assert found.origin.endswith("its weights shuffled")
    moved = {
        name: dict(each.bridge.original_model.named_parameters()) for name, each in (("a", found), ("b", again), ("c", other))
    }
    for name, weight in before.items():
        assert torch.equal(moved["a"][name].flatten().sort().values, weight.flatten().sort().values)
        assert torch.equal(moved["a"][name], moved["b"][name])
        if weight.unique().numel() > 8:
            assert not torch.equal(moved["a"][name], weight)
            assert not torch.equal(moved["a"][name], moved["c"][name])
    with pytest.raises(ConfigError, match="stay in the hub's cache"):
        shuffled(found._replace(hub={"name": NAME, "commit": COMMIT}), 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 10**9}, "n_layers = 1,000,000,000 is above the limit"),
        ({"d_mlp": 10**9}, "they do not belong together"),
        ({"n_ctx": 10**7}, "they do not belong together"),
        ({"n_heads": 0}, "'n_heads' = 0"),
        ({"d_model": "16"}, "'d_model' = '16'"),
        ({"n_layers": True}, "'n_layers' = True"),
        ({"d_vocab": -50}, "'d_vocab' = -50"),
    ],
)
def test_senseless_sizes_are_told_before_memory_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], message: str
) -> None:
    monkeypatch.setattr("sae.source.transformer.boot_native", lambda config: pytest.fail("it was built"))
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file(hooked_transformer_weights(), tmp_path / "weights.safetensors")
    with pytest.raises(ConfigError, match=message):
        from_folder(tmp_path)


def test_a_deep_config_and_a_folder_for_weights_are_told(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ConfigError, match="is no file of weights"):
        from_folder(tmp_path)
    (tmp_path / "weights.safetensors").rmdir()
    save_file(hooked_transformer_weights(), tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="no JSON"):
        from_folder(tmp_path)
