"""`FeatureTable`: one row a feature, columns declared with axes, dtype and meaning; `features.zarr` inside its artefact.

The table holds all that the browser shows: the vocabulary is beside it, so nothing else has to be opened.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from sae import artefact
from sae.errors import ConfigError, StoreError
from sae.features.feature import Feature, describe
from sae.opened import Opened, steadily
from sae.paths import given
from sae.provenance import Run
from sae.storage import arrays

GROUP, VOCABULARY = "features.zarr", "vocabulary.json"
CHUNK_FEATURES = 512
N_BINS, N_LOGITS, N_NEURONS, N_PARTNERS = 50, 20, 5, 5


@dataclass(frozen=True, kw_only=True)
class Column:
    """One declared column."""

    name: str
    axes: tuple[str, ...]
    """`feature` first; then `kind`, `bin`, `example`, `window`, `logit`, `edge`, `neuron` or `partner`."""
    dtype: str
    """As numpy writes it: f8, i4 ..."""
    meaning: str
    """What the number is, with its unit and reduction."""


def _column(name: str, axes: str, dtype: str, meaning: str) -> Column:
    return Column(name=name, axes=("feature", *axes.split()), dtype=dtype, meaning=meaning)


_EXAMPLE = "example window"
COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        _column("density", "", "f8", "fraction of tokens on which the feature's activation is above 0"),
        _column("n_active", "", "i8", "number of those tokens"),
        _column("max_activation", "", "f4", "largest activation; 0 for a feature that never fired"),
        _column("mean_activation", "", "f4", "mean activation over the tokens on which it is above 0; 0 if there is none"),
        _column("histogram", "bin", "i8", "active tokens in equal-width bins over (0, max_activation], upper edges inclusive"),
        _column("kind_counts", "kind", "i8", "active tokens by the kind of document they are in"),
        _column("encoder_bias", "", "f4", "b_enc"),
        _column("encoder_decoder_cosine", "", "f4", "cosine of the encoder row with the dictionary vector"),
        _column("example_tokens", _EXAMPLE, "i4", "token ids around the example's token, which is in the middle; -1 is padding"),
        _column("example_activations", _EXAMPLE, "f2", "this feature's activation at each of those tokens; 0 at BOS and padding"),
        _column("example_context", "example", "i4", "index of the example's context in the held-out split; -1 is an empty slot"),
        _column("example_position", "example", "i4", "position of the example's token in that context; -1 is an empty slot"),
        _column("example_document", "example", "i4", "the document it is from; -1 is an empty slot"),
        _column(
            "example_interval",
            "example",
            "i1",
            "0: one of the top examples, the best token of each document. 1 ... n: drawn at random, one token a document, from "
            "the 1st ... n-th of n intervals of equal width over (0, max_activation], the highest first, upper edges "
            "inclusive. -1: empty slot",
        ),
        _column("example_peak", "example", "f4", "activation at the example's own token; 0 in an empty slot"),
        _column("logit_top_ids", "logit", "i4", "tokens that the feature makes more likely, by logit weight; -1 is padding"),
        _column("logit_top_values", "logit", "f4", "their logit weights d · W_out · π · L · W_U, shifted to a median of 0"),
        _column("logit_bottom_ids", "logit", "i4", "tokens that it makes less likely, the least likely first; -1 is padding"),
        _column("logit_bottom_values", "logit", "f4", "their logit weights"),
        _column("logit_histogram", "bin", "i8", "tokens of the vocabulary in equal-width bins of logit weight over logit_edges"),
        _column("logit_edges", "edge", "f4", "smallest and largest logit weight"),
        _column("neuron_correlated_ids", "neuron", "i4", "neurons with the largest Pearson correlation; -1: it never fired"),
        _column("neuron_correlated_values", "neuron", "f4", "Pearson correlation of activations over all tokens of the pass"),
        _column("neuron_coefficient_ids", "neuron", "i4", "neurons with the largest |coefficient| of the dictionary vector"),
        _column("neuron_coefficient_values", "neuron", "f4", "those coefficients, signed, of the vector scaled to norm 1"),
        _column(
            "feature_correlated_ids",
            "partner",
            "i4",
            "features of this dictionary with the largest Pearson correlation; -1: none",
        ),
        _column("feature_correlated_values", "partner", "f4", "Pearson correlation of activations over all tokens of the pass"),
        _column("other_correlated_ids", "partner", "i4", "the same among the features of the dictionary `other`; -1: none"),
        _column("other_correlated_values", "partner", "f4", "Pearson correlation of activations over all tokens of the pass"),
        _column("n_neurons_above_tenth", "", "i4", "neurons with |coefficient| of at least 0.1"),
        _column("participation_ratio", "", "f4", "1 / Σ c⁴ of the coefficients c: 1 for a neuron alone, d_mlp for all alike"),
        _column(
            "ablation_loss",
            "",
            "f4",
            "mean change of the loss, nats a token, over n_ablated tokens, when the feature is ablated (x - f d) at every token; "
            "NaN where n_ablated is 0, as in a transformer with layers above the site",
        ),
        _column(
            "n_ablated",
            "",
            "i8",
            "tokens over which ablation_loss is the mean: all on which the feature fires, but the last of each context, which "
            "predicts nothing",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class TableInfo:
    """What holds for all features of a table."""

    n_tokens: int
    """Tokens over which all was counted (BOS left out, unless asked for)."""
    n_contexts: int
    """The first so many contexts of the held-out split."""
    kinds: tuple[str, ...]
    """Names along the axis `kind`."""
    kind_tokens: tuple[int, ...]
    """Tokens of each kind among `n_tokens`."""
    window: int
    """Tokens shown on either side of an example's own."""
    n_top: int
    """Slots of `example_interval` 0."""
    n_intervals: int
    """Intervals below, each with as many slots."""
    n_logit_vocabulary: int
    """Tokens that occur often enough to be listed by logit weight."""
    inverse_scale: float
    """The mean of 1/σ of the final LayerNorm that the logit weights were made with."""
    other: str = ""
    """The other dictionary whose features are in `other_correlated_ids`, such as A/0; "" for none."""


