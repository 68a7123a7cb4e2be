"""Two passes over held-out text: which units agree best with each hypothesis, then those units' activations in detail."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from numpy import ndarray
from torch import Tensor

from sae.dictionary.base import Dictionary
from sae.errors import CorpusError
from sae.progress import ProgressBar
from sae.proxies.agreement import Correlations, Strongest, Tally, score_bins
from sae.proxies.hypotheses import Hypothesis, ProxiesConfig
from sae.proxies.likelihood import Scorer
from sae.proxies.sampling import choose_contexts, measure, read_contexts
from sae.shapes import Rows
from sae.source.site import ActivationSource
from sae.storage.tokens import TokenStore, to_tensor
from sae.ties import first_best

POPULATIONS = ("features", "neurons")
MEASURES = ("proxy", "sign", "clipped", "kind")
"""What correlations are with: the proxy's score as the paper reads it (`Hypothesis.reading`), its sign (0 or 1),
max(score, 0); and whether the token is in a document of the kind (0 or 1)."""
SCORED_CONTEXTS = 512
"""Contexts scored at once, to spread the cost of the loop over positions."""


class Batch(NamedTuple):
    """Some held-out tokens that count (`Contexts.kept`)."""

    rows: Rows
    scores: Float64[ndarray, "row hypothesis"]
    of_kind: Bool[ndarray, "row hypothesis"]
    kind: Int[ndarray, " row"]
    """Index into the token store's kinds."""
    place: Int[ndarray, " row"]
    """Where among the chosen contexts' positions, BOS included, counted through."""
    token: Int[ndarray, " row"]
    """Id."""


