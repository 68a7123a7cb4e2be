"""What all stages draw and write tables with. The same numbers give the same bytes."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

FEATURE, NEURON, MARK = "#1f77b4", "#d95f02", "#666666"


def write_csv(path: Path, names: Sequence[str], columns: Sequence[np.ndarray]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] = (7.0, 4.2)) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [row, column], without a display."""
    matplotlib.use("Agg")
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    """As PNG, without the version of matplotlib in it."""
    figure.savefig(path, dpi=120, metadata={"Software": None})
