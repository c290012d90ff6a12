"""What training fits: the one label of each row (softmax), or any number of labels per row (a sigmoid for each)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf
from scipy import special

from bertline.models.dataset import balanced_weights


class Target(Protocol):
    """Loss and accuracy of logits, float32 [rows, labels], against the labels of the rows, as dataset.Rows has them.

    Attributes:
        row_weights: float [labels], how much a row of each label counts in the loss; None if all rows count the same.
    """

    row_weights: np.ndarray | None

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Each row's loss in nats, float32 [rows]."""

    def losses_of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """The same without TensorFlow."""

    def accuracy(self, labels: np.ndarray, logits: np.ndarray) -> float:
        """Share of the rows whose most probable answer is right."""


class OneLabel:
    """Each row has one label: int32 [rows]. The loss is the cross-entropy.

    Args:
        labels: of the training rows.
        count: how many labels there are.
        balanced: whether all labels count the same.
    """

    def __init__(self, labels: np.ndarray, count: int, *, balanced: bool):
        self.row_weights = balanced_weights(labels, count) if balanced else None

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """See Target."""
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)

    def losses_of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """See Target."""
        return -special.log_softmax(logits, axis=-1)[np.arange(len(labels)), labels]

    def accuracy(self, labels: np.ndarray, logits: np.ndarray) -> float:
        """See Target."""
        return float(np.mean(logits.argmax(-1) == labels))


class LabelSets:
    """Rows have any number of labels: int32 [rows, labels] of 1 and 0. The loss is the mean binary cross-entropy.

    Balanced, the rows that have a label and those that do not count the same for it: rows / (2 x rows of the kind).

    Args:
        labels: of the training rows.
        balanced: see above.
    """

    row_weights = None

    def __init__(self, labels: np.ndarray, *, balanced: bool):
        with_label = labels.sum(0)
        kinds = np.stack([len(labels) - with_label, with_label])  # [0 and 1, labels]
        weights = (
            np.where(kinds > 0, len(labels) / (2 * np.maximum(kinds, 1)), 0.0) if balanced else np.ones_like(kinds)
        )
        self._without, self._with = weights.astype(np.float32)

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """See Target."""
        has = tf.cast(labels, tf.float32)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=has, logits=logits)
        return tf.reduce_mean(losses * (has * self._with + (1.0 - has) * self._without), axis=-1)

    def losses_of(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """See Target."""
        losses = np.logaddexp(0.0, np.where(labels == 1, -logits, logits))
        return (losses * np.where(labels == 1, self._with, self._without)).mean(-1)

    def accuracy(self, labels: np.ndarray, logits: np.ndarray) -> float:
        """See Target: all labels of the row, and no other, are more probable than not."""
        return float(np.mean(((logits > 0) == (labels == 1)).all(-1)))


def of(labels: np.ndarray, count: int, *, balanced: bool) -> Target:
    """The target of training rows.

    Args:
        labels: int32 [rows] or [rows, labels], as dataset.Rows has them.
        count: how many labels there are.
        balanced: `train.class_weights` is balanced.
    """
    return LabelSets(labels, balanced=balanced) if labels.ndim == 2 else OneLabel(labels, count, balanced=balanced)
