"""Stage `splitting`: dictionaries of several sizes -> reports/splitting: splitting.json, edges, trees, a map."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.common import Stage, run_stage
from pipelines.plots import write_csv
from pipelines.splitting_plots import draw_children, draw_map, draw_trees
from sae import artefact
from sae.chance import generator
from sae.dictionary.base import Dictionary
from sae.library import made_from, open_several
from sae.reports import open_report, write_figures
from sae.splitting.graph import Splitting, SplittingConfig, find_splitting, summary
from sae.splitting.layout import Layout, neighbour_distances, stacked_layout
from sae.splitting.tree import Node, largest_trees, tree_of
from sae.storage.tokens import TokenStore


def main(stage: Stage) -> None:
    config = stage.section("splitting", SplittingConfig)
    proxies = stage.all_reports / config.dictionaries[0].replace("/", "-") / "proxies" if config.dictionaries else None
    named = (proxies,) if proxies is not None and proxies.is_dir() else ()
    run = stage.run("splitting", config, parents=(*made_from(stage.tokens, config.dictionaries), *named))
    words: dict[str, Any] = {"sizes": [], "trees": {}}
    with artefact.writing(stage.all_reports / "splitting", run) as draft:
        if config.dictionaries:
            source, dictionaries = open_several(config.dictionaries, device=str(stage.device))
            found = find_splitting(source, dictionaries, TokenStore.open(stage.tokens), config)
            layout = stacked_layout([dictionary for _, dictionary in dictionaries], found.counted, config.layout, config.seed)
            words = written(found, layout, dictionaries, config, named, draft.path)
        below = [f"{name}: {tree['id']} has {tree['n_below']:,} below it" for name, tree in words["trees"].items()]
        write_figures(draft.path, "splitting", words)
        draft.tell("\n".join([*(told(row) for row in words["sizes"]), *below]))


def written(
    found: Splitting,
    layout: Layout,
    dictionaries: list[tuple[str, Dictionary]],
    config: SplittingConfig,
    named: Sequence[Path],
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
    trees = dict(named_trees(found, named))
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


def named_trees(found: Splitting, reports: Sequence[Path]) -> Iterator[tuple[str, Node]]:
    """Of the features of the first dictionary that the proxies found best; none where there is no report of them."""
    hypotheses = [
        row
        for folder in reports
        for row in open_report(folder, "proxies", Path(), made_by="dvc repro proxies").figures("proxies")["hypotheses"].items()
    ]
    for name, row in hypotheses:
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
