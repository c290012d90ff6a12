"""Ingestion: from the users' files to Examples in three splits, and a quarantine of the rows that cannot be used.

The files are read twice. The first pass keeps 16 bytes of hash a row, from which `splitting.plan` decides on every row
at once; the second writes the rows where they belong. So texts stream through and are never grouped or held.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy
import tensorflow as tf
from tfx.components.util import examples_utils
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_artifacts

from components import sources, spans, splitting
from components.artifacts import Quarantine
from components.errors import LineError
from components.object_store import local_copy
from components.options import DataOptions
from models import features
from models.features import SPLITS

LABELS_FILE = "labels.txt"
QUARANTINE_FILE = "quarantine.csv"
REPORT_FILE = "ingest.json"

SURVEYED_ROWS = 16_384  # rows whose hashes travel together: few elements, each below a megabyte
ROWS_A_SHARD = 100_000  # so that later stages can read a large split in parallel
BYTES_A_TASK = 64 * 1024 * 1024  # small files are read together, so that 2,000 of them do not become 6,000 shards
SHOWN_EXAMPLES = 3


@component(use_beam=True)
def ExampleGen(
    examples: OutputArtifact[standard_artifacts.Examples],
    quarantine: OutputArtifact[Quarantine],
    data: Parameter[str],
    base_folder: Parameter[str],
    fingerprint: Parameter[str],
    quarantine_folder: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Reads, checks, splits and writes the rows.

    Args:
        examples: splits train, validation and test of tf.Example (see models/features.py), and labels.txt: the label
            names in their stable order, a JSON string a line.
        quarantine: quarantine.csv (file, row, reason, detail, text) and ingest.json (counts by reason, split, label).
        data: DataOptions as JSON.
        base_folder: where relative paths of the sources start; what is in an object store is copied here whole.
        fingerprint: `sources.fingerprint` of the files; a cached run of other contents is not taken for this one.
        quarantine_folder: where quarantine.csv is copied to, also when the stage fails and its artifacts are removed.
        beam_pipeline: given by TFX.

    Raises:
        LineError: a file cannot be read, too many rows are in quarantine, or what is left does not make three splits
            of at least two labels.
    """
    options = DataOptions.model_validate_json(data)
    with local_copy(base_folder) as folder:
        files, roles = _files(options, folder)
        tasks = [Task(task, options, examples.uri) for task in _grouped(files)]
        with beam_pipeline as pipeline:
            _build(pipeline, tasks, files, roles, options, quarantine.uri)
    report = json.loads(_read(f"{quarantine.uri}/{REPORT_FILE}"))
    saved = _save_quarantine(quarantine.uri, quarantine_folder)
    stop = why_not(report, options, saved)
    if stop:
        raise LineError(stop)
    _describe(examples, report, fingerprint)
    taken = spans.window(options.source, base_folder, options.newest_spans)
    quarantine.set_string_custom_property("summary", summary(report) + described(taken))


def _files(options: DataOptions, base_folder: str) -> tuple[list[sources.SourceFile], list[int]]:
    """All files, and for each the split it was given for."""
    files, roles = [], []
    given = ((options.source, splitting.TRAIN), (options.validation_source, splitting.VALIDATION))
    for patterns, role in (*given, (options.test_source, splitting.TEST)):
        for file in sources.expand(patterns or [], base_folder, options.format, options.newest_spans):
            sources.check(file, options)
            files.append(file)
            roles.append(role)
    return files, roles


# === The two passes, in Beam ===


class Task(NamedTuple):
    """Files that one worker reads, with their indexes, and where it writes."""

    files: list[tuple[int, sources.SourceFile]]
    options: DataOptions
    examples_uri: str


class Unreadable(NamedTuple):
    """A file that turned out damaged half way."""

    message: str


def _grouped(files: list[sources.SourceFile]) -> list[list[tuple[int, sources.SourceFile]]]:
    """Neighbouring files in groups of at most BYTES_A_TASK, or of one larger file."""
    groups: list[list[tuple[int, sources.SourceFile]]] = []
    room = 0
    for index, file in enumerate(files):
        size = Path(file.path).stat().st_size
        if size > room:
            groups.append([])
            room = BYTES_A_TASK
        groups[-1].append((index, file))
        room -= size
    return groups


def _build(
    pipeline: beam.Pipeline,
    tasks: list[Task],
    files: list[sources.SourceFile],
    roles: list[int],
    options: DataOptions,
    quarantine_uri: str,
) -> None:
    work = pipeline | "Tasks" >> beam.Create(tasks) | "Spread" >> beam.Reshuffle()
    surveys = work | "Survey" >> beam.FlatMap(survey)
    start = pipeline | "Start" >> beam.Create([None])
    decided = start | "Plan" >> beam.Map(_decide, beam.pvalue.AsIter(surveys), roles, options)
    lines = work | "Write" >> beam.FlatMap(write, beam.pvalue.AsSingleton(decided))
    _ = start | "Quarantine" >> beam.Map(
        _write_quarantine, beam.pvalue.AsIter(lines), beam.pvalue.AsSingleton(decided), quarantine_uri
    )


