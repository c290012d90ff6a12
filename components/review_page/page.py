"""The review page as one HTML file: nothing in it is fetched, and nothing but its own script can run."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from bertline.components.answers import Answers
from bertline.components.evaluation import Comparison, Difference, Interval, Metrics, figure_name
from bertline.components.review_page import attributions, brief, charts, compression, figures, label_sets, trust
from bertline.components.review_page.evidence import Evidence

FOLDER = Path(__file__).parent
# The parts of the page, in the order of a person's questions: a template of `sections/`, its name in the navigation.
SECTIONS = {
    "verdict": "Verdict",
    "figures": "Figures",
    "compression": "Compression",
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
    "card": "Model card",
    "lineage": "Lineage",
}
# What stands in place of some of them where a row has any number of labels; None takes a part out.
LABEL_SET_SECTIONS = {
    "confusions": ("together", "Together"),
    "confidence": None,
    "calibration": ("decisions", "Thresholds"),
    "errors": ("mistakes", "Mistakes"),
}
# Curves are drawn for this many classes, the worst first: three charts each, some 50 ms per chart.
CURVE_CLASSES = 8
OPEN_CLASSES = 3  # unfolded when the page opens
# At most this many classes, the worst, are in the confusion map, the slider's list and each slice's table; the table of
# classes has all. A thousand would make a page of ten megabytes, with cells of a third of a pixel.
LISTED_CLASSES = 100


def render(evidence: Evidence, made_at: str) -> str:
    """The page.

    Args:
        evidence: the run's.
        made_at: when the stage ran, for the footer.
    """
    style, script = asset("page.css"), asset("sort.js") + asset("page.js")
    templates = environment(FOLDER)
    templates.filters.update(
        excerpt=figures.excerpt, compared_figures=compared_figures, slice_classes=figures.slice_classes
    )
    return templates.get_template("page.html.j2").render(
        {
            "evidence": evidence,
            "metrics": evidence.metrics,
            "push": evidence.push,
            "release": evidence.release,
            "sections": _sections(evidence),
            "made_at": made_at,
            "style": Markup(style),
            "script": Markup(script),
            "policy": policy(style, script),
            **_views(evidence),
        }
    )


def asset(name: str) -> str:
    """A style or script of the page."""
    return (FOLDER / name).read_text(encoding="utf-8")


def environment(*folders: Path) -> jinja2.Environment:
    """What renders the templates of the folders; what stands in a value is text, never HTML."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(score=_score, signed=_signed, count=_count, percent=_percent, span=_span, json=_json)
    return made


def _sections(evidence: Evidence) -> dict[str, str]:
    shown = {name: title for name, title in SECTIONS.items() if name != "compression" or evidence.compression}
    if not evidence.metrics.multi_label:
        return shown
    parts = (LABEL_SET_SECTIONS.get(name, (name, title)) for name, title in shown.items())
    return dict(part for part in parts if part)


