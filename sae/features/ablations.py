"""The loss that each feature saves, for all features at once: every one ablated at every token on which it fires.

Where only the final norm lies between the site and the logits (`source/readout.py`), taking f_i d_i from x at one position
changes the prediction at that position and no other. So the paper's ablation of feature i at every token of every context comes
apart into its firings, each of which costs a softmax over the vocabulary and no forward pass.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Integer
from numpy import ndarray
from torch import Tensor

from sae.features.firings import Firings
from sae.features.passes import batches
from sae.kernels.native_ablation import loss_changes
from sae.kernels.threads import for_blocks
from sae.shapes import Directions
from sae.source.readout import Readout
from sae.source.site import ActivationSource
from sae.storage.tokens import Split

COUNTED = 2**20
"""Pairs that are summed up at a time."""
BLOCK = 512
"""Pairs that a thread does at a time."""
MOST_LOGITS = 2**24
"""Entries [pair, vocab] at a time, where logits are multiplied out: on a GPU."""


class Pairs(NamedTuple):
    """Firings of features, by token; those on the last token of a context, which predicts nothing here, are left out."""

    token: Int[ndarray, " pair"]
    feature: Integer[ndarray, " pair"]
    value: Float[ndarray, " pair"]

    def of(self, features: slice) -> "Pairs":
        """Those of some features, which are counted from 0 on."""
        if features.start == 0 and features.stop > self.feature.max(initial=0):
            return self
        chosen = (self.feature >= features.start) & (self.feature < features.stop)
        here = Pairs(*(part[chosen] for part in self))
        return here._replace(feature=here.feature - here.feature.dtype.type(features.start))


class Rows(NamedTuple):
    """Positions of one batch, all but each context's last."""

    residual: Float[Tensor, "row d_model"]
    """Final residual streams, centred."""
    target: Int[Tensor, " row"]
    """The token that came next."""


@torch.no_grad()
def ablation_columns(
    source: ActivationSource, W_dec: Directions, split: Split, firings: Firings, *, memory: int, contexts_per_batch: int
) -> dict[str, ndarray]:
    """The table's ablation columns, from the `firings` of a pass over the first contexts of `split`.

    Of every firing, of as many features at a time as half of `memory` (bytes) holds what they write to the residual stream and,
    on a CPU, their logit weights, 4 bytes for each of d_model twice and of the vocabulary; the text is read once for each lot.
    NaN, and counts of 0, where the site does not lie in the last layer: there a change at one position has effects at others
    (`interventions.ablation_effect`).
    """
    readout, n_features = source.readout(), firings.n_features
    if readout is None:
        return unmeasured(n_features)
    on_cpu = torch.device(source.device).type == "cpu"
    size = max(1, memory // 2 // (4 * (2 * len(readout.W_U) + (source.n_vocab if on_cpu else 0))))
    pairs = pairs_of(firings, split.context_length)
    n, total = np.zeros(n_features, np.int64), np.zeros(n_features)

    def read(lot: slice) -> None:  # what it holds is gone before the next one's is made
        here = pairs.of(lot)
        u = readout.centre(W_dec[lot].float() @ readout.W_out)
        v = u @ readout.W_U if on_cpu else None
        changes = changes_of(source, readout, split, here, u, v, contexts_per_batch)
        for first in range(0, len(changes), COUNTED):  # bincount takes 16 bytes for each
            part = slice(first, first + COUNTED)
            n[lot] += np.bincount(here.feature[part], minlength=len(u))
            total[lot] += np.bincount(here.feature[part], changes[part], minlength=len(u))

    for begin in range(0, n_features, size):
        read(slice(begin, min(begin + size, n_features)))
    mean = np.divide(total, n, out=np.full(n_features, np.nan), where=n > 0)
    return {"ablation_loss": mean.astype(np.float32), "n_ablated": n}


def unmeasured(n_features: int) -> dict[str, ndarray]:
    """The columns where nothing was ablated."""
    return {"ablation_loss": np.full(n_features, np.nan, np.float32), "n_ablated": np.zeros(n_features, np.int64)}


def changes_of(
    source: ActivationSource, readout: Readout, split: Split, pairs: Pairs, u: Tensor, v: Tensor | None, contexts_per_batch: int
) -> Float[ndarray, " pair"]:
    """Change of the loss, nats, for each pair; `u` [feature, d_model] is what the features write to the residual stream, centred,
    and `v` [feature, vocab] their logit weights, or None where these are not held."""
    changes, length = np.zeros(len(pairs.token), np.float32), split.context_length
    limit = int(pairs.token.max(initial=0)) // length + 1
    for batch in batches(source, split, limit, label="ablations", contexts_per_batch=contexts_per_batch, skip_bos=False):
        start, stop = np.searchsorted(pairs.token, [batch.first * length, (batch.first + len(batch.tokens)) * length])
        here = Pairs(*(part[start:stop] for part in pairs))
        context, position = np.divmod(here.token - batch.first * length, length)
        here = here._replace(token=(context * (length - 1) + position).astype(np.int64))
        residual = readout.centre(readout.residual(batch.tokens)[:, :-1].flatten(0, 1))
        rows = Rows(residual, batch.tokens[:, 1:].flatten())
        changes[start:stop] = multiplied_out(readout, rows, here, u) if v is None else compiled(readout, rows, here, u, v)
    return changes


def pairs_of(firings: Firings, context_length: int) -> Pairs:
    """All of them, by token."""
    chosen = np.flatnonzero((firings.token + 1) % context_length != 0)
    chosen = chosen[np.argsort(firings.token[chosen], kind="stable")]
    return Pairs(firings.token[chosen], firings.feature[chosen], firings.value[chosen])


def compiled(readout: Readout, rows: Rows, pairs: Pairs, u: Tensor, v: Tensor) -> Float[ndarray, " pair"]:
    """Change of the loss for each pair (`token` is a row of `rows`), nats, on the CPU; `v` are the features' logit weights."""
    changes = np.zeros(len(pairs.token))
    g = rows.residual @ readout.W_U
    arrays = (part.contiguous().numpy() for part in (rows.residual, g, u, v, readout.bias, rows.target))
    residual, g_array, u_array, v_array, bias, target = arrays
    given = (pairs.token, pairs.feature, pairs.value, residual, g_array, u_array, v_array, bias, target)

    def work(block: int) -> None:
        stop = min((block + 1) * BLOCK, len(changes))
        loss_changes(block * BLOCK, stop, *given, readout.eps, readout.norm != "none", changes)

    for_blocks(work, -(-len(changes) // BLOCK))
    return changes


def multiplied_out(readout: Readout, rows: Rows, pairs: Pairs, u: Tensor) -> Float[ndarray, " pair"]:
    """The same by a product of matrices for every pair: on any device, for any number of features."""
    device, found = rows.residual.device, []
    clean = F.cross_entropy(readout.logits(rows.residual), rows.target, reduction="none")
    for start in range(0, len(pairs.token), max(1, MOST_LOGITS // readout.W_U.shape[1])):
        part = slice(start, start + max(1, MOST_LOGITS // readout.W_U.shape[1]))
        row, feature = (torch.from_numpy(each[part].astype(np.int64)).to(device) for each in pairs[:2])
        value = torch.from_numpy(pairs.value[part]).to(device)
        logits = readout.logits(rows.residual[row] - value[:, None] * u[feature])
        found.append(F.cross_entropy(logits, rows.target[row], reduction="none").double() - clean[row].double())
    return torch.cat(found).cpu().numpy() if found else np.zeros(0)
