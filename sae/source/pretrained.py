"""Transformers that somebody else trained: a folder of the user's, or a repository of the hub, as a transformer_lens bridge.

A folder, and a legacy one-layer repository (NeelNanda/GELU_1L512W_C4_Code and its kin), hold the state dict of the old
HookedTransformer beside its config as JSON. transformer_lens 4 loads the latter only with the hub within reach, so it is
done here from the files themselves.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae import artefact
from sae.chance import generator
from sae.errors import ConfigError, raise_if_of_disk
from sae.paths import given
from sae.source.hub import snapshot
from sae.source.transformer import (
    CONFIG,
    HUB_PATTERNS,
    NATIVE_FIELDS,
    WEIGHTS,
    TransformerBridge,
    boot_hub,
    build_native,
    load_weights,
)

LEGACY_PATTERNS = ("config.json", "*final.pth")
"""Not all of such a repository: it holds many checkpoints too."""
OTHER_NAMES = {"normalization": "normalization_type", "ln_eps": "eps"}
NOT_NATIVE = (
    *("shortformer_pos", "parallel_attn_mlp", "scale_attn_by_inverse_layer_idx", "use_local_attn", "use_qk_norm"),
    *(
        "post_embedding_ln",
        "use_normalization_before_and_after",
        "num_experts",
        "scale_embedding",
        "rotary_adjacent_pairs",
        "rope_scaling",
    ),
)
"""Switches of old configs that change the function, and that the architecture built here does not have."""


class Found(NamedTuple):
    """A transformer, and where to take it from again."""

    bridge: TransformerBridge
    hub: dict[str, str] | None
    """name and commit, for one whose weights stay in the hub's cache; None for one whose weights are to be copied."""
    origin: str
    """For the record: the repository and commit, or what kind of folder it was."""


def shuffled(found: Found, seed: int) -> Found:
    """The same transformer with the entries of each of its weight tensors permuted among themselves, in place; a tensor's order
    depends on the seed and its name. Raises `ConfigError` for one whose weights are the hub's."""
    if found.hub is not None:
        raise ConfigError("shuffle_weights: this transformer's weights stay in the hub's cache; take one from a folder")
    with torch.no_grad():
        for name, weight in found.bridge.original_model.named_parameters():
            order = generator(seed, f"shuffled weights {name}").permutation(weight.numel())
            weight.copy_(weight.flatten()[torch.from_numpy(order).to(weight.device)].view_as(weight))
    return found._replace(origin=f"{found.origin}, its weights shuffled")


def from_folder(path: str | Path) -> Found:
    """The transformer in a folder that the `transformer` stage wrote, or in one with a state dict beside its config.json.

    Raises `ConfigError` where there is none, or where weights and config disagree.
    """
    path = given(path)
    if not path.is_dir():
        raise ConfigError(f"path: {path} is no folder; it must hold weights and {CONFIG}")
    if (path / artefact.RUN_FILE).is_file():
        run = artefact.read_run(path, "transformer")
        artefact.verify(path, run)
        config = _read_json(path / CONFIG)
        if config.get("form") != "native":
            raise ConfigError(
                f"{path} holds no weights but the name of a repository; use source: pretrained with {config.get('hub')}"
            )
        bridge = build_native(config["config"], where=str(path / CONFIG), weights=path / WEIGHTS)
        load_weights(bridge, load_file(path / WEIGHTS), str(path))
        return Found(bridge, None, "a transformer that this stage wrote")
    return Found(_from_state_dict(path, ("*.safetensors", "*.pth", "*.pt")), None, "a state dict and its config")


def from_hub(name: str, revision: str) -> Found:
    """The transformer of a hub repository: in the legacy one-layer layout, or any that transformer_lens boots.

    Raises `UnavailableError` where it lies neither in the hub's cache nor within reach.
    """
    folder = snapshot(name, revision, patterns=("config.json",))
    if "model_type" in _read_json(folder / CONFIG):
        folder = snapshot(name, revision, patterns=HUB_PATTERNS, needed=("config.json", "*.safetensors"))
        return Found(boot_hub(folder, name), {"name": name, "commit": folder.name}, f"{name} at {folder.name}")
    folder = snapshot(name, revision, patterns=LEGACY_PATTERNS, needed=LEGACY_PATTERNS)
    return Found(_from_state_dict(folder, LEGACY_PATTERNS[1:]), None, f"{name} at {folder.name}")


def _from_state_dict(folder: Path, patterns: tuple[str, ...]) -> TransformerBridge:
    """`folder` holds config.json and one file of weights."""
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise ConfigError(f"{folder} must hold one file of weights ({', '.join(patterns)}); found: {found}")
    if not files[0].is_file():
        raise ConfigError(f"{files[0]} is no file of weights")
    where = str(folder / CONFIG)
    fields, state = native_fields(_read_json(folder / CONFIG), where), _read_state(files[0])
    bridge = build_native(fields, where=where, weights=files[0])
    load_weights(bridge, state, str(files[0]))
    return bridge


def native_fields(config: dict[str, Any], where: str) -> dict[str, Any]:
    """What a HookedTransformer's (or TransformerBridge's) config, as JSON, says of the function; the rest is left out.

    Raises `ConfigError` for one that transformer_lens's own architecture cannot compute.
    """
    config = {OTHER_NAMES.get(name, name): value for name, value in config.items()}
    strange = [name for name in NOT_NATIVE if config.get(name)]
    if strange:
        raise ConfigError(f"{where} asks for {', '.join(strange)}, which the architecture built here does not have")
    missing = [name for name in ("n_layers", "d_model", "n_heads", "n_ctx", "d_vocab", "act_fn") if name not in config]
    if missing:
        raise ConfigError(f"{where} does not say {', '.join(missing)}; it must be the config of a HookedTransformer, as JSON")
    fields = {name: config[name] for name in NATIVE_FIELDS if name in config}
    if "d_head" not in fields:
        for name in ("d_model", "n_heads"):
            if type(config[name]) is not int or config[name] < 1:
                raise ConfigError(f"{where}: '{name}' = {config[name]!r} must be a whole number, at least 1")
        fields["d_head"] = config["d_model"] // config["n_heads"]
    return fields


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise_if_of_disk(error, f"reading {file}")
        raise ConfigError(f"{file} is no readable file of weights: {error}") from None
    except Exception as error:  # pickle.UnpicklingError and its kin: weights_only refuses everything but tensors
        raise ConfigError(f"{file} holds more than tensors, and is not opened (it could run code): {error}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"{file} is no state dict: it must map names to tensors")
    return state


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise_if_of_disk(error, f"reading {file}")
        raise ConfigError(f"{file} is missing or no JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold a JSON object")
    return content
