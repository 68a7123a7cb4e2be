"""Interventions on a real transformer beside plain hooks of transformer_lens, and its own gradient; closed forms on the toy."""

import numpy as np
import pytest
import torch

from sae.causal.interventions import (
    ablate,
    ablation_effect,
    attribution,
    effect,
    pin,
    without_direction,
    without_neuron,
)
from sae.errors import ConfigError
from sae.features.passes import replacing
from tests.features.toy import random_dictionary
from tests.source.test_transformer import N_VOCAB, tiny

BOS, FEATURE = 0, 11


@pytest.fixture(scope="module", params=[1, 2], ids=["one layer", "two layers"])
def made(request):
    """A transformer cut at its first layer, a dictionary on it, and contexts that begin with BOS."""
    source = tiny(n_layers=request.param, layer=0)
    dictionary = random_dictionary(d_mlp=32, bias=-0.3)
    tokens = torch.randint(1, N_VOCAB, (3, 10), generator=torch.Generator().manual_seed(4))
    tokens[:, 0] = BOS
    return source, dictionary, tokens


def hooked(source, tokens, change):
    """Log p(next token) with `change` at every position but the first, by a hook of one's own and numpy."""

    def hook(x, hook):
        changed = x.clone()
        changed[:, 1:] = change(x[:, 1:])
        return changed

    with torch.no_grad():
        logits = source.bridge.run_with_hooks(tokens, fwd_hooks=[("blocks.0.mlp.hook_post", hook)], return_type="logits")
    logits = logits.double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(log_p[:, :-1], tokens[:, 1:, None].numpy(), -1)[..., 0]


def plain_f(dictionary, x):
    return torch.relu((x - dictionary.b_dec) @ dictionary.W_enc[FEATURE] + dictionary.b_enc[FEATURE])


def test_ablation_is_what_a_hook_does(made):
    source, dictionary, tokens = made
    d = dictionary.W_dec[FEATURE]
    expected = hooked(source, tokens, lambda x: x - plain_f(dictionary, x)[..., None] * d) - hooked(source, tokens, lambda x: x)
    found = ablation_effect(source, dictionary, tokens, FEATURE, bos=BOS)
    np.testing.assert_allclose(found.log_likelihood, expected, atol=2e-6)
    f = plain_f(dictionary, source.activations(tokens)).numpy()[:, :-1]
    f[:, 0] = 0
    np.testing.assert_array_equal(found.active, f > 0)
    assert 3 < found.n_active < 20
    assert found.mean_when_active == pytest.approx(expected[f > 0].mean(), abs=1e-6)
    assert abs(expected[f > 0]).max() > 1e-3
    at_others = abs(found.log_likelihood[~found.active]).max()
    assert (at_others < 1e-6) == (source.n_layers == 1)  # a layer above carries the change to later positions


def test_pinning_is_what_a_hook_does(made):
    source, dictionary, tokens = made
    d = dictionary.W_dec[FEATURE]
    expected = hooked(source, tokens, lambda x: x + (2.5 - plain_f(dictionary, x))[..., None] * d) - hooked(
        source, tokens, lambda x: x
    )
    found = effect(source, tokens, pin(dictionary, FEATURE, 2.5), BOS)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert (found[:, 0] == 0).all()  # predicted at BOS, which is left clean
    assert abs(effect(source, tokens, pin(dictionary, FEATURE, 2.5))[:, 0]).min() > 1e-4  # and is not, where none is named


def test_the_control_pushes_as_far_in_another_direction(made):
    source, dictionary, tokens = made
    other = torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(8)), dim=0)
    expected = hooked(source, tokens, lambda x: x - plain_f(dictionary, x)[..., None] * other) - hooked(
        source, tokens, lambda x: x
    )
    found = ablation_effect(source, dictionary, tokens, FEATURE, bos=BOS, direction=other)
    np.testing.assert_allclose(found.log_likelihood, expected, atol=2e-6)


