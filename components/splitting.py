"""Which split a row falls in, decided by the hash of its text: 16 bytes per row, never the texts themselves.

All rows of one text have one hash, so each range of the hash can be decided on by itself, by any worker:

1. `by_range` deals a survey's rows out to the ranges.
2. `settle` decides on the rows of a range, as far as they tell by themselves.
3. The `Summary` of each range is merged into an `Agreement` on what depends on all rows.
4. `finish` gives the verdicts.
"""

from __future__ import annotations

import bisect
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy
import xxhash

from bertline.components.data.rows import BAD_BYTES, BROKEN_LINE, ZERO_BYTE
from bertline.components.options import DataOptions
from bertline.models.features import SPLITS

# === Why a row goes to quarantine. The code of a reason is its place in REASONS, from 1 ===

EMPTY_TEXT = "empty text"
MISSING_LABEL = "missing label"
UNKNOWN_LABEL = "unknown label"
OTHER_LABEL = "repeated text with another label"
LEFT_OUT = "label that label_map leaves out"
OTHER_SPLIT = "group with rows in another split"
REASONS = (
    *(BROKEN_LINE, BAD_BYTES, ZERO_BYTE),
    *(EMPTY_TEXT, MISSING_LABEL, UNKNOWN_LABEL, OTHER_LABEL, LEFT_OUT, OTHER_SPLIT),
)

# === What happens to a row ===

TRAIN, VALIDATION, TEST = range(len(SPLITS))
ONLY_TRAIN = len(SPLITS)  # the role of a file whose rows are in no other split; no verdict
DUPLICATE = 3
NOT_SAMPLED = 4
QUARANTINED = 16  # + the reason's code
APART = QUARANTINED + REASONS.index(OTHER_SPLIT) + 1


LabelSet = tuple[str, ...]  # the labels of a row, sorted; without data.multi_label it is one


class TextKey(NamedTuple):
    """128-bit hash of a normalised text. `high` chooses the split, `low` the sample: the two are independent.

    With `data.split.group` rows of one group have the same `high`.
    """

    high: int
    low: int

    @property
    def row_id(self) -> str:
        """32 hex digits."""
        return f"{self.high:016x}{self.low:016x}"


