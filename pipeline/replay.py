"""The demo's tweets as four weeks of a stream: the texts are real, the times are made up, and one surge is put in."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bertline.components.data import formats, task_files
from bertline.components.data.columns import joined
from bertline.pipeline.config import Config
from bertline.streams.entities import Finder

START = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)  # a Monday
DAYS = 28  # alarms need a past of 15; the other 13 are judged
TEXTS = 8000  # a minute on two cores, and twelve an hour

# How much is written in an hour of the day, from 0, and on a weekday, from Monday: people travel by day, and to work
BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 7, 9, 10, 10, 9, 9, 9, 9, 10, 11, 12, 11, 9, 7, 6, 4, 3)
BY_WEEKDAY = (10, 9, 9, 10, 11, 6, 7)


class PutIn(NamedTuple):
    """A surge: real texts of one label that name one entity, all within a few hours."""

    entity: str
    label: str
    texts: int
    start: datetime.datetime
    hours: int

    @property
    def end(self) -> datetime.datetime:
        """When it is over."""
        return self.start + datetime.timedelta(hours=self.hours)


# A Wednesday's late afternoon, when some four texts an hour are usual
SURGE = PutIn("US Airways", "negative", 40, START + datetime.timedelta(days=23, hours=17), 2)


class Tweet(NamedTuple):
    """A row of the task's data that names an entity."""

    text: str
    label: str
    entities: list[str]


def write(task: Config, finder: Finder, path: Path) -> int:
    """Writes the stream as JSON Lines, the same at each call; returns how many texts it has.

    Args:
        task: whose data are replayed.
        finder: of the entities that a text must name.
        path: of the file.
    """
    timed = _timed(list(_tweets(task, finder)))
    with open(path, "w", encoding="utf-8") as file:
        for time, tweet in timed:
            file.write(json.dumps({"time": f"{time:%Y-%m-%dT%H:%M:%SZ}", "text": tweet.text}) + "\n")
    return len(timed)


def _tweets(task: Config, finder: Finder) -> Iterator[Tweet]:
    """The usable rows that name an entity, each text once."""
    options, seen = task.data, set()
    for file in task_files.of_task(options, task.folder):
        for row in formats.read(formats.settled(file, options), options, [*options.text_columns, options.label]):
            if row.fault:
                continue
            *texts, label = row.values
            text = joined(texts, options)
            if text not in seen and (entities := finder.find(text)):
                seen.add(text)
                yield Tweet(text, label, entities)


def _timed(tweets: Sequence[Tweet]) -> list[tuple[datetime.datetime, Tweet]]:
    """A sample of the tweets by their times, and those of the surge among them."""
    chance = random.Random(0)
    shuffled = chance.sample(tweets, len(tweets))
    fitting = [tweet for tweet in shuffled if tweet.entities == [SURGE.entity] and tweet.label == SURGE.label]
    surging = fitting[: SURGE.texts]
    held_back = {tweet.text for tweet in surging}
    usual = [tweet for tweet in shuffled if tweet.text not in held_back][:TEXTS]
    hours = [START + datetime.timedelta(hours=hour) for hour in range(24 * DAYS)]
    weights = [BY_HOUR[hour.hour] * BY_WEEKDAY[hour.weekday()] for hour in hours]
    timed = [
        (hour + datetime.timedelta(seconds=chance.randrange(3600)), tweet)
        for hour, tweet in zip(chance.choices(hours, weights, k=len(usual)), usual, strict=True)
    ]
    seconds = SURGE.hours * 3600
    timed += [(SURGE.start + datetime.timedelta(seconds=chance.randrange(seconds)), tweet) for tweet in surging]
    return sorted(timed, key=lambda each: each[0])
