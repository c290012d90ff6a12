"""Guesses the encoding of files that are not UTF-8, and proves the guess on all of their bytes."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import chardet

from bertline.components.data.packing import open_bytes
from bertline.components.data.reader import FOLDERS, SourceFile
from bertline.errors import UserError

SNIFFED_BYTES = 1 << 18  # of lines beyond ASCII, which are all that tells encodings apart
MOST_GUESSES = 6  # of chardet's, the likeliest first
LONGEST_LINE = 1 << 20  # bytes; a longer one is looked at in pieces
TOLERATED_LINES = 0.01  # a share of lines up to this may hold bytes that the encoding lacks
TOLERATED_WORDS = 0.1  # a share of words up to this may look odd: brand names, typing errors
SAMPLE_WORDS, LONGEST_SAMPLE = 3, 30

ASCII = b'Aa1,;\t"\n'

WINDOWS = "cp1252"  # what Windows and its Office write in western Europe and America
# ISO's encodings of the same languages. They differ from cp1252 in a few bytes, and chardet seldom knows which it is.
LIKE_WINDOWS = ("iso8859-1", "iso8859-15")
# Quotes, dashes, the ellipsis, signs of currency, spaces: signs that belong in a text.
TYPOGRAPHY = {"Pi", "Pf", "Ps", "Pe", "Pd", "Po", "Sc", "Zs"}


class Guess(NamedTuple):
    """An encoding, and a few words as it reads them, for a person to judge.

    `utf8_lines` are UTF-8 nevertheless, so that this encoding reads their letters wrong.
    """

    name: str
    words: list[str]
    utf8_lines: int


def guess(files: Sequence[SourceFile]) -> Guess | None:
    """The encoding of files that are not UTF-8; None where they are (but for accidents) or where no guess holds.

    The first pass counts lines, the second collects some for chardet. The third decodes every line beyond ASCII in each
    candidate. None keeps more than SNIFFED_BYTES.

    Args:
        files: of one format that is text.

    Raises:
        UserError: as `refuse_two_encodings`.
    """
    counts = [_counted(file) for file in files]
    utf8_lines = sum(count.utf8 for count in counts)
    if sum(count.others for count in counts) <= utf8_lines:
        return None
    _refuse(counts)
    candidates = [_Candidate(name) for name in _names(_sniffed(files))]
    for line in _lines_beyond_ascii(files):
        for candidate in candidates:
            candidate.read(line)
    chosen = _chosen(candidates)
    return Guess(chosen.name, list(chosen.words or chosen.signs), utf8_lines) if chosen else None


def refuse_two_encodings(files: Sequence[SourceFile]) -> None:
    """Raises UserError where a file is UTF-8 as a whole and another one is not, since all are read in one encoding."""
    _refuse([_counted(file) for file in files])


def are_ascii(files: Sequence[SourceFile]) -> bool:
    """Whether the files are ASCII, which all encodings read alike that have a byte per letter."""
    return next(_lines_beyond_ascii(files), None) is None


class _Count(NamedTuple):
    """The lines of a file that go beyond ASCII: those that are UTF-8, and the others."""

    file: SourceFile
    utf8: int
    others: int


def _counted(file: SourceFile) -> _Count:
    lines = Counter(map(_is_utf8, _lines_beyond_ascii([file])))
    return _Count(file, lines[True], lines[False])


def _refuse(counts: list[_Count]) -> None:
    if counts[0].file.format == FOLDERS:  # a file is a row there, and a few rows may be accidents
        return
    utf8 = next((count.file for count in counts if count.utf8 and not count.others), None)
    other = next((count.file for count in counts if count.others > count.utf8), None)
    if utf8 and other:
        raise UserError(
            f"{utf8.name} is UTF-8 and {other.name} is not, but all files are read in one encoding. Save "
            f"{other.name} as UTF-8."
        )


def _sniffed(files: Sequence[SourceFile]) -> bytes:
    """SNIFFED_BYTES or a little more of lines that are not UTF-8."""
    sniffed = bytearray()
    for line in _lines_beyond_ascii(files):
        if not _is_utf8(line):
            sniffed += line
        if len(sniffed) >= SNIFFED_BYTES:
            break
    return bytes(sniffed)


def _lines_beyond_ascii(files: Sequence[SourceFile]) -> Iterator[bytes]:
    for file in files:
        with open_bytes(file) as stream:
            while line := stream.readline(LONGEST_LINE):
                if not line.isascii():
                    yield line


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _names(sniffed: bytes) -> list[str]:
    """Python's names of encodings that chardet thinks possible, the likeliest first, and WINDOWS."""
    guesses = chardet.detect_all(sniffed, ignore_threshold=True)
    names = [name for one in guesses if (name := _known(one["encoding"]))]
    return list(dict.fromkeys([*names[:MOST_GUESSES], WINDOWS]))


