"""How right the alarms of a stream are, by simulation: `python -m benchmarks.streams`.

Draws the hourly texts of entities, from two an hour to sixty, with a day, a week and a trend as news have them, and
with more spread than chance alone gives (negative binomial). Where nothing changes, alarms are false: their number is
held against the number asked for. Then surges of six hours are put in, of several sizes: how many are found, and after
how many hours.
"""

from __future__ import annotations

import argparse
import datetime
import time
from zoneinfo import ZoneInfo

import numpy as np
from scipy import stats

from benchmarks.peer import write_result
from bertline.streams.baselines import Baseline, Clock
from bertline.streams.farrington import Expected
from bertline.streams.options import StreamOptions
from bertline.streams.surges import level

START = datetime.datetime(2026, 1, 5, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
RATES = (2, 6, 20, 60)  # texts an hour of an entity, on average
DISPERSIONS = (1.0, 1.5, 3.0)  # variance over mean, given hour and weekday
FACTORS, SURGE_HOURS = (2, 3, 5), 6
ASKED = (1, 20)  # false alarms a month; the second says more, since there are more
DAYS_LEFT_OUT, PAST_DAYS = 1, 56


def shape(hours: np.ndarray, weekdays: np.ndarray, days: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """What an entity's rate is multiplied with by hour, weekday and day; 1 on average, about."""
    peak = chance.uniform(8, 20)
    day = np.exp(1.2 * np.cos((hours - peak) / 24 * 2 * np.pi))
    week = np.where(weekdays >= 5, chance.uniform(0.4, 0.9), 1.0)
    trend = np.exp(chance.normal(0, 0.1) * days / 28)
    whole = day * week * trend
    return whole / whole.mean()


def drawn(means: np.ndarray, dispersion: float, chance: np.random.Generator) -> np.ndarray:
    """Counts of these means."""
    if dispersion <= 1:
        return chance.poisson(means).astype(float)
    size = means / (dispersion - 1)
    return chance.negative_binomial(np.maximum(size, 1e-9), 1 / dispersion).astype(float)


class Entity:
    """One entity's months: means, counts, and the baseline of each judged day."""

    def __init__(self, rate: float, dispersion: float, clock: Clock, chance: np.random.Generator):
        self.dispersion, self.clock = dispersion, clock
        self.means = rate * shape(clock.hours, clock.weekdays, clock.days - clock.days[0], chance)
        self.counts = drawn(self.means, dispersion, chance)

    def baseline(self, day: int) -> Baseline:
        """Of a day, as the stream makes it."""
        end = (day - DAYS_LEFT_OUT) * 24
        past = slice(max(end - PAST_DAYS * 24, 0), end)
        return Baseline(self.counts[past], self.clock.at(past))


def asking(false_alarms: float) -> StreamOptions:
    """Options that ask for a level."""
    return StreamOptions(surge={"false_alarms": false_alarms})


def alarming(expected: list[Expected], counts: np.ndarray, bound: float) -> list[int]:
    """The hours of a day whose counts are an alarm."""
    least = StreamOptions().surge.least_texts
    pairs = enumerate(zip(expected, counts, strict=True))
    return [hour for hour, (each, count) in pairs if count >= least and each.chance(count) < bound]


def main() -> None:
    """Draws, judges, prints and writes a result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--days", type=int, default=100, help="that are judged without a surge, per entity")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began, chance = time.monotonic(), np.random.default_rng(given.seed)
    days = PAST_DAYS + DAYS_LEFT_OUT + given.days
    clock = Clock([START + HOUR * number for number in range(days * 24)], ZoneInfo("UTC"))
    entities = [Entity(rate, dispersion, clock, chance) for rate in RATES for dispersion in DISPERSIONS]
    bounds = {asked: level(asking(asked), len(entities)) for asked in ASKED}
    alarms, windows = dict.fromkeys(ASKED, 0), 0
    surges = {(rate, factor): [] for rate in RATES for factor in FACTORS}
    for number, entity in enumerate(entities):
        for day in range(PAST_DAYS + DAYS_LEFT_OUT, days):
            baseline, hours = entity.baseline(day), [day * 24 + hour for hour in range(24)]
            expected = [baseline.expected(clock.at(slice(hour, hour + 1))) for hour in hours]
            for asked, bound in bounds.items():
                alarms[asked] += len(alarming(expected, entity.counts[hours], bound))
            windows += 24
            first = int(chance.integers(0, 24 - SURGE_HOURS))
            for factor in FACTORS:
                counts = drawn(entity.means[hours] * factor, entity.dispersion, chance)
                seen = [hour for hour in alarming(expected, counts, bounds[1]) if 0 <= hour - first < SURGE_HOURS]
                surges[RATES[number // len(DISPERSIONS)], factor].append(seen[0] - first + 1 if seen else None)
    months = windows / len(entities) / 24 / 30
    print(f"{len(entities)} entities, {months:.1f} months, {time.monotonic() - began:.0f} s")
    rates = {}
    for asked, count in alarms.items():
        low, high = stats.gamma.ppf([0.025, 0.975], [max(count, 1e-9), count + 1]) / months
        rates[asked] = [count / months, low, high]
        print(f"false alarms a month, {asked} asked for: {count / months:.1f} ({low:.1f} to {high:.1f})")
    figures = {}
    for (rate, factor), delays in surges.items():
        found = [delay for delay in delays if delay is not None]
        figures[f"{rate} an hour, times {factor}"] = {
            "found": len(found) / len(delays),
            "hours": float(np.mean(found)) if found else None,
            "surges": len(delays),
        }
        mean = f"after {np.mean(found):.1f} h" if found else ""
        print(f"{rate:3} texts an hour, {factor} times as many: {len(found) / len(delays):4.0%} found {mean}")
    write_result("streams", {"false_alarms_a_month": rates, "surges": figures})


if __name__ == "__main__":
    main()
