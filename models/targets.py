"""What training fits: the one label of each row (softmax), or any number of labels per row (a sigmoid for each)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf
from scipy import special

from bertline.errors import UserError
from bertline.models.dataset import balanced_weights


def check_labels(labels: int) -> None:
    """Raises UserError where there are too few labels to tell apart."""
    if labels < 2:
        raise UserError(f"a classifier needs at least two labels, not {labels}")


class Target(Protocol):
    """Loss and accuracy of logits, float32 [rows, labels], against the labels of the rows, as dataset.Rows has them.

    Attributes:
        row_weights: float [labels], how much a row of each label counts in the loss; None if all rows count the same.
    """

    row_weights: np.ndarray | None

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Each row's loss in nats, float32 [rows], with smoothed labels where they are smoothed."""

    def losses_of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """The same without TensorFlow, and with the labels as they are: what validation reports."""

    def divergences(self, one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """How far two answers to each row are apart, KL(one, other) + KL(other, one) in nats, float32 [rows]."""

    def accuracy(self, labels: np.ndarray, logits: np.ndarray) -> float:
        """Share of the rows whose most probable answer is right."""


class OneLabel:
    """Each row has one label: int32 [rows]. The loss is the cross-entropy.

    Args:
        labels: of the training rows.
        count: how many labels there are.
        balanced: whether all labels count the same.
        smoothing: share of each row's label that is spread evenly over all labels (Szegedy et al., "Rethinking the
            Inception Architecture for Computer Vision", CVPR 2016, section 7).
    """

    def __init__(self, labels: np.ndarray, count: int, *, balanced: bool, smoothing: float = 0.0):
        self._smoothing = smoothing
        self.row_weights = balanced_weights(labels, count) if balanced else None

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """See Target."""
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        if not self._smoothing:
            return losses
        evenly = -tf.reduce_mean(tf.nn.log_softmax(logits), axis=-1)
        return (1 - self._smoothing) * losses + self._smoothing * evenly

    def losses_of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """See Target."""
        return -special.log_softmax(logits, axis=-1)[np.arange(len(labels)), labels]

    def accuracy(self, labels: np.ndarray, logits: np.ndarray) -> float:
        """See Target."""
        return float(np.mean(logits.argmax(-1) == labels))

    def divergences(self, one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """See Target."""
        # The sums over the labels of the probabilities' differences are 0, so the logits' normalisers cancel.
        return tf.reduce_sum((tf.nn.softmax(one) - tf.nn.softmax(other)) * (one - other), axis=-1)


class LabelSets:
    """Rows have any number of labels: int32 [rows, labels] of 1 and 0. The loss is the mean binary cross-entropy.

    Balanced, the rows that have a label and those that do not count the same for it: rows / (2 x rows of the kind).

    Args:
        labels: of the training rows.
        balanced: see above.
        smoothing: each label is one of two, had or not, and this share of it is spread evenly over both: a label that
            a row has counts 1 - smoothing / 2, one that it has not smoothing / 2.
    """

    row_weights = None

    def __init__(self, labels: np.ndarray, *, balanced: bool, smoothing: float = 0.0):
        self._smoothing = smoothing
        with_label = labels.sum(0)
        kinds = np.stack([len(labels) - with_label, with_label])  # [0 and 1, labels]
        weights = (
            np.where(kinds > 0, len(labels) / (2 * np.maximum(kinds, 1)), 0.0) if balanced else np.ones_like(kinds)
        )
        self._without, self._with = weights.astype(np.float32)

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """See Target."""
        has = tf.cast(labels, tf.float32)
        wanted = has * (1 - self._smoothing) + self._smoothing / 2
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=logits)
        return tf.reduce_mean(losses * (has * self._with + (1.0 - has) * self._without), axis=-1)

    def losses_of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """See Target."""
        losses = np.logaddexp(0.0, np.where(labels == 1, -logits, logits))
        return (losses * np.where(labels == 1, self._with, self._without)).mean(-1)

    def accuracy(self, labels: np.ndarray, logits: np.ndarray) -> float:
        """See Target: all labels of the row, and no other, are more probable than not."""
        return float(np.mean(((logits > 0) == (labels == 1)).all(-1)))

    def divergences(self, one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        """See Target: the mean over the labels, as of the loss."""
        return tf.reduce_mean((tf.sigmoid(one) - tf.sigmoid(other)) * (one - other), axis=-1)


def figures(target: Target, labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """The mean loss of rows, weighted as in training, and the accuracy; labels and logits as in Target."""
    weights = None if target.row_weights is None else target.row_weights[labels]
    return float(np.average(target.losses_of(labels, logits), weights=weights)), target.accuracy(labels, logits)


def of(labels: np.ndarray, count: int, *, balanced: bool, smoothing: float = 0.0) -> Target:
    """The target of training rows.

    Args:
        labels: int32 [rows] or [rows, labels], as dataset.Rows has them.
        count: how many labels there are.
        balanced: `train.class_weights` is balanced.
        smoothing: `train.label_smoothing`.
    """
    if labels.ndim == 2:
        return LabelSets(labels, balanced=balanced, smoothing=smoothing)
    return OneLabel(labels, count, balanced=balanced, smoothing=smoothing)
