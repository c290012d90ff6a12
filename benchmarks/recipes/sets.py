"""Data sets of labelled text, and the rows of them that a trial trains on, chooses with and is judged by."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bertline.errors import UserError

TEST_ROWS = 1000  # an accuracy of 0.8 is then uncertain by 1.3 points, a paired difference by less
TEST_SHARE = 1 / 3  # at most, where the set names no test rows of its own
VALIDATION_SHARE = (
    1 / 4
)  # of the training rows, beside them; a split of init's has an eighth, too few for 8 rows a label
MOST_VALIDATION = 1000
SEED = 1  # of the test rows, which are the same for all trials of a set


@dataclass(frozen=True)
class Set:
    """A data set.

    Attributes:
        name: from the command line.
        texts: of all rows, no text twice.
        labels: index of each row's label, int [rows].
        names: of the labels, sorted.
        pool: places of the rows that can be trained on, int [some].
        test: places of the test rows, int [at most TEST_ROWS].
    """

    name: str
    texts: list[str]
    labels: np.ndarray
    names: list[str]
    pool: np.ndarray
    test: np.ndarray


class Split(NamedTuple):
    """Places of the training and the validation rows of a trial, int [some]."""

    train: np.ndarray
    validation: np.ndarray


@dataclass(frozen=True)
class Size:
    """How many rows are trained on: so many of each label, so many in all, or all."""

    rows: int | None
    each_label: bool = False

    @classmethod
    def parse(cls, text: str) -> Size:
        """Reads 8/label, 1000 or all.

        Raises:
            ValueError: it is none of these.
        """
        if text == "all":
            return cls(None)
        number, slash, unit = text.partition("/")
        if (slash and unit != "label") or not number.isdigit() or int(number) < 2:
            raise ValueError(f"{text!r} is no size: write 8/label, 1000 or all")
        return cls(int(number), bool(slash))

    def __str__(self) -> str:
        """What `parse` reads."""
        return "all" if self.rows is None else f"{self.rows}/label" if self.each_label else str(self.rows)


def read(argument: str) -> Set:
    """Reads NAME=FILE or NAME=FILE,TESTFILE: CSV files in UTF-8 with the columns text and label.

    Raises:
        UserError: the argument or a file is something else, or the labels are fewer than two.
    """
    name, equals, files = argument.partition("=")
    if not (name and equals and files):
        raise UserError(f"{argument!r}: write NAME=FILE or NAME=FILE,TESTFILE")
    rows, *given = [_rows(Path(file)) for file in files.split(",")]
    if len(given) > 1:
        raise UserError(f"{argument!r}: two files at most, one to train on and one to test with")
    names = sorted(set(rows.values()))
    if len(names) < 2:
        raise UserError(f"{files}: it takes two labels to tell apart")
    chance = random.Random(SEED)
    if given:
        test = {text: label for text, label in given[0].items() if label in names}
        rows = {text: label for text, label in rows.items() if text not in test}
        kept = chance.sample(sorted(test), min(TEST_ROWS, len(test)))
        rows |= {text: test[text] for text in kept}
        pool, judged = np.arange(len(rows) - len(kept)), np.arange(len(rows) - len(kept), len(rows))
    else:
        places = list(range(len(rows)))
        chance.shuffle(places)
        cut = min(TEST_ROWS, int(len(rows) * TEST_SHARE))
        judged, pool = np.sort(places[:cut]), np.sort(places[cut:])
    return Set(name, list(rows), np.array([names.index(label) for label in rows.values()]), names, pool, judged)


def _rows(file: Path) -> dict[str, str]:
    if not file.is_file():
        raise UserError(f"{file}: there is no such file")
    with file.open(encoding="utf-8", newline="") as stream:
        table = csv.DictReader(stream)
        if not {"text", "label"} <= set(table.fieldnames or ()):
            raise UserError(f"{file}: a CSV file with the columns text and label is needed")
        return {row["text"]: row["label"] for row in table}


def split(data: Set, size: Size, seed: int) -> Split:
    """The rows of a trial; another seed draws others.

    Raises:
        UserError: the set has not so many rows.
    """
    pool = np.random.default_rng(seed).permutation(data.pool)
    if size.each_label:
        return _each_label(data, pool, size.rows)
    # A label that no row is trained on could not be answered: the first row of each comes last, into the training rows.
    firsts = np.unique(data.labels[pool], return_index=True)[1]
    pool = np.concatenate([np.delete(pool, firsts), pool[firsts]])
    if size.rows is None:
        held_out = min(MOST_VALIDATION, len(pool) // 10)
        return Split(pool[held_out:], pool[:held_out])
    held_out = min(MOST_VALIDATION, int(size.rows * VALIDATION_SHARE))
    if size.rows + held_out > len(pool):
        raise UserError(f"{data.name}: {len(pool):,} rows are not the {size.rows + held_out:,} that {size} asks for")
    return Split(pool[-size.rows :], pool[:held_out])


def _each_label(data: Set, pool: np.ndarray, rows: int) -> Split:
    """So many rows of each label, fewer where a label has fewer; validation rows come first, at least one a label."""
    train, validation = [], []
    for label in range(len(data.names)):
        own = pool[data.labels[pool] == label]
        if len(own) < 2:
            raise UserError(f"{data.name}: the label {data.names[label]!r} has {len(own)} rows; two are the least")
        held_out = min(max(1, round(rows * VALIDATION_SHARE)), max(1, len(own) // 5))
        validation.append(own[:held_out])
        train.append(own[held_out : held_out + rows])
    return Split(np.concatenate(train), np.concatenate(validation))


def export(data: Set, chosen: Split, write: Callable[[str, list[dict[str, str]]], None]) -> None:
    """Hands a trial's rows to `write`, split by split, as the peers read them."""
    for name, places in (("train", chosen.train), ("validation", chosen.validation), ("test", data.test)):
        write(
            name,
            [
                {"row_id": str(place), "text": data.texts[place], "label": data.names[data.labels[place]]}
                for place in places
            ],
        )
