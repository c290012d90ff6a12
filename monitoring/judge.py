"""The verdict on a window: which of the many things that were looked at are alarms, few and right.

Many looks at one window find something by chance. So their p-values are adjusted together (Benjamini and Hochberg 1995,
by scipy), and the level is what the config allows in false alarms a month, divided by the windows of a month: where
nothing changes, a window has any alarm at all with at most that probability.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from bertline.monitoring import looks
from bertline.monitoring.looks import Look
from bertline.monitoring.options import MonitorOptions
from bertline.monitoring.reference import Reference
from bertline.monitoring.windows import Window

MONTH = datetime.timedelta(days=30)
HIGHEST_LEVEL = 0.2  # however rare the windows are: a verdict that is wrong one time in five is none
SHOWN_TEXTS = 10
LEAST_CHANCE = 1e-6  # below it a number only says that the approximation ends
WAYS_OUT = {
    looks.LABELS: "Read the texts. If the world has changed, label some of them, add them by `bertline feedback`, "
    "and run the line.",
    looks.CONFIDENCE: "Read the texts: the model is less or more sure than on its test rows. Label the least sure.",
    looks.LENGTH: "Look at where the texts come from: a form, a channel or a cut may be new. See model.max_length.",
    looks.UNKNOWN: "Look for another language, another encoding or damaged texts.",
    looks.ABSTAINED: "Whoever answers in the model's place has more or less to do. Read the texts and label some.",
    looks.TEXTS: "Read the texts: they are of a kind that the model was not tested on. Label some and run the line.",
    looks.ERRORS: "Look at the server's log and at who sends these requests.",
    looks.LATENCY: "Look at the server's machine and its load: bertline_queue_depth and the batches tell whether it is "
    "too busy. Longer texts take longer.",
    looks.ESTIMATED: "Label a sample of the window and give it to `bertline feedback`: then accuracy is measured.",
    looks.MEASURED: "Run the line with the corrections: `bertline feedback`, then `bertline run`.",
}
OF_A_COLUMN = "Look at where the requests come from: the sender or the users have changed."


@dataclass(frozen=True)
class Judged:
    """A look with its verdict.

    Attributes:
        look: what was looked at.
        adjusted: its p-value, adjusted for all looks at the window.
        alarm: whether it is one.
        since: the start of the first window in a row in which it was one.
        texts: up to SHOWN_TEXTS that show it, each with `id`, `text` (None where none is kept), `label`, `probability`.
        telling_words: the words by which the texts are told apart.
    """

    look: Look
    adjusted: float
    alarm: bool
    since: datetime.datetime
    texts: list[dict[str, Any]] = field(default_factory=list)
    telling_words: list[str] = field(default_factory=list)

    @property
    def way_out(self) -> str:
        """What to do about it."""
        return WAYS_OUT.get(self.look.name, OF_A_COLUMN)

    @property
    def chance(self) -> str:
        """How likely this is where nothing changes, in words."""
        return f"{self.adjusted:.1g}" if self.adjusted >= LEAST_CHANCE else f"below {LEAST_CHANCE:g}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "look": self.look.name,
            "against": self.look.against,
            "what": self.look.words,
            "distance": self.look.distance,
            "p_value": self.look.p_value,
            "adjusted": self.adjusted,
            "alarm": self.alarm,
            "since": self.since.isoformat(),
            "words": self.telling_words,
            "texts": self.texts,
            "what_to_do": self.way_out,
        }


@dataclass(frozen=True)
class Report:
    """What became of a window.

    Attributes:
        task: the model's name.
        version: whose answers are judged.
        start: of the window, UTC.
        end: of it.
        answered: texts that the version answered.
        small: why nothing is judged; "" where there is enough.
        level: the probability of any alarm where nothing changes.
        judged: every look, the surest first.
        accuracy: by look name: `accuracy`, its `interval`, and `test`, that of the test rows.
        milliseconds: p50 and p99 of the window, and p99 of the windows before; empty without answers.
        before: windows that it was compared with.
        notes: what else a person should know.
    """

    task: str
    version: int
    start: datetime.datetime
    end: datetime.datetime
    answered: int
    small: str
    level: float
    judged: list[Judged]
    accuracy: dict[str, dict[str, Any]]
    milliseconds: dict[str, float]
    before: int
    notes: list[str]

    @property
    def alarms(self) -> list[Judged]:
        """The looks that are alarms."""
        return [judged for judged in self.judged if judged.alarm]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        own = {name: value for name, value in vars(self).items() if name not in ("judged", "start", "end")}
        return {
            **own,
            "start": self.start.isoformat(),
            "end": self.end.isoformat(),
            "alarms": len(self.alarms),
            "looks": [judged.as_dict() for judged in self.judged],
        }


def level(options: MonitorOptions, every: datetime.timedelta | None = None) -> float:
    """The probability of an alarm in a window where nothing changes.

    Args:
        options: how many false alarms a month may be expected.
        every: the time between two looks; None for the window's own length.
    """
    return min(options.false_alarms / (MONTH / (every or options.window)), HIGHEST_LEVEL)


def judge(
    window: Window,
    reference: Reference,
    before: Sequence[Window],
    options: MonitorOptions,
    *,
    every: datetime.timedelta | None = None,
    right: np.ndarray | None = None,
    open_since: dict[str, datetime.datetime] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Judges a window.

    Args:
        window: the newest one.
        reference: the version's own test rows.
        before: the windows before it of the same version; small ones do not count.
        options: when it is an alarm.
        every: as in `level`.
        right: bool [labelled rows], whether the answers whose labels have come were right; None for none.
        open_since: an alarm's key -> the start of the window from which on it has been one.
        notes: what reading the records met.
    """
    large = [each for each in before if each.rows >= options.minimum_requests]
    small = _too_small(window, options)
    found: list[tuple[Look, list[str]]] = []
    figures: dict[str, dict[str, Any]] = {}
    if not small:
        for look, figure, interval in looks.of_accuracy(
            window, reference, options.accuracy_loss, np.zeros(0, bool) if right is None else right
        ):
            found.append((look, []))
            test = float(reference.right.mean())
            figures[look.name] = {"accuracy": figure, "interval": list(interval), "test": test}
        found += [(look, []) for look in looks.of_shares(window, reference, large, options.smallest_shift)]
        found += [(look, []) for look in looks.of_errors(window, large)]
        found += [(look, []) for look in looks.of_latency(window, large, options.slower_by - 1)]
        found += list(looks.of_texts(window, reference, large, options.smallest_shift))
    at = level(options, every)
    adjusted = stats.false_discovery_control([look.p_value for look, _ in found]) if found else []
    judged = [
        _judged(window, reference, look, float(value), at, words, open_since or {})
        for (look, words), value in zip(found, adjusted, strict=True)
    ]
    return Report(
        task=window.model,
        version=window.version,
        start=window.start,
        end=window.end,
        answered=window.rows,
        small=small,
        level=at,
        judged=sorted(judged, key=lambda each: (not each.alarm, each.adjusted, each.look.key)),
        accuracy=figures,
        milliseconds=_milliseconds(window, large),
        before=len(large),
        notes=[*notes, *_notes(window, len(before), len(large))],
    )


