"""The tree of one feature through larger and larger dictionaries: each feature below the one that it has most in common with."""

from dataclasses import dataclass

from sae.errors import ConfigError
from sae.splitting.graph import Splitting
from sae.ties import in_order


@dataclass(frozen=True)
class Node:
    """One feature and what it split into."""

    id: str
    tokens: list[str]
    """On which it fires most."""
    n_active: int
    cosine: float | None
    """Masked, with the feature above; None for the root."""
    children: list["Node"]
    """The nearest first."""

    @property
    def n_below(self) -> int:
        return sum(1 + child.n_below for child in self.children)

    def lines(self, indent: str = "") -> list[str]:
        """As text, a feature a line."""
        edge = "" if self.cosine is None else f"{self.cosine:.2f}  "
        found = [f"{indent}{edge}{self.id}  {' '.join(repr(token) for token in self.tokens)}  ({self.n_active:,} tokens)"]
        for child in self.children:
            found += child.lines(indent + "    ")
        return found


def tree_of(found: Splitting, feature: int, level: int = 0, cosine: float | None = None) -> Node:
    """Of a feature of the dictionary `level`, down to the last. Raises `ConfigError` for one that is not there, or hardly
    fires."""
    firings = found.text.firings[level]
    if feature >= firings.n_features:
        raise ConfigError(f"{found.names[level]} has {firings.n_features:,} features, so no number {feature}")
    children: list[Node] = []
    if level < len(found.sizes):
        sizes = found.sizes[level]
        if feature not in sizes.counted[0]:
            n = f"{firings.n_active[feature]} of {found.n_tokens:,} tokens"
            raise ConfigError(f"{found.names[level]}/{feature} fires on {n}, which are too few; read more of them")
        below = sorted(sizes.children(found.least)[feature])
        best = sizes.best_cosine[below]
        children = [tree_of(found, below[i], level + 1, float(best[i])) for i in in_order(best)]
    return Node(f"{found.names[level]}/{feature}", found.tokens(level, feature), int(firings.n_active[feature]), cosine, children)


def largest_trees(found: Splitting, n: int) -> list[Node]:
    """Of the features of the first dictionary, the trees with the most descendants."""
    trees = [tree_of(found, int(feature)) for feature in found.sizes[0].counted[0]]
    return sorted(trees, key=lambda tree: -tree.n_below)[:n]