def _decide(_: None, surveys: Iterable[splitting.Survey | Unreadable], roles: list[int], options: DataOptions):
    surveys = list(surveys)
    unreadable = [item.message for item in surveys if isinstance(item, Unreadable)]
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
        first = 0
        try:
            for row in sources.read(file, task.options):
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
            yield Unreadable(str(error))
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


def write(task: Task, plan: splitting.Plan) -> Iterator[tuple[int, list[tuple[str, ...]]]]:
    """Writes a task's rows to their splits; yields (file's index, lines for quarantine.csv) a file."""
    if plan.report["unreadable"]:
        return
    shards = {split: _Shards(task, name) for split, name in enumerate(SPLITS)}
    for index, file in task.files:
        refused = []
        for row, verdict in zip(sources.read(file, task.options), plan.verdicts[index].tolist(), strict=True):
            if verdict in shards:
                shards[verdict].write(_example(row, file, task.options))
            elif verdict >= splitting.QUARANTINED:
                refused.append(_refusal(row, file, task.options))
        if refused:
            yield index, refused
    for shard in shards.values():
        shard.close()


class _Shards:
    """Files of one split that hold a task's rows, in the order of the source."""

    def __init__(self, task: Task, split: str):
        self._stem = f"{task.examples_uri}/Split-{split}/data_tfrecord-{task.files[0][0]:05d}"
        self._count = 0
        self._rows = 0
        self._writer: tf.io.TFRecordWriter | None = None

    def write(self, record: bytes) -> None:
        if self._rows == ROWS_A_SHARD:
            self.close()
        if self._writer is None:
            fileio.makedirs(self._stem.rpartition("/")[0])
            path = f"{self._stem}-{self._count:05d}.gz"
            self._writer = tf.io.TFRecordWriter(path, tf.io.TFRecordOptions(compression_type="GZIP"))
        self._writer.write(record)
        self._rows += 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._count += 1
            self._rows = 0


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
    return example.SerializeToString()


def _refusal(row: sources.Row, file: sources.SourceFile, options: DataOptions) -> tuple[str, ...]:
    parsed = parse(row, options)
    fault = parsed.fault or sources.Fault(splitting.OTHER_LABEL, f"here {parsed.label!r}", parsed.text)
    return file.name, str(row.number), fault.reason, fault.detail, fault.excerpt[: sources.EXCERPT_CHARACTERS]


def _write_quarantine(
    _: None, lines: Iterable[tuple[int, list[tuple[str, ...]]]], plan: splitting.Plan, uri: str
) -> None:
    """quarantine.csv, sorted by file and row, and ingest.json."""
    fileio.makedirs(uri)
    by_file = sorted(lines, key=lambda item: item[0])
    with fileio.open(f"{uri}/{QUARANTINE_FILE}", "w") as stream:
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(("file", "row", "reason", "detail", "text"))
        for _index, rows in by_file:
            writer.writerows(rows)
            stream.write(table.getvalue())
            table.seek(0)
            table.truncate()
        stream.write(table.getvalue())
    with fileio.open(f"{uri}/{REPORT_FILE}", "w") as stream:
        stream.write(json.dumps(plan.report, indent=2, ensure_ascii=False))


# === The verdict ===


def _read(path: str) -> str:
    with fileio.open(path, "r") as stream:
        return stream.read()


def _save_quarantine(uri: str, folder: str) -> str:
    """Copies quarantine.csv out of the artifact, which TFX removes when the stage fails; returns where it is."""
    if not folder:
        return f"{uri}/{QUARANTINE_FILE}"
    fileio.makedirs(folder)
    saved = f"{folder}/{QUARANTINE_FILE}"
    fileio.copy(f"{uri}/{QUARANTINE_FILE}", saved, overwrite=True)
    return saved


def why_not(report: dict[str, Any], options: DataOptions, quarantine_path: str) -> str | None:
    """The reason to stop the line, in words with the way out; None where the rows will do."""
    if report["unreadable"]:
        return "\n".join(report["unreadable"])
    for rule in (_too_many_quarantined, _too_few_labels, _too_many_labels, _label_without_rows, _empty_split):
        stop = rule(report, options, quarantine_path)
        if stop:
            return stop
    return None


def _too_many_quarantined(report: dict[str, Any], options: DataOptions, path: str) -> str | None:
    refused = sum(report["quarantined"].values())
    if not refused or refused <= options.max_quarantined * report["rows"]:
        return None
    share = refused / report["rows"]
    with fileio.open(path, "r") as stream:
        first = [row for row, _ in zip(csv.DictReader(stream), range(SHOWN_EXAMPLES), strict=False)]
    shown = [f"  {row['file']}, row {row['row']}: {row['detail']}: {row['text'][:80]!r}" for row in first]
    return "\n".join(
        [
            f"{refused:,} of {report['rows']:,} rows ({share:.1%}) cannot be used; "
            f"data.max_quarantined allows {options.max_quarantined:.1%}.",
            *(f"  {count:,} x {reason}" for reason, count in report["quarantined"].items()),
            "The first of them:",
            *shown,
            f"All of them: {path}",
            *sorted({WAYS_OUT[reason] for reason in report["quarantined"]}),
        ]
    )


