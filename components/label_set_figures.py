"""The fields of metrics.json for rows with any number of labels, from the model's answers to them."""

from __future__ import annotations

import numpy as np

from bertline.components import label_sets
from bertline.components.answers import LabelSetAnswers
from bertline.components.evaluation import ClassScores, Intervals, MultiLabel, SliceFigures, Together
from bertline.components.export_record import Threshold


def all_rows(rows: LabelSetAnswers, thresholds: dict[str, Threshold]) -> dict[str, object]:
    """The fields of Metrics that follow from the model's answers.

    Args:
        rows: the model's answers, with the slices.
        thresholds: by label.
    """
    error, error_interval = label_sets.calibration_error(rows.labels, rows.probabilities)
    return {
        **dict(slice_figures(rows)),
        "calibration_error": error,
        "intervals": Intervals(**label_sets.intervals(rows.labels, rows.predicted), calibration_error=error_interval),
        "majority_share": label_sets.commonest_share(rows.labels),
        "labels_present": int(rows.labels.any(0).sum()),
        "classes": rows.classes,
        "confusion": [],
        "slices": {name: slice_figures(rows, inside) for name, inside in rows.slices.items()},
        "multi_label": MultiLabel(
            thresholds={name: each.value for name, each in thresholds.items()},
            untuned={name: each.note for name, each in thresholds.items() if each.note},
            unlabelled=int((~rows.labels.any(-1)).sum()),
            unanswered=int((~rows.predicted.any(-1)).sum()),
            constant_micro_f1=label_sets.best_constant_micro_f1(rows.labels),
            together=together(rows),
        ),
    }


def slice_figures(rows: LabelSetAnswers, inside: np.ndarray | slice = slice(None)) -> SliceFigures:
    """The figures of the rows `inside`, bool [rows]."""
    labels, answers = rows.labels[inside], rows.predicted[inside]
    sums = label_sets.sums(labels, answers)
    scores = zip(sums.by_label.precision, sums.by_label.recall, sums.by_label.f1, strict=True)
    return SliceFigures(
        rows=len(labels),
        accuracy=float(sums.accuracy),
        macro_f1=float(sums.macro_f1),
        weighted_f1=float(sums.weighted_f1),
        micro_f1=float(sums.micro_f1),
        sample_f1=float(sums.sample_f1),
        hamming_loss=float(sums.hamming_loss),
        per_class={
            name: ClassScores(**{key: _score(value) for key, value in zip(ClassScores.model_fields, each, strict=True)})
            for name, each in zip(rows.classes, scores, strict=True)
        },
        **label_sets.probability_scores(labels, rows.probabilities[inside]),
    )


def _score(value: float) -> float | None:
    """A ratio; None for one of nothing."""
    return None if np.isnan(value) else float(value)


def together(rows: LabelSetAnswers) -> list[Together]:
    """How often two labels stand together in rows and in answers: the pairs that do so at all, in label order."""
    true, answered = (each.astype(np.int64).T @ each for each in (rows.labels, rows.predicted))
    return [
        Together(int(first), int(second), int(true[first, second]), int(answered[first, second]))
        for first, second in np.argwhere((true > 0) | (answered > 0))
        if first <= second
    ]
