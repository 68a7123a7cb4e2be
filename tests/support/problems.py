"""Random weights and rows for tests of the training step, small enough for the float64 reference."""

import numpy as np
import torch

from sae.kernels.byte_screens import BytesScreen, ListsScreen, multiplies_bytes
from sae.kernels.gradients import Weights
from sae.kernels.objective import Objective, UpdateRule
from sae.kernels.screens import Bfloat16Screen, Float32Screen, SparseRowsScreen
from sae.kernels.state import State
from tests.support import numpy_reference

MONOSEMANTICITY = Objective(tied_bias=True, weighted_l1=False)
APRIL_2024 = Objective(tied_bias=False, weighted_l1=True)
OBJECTIVES = [Objective(tied_bias=tied, weighted_l1=weighted) for tied in (True, False) for weighted in (True, False)]

SCREENS = [Float32Screen, Bfloat16Screen, SparseRowsScreen] + [BytesScreen, ListsScreen] * multiplies_bytes()
"""Those that this processor can run."""


def problem(n_rows=40, n_features=24, d_mlp=8, bias=0.0, seed=0, norms=1.0):
    """Weights with ‖W_dec[i]‖ = `norms` and rows; a `bias` of −3 or so leaves a few percent of the entries active."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    W_dec = torch.nn.functional.normalize(normal(n_features, d_mlp), dim=1)
    W_dec = W_dec * torch.as_tensor(norms, dtype=torch.float32).expand(n_features)[:, None]
    weights = Weights(normal(n_features, d_mlp), normal(n_features) + bias, W_dec.contiguous(), normal(d_mlp))
    return weights, normal(n_rows, d_mlp) * 2


def uneven_norms(n_features):
    """Decoder norms from 0.3 to 3, so that a cost that ignores them is seen."""
    return torch.linspace(0.3, 3.0, n_features)


def doubles(weights):
    """The weights as float64 numpy, in the reference's order."""
    return [tensor.double().numpy().copy() for tensor in weights]


def flags(objective):
    """The objective as the reference's keywords."""
    return {"tied": objective.tied_bias, "weighted": objective.weighted_l1}


def relative(ours, reference):
    """‖ours − reference‖ / ‖reference‖."""
    ours, reference = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
    return float(np.linalg.norm(ours - reference) / max(np.linalg.norm(reference), 1e-300))


def away_from_zero(weights, x, objective):
    """Whether no pre-activation is within rounding of zero, where two orders of summation may differ on who is active."""
    pre = numpy_reference.pre_activations(*doubles(weights), x.double().numpy(), tied=objective.tied_bias)
    return bool(np.abs(pre).min() > 1e-5)


def fresh_state(weights):
    """A `State` with copies of the weights and moments of zero."""
    return State.start(Weights(*(tensor.clone() for tensor in weights)))


def same_bits(a, b):
    """Whether two states are equal bit by bit, NaN included."""
    pairs = ((p.view(torch.int32), b.tensors()[name].view(torch.int32)) for name, p in a.tensors().items())
    return a.n_updates == b.n_updates and all(torch.equal(p, q) for p, q in pairs)


def copied(state):
    """A second state with the same values."""
    other = fresh_state(state.weights)
    other.load(state.tensors(), state.n_updates)
    return other


def reference_run(weights, objective, rule):
    """The float64 run of the same objective and rule from copies of the same weights."""
    settings = {name: getattr(rule, name) for name in ("unit_norm", "renormalise", "max_gradient_norm", "betas", "eps")}
    return numpy_reference.Run(doubles(weights), **flags(objective), **settings)


PAPER_RULE = UpdateRule()
FREE_RULE = UpdateRule(unit_norm=False)