class FeatureTable:
    """Columns by name: `table["density"]` is a numpy array (see `COLUMNS`); `table.feature(3450)` describes one feature."""

    def __init__(
        self, columns: Mapping[str, Any], info: TableInfo, vocabulary: list[bytes], run: Run, opened: Opened | None = None
    ):
        """`columns` are arrays in memory, or arrays on disk that are read when asked for, of the artefact `opened`."""
        _check(columns, info)
        self.info, self.vocabulary = info, vocabulary
        self.n_tokens, self.kinds, self.window = info.n_tokens, info.kinds, info.window
        self.run = run
        """Where it came from; of one that was never saved only the id, the dictionary's."""
        self._columns = columns
        self._reading = nullcontext if opened is None else opened.reading
        self._read: dict[str, ndarray] = {}

    @property
    def n_features(self) -> int:
        return int(self._columns["density"].shape[0])

    def __len__(self) -> int:
        return self.n_features

    def __getitem__(self, name: str) -> ndarray:
        """A whole column. Raises `ConfigError` for one that is not declared, `StoreError` where another table has taken the place
        of this one."""
        if name not in COLUMNS:
            raise ConfigError(f"a feature table has no column '{name}'; it has {', '.join(COLUMNS)}")
        if name not in self._read:
            with self._reading():
                found = np.asarray(self._columns[name][...])
            self._read[name] = found
        return self._read[name]

    def row(self, index: int) -> dict[str, ndarray]:
        """All columns of one feature, without reading the others. Raises `ConfigError` where there is none such, `StoreError` as
        above."""
        if not 0 <= index < self.n_features:
            raise ConfigError(f"no feature {index}: the table of {self.run.id or 'this dictionary'} has {self.n_features}")
        with self._reading():
            return {name: np.asarray(self._columns[name][index]) for name in COLUMNS}

    def feature(self, index: int) -> Feature:
        """What is known of one feature, to read or to print. Raises `ConfigError` where there is none such."""
        return describe(index, self.row(index), self.run.id, self.info.kinds, self.vocabulary, self.info.other)

    def write(self, path: Path) -> None:
        """Fill the draft directory `path`."""
        write_blocks(path, [self._columns], self.n_features, self.info, self.vocabulary)

    @classmethod
    def open(cls, path: str | Path) -> "FeatureTable":
        """The committed table in the folder `path`. Columns are read when asked for.

        Raises `StoreError` where it is missing, unfinished or damaged.
        """
        path = given(path)
        return steadily(path, lambda: cls._open(path))

    @classmethod
    def _open(cls, path: Path) -> "FeatureTable":
        run = artefact.read_run(path, "features", made_by="dvc repro features")
        artefact.verify(path, run)
        group = arrays.open_group(path / GROUP, run)
        attributes = dict(group.attrs)
        attributes.pop("definitions", None)
        for name in ("kinds", "kind_tokens"):
            attributes[name] = tuple(attributes.get(name, ()))  # type: ignore[arg-type]
        try:
            info = TableInfo(**attributes)  # type: ignore[arg-type]
        except TypeError as error:
            raise StoreError(f"{path} is no feature table that this version reads ({error}); make it again") from None
        encoded = json.loads((path / VOCABULARY).read_text(encoding="ascii"))
        columns = {name: arrays.get_array(group, name) for name in COLUMNS}
        return cls(columns, info, [base64.b64decode(token) for token in encoded], run, Opened(path))


