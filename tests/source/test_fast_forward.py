"""The quick forward pass is transformer_lens's function, and its hand-made loss has the gradients of autograd."""

import pytest
import torch
import torch.nn.functional as F

from sae.source.fast_forward import TOKENS_PER_SLICE, _LinearCrossEntropy, resolve
from sae.source.transformer import build_native, fast_forward
from sae.source.transformer_config import TransformerConfig, fields_to_train

ACTIVATIONS = ("relu", "gelu", "solu", "solu_ln")


def bridge_of(activation: str, n_layers: int = 2) -> torch.nn.Module:
    params = TransformerConfig(n_layers=n_layers, d_model=16, d_mlp=32, n_heads=4, activation=activation)  # type: ignore[arg-type]
    bridge = build_native(fields_to_train(params, 50, 12), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return bridge


def some_tokens() -> torch.Tensor:
    return torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_and_gradients_are_transformer_lenss(activation: str) -> None:
    bridge, tokens = bridge_of(activation), some_tokens()
    fast = fast_forward(bridge, torch.float32)
    weights = list(fast.weights.values())
    assert {id(weight) for weight in weights} == {id(weight) for weight in bridge.parameters()}
    expected = bridge(tokens, return_type="loss")
    loss = fast.summed_loss(tokens) / (3 * 11)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_in_bfloat16_it_is_near(activation: str) -> None:
    bridge, tokens = bridge_of(activation, n_layers=1), some_tokens()
    fine, coarse = fast_forward(bridge, torch.float32), fast_forward(bridge, torch.bfloat16)
    exact, rounded = fine.summed_loss(tokens), coarse.summed_loss(tokens)
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-2)
    weights = list(fine.weights.values())
    pairs = list(zip(torch.autograd.grad(exact, weights), torch.autograd.grad(rounded, weights), strict=True))
    assert {other.dtype for _, other in pairs} == {torch.float32}
    error = sum(float((one - other).square().sum()) for one, other in pairs)
    assert error < 1e-2 * sum(float(one.square().sum()) for one, _ in pairs)


def test_the_sliced_loss_equals_the_plain_one() -> None:
    """Over more tokens than a slice, in float64, against cross_entropy and its gradients, scaled as by a mean."""
    generator = torch.Generator().manual_seed(0)
    n = TOKENS_PER_SLICE * 2 + 7
    x = torch.randn(n, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 20, (n,), generator=generator)
    loss = _LinearCrossEntropy.apply(x, weight, targets) / n
    plain = F.cross_entropy(x @ weight.T, targets)
    torch.testing.assert_close(loss, plain)
    for one, other in zip(torch.autograd.grad(loss, [x, weight]), torch.autograd.grad(plain, [x, weight]), strict=True):
        torch.testing.assert_close(one, other)


def test_a_nan_shows_in_the_loss() -> None:
    bridge = bridge_of("relu", n_layers=1)
    with torch.no_grad():
        next(bridge.parameters())[:] = float("nan")
    assert torch.isnan(fast_forward(bridge, torch.float32).summed_loss(some_tokens()))


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert resolve("float32", cpu) == torch.float32
    assert resolve("bfloat16", cpu) == torch.bfloat16
    assert resolve("auto", cpu) in (torch.float32, torch.bfloat16)
