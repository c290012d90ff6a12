"""How labels are spelt: one Unicode form, and labels that look the same."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

# Characters that take no place and change no letter: zero-width spaces, marks of direction, soft hyphens.
UNSEEN = dict.fromkeys(
    [0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF, *range(0x202A, 0x202F), *range(0x2060, 0x2070)]
)
# Without them a word or an emoji looks a little different: zero-width joiners, the mark of coloured emoji.
JOINERS = dict.fromkeys([0x200C, 0x200D, 0xFE0F])
# Cyrillic and Greek letters that look like Latin ones, in lower case: from a keyboard that was left in another layout.
TWINS = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u03bf", "aeopcyxisjo")
DASHES = dict.fromkeys([0x2010, 0x2011, 0x2012, 0x2013, 0x2014, 0x2015, 0x2212], "-")  # word processors put them in
QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb\u201e\u201a"
LISTED = 4  # on the screen

RECOMPOSED = "rows with a label in another Unicode form, brought into NFC"  # a doubt, as it is counted on the screen


def composed(label: str) -> str:
    """The label without spaces around it, in Unicode's NFC form: an accent is one character with its letter.

    "" where it holds nothing that can be seen.
    """
    return unicodedata.normalize("NFC", label.strip()) if _tidy(label) else ""


def is_recomposed(label: str) -> bool:
    """Whether a label is written in another form than NFC."""
    return not unicodedata.is_normalized("NFC", label)


# === Labels that look the same ===


class Alike(NamedTuple):
    """Labels that look the same, and what they could become.

    Attributes:
        certain: label -> name, where nobody can see a difference: kinds of white space, characters of no width.
        likely: label -> name, where a difference can be seen and may be meant: case, quotes, 1 and 1.0.
        unseen: labels that hold a character which cannot be seen, and look like no other label.
    """

    certain: dict[str, str]
    likely: dict[str, str]
    unseen: list[str]

    @property
    def names(self) -> dict[str, str]:
        """Label -> name, of both kinds."""
        return {label: self.likely.get(name, name) for label, name in self.certain.items()} | self.likely


def alike(labels: Mapping[str, int]) -> Alike:
    """Finds labels that look the same.

    Their commonest spelling becomes the name. Where no eye can tell them apart, it is the one without unseen
    characters, if that is a label.

    Args:
        labels: label, as `composed` makes it -> rows.
    """
    certain: dict[str, str] = {}
    for group in _groups(labels, _tidy):
        name = next((label for label in group if label == _tidy(label)), group[0])
        certain |= {label: name for label in group if label != name}
    joined = renamed(labels, certain)
    likely = {label: group[0] for group in _groups(joined, _as_meant) for label in group[1:]}
    unseen = [label for label in joined if label not in likely and label.translate(UNSEEN) != label]
    return Alike(certain, likely, unseen)


def renamed(labels: Mapping[str, int], names: Mapping[str, str | None]) -> dict[str, int]:
    """The rows of each label once `names` are given to some, commonest first; None leaves a label out."""
    rows: Counter[str] = Counter()
    for label, count in labels.items():
        if (name := names.get(label, label)) is not None:
            rows[name] += count
    return dict(rows.most_common())


def _groups(labels: Mapping[str, int], look: Callable[[str], str]) -> list[list[str]]:
    """Labels of one look, the commonest first, of equal ones the lower-case one without odd spaces; not single ones."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels, key=lambda label: (-labels[label], label != _tidy(label), label.swapcase())):
        groups.setdefault(look(label), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _tidy(label: str) -> str:
    return " ".join(label.translate(UNSEEN).split())


def _as_meant(label: str) -> str:
    """Without case, quotes around, marks behind it, full-width forms, kinds of dashes, zeros after a number's point."""
    plain = unicodedata.normalize("NFKC", html.unescape(_tidy(label)).translate(JOINERS)).casefold()
    plain = plain.translate(TWINS).translate(DASHES)
    plain = re.sub(r"(?<=[^\W_])[-_](?=[^\W_])", " ", plain)
    plain = plain.rstrip(".,;:!") or plain
    if len(plain) > 2 and plain[0] in QUOTES and plain[-1] in QUOTES:
        plain = plain[1:-1].strip()
    number = re.fullmatch(r"(-?\d+)\.0*|(-?\d+\.\d*[1-9])0+", plain)
    return number[1] or number[2] if number else plain


# === On the screen ===


def warnings(labels: Mapping[str, int]) -> list[str]:
    """What a person should know of labels (name -> rows) that look the same, or hold what cannot be seen."""
    found = alike(labels)
    groups: dict[str, list[str]] = {}
    for label, name in found.names.items():
        groups.setdefault(name, [name] if name in labels else []).append(label)
    shown = [counted({label: labels[label] for label in group}) for group in groups.values()]
    said = (
        [f"labels that look the same (see data.label_map): {'; '.join(shown[:LISTED])}{_more(shown)}"] if shown else []
    )
    if found.unseen:
        said.append(f"labels with a character that cannot be seen (see data.label_map): {listed(found.unseen)}")
    return said


def counted(labels: Mapping[str, int]) -> str:
    """Labels with their rows, as many as a line takes: 'TRUE' 12, 'true' 300."""
    parts = [f"{label!r} {rows:,}" for label, rows in labels.items()]
    return ", ".join(parts[:LISTED]) + _more(parts)


def listed(labels: Iterable[str]) -> str:
    """Labels, as many as a line takes."""
    parts = list(map(repr, labels))
    return ", ".join(parts[:LISTED]) + _more(parts)


def _more(parts: list[str]) -> str:
    return f" and {len(parts) - LISTED} more" if len(parts) > LISTED else ""