WAYS_OUT = {
    sources.BROKEN_LINE: "Broken lines: correct them in the file, or check data.format.",
    sources.BAD_BYTES: "Bytes: set data.encoding to the file's own (cp1252, latin-1, mac_roman ...), "
    "or data.on_bad_bytes: replace.",
    splitting.EMPTY_TEXT: "Empty texts: check that data.text names the right column.",
    splitting.MISSING_LABEL: "Missing labels: check that data.label names the right column, or remove those rows.",
    splitting.UNKNOWN_LABEL: "Unknown labels: add them to data.labels, or leave data.labels out to take those found.",
    splitting.OTHER_LABEL: "Repeated texts: choose one label for each, or raise data.max_quarantined.",
}


def _too_few_labels(report: dict[str, Any], options: DataOptions, _path: str) -> str | None:
    if len(report["labels"]) >= 2 and report["distinct"]:
        return None
    if not report["distinct"]:
        return f"No usable row in {report['rows']:,} rows of {', '.join(options.source)}."
    (label, count), *_ = report["labels"].items()
    return (
        f"Only one label, {label!r}, in {count:,} rows: a classifier needs at least two. "
        f"Check that data.label ({options.label!r}) names the right column, or add rows of another label."
    )


def _too_many_labels(report: dict[str, Any], options: DataOptions, _path: str) -> str | None:
    labels, rows = len(report["labels"]), report["distinct"]
    if options.labels is not None or labels <= rows / 2:
        return None
    return (
        f"{labels:,} different labels in {rows:,} rows: the column {options.label!r} looks like a text or a number "
        "of the row, not a class. Set data.label to the right column, or list data.labels if this is meant."
    )


def _label_without_rows(report: dict[str, Any], options: DataOptions, _path: str) -> str | None:
    for label, count in report["labels"].items():
        in_splits = ", ".join(f"{report['splits'][split][label]} in {split}" for split in SPLITS)
        if not count:
            found = ", ".join(repr(name) for name, rows in report["labels"].items() if rows)
            return (
                f"The label {label!r} of data.labels has no row. Labels with rows: {found}. Correct its name in "
                "data.labels (was it renamed in the file?), remove it, or add rows."
            )
        if not report["splits"]["train"][label]:
            return (
                f"The label {label!r} has no row to learn from ({in_splits}). Add rows of it to data.source, raise "
                "data.limits.train or data.split.train, or remove the label from the files."
            )
    return None


def _empty_split(report: dict[str, Any], options: DataOptions, _path: str) -> str | None:
    for split in SPLITS:
        if not sum(report["splits"][split].values()):
            sizes = Counter({name: sum(rows.values()) for name, rows in report["splits"].items()})
            return (
                f"The split {split} is empty ({', '.join(f'{sizes[name]} {name}' for name in SPLITS)} of "
                f"{report['distinct']} distinct rows). Add rows, raise data.split.{split}, "
                + ("or lower data.split.train." if split != "train" else "or lower the other shares.")
            )
    return None


# === What is shown ===


def summary(report: dict[str, Any]) -> str:
    """The stage's line on the screen."""
    refused = sum(report["quarantined"].values())
    notes = [f"{report['duplicates']:,} duplicates joined", f"{refused:,} quarantined"]
    if refused:
        notes[-1] += f" (see {QUARANTINE_FILE})"
    if report["not_sampled"]:
        taken = report["distinct"] - report["not_sampled"]
        notes.append(f"{taken:,} sampled")
    for split in ("validation", "test"):
        absent = [label for label, rows in report["splits"][split].items() if not rows]
        if absent:
            shown = ", ".join(absent[:SHOWN_EXAMPLES]) + (", ..." if len(absent) > SHOWN_EXAMPLES else "")
            notes.append(f"no {split} row of {len(absent)} labels ({shown})")
    return f"{report['distinct']:,} rows of {report['rows']:,}: {', '.join(notes)}"


def described(taken: list[int]) -> str:
    """The window of spans, as the end of the stage's line."""
    if not taken:
        return ""
    return f", span {taken[0]}" if len(taken) == 1 else f", {len(taken)} spans from {taken[0]} to {taken[-1]}"


def _describe(examples: standard_artifacts.Examples, report: dict[str, Any], fingerprint: str) -> None:
    with fileio.open(f"{examples.uri}/{LABELS_FILE}", "w") as stream:
        stream.write("".join(json.dumps(label, ensure_ascii=False) + "\n" for label in report["labels"]))
    examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
    examples.span = 0
    examples.set_string_custom_property("input_fingerprint", fingerprint)
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
