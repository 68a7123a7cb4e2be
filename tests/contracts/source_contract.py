"""What every `ActivationSource` promises: inherit `SourceContract`, give the source and plain second opinions of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sae.source.site import ActivationSource


class SourceContract:
    """Subclasses define the fixture `source` and the methods that raise NotImplementedError here."""

    @pytest.fixture
    def source(self) -> ActivationSource:
        raise NotImplementedError

    def plain_activations(self, source: ActivationSource, tokens: Tensor) -> Tensor:
        """The site's activations by another way than the source's own."""
        raise NotImplementedError

    def plain_logits(self, source: ActivationSource, tokens: Tensor, zeroed: bool) -> Tensor:
        """Logits, with the site's activations set to zero where `zeroed`, by another way than the source's own."""
        raise NotImplementedError

    def read_out(self, source: ActivationSource, residual: Tensor) -> Tensor:
        """Logits [..., vocab] of final residual streams, without the final norm's division and without biases."""
        raise NotImplementedError

    def write(self, source: ActivationSource, acts: Tensor) -> Tensor:
        """What activations [..., d_mlp] add to the residual stream, without the bias."""
        raise NotImplementedError

    def logit_bias(self, source: ActivationSource) -> Tensor:
        """[vocab], what the final norm's bias and the unembedding's add."""
        raise NotImplementedError

    @pytest.fixture
    def tokens(self, source: ActivationSource) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randint(0, source.n_vocab, (3, source.context_length), generator=generator)

    def test_shapes_and_types(self, source: ActivationSource, tokens: Tensor) -> None:
        n, length = tokens.shape
        acts, logits, loss = source.activations(tokens), source.logits(tokens), source.loss(tokens)
        assert acts.shape == (n, length, source.d_mlp)
        assert logits.shape == (n, length, source.n_vocab)
        assert loss.shape == (n, length - 1)
        assert {acts.dtype, logits.dtype, loss.dtype} == {torch.float32}
        assert not any(result.requires_grad for result in (acts, logits, loss))

    def test_activations_are_those_of_the_forward_pass(self, source: ActivationSource, tokens: Tensor) -> None:
        torch.testing.assert_close(source.activations(tokens), self.plain_activations(source, tokens), atol=1e-5, rtol=1e-5)

    def test_activations_at_some_positions_are_those(self, source: ActivationSource, tokens: Tensor) -> None:
        last = source.context_length - 1
        positions = torch.tensor([[0, 3, 5, last], [last, 2, 2, 1], [4, 0, last, 7]])
        found = source.activations_at(tokens, positions)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        expected = torch.stack([self.plain_activations(source, tokens[i : i + 1])[0, positions[i]] for i in range(len(tokens))])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(source.frozen().activations_at(tokens, positions), expected, atol=1e-5, rtol=1e-5)
        for activations_at in (source.activations_at, source.frozen().activations_at):
            with pytest.raises(IndexError):
                activations_at(tokens, positions + 1)

    def test_frozen_says_what_the_source_does(self, source: ActivationSource) -> None:
        frozen = source.frozen()
        assert (frozen.d_mlp, frozen.device) == (source.d_mlp, source.device)

    def test_replace_is_given_the_activations(self, source: ActivationSource, tokens: Tensor) -> None:
        seen = []
        source.logits(tokens, replace=lambda acts: seen.append(acts) or acts)
        torch.testing.assert_close(seen[0], source.activations(tokens), atol=1e-5, rtol=1e-5)

    def test_splicing_back_the_clean_activations_changes_nothing(self, source: ActivationSource, tokens: Tensor) -> None:
        clean = source.activations(tokens)
        torch.testing.assert_close(source.logits(tokens, lambda acts: clean), source.logits(tokens), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(source.loss(tokens, lambda acts: clean), source.loss(tokens), atol=1e-5, rtol=1e-5)

    def test_zero_ablation_equals_a_plain_hook(self, source: ActivationSource, tokens: Tensor) -> None:
        ablated = source.logits(tokens, replace=torch.zeros_like)
        torch.testing.assert_close(ablated, self.plain_logits(source, tokens, zeroed=True), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(ablated, source.logits(tokens), atol=1e-3)

    def test_a_replacement_does_not_outlive_its_call(self, source: ActivationSource, tokens: Tensor) -> None:
        before = source.logits(tokens)
        source.logits(tokens, replace=torch.zeros_like)
        source.activations(tokens)
        assert torch.equal(source.logits(tokens), before)

    def test_a_replacement_that_fails_leaves_nothing_behind(self, source: ActivationSource, tokens: Tensor) -> None:
        before = source.logits(tokens)

        def fail(acts: Tensor) -> Tensor:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            source.logits(tokens, replace=fail)
        assert torch.equal(source.logits(tokens), before)

    def test_loss_is_the_cross_entropy_of_the_next_token(self, source: ActivationSource, tokens: Tensor) -> None:
        log_probs = F.log_softmax(self.plain_logits(source, tokens, zeroed=False).double(), dim=-1)
        loss = source.loss(tokens)
        for context in range(len(tokens)):
            for t in (0, 5, tokens.shape[1] - 2):
                expected = -log_probs[context, t, tokens[context, t + 1]]
                assert float(loss[context, t]) == pytest.approx(float(expected), abs=1e-4)

    def test_position_t_sees_only_tokens_up_to_t(self, source: ActivationSource, tokens: Tensor) -> None:
        changed = tokens.clone()
        changed[:, 6:] = (changed[:, 6:] + 1) % source.n_vocab
        torch.testing.assert_close(source.activations(changed)[:, :6], source.activations(tokens)[:, :6], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(source.logits(changed)[:, :6], source.logits(tokens)[:, :6], atol=1e-5, rtol=1e-5)

    def test_logit_weights_are_the_explicit_matrix_product(self, source: ActivationSource) -> None:
        generator = torch.Generator().manual_seed(2)
        directions = torch.randn(7, source.d_mlp, generator=generator)
        expected = 0.7 * self.read_out(source, self.write(source, directions))
        expected = expected - expected.median(dim=-1, keepdim=True).values
        weights = source.logit_weights(directions, 0.7)
        torch.testing.assert_close(weights, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(weights.median(-1).values, torch.zeros(7))

    def test_logit_weights_say_how_the_logits_move(self, source: ActivationSource, tokens: Tensor) -> None:
        """Adding s·d at one position, logits - bias become r (logits - bias + s · weights(d, 1/σ)), with r = σ before / σ after:
        exact for any s, and linear in two unknowns (and a third for the shift of each row by its median)."""
        one, bias = tokens[:1, :1], self.logit_bias(source).double()
        direction = torch.randn(1, source.d_mlp, generator=torch.Generator().manual_seed(3))
        weights = source.logit_weights(direction, source.mean_inverse_scale(one))[0].double()
        before = source.logits(one)[0, 0].double() - bias
        after = source.logits(one, lambda acts: acts + 0.5 * direction)[0, 0].double() - bias
        basis = torch.stack([before, weights, torch.ones_like(weights)], dim=1)
        fit = torch.linalg.lstsq(basis, after[:, None]).solution
        torch.testing.assert_close(basis @ fit, after[:, None], atol=1e-4, rtol=1e-4)
        assert float(fit[1, 0] / fit[0, 0]) == pytest.approx(0.5, rel=1e-3)
        assert abs(float(fit[0, 0]) - 1) > 1e-3  # else the test would not see a wrong scale

    def test_the_readout_gives_the_logits_after_a_change(self, source: ActivationSource, tokens: Tensor) -> None:
        readout = source.readout()
        assert readout is not None
        change = torch.randn(*tokens.shape, source.d_mlp, generator=torch.Generator().manual_seed(4))
        found = readout.logits(readout.residual(tokens) + change @ readout.W_out)
        torch.testing.assert_close(found, source.logits(tokens, lambda acts: acts + change), atol=1e-4, rtol=1e-4)
