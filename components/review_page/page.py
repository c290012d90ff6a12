"""The review page as one HTML file: nothing in it is fetched, and nothing but its own script can run."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from components.review_page import attributions, charts, figures, trust

FOLDER = Path(__file__).parent
# The parts of the page, in the order of a person's questions: template of `sections/` and what the navigation calls it.
SECTIONS = {
    "verdict": "Verdict",
    "figures": "Figures",
    "slices": "Slices",
    "classes": "Classes",
    "confusions": "Confusions",
    "confidence": "Confidence",
    "calibration": "Calibration",
    "errors": "Errors",
    "labels": "Labels",
    "training": "Training",
    "data": "Data",
    "history": "Past runs",
    "lineage": "Lineage",
}
# More classes than this make a matrix that no window shows with names; it becomes a map beside a list of confusions.
MATRIX_CLASSES = 12
# Curves are drawn for so many classes, the worst first: three charts each, some 50 ms a chart.
CURVE_CLASSES = 8
OPEN_CLASSES = 3  # of those, unfolded when the page opens
# The Evaluator's figures by the names the page gives them, in its order; macro AUC is scikit-learn's, as TFMA's is an
# approximation by buckets.
HEADLINES = {
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "weighted_f1": "Weighted F1",
    "loss": "Log loss",
    "calibration_error": "Expected calibration error",
}


@dataclass(frozen=True)
class Evidence:
    """What the stages of a run left behind for a person to judge its model.

    Attributes:
      metrics: the Evaluator's metrics.json.
      scored: the test rows with the model's probabilities.
      verdicts: as gates.Verdict.as_dict gives them.
      training: the Trainer's training.json.
      ingest: ExampleGen's ingest.json.
      texts: DataGate's text_statistics.json.
      anomalies: TFDV's, each `split`, `column`, `severity`, `description`.
      attributions: the Explainer's, of the answers that are shown with their words: by row_id.
      canary: its report.json, with `blessed` and `summary`.
      push: `version` ("" if not pushed) and `summary`.
      release: the run's facts: name, hashes, commit, libraries, parent.
      labels: LabelQuality's label_quality.json, with the rows of its two CSV files in `issue_rows` and `pair_rows`.
      history: earlier runs, the oldest first: `run`, `outcome`, `version`, `rows`, `accuracy`, `macro_f1`, `intervals`.
    """

    metrics: dict[str, Any]
    scored: figures.ScoredRows
    verdicts: list[dict[str, Any]]
    training: dict[str, Any]
    ingest: dict[str, Any]
    texts: dict[str, Any]
    anomalies: list[dict[str, str]]
    attributions: dict[str, dict[str, Any]]
    canary: dict[str, Any]
    push: dict[str, str]
    release: dict[str, Any]
    labels: dict[str, Any]
    history: list[dict[str, Any]]


def render(evidence: Evidence, made_at: str) -> str:
    """The page.

    Args:
      evidence: the run's.
      made_at: when the stage ran, for the footer.
    """
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(score=_score, signed=_signed, count=_count, percent=_percent, span=_span)
    return environment.get_template("page.html.j2").render(
        {
            "evidence": evidence,
            "metrics": evidence.metrics,
            "push": evidence.push,
            "release": evidence.release,
            "sections": SECTIONS,
            "made_at": made_at,
            "style": Markup(style),
            "script": Markup(script),
            "policy": policy(style, script),
            **_views(evidence),
        }
    )


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy under which the page's own style and script work, and nothing else."""
    return (
        f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# === Views ===


def _views(evidence: Evidence) -> dict[str, Any]:
    """Figures and charts, by the names that the template gives them."""
    metrics, scored = evidence.metrics, evidence.scored
    classes = figures.per_class(scored, metrics)
    drawn = [each for each in classes if each.auc is not None]
    slices = figures.slices(metrics)
    return {
        "classes": classes,
        "headlines": _headlines(metrics),
        "comparisons": _comparisons(metrics),
        "macro_auc": figures.macro_auc(classes),
        "curves": [_curves(scored, each) for each in drawn[:CURVE_CLASSES]],
        "open_classes": OPEN_CLASSES,
        "matrix": _matrix(metrics) if len(classes) <= MATRIX_CLASSES else None,
        "heat_map": charts.heat_map(metrics["confusion"], metrics["classes"]) if len(classes) > MATRIX_CLASSES else "",
        "confusions": figures.confusions(metrics["confusion"], metrics["classes"]),
        "slices": slices,
        "slice_chart": charts.slice_intervals(slices, metrics["accuracy"]) if slices else "",
        "wrong": attributions.explained(figures.confidently_wrong(scored), evidence.attributions),
        "runs": [*evidence.history, _this_run(evidence)],
        **_confidence(scored, metrics["calibration_error"]),
        **_around(evidence),
        **trust.views(evidence),
    }


def _headlines(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"key": key, "name": name, "value": metrics[key], "interval": metrics["intervals"].get(key)}
        for key, name in HEADLINES.items()
    ]


def _comparisons(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Other models on the same rows, each `name` and what the gates found (see gates.compare)."""
    found = []
    if last := metrics.get("baseline"):
        found.append({"name": f"last blessed, version {last['version']}", **last["comparison"]})
    if tfidf := metrics.get("tfidf"):
        found.append({"name": "TF-IDF with logistic regression", **tfidf})
    return found


def _confidence(scored: figures.ScoredRows, error: float) -> dict[str, Any]:
    bins, thresholds = figures.reliability(scored), figures.thresholds(scored)
    return {
        "bins": bins,
        "thresholds": thresholds,
        "reliability_chart": charts.reliability(bins, error),
        "confidence_chart": charts.confidence_histogram(figures.confidences(scored)),
        "coverage_chart": charts.coverage(thresholds),
    }


def _around(evidence: Evidence) -> dict[str, Any]:
    """Charts of training, data and past runs."""
    train, epochs = evidence.texts["splits"]["train"], evidence.training["epochs"]
    runs = [*evidence.history, _this_run(evidence)]
    return {
        "loss_chart": charts.training(epochs),
        "validation_chart": charts.validation_accuracy(epochs),
        "length_chart": charts.text_lengths(train["histogram"], evidence.texts["max_length"]),
        "history_chart": charts.history(runs) if evidence.history else "",
    }


def _curves(scored: figures.ScoredRows, each: figures.ClassFigures) -> dict[str, Any]:
    share = each.rows / len(scored.truth)
    return {
        "figures": each,
        "precision_recall": charts.precision_recall(
            figures.precision_recall(scored, each.name), each.name, each.average_precision, share
        ),
        "roc": charts.roc(figures.roc(scored, each.name), each.name, each.auc),
        "scores": charts.class_scores(figures.class_scores(scored, each.name), each.name),
    }


def _matrix(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The confusion matrix by rows, each cell with its share of the row and the depth of its colour, 0 to 10."""
    rows = []
    for position, (name, counts) in enumerate(zip(metrics["classes"], metrics["confusion"], strict=True)):
        total = max(sum(counts), 1)
        cells = [
            {"rows": count, "share": count / total, "depth": round(10 * count / total), "right": column == position}
            for column, count in enumerate(counts)
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _this_run(evidence: Evidence) -> dict[str, Any]:
    version = evidence.push["version"]
    keys = ("rows", "accuracy", "macro_f1", "intervals")
    return {
        "run": "this run",
        "outcome": "pushed" if version else "blocked",
        "version": version,
        **{key: evidence.metrics[key] for key in keys},
    }


# === How figures read ===


def _score(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _span(interval: tuple[float, float] | None, sign: str = "") -> str:
    return f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}" if interval else ""
