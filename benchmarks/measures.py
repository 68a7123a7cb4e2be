"""What a trained dictionary is worth, whoever trained it: the same measures on the same rows, which no training has seen.

Weights of any L1 ReLU dictionary become a `TiedBiasDictionary` of unit-norm directions first (`from_weights`), so that nothing
below depends on a library's conventions; its reconstructions and what fires stay the same.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch

from sae.dictionary.base import Dictionary
from sae.dictionary.tied_relu import TiedBiasDictionary
from sae.errors import ConfigError
from sae.metrics.density import DensitySummary, Firing, active_entries, summarize
from sae.metrics.losses import LossSummary
from sae.metrics.reconstruction import Reconstruction, ReconstructionSums
from sae.shapes import Directions, FeatureActivations, PerFeature, PerNeuron, Rows
from sae.toys.recovery import Recovery, recovery
from sae.toys.synthetic import SyntheticRows

ULTRALOW = 1e-5
"""Density below which an alive feature is ultralow; 300,000 rows can tell it from a dead one (docs/method.md)."""
N_ROWS = 300_000
BATCH_SIZE = 4096
ENTRIES_AT_ONCE = 2**24
"""Of [row, feature] that are encoded together: 64 MiB. Batches larger than that are cut, the rows stay the same."""


class Quality(NamedTuple):
    """All over the same rows."""

    reconstruction: Reconstruction
    density: DensitySummary
    recovery: Recovery | None
    """Of the true directions; None where they are not known."""
    losses: LossSummary | None = None
    """Of the transformer with the reconstruction in the MLP's place, on held-out tokens; None where there is no transformer."""


def measure(
    dictionary: Dictionary, rows: Iterable[Rows], *, n_rows: int = N_ROWS, directions_true: Directions | None = None
) -> Quality:
    """The first `n_rows` of the batches in `rows`. A feature counts as alive, for the recovery too, if it fires on one of them:
    compare what was measured at the same `n_rows` only. Raises `ConfigError` where the rows run out."""
    at_once, device = max(1, ENTRIES_AT_ONCE // dictionary.n_features), dictionary.W_dec.device

    def encoded() -> Iterator[tuple[Rows, FeatureActivations, Rows]]:
        for x in (part.to(device) for batch in _first(rows, n_rows) for part in batch.split(at_once)):
            f = dictionary.encode(x)
            yield x, f, dictionary.decode(f)

    with torch.no_grad():
        reconstruction, firing = _sums(encoded(), dictionary.d_mlp, dictionary.n_features, device)
    found = None
    if directions_true is not None:
        found = recovery(directions_true, dictionary.W_dec, alive=firing.n_active > 0)
    return Quality(reconstruction, summarize(firing, ULTRALOW), found)


def measure_truth(toy: SyntheticRows, *, seed: int, n_rows: int = N_ROWS, batch_size: int = BATCH_SIZE) -> Quality:
    """The same of the true features with their true activations, on the rows of `toy.batches(batch_size, seed=seed)`: what a
    dictionary could be at best. Its error is the noise."""

    def known() -> Iterator[tuple[Rows, FeatureActivations, Rows]]:
        for number, start in enumerate(range(0, n_rows, batch_size)):
            x, f = (part[: n_rows - start] for part in toy.sample(batch_size, seed, number))
            yield x, f, f @ toy.directions

    reconstruction, firing = _sums(known(), toy.d_mlp, toy.n_features, torch.device("cpu"))
    found = recovery(toy.directions, toy.directions, alive=firing.n_active > 0)
    return Quality(reconstruction, summarize(firing, ULTRALOW), found)


def from_weights(W_enc: Directions, b_enc: PerFeature, W_dec: Directions, b_dec: PerNeuron, *, tied: bool) -> TiedBiasDictionary:
    """The dictionary that fires and reconstructs as f = ReLU(W_enc x + b_enc), or ReLU(W_enc (x - b_dec) + b_enc) where `tied`,
    and x̂ = f W_dec + b_dec do.

    The norm of each decoder row goes into its activation: f_i ‖W_dec[i]‖. A row of zeros stays, as does what its feature does.
    """
    bias = b_enc.double() if tied else b_enc.double() + W_enc.double() @ b_dec.double()
    norm = W_dec.double().norm(dim=1)
    norm = torch.where(norm > 0, norm, 1.0)
    return TiedBiasDictionary(
        (W_enc.double() * norm[:, None]).float(), (bias * norm).float(), (W_dec.double() / norm[:, None]).float(), b_dec.float()
    )


COLUMNS = (
    "L0",
    "FVU",
    "loss recovered",
    "dead",
    "ultralow",
    "mean cosine",
    "recovered",
    "shared",
    "missed",
    "split",
    "duplicates",
    "invented",
)


def columns(quality: Quality) -> tuple[float | None, ...]:
    """The numbers under `COLUMNS`; None where one is not known. Loss recovered is against zero ablation, as in the paper; dead
    and ultralow are fractions of all features, the counts of true features fractions of those, duplicates (copies beyond the
    first of each true feature) and invented fractions of the alive learned ones."""
    density, found = quality.density, quality.recovery
    ultralow = None if density.n_ultralow is None else density.n_ultralow / density.n_units
    recovered = None if quality.losses is None else quality.losses.loss_recovered_zero
    first = (quality.reconstruction.l0, quality.reconstruction.fvu, recovered, density.n_dead / density.n_units, ultralow)
    if found is None:
        return (*first, *[None] * (len(COLUMNS) - len(first)))
    of_true = (count / found.n_true for count in (found.n_shared, found.n_missed, found.n_split))
    of_learned = (count / max(found.n_learned, 1) for count in (found.n_duplicates, found.n_invented))
    return (*first, found.mean_cosine, found.recovered, *of_true, *of_learned)


def table(results: Mapping[str, Sequence[Quality]]) -> str:
    """Markdown: a line for each contestant, in each cell the mean over its seeds and, of several, their deviation (n - 1). A
    column of which nobody has a number is left out."""
    numbers = {name: list(zip(*map(columns, qualities), strict=True)) for name, qualities in results.items()}
    shown = [i for i in range(len(COLUMNS)) if any(_cell(line[i]) for line in numbers.values())]
    lines = ["| | seeds | " + " | ".join(COLUMNS[i] for i in shown) + " |", "|---" * (len(shown) + 2) + "|"]
    for name, line in numbers.items():
        lines.append(f"| {name} | {len(results[name])} | " + " | ".join(_cell(line[i]) for i in shown) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return ""
    mean = sum(known) / len(known)
    if len(known) == 1:
        return f"{mean:.4g}"
    deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1))
    return f"{mean:.4g} ± {deviation:.1g}"


def _first(batches: Iterable[Rows], n_rows: int) -> Iterator[Rows]:
    left = n_rows
    for batch in batches:
        yield batch[:left]
        left -= len(batch)
        if left <= 0:
            return
    raise ConfigError(f"{n_rows} rows asked for and {n_rows - left} given; ask for fewer or give more batches")


def _sums(
    blocks: Iterable[tuple[Rows, FeatureActivations, Rows]], d_mlp: int, n_features: int, device: torch.device
) -> tuple[Reconstruction, Firing]:
    sums, firing = ReconstructionSums.zeros(d_mlp, device), Firing.zeros(n_features, device)
    for x, f, x_hat in blocks:
        active = active_entries(f)
        sums.add(x, active, x_hat)
        firing.add(active, len(x))
    return sums.result(), firing
