"""What every contestant is given: rows with known sparse structure, and weights at a wanted L0.

Rows: 2,048 unit directions in 512 dimensions; each row is the sum of 15 of them, drawn with a probability ∝ 1 / rank (Zipf) and
scaled by a uniform factor of 0.5 to 1.5; then a nonlinearity, one of `NONLINEARITIES`; then one constant that brings the mean
norm to √512. `StoreRows` are activations of the pipeline's own.

Weights at 4,096 features are trained by this project's engine and cached; those of any other width are rows of the data, centred
and normalised: their frequencies, and how many pre-activations lie near zero, are not those of a trained dictionary. Either way
b_enc is then shifted by one constant to the wanted L0 on the rows that the contestants are checked on.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.peers import cache_folder
from benchmarks.steppers.ours import Ours
from sae.errors import ConfigError
from sae.storage.activations import ActivationStore

D_MLP = 512
N_DIRECTIONS, N_ACTIVE = 2048, 15
TRAINED_WIDTH = 4096
NONLINEARITIES = {
    "relu": "ReLU of pre-activations less a constant, so that 1 in 7 is not zero: as many as of the pipeline's own transformer",
    "relu-half": "ReLU of pre-activations as they are, so that half are not zero",
    "gelu": "GELU of pre-activations of mean -1 and deviation 1: none is zero, most are small",
}
"""Kinds of synthetic rows."""
NONZERO = 1 / 7
"""Of the pipeline's own activations after the ReLU; 0.14 at the default size."""
TRAINING_L1, TRAINING_BATCH, TRAINING_RATE = 3.0, 4096, 1e-3


class TimingRows:
    """Rows without end, in a fixed order for a seed; `kind` is one of `NONLINEARITIES`."""

    def __init__(self, seed: int = 0, kind: str = "relu"):
        self.kind = kind
        self.generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(N_DIRECTIONS, D_MLP, generator=self.generator)
        self.directions = directions / directions.norm(dim=1, keepdim=True)
        self.frequencies = 1 / torch.arange(1, N_DIRECTIONS + 1)
        first = self._sums(8192)
        self.mean, self.deviation = first.mean(), first.std()
        self.threshold = first.flatten().kthvalue(round((1 - NONZERO) * first.numel())).values
        self.scale = 1.0
        self.scale = math.sqrt(D_MLP) / float(self._activations(first).norm(dim=1).mean())

    def draw(self, n_rows: int) -> Tensor:
        """The next rows [row, d_mlp], float32."""
        return self._activations(self._sums(n_rows)).mul_(self.scale)

    def _activations(self, sums: Tensor) -> Tensor:
        if self.kind == "gelu":
            return torch.nn.functional.gelu((sums - self.mean) / self.deviation - 1)
        return torch.relu(sums - self.threshold if self.kind == "relu" else sums)

    def _sums(self, n_rows: int) -> Tensor:
        drawn = torch.multinomial(self.frequencies, n_rows * N_ACTIVE, replacement=True, generator=self.generator)
        factors = torch.rand(n_rows, N_ACTIVE, generator=self.generator) + 0.5
        return torch.nn.functional.embedding_bag(
            drawn.view(n_rows, N_ACTIVE), self.directions, mode="sum", per_sample_weights=factors
        )


