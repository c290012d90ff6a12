"""Lengths of texts in wordpieces, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy
from tokenizers.implementations import BertWordPieceTokenizer


def token_lengths(texts: list[tuple[str, ...]], vocabulary: Path) -> numpy.ndarray:
    """Wordpieces of each row, special tokens included: int64 [rows].

    The model's own tokenizer runs in TensorFlow, which takes seconds to import. This one differs from it by a
    few pieces in a row that was decoded in the wrong encoding or that spells out a token such as [SEP].

    Args:
        texts: one text per row, or two for pairs.
        vocabulary: path of a vocab.txt; the texts are lower-cased.
    """
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    pieces = tokenizer.encode_batch([row[0] if len(row) == 1 else row for row in texts])
    return numpy.asarray([len(row) for row in pieces], numpy.int64)
