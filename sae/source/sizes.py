"""How large a transformer is by its config, told before anything of that size is made."""

from typing import Any

from sae.errors import ConfigError

LARGEST_BYTES = 40_000_000_000
"""Of a transformer's float32 weights and causal masks: 10 billion parameters. Larger ones are not for one machine's memory."""
MOST_LAYERS = 1000
"""Eight times those of the deepest transformers known. Each is some dozens of objects, however narrow."""
COUNTS = ("n_layers", "d_model", "d_head", "n_heads", "n_ctx", "d_vocab")
OPTIONAL_COUNTS = ("d_mlp", "d_vocab_out", "n_key_value_heads")
"""None (or -1, in old configs) stands for what follows from the others."""


def n_parameters(fields: dict[str, Any]) -> int:
    """Entries of the matrices that `fields` (`NATIVE_FIELDS`) ask for, without biases and gains: what is there at least."""
    d_model, width = fields["d_model"], fields["d_head"] * fields["n_heads"]
    keys = fields["d_head"] * _given(fields, "n_key_value_heads", fields["n_heads"])
    layer = 2 * d_model * (width + keys)
    if not fields.get("attn_only"):
        layer += (3 if fields.get("gated_mlp") else 2) * d_model * _given(fields, "d_mlp", 4 * d_model)
    ends = fields["d_vocab"] + _given(fields, "d_vocab_out", fields["d_vocab"])
    if fields.get("positional_embedding_type", "standard") == "standard":
        ends += fields["n_ctx"]
    return fields["n_layers"] * layer + ends * d_model


def check_sizes(fields: dict[str, Any], where: str, weights_bytes: int | None = None) -> None:
    """Raises `ConfigError` for `fields` (`NATIVE_FIELDS`) whose sizes are no whole numbers above 0, ask for more than
    `MOST_LAYERS` or `LARGEST_BYTES`, or do not fit into a file of weights with `weights_bytes` bytes, at one byte each.

    `where` is what the message says of where they come from."""
    for name in (*COUNTS, *OPTIONAL_COUNTS):
        value = fields.get(name)
        if name in OPTIONAL_COUNTS and value in (None, -1):
            continue
        if type(value) is not int or value < 1:
            raise ConfigError(f"{where}: '{name}' = {value!r} must be a whole number, at least 1")
    if fields["n_layers"] > MOST_LAYERS:
        raise ConfigError(f"{where}: n_layers = {fields['n_layers']:,} is above the limit of {MOST_LAYERS:,}")
    n = n_parameters(fields)
    if weights_bytes is not None and n > weights_bytes:
        raise ConfigError(
            f"{where} claims {n:,} parameters or more, the file of weights has {weights_bytes:,} bytes: "
            "they do not belong together"
        )
    n_bytes = 4 * n + fields["n_layers"] * fields["n_ctx"] ** 2
    if n_bytes > LARGEST_BYTES:
        raise ConfigError(
            f"{where} asks for {n:,} parameters and contexts of {fields['n_ctx']:,}, {n_bytes:,} bytes of weights and masks; the "
            f"limit is {LARGEST_BYTES:,}: lower n_layers, d_model, d_mlp or the context length"
        )


def _given(fields: dict[str, Any], name: str, otherwise: int) -> int:
    value = fields.get(name)
    return otherwise if value in (None, -1) else int(value)
