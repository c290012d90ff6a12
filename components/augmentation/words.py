"""Words of a text and what stands between them, so that a changed text keeps its marks and spaces."""

from __future__ import annotations

import re
import unicodedata


class Words:
    """A text in parts: words at the odd places, what stands around them at the even ones.

    A word is what stands between spaces, without the punctuation and symbols at its ends: a link or a time is one word,
    and so is a sentence in a script without spaces.

    Args:
        text: any text.

    Attributes:
        parts: their concatenation is the text.
    """

    def __init__(self, text: str):
        self.parts: list[str] = []
        end = 0
        for found in re.finditer(r"\S+", text):
            start, stop = found.span()
            while start < stop and not _of_a_word(text[start]):
                start += 1
            while start < stop and not _of_a_word(text[stop - 1]):
                stop -= 1
            if start < stop:
                self.parts += [text[end:start], text[start:stop]]
                end = stop
        self.parts.append(text[end:])

    def __len__(self) -> int:
        return len(self.parts) // 2

    def __getitem__(self, place: int) -> str:
        return self.parts[2 * place + 1]

    def __setitem__(self, place: int, word: str) -> None:
        self.parts[2 * place + 1] = word

    def __str__(self) -> str:
        return "".join(self.parts)

    def remove(self, place: int) -> None:
        """Takes a word out, and the space on one side of it."""
        before, after = self.parts[2 * place], self.parts[2 * place + 2]
        if after[:1].isspace() and (not before or before[-1].isspace()):
            after = after.lstrip()
        elif before[-1:].isspace():
            before = before.rstrip()
        self.parts[2 * place : 2 * place + 3] = [before + after]

    def insert(self, place: int, word: str) -> None:
        """Puts a word before the one at a place; behind the last where the place is the number of words."""
        if place == len(self):
            self.parts[-1:] = [" ", word, self.parts[-1]]
        else:
            self.parts[2 * place + 1 : 2 * place + 1] = [word, " "]


def is_plain(word: str) -> bool:
    """Whether a word is made of letters only, with apostrophes and hyphens: no link, no number, no address."""
    return all(_kind(letter) in "LM" or letter in "'\N{RIGHT SINGLE QUOTATION MARK}-" for letter in word)


def _of_a_word(letter: str) -> bool:
    return _kind(letter) in "LMN"


def _kind(letter: str) -> str:
    return unicodedata.category(letter)[0]
