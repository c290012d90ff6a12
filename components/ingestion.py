"""Ingestion's two passes over the rows, for Beam to spread over its workers.

The first keeps 16 bytes of hash per row. From them `splitting` decides on every row, one range of the hash at a time.
The second pass writes the rows where they belong. This module imports no TFX and no Keras, so a worker that an engine
starts is up in a third of the time.
"""

import csv
import io
import json
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import apache_beam as beam
import numpy
from apache_beam.pvalue import TaggedOutput

from bertline.components import shards, splitting
from bertline.components.data import formats, label_cells, spellings
from bertline.components.data.columns import joined, used_columns
from bertline.components.data.reader import SourceFile
from bertline.components.data.rows import EXCERPT_CHARACTERS, Fault, Row
from bertline.components.object_store import fetched
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models import features
from bertline.models.features import SPLITS
from bertline.serving.runtime import tf

QUARANTINE_FILE = "quarantine.csv"
INGEST_FILE = "ingest.json"

SURVEYED_ROWS = 16_384  # rows whose hashes travel together: few elements, each below a megabyte
ROWS_PER_SHARD = 20_000  # half a second of work in later stages, so that their workers end together


class Task(NamedTuple):
    """Files that one worker reads, with their indexes, and where it writes.

    `number` is the task's own. The files lie below `folder`, which is a copy of `base_folder` where that is in an
    object store.
    """

    number: int
    files: list[tuple[int, SourceFile]]
    options: DataOptions
    examples_uri: str
    folder: str
    base_folder: str

    def read(self, file: SourceFile) -> Iterator[Row]:
        """The rows of one of the files. A worker on another machine fetches the file first."""
        with fetched(file.path, self.folder, self.base_folder) as path:
            yield from formats.read(file._replace(path=path), self.options)


class Unreadable(NamedTuple):
    """A file that turned out to be damaged half way: its index, and what is wrong."""

    file: int
    message: str


class Written(NamedTuple):
    """What the second pass did with a task: the names of its shards, or a file's lines for quarantine.csv.

    With the shards come the doubts about the task's rows, each with the number of its rows, and the used entries of
    `data.label_map` with theirs. `first` is the place in the file of the first row that was read, from 0.
    """

    file: int
    first: int
    shards: list[str]
    refused: list[tuple[str, ...]]
    doubts: dict[str, int]
    mapped: dict[str, int]


def passes(
    pipeline: beam.Pipeline,
    tasks: list[Task],
    roles: list[int],
    options: DataOptions,
    quarantine_uri: str,
    *,
    ranges: int,
) -> None:
    """Adds both passes to a Beam pipeline.

    Args:
        pipeline: where they run.
        tasks: of all files; Beam gets one element for each.
        roles: a file's index -> the split it was given for.
        options: as the tasks'.
        quarantine_uri: where quarantine.csv and ingest.json are written; the workers must reach it.
        ranges: number of ranges of the hash; a worker holds one at a time, some 150 bytes per row.
    """
    work = shards.spread(pipeline, tasks)
    surveys, unreadable = work | "Survey" >> beam.FlatMap(survey).with_outputs(UNREADABLE, main=MAIN)
    settled = (
        surveys
        | "Deal" >> beam.FlatMap(splitting.by_range, ranges)
        | "Ranges" >> beam.GroupByKey()
        | "Settle" >> beam.MapTuple(lambda _, dealt: splitting.settle(dealt, roles, options))
    )
    agreement = (
        settled
        | "Summarise" >> beam.Map(splitting.summarise, options)
        | "Merge" >> beam.CombineGlobally(partial(splitting.merge, options=options)).without_defaults()
        | "Agree" >> beam.Map(splitting.agree, options)
    )
    agreed = beam.pvalue.AsSingleton(agreement, splitting.Agreement())  # there may be no row at all
    verdicts, counts = settled | "Finish" >> beam.FlatMap(finish, agreed).with_outputs(COUNTS, main=MAIN)
    numbered = work | "Number" >> beam.WithKeys(lambda task: task.number)
    written = (
        (numbered, verdicts)
        | beam.Flatten()
        | "Tasks" >> beam.GroupByKey()
        | "Write" >> beam.FlatMap(write, beam.pvalue.AsIter(unreadable))
    )
    gathered = (beam.pvalue.AsIter(results) for results in (written, counts, unreadable))
    start = pipeline | "Start" >> beam.Create([None])
    _ = start | "Report" >> beam.Map(_write_report, *gathered, agreed, options, quarantine_uri)