class Text:
    """The held-out contexts that the hypotheses are tried on, with their scorers; every pass reads the same tokens.

    They are `config.n_tokens` at random, or those of the mask `chosen`."""

    def __init__(self, store: TokenStore, config: ProxiesConfig, chosen: Bool[ndarray, " n_contexts"] | None = None):
        self.hypotheses: list[Hypothesis] = config.chosen()
        self._split = store.split("heldout")
        self._chosen = choose_contexts(self._split, config.n_tokens, config.seed) if chosen is None else chosen
        statistics = measure(store, config.n_sample_tokens, config.seed)
        self.scorers: list[Scorer] = [hypothesis.proxy.scorer(statistics) for hypothesis in self.hypotheses]
        self.kinds = store.kinds
        self._true = np.array([[kind in hypothesis.kinds for hypothesis in self.hypotheses] for kind in store.kinds])

    def n_positive(self) -> Int64[ndarray, " hypothesis"]:
        """Tokens that count of which each hypothesis says yes; no transformer is asked."""
        found = np.zeros(len(self.scorers), np.int64)
        for block in read_contexts(self._split, self._chosen, SCORED_CONTEXTS):
            kept = block.kept()
            found += np.array([int((score(block)[kept] > 0).sum()) for score in self.scorers])
        return found

    def batches(self, source: ActivationSource, label: str) -> Iterator[Batch]:
        """All the tokens, in order, with the transformer's activations."""
        on_gpu = torch.device(source.device).type == "cuda"
        n_contexts = max(1, (65536 if on_gpu else 2048) // self._split.context_length)
        done = 0
        with ProgressBar(label, int(self._chosen.sum())) as bar:
            for block in read_contexts(self._split, self._chosen, SCORED_CONTEXTS):
                scores, counted = np.stack([score(block) for score in self.scorers], axis=-1), block.kept()
                for start in range(0, len(block.tokens), n_contexts):
                    part = slice(start, start + n_contexts)
                    kept = counted[part]
                    if not kept.any():
                        done += kept.size
                        continue
                    acts = source.activations(to_tensor(block.tokens[part], source.device))
                    rows = acts[torch.from_numpy(kept).to(acts.device)]
                    kind = block.kind[part][kept]
                    place = np.flatnonzero(kept) + done
                    yield Batch(rows, scores[part][kept], self._true[kind], kind, place, block.tokens[part][kept])
                    done += kept.size
                    bar.advance(len(kept))

    def read(self, scores: Float64[ndarray, "row hypothesis"]) -> Float64[ndarray, "row hypothesis"]:
        """Each hypothesis's scores as the paper reads them (`Hypothesis.reading`)."""
        readings = {"sign": scores > 0, "clipped": np.maximum(scores, 0.0), "score": scores}
        return np.stack([readings[h.reading][:, i] for i, h in enumerate(self.hypotheses)], axis=1, dtype=np.float64)

    def targets(self, batch: Batch) -> Float64[ndarray, "row target"]:
        """What units are correlated with: for each of `MEASURES` one column a hypothesis."""
        own, sign, clipped = self.read(batch.scores), batch.scores > 0, np.maximum(batch.scores, 0.0)
        return np.concatenate((own, sign, clipped, batch.of_kind), axis=1, dtype=np.float64)


class Population(NamedTuple):
    """What the first pass finds of all features, or of all neurons."""

    pearson: Float64[ndarray, "measure hypothesis unit"]
    """By `MEASURES`; NaN where either never varies."""
    strongest: Float[ndarray, "unit k"]
    """Largest activations, falling; -inf where the unit is active on fewer tokens."""
    strongest_kind: Int64[ndarray, "unit k"]
    """The kinds of document that they are in; -1 where there is none."""


class Survey(NamedTuple):
    """The first pass."""

    populations: dict[str, Population]
    n_tokens: int
    """Held-out tokens looked at, BOS not counted."""
    n_by_kind: Int64[ndarray, " kind"]
    n_positive: Int64[ndarray, " hypothesis"]
    """Tokens at which the proxy's score is positive."""
    n_both: Int64[ndarray, " hypothesis"]
    """Those of them that are in documents of the kind."""
    n_of_kind: Int64[ndarray, " hypothesis"]
    proxy_kind: Float64[ndarray, "measure hypothesis"]
    """Pearson correlation of each of `MEASURES` with the true kind: how good the proxy is."""


def survey(source: ActivationSource, dictionary: Dictionary, text: Text, k: int) -> Survey:
    """First pass: correlations of all units with all hypotheses, and every unit's `k` strongest tokens.

    Raises `CorpusError` where there is no held-out token, `NumericsError` for activations that are no numbers.
    """
    n_hypotheses, device = len(text.hypotheses), source.device
    n_targets = len(MEASURES) * n_hypotheses
    n_units = {"features": dictionary.n_features, "neurons": source.d_mlp}
    pearson = {name: Correlations(n, n_targets, device) for name, n in n_units.items()}
    strongest = {name: Strongest(n, k, device) for name, n in n_units.items()}
    between = Correlations(n_targets, n_targets)
    kinds, counts = [np.zeros(0, dtype=np.int64)], np.zeros((3, n_hypotheses), dtype=np.int64)
    for batch in text.batches(source, "proxies: all units"):
        targets = torch.from_numpy(text.targets(batch))
        between.add(targets.float(), targets)
        for rows, y in _in_chunks(batch.rows, targets.to(device)):
            for name, x in (("features", dictionary.encode(rows)), ("neurons", rows)):
                pearson[name].add(x, y)
                strongest[name].add(x)
        positive = batch.scores > 0
        counts += np.stack((positive.sum(0), (positive & batch.of_kind).sum(0), batch.of_kind.sum(0)))
        kinds.append(batch.kind)
    kind = np.concatenate(kinds)
    if not len(kind):
        raise CorpusError("the held-out split holds no tokens to try the proxies on; make the tokens from more text")
    populations = {}
    for name in POPULATIONS:
        values, rows_of = strongest[name].result()
        by_measure = pearson[name].pearson().reshape(len(MEASURES), n_hypotheses, -1)
        by_measure[: MEASURES.index("kind"), (counts[0] == 0) | (counts[0] == len(kind))] = np.nan  # nothing to judge by
        populations[name] = Population(by_measure, values, np.where(rows_of >= 0, kind[rows_of], -1).astype(np.int64))
    n_by_kind = np.bincount(kind, minlength=len(text.kinds))
    with_kind = between.pearson().reshape(len(MEASURES), n_hypotheses, len(MEASURES), n_hypotheses)[:, :, -1]
    proxy_kind = np.diagonal(with_kind, axis1=1, axis2=2)
    return Survey(populations, len(kind), n_by_kind, counts[0], counts[1], counts[2], proxy_kind)


class Candidate(NamedTuple):
    """A unit to be looked at in detail for one hypothesis."""

    population: str
    unit: int
    hypothesis: int
    """Index into `Text.hypotheses`."""


def best_unit(correlations: Float64[ndarray, " unit"]) -> int | None:
    """The unit with the largest correlation (of those within 1e-9 of it the first), or None where none is defined."""
    return None if np.isnan(correlations).all() else int(first_best(correlations[None])[0])


def examine(
    source: ActivationSource, dictionary: Dictionary, text: Text, found: Survey, candidates: Sequence[Candidate]
) -> dict[Candidate, Tally]:
    """Second pass: the activations of the `candidates` alone."""
    tallies = {c: Tally(float(found.populations[c.population].strongest[c.unit, 0])) for c in candidates}
    features = sorted({candidate.unit for candidate in tallies if candidate.population == "features"})
    wanted = torch.tensor(features, dtype=torch.int64, device=source.device)
    for batch in text.batches(source, "proxies: the best units"):
        encoded = dictionary.encode_only(batch.rows, wanted)
        bins = score_bins(batch.scores)
        active = {"features": encoded.cpu().numpy(), "neurons": batch.rows.cpu().numpy()}
        for candidate, tally in tallies.items():
            column = features.index(candidate.unit) if candidate.population == "features" else candidate.unit
            h = candidate.hypothesis
            tally.add(active[candidate.population][:, column], bins[:, h], batch.of_kind[:, h].astype(np.int64))
    return tallies


def _in_chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows a few at a time. 512 rows of 2,048 features fit a CPU core's cache: twice as fast there as 8,192."""
    size = 16384 if tensors[0].is_cuda else 512
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)