def _known(name: str | None) -> str | None:
    """Python's name of a guess; None for UTF-8, for what Python does not know, and for EBCDIC, which is never a table.

    EBCDIC writes commas, line breaks and ASCII letters with other bytes, so the columns' names would be lost in it.
    """
    try:
        python_name = codecs.lookup(name or "ascii").name
        keeps_ascii = ASCII.decode(python_name) == ASCII.decode("ascii")
    except (LookupError, UnicodeDecodeError):  # chardet knows a few that Python does not
        return None
    return python_name if keeps_ascii and not python_name.startswith(("utf", "ascii")) else None


# === Judging a candidate ===


@dataclass
class _Candidate:
    """What the lines are like when this encoding reads them.

    Attributes:
        name: Python's, of the encoding.
        lines, broken: how many, and how many of them hold bytes that the encoding lacks.
        letters, typography, symbols: characters beyond ASCII.
        with_letters, odd: words with letters beyond ASCII, and how many of them no language writes.
        words: a few of the former. A dict, for its order.
        signs: a few words in which only signs are beyond ASCII, such as "£5".
    """

    name: str
    lines: int = 0
    broken: int = 0
    letters: int = 0
    typography: int = 0
    symbols: int = 0
    with_letters: int = 0
    odd: int = 0
    words: dict[str, None] = field(default_factory=dict)
    signs: dict[str, None] = field(default_factory=dict)

    def read(self, line: bytes) -> None:
        self.lines += 1
        try:
            text = line.decode(self.name)
        except UnicodeDecodeError:
            self.broken += 1
            return
        for character in text:
            if not character.isascii():
                self._count(unicodedata.category(character))
        # A symbol within a word is part of it here: in a wrong encoding "c\u0153ur" becomes "c\u00bdur".
        for word in re.findall(r"[^\s!-/:-@\[-`{-~]+", text):
            if not word.isascii():
                self._judge(word)

    def _count(self, category: str) -> None:
        if category[0] in "LM":
            self.letters += 1
        elif category in TYPOGRAPHY:
            self.typography += 1
        else:
            self.symbols += 1

    def _judge(self, word: str) -> None:
        letters = [character for character in word if character.isalpha()]
        if all(character.isascii() for character in letters):
            if len(self.signs) < SAMPLE_WORDS and len(word) <= LONGEST_SAMPLE and word.isprintable():
                self.signs[word] = None
            return
        self.with_letters += 1
        if _is_odd(word, letters):
            self.odd += 1
        elif len(self.words) < SAMPLE_WORDS and len(word) <= LONGEST_SAMPLE and word.isalpha():
            self.words[word] = None

    @property
    def decodes(self) -> bool:
        return self.broken <= TOLERATED_LINES * self.lines and self.letters + self.typography > self.symbols

    @property
    def reads_well(self) -> bool:
        return self.decodes and self.odd <= TOLERATED_WORDS * self.with_letters

    @property
    def is_typography(self) -> bool:
        """English with curly quotes: no letter beyond ASCII, which chardet has too little to go by."""
        return self.decodes and not self.letters and not self.symbols


# Scripts whose words may hold Latin letters, as in Japanese.
EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL"}


def _is_odd(word: str, letters: list[str]) -> bool:
    """Whether a word mixes scripts, has a capital after a small letter, or a symbol between letters."""
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in letters} - EAST_ASIAN
    if "LATIN" in scripts and len(scripts) > 1:
        return True
    if any(_is_symbol(character) for character in word.strip("\u00b0\u2122\u00ae\u00a9")[1:-1]):
        return True
    return any(before.islower() and after.isupper() for before, after in pairwise(letters))


def _is_symbol(character: str) -> bool:
    category = unicodedata.category(character)
    return not character.isascii() and (category[0] in "SC" or category == "No" or character in "\u00bf\u00a1\u00b6")


def _chosen(candidates: list[_Candidate]) -> _Candidate | None:
    windows = next(candidate for candidate in candidates if candidate.name == WINDOWS)
    if windows.is_typography:
        return windows
    for candidate in candidates:
        if candidate.reads_well:
            like_windows = candidate.name in LIKE_WINDOWS and windows.decodes
            return windows if like_windows and windows.odd <= candidate.odd else candidate
    return windows if windows.decodes else None
