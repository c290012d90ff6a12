"""Ingestion: from the users' files to Examples in three splits, and a quarantine of the rows that cannot be used.

The files are read twice, by the passes of `ingestion`. So texts stream through and are never grouped or held.
"""

import csv
import json
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
from bertline.components.data import formats, task_files
from bertline.components.data.reader import SourceFile
from bertline.components.data.rows import BAD_BYTES, BROKEN_LINE
from bertline.components.ingestion import QUARANTINE_FILE, REPORT_FILE, Task
from bertline.components.object_store import local_copy
from bertline.components.options import DataOptions
from bertline.components.shards import UNFINISHED
from bertline.errors import UserError
from bertline.models.features import SPLITS

LABELS_FILE = "labels.txt"

BYTES_A_TASK = 4 * 1024 * 1024  # some seconds of work; small files together, so that 2,000 do not become 6,000 shards
BYTES_A_RANGE = 128 * 1024 * 1024  # of the files; a million rows of tweets, and 170 MB to decide on them
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
        quarantine: quarantine.csv (file, row, reason, detail, text) and ingest.json (counts by reason, split, label,
            and the shards).
        data: DataOptions as JSON.
        base_folder: where relative paths of the sources start; from an object store the files read are copied.
        fingerprint: `task_files.fingerprint` of the files; a cached run of other contents is not taken for this one.
        quarantine_folder: where quarantine.csv is copied to, also when the stage fails and its artifacts are removed.
        beam_pipeline: given by TFX.

    Raises:
        UserError: a file cannot be read, too many rows are in quarantine, or what is left does not make three splits
            of at least two labels.
    """
    options = DataOptions.model_validate_json(data)
    with local_copy(base_folder, task_files.paths_of_task(options)) as folder:
        taken = spans.window(options.source, folder, options.newest_spans)
        by_split = task_files.by_split(options, folder)
        members = [file for of_split in by_split.values() for file in of_split]
        roles = [SPLITS.index(split) for split, of_split in by_split.items() for _ in of_split]
        for file in members:
            formats.check(file, options)
        grouped = enumerate(_grouped(members))
        tasks = [Task(number, group, options, examples.uri, folder, base_folder) for number, group in grouped]
        ranges = 1 + sum(Path(file.path).stat().st_size for file in members) // BYTES_A_RANGE
        with beam_pipeline as pipeline:
            ingestion.passes(pipeline, tasks, roles, options, quarantine.uri, ranges=ranges)
    report = _read_report(examples.uri, quarantine.uri)
    saved = _save_quarantine(quarantine.uri, quarantine_folder)
    stop = why_not(report, options, saved)
    if stop:
        raise UserError(stop)
    _describe(examples, report, fingerprint)
    quarantine.set_string_custom_property("summary", summary(report) + described(taken))


def _grouped(files: list[SourceFile]) -> list[list[tuple[int, SourceFile]]]:
    """Neighbouring files, or parts of them, in groups of at most BYTES_A_TASK, or of one that is larger."""
    groups: list[list[tuple[int, SourceFile]]] = []
    room = 0
    for index, file in enumerate(files):
        for part, size in formats.parts(file, BYTES_A_TASK):
            if size > room:
                groups.append([])
                room = BYTES_A_TASK
            groups[-1].append((index, part))
            room -= size
    return groups


def _read_report(examples_uri: str, quarantine_uri: str) -> dict[str, Any]:
    """ingest.json, once all that it lists is there.

    Raises:
        UserError: it is not: the workers wrote to another machine's disk.
    """
    missing = [f"{quarantine_uri}/{REPORT_FILE}"]
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


# === The verdict ===


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
    BROKEN_LINE: "Broken lines: correct them in the file, or check data.format.",
    BAD_BYTES: "Bytes: set data.encoding to the file's own (cp1252, latin-1, mac_roman ...), "
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
            sizes = {name: sum(rows.values()) for name, rows in report["splits"].items()}
            counted = ", ".join(f"{sizes[name]} {name}" for name in SPLITS)
            empty = f"The split {split} is empty ({counted} of {report['distinct']} distinct rows)."
            if split != "train" and (source := getattr(options, f"{split}_source")):
                return f"{empty} Add rows to {', '.join(source)} (data.{split}_source)."
            others = "data.split.train" if split != "train" else "the other shares"
            return f"{empty} Add rows, raise data.split.{split}, or lower {others}."
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