# === First pass ===


class Parsed(NamedTuple):
    """A row as ingestion sees it: its texts and labels, or a fault. Without `data.multi_label` it has one label.

    `cells` says how the file writes the labels.
    """

    text: str
    text_pair: str | None
    labels: splitting.LabelSet
    fault: Fault | None = None
    cells: label_cells.Cells = label_cells.Cells()


def parse(row: Row, options: DataOptions) -> Parsed:
    """Checks what a reader cannot know: that text and label are there, and that the labels are among those listed."""
    if row.fault:
        return Parsed("", None, (), row.fault)
    parts = len(options.text_columns) + bool(options.text_pair)
    text, text_pair, fault = texts(row.values[:parts], options)  # values are in the order of used_columns
    cells = label_cells.read(["" if value is None else value for value in row.values[parts:]], options)
    if fault:
        return Parsed(text, text_pair, cells.labels, fault, cells)
    if cells.left_out is not None:
        fault = Fault(splitting.LEFT_OUT, f"column {options.label!r}: {cells.left_out[:60]!r}", text)
    elif cells.fault:
        fault = Fault(splitting.MISSING_LABEL, cells.fault, text)
    elif options.labels is not None and (unknown := [name for name in cells.labels if name not in options.labels]):
        fault = Fault(
            splitting.UNKNOWN_LABEL, f"column {options.label!r}: {unknown[0][:60]!r} is not among data.labels", text
        )
    return Parsed(text, text_pair, cells.labels, fault, cells)


def texts(values: Sequence[str | None], options: DataOptions) -> tuple[str, str | None, Fault | None]:
    """A row's text, the second text of a pair, and what is wrong with them.

    Args:
        values: of the text columns, then of the second text's, if rows are pairs.
        options: name these columns.
    """
    parts = len(options.text_columns)
    text = joined(values[:parts], options)
    text_pair = (values[parts] or "") if options.text_pair else None
    if text.strip() and (text_pair is None or text_pair.strip()):
        return text, text_pair, None
    names = options.text_columns if not text.strip() else [options.text_pair]
    columns = " and ".join(f"column {name!r}" for name in names)
    detail = f"{columns} {'is' if len(names) == 1 else 'are'} empty"
    return text, text_pair, Fault(splitting.EMPTY_TEXT, detail, text or text_pair or "")


MAIN, UNREADABLE, COUNTS = "main", "unreadable", "counts"  # Beam's outputs


def survey(task: Task) -> Iterator[splitting.Survey | TaggedOutput[Literal["unreadable"], Unreadable]]:
    """Hashes, labels and faults of a task's rows, SURVEYED_ROWS at a time; for a damaged file an Unreadable."""
    for index, file in task.files:
        batch: list[tuple[splitting.TextKey, splitting.LabelSet, int]] = []
        first = file.first
        try:
            for row in task.read(file):
                parsed = parse(row, task.options)
                if parsed.fault:
                    batch.append((NO_KEY, (), splitting.REASONS.index(parsed.fault.reason) + 1))
                else:
                    key = splitting.row_key(parsed.text, parsed.text_pair, task.options)
                    batch.append((key, parsed.labels, 0))
                if len(batch) == SURVEYED_ROWS:
                    yield _packed(task.number, index, first, batch)
                    first += len(batch)
                    batch = []
        except UserError as error:
            yield TaggedOutput(UNREADABLE, Unreadable(index, str(error)))
        if batch:
            yield _packed(task.number, index, first, batch)


NO_KEY = splitting.TextKey(0, 0)


