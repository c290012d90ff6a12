"""The words of a text as its author wrote them, and the tokens that the model reads for each."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import tensorflow as tf

from bertline.models.family import Tokenizer

# A Chinese character is a word, as BERT's tokenizer has it; the ranges are those in its authors' own code. Where a
# tokenizer has pieces of several characters, these are one word.
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
    first = 1  # past the start
    for number, (part, pieces) in enumerate(zip(texts, tokenizer.pieces(*encoded), strict=True)):
        spans = np.stack([pieces.starts.flat_values, pieces.ends.flat_values], axis=1)
        words += _words(part, spans, number, first)
        first += len(spans) + tokenizer.between
    return Reading(
        ids=ids.flat_values.numpy().astype(np.int32),
        segments=None if segments is None else segments.flat_values.numpy().astype(np.int32),
        words=tuple(words),
    )


def _words(text: str, pieces: np.ndarray, part: int, first: int) -> list[Word]:
    """A text's words.

    Args:
        text: the text.
        pieces: int64 [pieces, 2], the bytes at which each piece starts and ends.
        part: 0, or 1 for a pair's second text.
        first: the position of the first piece in the row's ids.
    """
    spans = [match.span() for match in WORD.finditer(text)]
    ends = list(accumulate(len(character.encode("utf-8", "replace")) for character in text))  # bytes, by character
    beginnings = [start for start, _ in spans]
    tokens: list[list[int]] = [[] for _ in spans]
    joined = list(range(len(spans)))  # the word that each one is part of
    for place, (start, end) in enumerate(pieces):
        if not spans or (start < 0 and end <= 0):  # of what the tokenizer puts before the text
            continue
        # A word with an invisible character can be several pieces' words.
        character = _next_visible(text, bisect_right(ends, max(start, 0)))
        word = max(bisect_right(beginnings, character) - 1, 0)
        tokens[joined[word]].append(first + place)
        last = bisect_right(beginnings, bisect_right(ends, end - 1)) - 1
        for other in range(word + 1, last + 1):
            joined[other] = joined[word]
    whole = [[number for number in range(len(spans)) if joined[number] == at] for at in sorted(set(joined))]
    return [Word(part, spans[numbers[0]][0], spans[numbers[-1]][1], tuple(tokens[numbers[0]])) for numbers in whole]


def _next_visible(text: str, place: int) -> int:
    """The first character from a place on that is no white space, which SentencePiece counts to the word after it."""
    return next((at for at in range(place, len(text)) if not text[at].isspace()), place)
