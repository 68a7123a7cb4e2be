"""The step's second half on a CPU: gradients by feature, and projection, Adam and normalisation fused with them."""

import numpy as np
import torch

from sae.kernels import native_features
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.sparse_cpu import Entries
from sae.kernels.state import State
from sae.kernels.threads import for_blocks

BLOCK_FEATURES = 64


class CpuUpdate:
    """Updates `state` in place, from entries (fused) or from gradients; keeps what screens use of W_enc beside it."""

    def __init__(self, state: State, objective: Objective, rule: UpdateRule, *, keep_bits: bool):
        self.state, self.objective, self.rule = state, objective, rule
        n_features, d_mlp = state.weights.W_enc.shape
        self.norms = np.empty(n_features, np.float32)
        """‖W_enc[j]‖."""
        self.bits = np.empty((n_features if keep_bits else 0, d_mlp), np.uint16)
        """W_enc rounded to bfloat16, as bits; empty where no screen wants it."""
        self.is_sound = True
        """Whether the weights that were last put in from outside were finite in W_dec, of which the sparse step reads but the
        rows of features that fire."""
        self._blocks = [(start, min(start + BLOCK_FEATURES, n_features)) for start in range(0, n_features, BLOCK_FEATURES)]
        self.refresh()

    def refresh(self) -> None:
        """Bring `norms`, `bits` and `is_sound` up to date after weights were changed from outside."""
        W_enc = self.state.weights.W_enc
        self.is_sound = bool(torch.isfinite(self.state.weights.W_dec).all())
        self.norms[:] = W_enc.norm(dim=1).numpy()
        if len(self.bits):
            self.bits[:] = W_enc.bfloat16().view(torch.uint16).numpy()

    def fused(self, entries: Entries, l1_scale: float, learning_rate: float) -> float:
        """Gradients from `entries` and the update with them, feature by feature; returns the gradient's norm."""
        adam, flags = self._next_adam(learning_rate), self._flags()
        to_b_dec = np.empty((len(self._blocks), len(entries.g_sum)), np.float32)
        tensors, kept = self._tensors(), (self.norms, self.bits)

        def work(i: int) -> float:
            data = (*self._blocks[i], entries.starts, entries.lists, entries.g, entries.seen)
            return float(native_features.update_features(*data, *tensors, adam, flags, np.float32(l1_scale), *kept, to_b_dec[i]))

        squared = sum(for_blocks(work, len(self._blocks)))
        grad_b_dec, norm = self._grad_b_dec(entries, to_b_dec, squared)
        self._update_b_dec(grad_b_dec, adam)
        return norm

    def gradients(self, entries: Entries, l1_scale: float) -> tuple[Weights, float]:
        """The gradients themselves, and their norm; nothing is updated."""
        W_enc = self.state.weights.W_enc
        grad_enc, grad_b, grad_dec = torch.empty_like(W_enc), W_enc.new_empty(len(W_enc)), torch.empty_like(W_enc)
        out = (grad_enc.numpy(), grad_b.numpy(), grad_dec.numpy())
        to_b_dec = np.empty((len(self._blocks), len(entries.g_sum)), np.float32)
        weights = self._tensors()[0]

        def work(i: int) -> float:
            data = (*self._blocks[i], entries.starts, entries.lists, entries.g, entries.seen, weights)
            l1 = (self.objective.weighted_l1, np.float32(l1_scale))
            return float(native_features.gather_features(*data, *l1, *out, to_b_dec[i]))

        squared = sum(for_blocks(work, len(self._blocks)))
        grad_b_dec, norm = self._grad_b_dec(entries, to_b_dec, squared)
        return Weights(grad_enc, grad_b, grad_dec, torch.from_numpy(grad_b_dec)), norm

    def apply(self, gradients: Weights, norm: float, learning_rate: float) -> None:
        """The update with `gradients` (changed in place), of Euclidean norm `norm` all together."""
        limit = self.rule.max_gradient_norm
        factor = np.float32(1.0 if limit is None else min(1.0, limit / max(norm, 1e-30)))
        adam, flags, tensors = self._next_adam(learning_rate), self._flags(), self._tensors()
        rows = (gradients.W_enc.numpy(), gradients.b_enc.numpy(), gradients.W_dec.numpy())
        kept = (self.norms, self.bits)
        for_blocks(
            lambda i: native_features.apply_features(*self._blocks[i], factor, *rows, *tensors, adam, flags, *kept),
            len(self._blocks),
        )
        self._update_b_dec(factor * gradients.b_dec.numpy(), adam)

    def _grad_b_dec(self, entries: Entries, to_b_dec: np.ndarray, squared: float) -> tuple[np.ndarray, float]:
        """∂b_dec, and the norm of all gradients, of which `squared` is the sum of the others' squares."""
        total = entries.g_sum - to_b_dec.sum(0, dtype=np.float64) if self.objective.tied_bias else entries.g_sum
        gradient = total.astype(np.float32)
        return gradient, float(np.sqrt(squared + np.square(gradient, dtype=np.float64).sum()))

    def _update_b_dec(self, gradient: np.ndarray, adam: tuple[np.float32, ...]) -> None:
        state = self.state
        parts = (state.weights.b_dec.numpy(), gradient, state.first.b_dec.numpy(), state.second.b_dec.numpy())
        native_features.adam_row(*parts, *adam)

    def _flags(self) -> tuple[bool, bool, bool]:
        return self.rule.unit_norm, self.rule.renormalise == "before", self.objective.weighted_l1

    def _next_adam(self, learning_rate: float) -> tuple[np.float32, ...]:
        """Counts the update; (β₁, 1 − β₁, β₂, 1 − β₂, step length, 1/√(1 − β₂ᵗ), ε) for it."""
        self.state.n_updates += 1
        (beta1, beta2), t = self.rule.betas, self.state.n_updates
        rates = (beta1, 1 - beta1, beta2, 1 - beta2)
        values = (*rates, learning_rate / (1 - beta1**t), (1 - beta2**t) ** -0.5, self.rule.eps)
        return tuple(map(np.float32, values))

    def _tensors(self) -> tuple[tuple[np.ndarray, ...], ...]:
        """W_enc, b_enc and W_dec of the weights and of both moments, as numpy."""
        parts = (self.state.weights, self.state.first, self.state.second)
        return tuple((part.W_enc.numpy(), part.b_enc.numpy(), part.W_dec.numpy()) for part in parts)
