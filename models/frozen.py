"""The exported forward pass of a network whose weights are nearly all word embeddings."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bertline.models.family import Batch


class FrozenClassifier(tf.Module):
    """The forward pass with a copy of the weights, as it is exported.

    Args:
        encoder: the forward pass; its head reads the vectors as they are.
        weights: a named tuple with `words`, `head_kernel` and `head_bias`; copied.
        dtype: of the stored embeddings. What reads them computes in float32.
    """

    def __init__(self, encoder: Any, weights: Any, dtype: tf.DType):
        super().__init__()
        self._encoder = encoder
        frozen = tf.nest.map_structure(lambda tensor: tf.constant(tensor.numpy()), weights)
        self._weights = frozen._replace(words=tf.Variable(tf.cast(weights.words, dtype), trainable=False))

    def logits(self, batch: Batch) -> tf.Tensor:
        """Logits, float32 [batch, labels]."""
        return self._encoder.logits(self._weights, batch)

    def vectors(self, batch: Batch) -> tf.Tensor:
        """The rows' vectors, float32 [batch, width]."""
        return self._encoder.vectors(self._weights, batch)

    def vectors_and_logits(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Both, from one pass."""
        vectors = self.vectors(batch)
        return vectors, tf.matmul(vectors, self._weights.head_kernel) + self._weights.head_bias
