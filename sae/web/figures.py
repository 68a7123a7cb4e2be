"""The few figures that say how good a dictionary is, from the stage `evaluate`: for the page's header and `sae info`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sae.dictionary.disk import SHAPE
from sae.errors import StoreError
from sae.metrics.losses import told_recovered
from sae.reports import NoReportError, StaleReportError, open_report


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number to show."""

    label: str
    value: str
    """As it is read, with its unit."""
    meaning: str
    """What it is, over what, reduced how."""


class Metrics(NamedTuple):
    """What the evaluation found out about a dictionary."""

    figures: dict[str, Any]
    """Content of metrics.json; empty where there is none of this very dictionary."""
    missing: str = ""
    """Why there is none, and what makes it; "" where there is."""


def read_metrics(reports: Path, dictionary: Path, root: Path) -> Metrics:
    """The figures that lie in `reports` of the dictionary in the folder `dictionary`; `root` is the project's. Those of another
    one are never given: `missing` says that they are another's.

    Raises `StoreError` where they are not what was committed, as after an edit."""
    made_by = "dvc repro evaluate"
    try:
        report = open_report(reports / "evaluate", "evaluation", root, made_by=made_by, of=dictionary)
        return Metrics(report.figures("metrics"))
    except NoReportError:
        return Metrics({}, f"none yet; run: {made_by}")
    except StaleReportError as error:
        return Metrics({}, f"not shown, they are another's: {error}")


def identity(dictionary: Path) -> list[Figure]:
    """What the dictionary in this folder is, without opening its weights."""
    try:
        shape = json.loads((dictionary / SHAPE).read_text(encoding="utf-8"))
        variant, d_mlp = str(shape["variant"]), int(shape["d_mlp"])
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, RecursionError):
        raise StoreError(f"{dictionary} holds no readable {SHAPE}; make the dictionary again: dvc repro train") from None
    return [
        Figure(
            label="Variant", value=variant.replace("_", " "), meaning="What kind of dictionary this is, as the package names it."
        ),
        Figure(
            label="Neurons", value=f"{d_mlp:,}", meaning="Width of the MLP layer whose activations the dictionary takes apart."
        ),
    ]


def headline(metrics: dict[str, Any]) -> list[Figure]:
    """The figures of a metrics.json, those that it holds; definitions in docs/method.md."""
    reconstruction, losses = metrics.get("reconstruction", {}), metrics.get("transformer", {})
    over = f"Over {_count(reconstruction.get('n_tokens'))} held-out tokens."
    found = [
        _figure("L0", _number(reconstruction.get("l0"), ".1f"), f"Mean number of active features a token. {over}"),
        _figure(
            "Loss recovered",
            _recovered(losses, "zero"),
            "(L zero-ablated − L reconstructed) / (L zero-ablated − L clean), L the transformer's loss on held-out text with "
            "its MLP's activations set to zero, replaced by the dictionary's reconstruction, or left alone.",
        ),
        _figure(
            "… against the mean",
            _recovered(losses, "mean"),
            "Loss recovered with mean ablation in the place of zero ablation: a stricter baseline.",
        ),
        _figure("Nats lost", _number(losses.get("nats_lost"), ".3f"), "L reconstructed − L clean, nats a token."),
        _figure(
            "Variance explained",
            _number(None if reconstruction.get("fvu") is None else 1 - reconstruction["fvu"], ".1%"),
            f"1 − Σ‖x − x̂‖² / Σ‖x − mean x‖², sums over tokens. {over}",
        ),
    ]
    return [figure for figure in found if figure is not None]


def _figure(label: str, value: str | None, meaning: str) -> Figure | None:
    return None if value is None else Figure(label=label, value=value, meaning=meaning)


def _recovered(losses: dict[str, Any], against: Literal["zero", "mean"]) -> str | None:
    """The share, or why there is none; None where nothing was measured."""
    told = told_recovered(losses, against)
    return None if told == "none" else told.replace("%", " %")


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form).replace("%", " %")


def _count(value: int | None) -> str:
    return "some" if value is None else f"{value:,}"
