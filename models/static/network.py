"""The forward pass: the mean of a row's token vectors, one hidden layer, head; for training and as it is exported.

The network is the deep averaging network of Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text
Classification", ACL 2015, which also drops whole words while it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from bertline.models import int8
from bertline.models.dropout import dropped, noise
from bertline.models.family import Batch


class Weights(NamedTuple):
    """All weights, packed for `Encoder`."""

    words: tf.Tensor | int8.Table  # [vocabulary, dimensions]
    hidden_kernel: tf.Tensor  # float32 [dimensions, hidden]
    hidden_bias: tf.Tensor
    head_kernel: tf.Tensor  # float32 [hidden, labels]
    head_bias: tf.Tensor


@dataclass(frozen=True)
class Encoder:
    """The forward pass.

    Args:
        dropout: share dropped of the words and of what the head reads, while training.
    """

    dropout: float

    def logits(self, weights: Weights, batch: Batch, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Logits, float32 [batch, labels]; with a seed, int64 [2], as training computes them, with dropout."""
        vectors = self._vectors(weights, batch, seed)
        if seed is not None:
            vectors = self._dropped(vectors, tf.unstack(tf.shape(vectors)), seed, place=2)
        return tf.matmul(vectors, weights.head_kernel) + weights.head_bias

    def vectors(self, weights: Weights, batch: Batch) -> tf.Tensor:
        """What the hidden layer gives, float32 [batch, hidden]."""
        return self._vectors(weights, batch, None)

    def _vectors(self, weights: Weights, batch: Batch, seed: tf.Tensor | None) -> tf.Tensor:
        words = int8.rows(weights.words, batch.token_ids)  # [batch, tokens, dimensions]
        if batch.move is not None:
            words += batch.move
        real = tf.sequence_mask(batch.lengths, tf.shape(batch.token_ids)[1], tf.float32)  # [batch, tokens]
        shares = real / tf.cast(tf.maximum(batch.lengths, 1), tf.float32)[:, None]
        if seed is not None:
            shares = self._dropped(shares, tf.unstack(tf.shape(shares)), seed, place=1)
        mean = tf.matmul(shares[:, None], words)[:, 0]  # [batch, dimensions]
        return tf.nn.relu(tf.matmul(mean, weights.hidden_kernel) + weights.hidden_bias)

    def _dropped(self, x: tf.Tensor, shape: list[tf.Tensor], seed: tf.Tensor, *, place: int) -> tf.Tensor:
        return dropped(x, noise(shape, seed + tf.constant([0, place], tf.int64)), self.dropout)
