"""All that are timed compute the same, and who does not is refused before any timing."""

from typing import Any

import pytest
import torch

from benchmarks.harvest_forward import Shape, build, check_same, contestants, shapes, timed
from sae.errors import ConfigError

SMALL: dict[str, Any] = {"n_layers": 1, "d_model": 16, "d_mlp": 32, "n_heads": 2, "d_head": 8, "n_ctx": 12, "d_vocab": 50}


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_they_compute_the_same(activation: str) -> None:
    source, tokens = build(Shape({**SMALL, "act_fn": activation, "normalization_type": "LN"}, 3, 12))
    assert source._fast is not None
    differences = check_same(contestants(source), tokens)
    assert len(differences) == 5
    assert max(differences.values()) < 1e-5


def test_who_computes_something_else_is_named() -> None:
    source, tokens = build(Shape({**SMALL, "act_fn": "relu", "normalization_type": "LN"}, 3, 12))
    forwards = {**contestants(source), "wrong": lambda tokens: source.activations(tokens) * 1.001}
    with pytest.raises(ConfigError, match=r"wrong computes something else: 0\.001"):
        check_same(forwards, tokens)


def test_a_repeat_counts_its_passes() -> None:
    calls: list[torch.Tensor] = []
    repeat = timed(lambda tokens: calls.append(tokens) or tokens, torch.zeros(1, 1, dtype=torch.int64), 3, None)
    assert (repeat.steps, len(calls), repeat.quiet) == (3, 3, True)


def test_the_shapes_are_as_said() -> None:
    assert {name: shape.n_tokens for name, shape in shapes().items()} == {"default": 4096, "context-256": 8192, "gelu-1l": 1024}
    assert shapes()["default"].fields["d_mlp"] == 512
