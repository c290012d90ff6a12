"""What the review page says about calibration, abstaining, wrong labels and near-duplicates."""

from __future__ import annotations

import dataclasses
from typing import Any

from markupsafe import Markup

from bertline.components.answers import Answers
from bertline.components.evaluation import Abstention
from bertline.components.review_page import charts, figures
from bertline.components.review_page.evidence import Evidence
from bertline.models import calibration

SHOWN_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # the page's table of all has a hundred
SHOWN_ROWS = 25  # of each file; `bertline label-issues` has the rest


def views(evidence: Evidence) -> dict[str, Any]:
    """Figures and charts of the sections "calibration" and "labels", by the names that their templates give them."""
    rows, metrics = evidence.answers, evidence.metrics
    points = figures.thresholds(rows)
    return {
        "calibrated": calibrated(evidence),
        "temperature_chart": reliability_before_and_after(rows, metrics.calibration.temperature),
        "abstentions": abstentions(points, metrics.abstain),
        "risk_chart": charts.risk_by_coverage(points, metrics.abstain.threshold if metrics.abstain else None),
        **label_views(evidence),
    }


def label_views(evidence: Evidence) -> dict[str, Any]:
    """What the section "labels" shows."""
    return {
        "issue_rows": evidence.labels["issue_rows"][:SHOWN_ROWS],
        "pair_rows": leaks_first(evidence.labels["pair_rows"])[:SHOWN_ROWS],
    }


# === Calibration ===


def calibrated(evidence: Evidence) -> list[dict[str, Any]]:
    """Calibration error and log loss `before` and `after` the temperature, by `split`, each with its `rows`."""
    validation, test = evidence.export.calibration.model_dump(), evidence.metrics.calibration
    return [
        {"split": "validation, which the temperature was fitted on", **validation},
        {"split": "test", "rows": evidence.metrics.rows, "before": test.before, "after": test.after},
    ]


def reliability_before_and_after(rows: Answers, temperature: float) -> Markup | str:
    """Accuracy by confidence with and without the temperature; "" where it is 1."""
    if temperature == 1:
        return ""
    raw = dataclasses.replace(rows, probabilities=calibration.unscaled(rows.probabilities, temperature))
    points = [
        {"side": side, **each}
        for side, scaled in (("before", raw), ("after", rows))
        for each in figures.reliability(scaled)
    ]
    return charts.reliability_before_and_after(points, temperature)


# === Abstaining ===


def abstentions(points: list[dict[str, Any]], own: Abstention | None) -> list[dict[str, Any]]:
    """Some of the thresholds, and the model's `own` with the figures that the Evaluator counted, marked as `own`."""
    shown = [{**each, "own": False} for each in points if each["threshold"] in SHOWN_THRESHOLDS]
    if own:
        wrong = 0 if own.accuracy is None else round(own.rows * (1 - own.accuracy))
        shown = [each for each in shown if each["threshold"] != own.threshold]
        shown.append({**own.model_dump(), "errors": wrong, "own": True})
    return sorted(shown, key=lambda each: each["threshold"])


# === Labels ===


def leaks_first(pairs: list[dict[str, str]]) -> list[dict[str, str]]:
    """Near-duplicates of train and test before others, of two labels before one, the most alike first."""

    def order(pair: dict[str, str]) -> tuple[bool, bool, float]:
        leak = (pair["first_split"], pair["second_split"]) == ("train", "test")
        return not leak, pair["first_label"] == pair["second_label"], -float(pair["similarity"])

    return sorted(pairs, key=order)
