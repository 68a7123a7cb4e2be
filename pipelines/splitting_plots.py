"""The pictures of stage `splitting`: best parents beside their null, the map, and trees."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from pipelines.automata_plots import shown
from pipelines.plots import FEATURE, MARK, NEURON, new_figure, save
from sae.splitting.graph import Splitting
from sae.splitting.layout import Layout
from sae.splitting.tree import Node

COLORS = (NEURON, FEATURE, "#7fbf7b", "#9970ab")
MOST_CHILDREN = 6
"""Of one feature, that are drawn; how many more there are is written."""


def draw_children(path: Path, found: Splitting) -> None:
    """For each step between sizes: masked cosine with the best parent, children by parent, and how near the vectors are."""
    figure, axes = new_figure(rows=len(found.sizes), columns=3, size=(12.0, 3.4 * len(found.sizes)))
    for row, sizes, to_parent, to_other in zip(axes, found.sizes, found.to_parent, found.to_other, strict=True):
        children = sizes.counted[1]
        edges = np.linspace(0, 1, 41)
        for values, color, name in ((sizes.best_cosine, FEATURE, "as it is"), (sizes.best_shuffled, NEURON, "shuffled tokens")):
            row[0].stairs(np.histogram(values[children], edges)[0], edges, color=color, label=name)
        row[0].axvline(found.least, color=MARK, linestyle=":", linewidth=1)
        row[0].set_xlabel("masked cosine with the best parent")
        row[0].set_ylabel(f"features of {sizes.second}")
        n = np.array([len(some) for some in sizes.children(found.least)])[sizes.counted[0]]
        row[1].bar(*np.unique(n, return_counts=True), color=FEATURE, width=0.9)
        row[1].set_xlabel(f"children in {sizes.second}")
        row[1].set_ylabel(f"features of {sizes.first}")
        edges = np.linspace(-0.5, 1, 41)
        for values, color, name in ((to_parent, FEATURE, "its parent"), (to_other, NEURON, "another's parent")):
            row[2].stairs(np.histogram(values, edges)[0], edges, color=color, label=name)
        row[2].set_xlabel("cosine of the dictionary vectors of a child and ...")
        for axis in (row[0], row[2]):
            axis.legend(frameon=False, fontsize=8)
    title = f"Splitting, {' → '.join(found.names)}: {found.n_tokens:,} held-out tokens"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save(figure, path)


def draw_map(path: Path, found: Splitting, layout: Layout, first: np.ndarray) -> None:
    """Left the features of all dictionaries; right the distances of children from their parents."""
    figure, axes = new_figure(columns=2, size=(12.0, 6.0))
    for k in reversed(range(len(found.names))):
        x, y = layout.place[first[k] : first[k + 1]].T
        axes[0, 0].scatter(
            x, y, s=8 if k == 0 else 3, color=COLORS[k % len(COLORS)], linewidths=0, alpha=0.7, label=found.names[k]
        )
    axes[0, 0].legend(frameon=False, markerscale=3, fontsize=8)
    axes[0, 0].set_xlabel(layout.kind)
    for k, sizes in enumerate(found.sizes):
        child = np.flatnonzero(sizes.best_cosine > found.least)
        other = np.roll(sizes.best[child], max(1, len(child) // 2))
        for of, style, name in ((sizes.best[child], "-", "its parent"), (other, ":", "another's parent")):
            distance = np.sort(np.linalg.norm(layout.place[child + first[k + 1]] - layout.place[of + first[k]], axis=1))
            share = np.arange(1, len(distance) + 1) / max(len(distance), 1)
            color = COLORS[(k + 1) % len(COLORS)]
            axes[0, 1].plot(distance, share, color=color, linestyle=style, label=f"{sizes.second} from {name}")
    axes[0, 1].set_xlabel("distance on the map")
    axes[0, 1].set_ylabel("share of children nearer than that")
    if axes[0, 1].get_legend_handles_labels()[0]:
        axes[0, 1].legend(frameon=False, fontsize=8)
    clustered = layout.cluster is not None and f", {layout.cluster.max() + 1:,} clusters"
    n_shown = sum(len(each) for each in found.counted)
    title = f"{n_shown:,} of {len(layout.place):,} dictionary vectors: of the features that fire{clustered or ''}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    save(figure, path)


def draw_trees(path: Path, trees: list[tuple[str, Node]]) -> None:
    """One below the other, from left to right."""
    heights = [max(_height(tree), 1) for _, tree in trees] or [1]
    figure, axes = new_figure(size=(11.0, 0.32 * (sum(heights) + len(heights)) + 0.8))
    axis, y = axes[0, 0], 0.0
    axis.set_axis_off()
    for (name, tree), height in zip(trees, heights, strict=False):
        axis.text(-0.02, y, name, ha="right", va="center", fontsize=8, color=MARK, parse_math=False)
        _draw_node(axis, tree, 0.0, y)
        y -= height + 1
    axis.set_xlim(-0.3, 0.9 * max((_depth(tree) for _, tree in trees), default=0) + 0.9)
    axis.set_ylim(y, 1)
    figure.suptitle("Features and what they split into (beside each edge the masked cosine)", x=0.01, ha="left", fontsize=11)
    save(figure, path)


def _height(node: Node) -> int:
    """Lines that a node takes: its drawn children's, and one for those that are not drawn."""
    drawn = sum(_height(child) for child in node.children[:MOST_CHILDREN])
    return max(1, drawn + (len(node.children) > MOST_CHILDREN))


def _depth(node: Node) -> int:
    return max((1 + _depth(child) for child in node.children), default=0)


def _draw_node(axis: Axes, node: Node, x: float, y: float) -> None:
    label = f"{node.id}  " + "  ".join(shown(token) for token in node.tokens)
    axis.text(x, y, label, ha="left", va="center", fontsize=7.5, parse_math=False)
    below = y
    for child in node.children[:MOST_CHILDREN]:
        axis.plot([x + 0.62, x + 0.72, x + 0.86], [y, below, below], color=MARK, linewidth=0.7)
        axis.text(x + 0.79, below + 0.08, f"{child.cosine:.2f}", ha="center", va="bottom", fontsize=6, color=MARK)
        _draw_node(axis, child, x + 0.9, below)
        below -= _height(child)
    if len(node.children) > MOST_CHILDREN:
        more = f"… {len(node.children) - MOST_CHILDREN} more"
        axis.text(x + 0.9, below, more, ha="left", va="center", fontsize=7, color=MARK)
