"""What the page holds of a FeatureTable: a few numbers of every feature for the list, the rest in chunks."""

from typing import Any

import numpy as np
from numpy import ndarray

from sae.features.table import COLUMNS, FeatureTable
from sae.metrics.density import resolves
from sae.web.packing import narrow

N_TOP_TOKENS = 5
N_LOGITS_SEARCHED = 10
DEAD, ULTRALOW, ALIVE = 0, 1, 2
_LARGEST = {"context": 2**31, "position": 2**31, "document": 2**31, "interval": 2**7, "neuron": 2**24, "correlated": 2**24}


def scalar_columns() -> list[str]:
    """Columns of one number a feature: the list shows and sorts by each of them, also by those that it was not written for."""
    return [column.name for column in COLUMNS.values() if column.axes == ("feature",)]


def chunk_column_names() -> list[str]:
    """Columns of several numbers a feature."""
    return [column.name for column in COLUMNS.values() if column.axes != ("feature",)]


def index_columns(table: FeatureTable, n_features: int, ultralow: float) -> dict[str, ndarray]:
    """The columns of the list, for the first `n_features` features."""

    def first(name: str) -> ndarray:
        return table[name][:n_features]

    n_vocab, counted = len(table.vocabulary), first("kind_counts").sum(1)
    highest = first("kind_counts").max(1, initial=0)
    share = np.divide(highest, counted, out=np.full(n_features, np.nan), where=counted > 0)
    kind = first("kind_counts").argmax(1) if len(table.kinds) else np.zeros(n_features, np.int64)
    return {
        **{name: _narrow(table, name, first(name)) for name in scalar_columns()},
        "state": states(table, n_features, ultralow),
        "kind": narrow(np.where(counted > 0, kind, -1), len(table.kinds)),
        "kind_share": share.astype(np.float32),
        "top_tokens": narrow(top_tokens(table, n_features), n_vocab),
        "top_logits": narrow(first("logit_top_ids")[:, :N_LOGITS_SEARCHED], n_vocab),
        "top_logit_value": narrow(first("logit_top_values")[:, 0]),
        "neuron_correlation": narrow(first("neuron_correlated_values")[:, 0]),
    }


def states(table: FeatureTable, n_features: int, ultralow: float) -> ndarray:
    """Dead (never active), ultralow (a density below `ultralow`, where that can be told), or alive: u1[feature]."""
    low = resolves(table.n_tokens, ultralow) & (table["density"][:n_features] < ultralow)
    return np.where(table["n_active"][:n_features] == 0, DEAD, np.where(low, ULTRALOW, ALIVE)).astype(np.uint8)


def top_tokens(table: FeatureTable, n_features: int) -> ndarray:
    """The own tokens of the top examples, i8[feature, 5]: most examples first, then the strongest; -1 fills."""
    is_top = table["example_interval"][:n_features] == 0
    tokens, peaks = table["example_tokens"][:n_features, :, table.window], table["example_peak"][:n_features]
    found = np.full((n_features, N_TOP_TOKENS), -1, dtype=np.int64)
    for feature in range(n_features):
        used = is_top[feature] & (tokens[feature] >= 0)
        ids, inverse, counts = np.unique(tokens[feature][used], return_inverse=True, return_counts=True)
        highest = np.zeros(len(ids))
        np.maximum.at(highest, inverse, peaks[feature][used])
        order = np.lexsort((ids, -highest, -counts))[:N_TOP_TOKENS]
        found[feature, : len(order)] = ids[order]
    return found


def chunk_columns(table: FeatureTable, start: int, stop: int) -> dict[str, ndarray]:
    """All that is shown of the features `start` to `stop`, by column."""
    return {name: _narrow(table, name, table[name][start:stop]) for name in chunk_column_names()}


def _narrow(table: FeatureTable, name: str, values: ndarray) -> ndarray:
    """Whole numbers get a type that depends on the column alone, so that it is the same in all chunks."""
    if values.dtype.kind == "f":
        return narrow(values)
    if "logit" in COLUMNS[name].axes or name == "example_tokens":
        return narrow(values, len(table.vocabulary))
    largest = next((size for part, size in _LARGEST.items() if part in name), max(table.n_tokens, len(table.vocabulary)))
    return narrow(values, largest)


def declared(name: str) -> dict[str, Any]:
    """Label and meaning of a column that the page has no words of its own for."""
    meaning = COLUMNS[name].meaning
    return {"label": name.replace("_", " ").capitalize(), "meaning": meaning[:1].upper() + meaning[1:] + "."}