def write_blocks(
    path: Path, blocks: Iterable[Mapping[str, Any]], n_features: int, info: TableInfo, vocabulary: list[bytes]
) -> None:
    """Fill the draft directory `path` with a table of `n_features`, whose columns come some features at a time: whole chunks of
    `CHUNK_FEATURES`, but at the end."""
    definitions = {name: column.meaning for name, column in COLUMNS.items()}
    group = arrays.create_group(path / GROUP, {**asdict(info), "definitions": definitions})
    written: dict[str, arrays.Array] = {}
    first = 0
    for block in blocks:
        _check(block, info)
        for name, column in COLUMNS.items():
            values = np.asarray(block[name][...])
            if not first:
                shape = (n_features, *values.shape[1:])
                written[name] = arrays.create_array(group, name, shape, values.dtype, column.axes, chunk_rows=CHUNK_FEATURES)
            if values.size:
                written[name][first : first + len(values)] = values
        first += len(block["density"])
    assert first == n_features, f"{first} features were written of {n_features}"
    encoded = [base64.b64encode(token).decode("ascii") for token in vocabulary]
    (path / VOCABULARY).write_text(json.dumps(encoded, indent=0), encoding="ascii")


def _check(columns: Mapping[str, Any], info: TableInfo) -> None:
    """Every declared column is there, with its dtype, and axes agree."""
    assert columns.keys() == COLUMNS.keys(), sorted(columns.keys() ^ COLUMNS.keys())
    sizes = {"kind": len(info.kinds), "window": 2 * info.window + 1, "bin": N_BINS, "logit": N_LOGITS, "edge": 2}
    sizes |= {"neuron": N_NEURONS, "partner": N_PARTNERS}
    for name, column in COLUMNS.items():
        values = columns[name]
        assert values.dtype == np.dtype(column.dtype), f"{name} is {values.dtype}, declared {column.dtype}"
        assert values.ndim == len(column.axes), f"{name} has shape {values.shape}, declared {column.axes}"
        for axis, size in zip(column.axes, values.shape, strict=True):
            assert sizes.setdefault(axis, size) == size, f"{name} has {size} along {axis}, others {sizes[axis]}"
