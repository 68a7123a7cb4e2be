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
    per_context: int
    first: Firings
    """Active at the first of a step; `token` is the step, each value 1."""
    second: Firings
    _seconds: ByToken
    _shuffled: ByToken
    _by_context: tuple[Firings, ByToken]
    """Counts by context."""
    _spread: tuple[Firings, ByToken]
    """count · (T − count) by context."""

    def rows(self, begin: int, end: int) -> StepRows:
        """Of the features `begin` to `end`."""
        m, per = self.first.n_features, self.per_context
        count, shuffled = (product_rows(self.first, seconds, begin, end, m) for seconds in (self._seconds, self._shuffled))
        expected, variance = (product_rows(*sides, begin, end, m) for sides in (self._by_context, self._spread))
        variance /= per**2 * max(per - 1, 1)
        return StepRows(count, shuffled, expected / per, np.sqrt(variance))


def steps_of(text: Text, firings: Firings, chance: np.random.Generator) -> Steps:
    """All steps of the text. Raises `CorpusError` where contexts hold fewer than two positions that count, or where other ones
    count in some contexts than in others."""
    n_contexts, length = text.kept.shape
    begin, end = _counted(text)
    per = end - begin - 1
    if per < 1:
        raise CorpusError(f"contexts of {length} tokens hold no two neighbours that count; raise tokens.context_length")
    first = _part(firings, length, begin, end - 2, begin)
    second = _part(firings, length, begin + 1, end - 1, begin + 1)
    order = chance.random((n_contexts, per)).argsort(1) + np.arange(n_contexts)[:, None] * per
    shuffled = replace(second, token=order.ravel()[second.token].astype(np.int32))
    counts = [_by_context(part, per) for part in (first, second)]
    spread = [replace(part, value=part.value * (per - part.value)) for part in counts]
    return Steps(
        n_steps=n_contexts * per,
        per_context=per,
        first=first,
        second=second,
        _seconds=by_token(second, n_contexts * per),
        _shuffled=by_token(shuffled, n_contexts * per),
        _by_context=(counts[0], by_token(counts[1], n_contexts)),
        _spread=(spread[0], by_token(spread[1], n_contexts)),
    )


def _counted(text: Text) -> tuple[int, int]:
    """From which position to before which one every context counts."""
    counts = text.kept[0]
    begin = int(counts.argmax())
    end = begin + int(counts.sum())
    if not counts[begin:end].all() or (text.kept != counts).any():
        raise CorpusError(
            "automata compare the order of a context's tokens with chance, for which the same run of positions must count in "
            "every context; here tokens.pad or tokens.predicted_mask makes them differ"
        )
    return begin, end


def _part(firings: Firings, length: int, lowest: int, highest: int, shift: int) -> Firings:
    """What fires at the positions `lowest` to `highest` of a context; the step of position p is p − `shift`."""
    context, position = np.divmod(firings.token, length)
    chosen = np.flatnonzero((position >= lowest) & (position <= highest))
    step = context[chosen] * (highest - lowest + 1) + position[chosen] - shift
    return _sorted(firings.n_features, firings.feature[chosen], step.astype(np.int32), np.ones(len(chosen), np.float32))


def _by_context(firings: Firings, per_context: int) -> Firings:
    """How often each feature fires in each context: `token` is the context, the value is the count."""
    n_contexts = int(firings.token.max(initial=-1)) // per_context + 1
    flat = firings.feature.astype(np.int64) * n_contexts + firings.token // per_context  # sorted already
    distinct, count = np.unique(flat, return_counts=True)
    feature, context = np.divmod(distinct, max(n_contexts, 1))
    return _sorted(firings.n_features, feature.astype(firings.feature.dtype), context.astype(np.int32), count.astype(np.float32))


def _sorted(n_features: int, feature: ndarray, token: ndarray, value: ndarray) -> Firings:
    return Firings(n_features, feature, token, value, np.searchsorted(feature, np.arange(n_features + 1)))