def _packed(
    task: int, file: int, first: int, batch: list[tuple[splitting.TextKey, splitting.LabelSet, int]]
) -> splitting.Survey:
    keys, labels, reasons = zip(*batch, strict=True)
    sets = sorted({of_row for of_row, reason in zip(labels, reasons, strict=True) if not reason})
    places = {labels: place for place, labels in enumerate(sets)}
    return splitting.Survey(
        task=task,
        file=file,
        places=numpy.arange(first, first + len(batch)),
        keys=numpy.asarray(keys, numpy.uint64),
        labels=numpy.asarray(
            [-1 if reason else places[of_row] for of_row, reason in zip(labels, reasons, strict=True)], numpy.int32
        ),
        sets=sets,
        reasons=numpy.asarray(reasons, numpy.uint8),
    )


# === Between the passes ===


def finish(
    settled: splitting.Settled, agreement: splitting.Agreement
) -> Iterator[tuple[int, splitting.Verdicts] | TaggedOutput[Literal["counts"], splitting.Counts]]:
    """The verdicts on the rows of a range, by the number of their task; and as COUNTS what they add up to."""
    verdicts, counts = splitting.finish(settled, agreement)
    yield TaggedOutput(COUNTS, counts)
    yield from verdicts


# === Second pass ===


def write(
    grouped: tuple[int, Iterable[Task | splitting.Verdicts]], unreadable: Iterable[Unreadable]
) -> Iterator[Written]:
    """Writes a task's rows to their splits, by their verdicts.

    Beam may call it twice for a task: again when a worker was lost, or twice at a time.

    Args:
        grouped: a task's number, and under it the task and the verdicts on its rows.
        unreadable: damaged files; if there are any, nothing is written.
    """
    if any(True for _ in unreadable):
        return
    members = list(grouped[1])
    (task,) = (member for member in members if isinstance(member, Task))
    verdicts = _by_file(member for member in members if isinstance(member, splitting.Verdicts))
    shards_of = {split: _Shards(task, name) for split, name in enumerate(SPLITS)}
    doubts: Counter[str] = Counter()
    mapped: Counter[str] = Counter()
    for index, file in task.files:
        refused = []
        for row, verdict in zip(task.read(file), verdicts.get(index, []), strict=True):
            parsed = parse(row, task.options)
            doubts.update(_doubts(row, parsed))
            mapped.update(label for label in parsed.cells.spelt if label in task.options.label_map)
            if verdict in shards_of:
                shards_of[verdict].write(_example(row, parsed, file, task.options))
            elif verdict >= splitting.QUARANTINED:
                refused.append(_refusal(row, parsed, verdict, file, task.options))
        if refused:
            yield Written(index, file.first, [], refused, {}, {})
    for written in shards_of.values():
        written.close()
    (index, file), *_ = task.files
    names = [name for written in shards_of.values() for name in written.names]
    yield Written(index, file.first, names, [], doubts, mapped)


def _doubts(row: Row, parsed: Parsed) -> list[str]:
    return [doubt for doubt in (row.doubt, spellings.RECOMPOSED if parsed.cells.recomposed else None) if doubt]


def _by_file(of_ranges: Iterable[splitting.Verdicts]) -> dict[int, list[int]]:
    """A file's index -> the verdicts on the rows of a task, in the order of the file."""
    by_file: dict[int, list[splitting.Verdicts]] = {}
    for verdicts in of_ranges:
        by_file.setdefault(verdicts.file, []).append(verdicts)
    ordered = {}
    for file, members in by_file.items():
        order = numpy.argsort(numpy.concatenate([verdicts.places for verdicts in members]))
        ordered[file] = numpy.concatenate([verdicts.verdicts for verdicts in members])[order].tolist()
    return ordered


class _Shards:
    """The shards of one split with a task's rows, in the order of the source. Their names say which rows they hold."""

    def __init__(self, task: Task, split: str):
        self.names: list[str] = []
        (index, file), *_ = task.files
        self._uri, self._split, self._stem = task.examples_uri, split, f"data_tfrecord-{index:05d}-{file.first:010d}"
        self._open = ExitStack()
        self._rows = 0

    def write(self, record: bytes) -> None:
        if self._rows % ROWS_PER_SHARD == 0:
            self.close()
            name = f"{self._stem}-{len(self.names):05d}{shards.ENDING}"
            self._writer = self._open.enter_context(shards.writing(self._uri, self._split, name))
            self.names.append(f"Split-{self._split}/{name}")
        self._writer.write(record)
        self._rows += 1

    def close(self) -> None:
        self._open.close()


