"""Stage `report`: everything in reports/ of a dictionary -> data/<letter>/<number>/report, as HTML and Markdown."""

from pipelines.common import Stage, run_stage
from sae.library import Place
from sae.web.report import report


def main(stage: Stage) -> None:
    folder = report(Place(dictionary=stage.dictionary))
    print(f"report: {folder}/index.html, {folder}/report.md")


if __name__ == "__main__":
    run_stage("report", main)
