"""The training step on a CPU: sparse or dense, by the density that the step before measured."""

import time

import torch

from sae.kernels.byte_screens import BytesScreen, ListsScreen, multiplies_bytes
from sae.kernels.choice_of_screen import ScreenChoice
from sae.kernels.dense import OVERFLOW, dense_gradients, gradient_norm
from sae.kernels.gradients import StepResult
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.screens import Bfloat16Screen, Float32Screen, Screen, SparseRowsScreen
from sae.kernels.sparse_cpu import SparseForward
from sae.kernels.state import State
from sae.kernels.update_cpu import CpuUpdate
from sae.processor import multiplies_bfloat16
from sae.shapes import Rows

SPARSE_BELOW = 0.18
"""Fraction of entries active below which the sparse step is the faster one (`docs/benchmarks.md`)."""
LISTED_BELOW = 0.5
"""Fraction of x's entries not zero below which a run too short for a trial lists them (AVX2's measure)."""
LOOKED_AT = 64
"""Rows of a batch that say how many of its entries are not zero."""


def screen_kinds() -> list[type[Screen]]:
    """The screens that this processor has instructions for. Which of them is quick is not asked here."""
    kinds: list[type[Screen]] = [BytesScreen, ListsScreen] if multiplies_bytes() else []
    if multiplies_bfloat16():
        kinds.append(Bfloat16Screen)
    return [*kinds, SparseRowsScreen, Float32Screen]


def usual_screen(nonzero: float) -> type[Screen]:
    """The screen of a run that holds no trial, for rows of which that fraction is not zero."""
    listing, full = (ListsScreen, BytesScreen) if multiplies_bytes() else (SparseRowsScreen, Float32Screen)
    return listing if nonzero < LISTED_BELOW else full


class CpuEngine:
    """Steps `state` in place. Call `refresh` after changing its weights from outside. The screen is chosen `by_clock`, or else
    without a trial."""

    def __init__(self, state: State, objective: Objective, rule: UpdateRule, *, by_clock: bool = True):
        self.state, self.objective, self.rule = state, objective, rule
        self.by_clock = by_clock
        kinds = screen_kinds()
        self.choice = ScreenChoice(kinds, len(state.weights.W_enc))
        self.update = CpuUpdate(state, objective, rule, keep_bits=Bfloat16Screen in kinds)
        self.forward = SparseForward(objective)
        self.density = 1.0
        """Fraction of f's entries that were active in the step before; 1 where nothing is known."""

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
        start = time.perf_counter()
        entries = self.forward(self.state.weights, x, l1, screen, update.norms, update.bits)
        self.choice.took(screen, time.perf_counter() - start)
        finite = update.is_sound and bool(entries.squared_error + entries.l1 + entries.bound < OVERFLOW)
        norm = float("nan")
        if finite and self.rule.max_gradient_norm is None:
            norm = update.fused(entries, l1 / len(x), learning_rate)
        elif finite:
            gradients, norm = update.gradients(entries, l1 / len(x))
            update.apply(gradients, norm, learning_rate)
        return result(entries.squared_error, entries.l1, torch.from_numpy(entries.n_fired), norm, finite)

    def _screen(self, x: Rows) -> Screen:
        nonzero = float((x[:LOOKED_AT] != 0).float().mean())
        return self.choice.next(self.density, nonzero) if self.by_clock else self.choice.screen(usual_screen(nonzero))


def result(squared_error: float, l1: float, n_fired: torch.Tensor, norm: float, finite: bool) -> StepResult:
    """Python's numbers as tensors, which is what engines on a GPU return."""
    scalars = [torch.tensor(value, dtype=torch.float64) for value in (squared_error, l1, norm)]
    return StepResult(scalars[0], scalars[1], n_fired, scalars[2], torch.tensor(finite))
