"""The paper's five claims of a feature, for the best feature of each hypothesis, each with a figure and a control.

Specific, sensitive, causal, not a neuron, universal (Towards Monosemanticity, "Detailed Investigations of Individual Features");
docs/method.md, "The five claims", has the definitions.
"""

import torch

from sae.causal.ablation import of_like_density
from sae.claims.agreement import Agreement, agreement, sums_by_context
from sae.claims.causes import Promoted, ablation_figures, logit_figure, pinned_figure, promoted
from sae.claims.config import ClaimsConfig
from sae.claims.evidence import Evidence, gather
from sae.claims.figures import Claim, Figure, Interval, Study
from sae.claims.partners import Partner, partner_figures, partners
from sae.errors import ConfigError
from sae.features.alignment import FEW, random_spread
from sae.features.neurons import TENTH, participation_ratio
from sae.features.side_by_side import Side
from sae.storage.tokens import TokenStore

FEATURE, NEURON, CLOSEST = range(3)
"""Units of an `Agreement` here."""
MEDIAN = 2
"""Of the quantiles in `alignment.Spread`."""


def study(store: TokenStore, side: Side, config: ClaimsConfig, other: Side | None = None) -> list[Study]:
    """One `Study` for each hypothesis of `config`; `other` is where the feature is looked for again.

    Raises `ConfigError` where a hypothesis is not in the text at all, or `other` is the same dictionary, `CorpusError` for a
    held-out split of one context."""
    if other is not None and torch.equal(side.dictionary.W_enc, other.dictionary.W_enc):
        raise ConfigError(f"{other.id} is the dictionary of {side.id} itself: its features are looked for in another")
    evidence = gather(store, side, config)
    found = partners(evidence, side, other, config) if other is not None else None
    listed = promoted(store, side)
    return [_study(evidence, store, side, h, listed, (found, other), config) for h in range(len(evidence.hypotheses))]


def _study(
    evidence: Evidence,
    store: TokenStore,
    side: Side,
    h: int,
    listed: Promoted | None,
    found: tuple[list[Partner] | None, Side | None],
    config: ClaimsConfig,
) -> Study:
    best, tokens = evidence.best[h], evidence.tokens(h)
    closest, correlation = evidence.closest[h]
    units = [evidence.feature(best.feature), evidence.neurons[best.neuron], evidence.neurons[closest]]
    sums = [sums_by_context(tokens, unit, evidence.n_contexts) for unit in units]
    agreed = agreement(sums, config.n_bootstrap, config.seed)
    transformer = side.id.rstrip("/").rpartition("/")[0].removesuffix("/sweep")
    causes = causal(evidence, store, side, h, listed, config)
    return Study(
        hypothesis=evidence.hypotheses[h].name,
        title=evidence.hypotheses[h].title,
        feature=f"{side.id}/{best.feature}",
        neuron=f"{transformer}/neurons/{best.neuron}",
        n_tokens=len(evidence.place),
        n_chosen_on=evidence.n_chosen_on,
        n_true=int(tokens.true.sum()),
        n_active=int(evidence.firings.n_active[best.feature]),
        claims=(
            Claim("specific", specific(agreed)),
            Claim("sensitive", sensitive(agreed)),
            Claim("causal", causes, "" if causes else "more than the final norm lies between this site and the logits"),
            Claim("not a neuron", not_a_neuron(side, best.feature, closest, correlation, agreed)),
            universal(h, *found),
        ),
    )


def specific(agreed: Agreement) -> tuple[Figure, ...]:
    """How much of what it does is on tokens of the hypothesis."""
    weighted, strong, base = "specificity", "specificity of strong", "share of tokens"
    return (
        _beside(agreed, "share of its activation on tokens of the hypothesis", weighted, "best neuron"),
        _beside(agreed, "share of tokens where above half its maximum", strong, "best neuron"),
        Figure("share of all tokens", agreed.interval(FEATURE, base), "", Interval(None), None),
    )


def sensitive(agreed: Agreement) -> tuple[Figure, ...]:
    """How much of the hypothesis it covers. A neuron that fires everywhere is on all of its tokens, so the share of them says
    nothing alone; the correlation decides."""
    return (
        _beside(agreed, "correlation with the score", "pearson", "best neuron"),
        Figure(
            "share of tokens of the hypothesis where it fires",
            agreed.interval(FEATURE, "sensitivity"),
            "share of all tokens",
            agreed.interval(FEATURE, "density"),
            None,
        ),
    )


def _beside(agreed: Agreement, name: str, statistic: str, control: str, unit: int = NEURON) -> Figure:
    return Figure(
        name,
        agreed.interval(FEATURE, statistic),
        control,
        agreed.interval(unit, statistic),
        agreed.above(FEATURE, unit, statistic),
    )


def causal(
    evidence: Evidence, store: TokenStore, side: Side, h: int, listed: Promoted | None, config: ClaimsConfig
) -> tuple[Figure, ...]:
    """What its direction does to the text that comes."""
    feature = evidence.best[h].feature
    figures = ablation_figures(evidence, side, feature, config)
    if listed is not None:
        figures += (logit_figure(evidence, h, feature, listed),)
    like = of_like_density(evidence.firings.n_active / len(evidence.place), feature)
    if len(like):
        figures += (pinned_figure(evidence, store, side, h, feature, int(like[0]), config),)
    return figures


@torch.no_grad()
def not_a_neuron(side: Side, feature: int, closest: int, correlation: float, agreed: Agreement) -> tuple[Figure, ...]:
    """Over how many neurons its direction is spread, and whether the neuron that is most like it would do as well."""
    direction = side.dictionary.W_dec[feature].float().cpu()
    size = (direction / direction.norm()).abs()
    random = random_spread(len(direction), 1024, 0)
    ratio = float(participation_ratio(direction[None] / direction.norm())[0])
    name = f"neuron {closest}, the closest (r {correlation:.2f})"
    return (
        _beside(agreed, "correlation with the score", "pearson", name, CLOSEST),
        Figure("neurons it is spread over (participation ratio)", Interval(ratio), "a few", Interval(FEW), ratio > FEW),
        Figure("the same", Interval(ratio), "random directions", Interval(random.participation_ratio[MEDIAN]), None),
        Figure(
            "largest coefficient",
            Interval(float(size.max())),
            "random directions",
            Interval(random.largest_coefficient[MEDIAN]),
            None,
        ),
        Figure(
            "neurons with a coefficient of at least 0.1",
            Interval(float((size >= TENTH).sum())),
            "random directions",
            Interval(random.n_above_tenth[MEDIAN]),
            None,
        ),
    )


def universal(h: int, found: list[Partner] | None, other: Side | None) -> Claim:
    """Whether another dictionary has it too."""
    if found is None or other is None:
        return Claim("universal", (), "no other dictionary was given: claims.other, or --other B/1")
    return Claim("universal", partner_figures(found[h], other))
