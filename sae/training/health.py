"""Whether a training has come to anything: what is told of one that ended quietly with a dictionary of no use.

The one place for it: `fit` prints these sentences and keeps them in the dictionary's record, `sae info` prints them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae.provenance import Run

MOST_SILENT = 0.5
"""Fraction of the features that may be silent over the last rows."""
ROWS_A_FEATURE = 10
"""Fewer rows than this for each feature say nothing of which are silent."""
LEAST_L0 = 0.1
"""Features active on a row: below that nearly all rows are answered with b_dec."""
MOST_FVU = 0.9
"""Fraction of variance unexplained: a dictionary that is silent throughout has 1."""
LEAST_VARIANCE = 0.1
"""Variance as a fraction of the mean ‖x‖²: below that the rows are an offset, and little else."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a training ended."""

    last: Mapping[str, Any]
    """The last record (`sae.training.records`); empty where there is none."""
    n_features: int
    n_silent: int = 0
    """Features that fired on none of the last `n_rows` rows."""
    n_rows: int = 0
    first_loss: float | None = None
    """Loss of the first step."""
    learning_rate: float | None = None
    """At its highest."""
    d_mlp: int | None = None
    """Which is the mean ‖x‖² too, where inputs are scaled."""
    n_done: int | None = None
    n_steps: int | None = None


def warnings(ending: Ending) -> list[str]:
    """A sentence for each thing that is wrong, with its figure; the last says what to try. None for a training that came to
    something."""
    found = []
    if ending.n_done is not None and ending.n_steps is not None and ending.n_done < ending.n_steps:
        found.append(f"stopped after {ending.n_done:,} of {ending.n_steps:,} steps: this is the dictionary as it was then")
    if not ending.last:
        return found
    loss, fvu, l0 = (float(ending.last[name]) for name in ("loss", "fvu", "l0"))
    rose = ending.first_loss is not None and loss > ending.first_loss
    wrong = []
    if ending.n_rows >= ROWS_A_FEATURE * ending.n_features and ending.n_silent > MOST_SILENT * ending.n_features:
        wrong.append(
            f"{ending.n_silent:,} of {ending.n_features:,} features are dead: they fired on none of the last "
            f"{ending.n_rows:,} rows"
        )
    if l0 < LEAST_L0:
        wrong.append(f"L0 ended at {l0:.2g}: hardly any feature fires")
    if not fvu < MOST_FVU:
        than = "hardly better than" if fvu < 1 else "no better than"
        wrong.append(f"FVU ended at {fvu:,.4g}, {than} one vector for all rows, which has 1")
    if rose:
        wrong.append(f"the loss ended at {loss:,.4g}, above {ending.first_loss:,.4g} where it began")
    if wrong:
        wrong[-1] += f"; {_advice(ending, fvu, rose)}"
    return found + wrong


def warnings_of(run: Run) -> list[str]:
    """Those in the record of a dictionary; of one that an older version trained, what its last record tells."""
    if "warnings" in run.facts:
        return list(run.facts["warnings"])
    last, n_features = run.facts.get("last_record"), run.params.get("n_features")
    if not isinstance(last, dict) or not isinstance(n_features, int) or not {"loss", "fvu", "l0"} <= last.keys():
        return []
    n_silent, n_rows = last.get("n_dead", 0), last.get("n_density_rows", 0)
    return warnings(Ending(last=last, n_features=n_features, n_silent=n_silent, n_rows=n_rows))


def _advice(ending: Ending, fvu: float, rose: bool) -> str:
    """What to try first."""
    variance = float(ending.last.get("squared_error", 0.0)) / fvu if fvu > 0 else 0.0
    if ending.d_mlp is not None and variance < LEAST_VARIANCE * ending.d_mlp:
        share = variance / ending.d_mlp
        return (
            f"subtract their mean from the rows, which is all but {share:.2g} of their mean square, or lower l1 "
            f"(λ ended at {float(ending.last.get('lambda', 0.0)):.3g})"
        )
    if rose or fvu > 1.5:
        return "lower learning_rate" + ("" if ending.learning_rate is None else f" (it was {ending.learning_rate:.3g})")
    return f"lower l1 (λ ended at {float(ending.last.get('lambda', 0.0)):.3g}), or learning_rate"
