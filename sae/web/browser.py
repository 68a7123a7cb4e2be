"""The feature browser: a static page over all features of a dictionary that opens from disk, without a server or a network.

`index.html` with its style and scripts is the same for every dictionary; what differs lies in `data/`: `index.js` (what
the list shows of every feature), `tokens.js` (the vocabulary) and `features_0000.js` ... (the rest, in chunks that the
page loads when a feature of theirs is opened).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from sae.errors import ConfigError
from sae.features.table import FeatureTable
from sae.metrics.density import PAPER_ULTRALOW, resolves
from sae.progress import track
from sae.shown import printable
from sae.web.columns import chunk_columns, declared, index_columns, scalar_columns
from sae.web.definitions import definitions
from sae.web.figures import Figure
from sae.web.packing import layout, pack, pack_tokens, script

FORMAT = 1
"""Version of the data files; the page's scripts refuse another."""


@dataclass(frozen=True, kw_only=True)
class BrowserConfig:
    """Section `browser` of params.yaml."""

    n_features: int = 0
    """Features on the page, the first ones of the dictionary; 0 for all."""
    chunk: int = 64
    """Features in one data file: what opening one feature loads, 2 to 5 KB each."""

    def __post_init__(self) -> None:
        if self.n_features < 0:
            raise ConfigError(f"'n_features' = {self.n_features}: must not be negative; 0 stands for all features")
        if not 1 <= self.chunk <= 4096:
            raise ConfigError(f"'chunk' = {self.chunk}: must lie between 1 and 4096; 64 is a good size")


def build(
    table: FeatureTable,
    out: Path,
    config: BrowserConfig,
    figures: Sequence[Figure] = (),
    ultralow: float = PAPER_ULTRALOW,
) -> None:
    """Write the page over `table` into the empty directory `out`.

    `figures` stand in its header. Features that fire on a smaller fraction of tokens than `ultralow` are marked as such,
    where the table's tokens are enough to tell.
    """
    for page in (resources.files("sae.web") / "pages").iterdir():
        (out / page.name).write_bytes(page.read_bytes())
    n_features = min(config.n_features or len(table), len(table))
    index = index_columns(table, n_features, ultralow)
    form: list[dict[str, Any]] = []
    starts = range(0, n_features, config.chunk)
    for number, start in enumerate(track(starts, "browser", len(starts))):
        columns = chunk_columns(table, start, min(start + config.chunk, n_features))
        form = layout(columns)
        _write(out, f"features_{number:04d}", {"start": start}, pack(columns))
    about = _about(table, n_features, config.chunk, ultralow, figures)
    _write(out, "index", {**about, "index_columns": layout(index), "chunk_columns": form}, pack(index))
    vocabulary = pack_tokens(table.vocabulary)
    _write(out, "tokens", {"columns": layout(vocabulary), "n_vocab": len(table.vocabulary)}, pack(vocabulary))


def _write(out: Path, name: str, header: dict[str, Any], payload: str) -> None:
    (out / "data").mkdir(exist_ok=True)
    (out / "data" / f"{name}.js").write_text(script(name, header, payload), encoding="ascii")


def _about(table: FeatureTable, n_features: int, chunk: int, ultralow: float, figures: Sequence[Figure]) -> dict[str, Any]:
    told = resolves(table.n_tokens, ultralow)
    words = definitions(ultralow if told else None)
    statistics = scalar_columns()
    return {
        "format": FORMAT,
        "id": table.run.id,
        "figures": [asdict(figure) for figure in figures],
        "n_features": n_features,
        "n_features_in_dictionary": len(table),
        "n_tokens": int(table.n_tokens),
        "n_intervals": table.info.n_intervals,
        "window": table.window,
        "other": table.info.other,
        "chunk": chunk,
        "ultralow_told": told,
        "kinds": [printable(kind) for kind in table.kinds],
        "kind_tokens": [int(n) for n in table.info.kind_tokens],
        "statistics": statistics,
        "definitions": {**{name: declared(name) for name in statistics}, **words},
    }
