"""The training step once more, slowly, in float64 numpy, from the paper's formulas and nothing of ours."""

import numpy as np


def loss(W_enc, b_enc, W_dec, b_dec, x, l1):
    """Mean over rows of [ Σ_d (x − x̂)² + λ Σ_i f_i ], row by row."""
    total = 0.0
    for row in x:
        f = np.maximum(W_enc @ (row - b_dec) + b_enc, 0)
        reconstruction = W_dec.T @ f + b_dec
        total += ((row - reconstruction) ** 2).sum() + l1 * f.sum()
    return total / len(x)


def gradients(W_enc, b_enc, W_dec, b_dec, x, l1):
    """Backpropagation by hand, row by row, with explicit outer products."""
    grads = [np.zeros_like(p) for p in (W_enc, b_enc, W_dec, b_dec)]
    for row in x:
        f = np.maximum(W_enc @ (row - b_dec) + b_enc, 0)
        g = 2 * (W_dec.T @ f + b_dec - row) / len(x)
        d = (W_dec @ g + l1 / len(x)) * (f > 0)
        grads[0] += np.outer(d, row - b_dec)
        grads[1] += d
        grads[2] += np.outer(f, g)
        grads[3] += g - W_enc.T @ d
    return grads


class Adam:
    """Kingma & Ba 2015, algorithm 1."""

    def __init__(self, parameters, betas, eps=1e-8):
        self.m = [np.zeros_like(p) for p in parameters]
        self.v = [np.zeros_like(p) for p in parameters]
        self.betas, self.eps, self.t = betas, eps, 0

    def step(self, parameters, grads, learning_rate):
        self.t += 1
        b1, b2 = self.betas
        for p, g, m, v in zip(parameters, grads, self.m, self.v, strict=True):
            m[...] = b1 * m + (1 - b1) * g
            v[...] = b2 * v + (1 - b2) * g**2
            p -= learning_rate * (m / (1 - b1**self.t)) / (np.sqrt(v / (1 - b2**self.t)) + self.eps)
