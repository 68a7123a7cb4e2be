"""Stage `features`: data/tokens, the transformer and the dictionary -> data/<letter>/<number>/features.

`python -m pipelines.features --share 0/3` reads a third of the contexts alone, into features.parts beside; the stage itself, run
last, reads the shares that are missing, merges all and makes the table.
"""

import dataclasses
import functools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipelines.common import Stage, run_stage, stage_parser
from sae import artefact
from sae.dictionary.disk import dictionary_path, read_dictionary
from sae.errors import ConfigError
from sae.features.collect import Columns, Making
from sae.features.config import FeaturesConfig
from sae.features.part import Part, read
from sae.features.part_store import open_parts, remove_parts, write_part
from sae.features.side_by_side import Side
from sae.features.table import write_blocks
from sae.library import Place, check_same_tokens
from sae.source.site import ActivationSource
from sae.source.transformer import load_source
from sae.storage.share import Share
from sae.storage.tokens import TokenStore


@dataclasses.dataclass
class Tally:
    """What run.json says of the table, counted as it is written."""

    n_features: int = 0
    n_never_fired: int = 0
    n_firings: int = 0
    n_examples: int = 0

    def watch(self, blocks: Iterable[Columns]) -> Iterator[Columns]:
        for block in blocks:
            self.n_features += len(block["n_active"])
            self.n_never_fired += int((block["n_active"] == 0).sum())
            self.n_firings += int(block["n_active"].sum())
            self.n_examples += int(np.count_nonzero(block["example_interval"] >= 0))
            yield block


def main(stage: Stage, share: Share | None = None) -> None:
    config = stage.section("features", FeaturesConfig)
    tokens = TokenStore.open(stage.tokens)
    source = load_source(stage.transformer, stage.device)
    dictionary = read_dictionary(stage.dictionary).to(stage.device)
    other, more = other_side(stage, config, source)
    run = stage.run(
        "features", config, id=stage.dictionary_id, parents=(stage.tokens, stage.transformer, stage.dictionary, *more)
    )
    folder = stage.features.with_name("features.parts")

    def read_share(one: Share) -> Part:
        return read(source, dictionary, tokens, config, share=one, other=other)

    if share is not None:
        path = write_part(read_share(share), folder, share, run)
        print(f"features: {path} is written; the table is made by a run without --share")
        return
    start, tally = time.monotonic(), Tally()
    parts = open_parts(folder, run)
    missing = [each for each in all_shares(parts) if each not in parts]
    if parts:
        print(f"features: {len(parts)} of {len(parts) + len(missing)} shares are in {folder}, {len(missing)} are read here")
    with artefact.writing(stage.features, run) as draft:
        making = Making(source, dictionary, tokens, config, [*parts.values(), *map(read_share, missing)], other)
        write_blocks(draft.path, tally.watch(making.blocks()), dictionary.n_features, making.info, tokens.vocabulary)
        facts = {
            "n_features": tally.n_features,
            "n_tokens": making.info.n_tokens,
            "n_contexts": making.info.n_contexts,
            "n_never_fired": tally.n_never_fired,
            "l0": tally.n_firings / making.info.n_tokens,
            "n_examples": tally.n_examples,
            "inverse_scale": making.info.inverse_scale,
        }
        draft.run = dataclasses.replace(run, facts=facts)
    remove_parts(folder)
    heldout = tokens.split("heldout")
    if config.n_tokens > heldout.n_tokens:
        print(f"features: {config.n_tokens:,} tokens asked for, the held-out split has {heldout.n_tokens:,}: all of it was read")
    seconds = time.monotonic() - start
    print(
        f"features: {tally.n_features:,} over {making.info.n_tokens:,} held-out tokens in {seconds:.0f} s "
        f"({1000 * seconds / max(tally.n_features, 1):.1f} ms a feature); {tally.n_never_fired:,} never fired, "
        f"L0 {facts['l0']:.1f}"
    )


def all_shares(parts: Iterable[Share]) -> list[Share]:
    """Those of the pass of which `parts` are some; none where there is no part."""
    n = max((share.n for share in parts), default=0)
    return [Share(i, n) for i in range(n)]


def other_side(stage: Stage, config: FeaturesConfig, source: ActivationSource) -> tuple[Side | None, tuple[Path, ...]]:
    """The dictionary that `features.other` names with its transformer, and the artefacts that it comes from."""
    if not config.other:
        return None, ()
    place = Place(dictionary=dictionary_path(config.other))
    if place.dictionary.resolve() == stage.dictionary.resolve():
        raise ConfigError(f"features.other = {config.other} is the dictionary itself, whose own features are compared anyway")
    check_same_tokens((stage.transformer, place.transformer), f"{stage.dictionary_id} and {config.other}")
    same = place.transformer == stage.transformer
    beside = source if same else load_source(place.transformer, stage.device)
    side = Side(config.other, beside, read_dictionary(place.dictionary).to(stage.device))
    return side, (place.dictionary,) if same else (place.dictionary, place.transformer)


if __name__ == "__main__":
    parser = stage_parser("features", __doc__)
    parser.add_argument("--share", metavar="I/N", type=Share.parse, default=None, help="read this share of the contexts alone")
    given = parser.parse_args()
    run_stage("features", functools.partial(main, share=given.share), given, alone=given.share is None)
