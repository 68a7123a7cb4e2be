"""UMAP and HDBSCAN with the paper's settings. Both come with the extra `map`; nothing else needs them."""

import importlib
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from sae.errors import ConfigError

N_NEIGHBORS, METRIC, MIN_CLUSTER = 15, "cosine", 3


def _door(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap warns where tensorflow is missing, which it does not need
            return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"splitting.layout = 'umap' needs the package of {name} ({error}); install it: pip install 'sae-pipeline[map]', or "
            "set layout to 'pca'"
        ) from None


def embed(rows: Float[ndarray, "row width"], n_components: int, min_dist: float, seed: int) -> Float[ndarray, "row component"]:
    """UMAP, the same for the same `seed` (on one thread, which that costs). Raises `ConfigError` where it is not installed."""
    umap = _door("umap")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = umap.UMAP(
            n_components=n_components,
            n_neighbors=min(N_NEIGHBORS, len(rows) - 1),
            metric=METRIC,
            min_dist=min_dist,
            random_state=seed,
            n_jobs=1,
        )
        return np.asarray(made.fit_transform(rows), np.float64)


def clusters(rows: Float[ndarray, "row width"]) -> Int[ndarray, " row"]:
    """HDBSCAN's cluster of each row, -1 for none."""
    cluster = _door("sklearn.cluster")
    return np.asarray(cluster.HDBSCAN(min_cluster_size=MIN_CLUSTER, copy=True).fit_predict(rows), np.int64)
