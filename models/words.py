"""The words of a text as its author wrote them, and the tokens that the model reads for each."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import tensorflow as tf

from bertline.models.bert.tokenizer import Tokenizer

# BERT's tokenizer treats each Chinese character as a word. The ranges are those in its authors' own code.
_CHINESE = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f"
)
# Wider than the tokenizer's words: "don't", "#fail" and a web address are one word each, as a reader sees them.
WORD = re.compile(rf"[{_CHINESE}]|[^\s{_CHINESE}]+")


@dataclass(frozen=True)
class Word:
    """A word of a row.

    Attributes:
        part: 0 for a word of the text, 1 for one of the pair's second text.
        start: its first character in that text.
        end: one past its last.
        tokens: positions of its wordpieces in the row's ids; empty if the tokenizer cut the word off or left it out.
    """

    part: int
    start: int
    end: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """A row as the model reads it.

    Attributes:
        ids: int32 [tokens], with the special tokens.
        segments: int32 [tokens]; None for single texts.
        words: those of the text, then those of the pair's second text.
    """

    ids: np.ndarray
    segments: np.ndarray | None
    words: tuple[Word, ...]


def read(tokenizer: Tokenizer, text: str, pair: str | None = None) -> Reading:
    """Tokenises a row and finds its words."""
    texts = [text] if pair is None else [text, pair]
    # A lone surrogate, which no file can hold but a command line can, is read as "?".
    encoded = [tf.constant([part.encode("utf-8", "replace")]) for part in texts]
    ids, segments = tokenizer(*encoded)
    words: list[Word] = []
    first = 1  # past [CLS]
    for number, (part, offsets) in enumerate(zip(texts, tokenizer.offsets(*encoded), strict=True)):
        starts = offsets.flat_values.numpy()
        words += _words(part, starts, number, first)
        first += len(starts) + 1  # past [SEP]
    return Reading(
        ids=ids.flat_values.numpy().astype(np.int32),
        segments=None if segments is None else segments.flat_values.numpy().astype(np.int32),
        words=tuple(words),
    )


def _words(text: str, starts: np.ndarray, part: int, first: int) -> list[Word]:
    """A text's words.

    Args:
        text: the text.
        starts: int64 [pieces], the byte at which each wordpiece starts.
        part: 0, or 1 for a pair's second text.
        first: the position of the first piece in the row's ids.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    tokens: list[list[int]] = [[] for _ in spans]
    ends = list(accumulate(len(character.encode("utf-8", "replace")) for character in text))  # bytes, by character
    beginnings = [start for start, _ in spans]
    for piece, byte in enumerate(starts):
        # A word with an invisible character can be several pieces' words, but a piece never spans two words.
        word = bisect_right(beginnings, bisect_right(ends, byte)) - 1
        tokens[word].append(first + piece)
    return [Word(part, *span, tuple(positions)) for span, positions in zip(spans, tokens, strict=True)]
