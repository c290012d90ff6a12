"""What the review page says of calibration, of abstaining, of wrong labels and of near-duplicates."""

from __future__ import annotations

import dataclasses
from typing import Any

from markupsafe import Markup

from bertline.components.review_page import charts, figures
from bertline.components.review_page.evidence import Evidence
from bertline.models import calibration

SHOWN_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # the page's table of all has a hundred
SHOWN_ROWS = 25  # of the files; the rest is a command away
SIDES = ("before", "after")


def views(evidence: Evidence) -> dict[str, Any]:
    """Figures and charts of the sections "calibration" and "labels", by the names that their templates give them."""
    scored, metrics = evidence.scored, evidence.metrics
    points = figures.thresholds(scored)
    threshold = metrics.get("abstain", {}).get("threshold")
    return {
        "calibrated": calibrated(evidence),
        "temperature_chart": reliability_before_and_after(scored, metrics["calibration"]["temperature"]),
        "abstentions": abstentions(points, metrics.get("abstain")),
        "risk_chart": charts.risk_by_coverage(points, threshold),
        "issue_rows": evidence.labels["issue_rows"][:SHOWN_ROWS],
        "pair_rows": leaks_first(evidence.labels["pair_rows"])[:SHOWN_ROWS],
    }


# === Calibration ===


def calibrated(evidence: Evidence) -> list[dict[str, Any]]:
    """Calibration error and log loss `before` and `after` the temperature, by `split`, each with its `rows`."""
    validation, test = evidence.export.calibration.model_dump(), evidence.metrics["calibration"]
    return [
        {"split": "validation, which the temperature was fitted on", "rows": validation["rows"], **_sides(validation)},
        {"split": "test", "rows": len(evidence.scored.truth), **_sides(test)},
    ]


def _sides(found: dict[str, Any]) -> dict[str, Any]:
    return {side: found[side] for side in SIDES}


def reliability_before_and_after(scored: figures.ScoredRows, temperature: float) -> Markup | str:
    """Accuracy by confidence with and without the temperature; "" where it is 1."""
    if temperature == 1:
        return ""
    raw = dataclasses.replace(scored, probabilities=calibration.unscaled(scored.probabilities, temperature))
    points = [
        {"side": side, **each}
        for side, rows in zip(SIDES, (raw, scored), strict=True)
        for each in figures.reliability(rows)
    ]
    return charts.reliability_before_and_after(points, temperature)


# === Abstaining ===


def abstentions(points: list[dict[str, Any]], chosen: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Some of the thresholds, and the one that the model abstains below, as the Evaluator counted it (`chosen`)."""
    shown = [{**each, "chosen": False} for each in points if each["threshold"] in SHOWN_THRESHOLDS]
    if chosen:
        wrong = 0 if chosen["accuracy"] is None else round(chosen["rows"] * (1 - chosen["accuracy"]))
        shown = [each for each in shown if each["threshold"] != chosen["threshold"]]
        shown.append({**chosen, "errors": wrong, "chosen": True})
    return sorted(shown, key=lambda each: each["threshold"])


# === Labels ===


def leaks_first(pairs: list[dict[str, str]]) -> list[dict[str, str]]:
    """Near-duplicates of train and test before others, of two labels before one, the most alike first."""

    def order(pair: dict[str, str]) -> tuple[bool, bool, float]:
        leak = (pair["first_split"], pair["second_split"]) == ("train", "test")
        return not leak, pair["first_label"] == pair["second_label"], -float(pair["similarity"])

    return sorted(pairs, key=order)
