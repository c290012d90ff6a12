"""Texts that stand almost alike in two splits. A test row whose twin is in train flatters the figures.

datasketch finds candidates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman,
"Mining of Massive Datasets", chapter 3). The Jaccard similarity of each candidate is then computed in full.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import xxhash
from datasketch import MinHash, MinHashLSH

# Characters and not words, as a tweet has few words: one changed word in fifteen changes a third of their triples.
# The textbook takes five characters for short texts.
SHINGLE = 5
# The share of the shingles of either text that both have. A changed word of five letters in a hundred characters leaves
# 0.83; two tweets on one subject share less than a third.
THRESHOLD = 0.8
# A pair at the threshold is missed once in 400 times, (1 - 0.8^6)^20, a pair at 0.9 once in ten million. A pair at 0.3
# is compared in vain once in 70 times.
BANDS, ROWS_PER_BAND = 20, 6
CHARACTERS = 5_000  # read of each text: far more than the 512 tokens that a BERT reads
PAIRS_PER_ROW = 3  # a text copied a thousand times would make a million pairs, which say no more than three
COMPARISONS = 1_000_000  # at most; some 20 s, which only thousands of texts from one template come near
SEED = 1


class Row(NamedTuple):
    """A text, its place, and its label."""

    split: str
    position: int  # in the split
    text: str


@dataclass(frozen=True)
class Pair:
    """Two rows of different splits and the Jaccard similarity of their texts; `second` is in the later split."""

    first: Row
    second: Row
    similarity: float


@dataclass
class Twins:
    """The pairs, the most alike first, and how many candidates were compared; `complete` if none was left out."""

    pairs: list[Pair] = field(default_factory=list)
    compared: int = 0
    complete: bool = True


def find(splits: Mapping[str, Sequence[str]], more: Mapping[str, Sequence[str]] | None = None) -> Twins:
    """Near-duplicates across splits.

    All splits but the first are indexed. Each split's rows are then looked up among those of the splits after it. So
    the smaller splits take the memory, some 8 kB per row. A row that has PAIRS_PER_ROW pairs leaves the index.

    Args:
        splits: the texts of each split, the largest (train) first.
        more: further training rows by what they are. They are looked up among the later splits only, since most stand
            near the training rows that they were made of.
    """
    index = _Index()
    names = list(splits)
    for name in names[1:]:
        for row in _rows(name, splits[name]):
            index.add(row)
    for name in names[:-1]:
        index.leave_out(name)
        looked_up = {name: splits[name], **((more or {}) if name == names[0] else {})}
        for each, texts in looked_up.items():
            for row in _rows(each, texts):
                index.look_up(row)
    index.twins.pairs.sort(key=lambda pair: (-pair.similarity, pair.second.split, pair.second.position))
    return index.twins


def shingles(text: str) -> np.ndarray:
    """Hashes of the distinct shingles of a text, sorted uint64.

    Case, compatibility forms, marks and white space do not count: texts that differ only in these are the same here.
    """
    plain = re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text[:CHARACTERS]).casefold()).strip()
    plain = plain or text[:CHARACTERS]  # only marks or emoji: they are all there is
    pieces = {plain[start : start + SHINGLE] for start in range(max(len(plain) - SHINGLE + 1, 1))}
    return np.sort(np.fromiter((xxhash.xxh3_64_intdigest(piece.encode()) for piece in pieces), np.uint64, len(pieces)))


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """The share of the shingles of either text, sorted uint64 [any], that both have."""
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)


def _rows(split: str, texts: Sequence[str]) -> Iterator[Row]:
    return (Row(split, position, text) for position, text in enumerate(texts))


class _Index:
    """Rows by the bands of their MinHash."""

    def __init__(self):
        self.twins = Twins()
        self._lsh = MinHashLSH(num_perm=BANDS * ROWS_PER_BAND, params=(BANDS, ROWS_PER_BAND))
        self._shingles: dict[Row, np.ndarray] = {}
        self._pairs: Counter[Row] = Counter()

    def add(self, row: Row) -> None:
        self._shingles[row] = shingles(row.text)
        self._lsh.insert(row, _minhash(self._shingles[row]), check_duplication=False)

    def leave_out(self, split: str) -> None:
        for row in [row for row in self._shingles if row.split == split]:
            self._remove(row)

    def look_up(self, row: Row) -> None:
        mine = shingles(row.text)
        for other in self._lsh.query(_minhash(mine)):
            if self.twins.compared >= COMPARISONS:
                self.twins.complete = False
                return
            self.twins.compared += 1
            similarity = jaccard(mine, self._shingles[other])
            if similarity >= THRESHOLD:
                self.twins.pairs.append(Pair(row, other, similarity))
                self._pairs[other] += 1
                if self._pairs[other] == PAIRS_PER_ROW:
                    self._remove(other)

    def _remove(self, row: Row) -> None:
        self._lsh.remove(row)
        del self._shingles[row]


def _minhash(hashes: np.ndarray) -> MinHash:
    made = _BLANK.copy()
    made.update_batch(hashes & 0xFFFFFFFF)  # it permutes 32 bits
    return made


_BLANK = MinHash(num_perm=BANDS * ROWS_PER_BAND, seed=SEED, hashfunc=int)
