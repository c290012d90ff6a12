"""SentencePiece with the ids of XLM-RoBERTa, as TensorFlow ops that TF Serving has too."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

from bertline.models import token_rows
from bertline.models.family import Pieces
from bertline.models.xlm_roberta.vocabulary import END, OFFSET, START, UNKNOWN, Vocabulary


class Tokenizer(tf.Module):
    """Turns texts into ids: <s> text </s>, or <s> text </s></s> pair </s>, never longer than `max_length`.

    Args:
        vocabulary: the SentencePiece model.
        max_length: the most ids in a row, special tokens and the prefix included.
        prefix: stands before each text; the second text of a pair gets none.
    """

    between = 2
    unknown = UNKNOWN

    def __init__(self, vocabulary: Vocabulary, *, max_length: int, prefix: str = ""):
        super().__init__()
        self.max_length, self.mask = max_length, vocabulary.mask
        self._prefix = prefix
        self._sentencepiece = tf_text.SentencepieceTokenizer(model=vocabulary.model, out_type=tf.int32)

    def __call__(
        self, text: tf.Tensor, text_pair: tf.Tensor | None = None
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor | None]:
        """Tokenises a batch.

        Args:
            text: string [batch], UTF-8.
            text_pair: string [batch]; the second text of each row.

        Returns:
            token ids, int64 [batch, (tokens)], and for pairs segment ids of the same shape. These are all 0, since this
            family's networks know no segments.
        """
        ids, segments = self._framed(self._shortened(self._ids(text, text_pair)))
        return ids, None if text_pair is None else segments

    def pieces(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> list[Pieces]:
        """The bytes of each kept piece in the text, for each of the texts; those of the prefix are below 0."""
        found = []
        for number, part in enumerate(self._texts(text, text_pair)):
            before = len(self._prefix.encode()) if number == 0 else 0
            _, *places = self._sentencepiece.tokenize_with_offsets(part)
            found.append([tf.cast(place, tf.int64) - before for place in places])
        return [Pieces(*both) for both in zip(*map(self._shortened, zip(*found, strict=True)), strict=True)]

    def lengths(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """How many ids the texts would take if they were not shortened; arguments as those of a call.

        Returns:
            ids in each row, special tokens and the prefix included, and how many of them are <unk>; each int64 [batch].
        """
        parts = self._ids(text, text_pair)
        return token_rows.lengths(parts, 2 if len(parts) == 1 else 4, UNKNOWN)

    def _texts(self, text: tf.Tensor, text_pair: tf.Tensor | None) -> list[tf.Tensor]:
        first = tf.strings.join([self._prefix, text]) if self._prefix else text
        return [first] if text_pair is None else [first, text_pair]

    def _ids(self, text: tf.Tensor, text_pair: tf.Tensor | None) -> list[tf.RaggedTensor]:
        """Each text's ids without the special ones, int64 [batch, (pieces)]."""
        parts = [self._sentencepiece.tokenize(part) for part in self._texts(text, text_pair)]
        return [
            part.with_values(tf.cast(tf.where(part.values == 0, UNKNOWN, part.values + OFFSET), tf.int64))
            for part in parts
        ]

    def _shortened(self, pieces: Sequence[tf.RaggedTensor]) -> list[tf.RaggedTensor]:
        """Each text's pieces, cut so that a row of ids is not longer than `max_length`."""
        return token_rows.shortened(pieces, self.max_length - (2 if len(pieces) == 1 else 4))

    def _framed(self, pieces: list[tf.RaggedTensor]) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        start, end = (tf.constant(number, tf.int64) for number in (START, END))
        parts = [token_rows.Part(start, 0), token_rows.Part(pieces[0], 0), token_rows.Part(end, 0)]
        if len(pieces) == 2:
            parts += [token_rows.Part(end, 0), token_rows.Part(pieces[1], 0), token_rows.Part(end, 0)]
        return token_rows.joined(parts)
