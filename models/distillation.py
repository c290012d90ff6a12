"""Knowledge distillation: a student learns what its teacher answers and computes, beside what the labels say.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015: of logits divided by a temperature, the
teacher's probabilities are what the student's are to be; the loss counts temperature squared, which keeps its gradients
as large as those of the labels. Hidden states as in Sanh et al., "DistilBERT", 2019: the cosine of student and teacher,
here at each of the student's layers, whose counterparts Jiao et al., "TinyBERT", 2020, spread over the teacher. A
narrower student is compared with the dimensions of the teacher's states that it started from. TinyBERT learns a linear
map between the two, which its students need, as their dimensions mean nothing before the training. A student of another
family has no such layers, and learns from the answers only (Tang et al., "Distilling Task-Specific Knowledge from BERT
into Simple Neural Networks", 2019). To a text without a label the teacher's answer is all that there is, as to
the unlabelled texts of Turc et al., "Well-Read Students Learn Better", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from bertline.models import ensemble
from bertline.models.dataset import Batches, Rows
from bertline.models.family import Batch, Classifier, LayeredEncoder, Weights
from bertline.models.kept import Kept
from bertline.models.recipe import DistillOptions

_ROWS = 64  # that the teacher answers at once, when it answers all of them before the training


def kept_layers(before: int, after: int) -> list[int]:
    """Which of the teacher's layers a student starts from and is compared with, counted from 0.

    They are spread evenly and hold the last one, which the pooling reads, and the first one, which reads the word
    embeddings; a single layer is the last.
    """
    if after == 1:
        return [before - 1]
    return np.linspace(0, before - 1, after).round().astype(int).tolist()


class OfLabels(NamedTuple):
    """What a student's answers lose against the labels.

    Attributes:
        losses: float32 [batch], anything where a row has no label.
        labelled: whether it has one, bool [batch].
    """

    losses: tf.Tensor
    labelled: tf.Tensor


class Distillation:
    """A teacher, and what a student loses where it differs from it.

    Args:
        teacher: its members, whose answers are averaged as they are when served. Hidden states are the first one's.
        kept: what the student started from, with which it is compared.
        options: of the loss.
        dtype: of the teacher's products.
    """

    def __init__(self, teacher: Sequence[Classifier], kept: Kept, options: DistillOptions, dtype: tf.DType):
        self._members: list[tuple[LayeredEncoder, Weights]] = [
            (member.encoder(), member.packed(dtype)) for member in teacher
        ]
        self._multi_label = teacher[0].multi_label
        self._kept, self._options = kept, options

    def losses(self, of_labels: OfLabels, logits: tf.Tensor, states: Sequence[tf.Tensor], rows: Batch) -> tf.Tensor:
        """Each row's loss, float32 [batch].

        Args:
            of_labels: the loss against the rows' labels.
            logits: the student's, float32 [batch, labels].
            states: the student's after each layer, float32 [batch x tokens, hidden].
            rows: the batch.
        """
        answers = [encoder.logits_and_states(weights, rows) for encoder, weights in self._members]
        theirs = ensemble.mean([each for each, _ in answers], multi_label=self._multi_label)
        losses = _mixed(of_labels, logits, theirs, self._options, multi_label=self._multi_label)
        if self._options.hidden_weight:
            compared = [answers[0][1][layer] for layer in self._kept.layers]
            if self._kept.hidden is not None:
                compared = [tf.gather(each, self._kept.hidden, axis=-1) for each in compared]
            losses += self._options.hidden_weight * _apart(states, compared, rows)
        return losses


class SoftTargets:
    """What a teacher answers to the training rows, for a student that reads other tokens than its teacher.

    Args:
        answers: the teacher's logits, float32 [rows, labels], in the order of the split.
        options: of the loss; `hidden_weight` is of no use here.
        multi_label: whether a row has any number of labels.
    """

    def __init__(self, answers: np.ndarray, options: DistillOptions, *, multi_label: bool):
        self._answers, self._options, self._multi_label = tf.constant(answers), options, multi_label

    def losses(self, of_labels: OfLabels, logits: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
        """Each row's loss, float32 [batch].

        Args:
            of_labels: the loss against the rows' labels.
            logits: the student's, float32 [batch, labels].
            places: of the rows in the split, int64 [batch].
        """
        theirs = tf.gather(self._answers, places)
        return _mixed(of_labels, logits, theirs, self._options, multi_label=self._multi_label)


def answers(teacher: Sequence[Classifier], rows: Rows, dtype: tf.DType) -> np.ndarray:
    """What a teacher answers to rows as it is when served: the logits of its members' mean, float32 [rows, labels].

    Args:
        teacher: its members.
        rows: with the teacher's token ids.
        dtype: of its products.
    """
    members, multi_label = [member.frozen(dtype) for member in teacher], teacher[0].multi_label
    batches = Batches(rows, _ROWS).ordered()

    def logits(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        own = Batch(batch["token_ids"], batch.get("segment_ids"), batch["lengths"])
        return ensemble.mean([member.logits(own) for member in members], multi_label=multi_label)

    compiled = tf.function(logits, input_signature=[batches.element_spec], autograph=False)
    given = np.empty((len(rows), teacher[0].num_classes), np.float32)
    for batch in batches:
        given[batch["rows"].numpy()] = compiled(batch).numpy()
    return given


def _mixed(
    of_labels: OfLabels, mine: tf.Tensor, theirs: tf.Tensor, options: DistillOptions, *, multi_label: bool
) -> tf.Tensor:
    """The loss against the labels, where there are any, and that against the teacher's logits, float32 [batch]."""
    soft = _soft(mine / options.temperature, theirs / options.temperature, multi_label=multi_label)
    share = tf.where(of_labels.labelled, options.soft_share, 1.0)
    return (1 - share) * of_labels.losses + share * options.temperature**2 * soft


def _soft(mine: tf.Tensor, theirs: tf.Tensor, *, multi_label: bool) -> tf.Tensor:
    """KL(teacher, student) of logits [batch, labels], float32 [batch]; with label sets the mean over the labels."""
    if multi_label:
        wanted = tf.sigmoid(theirs)
        crossed, least = (
            tf.nn.sigmoid_cross_entropy_with_logits(labels=wanted, logits=each) for each in (mine, theirs)
        )
        return tf.reduce_mean(crossed - least, axis=-1)
    wanted = tf.nn.log_softmax(theirs)
    return tf.reduce_sum(tf.exp(wanted) * (wanted - tf.nn.log_softmax(mine)), axis=-1)


def _apart(mine: Sequence[tf.Tensor], theirs: Sequence[tf.Tensor], rows: Batch) -> tf.Tensor:
    """1 - cosine of two states, the mean over a row's own tokens and the layers, float32 [batch]."""
    real = tf.sequence_mask(rows.lengths, tf.shape(rows.token_ids)[1], tf.float32)  # [batch, tokens]
    far = [
        1 - tf.reduce_sum(tf.math.l2_normalize(own, axis=-1) * tf.math.l2_normalize(other, axis=-1), axis=-1)
        for own, other in zip(mine, theirs, strict=True)
    ]
    of_tokens = tf.reshape(tf.add_n(far) / len(far), tf.shape(real)) * real
    return tf.reduce_sum(of_tokens, axis=1) / tf.maximum(tf.reduce_sum(real, axis=1), 1.0)
