"""Typing and reading errors in some words of a text, by nlpaug; one letter per word."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import numpy as np

from bertline.components.augmentation.eda import Change, times
from bertline.components.augmentation.words import Words, is_plain
from bertline.errors import UserError

SHORTEST = 4  # letters of a word that gets an error: shorter ones would become another word too often
ACTIONS, IN_ANY_SCRIPT = ("swap", "delete", "substitute", "insert"), 2
_SEEDS = 1 << 32  # numpy's legacy generator takes no larger seed


def noise(kind: str, share: float, keyboard: str) -> Change:
    """Errors of a kind in n = share x l of a text's l words, at least one.

    nlpaug gets single words: whole texts it would take apart and join with other spaces, links and scripts with
    combining marks among them.

    Args:
        kind: keyboard (a key beside the right one), characters (one left out, doubled, changed or swapped with the
            next), or ocr (one that looks alike to a scanner).
        share: of the words.
        keyboard: nlpaug's name of the layout.

    Raises:
        UserError: nlpaug is not installed.
    """
    errors = _errors(kind, keyboard)

    def change(text: str, chance: Random) -> str | None:
        words = Words(text)
        places = [place for place in range(len(words)) if len(words[place]) >= SHORTEST and is_plain(words[place])]
        if not places:
            return None
        with _seeded(chance):
            for place in chance.sample(places, min(times(len(words), share), len(places))):
                # The letters that nlpaug puts in are Latin.
                fitting = errors if words[place].isascii() or kind != "characters" else errors[:IN_ANY_SCRIPT]
                words[place] = chance.choice(fitting)(words[place])
        return str(words)

    return change


def check() -> None:
    """Raises UserError where nlpaug is not installed."""
    try:
        import nlpaug  # noqa: F401
    except ImportError:
        raise UserError(
            "train.augment: typing errors need nlpaug: `pip install 'bertline[augmentation]'` brings it."
        ) from None


def _errors(kind: str, keyboard: str) -> list[Callable[[str], str]]:
    """What makes an error of the kind in a word."""
    check()
    from nlpaug.augmenter import char

    one = {"aug_char_min": 1, "aug_char_max": 1, "aug_word_p": 1.0}
    one |= {"tokenizer": lambda word: [word], "reverse_tokenizer": "".join}
    plain = {"include_numeric": False, "include_upper_case": False}
    if kind == "keyboard":
        made = [char.KeyboardAug(**one, lang=keyboard, **plain, include_special_char=False)]
    elif kind == "ocr":
        made = [char.OcrAug(**one)]
    else:
        made = [char.RandomCharAug(action=action, **one, **plain, spec_char="") for action in ACTIONS]
    return [lambda word, error=error: error.augment(word)[0] for error in made]


@contextmanager
def _seeded(chance: Random) -> Iterator[None]:
    """nlpaug draws from the generators that a process shares: seeded for the block, then as they were."""
    drawn, numpys = random.getstate(), np.random.get_state()
    random.seed(chance.getrandbits(64))
    np.random.seed(chance.randrange(_SEEDS))
    try:
        yield
    finally:
        random.setstate(drawn)
        np.random.set_state(numpys)
