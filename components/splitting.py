"""Which split a row falls in, decided by the hash of its text: 16 bytes a row, never the texts themselves."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy
import xxhash

from components.options import DataOptions
from components.sources import BAD_BYTES, BROKEN_LINE
from models.features import SPLITS

# === Why a row goes to quarantine; a row's reason code is its place here, from 1 ===

EMPTY_TEXT = "empty text"
MISSING_LABEL = "missing label"
UNKNOWN_LABEL = "unknown label"
OTHER_LABEL = "repeated text with another label"
REASONS = (BROKEN_LINE, BAD_BYTES, EMPTY_TEXT, MISSING_LABEL, UNKNOWN_LABEL, OTHER_LABEL)

# === What becomes of a row ===

TRAIN, VALIDATION, TEST = range(len(SPLITS))
DUPLICATE = 3
NOT_SAMPLED = 4
QUARANTINED = 16  # + the reason's code


class TextKey(NamedTuple):
    """128-bit hash of a normalised text. `high` chooses the split and `low` the sample, so the two are independent."""

    high: int
    low: int

    @property
    def row_id(self) -> str:
        """32 hex digits."""
        return f"{self.high:016x}{self.low:016x}"


def text_key(text: str, text_pair: str | None = None) -> TextKey:
    """Hash of the text in Unicode's NFC form with runs of white space as one space.

    Case and compatibility forms stay apart: "US" is not "us", and what the model reads differently is not the same row.
    The hash does not depend on the machine, the run or the order of the rows.
    """
    # split() takes U+001F for white space, so no normalised text holds the mark between the two of a pair.
    parts = [text] if text_pair is None else [text, text_pair]
    normal = "\x1f".join(" ".join(unicodedata.normalize("NFC", part).split()) for part in parts)
    digest = xxhash.xxh3_128_intdigest(normal.encode())
    return TextKey(digest >> 64, digest & (2**64 - 1))


@dataclass
class Survey:
    """What planning needs of consecutive rows of one file.

    Attributes:
      file: index of the file.
      first: place of the first row among the file's rows, from 0.
      keys: uint64 [rows, 2], high and low of each text's key; 0 where there is a reason.
      labels: int32 [rows], index into `names`; -1 where there is a reason.
      names: labels of these rows.
      reasons: uint8 [rows], 0 for a good row, else the code of its reason.
    """

    file: int
    first: int
    keys: numpy.ndarray
    labels: numpy.ndarray
    names: list[str]
    reasons: numpy.ndarray


@dataclass
class Plan:
    """The verdict on every row.

    Attributes:
      verdicts: a file's index -> uint8 [rows of the file]: a split, DUPLICATE, NOT_SAMPLED, or QUARANTINED + reason.
      labels: the labels in their stable order: the config's, or sorted.
      report: counts, as written to ingest.json.
    """

    verdicts: dict[int, numpy.ndarray]
    labels: list[str]
    report: dict[str, Any] = field(default_factory=dict)


# === Planning ===


def plan(surveys: list[Survey], roles: list[int], options: DataOptions) -> Plan:
    """Decides on all rows at once.

    Args:
        surveys: of all rows of all files, in any order.
        roles: a file's index -> the split it was given for; TRAIN for the source that is split by hash.
        options: labels, shares and limits.
    """
    surveys = sorted(surveys, key=lambda survey: (survey.file, survey.first))
    names = options.labels or sorted({name for survey in surveys for name in survey.names})
    keys = numpy.concatenate([survey.keys for survey in surveys]) if surveys else numpy.zeros((0, 2), numpy.uint64)
    labels = _concatenate([_renumbered(survey, names) for survey in surveys], numpy.int32)
    reasons = _concatenate([survey.reasons for survey in surveys], numpy.uint8)
    role = _concatenate([numpy.full(len(each.reasons), roles[each.file], numpy.uint8) for each in surveys], numpy.uint8)

    verdicts = numpy.where(reasons > 0, QUARANTINED + reasons, DUPLICATE).astype(numpy.uint8)
    first, other_label = _distinct(keys, labels, role, reasons == 0)
    verdicts[other_label] = QUARANTINED + REASONS.index(OTHER_LABEL) + 1
    verdicts[first] = _splits(keys[first, 0], role[first], set(roles), options)
    # A label of which all is in quarantine is no label of this data, unless the config lists it.
    if options.labels is None:
        names, labels = _without_unused(names, labels, first)
    moved = _give_train_each_label(verdicts, keys[:, 0], labels, role, first, len(names))
    _sample(verdicts, keys[:, 1], labels, first, options)

    report = _report(verdicts, labels, names, first, moved)
    rows = numpy.zeros(len(roles), numpy.int64)
    for survey in surveys:
        rows[survey.file] += len(survey.reasons)
    by_file = dict(enumerate(numpy.split(verdicts, numpy.cumsum(rows)[:-1])))
    return Plan(by_file, names, report)


def _concatenate(arrays: list[numpy.ndarray], dtype: type) -> numpy.ndarray:
    return numpy.concatenate(arrays, dtype=dtype, casting="unsafe") if arrays else numpy.zeros(0, dtype)


def _renumbered(survey: Survey, names: list[str]) -> numpy.ndarray:
    places = {name: place for place, name in enumerate(names)}
    table = numpy.asarray([*(places[name] for name in survey.names), -1], numpy.int32)
    return table[survey.labels]


def _distinct(
    keys: numpy.ndarray, labels: numpy.ndarray, role: numpy.ndarray, good: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Of the good rows: the one that stands for each text, and all rows of texts that have more than one label.

    A text given for test stands there, else in validation, else in train; within a split its first row does.

    Sorting takes several times the keys' own memory, so it takes a sixteenth of the texts at a time, by the first four
    bits of their hash.
    """
    bits = (keys[:, 0] >> numpy.uint64(60)).astype(numpy.uint8)
    parts = [_distinct_in(keys, labels, role, numpy.flatnonzero(good & (bits == value))) for value in range(16)]
    first, other_label = zip(*parts, strict=True)
    return numpy.concatenate(first), numpy.concatenate(other_label)


