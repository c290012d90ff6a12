"""A source's record as a text with its time and id, or as a refusal with its reason."""

from __future__ import annotations

import datetime
import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from bertline.streams.options import StreamOptions

BROKEN, NO_TEXT, BAD_TIME, AHEAD, NO_ID, NOT_UNICODE = (
    "broken line", "no text", "no time", "time in the future", "no id", "not UTF-8",
)  # fmt: skip
# Above these a number of seconds is one of milliseconds, then of microseconds: 1e11 seconds are the year 5138
MILLISECONDS, MICROSECONDS = 1e11, 1e14
EARLIEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC)  # texts of the net; 0 and 1970 are times that nobody set


@dataclass(frozen=True)
class Raw:
    """A record as a source holds it.

    Attributes:
        source: for people: a file's path, or a topic.
        number: of the line, from 1, or the offset in a topic.
        key: of the place that it was read from, which no other file has, also none of the same name later.
        values: by field; None where there is a fault.
        fault: the reason why it cannot be read, and details.
        content: its bytes.
    """

    source: str
    number: int
    key: str
    values: Mapping[str, Any] | None
    fault: tuple[str, str] | None = None
    content: bytes = field(default=b"", repr=False)


class Text(NamedTuple):
    """A text to score: its id, its time in UTC, where it came from, and its letters."""

    id: str
    time: datetime.datetime
    source: str
    number: int
    text: str


class Refused(NamedTuple):
    """A record that is no text: where it is, why, and its bytes, from which nothing is lost."""

    source: str
    number: int
    reason: str
    detail: str
    content: bytes


class Taker:
    """Takes texts from records.

    Args:
        options: name the fields.
        text: the field of the text, if the options name none.
    """

    def __init__(self, options: StreamOptions, text: str):
        self._options, self._text = options, options.text or text
        self._zone = ZoneInfo(options.timezone)

    def take(self, raw: Raw, now: datetime.datetime) -> Text | Refused:
        """The text of a record.

        Args:
            raw: the record.
            now: this machine's clock, UTC.
        """
        if raw.values is None:
            return self._refused(raw, *(raw.fault or (BROKEN, "")))
        try:
            text = self._letters(raw, self._text, NO_TEXT)
            number = self._options.id and self._letters(raw, self._options.id, NO_ID)
            time = now if self._options.time is None else self._time(raw, self._options.time)
        except _Fault as fault:
            return self._refused(raw, *fault.args)
        if time > now + self._options.ahead:
            return self._refused(
                raw, AHEAD, f"{time:%Y-%m-%d %H:%M:%S} UTC is after this machine's {now:%Y-%m-%d %H:%M}"
            )
        return Text(number or f"{raw.key}:{raw.number}", time, raw.source, raw.number, text)

    def _refused(self, raw: Raw, reason: str, detail: str) -> Refused:
        return Refused(raw.source, raw.number, reason, detail, raw.content)

    def _letters(self, raw: Raw, name: str, reason: str) -> str:
        """A field's letters, at least one of which is no space."""
        value = _field(raw.values, name)
        if value is None:
            listed = ", ".join(map(str, raw.values)) or "none"
            raise _Fault(reason, f"there is no field {name!r}; fields: {listed}")
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _Fault(reason, f"{name!r} holds {type(value).__name__}, not a text")
        letters = str(value)
        if not letters.strip():
            raise _Fault(reason, f"{name!r} is empty")
        if "\0" in letters:
            raise _Fault(reason, f"{name!r} holds a zero byte")
        return letters

    def _time(self, raw: Raw, name: str) -> datetime.datetime:
        value = _field(raw.values, name)
        if value is None or value == "":
            raise _Fault(BAD_TIME, f"there is no field {name!r}, or it is empty")
        try:
            time = moment(value, self._zone)
        except (ValueError, OverflowError, OSError, TypeError):
            raise _Fault(BAD_TIME, f"{name!r}: {str(value)[:80]!r} is no time that can be read") from None
        if time < EARLIEST:
            raise _Fault(BAD_TIME, f"{name!r}: {str(value)[:80]!r} is before 1990")
        return time


class _Fault(ValueError):
    """A reason and its details."""


def _field(values: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by its path through objects, such as user.name."""
    if name in values:
        return values[name]
    for part in name.split("."):
        if not isinstance(values, Mapping):
            return None
        values = values.get(part)
    return values


def moment(value: Any, zone: ZoneInfo) -> datetime.datetime:
    """A time in UTC: ISO 8601, Unix seconds, milliseconds or microseconds, or as RFC 2822 has it.

    Args:
        value: a number or a text.
        zone: of a time that names none.

    Raises:
        ValueError: it is no time.
    """
    if isinstance(value, bool):
        raise ValueError("a truth value is no time")
    if isinstance(value, str) and re.fullmatch(r"\s*\d{9,17}(\.\d+)?\s*", value, re.ASCII):
        value = float(value)
    if isinstance(value, int | float):
        scale = 1e6 if value >= MICROSECONDS else 1e3 if value >= MILLISECONDS else 1
        return datetime.datetime.fromtimestamp(value / scale, datetime.UTC)
    try:
        time = datetime.datetime.fromisoformat(value.strip())
    except ValueError:
        time = email.utils.parsedate_to_datetime(value)
    return (time if time.tzinfo else time.replace(tzinfo=zone)).astimezone(datetime.UTC)
