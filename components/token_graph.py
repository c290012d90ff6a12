"""The graph from raw features to token ids and label ids: what Transform traces, and what a student's model holds.

A student with a vocabulary of its own has other ids than Transform's graph gives, from the same ops.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bertline.models.family import Tokenizer
from bertline.models.features import LABEL, LABEL_ID, SEGMENT_IDS, TEXT, TEXT_PAIR, TOKEN_IDS


class TokenGraph(tf.Module):
    """The graph, called as the layer that TFTransformOutput gives.

    Args:
        tokenizer: with the vocabulary.
        labels: their names, in the order of their ids.
        pair: whether rows have two texts.
        multi_label: whether rows have any number of labels.
    """

    def __init__(self, tokenizer: Tokenizer, labels: list[str], *, pair: bool, multi_label: bool):
        super().__init__()
        self._tokenizer, self._labels, self._pair, self._multi_label = tokenizer, labels, pair, multi_label

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Raw features to token_ids (and segment_ids), sparse int64 [batch, tokens], and label_id, int64 [batch].

        A label that is not listed gets -1. Of multi-label rows label_id is int64 [batch, labels]: 1 for the labels that
        the row has, else 0. Without a label feature there is no label_id.
        """
        pair = _flat(inputs[TEXT_PAIR]) if self._pair else None
        token_ids, segment_ids = self._tokenizer(_flat(inputs[TEXT]), pair)
        # Sparse, because TFX writes a RaggedTensor under another name ("token_ids$ragged_values").
        outputs = {TOKEN_IDS: token_ids.to_sparse()}
        if segment_ids is not None:
            outputs[SEGMENT_IDS] = segment_ids.to_sparse()
        if LABEL in inputs:
            outputs[LABEL_ID] = (_multi_hot if self._multi_label else _label_ids)(inputs[LABEL], self._labels)
        return outputs


def _flat(value: tf.Tensor | tf.SparseTensor) -> tf.Tensor:
    """One string per row, [batch]; "" where it is missing."""
    if isinstance(value, tf.SparseTensor):
        rows = value.dense_shape[0]
        value = tf.sparse.to_dense(tf.SparseTensor(value.indices, value.values, tf.stack([rows, 1])), default_value="")
    return tf.reshape(value, [-1])


def _label_ids(labels: tf.Tensor | tf.SparseTensor, names: list[str]) -> tf.Tensor:
    """The index of each label, int64 [batch]; -1 where it is none of the names. A lookup table would be state."""
    same = tf.equal(_flat(labels)[:, None], tf.constant(names)[None])  # [batch, labels]
    return tf.where(tf.reduce_any(same, axis=1), tf.argmax(same, axis=1), -1)


def _multi_hot(labels: tf.Tensor | tf.SparseTensor, names: list[str]) -> tf.Tensor:
    """1 for each of the names that a row has, else 0: int64 [batch, labels]."""
    # The schema makes them dense where all rows have the same number of labels.
    dense = tf.sparse.to_dense(labels, default_value="") if isinstance(labels, tf.SparseTensor) else labels
    of_row = tf.reshape(dense, [tf.shape(dense)[0], -1])  # [batch, most labels of a row]
    same = tf.equal(of_row[:, :, None], tf.constant(names)[None, None])
    return tf.ensure_shape(tf.cast(tf.reduce_any(same, axis=1), tf.int64), [None, len(names)])
