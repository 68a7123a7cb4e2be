"""An engine that stands for the Triton one where there is no Triton: the same roundings, in torch, on any device."""

import torch

from sae.kernels.cuda import CudaEngine
from sae.kernels.dense import dense_gradients, gradient_norm, update
from sae.kernels.gradients import StepResult, Weights
from sae.kernels.rounded import rounded_step
from sae.kernels.triton_buffers import SPARSE_BELOW


class RoundedEngine(CudaEngine):
    """`spoil(path, result, state)` may make it wrong."""

    spoil = staticmethod(lambda path, result, state: result)

    def __init__(self, state, objective, rule, *, path="auto", sparse_below=SPARSE_BELOW, tuning=None, graphs=True):
        self.state, self.objective, self.rule, self.path, self.sparse_below = state, objective, rule, path, sparse_below
        self.active = 0

    def capacity(self, n_rows):
        return 0 if self.path == "dense" else round(self.sparse_below * n_rows * len(self.state.weights.W_enc))

    def active_entries(self, n_rows):
        return torch.tensor(self.active)

    def settle(self): ...

    def refresh(self): ...

    def step(self, x, l1, learning_rate):
        weights = self.state.weights
        device = weights.W_enc.device
        self.active = int(dense_gradients(weights, x.float(), l1, self.objective).n_fired.sum()) + (self.path == "dense")
        dense = self.active > self.capacity(len(x))
        name = "dense" if self.path == "dense" else "overflow" if dense else "sparse"
        step = rounded_step(weights, x, float(l1), self.objective, dense=dense).step
        norm = gradient_norm(step.gradients).to(device)
        finite = torch.isfinite(norm)
        if finite:
            gradients = Weights(*(part.float().to(device) for part in step.gradients))
            update(self.state, gradients, learning_rate, self.rule, norm)
        losses = step.squared_error.float().to(device), step.l1.float().to(device)
        result = StepResult(*losses, step.n_fired.to(device), norm, finite)
        return type(self).spoil(name, result, self.state)
