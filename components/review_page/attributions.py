"""The words of an explained answer as the page shows them: tinted by what they add, and the strongest in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bertline.models import features

DEPTHS = 10  # of the tints, classes d1 to d10 of page.css
# Named beside a text: a person takes in five, and one of less than a tenth of the strongest decides nothing.
NAMED, NAMED_SHARE = 5, 0.1
FAINT = 0.1  # log-odds: 2.5 points of probability at most. Where no word says more, none is tinted as if it did


@dataclass(frozen=True)
class Piece:
    """A piece of a text.

    Attributes:
        text: as the user wrote it.
        tint: classes of page.css; "" for what stands between words, or says next to nothing.
    """

    text: str
    tint: str = ""


def explained(rows: list[dict[str, Any]], attributions: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with what the page says of their words.

    Args:
        rows: each with `row_id`, `text` and `text_pair`.
        attributions: by row_id, as explainer.explain gives them; rows may be missing.

    Returns:
        The rows, each with `parts`, the pieces of its texts, and `why`, None where the row is not explained.
    """
    return [row | _explained(row, attributions.get(row[features.ROW_ID])) for row in rows]


def _explained(row: dict[str, Any], attribution: dict[str, Any] | None) -> dict[str, Any]:
    texts = [row[features.TEXT], *([row[features.TEXT_PAIR]] if row[features.TEXT_PAIR] else [])]
    if attribution is None:
        return {"parts": [[Piece(text)] for text in texts], "why": None}
    words, largest = attribution["words"], max([FAINT, *(abs(word["value"] or 0.0) for word in attribution["words"])])
    parts = [
        _pieces(text, [word for word in words if word["part"] == part], largest) for part, text in enumerate(texts)
    ]
    named = [
        {"word": texts[word["part"]][word["start"] : word["end"]], "value": word["value"]}
        for word in sorted(words, key=lambda word: -abs(word["value"] or 0.0))[:NAMED]
        if abs(word["value"] or 0.0) > NAMED_SHARE * largest
    ]
    unread = sum(word["value"] is None for word in words)
    return {"parts": parts, "why": {**attribution, "named": named, "unread": unread}}


def _pieces(text: str, words: list[dict[str, Any]], largest: float) -> list[Piece]:
    """A text in pieces, its words and what stands between them; joined, they are the text."""
    pieces, end = [], 0
    for word in words:
        pieces.append(Piece(text[end : word["start"]]))
        end = word["end"]
        pieces.append(Piece(text[word["start"] : end], _tint(word["value"], largest)))
    return [piece for piece in [*pieces, Piece(text[end:])] if piece.text]


def _tint(value: float | None, largest: float) -> str:
    """Such as "for d7"."""
    if value is None:
        return "unread"
    depth = round(DEPTHS * abs(value) / largest)
    return f"{'for' if value > 0 else 'against'} d{depth}" if depth else ""
