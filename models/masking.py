"""BERT's masking: which tokens are to be predicted, and what stands in their places.

Of a text's tokens a share is chosen, 15%. Of these 80% become [MASK], 10% a token drawn from the whole vocabulary, and
10% stay, since no text that the network will serve has masks (Devlin et al. 2019, section 3.1). With whole words, all
pieces of a word are chosen together, as in BERT's later checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf

MASKED, REPLACED = 0.8, 0.1  # of the chosen tokens; the rest stay


class Masked(NamedTuple):
    """A masked batch."""

    token_ids: tf.Tensor  # int32 [batch, tokens]
    chosen: tf.Tensor  # bool [batch, tokens]: whose old ids are to be predicted


@dataclass(frozen=True)
class Masking:
    """How a vocabulary's tokens are masked.

    Args:
        share: of the tokens that are chosen.
        mask: the id of [MASK].
        never: bool [vocabulary], true for the tokens that are never chosen, such as [CLS].
        continues: bool [vocabulary], true for the tokens that go on with a word, such as ##ing; None where each token
            is chosen by itself.
    """

    share: float
    mask: int
    never: np.ndarray
    continues: np.ndarray | None = None

    def __call__(self, token_ids: tf.Tensor, lengths: tf.Tensor, seed: tf.Tensor) -> Masked:
        """Masks a batch; the same for the same seed.

        Args:
            token_ids: int32 [batch, tokens], padded.
            lengths: int32 [batch].
            seed: int64 [2].
        """
        shape = tf.shape(token_ids)
        draws = tf.random.stateless_uniform(shape, seed)
        if self.continues is not None:
            starts = tf.cast(~tf.gather(tf.constant(self.continues), token_ids), tf.int32)
            draws = tf.gather(draws, tf.maximum(tf.cumsum(starts, axis=1) - 1, 0), batch_dims=1)  # one for each word
        real = tf.sequence_mask(lengths, shape[1])
        chosen = (draws < self.share) & real & ~tf.gather(tf.constant(self.never), token_ids)
        fate = tf.random.stateless_uniform(shape, seed + tf.constant([0, 1], tf.int64))
        others = tf.random.stateless_uniform(
            shape, seed + tf.constant([0, 2], tf.int64), maxval=len(self.never), dtype=tf.int32
        )
        instead = tf.where(fate < MASKED, self.mask, tf.where(fate < MASKED + REPLACED, others, token_ids))
        return Masked(tf.where(chosen, instead, token_ids), chosen)