def normalised(text: str) -> str:
    """The text as `text_key` sees it."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def text_key(text: str, text_pair: str | None = None) -> TextKey:
    """Hash of the text in Unicode's NFC form with runs of white space as one space.

    Case and compatibility forms stay apart, because the model may read them differently: "US" is not "us". The hash
    does not depend on the machine, the run or the order of the rows.
    """
    # split() takes U+001F for white space, so no normalised text holds the mark between the two of a pair.
    parts = [text] if text_pair is None else [text, text_pair]
    normal = "\x1f".join(map(normalised, parts))
    digest = xxhash.xxh3_128_intdigest(normal.encode())
    return TextKey(digest >> 64, digest & (2**64 - 1))


def text_keys(texts: Sequence[str], pairs: Sequence[str]) -> Iterator[TextKey]:
    """The `text_key` of each row of a split.

    Args:
        texts: the first or only text of each row.
        pairs: the second one; "" in all rows where they have one text.
    """
    return map(text_key, texts, pairs if any(pairs) else [None] * len(texts))


def row_key(text: str, text_pair: str | None, options: DataOptions) -> TextKey:
    """The `text_key` of a row; with `data.split.group` its `high` is that of the text that groups the rows."""
    key = text_key(text, text_pair)
    if not options.split.group:
        return key
    return key._replace(high=text_key(text if options.split.group == "text" else text_pair or "").high)


@dataclass
class Survey:
    """What decisions rest on, for some rows of one file.

    Attributes:
        task: number of the task that reads the rows.
        file: index of the file.
        places: int64 [rows], each row's place among the file's rows, from 0, rising.
        keys: uint64 [rows, 2], high and low of each text's key; 0 where there is a reason.
        labels: int32 [rows], index into `sets`; -1 where there is a reason.
        sets: what labels these rows have, sorted.
        reasons: uint8 [rows], 0 for a good row, else the code of its reason.
    """

    task: int
    file: int
    places: numpy.ndarray
    keys: numpy.ndarray
    labels: numpy.ndarray
    sets: list[LabelSet]
    reasons: numpy.ndarray


def by_range(survey: Survey, ranges: int) -> Iterator[tuple[int, Survey]]:
    """Deals the rows out: (range, its rows), for each range that has any.

    A row's range is `high` of its key modulo the number of ranges, so each range has its share of every split.
    """
    of_row = survey.keys[:, 0] % numpy.uint64(ranges)
    of_row = numpy.where(survey.reasons > 0, survey.places % ranges, of_row.astype(numpy.int64))  # no text, no hash
    for number in numpy.unique(of_row).tolist():
        rows = of_row == number
        arrays = (survey.places, survey.keys, survey.labels, survey.reasons)
        places, keys, labels, reasons = (array[rows] for array in arrays)
        yield number, Survey(survey.task, survey.file, places, keys, labels, survey.sets, reasons)


# === A range ===


@dataclass
class Settled:
    """The rows of a range, decided on as far as they tell by themselves.

    Attributes:
        addresses: (task, file, places) of each survey, in the order of the rows.
        keys: uint64 [rows, 2], as surveyed.
        labels: int32 [rows], index into `sets`; -1 where there is none.
        sets: what labels these rows have, sorted.
        roles: uint8 [rows], the split that the config names for the row's file; TRAIN for a file that is split by hash,
            ONLY_TRAIN for one that is not.
        verdicts: uint8 [rows]: a split, DUPLICATE, or QUARANTINED + reason.
        distinct: int64, the rows that stand for a text.
    """

    addresses: list[tuple[int, int, numpy.ndarray]]
    keys: numpy.ndarray
    labels: numpy.ndarray
    sets: list[LabelSet]
    roles: numpy.ndarray
    verdicts: numpy.ndarray
    distinct: numpy.ndarray


def settle(surveys: Iterable[Survey], roles: list[int], options: DataOptions) -> Settled:
    """Decides on the rows of a range.

    Args:
        surveys: of all rows of the range, at least one, in any order.
        roles: a file's index -> its rows' role, as in Settled.
        options: shares of the splits.
    """
    surveys = sorted(surveys, key=lambda survey: (survey.file, survey.places[0]))
    sets = sorted({labels for survey in surveys for labels in survey.sets})
    keys = numpy.concatenate([survey.keys for survey in surveys])
    labels = numpy.concatenate([_renumbered(survey, sets) for survey in surveys])
    reasons = numpy.concatenate([survey.reasons for survey in surveys])
    of_rows = [numpy.full(len(survey.reasons), roles[survey.file], numpy.uint8) for survey in surveys]
    row_roles = numpy.concatenate(of_rows)

    verdicts = numpy.where(reasons > 0, QUARANTINED + reasons, DUPLICATE).astype(numpy.uint8)
    good = numpy.flatnonzero(reasons == 0)
    only_train = row_roles[good] == ONLY_TRAIN
    distinct, other_label = _distinct(keys, labels, row_roles, good[~only_train])
    files = numpy.repeat([survey.file for survey in surveys], [len(survey.reasons) for survey in surveys])
    added, disputed = _added(keys, labels, files, good[only_train], good[~only_train])
    distinct, other_label = numpy.concatenate([distinct, added]), numpy.concatenate([other_label, disputed])
    verdicts[other_label] = QUARANTINED + REASONS.index(OTHER_LABEL) + 1
    verdicts[distinct] = _splits(keys[distinct, 0], row_roles[distinct], set(roles), options)
    if options.split.group:
        apart = _apart(keys[distinct, 0], verdicts[distinct])
        verdicts[distinct[apart]] = APART
        distinct = distinct[~apart]
    addresses = [(survey.task, survey.file, survey.places) for survey in surveys]
    return Settled(addresses, keys, labels, sets, row_roles, verdicts, distinct)


def _renumbered(survey: Survey, sets: list[LabelSet]) -> numpy.ndarray:
    places = {labels: place for place, labels in enumerate(sets)}
    table = numpy.asarray([*(places[labels] for labels in survey.sets), -1], numpy.int32)
    return table[survey.labels]


def _distinct(
    keys: numpy.ndarray, labels: numpy.ndarray, roles: numpy.ndarray, rows: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Among some rows: the one that stands for each text, and all rows of texts whose rows differ in their labels.

    A text that a test file has stands in test, else in validation, else in train. Its first row there stands for it.
    """
    if not len(rows):
        return rows, rows
    order = rows[numpy.lexsort((rows, -roles[rows].astype(numpy.int8), keys[rows, 1], keys[rows, 0]))]
    starts = numpy.flatnonzero(numpy.r_[True, (keys[order[1:]] != keys[order[:-1]]).any(axis=1)])
    lowest, highest = numpy.minimum.reduceat(labels[order], starts), numpy.maximum.reduceat(labels[order], starts)
    agree = lowest == highest
    agrees = numpy.repeat(agree, numpy.diff(numpy.r_[starts, len(order)]))
    return order[starts[agree]], order[~agrees]


