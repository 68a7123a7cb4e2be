import json

import pytest

from sae import artefact
from sae.provenance import Run
from sae.web.figures import headline, read_metrics

METRICS = {
    "reconstruction": {"n_tokens": 262144, "l0": 16.94, "fvu": 0.25},
    "transformer": {"loss_recovered_zero": 0.93949, "loss_recovered_mean": None, "nats_lost": 0.0612},
}


@pytest.fixture
def dictionary(tmp_path):
    with artefact.writing(tmp_path / "dictionary", Run(kind="dictionary", id="A/1")):
        pass
    return tmp_path / "dictionary"


def write(tmp_path, parent):
    with artefact.writing(tmp_path / "reports/evaluate", Run(kind="evaluation", parents={"dictionary": parent})):
        pass
    (tmp_path / "reports/metrics.json").write_text(json.dumps(METRICS))
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
    assert read_metrics(tmp_path / "reports", dictionary) is None
    assert read_metrics(write(tmp_path, artefact.digest(dictionary)), dictionary) == METRICS
    assert read_metrics(write(tmp_path, "another"), dictionary) is None