def test_directions_and_neurons_are_taken_out():
    rows = torch.randn(9, 32, generator=torch.Generator().manual_seed(3))
    direction = torch.arange(32.0) - 11.5
    left = without_direction(direction)(rows)
    torch.testing.assert_close(left @ direction, torch.zeros(9), atol=1e-3, rtol=0)
    torch.testing.assert_close((rows - left) / direction, ((rows @ direction) / (direction @ direction))[:, None].expand(-1, 32))
    axis = torch.zeros(32)
    axis[5] = 3.0
    torch.testing.assert_close(without_neuron(5)(rows), without_direction(axis)(rows))
    assert rows[:, 5].abs().min() > 0


def test_pinned_at_its_own_value_a_row_is_as_it_was():
    dictionary, rows = random_dictionary(), 2 * torch.rand(50, 16, generator=torch.Generator().manual_seed(2))
    f = dictionary.encode(rows)[:, FEATURE]
    for row, value in zip(rows[:5], f, strict=False):
        torch.testing.assert_close(pin(dictionary, FEATURE, float(value))(row[None]), row[None])
    ablated = ablate(dictionary, FEATURE)(rows)
    torch.testing.assert_close(rows - ablated, f[:, None] * dictionary.W_dec[FEATURE])
    assert 5 < (f > 0).sum() < 50


@pytest.mark.parametrize("feature", [-1, 24])
def test_no_such_feature(made, feature):
    source, dictionary, tokens = made
    with pytest.raises(ConfigError, match=f"no feature {feature}: this dictionary has 24"):
        ablation_effect(source, dictionary, tokens, feature)


def test_attribution_is_the_gradient_of_the_logit_with_the_norm_frozen():
    """Σ over the vocabulary is what a shift of the median is about: gradients are compared after the same shift."""
    source, dictionary = tiny(), random_dictionary(d_mlp=32, bias=-0.3)
    tokens = torch.randint(1, N_VOCAB, (1, 8), generator=torch.Generator().manual_seed(5))
    f = dictionary.encode(source.activations(tokens))[0, :-1]
    features, following = torch.tensor([3, 9, FEATURE]), tokens[0, 1:]
    scales = source._stopped_at("ln_final.hook_scale", tokens)[0, :-1, 0]
    for position in range(7):
        weights = source.logit_weights(dictionary.W_dec[features], float(1 / scales[position]))
        found = attribution(f[position : position + 1, features], weights, following[position : position + 1])[0]
        for i, feature in enumerate(features.tolist()):
            gradient = frozen_gradient(source, tokens, position, dictionary.W_dec[feature])
            expected = f[position, feature] * (gradient[following[position]] - gradient.median())
            assert float(found[i]) == pytest.approx(float(expected), abs=1e-5)
    assert (f[:, features] > 0).any(0).all()


def frozen_gradient(source, tokens, position, direction):
    """∂ logits / ∂α of x + α `direction` at one position, by autograd through transformer_lens, σ of the final norm held."""
    alpha = torch.zeros((), requires_grad=True)

    def push(x, hook):
        return x + alpha * torch.nn.functional.one_hot(torch.tensor(position), x.shape[1])[None, :, None] * direction

    hooks = [("blocks.0.mlp.hook_post", push), ("ln_final.hook_scale", lambda x, hook: x.detach())]
    logits = source.bridge.run_with_hooks(tokens, fwd_hooks=hooks, return_type="logits")[0, position]
    return torch.stack([torch.autograd.grad(logit, alpha, retain_graph=True)[0] for logit in logits])


def test_replacing_leaves_the_other_positions_and_the_given_tensor():
    x, keep = torch.rand(2, 3, 4), torch.tensor([[False, True, True], [True, False, True]])
    before = x.clone()
    changed = replacing(lambda rows: rows + 1, keep)(x)
    assert torch.equal(x, before)
    assert torch.equal(changed, before + keep[..., None])
