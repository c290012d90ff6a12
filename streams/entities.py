"""The entities of a list in texts: whole words, the longest name where several fit, whatever their case.

Names are plain letters: dots, brackets and plus signs mean nothing else. A word ends where letters or digits do.
Chinese, Japanese, Thai and other scripts that put no spaces between words, and Korean, which joins its particles to
names, have no such ends, so there a name is found wherever it stands.
"""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bertline.errors import UserError

BETWEEN = "|"  # two aliases
# Scripts without spaces between words, and Hangul, by the first word of their letters' Unicode names
UNSPACED = {
    "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "THAI", "LAO", "KHMER",
    "MYANMAR", "TIBETAN", "JAVANESE", "YI",
}  # fmt: skip
# Typographic letters and those of keyboards, which NFKC keeps apart
_LIKE = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "\u00ad": None})


def folded(text: str) -> str:
    """A text as names are compared: without case, compatibility forms, and more than one space at a time."""
    plain = unicodedata.normalize("NFKC", text).translate(_LIKE)
    return " ".join(unicodedata.normalize("NFKC", plain.casefold()).split())


class Finder:
    """Finds entities in texts.

    Args:
        names: entity -> its aliases; the entity's own name is one of them without being said.

    Raises:
        UserError: an alias stands for two entities, or pyahocorasick is not installed.
    """

    def __init__(self, names: dict[str, Iterable[str]]):
        try:
            import ahocorasick
        except ImportError:
            raise UserError("stream.entities needs pyahocorasick: pip install 'bertline[stream]'") from None
        owners: dict[str, str] = {}
        for entity, aliases in names.items():
            for alias in (entity, *aliases):
                letters = folded(alias)
                if letters and owners.setdefault(letters, entity) != entity:
                    raise UserError(
                        f"stream.entities: {alias!r} stands for {owners[letters]!r} and for {entity!r}; take it from "
                        "one of them."
                    )
        self.names = list(names)
        self._automaton = ahocorasick.Automaton()
        for letters, entity in owners.items():
            self._automaton.add_word(letters, (len(letters), entity))
        if owners:
            self._automaton.make_automaton()
        self._any = bool(owners)

    def find(self, text: str) -> list[str]:
        """The entities that a text names, each once, in the order of their first places."""
        if not self._any:
            return []
        letters = folded(text)
        places = []
        for last, (length, entity) in self._automaton.iter(letters):
            start = last - length + 1
            if not _joined(letters, start) and not _joined(letters, last + 1):
                places.append((start, -length, entity))
        found, end = {}, 0
        for start, negative_length, entity in sorted(places):
            if start >= end:
                found[entity], end = None, start - negative_length
        return list(found)


def _joined(letters: str, place: int) -> bool:
    """Whether the letters before and at a place belong to one word."""
    return 0 < place < len(letters) and _spaced(letters[place - 1]) and _spaced(letters[place])


def _spaced(letter: str) -> bool:
    """Whether a letter is part of words that stand between spaces."""
    if letter.isascii():
        return letter.isalnum() or letter == "_"
    if not (letter.isalnum() or unicodedata.category(letter).startswith("M")):
        return False
    return unicodedata.name(letter, "").partition(" ")[0] not in UNSPACED


# === The list ===


def read(path: Path) -> dict[str, list[str]]:
    """A file of entities: name -> aliases.

    CSV has the columns `name` and `aliases`; JSON is an object of name: [alias ...], or a list of names and of objects
    with `name` and `aliases`; any other file has a line per entity, name|alias|alias, and "# " begins a remark.

    Raises:
        UserError: the file is missing, is none of these, or names nobody.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"stream.entities: {path} cannot be read as UTF-8 text: {error}") from error
    kinds = {".csv": _of_csv, ".tsv": _of_csv, ".json": _of_json}
    names: dict[str, list[str]] = {}
    for place, name, aliases in kinds.get(path.suffix.lower(), _of_lines)(path, text):
        if not folded(name):
            raise UserError(f"stream.entities: {path}: {place} has no name.")
        names.setdefault(name, []).extend(alias for alias in aliases if alias)
    if not names:
        raise UserError(f"stream.entities: {path} names no entity.")
    return names


Entries = Iterator[tuple[str, str, list[str]]]  # of a list: the place, the name and its aliases


def _of_csv(path: Path, text: str) -> Entries:
    rows = csv.DictReader(text.splitlines(keepends=True), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    if "name" not in (rows.fieldnames or []):
        listed = ", ".join(rows.fieldnames or [])
        raise UserError(f"stream.entities: {path}: no column is called name. Columns found: {listed}.")
    for row in rows:
        if None in row or None in row.values():
            raise UserError(
                f"stream.entities: {path}: line {rows.line_num} has not as many fields as the first line names. "
                f"Aliases have {BETWEEN} between them."
            )
        yield f"line {rows.line_num}", row["name"].strip(), _split(row.get("aliases", ""))


def _of_json(path: Path, text: str) -> Entries:
    try:
        listed = json.loads(text)
    except ValueError as error:
        raise UserError(f"stream.entities: {path} is not JSON: {error}") from error
    if isinstance(listed, dict):
        listed = [{"name": name, "aliases": aliases} for name, aliases in listed.items()]
    if not isinstance(listed, list):
        raise UserError(f"stream.entities: {path}: expected an object of names, or a list.")
    for number, entry in enumerate(listed, 1):
        entry = {"name": entry} if isinstance(entry, str) else entry
        if not _is_named(entry):
            raise UserError(
                f"stream.entities: {path}: entry {number} is no name with aliases; write "
                '{"name": "Acme", "aliases": ["ACME Inc."]}.'
            )
        yield f"entry {number}", entry["name"].strip(), [alias.strip() for alias in entry.get("aliases", [])]


def _is_named(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return False
    aliases = entry.get("aliases", [])
    return isinstance(aliases, list) and all(isinstance(alias, str) for alias in aliases)


def _of_lines(path: Path, text: str) -> Entries:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("# "):  # "#name" is a name
            name, *aliases = _split(line)
            yield f"line {number}", name, aliases


def _split(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(BETWEEN)]
