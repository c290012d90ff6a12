"""The forward pass: the mean of a row's token vectors, one hidden layer, head; for training and as it is exported.

The network is the deep averaging network of Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text
Classification", ACL 2015, which also drops whole words while it is trained.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from bertline.models import int8, shallow
from bertline.models.family import Batch


class Weights(NamedTuple):
    """All weights, packed for `Encoder`."""

    words: tf.Tensor | int8.Table  # [vocabulary, dimensions]
    hidden_kernel: tf.Tensor  # float32 [dimensions, hidden]
    hidden_bias: tf.Tensor
    head_kernel: tf.Tensor  # float32 [hidden, labels]
    head_bias: tf.Tensor


class Encoder(shallow.Encoder):
    """The forward pass; dropout is of whole words, and of what the hidden layer gives."""

    def _vectors(self, weights: Weights, batch: Batch, seed: tf.Tensor | None) -> tf.Tensor:
        """What the hidden layer gives, float32 [batch, hidden]."""
        words = self._words(weights, batch)  # [batch, tokens, dimensions]
        real = tf.sequence_mask(batch.lengths, tf.shape(batch.token_ids)[1], tf.float32)  # [batch, tokens]
        shares = real / tf.cast(tf.maximum(batch.lengths, 1), tf.float32)[:, None]
        shares = self._dropped(shares, seed, place=1)
        mean = tf.matmul(shares[:, None], words)[:, 0]  # [batch, dimensions]
        return tf.nn.relu(tf.matmul(mean, weights.hidden_kernel) + weights.hidden_bias)
