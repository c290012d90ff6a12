"""What a series is usually like: its past, regressed on the hour, the weekday and a trend."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np

from bertline.streams.farrington import Expected, Fit, fit

# Texts without which an hour or a weekday has no level of its own: the logarithm of so few says little
LEAST_OF_LEVEL = 10
TREND_DAYS = 28.0  # of one unit of the trend, so that its coefficient is of the size of the others


class Clock:
    """Windows by their hour and weekday.

    Args:
        starts: of the windows, UTC.
        zone: whose hours and weekdays count.
    """

    def __init__(self, starts: Sequence[datetime.datetime], zone: ZoneInfo):
        local = [start.astimezone(zone) for start in starts]
        self.hours = np.array([each.hour for each in local], int)
        self.weekdays = np.array([each.weekday() for each in local], int)
        self.days = np.array([start.timestamp() / 86400 for start in starts])

    def at(self, place: slice | np.ndarray) -> Clock:
        """Some of the windows: a part of them, or bool [windows]."""
        part = object.__new__(Clock)
        part.hours, part.weekdays, part.days = self.hours[place], self.weekdays[place], self.days[place]
        return part


class Baseline:
    """What a series is expected to be, by its past.

    Args:
        counts: texts by window, [windows].
        clock: of these windows.
        exposure: the texts that they are a share of, [windows]; None for counts as such.
    """

    def __init__(self, counts: np.ndarray, clock: Clock, exposure: np.ndarray | None = None):
        if exposure is not None:
            some = exposure > 0
            counts, clock, exposure = counts[some], clock.at(some), exposure[some]
        self._counts, self._clock, self._exposure = counts.astype(float), clock, exposure
        self._hours = _levels(counts, clock.hours)
        self._weekdays = _levels(counts, clock.weekdays)
        self._end = clock.days[-1] if len(clock.days) else 0.0

    def expected(self, clock: Clock, exposure: float = 1.0) -> Expected:
        """What is expected in a window.

        Args:
            clock: of this one window.
            exposure: the texts that the count is a share of.
        """
        total, size = self._counts.sum(), float(len(self._counts) if self._exposure is None else self._exposure.sum())
        if total < LEAST_OF_LEVEL:  # too few to regress: a Poisson rate with Jeffreys' prior
            return Expected((total + 0.5) / max(size, 1.0) * exposure, 1.0, 1 / float(np.sqrt(total + 0.5)))
        expected = self._trending.expected(self._design(clock, True)[0], exposure)
        rates = self._counts if self._exposure is None else self._counts / self._exposure
        if expected.mean > rates.max() * exposure:  # a trend is not drawn out beyond what was seen
            expected = self._level.expected(self._design(clock, False)[0], exposure)
        return expected

    @cached_property
    def _trending(self) -> Fit:
        return fit(self._counts, self._design(self._clock, True), self._exposure)

    @cached_property
    def _level(self) -> Fit:
        return fit(self._counts, self._design(self._clock, False), self._exposure)

    def _design(self, clock: Clock, trend: bool) -> np.ndarray:
        """[windows, columns]: a constant, perhaps the trend, and a column a level but for the first."""
        columns = [np.ones(len(clock.days))]
        columns += [(clock.days - self._end) / TREND_DAYS] if trend else []
        for levels, values in ((self._hours, clock.hours), (self._weekdays, clock.weekdays)):
            placed = np.array([levels[value] for value in values.tolist()], int)
            columns += [(placed == level) * 1.0 for level in range(1, max(levels.values()) + 1)]
        return np.stack(columns, 1)


def _levels(counts: np.ndarray, values: np.ndarray) -> dict[int, int]:
    """Hour or weekday -> its level: one of its own, or a common one where it has counted too few texts."""
    totals = np.bincount(values, counts, minlength=24)
    own = [value for value in range(24) if totals[value] >= LEAST_OF_LEVEL]
    rest = set(values.tolist()) - set(own)
    first = 1 if rest or not own else 0
    return dict.fromkeys(range(24), 0) | {value: first + place for place, value in enumerate(own)}
