"""Texts in wordpieces, without TensorFlow: their lengths, and whether the vocabulary is of their language."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy
import sentencepiece
from tokenizers import Encoding
from tokenizers.implementations import BertWordPieceTokenizer

from bertline.models.xlm_roberta import vocabulary

UNKNOWN = "[UNK]"
LATIN = (range(0x41, 0x250), range(0x1E00, 0x1F00))


class Pieces(NamedTuple):
    """What texts are to a vocabulary.

    Attributes:
        lengths: wordpieces of each row, special tokens included, int64 [rows].
        unknown: share of the wordpieces that stand for something which the vocabulary lacks.
        per_word: wordpieces of a word of letters, on average.
        not_latin: share of the letters that are not Latin.
    """

    lengths: numpy.ndarray
    unknown: float
    per_word: float
    not_latin: float


def look(texts: list[tuple[str, ...]], vocabulary: Path) -> Pieces:
    """Splits texts into wordpieces.

    The model's own tokenizer runs in TensorFlow, which takes seconds to import. This one differs from it by a
    few pieces in a row that was decoded in the wrong encoding or that spells out a token such as [SEP].

    Args:
        texts: one text per row, or two for pairs.
        vocabulary: path of a vocab.txt; the texts are lower-cased.
    """
    encoded = _encoded(texts, vocabulary)
    every = unknown = starts = ends = 0
    for piece in chain.from_iterable(row.tokens for row in encoded):
        every += 1
        unknown += piece == UNKNOWN
        starts += piece.isalpha()
        ends += piece.startswith("##") and piece[2:].isalpha()
    return Pieces(
        numpy.asarray([len(row) for row in encoded], numpy.int64),
        unknown / max(every, 1),
        (starts + ends) / max(starts, 1),
        _not_latin(texts),
    )


def used(texts: Sequence[tuple[str, ...]], vocabulary: Path) -> numpy.ndarray:
    """The ids of the wordpieces that texts use, int64 [used]; arguments as those of `look`."""
    return numpy.unique([piece for row in _encoded(texts, vocabulary) for piece in row.ids]).astype(numpy.int64)


def _encoded(texts: Sequence[tuple[str, ...]], vocabulary: Path) -> list[Encoding]:
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    return tokenizer.encode_batch([row[0] if len(row) == 1 else row for row in texts])


def look_multilingual(texts: list[tuple[str, ...]], folder: Path) -> Pieces:
    """The same with the SentencePiece vocabulary of a backbone's folder, its prefix included."""
    words = vocabulary.read_vocabulary(folder / vocabulary.FILE)
    prefix = vocabulary.input_prefix(folder)
    processor = sentencepiece.SentencePieceProcessor(model_proto=words.model)
    encoded = [processor.encode([prefix + row[0], *row[1:]]) for row in texts]
    pieces = [piece for row in encoded for text in row for piece in text]
    spaces = sum(len(text.split()) for row in texts for text in row)
    return Pieces(
        numpy.asarray([sum(map(len, row)) + 2 * len(row) for row in encoded], numpy.int64),
        pieces.count(processor.unk_id()) / max(len(pieces), 1),
        len(pieces) / max(spaces, 1),
        _not_latin(texts),
    )


def _not_latin(texts: list[tuple[str, ...]]) -> float:
    """The share of the letters that are not Latin."""
    letters = [ord(letter) for letter in chain.from_iterable(chain.from_iterable(texts)) if letter.isalpha()]
    foreign = sum(not any(code in block for block in LATIN) for code in letters)
    return foreign / max(len(letters), 1)