def _example(row: Row, parsed: Parsed, file: SourceFile, options: DataOptions) -> bytes:
    values = {
        features.TEXT: parsed.text,
        features.ROW_ID: splitting.row_key(parsed.text, parsed.text_pair, options).row_id,
        features.SOURCE: f"{file.name}:{row.number}",
    }
    if parsed.text_pair is not None:
        values[features.TEXT_PAIR] = parsed.text_pair
    if options.keep:
        columns = dict(zip(used_columns(options), row.values, strict=True))
        if options.multi_label is None:
            columns[options.label] = parsed.labels[0]  # so that slices by it have the model's names
        values.update({name: columns[name] or "" for name in options.keep if name not in features.RESERVED})
    example = tf.train.Example()
    for name, value in values.items():
        example.features.feature[name].bytes_list.value.append(value.encode())
    example.features.feature[features.LABEL].bytes_list.value.extend(label.encode() for label in parsed.labels)
    return example.SerializeToString(deterministic=True)  # a map has no order of its own


def _refusal(row: Row, parsed: Parsed, verdict: int, file: SourceFile, options: DataOptions) -> tuple[str, ...]:
    fault = parsed.fault
    if verdict == splitting.APART:
        detail = f"data.split.group: other rows with this {options.split.group} are in a file of another split"
        fault = Fault(splitting.OTHER_SPLIT, detail, parsed.text)
    elif not fault:
        fault = Fault(splitting.OTHER_LABEL, label_cells.contradiction(parsed.labels, options), parsed.text)
    return file.name, str(row.number), fault.reason, fault.detail, fault.excerpt[:EXCERPT_CHARACTERS]


def _write_report(
    _: None,
    written: Iterable[Written],
    counts: Iterable[splitting.Counts],
    unreadable: Iterable[Unreadable],
    agreement: splitting.Agreement,
    options: DataOptions,
    uri: str,
) -> None:
    """Writes quarantine.csv, sorted by file and row, and ingest.json, with the names of all shards."""
    done = sorted(written, key=lambda part: (part.file, part.first))
    with _whole(uri, QUARANTINE_FILE) as stream:
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(("file", "row", "reason", "detail", "text"))
        for part in done:
            writer.writerows(part.refused)
            stream.write(table.getvalue())
            table.seek(0)
            table.truncate()
        stream.write(table.getvalue())
    report = {
        **splitting.report(sum(counts, splitting.Counts()), agreement, options),
        "unreadable": [file.message for file in sorted(unreadable)],
        "doubts": dict(sorted(sum((Counter(part.doubts) for part in done), Counter()).items())),
        "label_map": _rows_of_map((part.mapped for part in done), options),
        "shards": sorted(name for part in done for name in part.shards),
    }
    with _whole(uri, INGEST_FILE) as stream:
        stream.write(json.dumps(report, indent=2, ensure_ascii=False))


def _rows_of_map(mapped: Iterable[dict[str, int]], options: DataOptions) -> list[dict[str, Any]]:
    """Each entry of `data.label_map` with its rows, which may be none."""
    rows = sum(map(Counter, mapped), Counter())
    return [{"from": spelling, "to": name, "rows": rows[spelling]} for spelling, name in options.label_map.items()]


@contextmanager
def _whole(uri: str, name: str) -> Iterator[Any]:
    """A file to write to, which gets its name once it is whole, like those of `shards.writing`."""
    unfinished = f"{uri}/{shards.UNFINISHED}/{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(f"{uri}/{shards.UNFINISHED}")
    with tf.io.gfile.GFile(unfinished, "w") as stream:
        yield stream
    tf.io.gfile.rename(unfinished, f"{uri}/{name}", overwrite=True)
