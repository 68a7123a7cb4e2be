"""docs/results.md is made whole, or not at all."""

from unittest.mock import Mock

import pytest

from pipelines.results import main
from sae import artefact
from sae.errors import StoreError
from sae.library import locate
from sae.provenance import Run
from sae.reports import write_figures
from sae.web.report import STUDIES
from tests.web.toy_project import METRICS, make

WHOLE = {
    "features": {"n_units": 24, "n_ultralow": None, "n_dead": 1, "n_tokens": 1000},
    "reconstruction": METRICS["reconstruction"] | {"fvu": 0.25},
    "transformer": {"loss_recovered_zero": 0.939, "loss_recovered_zero_error": 0.01, "loss_clean": 3.5},
}


def test_every_study_and_a_table_or_nothing(tmp_path, monkeypatch):
    place = locate("A/1", make(tmp_path))
    monkeypatch.chdir(tmp_path)
    with artefact.writing(place.reports / "evaluate", artefact.read_run(place.reports / "evaluate", "evaluation")) as draft:
        write_figures(draft.path, "metrics", WHOLE)
    for study in STUDIES[1:]:
        parents = {"data/A/1/dictionary": artefact.digest(place.dictionary)}
        with pytest.raises(StoreError, match="not all of A/1 is there"):
            main("A/1", tmp_path / "docs")
        assert not (tmp_path / "docs").exists()
        if study.folder == "controls":  # as the stage leaves it
            parents = {"reports/proxies": artefact.digest(place.reports / "proxies")}
        with artefact.writing(place.reports / study.folder, Run(kind=study.kind, parents=parents)) as draft:
            draft.tell(f"what {study.folder} says")
            (draft.path / "one.png").write_bytes(study.folder.encode())
    main("A/1", tmp_path / "docs")
    text = (tmp_path / "docs/results.md").read_text(encoding="utf-8")
    assert "| A/1 | 24 | 16.9 | 0.250 | 93.9% ± 1.0% | 1 | too few tokens to tell | 1,000 | 3.500 |" in text
    for study in STUDIES[1:]:
        assert f"what {study.folder} says" in text
        assert f"(images/results/{study.folder}-one.png)" in text
        assert (tmp_path / f"docs/images/results/{study.folder}-one.png").read_bytes() == study.folder.encode()
    monkeypatch.setattr("pipelines.results.to_markdown", Mock(side_effect=OSError("full")))
    with pytest.raises(OSError, match="full"):
        main("A/1", tmp_path / "docs")
    assert (tmp_path / "docs/results.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "docs/images/results/claims-one.png").read_bytes() == b"claims"
