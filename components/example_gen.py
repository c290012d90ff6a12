"""Ingestion: from the users' files to Examples in three splits, and a quarantine of the rows that cannot be used.

`ingestion` reads the files twice, so that texts stream through and are never held or grouped.
"""

import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any

import apache_beam as beam
from tfx.components.util import examples_utils
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_artifacts

from bertline.components import ingestion, spans, splitting
from bertline.components.artifacts import Quarantine
from bertline.components.data import formats, several_labels, spellings, task_files
from bertline.components.data.reader import SourceFile
from bertline.components.data.rows import BAD_BYTES, BROKEN_LINE, ZERO_BYTE
from bertline.components.ingestion import INGEST_FILE, QUARANTINE_FILE, Task
from bertline.components.labels import write_labels
from bertline.components.object_store import local_copy
from bertline.components.options import DataOptions
from bertline.components.shards import UNFINISHED
from bertline.errors import UserError
from bertline.models.features import SPLITS

BYTES_PER_TASK = 4 * 1024 * 1024  # some seconds of work; small files share a task, so 2,000 do not become 6,000 shards
BYTES_PER_RANGE = 128 * 1024 * 1024  # of the files; a million rows of tweets, and 170 MB to decide on them
SHOWN_EXAMPLES = 3
SHOWN_NOTES = 2


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
            names in their stable order.
        quarantine: quarantine.csv (file, row, reason, detail, text) and ingest.json (counts by reason, split, label,
            and the shards).
        data: DataOptions as JSON.
        base_folder: where relative paths of the sources start. Files in an object store are copied to this machine.
        fingerprint: `task_files.fingerprint` of the files. TFX then never takes a cached run of other contents for
            this one.
        quarantine_folder: where quarantine.csv is copied to. The copy stays when the stage fails and TFX removes its
            artifacts.
        beam_pipeline: given by TFX.

    Raises:
        UserError: a file cannot be read, too many rows are in quarantine, or the rest does not make three splits
            of at least two labels.
    """
    options = DataOptions.model_validate_json(data)
    with local_copy(base_folder, task_files.paths_of_task(options)) as folder:
        paths = [source for source in options.source if isinstance(source, str)]
        window = spans.window(paths, folder, options.newest_spans)
        by_split = task_files.by_split(options, folder)
        files = [file for members in by_split.values() for file in members]
        roles = [task_files.ROLES.index(role) for role, members in by_split.items() for _ in members]
        for file in files:
            formats.check(file, options)
        files = [formats.settled(file, options) for file in files]
        groups = enumerate(_grouped(files))
        tasks = [Task(number, members, options, examples.uri, folder, base_folder) for number, members in groups]
        ranges = 1 + sum(Path(file.path).stat().st_size for file in files) // BYTES_PER_RANGE
        with beam_pipeline as pipeline:
            ingestion.passes(pipeline, tasks, roles, options, quarantine.uri, ranges=ranges)
    report = _read_report(examples.uri, quarantine.uri)
    saved = _save_quarantine(quarantine.uri, quarantine_folder)
    stop = why_not(report, options, saved)
    if stop:
        raise UserError(stop)
    write_labels(examples.uri, report["labels"])
    _describe(examples, fingerprint)
    quarantine.set_string_custom_property(
        "summary",
        summary(report) + _alike(report, options) + _plain_quotes(files, options) + _notes(files) + described(window),
    )


def _grouped(files: list[SourceFile]) -> list[list[tuple[int, SourceFile]]]:
    """Files, or parts of them, with the files' indexes.

    Neighbours share a group up to BYTES_PER_TASK; a part that is larger has a group of its own.
    """
    groups: list[list[tuple[int, SourceFile]]] = []
    room = 0
    for index, file in enumerate(files):
        for part, size in formats.parts(file, BYTES_PER_TASK):
            if size > room:
                groups.append([])
                room = BYTES_PER_TASK
            groups[-1].append((index, part))
            room -= size
    return groups


def _read_report(examples_uri: str, quarantine_uri: str) -> dict[str, Any]:
    """INGEST_FILE, once all files that it lists are there.

    Raises:
        UserError: a file is missing, because the workers wrote to another machine's disk.
    """
    missing = [f"{quarantine_uri}/{INGEST_FILE}"]
    if fileio.exists(missing[0]):
        with fileio.open(missing[0], "r") as stream:
            report = json.loads(stream.read())
        there = {path for split in SPLITS for path in fileio.glob(f"{examples_uri}/Split-{split}/*")}
        missing = sorted({f"{examples_uri}/{name}" for name in report["shards"]} - there)
    if missing:
        raise UserError(
            f"{missing[0]} is not there, and Beam says that it was written: its workers do not see this folder. "
            "The task's root (on a cluster: the folder of its artifacts) must be one that all of them share; see "
            "docs/beam.md."
        )
    for uri in (examples_uri, quarantine_uri):
        if fileio.exists(f"{uri}/{UNFINISHED}"):
            fileio.rmtree(f"{uri}/{UNFINISHED}")
    return report


def _save_quarantine(uri: str, folder: str) -> str:
    """Copies quarantine.csv out of the artifact, which TFX removes when the stage fails; returns where it is."""
    if not folder:
        return f"{uri}/{QUARANTINE_FILE}"
    fileio.makedirs(folder)
    saved = f"{folder}/{QUARANTINE_FILE}"
    fileio.copy(f"{uri}/{QUARANTINE_FILE}", saved, overwrite=True)
    return saved


def _describe(examples: standard_artifacts.Examples, fingerprint: str) -> None:
    examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
    examples.span = 0
    examples.set_string_custom_property("input_fingerprint", fingerprint)
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)


# === The verdict ===


def why_not(report: dict[str, Any], options: DataOptions, quarantine_path: str) -> str | None:
    """The reason to stop the line, in words with the way out; None where the rows will do."""
    if report["unreadable"]:
        return "\n".join(report["unreadable"])
    if stop := _too_many_quarantined(report, options, quarantine_path):
        return stop
    rules = (_too_few_labels, _several_labels, _too_many_labels, _label_without_rows, _empty_split)
    return next((stop for rule in rules if (stop := rule(report, options))), None)


def _too_many_quarantined(report: dict[str, Any], options: DataOptions, path: str) -> str | None:
    # Rows that the config leaves out on purpose are no sign of a wrong config.
    faults = {reason: count for reason, count in report["quarantined"].items() if reason != splitting.LEFT_OUT}
    refused = sum(faults.values())
    if not refused or refused <= options.max_quarantined * report["rows"]:
        return None
    share = refused / report["rows"]
    with fileio.open(path, "r") as stream:
        rows = (row for row in csv.DictReader(stream) if row["reason"] in faults)
        first = list(islice(rows, SHOWN_EXAMPLES))
    return "\n".join(
        [
            f"{refused:,} of {report['rows']:,} rows ({share:.1%}) cannot be used; "
            f"data.max_quarantined allows {options.max_quarantined:.1%}.",
            *(f"  {count:,} x {reason}" for reason, count in faults.items()),
            "The first of them:",
            *(f"  {row['file']}, row {row['row']}: {row['detail']}: {row['text'][:80]!r}" for row in first),
            f"All of them: {path}",
            *sorted({WAYS_OUT[reason] for reason in faults}),
        ]
    )


WAYS_OUT = {
    BROKEN_LINE: "Broken lines: correct them in the file, or check data.format and data.delimiter.",
    BAD_BYTES: "Bytes: set data.encoding to the file's own (cp1252, latin-1, mac_roman ...), "
    "or data.on_bad_bytes: replace.",
    ZERO_BYTE: "Zero bytes: the file is damaged there, or it is UTF-16; set data.encoding, or remove those rows.",
    splitting.EMPTY_TEXT: "Empty texts: check that data.text names the right column.",
    splitting.MISSING_LABEL: "Missing labels: check that data.label names the right column, remove those rows, or "
    'give them a name: data.label_map: {"": NAME}.',
    splitting.UNKNOWN_LABEL: "Unknown labels: add them to data.labels, or leave data.labels out to take all labels.",
    splitting.OTHER_LABEL: "Repeated texts: choose one label for each, or raise data.max_quarantined.",
    splitting.OTHER_SPLIT: "Groups in two splits: leave each query in the files of one split, or raise "
    "data.max_quarantined.",
}


def _too_few_labels(report: dict[str, Any], options: DataOptions) -> str | None:
    if len(report["labels"]) >= 2 and report["distinct"]:
        return None
    if not report["distinct"]:
        sources = ", ".join(map(str, options.source))
        return f"No usable row in {report['rows']:,} rows of {sources}. Add rows to the files."
    (label, count), *_ = report["labels"].items()
    return (
        f"Only one label, {label!r}, in {count:,} rows: a classifier needs at least two. "
        f"Check that data.label ({options.label!r}) names the right column, or add rows of another label."
    )


def _several_labels(report: dict[str, Any], options: DataOptions) -> str | None:
    if options.multi_label or options.labels is not None:
        return None
    found = several_labels.guess(report["labels"])
    if found is None:
        return None
    names = ", ".join(map(repr, list(found.rows)[:SHOWN_EXAMPLES])) + (
        ", ..." if len(found.rows) > SHOWN_EXAMPLES else ""
    )
    return (
        f"The column {options.label!r} looks like several labels per row, as in {found.example[:60]!r}: "
        f"{len(report['labels']):,} combinations of {len(found.rows):,} labels ({names}). Add to data: "
        f"{several_labels.written(found.multi_label)}. If each combination is meant as a label of its own, list them "
        "in data.labels."
    )


def _too_many_labels(report: dict[str, Any], options: DataOptions) -> str | None:
    labels, rows = len(report["labels"]), report["distinct"]
    if options.labels is not None or labels <= rows / 2:
        return None
    return (
        f"{labels:,} different labels in {rows:,} rows: the column {options.label!r} looks like a text or a number "
        "of the row, not a class. Set data.label to the right column, or list data.labels if this is meant."
    )


def _label_without_rows(report: dict[str, Any], options: DataOptions) -> str | None:
    for label, count in report["labels"].items():
        if not count:
            others = ", ".join(repr(name) for name, rows in report["labels"].items() if rows)
            return (
                f"The label {label!r} of data.labels has no row. Labels with rows: {others}. Correct its name in "
                "data.labels (was it renamed in the file?), remove it, or add rows."
            )
        if not report["splits"]["train"][label]:
            by_split = ", ".join(f"{report['splits'][split][label]} in {split}" for split in SPLITS)
            return (
                f"The label {label!r} has no row to learn from ({by_split}). Add rows of it to data.source, raise "
                "data.limits.train or data.split.train, or remove the label from the files."
            )
    return None


def _empty_split(report: dict[str, Any], options: DataOptions) -> str | None:
    sizes = report["split_rows"]
    split = next((split for split in SPLITS if not sizes[split]), None)
    if split is None:
        return None
    counts = ", ".join(f"{sizes[name]} {name}" for name in SPLITS)
    empty = f"The split {split} is empty ({counts} of {report['distinct']} distinct rows)."
    if split != "train" and (source := getattr(options, f"{split}_source")):
        return f"{empty} Add rows to {', '.join(map(str, source))} (data.{split}_source)."
    others = "data.split.train" if split != "train" else "the other shares"
    return f"{empty} Add rows, raise data.split.{split}, or lower {others}."


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
    notes.extend(f"{count:,} {doubt}" for doubt, count in report["doubts"].items())
    notes.extend(_map_notes(report))
    for split in ("validation", "test"):
        absent = [label for label, rows in report["splits"][split].items() if not rows]
        if absent:
            shown = ", ".join(absent[:SHOWN_EXAMPLES]) + (", ..." if len(absent) > SHOWN_EXAMPLES else "")
            notes.append(f"no {split} row of {len(absent)} labels ({shown})")
    return f"{report['distinct']:,} rows of {report['rows']:,}: {', '.join(notes)}"


def _map_notes(report: dict[str, Any]) -> list[str]:
    """What `data.label_map` did, and which of its entries did nothing."""
    used = {entry["from"]: entry["rows"] for entry in report["label_map"] if entry["rows"]}
    idle = [entry["from"] for entry in report["label_map"] if not entry["rows"]]
    notes = []
    if used:
        notes.append(f"{sum(used.values()):,} labels changed by data.label_map ({spellings.counted(used)})")
    if idle:
        notes.append(f"no row for {spellings.listed(idle)} of data.label_map")
    return notes


def _alike(report: dict[str, Any], options: DataOptions) -> str:
    """Labels that look the same, as a part of the stage's line. Who lists them in `data.labels` means them."""
    notes = [] if options.labels else spellings.warnings(report["labels"])
    return "".join(f", {note}" for note in notes)


def _plain_quotes(files: list[SourceFile], options: DataOptions) -> str:
    """That quotes were taken for characters where nobody had said so, as a part of the stage's line."""
    plain = sum(file.quoting == "none" for file in files)
    if options.quoting != "auto" or not plain:
        return ""
    return f", quotes read as plain characters in {plain} of {len(files)} files (see data.quoting)"


def _notes(files: list[SourceFile]) -> str:
    """What the files' names do not say of how they were read, as a part of the stage's line."""
    notes = [note for file in files for note in file.notes]
    if not notes:
        return ""
    more = f"; {len(notes) - SHOWN_NOTES} more" if len(notes) > SHOWN_NOTES else ""
    return f", {'; '.join(notes[:SHOWN_NOTES])}{more}"


def described(window: list[int]) -> str:
    """The spans that were read, as the end of the stage's line."""
    if not window:
        return ""
    return f", span {window[0]}" if len(window) == 1 else f", {len(window)} spans from {window[0]} to {window[-1]}"
