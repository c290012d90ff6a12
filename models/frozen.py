"""The exported forward pass of a network whose weights are nearly all word embeddings."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bertline.models import int8
from bertline.models.family import Batch


class FrozenClassifier(tf.Module):
    """The forward pass with a copy of the weights, as it is exported.

    Args:
        encoder: the forward pass; its head reads the vectors as they are.
        weights: a named tuple with `words`, `head_kernel` and `head_bias`; copied.
        dtype: of the stored embeddings; int8 is that of the kernels too. What reads them computes in float32.
    """

    def __init__(self, encoder: Any, weights: Any, dtype: tf.DType):
        super().__init__()
        self._encoder = encoder
        self._words = int8.Table(weights.words, dtype)
        kernels = dtype if dtype == tf.int8 else tf.float32

        def stored(tensor: tf.Tensor) -> tf.Tensor | int8.Int8:
            return int8.kernel(tensor, kernels if tensor.shape.rank == 2 else tf.float32)

        rest = weights._replace(words=tf.zeros([]))
        frozen = [stored(tensor) for tensor in tf.nest.flatten(rest)]
        form = tf.nest.map_structure(lambda _: 0, rest)

        def packed() -> Any:
            whole = tf.nest.pack_sequence_as(form, [int8.whole(each) for each in frozen])
            return whole._replace(words=self._words)

        self._weights = packed

    def logits(self, batch: Batch) -> tf.Tensor:
        """Logits, float32 [batch, labels]."""
        return self._encoder.logits(self._weights(), batch)

    def vectors(self, batch: Batch) -> tf.Tensor:
        """The rows' vectors, float32 [batch, width]."""
        return self._encoder.vectors(self._weights(), batch)

    def vectors_and_logits(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Both, from one pass."""
        weights = self._weights()
        vectors = self._encoder.vectors(weights, batch)
        return vectors, tf.matmul(vectors, weights.head_kernel) + weights.head_bias
