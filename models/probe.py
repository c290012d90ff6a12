"""The probe: a logistic regression on the vectors of the frozen encoder.

It says what the pretrained weights know of a task before any of them is trained (Alain and Bengio, "Understanding
intermediate layers using linear classifier probes", 2016). As the start of the head it makes fine-tuning LP-FT: a
random head first pulls the encoder in random directions, and a fitted one does not (Kumar et al., "Fine-Tuning can
Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022; Tomihari and Sato, "Understanding Linear
Probing then Fine-tuning Language Models from NTK Perspective", NeurIPS 2024).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertline.errors import UserError
from bertline.models import targets
from bertline.models.targets import Target

# Inverse strengths of the penalty, the weakest penalty last: each step is a factor of 3. They are for features with a
# mean square of 1, and reach beyond the best on both sides for 100 rows and for 10,000.
STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
# The validation loss falls and then rises along the strengths, so two worse ones in a row end the search.
WORSE_IN_A_ROW = 2
ITERATIONS = 300  # of L-BFGS; each strength starts from the optimum of the one before


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        kernel: float32 [hidden, labels]; features @ kernel + bias are logits.
        bias: float32 [labels].
        strength: the inverse strength of its penalty.
        train_loss: mean log loss of the training rows, in nats.
        validation_loss: the same of the validation rows.
        validation_accuracy: share of the validation rows that it answers rightly.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    train_loss: float
    validation_loss: float
    validation_accuracy: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits, float32 [rows, labels], of features [rows, hidden]."""
        return features @ self.kernel + self.bias


@dataclass(frozen=True)
class LabelledFeatures:
    """Rows of a split.

    Attributes:
        features: float32 [rows, hidden], as the head reads them.
        labels: as dataset.Rows has them: int [rows], or of multi-label rows [rows, labels] of 1 and 0.
    """

    features: np.ndarray
    labels: np.ndarray


def fit(train: LabelledFeatures, validation: LabelledFeatures, labels: int, *, balanced: bool = False) -> Probe:
    """Fits a probe for each strength, and takes the one with the least loss on the validation rows.

    Of multi-label rows each label is fitted against the rest, all with one strength.

    Args:
        train: rows to fit on.
        validation: rows that choose the strength.
        labels: how many there are. One without training rows is never answered.
        balanced: `train.class_weights` is balanced.

    Raises:
        UserError: the training rows have fewer than two labels.
    """
    several = train.labels.ndim == 2
    if not several and len(np.unique(train.labels)) < 2:
        raise UserError("the probe: all training rows have one label; it takes two to tell apart")
    target = targets.of(train.labels, labels, balanced=balanced)
    features, centre, scale = _centred(train.features)
    centred = LabelledFeatures(features, train.labels)
    fits = _label_by_label(centred, balanced) if several else _all_labels(centred, labels, target)
    best, worse = None, 0
    for strength, (coefficients, intercept) in fits:
        kernel = (coefficients.T / scale).astype(np.float32)
        bias = (intercept - centre @ kernel).astype(np.float32)
        losses = [_loss(rows.features @ kernel + bias, rows.labels, target) for rows in (train, validation)]
        worse = worse + 1 if best and losses[1] >= best.validation_loss else 0
        if not worse:
            accuracy = target.accuracy(validation.labels, validation.features @ kernel + bias)
            best = Probe(kernel, bias, strength, *losses, accuracy)
        if worse == WORSE_IN_A_ROW:
            break
    return best


def out_of_fold(rows: LabelledFeatures, labels: int, strength: float, folds: Folds) -> np.ndarray:
    """Logits of rows by probes that were fitted without them, float32 [rows, labels].

    Args:
        rows: one label per row; each label stands in two folds at least.
        labels: how many there are.
        strength: the inverse strength of the penalty; see `fit`.
        folds: the places to fit on and those that are answered, fold by fold; each place is answered once.
    """
    logits = np.empty((len(rows.labels), labels), np.float32)
    for fitted, answered in folds:
        features, centre, scale = _centred(rows.features[fitted])
        model = _regression()
        _fit(model, strength, features, rows.labels[fitted], None)
        coefficients, intercept = _by_label(model, labels)
        logits[answered] = ((rows.features[answered] - centre) / scale) @ coefficients.T + intercept
    return logits


Folds = Iterable[tuple[np.ndarray, np.ndarray]]
Fits = Iterator[tuple[float, tuple[np.ndarray, np.ndarray]]]  # strength, coefficients [labels, hidden], intercepts


def _centred(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Features less their centre, by their scale; the centre, [hidden]; and the scale.

    Centred and of one scale, whatever the pooling, L-BFGS takes few steps, and a strength means the same.
    """
    centre = features.mean(axis=0)
    scale = float(np.sqrt(np.mean(np.square(features - centre)))) or 1.0
    return (features - centre) / scale, centre, scale


def _all_labels(train: LabelledFeatures, labels: int, target: Target) -> Fits:
    """One regression for each strength."""
    weights = None if target.row_weights is None else target.row_weights[train.labels]
    model = _regression()
    for strength in STRENGTHS:
        _fit(model, strength, train.features, train.labels, weights)
        yield strength, _by_label(model, labels)


def _label_by_label(train: LabelledFeatures, balanced: bool) -> Fits:
    """A regression of each label against the rest for each strength."""
    rows, labels = train.labels.shape
    models = [_regression(class_weight="balanced" if balanced else None) for _ in range(labels)]
    with_label = train.labels.sum(0)
    for strength in STRENGTHS:
        coefficients = np.zeros((labels, train.features.shape[1]))
        # A label that all rows have, or none: its odds, with half a row more on either side.
        intercepts = np.log((with_label + 0.5) / (rows - with_label + 0.5))
        for label in np.flatnonzero((with_label > 0) & (with_label < rows)):
            _fit(models[label], strength, train.features, train.labels[:, label], None)
            coefficients[label], intercepts[label] = models[label].coef_[0], models[label].intercept_[0]
        yield strength, (coefficients, intercepts)


def _regression(**settings: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(solver="lbfgs", warm_start=True, max_iter=ITERATIONS, **settings)


def _fit(model: Any, strength: float, features: np.ndarray, labels: np.ndarray, weights: np.ndarray | None) -> None:
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    model.C = strength
    # L-BFGS alternates between products of milliseconds and Python. On a busy machine, or in a container with a share
    # of its cores, several threads wait for each other: up to ten times what one takes was seen.
    with warnings.catch_warnings(), threadpool_limits(1):
        # A fit that is stopped before its optimum is one more candidate for the validation rows to judge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels, sample_weight=weights)


def _by_label(model: Any, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients of all labels. scikit-learn has the difference of two, and none without rows."""
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coefficients, intercept = np.concatenate([-coefficients, coefficients]) / 2, np.repeat(intercept, 2) / 2
        intercept = intercept * [-1, 1]
    whole = np.zeros((labels, coefficients.shape[1]))
    starts = np.full(labels, intercept.min() - np.log(len(model.classes_)))
    whole[model.classes_], starts[model.classes_] = coefficients, intercept
    return whole, starts


def _loss(logits: np.ndarray, labels: np.ndarray, target: Target) -> float:
    weights = None if target.row_weights is None else target.row_weights[labels]
    return float(np.average(target.losses_of(labels, logits), weights=weights))
