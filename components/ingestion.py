"""Ingestion's two passes over the rows, for Beam to spread over its workers.

The first keeps 16 bytes of hash a row, from which `splitting.plan` decides on every row at once; the second writes the
rows where they belong. This module imports no TFX and no Keras, and so a worker process is up in a third of
the time.
"""

import csv
import io
import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import apache_beam as beam
import numpy

from components import shards, sources, splitting
from components.errors import LineError
from components.object_store import brought
from components.options import DataOptions
from models import features
from models.features import SPLITS
from serving.runtime import tf

QUARANTINE_FILE = "quarantine.csv"
REPORT_FILE = "ingest.json"

SURVEYED_ROWS = 16_384  # rows whose hashes travel together: few elements, each below a megabyte
ROWS_A_SHARD = 20_000  # later stages spread shards: half a second of work each, so that workers end together


class Task(NamedTuple):
    """Files that one worker reads, with their indexes, and where it writes.

    `folder` is what the files lie below here, a copy of `base_folder` where that is an object store's.
    """

    files: list[tuple[int, sources.SourceFile]]
    options: DataOptions
    examples_uri: str
    folder: str
    base_folder: str

    def read(self, file: sources.SourceFile) -> Iterator[sources.Row]:
        """The rows of one of the files, which a worker on another machine brings itself."""
        with brought(file.path, self.folder, self.base_folder) as path:
            yield from sources.read(file._replace(path=path), self.options)


class Unreadable(NamedTuple):
    """A file that turned out damaged half way, by its index."""

    file: int
    message: str


class Written(NamedTuple):
    """What the second pass has done with a task: shards by their names, or lines of a file for quarantine.csv.

    `first` is the place in the file of the first row that was read, from 0.
    """

    file: int
    first: int
    shards: list[str]
    refused: list[tuple[str, ...]]


def passes(
    pipeline: beam.Pipeline, tasks: list[Task], roles: list[int], options: DataOptions, quarantine_uri: str
) -> None:
    """Adds both passes to a Beam pipeline.

    Args:
        pipeline: where they run.
        tasks: all files; an element each.
        roles: a file's index -> the split it was given for.
        options: as the tasks'.
        quarantine_uri: where quarantine.csv and ingest.json are written; the workers must reach it.
    """
    work = shards.spread(pipeline, tasks)
    surveys = work | "Survey" >> beam.FlatMap(survey)
    start = pipeline | "Start" >> beam.Create([None])
    decided = start | "Plan" >> beam.Map(_decide, beam.pvalue.AsIter(surveys), roles, options)
    written = work | "Write" >> beam.FlatMap(write, beam.pvalue.AsSingleton(decided))
    _ = start | "Quarantine" >> beam.Map(
        _write_quarantine, beam.pvalue.AsIter(written), beam.pvalue.AsSingleton(decided), quarantine_uri
    )


def _decide(_: None, surveys: Iterable[splitting.Survey | Unreadable], roles: list[int], options: DataOptions):
    surveys = list(surveys)
    unreadable = [item.message for item in sorted(item for item in surveys if isinstance(item, Unreadable))]
    decided = splitting.plan([item for item in surveys if isinstance(item, splitting.Survey)], roles, options)
    decided.report["unreadable"] = unreadable
    return decided


# === First pass ===


class Parsed(NamedTuple):
    """A row as ingestion sees it: either a fault, or texts and label."""

    text: str
    text_pair: str | None
    label: str
    fault: sources.Fault | None = None


def parse(row: sources.Row, options: DataOptions) -> Parsed:
    """Checks what a reader cannot know: that text and label are there, and the label is one of those listed."""
    if row.fault:
        return Parsed("", None, "", row.fault)
    text, *others = (value or "" for value in row.values)
    text_pair = others.pop(0) if options.text_pair else None
    label = others[0].strip()
    fault = None
    if not text.strip() or (text_pair is not None and not text_pair.strip()):
        column = options.text if not text.strip() else options.text_pair
        fault = sources.Fault(splitting.EMPTY_TEXT, f"column {column!r} is empty", text or text_pair or "")
    elif not label:
        fault = sources.Fault(splitting.MISSING_LABEL, f"column {options.label!r} is empty", text)
    elif options.labels is not None and label not in options.labels:
        fault = sources.Fault(splitting.UNKNOWN_LABEL, f"{label[:60]!r} is not among data.labels", text)
    return Parsed(text, text_pair, label, fault)


def survey(task: Task) -> Iterator[splitting.Survey | Unreadable]:
    """Hashes, labels and faults of a task's rows, SURVEYED_ROWS at a time."""
    for index, file in task.files:
        batch: list[tuple[splitting.TextKey, str, int]] = []
        first = file.first
        try:
            for row in task.read(file):
                parsed = parse(row, task.options)
                if parsed.fault:
                    batch.append((NO_KEY, "", splitting.REASONS.index(parsed.fault.reason) + 1))
                else:
                    batch.append((splitting.text_key(parsed.text, parsed.text_pair), parsed.label, 0))
                if len(batch) == SURVEYED_ROWS:
                    yield _packed(index, first, batch)
                    first += len(batch)
                    batch = []
        except LineError as error:
            yield Unreadable(index, str(error))
        if batch:
            yield _packed(index, first, batch)


