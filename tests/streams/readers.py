"""An engine without TensorFlow: real sources, entities and database, and a model that goes by a word."""

import datetime
from pathlib import Path

import numpy as np

from bertline.components.scoring.models import Answers
from bertline.streams import opening
from bertline.streams.engine import Engine
from bertline.streams.entities import Finder
from bertline.streams.options import StreamOptions
from bertline.streams.scoring import Named, Scorers
from bertline.streams.store import Store
from bertline.streams.texts import Taker


class Moods:
    """Answers as a served model does: texts with `dull` are negative."""

    def load(self):
        return self

    def answer(self, texts, pairs):
        dull = np.array(["dull" in text for text in texts])
        negative = np.where(dull, 0.75, 0.25).astype(np.float32)
        labels = [["negative" if each else "positive"] for each in dull]
        return Answers(["negative", "positive"], labels, np.stack([negative, 1 - negative], 1))

    def close(self):
        pass


def engine(folder: Path, names=None, url=None, **options) -> Engine:
    """An engine that reads a folder's `posts.jsonl` into its `stream.db`."""
    given = StreamOptions(**{"source": "posts.jsonl", **options})
    store = Store(url, folder, folder, given.window)
    read = opening.opened(given, folder, store.places())
    finder = Finder(names or {"Acme": ["ACME Inc."], "Globex": []})
    return Engine(
        read, Taker(given, "text"), finder, Scorers([Named("mood", "7", Moods(), ["negative"])]), store, given.batch
    )


def read_all(engine):
    """Reads until two looks at each source find nothing; returns the notes."""
    notes, idle = [], 0
    while idle < 2 * len(engine.sources):
        tally = engine.step()
        notes += tally.notes
        idle = 0 if tally.read else idle + 1
    return notes


def table(engine, name):
    """A table's rows."""
    import sqlalchemy as sa

    from bertline.streams import tables

    columns = getattr(tables, name)
    with engine.store._engine.connect() as connection:
        return [row._asdict() for row in connection.execute(sa.select(columns))]


def hour(number):
    """A time as JSON has it, that many hours after the first of November 2026."""
    return (datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC) + datetime.timedelta(hours=number)).isoformat()
