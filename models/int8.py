"""Weights as int8 numbers and a scale per channel, which the graph multiplies again where it reads them.

A quarter of float32's bytes. The products stay in float32: TensorFlow folds the constants where a graph is loaded, so
that it computes as fast as with float32's weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_LARGEST = 127  # -128 is left out, so that the numbers are as many above zero as below


class Int8(NamedTuple):
    """A matrix of weights: `values` times `scales`."""

    values: tf.Tensor  # int8 [in, out], or a variable
    scales: tf.Tensor  # float32 [1, out] of a kernel, [in, 1] of a table whose rows are gathered

    def whole(self) -> tf.Tensor:
        """All of it, float32 [in, out]."""
        return tf.cast(self.values, tf.float32) * self.scales


def product_dtype(stored: tf.DType) -> tf.DType:
    """The dtype of the products with weights that are stored in a dtype."""
    return tf.float32 if stored == tf.int8 else stored


def kernel(weights: tf.Tensor, dtype: tf.DType) -> tf.Tensor | Int8:
    """A product's kernel, [in, out], as constants of the graph in the dtype; int8 has a scale per column."""
    if dtype == tf.int8:
        return _rounded(weights.numpy(), axis=0)
    return tf.constant(tf.cast(weights, dtype).numpy(), dtype)


def whole(weights: tf.Tensor | Int8) -> tf.Tensor:
    """What `kernel` gave, as a tensor."""
    return weights.whole() if isinstance(weights, Int8) else weights


class Table(tf.Module):
    """Word vectors, stored in a dtype; int8 has a scale per word.

    A variable, as rows are only gathered from it: a constant would gain nothing.

    Args:
        words: [vocabulary, width]; copied.
        dtype: of the stored numbers.
    """

    def __init__(self, words: tf.Tensor, dtype: tf.DType):
        super().__init__()
        self._scales = None
        if dtype == tf.int8:
            words, self._scales = _rounded(np.asarray(words), axis=1)
        self._values = tf.Variable(tf.cast(words, dtype), trainable=False)

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """The vectors of ids, int [...]: float32 [..., width]."""
        vectors = rows(self._values, ids)
        return vectors if self._scales is None else vectors * tf.gather(self._scales, ids)


def rows(words: tf.Tensor | Table, ids: tf.Tensor) -> tf.Tensor:
    """The vectors of ids, int [...], from a table or from weights, [vocabulary, width]: float32 [..., width]."""
    return words.rows(ids) if isinstance(words, Table) else tf.cast(tf.gather(words, ids), tf.float32)


def _rounded(weights: np.ndarray, axis: int) -> Int8:
    """The weights with a scale for each index of the other axis: its largest weight, over 127."""
    weights = np.asarray(weights, np.float32)
    scales = np.abs(weights).max(axis, keepdims=True) / _LARGEST
    scales[scales == 0] = 1  # of nothing but zeros
    return Int8(tf.constant(np.rint(weights / scales).astype(np.int8)), tf.constant(scales))
