"""The training step once more, slowly, in float64 numpy, from the papers' formulas and nothing of ours.

Row by row and with explicit outer products, so that it shares neither the order nor the algebra of what it judges. The defaults
are *Towards Monosemanticity*'s objective: the encoder sees x − b_dec, and λ weighs Σ_i f_i. `weighted` and `tied=False` make it
that of Circuits Updates, April 2024: the encoder sees x, and λ weighs Σ_i f_i ‖W_dec[i]‖.
"""

import numpy as np


def pre_activations(W_enc, b_enc, W_dec, b_dec, x, *, tied=True):
    """Before the ReLU, [row, feature]."""
    return np.array([W_enc @ (row - b_dec if tied else row) + b_enc for row in x])


def parts(W_enc, b_enc, W_dec, b_dec, x, *, tied=True, weighted=False):
    """(Σ_d (x − x̂)², Σ_i c_i f_i), each the mean over rows, and n_fired [feature]."""
    cost = np.sqrt((W_dec**2).sum(1)) if weighted else np.ones(len(W_dec))
    squared_error, l1, n_fired = 0.0, 0.0, np.zeros(len(W_dec), int)
    for pre, row in zip(pre_activations(W_enc, b_enc, W_dec, b_dec, x, tied=tied), x, strict=True):
        f = np.maximum(pre, 0)
        squared_error += ((row - (W_dec.T @ f + b_dec)) ** 2).sum() / len(x)
        l1 += (cost * f).sum() / len(x)
        n_fired += pre > 0
    return squared_error, l1, n_fired


def loss(W_enc, b_enc, W_dec, b_dec, x, l1, *, tied=True, weighted=False):
    """Mean over rows of [ Σ_d (x − x̂)² + λ Σ_i c_i f_i ]."""
    squared_error, mean_l1, _ = parts(W_enc, b_enc, W_dec, b_dec, x, tied=tied, weighted=weighted)
    return squared_error + l1 * mean_l1


def gradients(W_enc, b_enc, W_dec, b_dec, x, l1, *, tied=True, weighted=False):
    """Backpropagation by hand: [∂W_enc, ∂b_enc, ∂W_dec, ∂b_dec]."""
    grads = [np.zeros_like(p) for p in (W_enc, b_enc, W_dec, b_dec)]
    norms = np.sqrt((W_dec**2).sum(1))
    cost = norms if weighted else np.ones(len(W_dec))
    for row in x:
        seen = row - b_dec if tied else row
        f = np.maximum(W_enc @ seen + b_enc, 0)
        g = 2 * (W_dec.T @ f + b_dec - row) / len(x)
        d = (W_dec @ g + l1 * cost / len(x)) * (f > 0)
        grads[0] += np.outer(d, seen)
        grads[1] += d
        grads[2] += np.outer(f, g)
        if weighted:
            grads[2] += l1 / len(x) * f[:, None] * W_dec / norms[:, None]
        grads[3] += g - W_enc.T @ d if tied else g
    return grads


def total_norm(grads):
    """Euclidean norm of all gradients together."""
    return np.sqrt(sum((g**2).sum() for g in grads))


def clipped(grads, limit):
    """Pascanu et al. 2013: scaled down together to Euclidean norm `limit` where it is longer."""
    norm = total_norm(grads)
    return [g * limit / norm for g in grads] if norm > limit else grads


def without_parallel(gradient, directions):
    """Each row of `gradient` without its component along the same row of `directions`, of norm 1."""
    return gradient - (gradient * directions).sum(1, keepdims=True) * directions


def to_unit_norm(directions):
    """Rows scaled to norm 1, in place."""
    directions /= np.sqrt((directions**2).sum(1, keepdims=True))


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


class Run:
    """Whole steps: gradients, clipping, projection, Adam and normalisation, in the order that the rule's docstring gives."""

    def __init__(self, parameters, *, tied, weighted, unit_norm, renormalise, max_gradient_norm, betas=(0.9, 0.999), eps=1e-8):
        self.parameters = parameters
        self.objective = {"tied": tied, "weighted": weighted}
        self.unit_norm, self.renormalise, self.limit = unit_norm, renormalise, max_gradient_norm
        self.adam = Adam(parameters, betas, eps)

    def step(self, x, l1, learning_rate):
        """One step; returns (squared error, L1, n_fired, gradient norm before clipping) with the weights before it."""
        measured = parts(*self.parameters, x, **self.objective)
        grads = gradients(*self.parameters, x, l1, **self.objective)
        norm = total_norm(grads)
        self.apply(grads, learning_rate)
        return *measured, norm

    def apply(self, grads, learning_rate):
        """The update alone, with gradients from wherever."""
        W_dec = self.parameters[2]
        if self.limit is not None:
            grads = clipped(grads, self.limit)
        if self.unit_norm and self.renormalise == "before":
            to_unit_norm(W_dec)
        if self.unit_norm:
            grads = [*grads[:2], without_parallel(grads[2], W_dec), grads[3]]
        self.adam.step(self.parameters, grads, learning_rate)
        if self.unit_norm and self.renormalise == "after":
            to_unit_norm(W_dec)
