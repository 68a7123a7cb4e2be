"""Stage `splitting`: dictionaries of several sizes -> reports/splitting.json; edges, trees and a map in reports/splitting/."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.common import Stage, run_stage
from pipelines.evaluate import rounded
from pipelines.plots import write_csv
from pipelines.splitting_plots import draw_children, draw_map, draw_trees
from sae import artefact
from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.library import made_from, open_several
from sae.splitting.graph import Splitting, SplittingConfig, find_splitting, summary
from sae.splitting.layout import Layout, neighbour_distances, stacked_layout
from sae.splitting.tree import Node, largest_trees, tree_of
from sae.storage.tokens import TokenStore


def main(stage: Stage) -> None:
    config = stage.section("splitting", SplittingConfig)
    run = stage.run("splitting", config, parents=made_from(stage.tokens, config.dictionaries))
    words: dict[str, Any] = {"sizes": [], "trees": {}}
    with artefact.writing(stage.all_reports / "splitting", run) as draft:
        if config.dictionaries:
            source, dictionaries = open_several(config.dictionaries, device=str(stage.device))
            found = find_splitting(source, dictionaries, TokenStore.open(stage.tokens), config)
            layout = stacked_layout([dictionary for _, dictionary in dictionaries], found.counted, config.layout, config.seed)
            words = written(found, layout, dictionaries, config, stage.all_reports, draft.path)
        below = [f"{name}: {tree['id']} has {tree['n_below']:,} below it" for name, tree in words["trees"].items()]
        draft.tell("\n".join([*(told(row) for row in words["sizes"]), *below]))
    artefact.write_text(stage.all_reports / "splitting.json", json.dumps(rounded(words), indent=1, sort_keys=True) + "\n")


def written(
    found: Splitting,
    layout: Layout,
    dictionaries: list[tuple[str, Dictionary]],
    config: SplittingConfig,
    reports: Path,
    folder: Path,
) -> dict[str, Any]:
    """What the report says; tables and pictures go to `folder`."""
    rows = summary(found)
    first = np.cumsum([0, *(dictionary.n_features for _, dictionary in dictionaries)])
    for k, (sizes, row) in enumerate(zip(found.sizes, rows, strict=True)):
        child = np.flatnonzero(sizes.best_cosine > found.least)
        chance = generator(config.seed, "map", k)
        true, null = neighbour_distances(layout.place, child + first[k + 1], sizes.best[child] + first[k], chance)
        row["map_distance_to_parent"], row["map_distance_to_other_parent"] = (
            float(np.median(part)) if len(part) else None for part in (true, null)
        )
        columns = {"parent": sizes.parent, "child": sizes.child, "masked_cosine": sizes.cosine.round(6)}
        columns["is_best_parent"] = (sizes.best[sizes.child] == sizes.parent).astype(int)
        write_csv(folder / f"{sizes.first}+{sizes.second}.csv".replace("/", "-"), tuple(columns), tuple(columns.values()))
    trees = dict(named_trees(found, reports))
    largest = largest_trees(found, config.n_trees)
    draw_children(folder / "children.png", found)
    draw_map(folder / "map.png", found, layout, first)
    draw_trees(folder / "trees.png", [*trees.items(), *((f"largest {k + 1}", tree) for k, tree in enumerate(largest))])
    (folder / "trees.txt").write_text(
        "\n\n".join("\n".join([name, *tree.lines()]) for name, tree in trees.items()) + "\n", encoding="utf-8"
    )
    (folder / "largest.txt").write_text("\n\n".join("\n".join(tree.lines()) for tree in largest) + "\n", encoding="utf-8")
    told_of = {name: {**asdict(tree), "n_below": tree.n_below} for name, tree in trees.items()}
    return {"n_tokens": found.n_tokens, "layout": layout.kind, "sizes": rows, "trees": told_of}


def named_trees(found: Splitting, reports: Path) -> Iterator[tuple[str, Node]]:
    """Of the features of the first dictionary that the proxies found best, where its report is there."""
    path = reports / found.names[0].replace("/", "-") / "proxies.json"
    hypotheses = json.loads(path.read_text(encoding="utf-8"))["hypotheses"] if path.is_file() else {}
    for name, row in hypotheses.items():
        best = row["best_feature"]
        if best is not None and "competing" not in name:
            index = int(best["id"].rpartition("/")[2])
            if index in found.sizes[0].counted[0]:
                yield name, tree_of(found, index)


def told(row: dict[str, Any]) -> str:
    children = ", ".join(f"{name}: {n:,}" for name, n in row["children"].items())
    numbers = [row[key] for key in ("vector_cosine_to_parent", "vector_cosine_to_other_parent")]
    near, far = ("none" if value is None else f"{value:.2f}" for value in numbers)
    return (
        f"{row['first']} -> {row['second']}: {row['n_edges']:,} edges (shuffled {row['n_edges_shuffled']:,}); "
        f"features by children {children}; vectors' cosine with the parent {near}, with another's {far}"
    )


if __name__ == "__main__":
    run_stage("splitting", main)
