"""BERT's tokenisation as TensorFlow ops, so that training, evaluation and serving run the same graph."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text

from bertline.errors import UserError
from bertline.models import token_rows
from bertline.models.family import Pieces

PADDING, UNKNOWN, START, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
# In pretraining BERT has seen it in place of words that it had to guess.
MASK = "[MASK]"
SPECIAL = (PADDING, UNKNOWN, START, SEPARATOR, MASK)
MAX_BYTES_A_WORD = 100  # longer words are unknown, as in BERT's own tokenizer


def read_vocabulary(path: str | Path) -> list[str]:
    """The wordpieces of a vocab.txt in the order of their ids.

    Raises:
        UserError: [UNK], [CLS] or [SEP] is missing, or a wordpiece appears twice.
    """
    words = read_lines(path)
    missing = [token for token in (UNKNOWN, START, SEPARATOR) if token not in words]
    if missing:
        raise UserError(f"{path}: not a BERT vocabulary, its lines lack {', '.join(missing)}")
    word, times = Counter(words).most_common(1)[0]
    if times > 1:
        raise UserError(f"{path}: the wordpiece {word!r} appears {times} times")
    return words


def read_lines(path: str | Path) -> list[str]:
    """The lines of a vocab.txt, which may end as Windows ends them.

    Raises:
        UserError: they are not in UTF-8.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not in UTF-8 ({error.reason} at byte {error.start}); fetch the file again") from None
    # Not splitlines(): real vocabularies hold U+2028 and other characters that it would take for line ends.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


class Tokenizer:
    """Turns texts into ids: [CLS] text [SEP], or [CLS] text [SEP] pair [SEP], never longer than `max_length`.

    Args:
        vocabulary: path of a vocab.txt, one wordpiece a line.
        lowercase: whether to lower-case and strip accents, as in the weights' own training.
        max_length: the most ids in a row, special tokens included.
    """

    between = 1

    def __init__(self, vocabulary: str | Path, *, lowercase: bool, max_length: int):
        self.max_length = max_length
        self._words = words = read_vocabulary(vocabulary)
        wordpieces, normalizer = _compiled(tuple(words), lowercase)
        self._wordpieces = tf_text.FastBertTokenizer(
            token_out_type=tf.int64,
            fast_wordpiece_model_buffer=tf.constant(wordpieces),
            fast_bert_normalizer_model_buffer=tf.constant(normalizer),
        )
        self._start, self._separator = (tf.constant(words.index(token), tf.int64) for token in (START, SEPARATOR))
        self.mask, self.unknown = self.id(MASK), self.id(UNKNOWN)

    def __call__(
        self, text: tf.Tensor, text_pair: tf.Tensor | None = None
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor | None]:
        """Tokenises a batch.

        Args:
            text: string [batch], UTF-8.
            text_pair: string [batch]; the second text of each row.

        Returns:
            token ids, int64 [batch, (tokens)], and the segment ids of the same shape: 0 up to and with the first [SEP],
            then 1. Without a pair all segment ids are 0, and None is returned in their place.
        """
        texts = [text] if text_pair is None else [text, text_pair]
        pieces = self._shortened([self._wordpieces.tokenize(part) for part in texts])
        ids, segments = token_rows.framed(pieces, self._start, self._separator)
        return ids, None if text_pair is None else segments

    def pieces(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> list[Pieces]:
        """Where each token comes from; arguments as those of a call.

        Returns:
            for each of the texts, the bytes of the original text, accents and all, of each kept wordpiece. In a row of
            ids the pieces stand in this order, between the special tokens.
        """
        texts = [text] if text_pair is None else [text, text_pair]
        offsets = [self._wordpieces.tokenize_with_offsets(part)[1:] for part in texts]
        return [Pieces(*both) for both in zip(*map(self._shortened, zip(*offsets, strict=True)), strict=True)]

    def lengths(self, text: tf.Tensor, text_pair: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """How many ids the texts would take if they were not shortened; arguments as those of a call.

        Returns:
            ids in each row, special tokens included, and how many of them are [UNK]; each int64 [batch].
        """
        texts = [text] if text_pair is None else [text, text_pair]
        pieces = [self._wordpieces.tokenize(part) for part in texts]
        return token_rows.lengths(pieces, 1 + len(texts), self.unknown)

    def id(self, wordpiece: str) -> int:
        """The id of a wordpiece; that of [UNK] if the vocabulary does not have it."""
        return self._words.index(wordpiece if wordpiece in self._words else UNKNOWN)

    def _shortened(self, pieces: Sequence[tf.RaggedTensor]) -> list[tf.RaggedTensor]:
        """Each text's pieces, cut so that a row of ids is not longer than `max_length`."""
        return token_rows.shortened(pieces, self.max_length - 1 - len(pieces))


@functools.lru_cache(maxsize=4)
def _compiled(vocabulary: tuple[str, ...], lowercase: bool) -> tuple[np.ndarray, np.ndarray]:
    """TensorFlow Text's models of wordpieces and of normalisation, uint8 each.

    Transform traces its graph several times. Building them anew, as lists, would cost a second each time.
    """
    wordpieces = tf_text.build_fast_wordpiece_model(list(vocabulary), MAX_BYTES_A_WORD, "##", UNKNOWN, False, False)
    normalizer = tf_text.build_fast_bert_normalizer_model(lowercase)
    return np.frombuffer(wordpieces, np.uint8), np.frombuffer(normalizer, np.uint8)
