"""Which feature fires one step after which, counted exactly over all pairs of neighbouring tokens, and how often that would be if
the tokens of each context stood in another order.

A *step* is two neighbouring positions of one context that both count. n_ij steps have feature i active at the first and j at the
second. The null draws the second from elsewhere in the same context: under all permutations of a context's T seconds, with a of
its firsts in i and b of its seconds in j, the count is hypergeometric: mean a b / T, variance a b (T − a)(T − b) / (T² (T − 1)).
Both are products of something of i and something of j, so that summed over contexts they are products of sparse matrices.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from sae.errors import CorpusError
from sae.features.correlations import ByToken, by_token, product_rows
from sae.features.firings import Firings
from sae.features.together import Text


class StepRows(NamedTuple):
    """Of some features, with all."""

    n: Float[ndarray, "unit feature"]
    """Steps from one to the other, whole numbers in float64."""
    shuffled: Float[ndarray, "unit feature"]
    """The same where the seconds of each context were permuted once."""
    expected: Float[ndarray, "unit feature"]
    """Mean over all permutations."""
    deviation: Float[ndarray, "unit feature"]
    """Standard deviation over them."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Of one dictionary over a text."""

    n_steps: int
    most: int
    """Steps of the context that has the most."""
    first: Firings
    """Active at the first of a step; `token` is the step, each value 1."""
    second: Firings
    _seconds: ByToken
    _shuffled: ByToken
    _by_context: tuple[Firings, ByToken]
    """Counts by context, the firsts' weighted by `most` / T."""
    _spread: tuple[Firings, ByToken]
    """count · (T − count) by context, the firsts' weighted by `most`² (`most` − 1) / (T² (T − 1))."""

    def rows(self, begin: int, end: int) -> StepRows:
        """Of the features `begin` to `end`."""
        m, most = self.first.n_features, self.most
        count, shuffled = (product_rows(self.first, seconds, begin, end, m) for seconds in (self._seconds, self._shuffled))
        expected, variance = (product_rows(*sides, begin, end, m) for sides in (self._by_context, self._spread))
        variance /= most**2 * max(most - 1, 1)
        return StepRows(count, shuffled, expected / most, np.sqrt(variance))


def steps_of(text: Text, firings: Firings, chance: np.random.Generator) -> Steps:
    """All steps of the text; of a context as many as it has.
    Raises `CorpusError` where none holds two neighbouring positions that count."""
    is_step = text.kept[:, :-1] & text.kept[:, 1:]
    of_context = is_step.sum(1)
    n_steps, most = int(of_context.sum()), int(of_context.max(initial=0))
    if most < 1:
        raise CorpusError(
            f"contexts of {text.kept.shape[1]} tokens hold no two neighbours that count; raise tokens.context_length"
        )
    begun, ended = (np.full(text.kept.shape, -1) for _ in range(2))
    begun[:, :-1][is_step] = ended[:, 1:][is_step] = np.arange(n_steps)
    first, second = _part(firings, begun.ravel()), _part(firings, ended.ravel())
    context = np.repeat(np.arange(len(of_context)), of_context)
    order = np.lexsort((chance.random(n_steps), context))
    shuffled = replace(second, token=order[second.token].astype(np.int32))
    counts = [_by_context(part, context) for part in (first, second)]
    spread = [replace(part, value=part.value * (of_context[part.token] - part.value).astype(np.float32)) for part in counts]
    t = np.maximum(of_context, 1)
    share, width = most / t, (most**2 * max(most - 1, 1)) / (t**2 * np.maximum(t - 1, 1))
    return Steps(
        n_steps=n_steps,
        most=most,
        first=first,
        second=second,
        _seconds=by_token(second, n_steps),
        _shuffled=by_token(shuffled, n_steps),
        _by_context=(_weighted(counts[0], share), by_token(counts[1], len(t))),
        _spread=(_weighted(spread[0], width), by_token(spread[1], len(t))),
    )


def _part(firings: Firings, step: ndarray) -> Firings:
    """What fires at the tokens that have a `step`, which is -1 for others."""
    chosen = np.flatnonzero(step[firings.token] >= 0)
    steps = step[firings.token[chosen]].astype(np.int32)
    return _sorted(firings.n_features, firings.feature[chosen], steps, np.ones(len(chosen), np.float32))


def _by_context(firings: Firings, context: ndarray) -> Firings:
    """How often each feature fires in each context: `token` is the context, the value is the count. `context` is each step's."""
    n_contexts = int(context.max(initial=-1)) + 1
    flat = firings.feature.astype(np.int64) * n_contexts + context[firings.token]  # sorted already
    distinct, count = np.unique(flat, return_counts=True)
    feature, owner = np.divmod(distinct, max(n_contexts, 1))
    return _sorted(firings.n_features, feature.astype(firings.feature.dtype), owner.astype(np.int32), count.astype(np.float32))


def _weighted(firings: Firings, weight: ndarray) -> Firings:
    """Values times the weight of their context."""
    return replace(firings, value=(firings.value * weight[firings.token]).astype(np.float32))


def _sorted(n_features: int, feature: ndarray, token: ndarray, value: ndarray) -> Firings:
    return Firings(n_features, feature, token, value, np.searchsorted(feature, np.arange(n_features + 1)))
