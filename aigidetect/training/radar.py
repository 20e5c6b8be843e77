"""The report's figure 3: a radar chart with one polygon for each detector. Needs matplotlib, an optional extra."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .evaluate import Score
from .plotting import COLOURS, MARKERS, new_figure, save_png
from .report_tables import by_generator, figures, mean_figures, report_table

_METRICS = {
    "overall_acc_pct": "balanced_accuracy",
    "ap_pct": "ap",
    "real_acc_pct": "real_accuracy",
    "fake_acc_pct": "ai_accuracy",
}
Panel = tuple[str, list[str], dict[str, list[float]]]


def panels(evaluations: Mapping[str, Sequence[Score]]) -> list[Panel]:
    """What the chart shows.

    Args:
        evaluations: Detector -> scores of one split under one condition.

    Returns:
        Title, axes and, for each polygon, values in percent: the columns of table 7, then the accuracies of table 8. The
        report's final version is the first polygon; it is not among the generators if these are not the report's.
    """
    final = next(row for row in report_table(7).rows if row["version"] == "final")
    metrics = {"report, final": [float(final[column]) for column in _METRICS]}
    generators = {row["generator"]: float(row["acc_pct"]) for row in report_table(8).rows}
    each = {
        name: {g: figures(part)["balanced_accuracy"] for g, part in by_generator(s).items()}
        for name, s in evaluations.items()
    }
    axes = sorted({generator for found in each.values() for generator in found})
    accuracy = {"report, final": [generators[axis] for axis in axes]} if set(axes) <= set(generators) else {}
    for name, scores in evaluations.items():
        mean = mean_figures(scores)
        metrics[name] = [100 * mean[figure] for figure in _METRICS.values()]
        accuracy[name] = [100 * each[name].get(axis, float("nan")) for axis in axes]
    titles = ["accuracy", "AP", "real accuracy", "fake accuracy"]
    return [("mean over generators, %", titles, metrics), ("accuracy per generator, %", axes, accuracy)]


def draw_radar(evaluations: Mapping[str, Sequence[Score]], path: str | Path) -> None:
    """Writes the chart as PNG; the panel of generators is left out if there are fewer than 3 or more than 24.

    Args:
        evaluations: See `panels`.
        path: File to write.

    Raises:
        ModuleNotFoundError: matplotlib is missing; the message says how to get it.
    """
    # With one or two axes a polygon is a line, and with many their names cover each other.
    shown = []
    for panel in panels(evaluations):
        if 3 <= len(panel[1]) <= 24:
            shown.append(panel)
        else:
            logging.warning("The chart leaves out %r: %d axes, and only 3 to 24 can be read.", panel[0], len(panel[1]))
    figure = new_figure(6 * len(shown), 5.6)
    for index, panel in enumerate(shown, start=1):
        _draw(figure.add_subplot(1, len(shown), index, projection="polar"), panel, list(shown[0][2]))
    save_png(figure, path)


def _draw(axes: Any, panel: Panel, labels: Sequence[str]) -> None:
    title, names, polygons = panel
    angles = 2 * np.pi * np.arange(len(names) + 1) / len(names)
    for label, values in polygons.items():
        # A detector keeps its colour and its marker in both panels. The report is the first label, in grey.
        place = (labels.index(label) - 1) % len(COLOURS)
        style = {"linestyle": "-", "color": COLOURS[place], "marker": MARKERS[place], "markersize": 4}
        if label.startswith("report"):
            style = {"linestyle": "--", "color": "0.45"}
        axes.plot(angles, [*values, values[0]], label=label, **style)
    axes.set_xticks(angles[:-1], names)
    axes.tick_params(axis="x", pad=24)
    axes.set_ylim(0, 100)
    axes.set_title(title)
    axes.legend(loc="lower right", bbox_to_anchor=(1.1, -0.1), fontsize="small")
