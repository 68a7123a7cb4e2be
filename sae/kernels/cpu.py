"""The training step on a CPU: sparse or dense, by the density that the step before measured."""

import torch

from sae.kernels.dense import OVERFLOW, dense_gradients, gradient_norm
from sae.kernels.gradients import StepResult
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.screens import (
    Bfloat16Screen,
    BytesScreen,
    Float32Screen,
    ListsScreen,
    Screen,
    SparseRowsScreen,
    multiplies_bytes,
)
from sae.kernels.sparse_cpu import SparseForward
from sae.kernels.state import State
from sae.kernels.update_cpu import CpuUpdate
from sae.processor import multiplies_bfloat16
from sae.shapes import Rows

SPARSE_BELOW = 0.18
"""Fraction of entries active below which the sparse step is the faster one (`docs/benchmarks.md`)."""
LISTED_BELOW: dict[type[Screen], float] = {Bfloat16Screen: 0.05, BytesScreen: 0.5, Float32Screen: 0.25}
"""Fraction of x's entries listed below which multiplying these alone is faster than each of the others."""


class CpuEngine:
    """Steps `state` in place. Call `refresh` after changing its weights from outside."""

    def __init__(self, state: State, objective: Objective, rule: UpdateRule):
        self.state, self.objective, self.rule = state, objective, rule
        without: type[Screen] = BytesScreen if multiplies_bytes() else Float32Screen
        self.dense_screen = Bfloat16Screen if multiplies_bfloat16() else without
        """For rows that are not mostly zeros."""
        self.listing_screen = ListsScreen if multiplies_bytes() else SparseRowsScreen
        """For rows that are."""
        self.update = CpuUpdate(state, objective, rule, keep_bits=self.dense_screen is Bfloat16Screen)
        self.forward = SparseForward(objective)
        self.density = 1.0
        """Fraction of f's entries that were active in the step before; 1 where nothing is known."""
        self._screens: dict[type[Screen], Screen] = {}

    def refresh(self) -> None:
        self.update.refresh()

    def settle(self) -> None:
        """Nothing is under way when `step` returns."""

    @torch.no_grad()
    def step(self, x: Rows, l1: float | torch.Tensor, learning_rate: float) -> StepResult:
        """Gradients at λ = `l1` on the batch `x`, then one update; nothing is updated where they are not finite."""
        take = self.sparse if self.density < SPARSE_BELOW else self.dense
        result = take(x, float(l1), learning_rate)
        if result.finite:  # a refused step leaves no trace: it may be taken again
            self.density = float(result.n_fired.sum()) / max(1, result.n_fired.numel() * len(x))
        return result

    def dense(self, x: Rows, l1: float, learning_rate: float) -> StepResult:
        """The step with dense products."""
        gradients, squared_error, mean_l1, n_fired = dense_gradients(self.state.weights, x, l1, self.objective)
        norm = float(gradient_norm(gradients))
        finite = float(squared_error + mean_l1) + norm < OVERFLOW
        if finite:
            self.update.apply(gradients, norm, learning_rate)
        return result(float(squared_error), float(mean_l1), n_fired, norm, finite)

    def sparse(self, x: Rows, l1: float, learning_rate: float) -> StepResult:
        """The step on the active entries; the same bits at any number of threads and with any screen."""
        screen, update = self._screen(x), self.update
        entries = self.forward(self.state.weights, x, l1, screen, update.norms, update.bits)
        finite = update.is_sound and bool(entries.squared_error + entries.l1 + entries.bound < OVERFLOW)
        norm = float("nan")
        if finite and self.rule.max_gradient_norm is None:
            norm = update.fused(entries, l1 / len(x), learning_rate)
        elif finite:
            gradients, norm = update.gradients(entries, l1 / len(x))
            update.apply(gradients, norm, learning_rate)
        return result(entries.squared_error, entries.l1, torch.from_numpy(entries.n_fired), norm, finite)

    def _screen(self, x: Rows) -> Screen:
        kind: type[Screen] = self.dense_screen
        if self.listing_screen.listed(x[:64]) < LISTED_BELOW[self.dense_screen]:
            kind = self.listing_screen
        if kind not in self._screens:
            self._screens[kind] = kind(len(self.state.weights.W_enc))
        return self._screens[kind]


def result(squared_error: float, l1: float, n_fired: torch.Tensor, norm: float, finite: bool) -> StepResult:
    """Python's numbers as tensors, which is what engines on a GPU return."""
    scalars = [torch.tensor(value, dtype=torch.float64) for value in (squared_error, l1, norm)]
    return StepResult(scalars[0], scalars[1], n_fired, scalars[2], torch.tensor(finite))
