"""Easy data augmentation: synonyms, random insertion, swap and deletion.

Wei and Zou, "EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks", 2019. A
text of l words has n = share x l of them changed, at least one. Synonyms come from the user's file instead of WordNet.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from bertline.components.augmentation.synonyms import Synonyms
from bertline.components.augmentation.words import Words

Change = Callable[[str, Random], str | None]  # a changed text, or None where there is nothing to change


def times(words: int, share: float) -> int:
    """How many words of a text are changed."""
    return max(1, round(share * words))


def replaced(share: float, synonyms: Synonyms) -> Change:
    """Synonym replacement: n words or phrases that have synonyms give way to one of them."""

    def change(text: str, chance: Random) -> str | None:
        words = Words(text)
        places = _with_synonyms(words, synonyms)
        if not places:
            return None
        # From the end, so that the places before stay what they are.
        for start, length in sorted(chance.sample(places, min(times(len(words), share), len(places))), reverse=True):
            other = chance.choice(synonyms.of(_phrase(words, start, length)))
            words.parts[2 * start + 1 : 2 * (start + length)] = [other]
        return str(words)

    return change


def inserted(share: float, synonyms: Synonyms) -> Change:
    """Random insertion: n times a synonym of some word of the text at a random place."""

    def change(text: str, chance: Random) -> str | None:
        words = Words(text)
        places = _with_synonyms(words, synonyms)
        if not places:
            return None
        drawn = [chance.choice(places) for _ in range(times(len(words), share))]
        for other in [chance.choice(synonyms.of(_phrase(words, *place).lower())) for place in drawn]:
            words.insert(chance.randrange(len(words) + 1), other)
        return str(words)

    return change


def swapped(share: float) -> Change:
    """Random swap: n times two words change places."""

    def change(text: str, chance: Random) -> str | None:
        words = Words(text)
        if len(words) < 2:
            return None
        for _ in range(times(len(words), share)):
            first, second = chance.sample(range(len(words)), 2)
            words[first], words[second] = words[second], words[first]
        return str(words)

    return change


def deleted(share: float) -> Change:
    """Random deletion: each word goes with the probability `share`; at least one goes, and at least one stays."""

    def change(text: str, chance: Random) -> str | None:
        words = Words(text)
        if len(words) < 2:
            return None
        places = [place for place in range(len(words)) if chance.random() < share]
        places = places or [chance.randrange(len(words))]
        if len(places) == len(words):
            places.remove(chance.choice(places))
        for place in reversed(places):
            words.remove(place)
        return str(words)

    return change


def _with_synonyms(words: Words, synonyms: Synonyms) -> list[tuple[int, int]]:
    """(first word, words) of each word or phrase that has synonyms; the longest where they overlap."""
    found, place = [], 0
    while place < len(words):
        lengths = range(min(synonyms.longest, len(words) - place), 0, -1)
        length = next((each for each in lengths if synonyms.of(_phrase(words, place, each))), 0)
        if length:
            found.append((place, length))
        place += length or 1
    return found


def _phrase(words: Words, start: int, length: int) -> str:
    """Words that follow each other with a space between them, or no phrase at all ("")."""
    between = words.parts[2 * start + 2 : 2 * (start + length) : 2]
    return " ".join(words[start + each] for each in range(length)) if all(gap.isspace() for gap in between) else ""