def policy(style: str, script: str) -> str:
    """A Content-Security-Policy under which the page's own style and script work, and nothing else."""
    return (
        f"default-src 'none'; style-src '{source(style)}'; script-src '{source(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def source(text: str) -> str:
    """An inline script or style as a Content-Security-Policy names it, without the quotes."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# === Views ===


def _views(evidence: Evidence) -> dict[str, Any]:
    """Figures and charts, by the names that the template gives them."""
    metrics, rows = evidence.metrics, evidence.answers
    classes = figures.per_class(rows, metrics)
    drawn = [each for each in classes if each.auc is not None]
    slices, comparisons = figures.slices(metrics), _comparisons(metrics)
    confusions = figures.confusions(metrics)
    if metrics.multi_label:
        own = {**label_sets.views(evidence), "calibrated": trust.calibrated(evidence), **trust.label_views(evidence)}
        wrong = own.pop("mistakes")
    else:
        own = {**_confusion(metrics), **_confidence(rows, metrics.calibration_error), **trust.views(evidence)}
        wrong = figures.confidently_wrong(rows)
    return {
        "brief": brief.answers(metrics, classes, slices, comparisons, confusions, own["bins"]),
        "classes": classes,
        "headlines": [*_headlines(metrics), *_ranking_headlines(metrics)],
        "comparisons": comparisons,
        "curves": [_curves(rows, each) for each in drawn[:CURVE_CLASSES]],
        "open_classes": OPEN_CLASSES,
        "listed_classes": LISTED_CLASSES,
        "class_thresholds": figures.class_thresholds(rows, _listed(classes, metrics)),
        "confusions": confusions,
        "slices": slices,
        "slice_chart": charts.slice_intervals(slices, metrics.accuracy) if slices else "",
        "wrong": attributions.explained(wrong, evidence.attributions),
        "card": _html(evidence.card),
        "runs": [*evidence.history, _this_run(evidence)],
        **own,
        **_around(evidence),
        **(compression.views(evidence.compression, metrics) if evidence.compression else {}),
    }


def _listed(classes: list[figures.ClassFigures], metrics: Metrics) -> list[str]:
    """All labels in their order, or of many those with the lowest F1."""
    if len(classes) <= LISTED_CLASSES:
        return metrics.classes
    return [each.name for each in classes[:LISTED_CLASSES]]


class Headline(NamedTuple):
    """One of the Evaluator's figures: its name on the page, and who counted it."""

    name: str
    source: str
    value: float | None
    interval: Interval | None = None
    tile: bool = False  # shown in large above the table


def _headlines(metrics: Metrics) -> list[Headline]:
    # Log loss and AUC are scikit-learn's: TFMA computes the one in float32, the other from buckets of scores.
    intervals = metrics.intervals
    if metrics.multi_label:
        return _label_set_headlines(metrics)
    return [
        Headline("Accuracy", "TFMA", metrics.accuracy, intervals.accuracy, tile=True),
        Headline("Macro F1", "TFMA", metrics.macro_f1, intervals.macro_f1, tile=True),
        Headline("Weighted F1", "TFMA", metrics.weighted_f1),
        Headline("Log loss", "scikit-learn", metrics.loss),
        Headline("Macro AUC, each class against the rest", "scikit-learn", metrics.macro_auc),
        Headline(
            "Expected calibration error",
            "bertline",
            metrics.calibration_error,
            intervals.calibration_error,
            tile=True,
        ),
    ]


def _label_set_headlines(metrics: Metrics) -> list[Headline]:
    intervals = metrics.intervals
    return [
        Headline("Micro F1", "bertline", metrics.micro_f1, intervals.micro_f1, tile=True),
        Headline("Macro F1", "bertline", metrics.macro_f1, intervals.macro_f1, tile=True),
        Headline(
            "Subset accuracy: exactly the right labels", "bertline", metrics.accuracy, intervals.accuracy, tile=True
        ),
        Headline("Sample F1, the mean over the rows", "bertline", metrics.sample_f1, intervals.sample_f1),
        Headline(
            "Hamming loss: wrong decisions per row and label", "bertline", metrics.hamming_loss, intervals.hamming_loss
        ),
        Headline("Weighted F1", "bertline", metrics.weighted_f1),
        Headline("Log loss per row and label", "scikit-learn", metrics.loss),
        Headline("Macro AUC, each label against the rest", "scikit-learn", metrics.macro_auc),
        Headline(
            "Expected calibration error", "bertline", metrics.calibration_error, intervals.calibration_error, tile=True
        ),
    ]


def _ranking_headlines(metrics: Metrics) -> list[Headline]:
    if not (ranking := metrics.ranking):
        return []
    return [
        Headline(
            f"{figure_name(figure)}, over {ranking.queries:,} queries",
            "scikit-learn" if figure == "ndcg" else "bertline",
            value,
            ranking.intervals[figure],
            tile=figure == "mrr",
        )
        for figure, value in ranking.by_figure().items()
    ]


def compared_figures(comparison: Comparison) -> list[tuple[str, float, Difference]]:
    """Each figure that two models are compared by: its name, the other model's, and the difference."""
    several = comparison.micro_f1 is not None
    return [
        (figure_name(name, multi_label=several).replace("-", " "), getattr(comparison, name), difference)
        for name, difference in comparison.differences.named()
    ]


def _comparisons(metrics: Metrics) -> list[tuple[str, Comparison]]:
    """Other models on the same rows, each with its name."""
    found = []
    if last := metrics.last_blessed:
        found.append((f"last blessed, version {last.version}", last.comparison))
    if metrics.tfidf:
        found.append(("TF-IDF with logistic regression", metrics.tfidf))
    if metrics.probe:
        found.append(("frozen encoder with logistic regression", metrics.probe))
    return found


def _confusion(metrics: Metrics) -> dict[str, Any]:
    """The confusion matrix as a table, or of more than figures.MATRIX_CLASSES as a map."""
    if len(metrics.classes) <= figures.MATRIX_CLASSES:
        return {"matrix": _matrix(metrics)}
    labels = figures.most_confused(metrics, LISTED_CLASSES)
    cells = figures.shares(metrics.confusion, labels)
    return {
        "matrix": None,
        "mapped": len(labels),
        "heat_map": charts.heat_map(cells, labels),
        "confusion_cells": [cell for cell, _ in cells],
    }


def _confidence(rows: Answers, error: float) -> dict[str, Any]:
    bins, thresholds, bars = figures.reliability(rows), figures.thresholds(rows), figures.confidences(rows)
    return {
        "bins": bins,
        "thresholds": thresholds,
        "reliability_chart": charts.reliability(bins, error),
        "confidence_chart": charts.confidence_histogram(bars),
        "confidence_points": [(bar["low"], bar["group"], bar["rows"]) for bar in bars],
        "coverage_chart": charts.coverage(thresholds),
    }


def _around(evidence: Evidence) -> dict[str, Any]:
    """Charts of training, data and past runs."""
    train, epochs = evidence.texts["splits"]["train"], evidence.training["epochs"]
    runs = [*evidence.history, _this_run(evidence)]
    return {
        "loss_chart": charts.training(epochs),
        "losses": [(each["epoch"], each["train_loss"], each["validation_loss"]) for each in epochs],
        "validation_chart": charts.validation_accuracy(epochs),
        "length_chart": charts.text_lengths(train["histogram"], evidence.texts["max_length"]),
        "history_chart": charts.history(runs) if evidence.history else "",
    }


def _curves(rows: Answers, each: figures.ClassFigures) -> dict[str, Any]:
    share = each.rows / len(rows.labels)
    precision_recall, roc = figures.precision_recall(rows, each.name), figures.roc(rows, each.name)
    scores = figures.class_scores(rows, each.name)
    return {
        "figures": each,
        "precision_recall": charts.precision_recall(precision_recall, each.name, each.average_precision, share),
        "roc": charts.roc(roc, each.name, each.auc),
        "scores": charts.class_scores(scores, each.name),
        "points": {
            "precision-recall": [(point["hits"], point["alarms"]) for point in precision_recall],
            "roc": [(point["hits"], point["alarms"]) for point in roc],
            "scores": [(bar["low"], bar["group"], bar["rows"]) for bar in scores],
        },
    }


def _matrix(metrics: Metrics) -> list[dict[str, Any]]:
    """The confusion matrix by rows, each cell with its share of the row and the depth of its colour, 0 to 10."""
    counts = {(cell.true, cell.answered): cell.rows for cell in metrics.confusion}
    totals = figures.label_rows(metrics.confusion)
    matrix = []
    for true, name in enumerate(metrics.classes):
        total = max(totals[true], 1)
        cells = []
        for answered in range(len(metrics.classes)):
            rows = counts.get((true, answered), 0)
            share = rows / total
            cells.append({"rows": rows, "share": share, "depth": round(10 * share), "right": true == answered})
        matrix.append({"name": name, "cells": cells})
    return matrix


def _html(card: str) -> Markup:
    """A model card's Markdown as a part of the page: HTML in it stays text, and its headings stand below the page's."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(card.split("---\n", 2)[-1])
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 2}"
        elif token.type in ("th_open", "td_open"):
            align = token.attrs.pop("style", "")  # refused by the page's policy; a class does it
            token.attrs |= {"class": "n"} if "right" in str(align) else {}
            token.attrs |= {"scope": "col"} if token.tag == "th" else {}
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))  # escaped by the renderer


def _this_run(evidence: Evidence) -> dict[str, Any]:
    version, metrics = evidence.push["version"], evidence.metrics
    return {
        "run": "this run",
        "outcome": "pushed" if version else "blocked",
        "version": version,
        "rows": metrics.rows,
        "accuracy": metrics.accuracy,
        "macro_f1": metrics.macro_f1,
        "intervals": metrics.intervals.by_figure(),
    }


# === How figures read ===


def _score(value: float | None) -> str:
    if value is None:
        return "none"
    return "not a number" if math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _json(points: list[Any]) -> str:
    """Compact, and null for what is not a number."""
    finite = [[None if value != value else value for value in point] for point in points]
    return json.dumps(finite, separators=(",", ":"))


def _span(interval: Interval | None, sign: str = "") -> str:
    return f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}" if interval else ""
