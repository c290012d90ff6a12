"""Words of the same meaning, from a file of the user's in the format of Solr's and Elasticsearch's synonyms."""

from __future__ import annotations

from pathlib import Path

from bertline.errors import UserError

_COMMENT, _ONE_WAY = "#", "=>"


class Synonyms:
    """What may stand for a word or a phrase.

    Args:
        meanings: a word or a phrase in lower case -> what may stand for it, as the file writes it.
    """

    def __init__(self, meanings: dict[str, list[str]]):
        self._meanings = meanings
        self.longest = max((len(name.split()) for name in meanings), default=0)  # in words

    def of(self, name: str) -> list[str]:
        """What may stand for a word or a phrase, with its capital where it has one; [] where the file has nothing."""
        found = self._meanings.get(name.lower(), [])
        if name.isupper() and len(name) > 1:
            return [each.upper() for each in found]
        return [each[:1].upper() + each[1:] for each in found] if name[:1].isupper() else found


def read(path: Path, key: str) -> Synonyms:
    """Reads a file.

    Each line holds words or phrases of one meaning with commas between them, `flight, plane trip`, or says what may
    stand for some of them, `cancelled, canceled => called off`. Lines that start with # are comments.

    Args:
        path: of a text file in UTF-8.
        key: of the config, for messages.

    Raises:
        UserError: the file is missing, is no UTF-8, or a line names fewer than two.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}: {path} cannot be read as UTF-8 text: {error}") from error
    meanings: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith(_COMMENT):
            continue
        left, arrow, right = line.partition(_ONE_WAY)
        names, others = _listed(left), _listed(right) if arrow else _listed(left)
        if not names or not others or (not arrow and len(names) < 2):
            raise UserError(
                f"{key}: {path}, line {number}: expected two words or more of one meaning with commas between them, "
                f"such as 'flight, plane trip', or 'cancelled => called off'; found {line.strip()[:60]!r}"
            )
        for name in names:
            known = meanings.setdefault(name.lower(), [])
            known += [other for other in others if other.lower() != name.lower() and other not in known]
    if not meanings:
        raise UserError(f"{key}: {path} names no synonyms: a line each, such as 'flight, plane trip'")
    return Synonyms(meanings)


def _listed(text: str) -> list[str]:
    return [" ".join(name.split()) for name in text.split(",") if name.strip()]