def _distinct_in(
    keys: numpy.ndarray, labels: numpy.ndarray, role: numpy.ndarray, rows: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """What `_distinct` says, of some rows."""
    if not len(rows):
        return rows, rows
    order = rows[numpy.lexsort((rows, -role[rows].astype(numpy.int8), keys[rows, 1], keys[rows, 0]))]
    starts = numpy.flatnonzero(numpy.r_[True, (keys[order[1:]] != keys[order[:-1]]).any(axis=1)])
    lowest, highest = numpy.minimum.reduceat(labels[order], starts), numpy.maximum.reduceat(labels[order], starts)
    agree = lowest == highest
    agrees = numpy.repeat(agree, numpy.diff(numpy.r_[starts, len(order)]))
    return order[starts[agree]], order[~agrees]


def _splits(high: numpy.ndarray, role: numpy.ndarray, given: set[int], options: DataOptions) -> numpy.ndarray:
    """Splits of distinct rows: given ones stay; the others fall by hash: test lowest, then validation, then train.

    The interval of a split that has files of its own goes to the others, in their proportions.
    """
    test = 0.0 if TEST in given else options.split.test
    validation = 0.0 if VALIDATION in given else options.split.validation
    total = test + validation + options.split.train
    place = high / 2.0**64
    splits = numpy.full(len(role), TRAIN, numpy.uint8)
    splits[place < (test + validation) / total] = VALIDATION
    splits[place < test / total] = TEST
    return numpy.where(role == TRAIN, splits, role)


def _without_unused(names: list[str], labels: numpy.ndarray, first: numpy.ndarray) -> tuple[list[str], numpy.ndarray]:
    used = numpy.unique(labels[first])
    table = numpy.full(len(names) + 1, -1, numpy.int32)  # the last place serves rows without a label, at -1
    table[used] = numpy.arange(len(used))
    return [names[place] for place in used], table[labels]


def _give_train_each_label(
    verdicts: numpy.ndarray,
    high: numpy.ndarray,
    labels: numpy.ndarray,
    role: numpy.ndarray,
    first: numpy.ndarray,
    count: int,
) -> list[int]:
    """Moves one row into train for each label that the hash left without any; returns those labels.

    It is the row whose hash is nearest to train's interval. No other row moves, and this one goes back as soon as
    the data hold another row of the label that falls in train by itself.
    """
    missing = numpy.setdiff1d(numpy.arange(count), labels[first[verdicts[first] == TRAIN]])
    moved = []
    for label in missing:
        candidates = first[(labels[first] == label) & (role[first] == TRAIN)]
        if len(candidates):
            verdicts[candidates[numpy.argmax(high[candidates])]] = TRAIN
            moved.append(int(label))
    return moved


def _sample(
    verdicts: numpy.ndarray, low: numpy.ndarray, labels: numpy.ndarray, first: numpy.ndarray, options: DataOptions
) -> None:
    """Keeps the rows with the lowest hashes within each split's limit; in train, one of each label first."""
    for split, limit in enumerate((options.limits.train, options.limits.validation, options.limits.test)):
        rows = first[verdicts[first] == split]
        if limit is None or len(rows) <= limit:
            continue
        rows = rows[numpy.argsort(low[rows])]
        if split == TRAIN:
            _, lowest = numpy.unique(labels[rows], return_index=True)
            lowest = numpy.sort(lowest)
            rows = numpy.concatenate([rows[lowest], numpy.delete(rows, lowest)])
        verdicts[rows[limit:]] = NOT_SAMPLED


def _report(
    verdicts: numpy.ndarray, labels: numpy.ndarray, names: list[str], first: numpy.ndarray, moved: list[int]
) -> dict[str, Any]:
    counts = numpy.bincount(verdicts, minlength=QUARANTINED + len(REASONS) + 1)
    refused = counts[QUARANTINED + 1 :]
    by_split = {}
    for split, name in enumerate(SPLITS):
        rows = numpy.bincount(labels[verdicts == split], minlength=len(names))
        by_split[name] = {label: int(rows[place]) for place, label in enumerate(names)}
    distinct = numpy.bincount(labels[first], minlength=len(names))
    return {
        "rows": len(verdicts),
        "distinct": len(first),
        "duplicates": int(counts[DUPLICATE]),
        "not_sampled": int(counts[NOT_SAMPLED]),
        "quarantined": {reason: int(count) for reason, count in zip(REASONS, refused, strict=True) if count},
        "labels": {label: int(distinct[place]) for place, label in enumerate(names)},
        "splits": by_split,
        "moved_to_train": [names[label] for label in moved],
    }
