import pytest

from sae import artefact
from sae.errors import StoreError
from sae.provenance import Run
from sae.reports import write_figures
from sae.web.figures import headline, read_metrics

METRICS = {
    "reconstruction": {"n_tokens": 262144, "l0": 16.94, "fvu": 0.25},
    "transformer": {"loss_recovered_zero": 0.93949, "loss_recovered_mean": None, "nats_lost": 0.0612},
}


@pytest.fixture
def dictionary(tmp_path):
    with artefact.writing(tmp_path / "data/A/1/dictionary", Run(kind="dictionary", id="A/1")):
        pass
    return tmp_path / "data/A/1/dictionary"


def write(tmp_path, parent):
    run = Run(kind="evaluation", parents={"data/A/1/dictionary": parent})
    with artefact.writing(tmp_path / "reports/evaluate", run) as draft:
        write_figures(draft.path, "metrics", METRICS)
    return tmp_path / "reports"


def test_figures_are_read_as_they_are_written():
    figures = {figure.label: figure for figure in headline(METRICS)}
    assert {label: figure.value for label, figure in figures.items()} == {
        "L0": "16.9",
        "Loss recovered": "93.9 %",
        "Nats lost": "0.061",
        "Variance explained": "75.0 %",
    }
    assert "262,144" in figures["L0"].meaning
    assert headline({}) == []


def test_metrics_are_those_of_this_very_dictionary(tmp_path, dictionary):
    assert read_metrics(tmp_path / "reports", dictionary, tmp_path) == ({}, "none yet; run: dvc repro evaluate")
    assert read_metrics(write(tmp_path, artefact.digest(dictionary)), dictionary, tmp_path) == (METRICS, "")
    found = read_metrics(write(tmp_path, "another"), dictionary, tmp_path)
    assert found.figures == {}
    assert "they are another's" in found.missing


def test_an_edited_digit_is_refused(tmp_path, dictionary):
    reports = write(tmp_path, artefact.digest(dictionary))
    file = reports / "evaluate/metrics.json"
    file.write_text(file.read_text().replace("16.94", "16.84"))
    with pytest.raises(StoreError, match=r"metrics\.json is damaged"):
        read_metrics(reports, dictionary, tmp_path)
