"""Weights as int8 numbers and scales, by which the graph multiplies them again where it reads them.

A quarter of float32's bytes. The products stay in float32. TensorFlow folds constants of up to 10 MiB where a graph is
loaded, so that networks up to 768 wide (feed-forward kernels of 9 MiB) compute as fast as with float32's weights. In
wider ones, such as those of 1,024 (12 MiB and more), the larger kernels are multiplied out at each request.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

_LARGEST = 127  # -128 is left out, so that the numbers are as many above zero as below
# Inputs of a kernel that share a scale in each column. Some feed-forward units have weights far above all others. With
# one scale for a whole column these made the others coarser, and moved MiniLM's logits twice as far (0.024, not 0.012).
_BLOCK = 64


class Int8(NamedTuple):
    """A kernel: `values` times `scales`."""

    values: tf.Tensor  # int8 [blocks, in / blocks, out]
    scales: tf.Tensor  # float32 [blocks, 1, out]

    def whole(self) -> tf.Tensor:
        """All of it, float32 [in, out]."""
        return tf.reshape(tf.cast(self.values, tf.float32) * self.scales, [-1, self.values.shape[-1]])


def product_dtype(stored: tf.DType) -> tf.DType:
    """The dtype of the products with weights that are stored in a dtype."""
    return tf.float32 if stored == tf.int8 else stored


def kernel(weights: tf.Tensor, dtype: tf.DType) -> tf.Tensor | Int8:
    """A product's kernel, [in, out], as constants of the graph in the dtype."""
    if dtype == tf.int8:
        inputs, outputs = weights.shape
        block = inputs if inputs % _BLOCK else _BLOCK
        return Int8(*map(tf.constant, _rounded(weights.numpy().reshape(-1, block, outputs), axis=1)))
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
            words, scales = _rounded(np.asarray(words), axis=1)
            self._scales = tf.constant(scales)
        self._values = tf.Variable(tf.cast(words, dtype), trainable=False)

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """The vectors of ids, int [...]: float32 [..., width]."""
        vectors = rows(self._values, ids)
        return vectors if self._scales is None else vectors * tf.gather(self._scales, ids)


def rows(words: tf.Tensor | Table, ids: tf.Tensor) -> tf.Tensor:
    """The vectors of ids, int [...], from a table or from weights, [vocabulary, width]: float32 [..., width]."""
    return words.rows(ids) if isinstance(words, Table) else tf.cast(tf.gather(words, ids), tf.float32)


def _rounded(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 numbers, and the scales of the slices along an axis: the largest weight of each, over 127."""
    scales = np.abs(weights).max(axis, keepdims=True).astype(np.float32) / _LARGEST
    scales[scales == 0] = 1  # of nothing but zeros
    return np.rint(weights / scales).astype(np.int8), scales
