"""docs/results.md from what `make full` left: the table of its dictionaries, and every study of one of them with its pictures.

make results            # cd full && python -m pipelines.results --docs ../docs
"""

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from sae import artefact
from sae.errors import SaeError, StoreError, disk_told
from sae.exchange import take_place
from sae.foreign import MOVE_IT
from sae.library import Place, locate
from sae.metrics.losses import told_recovered
from sae.paths import given
from sae.web.figures import read_metrics
from sae.web.rendering import Part, Rows, to_markdown
from sae.web.report import STUDIES, keep_images, parts_of

LEFT_OUT = ("figures", "metrics")
"""Parts of the report that the table stands for."""


def main(studied: str, docs: Path) -> None:
    """Write `docs`/results.md and its pictures. Raises `StoreError` where there is no dictionary."""
    places = [locate(path.parent) for path in sorted(Path("data").glob("*/*/dictionary"))]
    parts = [dictionaries(places), *(part for part in parts_of(locate(studied)) if part.name not in LEFT_OUT)]
    missing = [part.title for part in parts if part.note]
    if missing:
        raise StoreError(f"not all of {studied} is there ({', '.join(missing)}); run: make full")
    images = docs / "images" / "results"
    draft = images.with_suffix(".partial")
    for folder in (images, draft):
        refuse_foreign(folder)
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    title = f"Results: what `make full` found, and of {studied} all that there is"
    text = to_markdown(title, keep_images(parts, draft, "images/results"), HOW)
    old = take_place(draft, images)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    artefact.write_text(docs / "results.md", text)
    print(f"results: {docs / 'results.md'}, {len(list(images.iterdir()))} pictures")


PICTURE = re.compile(rf"({'|'.join(study.folder for study in STUDIES)})-.+\.png")


def refuse_foreign(folder: Path) -> None:
    """Raises `StoreError` where `folder`, whose content is to be replaced, holds anything but pictures of studies."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if strangers := [name for name in there if not PICTURE.fullmatch(name) and name != ".DS_Store"]:
        raise StoreError(f"{folder} holds {strangers[0]}, which is no picture of a study, and stays as it is; {MOVE_IT}")


HOW = (
    "Made by `make full` and `make results`, nothing in it is written by hand. One run, one seed a dictionary; brackets are 95 % "
    "intervals over contexts or units of that run, not over seeds. Definitions: [method.md](method.md); other runs, "
    "and what failed, in [log.md](log.md)."
)
COLUMNS = ("dictionary", "features", "L0", "FVU", "loss recovered", "dead", "ultralow", "over tokens", "loss of its transformer")


def dictionaries(places: list[Place]) -> Part:
    """A row for each that was evaluated."""
    rows = []
    for place in places:
        metrics = read_metrics(place.reports, place.dictionary, place.root).figures
        if metrics:
            rows.append(_row(artefact.read_run(place.dictionary, "dictionary").id, metrics))
    return Part("dictionaries", "The dictionaries", "Metrics", rows=Rows(COLUMNS, tuple(rows)))


def _row(name: str, metrics: dict[str, Any]) -> tuple[str, ...]:
    features, rows, losses = metrics["features"], metrics["reconstruction"], metrics["transformer"]
    ultralow = "too few tokens to tell" if features["n_ultralow"] is None else f"{features['n_ultralow']:,}"
    return (
        name,
        f"{features['n_units']:,}",
        f"{rows['l0']:.1f}",
        f"{rows['fvu']:.3f}",
        told_recovered(losses, "zero", error=True),
        f"{features['n_dead']:,}",
        ultralow,
        f"{features['n_tokens']:,}",
        f"{losses['loss_clean']:.3f}",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m pipelines.results", description=__doc__.splitlines()[0])
    parser.add_argument("--studied", default="A/1", help="the dictionary whose studies are shown")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder that results.md is written to")
    asked = parser.parse_args()
    try:
        with disk_told(f"writing {asked.docs}"):
            main(asked.studied, given(asked.docs))
    except SaeError as error:
        print(f"results: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
