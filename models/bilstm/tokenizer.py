"""Words or characters with the ids of a learned vocabulary, as TensorFlow ops that TF Serving has too."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from bertline.models import token_rows
from bertline.models.bilstm.vocabulary import END, START, UNKNOWN, split
from bertline.models.family import Pieces


class Tokenizer(tf.Module):
    """Turns texts into ids: <s> text </s>, or <s> text </s> pair </s>, never longer than `max_length`.

    Args:
        vocabulary: the tokens in the order of their ids.
        kind: `model.bilstm.tokens`.
        max_length: the most ids in a row, special tokens included.
    """

    between = 1
    unknown = UNKNOWN
    mask = UNKNOWN  # rare words of the training rows have taught the network how to read a word that it is not told

    def __init__(self, vocabulary: Sequence[str], kind: str, *, max_length: int):
        super().__init__()
        self.max_length, self._kind = max_length, kind
        # Its tensors are part of the graph, where a file would be one more asset. With one table per name, a process
        # that loads two models would mix them up; tf.lookup gives each a name of its own.
        tokens, ids = tf.constant(list(vocabulary)), tf.range(len(vocabulary), dtype=tf.int64)
        self._ids = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tokens, ids), UNKNOWN)

    def __call__(
        self, text: tf.Tensor, text_pair: tf.Tensor | None = None
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor | None]:
        """Tokenises a batch.

        Args:
            text: string [batch], UTF-8.
            text_pair: string [batch]; the second text of each row.

        Returns:
            token ids, int64 [batch, (tokens)], and for pairs segment ids of the same shape. The network does not read
            these, since </s> says where the second text begins.
        """
        start, end = (tf.constant(number, tf.int64) for number in (START, END))
        ids, segments = token_rows.framed(self._shortened(self._looked_up(text, text_pair)), start, end)
        return ids, None if text_pair is None else segments

    def pieces(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> list[Pieces]:
        """The bytes of each kept token in the text, for each of the texts."""
        found = [split(part, self._kind)[1] for part in _texts(text, text_pair)]
        return [Pieces(*both) for both in zip(*map(self._shortened, zip(*found, strict=True)), strict=True)]

    def lengths(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """How many ids the texts would take if they were not shortened; arguments as those of a call.

        Returns:
            ids in each row, special tokens included, and how many of them are <unk>; each int64 [batch].
        """
        parts = self._looked_up(text, text_pair)
        return token_rows.lengths(parts, 1 + len(parts), UNKNOWN)

    def _looked_up(self, text: tf.Tensor, text_pair: tf.Tensor | None) -> list[tf.RaggedTensor]:
        """Each text's ids without the special ones, int64 [batch, (tokens)]."""
        parts = [split(part, self._kind)[0] for part in _texts(text, text_pair)]
        return [part.with_flat_values(self._ids.lookup(part.flat_values)) for part in parts]

    def _shortened(self, pieces: Sequence[tf.RaggedTensor]) -> list[tf.RaggedTensor]:
        """Each text's pieces, cut so that a row of ids is not longer than `max_length`."""
        return token_rows.shortened(pieces, self.max_length - 1 - len(pieces))


def _texts(text: tf.Tensor, text_pair: tf.Tensor | None) -> list[tf.Tensor]:
    return [text] if text_pair is None else [text, text_pair]
