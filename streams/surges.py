"""Surges: windows in which an entity, a label or a negative share is beyond what hour and weekday make likely."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

from bertline.streams import scoring
from bertline.streams.baselines import Baseline, Clock
from bertline.streams.options import DAY, StreamOptions
from bertline.streams.scoring import Named
from bertline.streams.store import ANY, Series, Store

MONTH = 30 * DAY
CATCH_UP = 90 * DAY  # how much of a long past is judged when a stream is read for the first time
TOLD_WITHIN = DAY  # people are not told of surges that were over before that
SHOWN_TEXTS = 10
LOOKED_TEXTS = 2000  # of a window, among which the texts that show a surge are chosen
COUNT, SHARE = "count", "share"


class Watched(NamedTuple):
    """A series that is looked at: the count of an entity's or a label's texts, or the share of negative ones.

    `labels` are those that count; () for any. `needs` names what must have been counted in the past.
    """

    kind: str
    entity: str
    model: str
    labels: tuple[str, ...]

    @property
    def needs(self) -> list[str]:
        """What must have been counted in the past, as Store.since has it."""
        return [f"entity:{self.entity}"] * (self.entity != ANY) + [f"model:{self.model}"] * (self.model != ANY)

    def texts(self, counts: Mapping[Series, np.ndarray], windows: int) -> np.ndarray:
        """The texts that count, by window."""
        parts = [Series(self.entity, self.model, label) for label in self.labels] or [Series(self.entity)]
        return sum((counts.get(part, np.zeros(windows)) for part in parts), np.zeros(windows))

    def of(self, counts: Mapping[Series, np.ndarray], windows: int) -> np.ndarray:
        """The texts that they are among, by window."""
        return counts.get(Series(self.entity), np.zeros(windows))


def watched(entities: Sequence[str], models: Sequence[Named], labels: Mapping[str, Sequence[str]]) -> list[Watched]:
    """All that is looked at.

    Args:
        entities: the list.
        models: that score.
        labels: that each model has given, by its name.
    """
    looked = [Watched(COUNT, entity, ANY, ()) for entity in entities]
    for model in models:
        given = labels.get(model.name, [])
        looked += [Watched(COUNT, ANY, model.name, (label,)) for label in given]
        negative = tuple(label for label in model.negative if label in given)
        looked += [Watched(SHARE, entity, model.name, negative) for entity in (ANY, *entities) if negative]
    return looked


@dataclass
class Look:
    """What a look at the windows that have ended came to.

    Attributes:
        judged: windows.
        series: that were looked at in the last one.
        surges: rows of the database.
        small: for people: why nothing could be judged yet, or "".
    """

    judged: int = 0
    series: int = 0
    surges: list[dict[str, Any]] = field(default_factory=list)
    small: str = ""


def level(options: StreamOptions, series: int) -> float:
    """The chance below which a count is a surge: the false alarms of a month over its windows and the series."""
    return options.surge.false_alarms / (MONTH / options.window * max(series, 1))


class Watch:
    """Judges the windows of a store.

    Args:
        options: of the stream.
        store: its database.
        entities: that are looked for.
        models: that score.
    """

    def __init__(self, options: StreamOptions, store: Store, entities: Sequence[str], models: Sequence[Named]):
        self._options, self._store, self.entities, self.models = options, store, entities, models
        names = [*(f"entity:{name}" for name in entities), *(f"model:{model.name}" for model in models)]
        self._since = store.since(names)
        self._baselines: dict[Watched, Baseline] = {}  # of a day, whose windows share them
        self._day: datetime.datetime | None = None

    def look(self) -> Look:
        """Judges the windows that have ended since the last look, and stores what it finds.

        Raises:
            store.Away: the database does not answer; the next look judges the same windows.
            UserError: another process judges them, or statsmodels is not installed.
        """
        newest, first = self._store.newest(), self._store.first()
        look = Look()
        if newest is None or first is None:
            return look
        window, surge = self._options.window, self._options.surge
        ended = self._store.window_of(newest - self._options.late)  # windows before this one have ended
        least = first + surge.least_history + surge.left_out
        next_ = self._store.judged() or max(self._store.window_of(least), self._store.window_of(ended - CATCH_UP))
        if ended < least:
            past = (ended - first) / DAY
            look.small = (
                f"the texts go back {max(past, 0):.1f} days; alarms begin once they go back "
                f"{(surge.least_history + surge.left_out) / DAY:.0f}"
            )
        while next_ < ended:
            day = next_.replace(hour=0, minute=0)
            end = min(max(day + DAY, next_ + window), ended)
            self._judge(_Day(self._store, self._options, day, next_, end, first), look)
            next_ = end
        return look

    def _judge(self, day: _Day, look: Look) -> None:
        """Judges windows of one day."""
        if day.day != self._day:
            self._day, self._baselines = day.day, {}
        usable = self._usable(day)
        bound, found = level(self._options, len(usable)), []
        rows = self._store.surges(day.starts[day.place] - self._options.window)
        before = {_identity(row): row["since"] for row in rows if row["start"] < day.starts[day.place]}
        for place in range(day.place, len(day.starts)):
            surges = [self._surge(day, place, series, begin, bound) for series, begin in usable]
            surges = [surge for surge in surges if surge]
            for surge in surges:
                surge["since"] = before.get(_identity(surge), surge["start"])
                surge["told"] = surge["since"] != surge["start"]
            before = {_identity(surge): surge["since"] for surge in surges}
            found += surges
        self._store.add_surges(found, day.end)
        look.surges += found
        look.judged += len(day.starts) - day.place
        look.series = len(usable)

    def _usable(self, day: _Day) -> list[tuple[Watched, int]]:
        """The series with a past that is long enough, and the place where it begins."""
        labels = {model.name: sorted({s.label for s in day.counts if s.model == model.name}) for model in self.models}
        usable = []
        for series in watched(self.entities, self.models, labels):
            begin = max([day.starts[0], *(self._since[name] or day.starts[0] for name in series.needs)])
            if day.past_end - begin >= self._options.surge.least_history:
                usable.append((series, -((day.starts[0] - begin) // self._options.window)))
        return usable

    def _surge(self, day: _Day, place: int, series: Watched, begin: int, bound: float) -> dict[str, Any] | None:
        """A row of the database where the count of a window is beyond what is likely."""
        texts, of = series.texts(day.counts, len(day.starts)), series.of(day.counts, len(day.starts))
        if texts[place] < self._options.surge.least_texts:
            return None
        shared, past = series.kind == SHARE, slice(begin, day.past)
        if series not in self._baselines:
            self._baselines[series] = Baseline(texts[past], day.clock.at(past), of[past] if shared else None)
        now = day.clock.at(slice(place, place + 1))
        expected = self._baselines[series].expected(now, of[place] if shared else 1.0)
        chance = expected.chance(texts[place])
        if chance >= bound:
            return None
        return {
            "start": day.starts[place],
            **_key(series),
            "texts": int(texts[place]),
            "of": int(of[place]),
            "expected": expected.mean,
            "upper": expected.upper(bound),
            "chance": chance,
            "ids": self._show(series, day.starts[place]),
        }

    def _show(self, series: Watched, start: datetime.datetime) -> list[str]:
        """Ids of texts that show a surge: those that are surest of the label, else the first."""
        texts = self._store.texts(series.entity, start, start + self._options.window, LOOKED_TEXTS)
        if series.labels:
            texts = [text for text in texts if _sureness(text, series)]
            texts.sort(key=lambda text: -_sureness(text, series))
        return [text["id"] for text in texts[:SHOWN_TEXTS]]


class _Day:
    """Windows of a day to judge, and the past that they are held against.

    Attributes:
        day: its beginning.
        end: of the windows to judge.
        starts: of all windows, those of the past first.
        place: of the first window to judge.
        past: the number of windows of the past; those after it are left out.
        past_end: the end of the last of them.
        counts: texts by series, [windows].
        clock: of the windows.
    """

    def __init__(
        self,
        store: Store,
        options: StreamOptions,
        day: datetime.datetime,
        start: datetime.datetime,
        end: datetime.datetime,
        first: datetime.datetime,
    ):
        window = options.window
        self.day, self.end = day, end
        self.past_end = store.window_of(day - options.surge.left_out)
        past_start = max(store.window_of(self.past_end - options.surge.history), first)
        self.starts = [past_start + window * number for number in range((end - past_start) // window)]
        self.place, self.past = (start - past_start) // window, (self.past_end - past_start) // window
        self.counts = _arrays(store.counts(past_start, end), self.starts)
        self.clock = Clock(self.starts, ZoneInfo(options.timezone))


def _arrays(
    counts: Mapping[Series, Mapping[datetime.datetime, int]], starts: Sequence[datetime.datetime]
) -> dict[Series, np.ndarray]:
    places = {start: place for place, start in enumerate(starts)}
    arrays = {}
    for series, by_start in counts.items():
        arrays[series] = array = np.zeros(len(starts))
        for start, texts in by_start.items():
            array[places[start]] = texts
    return arrays


def _sureness(text: Mapping[str, Any], series: Watched) -> float:
    """The probability of the label that counts; 0 where the text has another one."""
    answer = text["answers"].get(series.model)
    given = set(scoring.labels(answer)) & set(series.labels) if answer else set()
    return max((answer["probabilities"][label] for label in given), default=0.0)


def _key(series: Watched) -> dict[str, str]:
    """The columns by which the database knows a series."""
    return {
        "kind": series.kind,
        "entity": series.entity,
        "model": series.model,
        "label": "|".join(series.labels),
    }


def _identity(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("kind", "entity", "model", "label"))


# === In words ===


def subject(row: Mapping[str, Any]) -> str:
    """What a surge is of: an entity, a label, or a share."""
    whose = row["entity"] or "all texts"
    if row["kind"] == SHARE:
        return f"{whose}: share of {row['label']} ({row['model']})"
    return whose if row["entity"] else f"{row['label']} ({row['model']})"


def words(row: Mapping[str, Any], window: datetime.timedelta) -> str:
    """A surge in a line: what, how much, and what would have been likely."""
    until = row["start"] + window
    end = f"{until:%H:%M}" if until.date() == row["start"].date() else f"{until:%Y-%m-%d %H:%M}"
    count = f"{row['texts']:,} of {row['of']:,} texts" if row["kind"] == SHARE else f"{row['texts']:,} texts"
    return (
        f"{subject(row)}: {count} from {row['start']:%Y-%m-%d %H:%M} to {end} UTC, "
        f"{row['expected']:,.1f} expected, up to {row['upper']:,.0f} likely"
    )


def labels(text: Mapping[str, Any]) -> str:
    """What each model answered to a text, with its probability."""
    given = []
    for answer in text["answers"].values():
        names = scoring.labels(answer)
        given.append(" ".join(f"{name} {answer['probabilities'][name]:.2f}" for name in names) or "no label")
    return ", ".join(given)


def message(row: Mapping[str, Any], window: datetime.timedelta, texts: Sequence[Mapping[str, Any]]) -> str:
    """A surge for people: what, how much, since when, and the texts that show it."""
    lines = [words(row, window), f"Since {row['since']:%Y-%m-%d %H:%M} UTC. By chance: {row['chance']:.1g}."]
    lines += ["Texts that show it:"] if texts else []
    lines += [f"- {labels(text)}: {' '.join(text['text'].split())[:200]}" for text in texts]
    return "\n".join(lines)