def _too_small(window: Window, options: MonitorOptions) -> str:
    if window.rows >= options.minimum_requests:
        return ""
    return (
        f"{window.rows:,} answers are too few to judge by: monitor.minimum_requests is {options.minimum_requests:,}. "
        "Take a longer monitor.window, or record more (serve.log.rate)."
    )


def _judged(
    window: Window,
    reference: Reference,
    look: Look,
    adjusted: float,
    at: float,
    words: list[str],
    open_since: dict[str, datetime.datetime],
) -> Judged:
    alarm = adjusted <= at and look.distance >= look.least
    since = open_since.get(look.key, window.start) if alarm else window.start
    texts = _texts(window, reference, look.rows()[:SHOWN_TEXTS]) if alarm else []
    return Judged(look, adjusted, alarm, since, texts, words if alarm else [])


def _texts(window: Window, reference: Reference, rows: np.ndarray) -> list[dict[str, Any]]:
    if not len(rows):
        return []
    table = window.read(rows, ("id", "text", "text_pair", "label", "labels")).to_pylist()
    return [
        {
            "id": row["id"],
            "text": row["text"] if row["text_pair"] is None else f"{row['text']} / {row['text_pair']}",
            "label": row["label"] if row["label"] is not None else ", ".join(row["labels"] or []),
            "probability": float(window.confidence[place]),
        }
        for row, place in zip(table, rows, strict=True)
    ]


def _milliseconds(window: Window, before: Sequence[Window]) -> dict[str, float]:
    if not window.rows:
        return {}
    figures = {f"p{share}": float(np.quantile(window.milliseconds, share / 100)) for share in (50, 99)}
    if before:
        figures["p99_before"] = float(np.median([np.quantile(each.milliseconds, 0.99) for each in before]))
    return figures


def _notes(window: Window, before: int, large: int) -> list[str]:
    notes = []
    others = {version: rows for version, rows in window.versions.items() if version != window.version}
    if others:
        told = ", ".join(f"{rows:,} of version {version}" for version, rows in sorted(others.items()))
        notes.append(f"other answers in the window, which are not judged: {told}")
    if before and not large:
        notes.append("no window before has enough answers of this version: it is compared with the test rows only")
    if window.rows and np.isnan(window.unknown).all():
        notes.append(
            "the records hold no vectors and no wordpieces: the model was exported before it could tell them, or a "
            "client keeps the records"
        )
    return notes
