"""Texts that stand almost alike in two splits: what a model saw in training flatters the figures of the test rows.

Candidates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3), through datasketch; the Jaccard similarity of each candidate is then computed in full.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import xxhash
from datasketch import MinHash, MinHashLSH

# Characters, since a tweet has too few words: one word changed in fifteen costs a third of the triples of words. Five
# are the textbook's choice for short texts.
SHINGLE = 5
# Of the shingles of both texts, the share that both have. A word of five letters changed in a hundred characters leaves
# 0.83; two tweets on one subject share less than a third.
THRESHOLD = 0.8
# A pair at the threshold is missed once in 400 times, (1 - 0.8^6)^20, at 0.9 once in ten million; one at 0.3 is looked
# at in vain once in 70.
BANDS, ROWS_A_BAND = 20, 6
CHARACTERS = 5_000  # of each text: far more than the 512 tokens that a BERT reads
PAIRS_A_ROW = 3  # a text copied a thousand times would make a million pairs, and says no more
COMPARISONS = 1_000_000  # some 20 s; only thousands of texts from one template come near it
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
class Found:
    """The pairs, the most alike first, and how many candidates were compared; `complete` if none was left out."""

    pairs: list[Pair] = field(default_factory=list)
    compared: int = 0
    complete: bool = True


def find(splits: dict[str, Sequence[str]]) -> Found:
    """Near-duplicates across splits.

    The rows of all splits but the first are indexed, and each split's rows looked up among those of the splits after
    it: memory is what the smaller splits take, some 8 kB a row. A row that has PAIRS_A_ROW pairs leaves the index.

    Args:
        splits: the texts of each split, the largest (train) first.
    """
    index = _Index()
    names = list(splits)
    for name in names[1:]:
        for row in _rows(name, splits[name]):
            index.add(row)
    for name in names[:-1]:
        index.leave_out(name)
        for row in _rows(name, splits[name]):
            index.look_up(row)
    index.found.pairs.sort(key=lambda pair: (-pair.similarity, pair.second.split, pair.second.position))
    return index.found


def shingles(text: str) -> np.ndarray:
    """Hashes of the distinct shingles of a text, sorted uint64.

    Case, compatibility forms, marks and white space do not count: what differs in them alone is the same text here.
    """
    plain = re.sub(r"\W+", " ", unicodedata.normalize("NFKC", text[:CHARACTERS]).casefold()).strip()
    plain = plain or text[:CHARACTERS]  # marks or emoji alone: they are all there is
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
        self.found = Found()
        self._lsh = MinHashLSH(num_perm=BANDS * ROWS_A_BAND, params=(BANDS, ROWS_A_BAND))
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
            if self.found.compared >= COMPARISONS:
                self.found.complete = False
                return
            self.found.compared += 1
            similarity = jaccard(mine, self._shingles[other])
            if similarity >= THRESHOLD:
                self.found.pairs.append(Pair(row, other, similarity))
                self._pairs[other] += 1
                if self._pairs[other] == PAIRS_A_ROW:
                    self._remove(other)

    def _remove(self, row: Row) -> None:
        self._lsh.remove(row)
        del self._shingles[row]


def _minhash(hashes: np.ndarray) -> MinHash:
    made = _BLANK.copy()
    made.update_batch(hashes & 0xFFFFFFFF)  # it permutes 32 bits
    return made


_BLANK = MinHash(num_perm=BANDS * ROWS_A_BAND, seed=SEED, hashfunc=int)
