"""The trade of student and teacher, beside the models that the page compares with anyway."""

from __future__ import annotations

from typing import Any, NamedTuple

from bertline.components import estimates
from bertline.components.compression_report import CompressionReport
from bertline.components.evaluation import Interval, Metrics
from bertline.components.review_page import charts


class Trader(NamedTuple):
    """A model in the table; None for what was not measured of it."""

    name: str
    accuracy: float
    interval: Interval
    p50_ms: float | None = None
    examples_per_second: float | None = None
    bytes: int | None = None


def views(report: CompressionReport, metrics: Metrics) -> dict[str, Any]:
    """What the section "compression" shows, by the names that its template gives it."""
    sides = {"teacher": report.teacher, "student": report.student}
    traders = [
        Trader(name, side.accuracy, side.interval, side.p50_ms, side.examples_per_second, side.bytes)
        for name, side in sides.items()
    ]
    others = {
        "TF-IDF with logistic regression": metrics.tfidf,
        "frozen encoder with logistic regression": metrics.probe,
    }
    traders += [
        Trader(name, other.accuracy, estimates.share_interval(round(other.accuracy * metrics.rows), metrics.rows))
        for name, other in others.items()
        if other
    ]
    return {"compression": report, "trade": traders, "trade_chart": charts.trade([each._asdict() for each in traders])}
