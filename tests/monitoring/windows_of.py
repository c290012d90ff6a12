"""Windows and test rows that are drawn rather than recorded, and records of them in files."""

import datetime
from collections import Counter

import numpy as np

from bertline.monitoring.reference import Reference
from bertline.monitoring.windows import Window
from bertline.serving import record_files

CLASSES = ["negative", "neutral", "positive"]
NOON = datetime.datetime(2026, 11, 27, 12, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def drawn(chance, rows, shares=(0.5, 0.3, 0.2), sureness=6.0):
    """Labels and the probabilities of a calibrated model: the label of each text is drawn from what it says of it."""
    scores = chance.gamma(1 + sureness * np.eye(3)[chance.choice(3, rows, p=shares)])
    scores /= scores.sum(-1, keepdims=True)
    truth = (scores.cumsum(-1) < chance.random((rows, 1))).sum(-1).clip(0, 2)
    return truth, scores.astype(np.float32)


def reference(chance, rows=2000, **drawing):
    truth, scores = drawn(chance, rows, **drawing)
    labels = scores.argmax(-1).astype(np.int32)
    return Reference(
        classes=CLASSES,
        labels=labels,
        confidence=scores.max(-1),
        right=labels == truth,
        abstained=np.full(rows, np.nan, np.float32),
        characters=chance.poisson(80, rows).astype(np.float32),
        unknown=chance.binomial(20, 0.01, rows).astype(np.float32) / 20,
        embedding=chance.normal(size=(rows, 16)).astype(np.float16),
        texts=[f"text {row}" for row in range(rows)],
        columns={"shop": chance.choice(["north", "south"], rows).tolist()},
    )


def window(chance, rows=1000, start=NOON, statuses=None, characters=80, **drawing):
    """A window, and whether each of its answers is right; its vectors are not there."""
    truth, scores = drawn(chance, rows, **drawing)
    labels = scores.argmax(-1).astype(np.int32)
    made = Window(
        start=start,
        end=start + DAY,
        model="reviews",
        version=7,
        labels=labels,
        confidence=scores.max(-1),
        abstained=np.full(rows, np.nan, np.float32),
        characters=chance.poisson(characters, rows).astype(np.float32),
        pieces=np.full(rows, 20, np.float32),
        unknown=chance.binomial(20, 0.01, rows).astype(np.float32) / 20,
        milliseconds=chance.gamma(4, 5, rows).astype(np.float32),
        columns={},
        statuses=Counter({"OK": rows, **(statuses or {})}),
        versions=Counter({7: rows}),
        parts=[],
        places=np.zeros((rows, 2), np.int32),
    )
    return made, labels == truth


def write(folder, day, columns):
    """Writes records as a part of the day on which they came."""
    part = record_files.Parts(folder, 30, 10**9).write(columns)
    place = folder / f"date={day:%Y-%m-%d}" / part.name
    place.parent.mkdir(exist_ok=True)
    return part.rename(place)


def records(times, scores, texts=None, embedding=None, **columns):
    """Columns of records, one per row of `scores`, float [rows, 3]."""
    rows = len(scores)
    made = {name: [None] * rows for name in record_files.SCHEMA.names}
    made |= {
        "time": times,
        "id": [f"r{row}" for row in range(rows)],
        "model": ["reviews"] * rows,
        "version": [7] * rows,
        "signature": ["text"] * rows,
        "status": ["OK"] * rows,
        "milliseconds": [10.0] * rows,
        "label": [CLASSES[best] for best in scores.argmax(-1)],
        "classes": [CLASSES] * rows,
        "probabilities": scores.tolist(),
        "characters": [len(text) for text in texts] if texts else [20] * rows,
        "text": texts or [None] * rows,
        "embedding": [None] * rows if embedding is None else list(embedding.astype(np.float16)),
    }
    return made | columns
