"""Counts a review page's figures again: scikit-learn's own, from nothing but the exported predictions."""

import json
import re
from html import unescape

import factories
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn import calibration, metrics

CLOSE = 1e-6


class Predictions:
    """predictions-test.parquet: `label` and `predicted` str [rows], `probabilities` float64 [rows, labels]."""

    def __init__(self, table, classes):
        self.classes, self.table = classes, {name: np.array(column) for name, column in table.items()}
        self.label, self.predicted = self.table["label"], self.table["predicted"]
        self.probabilities = np.array(table["probabilities"], np.float64)
        self.right = self.label == self.predicted
        self.confidence = self.probabilities[
            np.arange(len(self.label)), [classes.index(each) for each in self.predicted]
        ]

    def one_class(self, name):
        return self.label == name, self.predicted == name, self.probabilities[:, self.classes.index(name)]


def check(html, parquet, classes):
    """Every figure of the page on its test rows, to 1e-6; raises AssertionError at the first that differs."""
    rows, tables = Predictions(pq.read_table(parquet).to_pydict(), classes), factories.page_tables(html)
    check_headlines(tables["headline-table"], rows)
    check_classes(tables["class-table"], rows)
    check_slices(tables["slice-table"], rows)
    check_confusions(html, tables, rows)
    check_thresholds(tables["threshold-table"], rows)
    check_calibration(tables["calibration-table"], rows)
    check_errors(tables.get("wrong-table", []), rows)
    check_charts(html, rows)


def check_headlines(shown, rows):
    shown = {name: (value, span) for name, value, span, _ in shown}
    probabilities = rows.probabilities / rows.probabilities.sum(-1, keepdims=True)
    areas = [
        metrics.roc_auc_score(true, scores)
        for true, _, scores in map(rows.one_class, rows.classes)
        if 0 < true.sum() < len(true)
    ]
    indices = [rows.classes.index(each) for each in rows.label]
    expected = {
        "Accuracy": metrics.accuracy_score(rows.label, rows.predicted),
        "Macro F1": metrics.f1_score(rows.label, rows.predicted, average="macro"),
        "Weighted F1": metrics.f1_score(rows.label, rows.predicted, average="weighted"),
        "Log loss": metrics.log_loss(indices, probabilities, labels=range(len(rows.classes))),
        "Macro AUC, each class against the rest": np.mean(areas),
        "Expected calibration error": calibration_error(rows),
    }
    assert {name: value for name, (value, _) in shown.items()} == pytest.approx(expected, abs=CLOSE)
    low, high = stats.binomtest(int(rows.right.sum()), len(rows.right)).proportion_ci(method="wilson")
    assert shown["Accuracy"][1] == f"{low:.3f} to {high:.3f}"


def calibration_error(rows):
    right, mean = calibration.calibration_curve(rows.right, rows.confidence, n_bins=15)
    return np.sum(bin_rows(rows) * np.abs(right - mean)) / len(rows.right)


def bin_rows(rows):
    counts = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], rows.confidence))
    return counts[counts > 0]


def check_classes(shown, rows):
    assert {row[0] for row in shown} == set(rows.classes)
    for name, count, answers, precision, _, recall, _, f1, average_precision, auc in shown:
        true, answered, scores = rows.one_class(name)
        assert (count, answers) == (true.sum(), answered.sum())
        expected = metrics.precision_recall_fscore_support(
            true, answered, pos_label=True, average="binary", zero_division=np.nan
        )
        figures = [np.nan if value == "none" else value for value in (precision, recall, f1)]
        assert figures == pytest.approx(expected[:3], abs=CLOSE, nan_ok=True), name
        if true.any() and not true.all():
            assert average_precision == pytest.approx(metrics.average_precision_score(true, scores), abs=CLOSE)
            assert auc == pytest.approx(metrics.roc_auc_score(true, scores), abs=CLOSE)
        else:
            assert (average_precision, auc) == ("none", "none")


