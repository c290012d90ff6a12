"""The probe: a logistic regression on the vectors of the frozen encoder.

It says what the pretrained weights know of a task before any of them is trained (Alain and Bengio, "Understanding
intermediate layers using linear classifier probes", 2016). As the start of the head it makes fine-tuning LP-FT: a
random head first pulls the encoder in random directions, and a fitted one does not (Kumar et al., "Fine-Tuning can
Distort Pretrained Features and Underperform Out-of-Distribution", ICLR 2022; Tomihari and Sato, "Understanding Linear
Probing then Fine-tuning Language Models from NTK Perspective", NeurIPS 2024).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import special

from bertline.errors import UserError

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
        labels: int [rows].
        weights: float [rows], how much each counts.
    """

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def fit(train: LabelledFeatures, validation: LabelledFeatures, labels: int) -> Probe:
    """Fits a probe for each strength, and takes the one with the least loss on the validation rows.

    Args:
        train: rows to fit on.
        validation: rows that choose the strength.
        labels: how many there are. One without training rows is never answered.

    Raises:
        UserError: the training rows have fewer than two labels.
    """
    if len(np.unique(train.labels)) < 2:
        raise UserError("the probe: all training rows have one label; it takes two to tell apart")
    centre = train.features.mean(axis=0)
    scale = float(np.sqrt(np.mean(np.square(train.features - centre)))) or 1.0
    # Centred and of one scale, whatever the pooling, L-BFGS takes few steps, and a strength means the same.
    centred = [(rows.features - centre) / scale for rows in (train, validation)]
    best, worse = None, 0
    for strength, (coefficients, intercept) in _fits(centred[0], train, labels):
        kernel = (coefficients.T / scale).astype(np.float32)
        bias = (intercept - centre @ kernel).astype(np.float32)
        losses = [_loss(rows.features @ kernel + bias, rows) for rows in (train, validation)]
        worse = worse + 1 if best and losses[1] >= best.validation_loss else 0
        if not worse:
            accuracy = np.mean((validation.features @ kernel + bias).argmax(-1) == validation.labels)
            best = Probe(kernel, bias, strength, *losses, float(accuracy))
        if worse == WORSE_IN_A_ROW:
            break
    return best


def _fits(features: np.ndarray, train: LabelledFeatures, labels: int):
    """For each strength: itself, and coefficients [labels, hidden] with intercepts [labels]."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver="lbfgs", warm_start=True, max_iter=ITERATIONS)
    for strength in STRENGTHS:
        model.C = strength
        with warnings.catch_warnings():
            # A fit that is stopped before its optimum is one more candidate for the validation rows to judge.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, train.labels, sample_weight=train.weights)
        yield strength, _by_label(model, labels)


def _by_label(model, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients of all labels. scikit-learn has the difference of two, and none without rows."""
    coefficients, intercept = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        coefficients, intercept = np.concatenate([-coefficients, coefficients]) / 2, np.repeat(intercept, 2) / 2
        intercept = intercept * [-1, 1]
    whole = np.zeros((labels, coefficients.shape[1]))
    starts = np.full(labels, intercept.min() - np.log(len(model.classes_)))
    whole[model.classes_], starts[model.classes_] = coefficients, intercept
    return whole, starts


def _loss(logits: np.ndarray, rows: LabelledFeatures) -> float:
    losses = -special.log_softmax(logits, axis=-1)[np.arange(len(rows.labels)), rows.labels]
    return float(np.average(losses, weights=rows.weights))