NO_KEY = splitting.TextKey(0, 0)


def _packed(file: int, first: int, batch: list[tuple[splitting.TextKey, str, int]]) -> splitting.Survey:
    keys, labels, reasons = zip(*batch, strict=True)
    names = sorted({label for label, reason in zip(labels, reasons, strict=True) if not reason})
    places = {name: place for place, name in enumerate(names)}
    return splitting.Survey(
        file=file,
        first=first,
        keys=numpy.asarray(keys, numpy.uint64),
        labels=numpy.asarray([places.get(label, -1) for label in labels], numpy.int32),
        names=names,
        reasons=numpy.asarray(reasons, numpy.uint8),
    )


# === Second pass ===


def write(task: Task, plan: splitting.Plan) -> Iterator[Written]:
    """Writes a task's rows to their splits; Beam may call it again for a task whose worker was lost, or at once."""
    if plan.report["unreadable"]:
        return
    written = {split: _Shards(task, name) for split, name in enumerate(SPLITS)}
    for index, file in task.files:
        refused = []
        end = None if file.rows is None else file.first + file.rows
        for row, verdict in zip(task.read(file), plan.verdicts[index][file.first : end].tolist(), strict=True):
            if verdict in written:
                written[verdict].write(_example(row, file, task.options))
            elif verdict >= splitting.QUARANTINED:
                refused.append(_refusal(row, file, task.options))
        if refused:
            yield Written(index, file.first, [], refused)
    for of_split in written.values():
        of_split.close()
    (index, file), *_ = task.files
    yield Written(index, file.first, [name for of_split in written.values() for name in of_split.names], [])


class _Shards:
    """Files of one split that hold a task's rows, in the order of the source, each named after what it holds."""

    def __init__(self, task: Task, split: str):
        self.names: list[str] = []
        (index, file), *_ = task.files
        self._uri, self._split, self._stem = task.examples_uri, split, f"data_tfrecord-{index:05d}-{file.first:010d}"
        self._open = ExitStack()
        self._rows = 0

    def write(self, record: bytes) -> None:
        if self._rows % ROWS_A_SHARD == 0:
            self.close()
            name = f"{self._stem}-{len(self.names):05d}{shards.ENDING}"
            self._writer = self._open.enter_context(shards.writing(self._uri, self._split, name))
            self.names.append(f"Split-{self._split}/{name}")
        self._writer.write(record)
        self._rows += 1

    def close(self) -> None:
        self._open.close()


def _example(row: sources.Row, file: sources.SourceFile, options: DataOptions) -> bytes:
    parsed = parse(row, options)
    values = {
        features.TEXT: parsed.text,
        features.LABEL: parsed.label,
        features.ROW_ID: splitting.text_key(parsed.text, parsed.text_pair).row_id,
        features.SOURCE: f"{file.name}:{row.number}",
    }
    if parsed.text_pair is not None:
        values[features.TEXT_PAIR] = parsed.text_pair
    columns = dict(zip(sources.used_columns(options), row.values, strict=True))
    values.update({name: columns[name] or "" for name in options.keep if name not in features.RESERVED})
    example = tf.train.Example()
    for name, value in values.items():
        example.features.feature[name].bytes_list.value.append(value.encode())
    return example.SerializeToString(deterministic=True)  # a map has no order of its own


def _refusal(row: sources.Row, file: sources.SourceFile, options: DataOptions) -> tuple[str, ...]:
    parsed = parse(row, options)
    fault = parsed.fault or sources.Fault(splitting.OTHER_LABEL, f"here {parsed.label!r}", parsed.text)
    return file.name, str(row.number), fault.reason, fault.detail, fault.excerpt[: sources.EXCERPT_CHARACTERS]


def _write_quarantine(_: None, written: Iterable[Written], plan: splitting.Plan, uri: str) -> None:
    """quarantine.csv, sorted by file and row, and ingest.json, with the names of all shards."""
    done = sorted(written, key=lambda each: (each.file, each.first))
    with _whole(uri, QUARANTINE_FILE) as stream:
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(("file", "row", "reason", "detail", "text"))
        for each in done:
            writer.writerows(each.refused)
            stream.write(table.getvalue())
            table.seek(0)
            table.truncate()
        stream.write(table.getvalue())
    report = {**plan.report, "shards": sorted(name for each in done for name in each.shards)}
    with _whole(uri, REPORT_FILE) as stream:
        stream.write(json.dumps(report, indent=2, ensure_ascii=False))


@contextmanager
def _whole(uri: str, name: str) -> Iterator[Any]:
    """A file to write to that has its name once it is whole, as shards.writing has it."""
    half = f"{uri}/{shards.UNFINISHED}/{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(f"{uri}/{shards.UNFINISHED}")
    with tf.io.gfile.GFile(half, "w") as stream:
        yield stream
    tf.io.gfile.rename(half, f"{uri}/{name}", overwrite=True)
