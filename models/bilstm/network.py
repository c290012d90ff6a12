"""The forward pass: embedding, an LSTM from each end of a row, head; for training and as it is exported."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from bertline.models import int8, shallow
from bertline.models.family import Batch


class Direction(NamedTuple):
    """The weights of one LSTM (Hochreiter and Schmidhuber 1997); its gates in the order input, cell, forget, output."""

    kernel: tf.Tensor  # float32 [embedding + units, 4 x units]: of what it reads, above that of its own state
    bias: tf.Tensor  # float32 [4 x units]


class Weights(NamedTuple):
    """All weights, packed for `Encoder`."""

    words: tf.Tensor | int8.Table  # [vocabulary, embedding]
    forward: Direction
    backward: Direction
    head_kernel: tf.Tensor  # float32 [2 x units, labels]
    head_bias: tf.Tensor


class Encoder(shallow.Encoder):
    """The forward pass; dropout is of the embeddings, and of the LSTMs' last states."""

    def _vectors(self, weights: Weights, batch: Batch, seed: tf.Tensor | None) -> tf.Tensor:
        """The last states of both directions, float32 [batch, 2 x units]."""
        words = self._dropped(self._words(weights, batch), seed, place=1)  # [batch, tokens, embedding]
        backwards = tf.reverse_sequence(words, batch.lengths, seq_axis=1)
        last = (
            _last_state(weights.forward, words, batch.lengths),
            _last_state(weights.backward, backwards, batch.lengths),
        )
        return tf.concat(last, axis=1)


def _last_state(direction: Direction, words: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """The LSTM's state after each row's last token, float32 [batch, units], of words, [batch, tokens, embedding].

    BlockLSTM is TensorFlow's own op for all steps of a batch. It knows no lengths, and so goes on into the padding,
    which is not read. BlockLSTMV2 would not do: TensorFlow 2.21 gives it the gradient of BlockLSTM, which has the gates
    in another order, and so a wrong one.
    """
    units = direction.bias.shape[0] // 4
    states = tf.raw_ops.BlockLSTM(
        seq_len_max=tf.shape(words, out_type=tf.int64)[1],
        x=tf.transpose(words, [1, 0, 2]),
        cs_prev=tf.zeros([tf.shape(words)[0], units]),
        h_prev=tf.zeros([tf.shape(words)[0], units]),
        w=direction.kernel,
        **dict.fromkeys(("wci", "wcf", "wco"), tf.zeros([units])),  # peepholes, which Keras's LSTM has not
        b=direction.bias,
        forget_bias=0.0,  # the bias holds it
        cell_clip=0.0,
        use_peephole=False,
    ).h  # [tokens, batch, units]
    last = tf.maximum(lengths, 1) - 1
    return tf.gather_nd(states, tf.stack([last, tf.range(tf.size(last))], axis=1))
