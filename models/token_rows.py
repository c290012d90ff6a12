"""Rows of token ids, made of the pieces of texts and of special tokens, as TensorFlow ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Part(NamedTuple):
    """Something that stands in every row.

    Attributes:
        ids: int64 [batch, (pieces)], or a scalar: the same token in every row.
        segment: the segment id of its tokens.
    """

    ids: tf.RaggedTensor | tf.Tensor
    segment: int


def joined(parts: Sequence[Part]) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """The parts one after the other.

    tf_text.combine_segments does the same, with run-time checks. These would make TFX believe that Transform's graph
    has to see the data first.

    Returns:
        ids and segment ids, int64 [batch, (tokens)].
    """
    first = next(part.ids for part in parts if isinstance(part.ids, tf.RaggedTensor))
    column = tf.ones_like(first.row_lengths())[:, None]  # [batch, 1]
    ids, real, segments = [], [], []
    for part in parts:
        ragged = isinstance(part.ids, tf.RaggedTensor)
        ids.append(part.ids.to_tensor() if ragged else column * part.ids)
        real.append(tf.sequence_mask(part.ids.row_lengths()) if ragged else column > 0)
        segments.append(tf.zeros_like(ids[-1]) + part.segment)
    is_real = tf.concat(real, axis=1)
    lengths = tf.reduce_sum(tf.cast(is_real, tf.int64), axis=1)
    ids, segments = (
        tf.RaggedTensor.from_row_lengths(tf.boolean_mask(tf.concat(each, axis=1), is_real), lengths, validate=False)
        for each in (ids, segments)
    )
    return ids, segments


def framed(
    pieces: Sequence[tf.RaggedTensor], start: tf.Tensor, end: tf.Tensor
) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
    """Ids and segment ids of start first end (second end).

    Args:
        pieces: of one text, or of the two of a pair, int64 [batch, (pieces)] each.
        start: the id at the beginning, int64 scalar.
        end: the id after each text, int64 scalar.
    """
    parts = [Part(start, 0)]
    for number, piece in enumerate(pieces):
        parts += [Part(piece, number), Part(end, number)]
    return joined(parts)


def lengths(pieces: Sequence[tf.RaggedTensor], special: int, unknown: int) -> tuple[tf.Tensor, tf.Tensor]:
    """How many ids whole rows have, and how many of them are unknown; int64 [batch] each.

    Args:
        pieces: of one text, or of the two of a pair, int64 [batch, (pieces)] each.
        special: how many special tokens stand in a row.
        unknown: the id of what the vocabulary lacks.
    """
    counted = [part.with_values(tf.cast(part.values == unknown, tf.int64)) for part in pieces]
    whole = tf.add_n([part.row_lengths() for part in pieces]) + special
    return whole, tf.add_n([tf.reduce_sum(part, axis=1) for part in counted])


def shortened(pieces: Sequence[tf.RaggedTensor], room: int) -> list[tf.RaggedTensor]:
    """The pieces of one text, or of the two of a pair, cut to at most `room` in a row.

    Rows of a pair lose tokens from the end of their longer text first, as in BERT's own code.
    """
    if len(pieces) == 1:
        return [pieces[0][:, :room]]
    first, second = pieces
    lengths = first.row_lengths()
    kept_second = tf.minimum(second.row_lengths(), tf.maximum(room - lengths, room // 2))
    kept_first = tf.minimum(lengths, room - kept_second)
    return [_first_tokens(first, kept_first), _first_tokens(second, kept_second)]


def _first_tokens(tokens: tf.RaggedTensor, counts: tf.Tensor) -> tf.RaggedTensor:
    """The first `counts` [batch] tokens of each row."""
    starts = tokens.row_starts()
    return tf.gather(tokens.flat_values, tf.ragged.range(starts, starts + counts))