def _added(
    keys: numpy.ndarray, labels: numpy.ndarray, files: numpy.ndarray, rows: numpy.ndarray, others: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Among rows that only train: those that stand for a text, and those whose text has another label.

    A text that the other files have stays what it is there, so that no row of these changes the test rows. Of several
    files the last one decides: a later span of corrections takes back what an earlier one says.
    """
    as_one = numpy.ascontiguousarray(keys).view([("high", keys.dtype), ("low", keys.dtype)]).ravel()
    known: dict[tuple[int, int], set[int]] = {}
    for row in others[numpy.isin(as_one[others], as_one[rows])].tolist():
        known.setdefault(as_one[row].item(), set()).add(int(labels[row]))
    there = numpy.isin(as_one[rows], as_one[others])
    disputed = [row for row in rows[there].tolist() if known[as_one[row].item()] != {int(labels[row])}]
    new = rows[~there]
    last: dict[tuple[int, int], int] = {}
    for row in new.tolist():  # in the order of the files
        last[as_one[row].item()] = files[row]
    is_last = numpy.asarray([files[row] == last[as_one[row].item()] for row in new.tolist()], bool)
    distinct, other_label = _distinct(keys, labels, numpy.zeros_like(files), new[is_last])
    said = {as_one[row].item(): labels[row] for row in distinct.tolist()}
    disputed += [row for row in new[~is_last].tolist() if labels[row] != said.get(as_one[row].item())]
    return distinct, numpy.concatenate([other_label, numpy.asarray(disputed, rows.dtype)])


def _splits(high: numpy.ndarray, roles: numpy.ndarray, with_files: set[int], options: DataOptions) -> numpy.ndarray:
    """Splits of distinct rows. Rows of a file for one split stay there; hashes decide on the others.

    The lowest hashes fall in test, the next in validation, the rest in train. The interval of a split with files of its
    own goes to the other splits, in their proportions.

    Args:
        high: uint64 [rows], of the keys.
        roles: as in Settled.
        with_files: the splits that have files of their own, and TRAIN.
        options: shares of the splits.
    """
    splits = _by_hash(high, with_files, options)
    splits = numpy.where(roles == TRAIN, splits, roles)
    return numpy.where(roles == ONLY_TRAIN, TRAIN, splits)


def _by_hash(high: numpy.ndarray, with_files: set[int], options: DataOptions) -> numpy.ndarray:
    """Splits that hashes decide on; arguments as those of `_splits`."""
    test = 0.0 if TEST in with_files else options.split.test
    validation = 0.0 if VALIDATION in with_files else options.split.validation
    total = test + validation + options.split.train
    place = high / 2.0**64
    splits = numpy.full(len(high), TRAIN, numpy.uint8)
    splits[place < (test + validation) / total] = VALIDATION
    splits[place < test / total] = TEST
    return splits


def split_by_hash(text: str, text_pair: str | None, options: DataOptions) -> str:
    """The split that a row with this text falls in, once it is one of `data.source`."""
    named = {VALIDATION: options.validation_source, TEST: options.test_source}
    with_files = {split for split, sources in named.items() if sources}
    high = numpy.asarray([row_key(text, text_pair, options).high], numpy.uint64)
    return SPLITS[int(_by_hash(high, with_files, options)[0])]


def _apart(groups: numpy.ndarray, splits: numpy.ndarray) -> numpy.ndarray:
    """Which rows have others of their group in a split that counts more: bool [rows].

    Hashes never part a group, but the config's files for a split can. The test rows stay, then those of validation.
    """
    _, group = numpy.unique(groups, return_inverse=True)
    last = numpy.zeros(len(groups), numpy.uint8)
    numpy.maximum.at(last, group, splits)
    return splits < last[group]


# === All ranges ===


class Candidate(NamedTuple):
    """A row that may be moved into train: its key, and the split where its hash has it."""

    key: TextKey
    split: int


@dataclass
class Summary:
    """What must be known of ranges to decide what depends on all rows.

    Attributes:
        nearest: label -> among its rows that are split by hash, the one whose hash is nearest to train's interval.
        lows: a limited split -> uint64, the lowest sampling hashes of its rows, sorted; no more than can matter.
        lowest: label -> the lowest sampling hash of its rows in train; a label without such rows is missing.
    """

    nearest: dict[str, Candidate] = field(default_factory=dict)
    lows: dict[int, numpy.ndarray] = field(default_factory=dict)
    lowest: dict[str, int] = field(default_factory=dict)


@dataclass
class Agreement:
    """What depends on all rows.

    Attributes:
        moved: label -> the key of the row that goes to train because no other row of the label fell there.
        highest: a limited split -> the highest sampling hash that it still takes; -1 if it takes none by its hash.
        kept: label -> the sampling hash of the row that a limited train takes in any case.
        grouped: whether a limited test takes groups, not rows.
    """

    moved: dict[str, TextKey] = field(default_factory=dict)
    highest: dict[int, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    grouped: bool = False


def _draws(keys: numpy.ndarray, split: int, grouped: bool) -> numpy.ndarray:
    """The sampling hashes of rows in a limited split, uint64 [rows].

    With `data.split.group` those of the test rows are their groups', so that whole groups are taken or left.
    """
    return keys[:, 0] if grouped and split == TEST else keys[:, 1]


def summarise(settled: Settled, options: DataOptions) -> Summary:
    """The summary of one range."""
    keys, labels, splits = (array[settled.distinct] for array in (settled.keys, settled.labels, settled.verdicts))
    grouped = bool(options.split.group)
    made = Summary(lows={split: _draws(keys[splits == split], split, grouped) for split in _limits(options)})
    trained = numpy.flatnonzero(splits == TRAIN)
    for row in _first_of_each(labels, trained[numpy.argsort(keys[trained, 1])]):
        for name in settled.sets[labels[row]]:
            low = int(keys[row, 1])
            made.lowest[name] = min(low, made.lowest.get(name, low))
    by_hash = numpy.flatnonzero(settled.roles[settled.distinct] == TRAIN)
    for row in _first_of_each(labels, by_hash[numpy.argsort(keys[by_hash, 0])[::-1]]):
        for name in settled.sets[labels[row]]:
            candidate = Candidate(TextKey(*keys[row].tolist()), int(splits[row]))
            made.nearest[name] = max(candidate, made.nearest.get(name, candidate))
    return merge([made], options)


def _first_of_each(labels: numpy.ndarray, rows: numpy.ndarray) -> list[int]:
    """The first row of each set of labels, among some rows in an order."""
    _, places = numpy.unique(labels[rows], return_index=True)
    return rows[places].tolist()


def merge(summaries: Iterable[Summary], options: DataOptions) -> Summary:
    """The summary of several ranges together; without a range, that of no rows."""
    summaries, merged = list(summaries), Summary()
    for summary in summaries:
        for name, candidate in summary.nearest.items():
            merged.nearest[name] = max(candidate, merged.nearest.get(name, candidate))
        for name, low in summary.lowest.items():
            merged.lowest[name] = min(low, merged.lowest.get(name, low))
    for split, limit in _limits(options).items():
        lows = [numpy.zeros(0, numpy.uint64), *(summary.lows[split] for summary in summaries)]
        lows = numpy.sort(numpy.concatenate(lows))
        # Each label may add a row or take one away.
        merged.lows[split] = lows[: limit + len(merged.nearest) + len(merged.lowest)]
    return merged


def agree(summary: Summary, options: DataOptions) -> Agreement:
    """Decides what depends on all rows.

    A label without a row in train gets one there: the row whose hash is nearest to train's interval. No other row
    moves, and this one goes back as soon as another row of the label falls in train by its hash; with
    `data.split.group` none moves, since that would part a group. A limited split takes the rows with the lowest
    sampling hashes; train first takes one row of each label.
    """
    grouped = bool(options.split.group)
    moved = {name: nearest for name, nearest in summary.nearest.items() if name not in summary.lowest and not grouped}
    leaving = {candidate.key.low for candidate in moved.values()}
    lows = {split: [low for low in of_split.tolist() if low not in leaving] for split, of_split in summary.lows.items()}
    if TRAIN in lows:
        lows[TRAIN] = sorted([*lows[TRAIN], *leaving])
    lowest = summary.lowest | {name: candidate.key.low for name, candidate in moved.items()}
    highest, kept = {}, {}
    for split, limit in _limits(options).items():
        if len(lows[split]) <= limit:
            continue
        others = lows[split]
        if split == TRAIN:
            kept = dict(sorted(lowest.items(), key=lambda item: item[1])[:limit])
            firsts = set(lowest.values())
            others = [low for low in others if low not in firsts]
            limit -= len(set(kept.values()))  # a row with several labels can stand for each of them
        whole = bisect.bisect_left(others, others[limit]) if limit else 0  # without the rows of a group that is cut
        highest[split] = others[whole - 1] if whole else -1
    return Agreement({name: candidate.key for name, candidate in moved.items()}, highest, kept, grouped)


def _limits(options: DataOptions) -> dict[int, int]:
    limits = (options.limits.train, options.limits.validation, options.limits.test)
    return {split: limit for split, limit in enumerate(limits) if limit is not None}


# === The verdicts ===


@dataclass
class Verdicts:
    """What happens to some rows of a file.

    Attributes:
        file: its index.
        places: int64 [rows], as surveyed.
        verdicts: uint8 [rows]: a split, DUPLICATE, NOT_SAMPLED, or QUARANTINED + reason.
    """

    file: int
    places: numpy.ndarray
    verdicts: numpy.ndarray


@dataclass
class Counts:
    """Numbers for the report.

    Attributes:
        verdicts: verdict -> rows.
        distinct: labels -> rows that stand for a text.
        splits: (split, labels) -> rows.
    """

    verdicts: Counter[int] = field(default_factory=Counter)
    distinct: Counter[LabelSet] = field(default_factory=Counter)
    splits: Counter[tuple[int, LabelSet]] = field(default_factory=Counter)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.verdicts + other.verdicts, self.distinct + other.distinct, self.splits + other.splits)


def finish(settled: Settled, agreement: Agreement) -> tuple[list[tuple[int, Verdicts]], Counts]:
    """The verdicts on the rows of a range, by the number of their task, and their counts."""
    distinct, verdicts = settled.distinct, settled.verdicts.copy()
    keys, labels = settled.keys[distinct], settled.labels[distinct]
    names = {name for of_rows in settled.sets for name in of_rows}
    moved = {agreement.moved[name] for name in names if name in agreement.moved}
    for row in numpy.flatnonzero(numpy.isin(keys[:, 0], numpy.asarray([key.high for key in moved], numpy.uint64))):
        if tuple(keys[row].tolist()) in moved:
            verdicts[distinct[row]] = TRAIN
    for split, highest in agreement.highest.items():
        refused = verdicts[distinct] == split
        if highest >= 0:
            refused &= _draws(keys, split, agreement.grouped) > numpy.uint64(highest)
        if split == TRAIN:
            refused &= ~numpy.isin(keys[:, 1], numpy.asarray(list(agreement.kept.values()), numpy.uint64))
        verdicts[distinct[refused]] = NOT_SAMPLED

    counts = Counts(verdicts=_counted(verdicts))
    counts.distinct = Counter({settled.sets[label]: rows for label, rows in _counted(labels).items()})
    for split in range(len(SPLITS)):
        of_split = _counted(settled.labels[verdicts == split])
        counts.splits.update({(split, settled.sets[label]): rows for label, rows in of_split.items()})
    ends = numpy.cumsum([len(places) for _, _, places in settled.addresses])[:-1]
    by_survey = zip(settled.addresses, numpy.split(verdicts, ends), strict=True)
    return [(task, Verdicts(file, places, of_rows)) for (task, file, places), of_rows in by_survey], counts


def _counted(values: numpy.ndarray) -> Counter[int]:
    distinct, times = numpy.unique(values, return_counts=True)
    return Counter(dict(zip(distinct.tolist(), times.tolist(), strict=True)))


def report(counts: Counts, agreement: Agreement, options: DataOptions) -> dict[str, Any]:
    """What ingest.json says of the rows.

    Its labels are in their stable order: the config's, or else sorted. A label with all rows in quarantine is left out
    unless the config lists it. A row counts for each of its labels; `split_rows` counts it once.
    """
    distinct = _by_label(counts.distinct)
    by_split = [Counter() for _ in SPLITS]
    for (split, labels), rows in counts.splits.items():
        by_split[split][labels] += rows
    splits = {of: _by_label(of_split) for of, of_split in zip(SPLITS, by_split, strict=True)}
    names = options.known_labels or sorted(distinct)
    refused = ((reason, counts.verdicts[QUARANTINED + code]) for code, reason in enumerate(REASONS, start=1))
    return {
        "rows": counts.verdicts.total(),
        "distinct": counts.distinct.total(),
        "duplicates": counts.verdicts[DUPLICATE],
        "not_sampled": counts.verdicts[NOT_SAMPLED],
        "quarantined": {reason: count for reason, count in refused if count},
        "labels": {name: distinct[name] for name in names},
        "unlabelled": counts.distinct[()],
        "splits": {of: {name: of_split[name] for name in names} for of, of_split in splits.items()},
        "split_rows": {of: of_split.total() for of, of_split in zip(SPLITS, by_split, strict=True)},
        "moved_to_train": [name for name in names if name in agreement.moved],
    }


def _by_label(rows_of: Counter[LabelSet]) -> Counter[str]:
    """Rows by label, from rows by set of labels."""
    counts: Counter[str] = Counter()
    for labels, rows in rows_of.items():
        counts.update(dict.fromkeys(labels, rows))
    return counts
