"""The automaton of names like MAX_VALUE, which the paper found in A/0: a feature on capitals, one on underscores, each
announcing the other. Looked for by what tokens features fire on."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from sae.automata.edges import Automata, Pairs, share_on

CAPITALS, UNDERSCORE = re.compile(rb"[A-Z]+"), re.compile(rb"_+")
"""A piece of a word in capitals, also a single one, as the vocabulary cuts such words into letters (with two at least, the
automaton of a dictionary of 512 features was missed); and underscores alone. Names like Value begin with a capital too, but
of those no underscore tells."""
LEAST_SHARE = 0.5
"""Of a feature's activation that lies on such tokens, for it to be a candidate."""


def tokens_like(vocabulary: Sequence[bytes], pattern: re.Pattern[bytes], n_vocab: int) -> Bool[ndarray, " vocab"]:
    """The tokens that match `pattern` as a whole, a space before them aside."""
    found = np.zeros(n_vocab, bool)
    found[[k for k, token in enumerate(vocabulary) if pattern.fullmatch(token.removeprefix(b" "))]] = True
    return found


@dataclass(frozen=True, kw_only=True)
class SnakeCase:
    """What was found of it."""

    n_capitals: int
    """Features with at least `LEAST_SHARE` of their activation on pieces of words in capitals, and `min_count` firings."""
    n_underscore: int
    found: bool
    """Whether a pair of them has edges both ways."""
    n_pairs: int
    """How many such pairs have."""
    n_pairs_shuffled: int
    """How many would have by the numbers of the two nulls."""
    best: dict[str, Any] | None
    """The pair with the most: of each two of its numbers the lower counts, above what an edge needs, in the way in which it has
    less. None where there are no candidates of one of the two."""


def snake_case(found: Automata, vocabulary: Sequence[bytes]) -> SnakeCase:
    """`found` must have been made with the tokens that `watched` gives."""
    kinds = [tokens_like(vocabulary, pattern, len(found.token_count)) for pattern in (CAPITALS, UNDERSCORE)]
    shares = [share_on(found.means, found.token_count, kind) for kind in kinds]
    capitals, underscore = ((share >= LEAST_SHARE) & (found.n_active >= found.min_count) for share in shares)
    there, back = _both_ways(found.pairs, capitals, underscore)
    edges, shuffled = found.mask(), found.mask(shuffled_order=True, shuffled_tokens=True)
    n_pairs, n_shuffled = (int((mask[there] & mask[back]).sum()) for mask in (edges, shuffled))
    best = None
    if len(there):
        score = np.minimum(_margin(found, there), _margin(found, back))
        k = int(np.lexsort((there, -score))[0])
        best = {
            "capitals": _described(found.pairs, int(there[k]), edges, shares[0]),
            "underscore": _described(found.pairs, int(back[k]), edges, shares[1]),
        }
    return SnakeCase(
        n_capitals=int(capitals.sum()),
        n_underscore=int(underscore.sum()),
        found=n_pairs > 0,
        n_pairs=n_pairs,
        n_pairs_shuffled=n_shuffled,
        best=best,
    )


def watched(vocabulary: Sequence[bytes], n_vocab: int) -> Bool[ndarray, " vocab"]:
    """All tokens of either kind: pairs of features on these are kept by `find_automata`."""
    return tokens_like(vocabulary, CAPITALS, n_vocab) | tokens_like(vocabulary, UNDERSCORE, n_vocab)


def _both_ways(
    pairs: Pairs, capitals: Bool[ndarray, " feature"], underscore: Bool[ndarray, " feature"]
) -> tuple[ndarray, ndarray]:
    """Places of the pairs capitals -> underscore, and of the same pairs back."""
    there = np.flatnonzero(capitals[pairs.first] & underscore[pairs.second])
    place = {
        (int(pairs.first[k]), int(pairs.second[k])): k for k in np.flatnonzero(underscore[pairs.first] & capitals[pairs.second])
    }
    return there, np.array([place[int(pairs.second[k]), int(pairs.first[k])] for k in there], np.int64)


def _margin(found: Automata, k: ndarray) -> Float[ndarray, " pair"]:
    """The lower of the two numbers of some pairs, each over the least that an edge has."""
    return np.minimum(found.pairs.observed[k] / found.least[0], found.pairs.causal[k] / found.least[1])


def _described(pairs: Pairs, k: int, edges: Bool[ndarray, " pair"], share: Float[ndarray, " feature"]) -> dict[str, Any]:
    """A pair by its first feature: what share of it lies on its tokens, and every number with its control."""
    numbers = {name: float(part[k]) for name, part in pairs._asdict().items()}
    first, second = int(numbers.pop("first")), int(numbers.pop("second"))
    return {"feature": first, "share_on_tokens": float(share[first]), "announces": second, "is_edge": bool(edges[k]), **numbers}
