"""Whole training runs once more, slowly, in float64 numpy: both papers' losses row by row, and everything that happens to a
gradient on its way to the weights. Shares nothing with `sae`; Adam is `numpy_reference`'s."""

import numpy as np

from tests.support.numpy_reference import Adam


def forward(p, row, tied):
    """(x̄, f, x̂) of one row; `p` is [W_enc, b_enc, W_dec, b_dec]."""
    W_enc, b_enc, W_dec, b_dec = p
    seen = row - b_dec if tied else row
    f = np.maximum(W_enc @ seen + b_enc, 0)
    return seen, f, W_dec.T @ f + b_dec


def row_loss(p, row, l1, *, tied, weighted):
    """‖x − x̂‖² + λ Σ c_i f_i, with c_i = ‖W_dec[i]‖ if `weighted`, else 1."""
    _, f, reconstruction = forward(p, row, tied)
    cost = np.linalg.norm(p[2], axis=1) if weighted else np.ones(len(f))
    return ((row - reconstruction) ** 2).sum() + l1 * (cost * f).sum()


def gradients(p, x, l1, *, tied, weighted):
    """Backpropagation by hand of the mean of `row_loss` over the rows of `x`."""
    W_enc, _, W_dec, _ = p
    grads = [np.zeros_like(part) for part in p]
    norms = np.linalg.norm(W_dec, axis=1)
    for row in x:
        seen, f, reconstruction = forward(p, row, tied)
        g = 2 * (reconstruction - row) / len(x)
        cost = norms if weighted else np.ones(len(f))
        d = (W_dec @ g + l1 * cost / len(x)) * (f > 0)
        grads[0] += np.outer(d, seen)
        grads[1] += d
        grads[2] += np.outer(f, g)
        if weighted:
            grads[2] += (l1 / len(x)) * (f / norms)[:, None] * W_dec
        grads[3] += g - (W_enc.T @ d if tied else 0)
    return grads


class Run:
    """One optimisation, step by step."""

    def __init__(
        self, weights, *, tied, weighted, unit_norm, renormalise="after", max_gradient_norm=None, betas=(0.9, 0.999), window=1
    ):
        self.p = [np.asarray(weight, dtype=np.float64).copy() for weight in weights]
        self.tied, self.weighted, self.unit_norm, self.renormalise = tied, weighted, unit_norm, renormalise
        self.max_gradient_norm, self.window = max_gradient_norm, window
        self.adam = Adam(self.p, betas)
        self.fired = []
        """Rows on which each feature fired, an array a step."""

    def step(self, x, l1, learning_rate):
        x = np.asarray(x, dtype=np.float64)
        self.fired.append(sum(forward(self.p, row, self.tied)[1] > 0 for row in x))
        grads = gradients(self.p, x, l1, tied=self.tied, weighted=self.weighted)
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        if self.max_gradient_norm is not None and norm > self.max_gradient_norm:
            grads = [g * (self.max_gradient_norm / norm) for g in grads]
        if self.unit_norm and self.renormalise == "before":
            self._normalise()
        if self.unit_norm:
            grads[2] -= (grads[2] * self.p[2]).sum(1, keepdims=True) * self.p[2]
        self.adam.step(self.p, grads, learning_rate)
        if self.unit_norm and self.renormalise == "after":
            self._normalise()

    def dead(self):
        """Features that fired on no row of the last `window` steps."""
        return np.flatnonzero(sum(self.fired[-self.window :]) == 0)

    def resample(self, inputs):
        """Give `dead()` the rows of `inputs`, in order."""
        dead = self.dead()
        alive = np.setdiff1d(np.arange(len(self.p[1])), dead)
        length = 0.2 * np.linalg.norm(self.p[0][alive], axis=1).mean()
        for i, row in zip(dead, np.asarray(inputs, dtype=np.float64), strict=True):
            direction = (row - self.p[3]) / np.linalg.norm(row - self.p[3])
            self.p[2][i], self.p[0][i], self.p[1][i] = direction, length * direction, 0
            for moments in (self.adam.m, self.adam.v):
                moments[0][i], moments[1][i], moments[2][i] = 0, 0, 0

    def _normalise(self):
        self.p[2] /= np.linalg.norm(self.p[2], axis=1, keepdims=True)
