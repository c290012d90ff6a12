"""What the review page shows of a model that gives each row any number of labels, in place of confusions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bertline.components.answers import LabelSetAnswers
from bertline.components.evaluation import Metrics, Together
from bertline.components.review_page import charts, figures
from bertline.components.review_page.evidence import Evidence

SHOWN_PAIRS = 15
SHOWN_ROWS = 25


class Decision(NamedTuple):
    """How a label is decided: its threshold and temperature, and why they are 0.5 and 1 ("" where they were fitted)."""

    label: str
    threshold: float
    temperature: float
    note: str


def views(evidence: Evidence) -> dict[str, Any]:
    """Figures and charts, by the names that the templates give them."""
    metrics, rows = evidence.metrics, evidence.answers
    bins = figures.reliability(rows)
    return {
        "bins": bins,
        "reliability_chart": charts.reliability(bins, metrics.calibration_error),
        "decisions": decisions(evidence),
        "pairs": pairs(metrics),
        "matrix": matrix(metrics) if len(metrics.classes) <= figures.MATRIX_CLASSES else None,
        "mistakes": mistakes(rows),
    }


def decisions(evidence: Evidence) -> list[Decision]:
    """The labels, in their order."""
    temperatures = evidence.export.calibration.temperature
    return [
        Decision(label, each.value, temperature, each.note)
        for (label, each), temperature in zip(evidence.export.thresholds.items(), temperatures, strict=True)
    ]


def pairs(metrics: Metrics) -> list[dict[str, Any]]:
    """Pairs of labels that the model gives together more or less often than they stand together, the furthest first."""
    apart = [each for each in metrics.multi_label.together if each.first != each.second]

    def distance(each: Together) -> int:
        return abs(each.answered - each.rows)

    return [
        {
            "labels": [metrics.classes[each.first], metrics.classes[each.second]],
            "rows": each.rows,
            "answered": each.answered,
        }
        for each in sorted(apart, key=lambda each: (-distance(each), -each.rows))[:SHOWN_PAIRS]
    ]


def matrix(metrics: Metrics) -> list[dict[str, Any]]:
    """Of the rows of each label, how many have each other label too, with the share, and the depth of its colour."""
    counts = {(each.first, each.second): each.rows for each in metrics.multi_label.together}
    counts |= {(second, first): rows for (first, second), rows in counts.items()}
    table = []
    for first, name in enumerate(metrics.classes):
        total = max(counts.get((first, first), 0), 1)
        cells = []
        for second in range(len(metrics.classes)):
            rows = counts.get((first, second), 0)
            cells.append(
                {"rows": rows, "share": rows / total, "depth": round(10 * rows / total), "own": first == second}
            )
        table.append({"name": name, "cells": cells})
    return table


def mistakes(rows: LabelSetAnswers, limit: int = SHOWN_ROWS) -> list[dict[str, Any]]:
    """Rows with the surest wrong decision, one decision per row.

    Returns:
        The rows' columns, with the names of their labels (`true`) and of those given (`given`), the `answered` label
        that is wrong, whether it was `added` or else missed, and its `probability`.
    """
    wrong = rows.labels != rows.predicted
    distance = np.where(wrong, np.abs(rows.labels - rows.probabilities.astype(np.float64)), -1.0)
    worst = distance.argmax(-1)
    kept = np.flatnonzero(wrong.any(-1))
    order = kept[np.argsort(-distance[kept, worst[kept]], kind="stable")][:limit]
    true, given = rows.names(rows.labels), rows.names(rows.predicted)
    return [
        {
            **{name: figures.excerpt(column[row]) for name, column in rows.columns.items()},
            "true": true[row],
            "given": given[row],
            "answered": rows.classes[worst[row]],
            "added": bool(rows.predicted[row, worst[row]]),
            "probability": float(rows.probabilities[row, worst[row]]),
        }
        for row in order
    ]
