"""Answers to a reviewer's questions, one or two sentences each, from the figures on the rest of the page."""

from __future__ import annotations

from typing import Any, NamedTuple

from bertline.components.evaluation import Comparison, Metrics
from bertline.components.review_page.figures import ClassFigures, Slice

SHOWN = 3  # slices or labels named in one sentence; the section lists all
# Mean probability and accuracy this close count as equal: one point either way is noise on 2,000 rows.
CONFIDENCE_SLACK = 0.01


class Answer(NamedTuple):
    """The answer to one question.

    Attributes:
        question: a reviewer's.
        answer: in words.
        section: the part of the page that shows why.
    """

    question: str
    answer: str
    section: str


def answers(
    metrics: Metrics,
    classes: list[ClassFigures],
    slices: list[Slice],
    comparisons: list[tuple[str, Comparison]],
    confusions: list[dict[str, Any]],
    bins: list[dict[str, float]],
) -> list[Answer]:
    """The answers, in the order in which they are asked.

    Args:
        metrics: the Evaluator's.
        classes: figures.per_class.
        slices: figures.slices.
        comparisons: other models on the same rows, each with its name.
        confusions: figures.confusions.
        bins: figures.reliability.
    """
    several = metrics.multi_label is not None
    failures = _failing_labels(classes) if several else _failures(classes, confusions)
    return [
        Answer("Is it good?", _quality_of_sets(metrics) if several else _quality(metrics), "figures"),
        Answer("For whom is it bad?", _slices(slices), "slices"),
        Answer("Better than the last one, or luck?", _comparisons(comparisons), "figures"),
        Answer("Where does it fail?", failures, "classes" if several else "confusions"),
        Answer("Can its probabilities be believed?", _confidence(bins), "decisions" if several else "confidence"),
    ]


def _quality(metrics: Metrics) -> str:
    low, high = metrics.intervals.accuracy
    return (
        f"It answers {metrics.accuracy:.1%} of {metrics.rows:,} test rows correctly (95% interval {low:.1%} to "
        f"{high:.1%}); always giving the commonest label would get {metrics.majority_share:.1%}. "
        f"Macro F1, which counts every label alike, is {metrics.macro_f1:.3f}."
    )


def _quality_of_sets(metrics: Metrics) -> str:
    low, high = metrics.intervals.micro_f1
    return (
        f"Micro F1, of all rows and labels together, is {metrics.micro_f1:.3f} (95% interval {low:.3f} to {high:.3f}); "
        f"always giving the commonest labels would get {metrics.multi_label.constant_micro_f1:.3f}. "
        f"{metrics.accuracy:.1%} of {metrics.rows:,} test rows get exactly their labels. Macro F1, which counts every "
        f"label alike, is {metrics.macro_f1:.3f}."
    )


def _slices(slices: list[Slice]) -> str:
    if not slices:
        return "Not known: no slices are configured."
    worse = [each for each in slices if each.verdict == "worse"]
    if not worse:
        return f"None of {len(slices)} slices is worse than all rows beyond chance; the lowest is {_slice(slices[0])}."
    return f"Worse than all rows beyond chance: {_listed([_slice(each) for each in worse])}."


def _slice(each: Slice) -> str:
    return f"{_quoted(each.name)} ({each.figures.accuracy:.1%} of {each.figures.rows:,} rows)"


def _comparisons(comparisons: list[tuple[str, Comparison]]) -> str:
    if not comparisons:
        return "There is no other model to compare with: no earlier release, and no baseline is configured."
    return " ".join(_comparison(name, comparison) for name, comparison in comparisons)


def _comparison(name: str, comparison: Comparison) -> str:
    gain = comparison.differences.micro_f1 or comparison.differences.accuracy
    if gain.low > 0:
        verdict = "better, and not by luck"
    elif gain.high < 0:
        verdict = "worse, and not by bad luck"
    else:
        verdict = "no difference that luck could not explain"
    figure = "micro F1" if comparison.differences.micro_f1 else "accuracy"
    return (
        f"Against {name}: {100 * gain.value:+.1f} points of {figure} "
        f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}), {verdict}."
    )


def _failures(classes: list[ClassFigures], confusions: list[dict[str, Any]]) -> str:
    absent = [_quoted(each.name) for each in classes if not each.rows]
    missing = f" No test row has the label {_listed(absent)}, so nothing is known about it." if absent else ""
    if not confusions:
        return f"Nowhere on these rows.{missing}"
    worst, most = classes[0], confusions[0]
    return (
        f"Its weakest label is {_quoted(worst.name)} (F1 {worst.f1 or 0:.3f}); its commonest mistake is to answer "
        f"{_quoted(most['answered'])} where {_quoted(most['true'])} is right, {most['rows']:,} rows or "
        f"{most['share']:.1%} of them.{missing}"
    )


def _failing_labels(classes: list[ClassFigures]) -> str:
    absent = [_quoted(each.name) for each in classes if not each.rows]
    missing = f" No test row has the label {_listed(absent)}, so nothing is known about it." if absent else ""
    worst = [each for each in classes if each.rows and (each.f1 or 0) < 1]
    if not worst:
        return f"Nowhere on these rows.{missing}"
    weakest = worst[0]
    missed = weakest.rows - round((weakest.recall or 0) * weakest.rows)
    added = weakest.answers - round((weakest.precision or 0) * weakest.answers)
    return (
        f"Its weakest label is {_quoted(weakest.name)} (F1 {weakest.f1 or 0:.3f}): it misses {missed:,} of "
        f"{weakest.rows:,} rows that have it, and gives it to {added:,} that do not.{missing}"
    )


def _confidence(bins: list[dict[str, float]]) -> str:
    rows = sum(each["rows"] for each in bins)
    mean, accuracy = (sum(each[key] * each["rows"] for each in bins) / rows for key in ("confidence", "accuracy"))
    on_average = f"on average it is {mean:.1%} sure, and right {accuracy:.1%} of the time"
    if abs(mean - accuracy) <= CONFIDENCE_SLACK:
        return f"Yes: {on_average}."
    return f"It is {'surer' if mean > accuracy else 'less sure'} than it should be: {on_average}."


def _quoted(name: str) -> str:
    """A word from the data inside our sentence: isolated, as it may be written from right to left."""
    return f"“\u2068{name}\u2069”"


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