def check_slices(shown, rows):
    for name, count, accuracy, span, macro_f1, _ in shown:
        column, value = name.split("=", 1)
        if column == "text_length":
            low, _, high = value.rstrip("+").partition("-")
            lengths = np.array([len(text) for text in rows.table["text"]])
            inside = (lengths >= int(low)) & (lengths <= (int(high) if high else lengths.max()))
        else:
            inside = rows.table[column] == value
        label, predicted = rows.label[inside], rows.predicted[inside]
        assert (count, accuracy) == (inside.sum(), pytest.approx(metrics.accuracy_score(label, predicted), abs=CLOSE))
        assert macro_f1 == pytest.approx(metrics.f1_score(label, predicted, average="macro"), abs=CLOSE)
        low, high = stats.binomtest(int((label == predicted).sum()), len(label)).proportion_ci(method="wilson")
        assert span == f"{low:.3f} to {high:.3f}"


def check_confusions(html, tables, rows):
    expected = metrics.confusion_matrix(rows.label, rows.predicted, labels=rows.classes)
    if "matrix" in tables:
        assert [row[1:] for row in tables["matrix"]] == expected.tolist()
    else:
        cells = {(true, answered): count for true, answered, count in points(html, "confusions")[0]}
        assert cells == {cell: count for cell, count in np.ndenumerate(expected) if count}
    for true, answered, count, share in tables.get("confusion-table", []):
        cell = rows.classes.index(true), rows.classes.index(answered)
        assert (count, share) == (expected[cell], pytest.approx(expected[cell] / expected[cell[0]].sum(), abs=CLOSE))


def check_thresholds(shown, rows):
    assert len(shown) == 101
    for number, (threshold, count, coverage, accuracy, errors) in enumerate(shown):
        kept = rows.confidence >= number / 100
        assert (threshold, count, errors) == (number / 100, kept.sum(), (kept & ~rows.right).sum())
        assert coverage == pytest.approx(kept.mean(), abs=CLOSE)
        if kept.any():
            assert accuracy == pytest.approx(metrics.accuracy_score(rows.label[kept], rows.predicted[kept]), abs=CLOSE)


def check_calibration(shown, rows):
    right, mean = calibration.calibration_curve(rows.right, rows.confidence, n_bins=15)
    np.testing.assert_allclose([row[1:] for row in shown], np.stack([bin_rows(rows), mean, right], -1), atol=CLOSE)


def check_errors(shown, rows):
    surest = np.sort(rows.confidence[~rows.right])[::-1][:25]
    np.testing.assert_allclose([row[3] for row in shown], surest, atol=CLOSE)


def check_charts(html, rows):
    """The points that curves and bars were drawn from."""
    bars = {
        group: [count for _, each, count in points(html, "confidence")[0] if each == group]
        for group in ("right", "wrong")
    }
    for group, members in (("right", rows.right), ("wrong", ~rows.right)):
        assert bars[group] == np.histogram(rows.confidence[members], bins=20, range=(0, 1))[0].tolist()
    sections = re.findall(r'<details data-class="([^"]*)"(.*?)</details>', html, re.DOTALL)
    assert sections
    for name, section in sections:
        true, _, scores = rows.one_class(unescape(name))
        own = [count for _, group, count in points(section, "scores")[0] if group == "rows of the class"]
        assert own == np.histogram(scores[true], bins=20, range=(0, 1))[0].tolist()
        (roc,), (curve,) = points(section, "roc"), points(section, "precision-recall")
        false_positive, true_positive, _ = metrics.roc_curve(true, scores)
        expected = set(zip(np.rint(true_positive * true.sum()), np.rint(false_positive * (~true).sum()), strict=True))
        assert {tuple(point) for point in roc} <= expected
        assert (roc[0], roc[-1]) == ([0, 0], [true.sum(), (~true).sum()])
        precision, recall, _ = metrics.precision_recall_curve(true, scores)
        expected = np.stack([recall, precision], -1)
        for hits, alarms in curve:
            point = [hits / true.sum(), hits / (hits + alarms) if hits + alarms else 1.0]
            assert np.abs(expected - point).max(-1).min() < CLOSE


def points(html, kind):
    """What the charts of a kind were drawn from, a list a chart."""
    found = re.findall(f'data-chart="{kind}" data-points="([^"]*)"', html)
    return [json.loads(unescape(each)) for each in found]
