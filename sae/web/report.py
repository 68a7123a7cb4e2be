"""One report of a dictionary with all that was found out about it: `index.html`, which holds its pictures, and `report.md` beside
the same pictures as files. Made from what the stages left in `reports/`; what is not there is named, with the command for it.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from sae import artefact
from sae.dictionary.disk import read_dictionary
from sae.features.alignment import alignment
from sae.library import Place, open_table
from sae.provenance import Run
from sae.reports import NoReportError, Report, StaleReportError, open_report
from sae.web.figures import headline, identity, read_metrics
from sae.web.rendering import Part, Rows, to_html, to_markdown


class Study(NamedTuple):
    """What some stage finds out, in a folder of `reports/`."""

    folder: str
    kind: str
    """Of its run."""
    title: str
    defined: str
    """Heading in docs/method.md."""
    made_by: str
    of_all: bool = False
    """Whether it compares several dictionaries, and lies in the reports that they share."""


STUDIES = (
    Study("evaluate", "evaluation", "Density, L0 and reconstruction", "Metrics", "dvc repro evaluate"),
    Study("proxies", "proxies", "Log-likelihood proxies", "Log-likelihood proxies", "dvc repro proxies"),
    Study(
        "controls",
        "controls",
        "The proxies' best units, and those of shuffled weights",
        "Log-likelihood proxies",
        "make full",
        True,
    ),
    Study("claims", "claims", "The five claims", "The five claims", "make full, or sae study arabic"),
    Study("universality", "universality", "Universality", "Universality", "make full, or sae universality A/1 B/1", True),
    Study("splitting", "splitting", "Splitting", "Splitting", "make full", True),
    Study("automata", "automata", "Automata", "Automata", "make full"),
    Study("interpret", "interpret", "Interpretability", "Interpretability without a judge", "make full, or sae interpret A/1"),
)


def report(place: Place) -> Path:
    """Write the report of the dictionary at `place` to `report` beside it, in place of an older one; returns its folder.

    Raises `StoreError` where the dictionary or its features are missing."""
    parts = parts_of(place)
    name = artefact.read_run(place.dictionary, "dictionary").id or str(place.dictionary)
    run = Run(kind="report", id=name, parents={place.dictionary.name: artefact.digest(place.dictionary)})
    with artefact.writing(place.report, run) as draft:
        title = f"Dictionary {name}"
        (draft.path / "index.html").write_text(to_html(title, parts), encoding="utf-8")
        named = keep_images(parts, draft.path)
        (draft.path / "report.md").write_text(to_markdown(title, named), encoding="utf-8")
        (draft.path / "report.js").write_text("SAE.reported();\n", encoding="utf-8")
    return place.report


def keep_images(parts: list[Part], folder: Path, prefix: str = "") -> list[Part]:
    """The pictures of `parts` copied to `folder`; the same parts with the paths that lead there, `prefix` before each."""
    kept = []
    for part in parts:
        images = []
        for image in part.images:
            name = f"{part.name}-{image.name}"
            shutil.copyfile(image, folder / name)
            images.append(Path(prefix) / name)
        kept.append(part._replace(images=tuple(images)))
    return kept


def parts_of(place: Place) -> list[Part]:
    """All that is known of the dictionary, in the order of `STUDIES`, after what it is and how good."""
    dictionary = read_dictionary(place.dictionary)
    metrics = read_metrics(place.reports, place.dictionary, place.root).figures
    run = dictionary.run
    facts = [(figure.label, figure.value) for figure in [*identity(place.dictionary), *headline(metrics)]]
    if run is not None:
        facts += [(f"train.{key}", str(value)) for key, value in sorted(run.params.items()) if value is not None]
    first = Part("figures", "What it is, and how good", "Metrics", rows=Rows(("", ""), tuple(facts)))
    every = Part("metrics", "Every figure of the evaluation", "Metrics", rows=Rows(("figure", "value"), tuple(_leaves(metrics))))
    spread = Part(
        "alignment", "Not a neuron: all features", "Not a neuron", text=str(alignment(open_table(place), dictionary.d_mlp))
    )
    studies = {study.folder: _part(place, study, run.id if run is not None else "") for study in STUDIES}
    after = {"evaluate": every, "claims": spread}
    return [first, *(part for name, study in studies.items() for part in (study, after.get(name)) if part is not None)]


def _part(place: Place, study: Study, name: str) -> Part:
    reports = place.all_reports if study.of_all else place.reports
    folder, found = reports / study.folder, Part(study.folder, study.title, study.defined)
    try:
        kept = open_report(folder, study.kind, place.root, made_by=study.made_by)
        _check_among(place, study, kept)
    except NoReportError:
        return found._replace(note=f"Not there; made by: {study.made_by}")
    except StaleReportError:
        return found._replace(
            note=f"{name} as it is now is not among those compared; made by: {study.made_by}"
            if study.of_all
            else f"What lies in {study.folder} is not of this dictionary; made by: {study.made_by}"
        )
    return found._replace(text=kept.words(), images=kept.images())


def _check_among(place: Place, study: Study, kept: Report) -> None:
    """Raises `StaleReportError` where a study is not made from this very dictionary (the controls: from its proxies)."""
    origin = place.dictionary
    if study.folder == "controls":
        origin = place.reports / "proxies"
        open_report(origin, "proxies", place.root, made_by=study.made_by, of=place.dictionary)
    if artefact.digest(origin) not in kept.run.parents.values():
        raise StaleReportError(f"{kept.folder} is not of {origin} as it is now")


def _leaves(metrics: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Every figure with the path to it."""
    found = []
    for key, value in metrics.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        elif value is not None:
            found.append(
                (
                    prefix + key,
                    f"{value:,}" if isinstance(value, int) else f"{value:.6g}" if isinstance(value, float) else str(value),
                )
            )
    return found