class StoreRows:
    """Rows of an activation store, in its order for a seed, times one constant that brings the mean norm to √d_mlp."""

    def __init__(self, path: Path, seed: int = 0):
        store = ActivationStore.open(path)
        self.batches = store.batches(TRAINING_BATCH, seed=seed)
        self.scale = math.sqrt(store.d_mlp) / float(store.run.facts["mean_norm"])

    def draw(self, n_rows: int) -> Tensor:
        """The next rows [row, d_mlp], float32; what is left of a batch is not used."""
        n_batches = -(-n_rows // TRAINING_BATCH)
        return torch.cat([next(self.batches) for _ in range(n_batches)])[:n_rows] * self.scale


def source_of(rows: str, seed: int) -> TimingRows | StoreRows:
    """Synthetic rows of one of `NONLINEARITIES`, or those of the store at the path `rows`."""
    return TimingRows(seed, rows) if rows in NONLINEARITIES else StoreRows(Path(rows), seed)


def check_rows(kinds: Sequence[str]) -> None:
    """Raises `ConfigError` for what is neither one of `NONLINEARITIES` nor the path of a store."""
    for kind in kinds:
        if kind not in NONLINEARITIES and not Path(kind, "run.json").is_file():
            raise ConfigError(f"--rows {kind}: must be one of {', '.join(NONLINEARITIES)}, or the path of an activation store")


def train_weights(n_steps: int, rows: str) -> dict[str, Tensor]:
    """A dictionary of `TRAINED_WIDTH` features after `n_steps` of this project's step at λ = 3, ramped over the first fifth."""
    source = source_of(rows, 0)
    first = source.draw(TRAINING_BATCH)
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.nn.functional.normalize(torch.randn(TRAINED_WIDTH, first.shape[1], generator=generator), dim=1)
    weights = {"W_enc": W_dec.clone(), "b_enc": torch.zeros(TRAINED_WIDTH), "W_dec": W_dec, "b_dec": first.mean(0)}
    ours = Ours(weights, l1=TRAINING_L1, learning_rate=TRAINING_RATE, batch_size=TRAINING_BATCH)
    for step in range(n_steps):
        ours.l1 = TRAINING_L1 * min(1.0, (step + 1) / max(1, n_steps // 5))
        ours.step(source.draw(TRAINING_BATCH))
    return {name: tensor.clone() for name, tensor in ours.weights()._asdict().items()}


def trained_weights(n_steps: int, rows: str) -> dict[str, Tensor]:
    """`train_weights`, kept in the cache. The name holds the steps and a digest of this file and of the kind of rows, or of the
    store's record, which say all else."""
    record = rows.encode() if rows in NONLINEARITIES else (Path(rows) / "run.json").read_bytes()
    digest = hashlib.sha256(Path(__file__).read_bytes() + record).hexdigest()[:8]
    path = cache_folder() / "benchmarks" / f"weights-{n_steps}-{digest}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(train_weights(n_steps, rows), path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    return load_file(path)


def weights_from_rows(rows: Tensor, n_features: int) -> dict[str, Tensor]:
    """Untrained features that look for single rows: W = (x − mean) / ‖x − mean‖ of the first `n_features` rows."""
    centre = rows.mean(0)
    W = torch.nn.functional.normalize(rows[:n_features] - centre, dim=1)
    return {"W_enc": W.clone(), "b_enc": torch.zeros(n_features), "W_dec": W, "b_dec": centre}


def parse_l0(text: str, n_features: int) -> float:
    """`20` is 20 active features a row, `5%` that share of the features."""
    try:
        value = float(text[:-1]) / 100 * n_features if text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < n_features:
        raise ConfigError(f"--l0 {text}: must be a number above 0 and below {n_features} features, or a share such as 5%")
    return value


def shift_to_l0(weights: dict[str, Tensor], rows: Tensor, l0: float) -> None:
    """Add one constant to b_enc so that exactly `round(l0 · rows)` pre-activations on `rows` are above zero. In place.

    The constant lies halfway between the two pre-activations around zero, so no contestant's rounding flips one of these two.
    """
    pre = ((rows - weights["b_dec"]) @ weights["W_enc"].T + weights["b_enc"]).flatten()
    n_active = round(l0 * len(rows))
    largest = pre.topk(n_active + 1).values
    weights["b_enc"] -= (largest[-1] + largest[-2]) / 2


def write_problem(
    path: Path,
    *,
    n_features: int,
    l0: float,
    batch_size: int,
    n_batches: int,
    n_checked: int,
    steps: int,
    kind: str,
) -> tuple[int, float]:
    """Rows of a `kind` (`source_of`) and weights in one safetensors file: rows, W_enc, b_enc, W_dec, b_dec. `steps` of training
    where it is trained.
    Returns d_mlp and the fraction of entries that are not zero."""
    rows = source_of(kind, 2).draw(batch_size * n_batches)
    trained = n_features == TRAINED_WIDTH
    weights = trained_weights(steps, kind) if trained else weights_from_rows(source_of(kind, 3).draw(n_features), n_features)
    shift_to_l0(weights, rows[:n_checked], l0)
    save_file({**weights, "rows": rows}, path)
    return rows.shape[1], float((rows[: 4 * n_checked] != 0).float().mean())
