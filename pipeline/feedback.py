"""`bertline feedback`: corrections of answers become measured accuracy and the next span of training rows."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from bertline.components import spans
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.monitoring import feedback
from bertline.monitoring.feedback import Correction, Refused
from bertline.pipeline import evaluated, screen
from bertline.pipeline.config import Config

QUARANTINE = ("file", "row", "reason", "detail", "text")
ENDING = ".jsonl"


@dataclass(frozen=True)
class Outcome:
    """What became of a file of corrections.

    Attributes:
        rows: of the file.
        accepted: answers whose label is new.
        duplicates: rows that say what is known.
        replaced: rows that the same person took back later.
        trained: accepted ones that became training rows.
        span: their file; None where there are none.
        refused: those in quarantine, and why.
        quarantine: their file.
    """

    rows: int
    accepted: int
    duplicates: int
    replaced: int
    trained: int
    span: Path | None
    refused: list[Refused]
    quarantine: Path


def bring(task: Config, file: Path) -> Outcome:
    """Takes up a file of corrections.

    Raises:
        UserError: it cannot be read, the task has no place for training rows, or no run that was evaluated.
    """
    pattern = _pattern(task.data)
    classes = evaluated.read(task, None).metrics.classes
    folder = task.root_folder / "monitor"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(folder / ".feedback.lock"):
        corrections, broken = feedback.read(file)
        corrections, lost = feedback.joined(corrections, task.records_folder, task.name)
        decided = feedback.sort(corrections, feedback.known(folder), classes, task.data, _way_out(task.data))
        trained = [each for each in decided.accepted if each.text.strip()]
        refused = sorted([*broken, *lost, *decided.refused], key=lambda each: each.correction.row)
        span = _write_span(task, pattern, trained) if trained else None
        feedback.keep(folder, decided.accepted)
        quarantine = _write_quarantine(task, file, refused)
    return Outcome(
        rows=len(corrections) + len(broken) + len(lost),
        accepted=len(decided.accepted),
        duplicates=decided.duplicates,
        replaced=decided.replaced,
        trained=len(trained),
        span=span,
        refused=refused,
        quarantine=quarantine,
    )


def _pattern(data: DataOptions) -> str:
    """The source that the corrections become a span of."""
    patterns = [source for source in data.train_source or [] if isinstance(source, str) and spans.PLACEHOLDER in source]
    if not patterns or not patterns[0].endswith(ENDING):
        named = f" It is {patterns[0]!r}." if patterns else ""
        raise UserError(
            f"data.train_source: corrections have no place to go.{named} Write `train_source: "
            f"corrections-{spans.PLACEHOLDER}{ENDING}` under data in the config."
        )
    if data.format not in ("auto", "jsonl"):
        raise UserError(
            f"data.format: with {data.format!r} corrections, which are JSON Lines, could not be read. Take it out: "
            "the files' names tell their format."
        )
    return patterns[0]


def _way_out(data: DataOptions) -> str:
    listed = "add it to data.labels, " if data.labels else ""
    return (
        f"Correct the spelling here; or, for a new label, {listed}put its rows into a file of data.source, so that "
        "the test rows have it too, and run the line"
    )


def _write_span(task: Config, pattern: str, corrections: list[Correction]) -> Path:
    """Writes the training rows as the next span, whole at once."""
    file = spans.next_file(pattern, task.folder)
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(unfinished, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as stream:
            for each in corrections:
                # Escapes: whatever data.encoding is, these lines are in it.
                stream.write(json.dumps(_row(each, task.data), ensure_ascii=True) + "\n")
        unfinished.rename(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
    return file


def _row(each: Correction, data: DataOptions) -> dict[str, Any]:
    """A correction in the columns that the config reads."""
    row: dict[str, Any] = dict.fromkeys(data.text_columns, "") | {data.text_columns[0]: each.text}
    row |= {data.text_pair: each.text_pair} if data.text_pair else {}
    row |= {name: each.columns.get(name, "") for name in data.keep}
    names = feedback.parts(each.label, feedback.separator(data))
    if data.label_columns:
        return row | {name: int(name in names) for name in data.label_columns}
    return row | {data.label: names if data.multi_label and data.multi_label.lists else each.label}


def _write_quarantine(task: Config, file: Path, refused: list[Refused]) -> Path:
    """Adds the refused rows to the quarantine of corrections; one that stands there already is not added again."""
    quarantine = task.root_folder / "quarantine" / "feedback.csv"
    lines = [
        [str(file), str(each.correction.row), each.reason, each.detail, each.correction.text or each.correction.id]
        for each in refused
    ]
    try:
        quarantine.parent.mkdir(parents=True, exist_ok=True)
        there = []
        if quarantine.exists():
            with quarantine.open(encoding="utf-8", newline="") as stream:
                there = list(csv.reader(stream))
        with quarantine.open("a", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerows([[*QUARANTINE]] if not there and lines else [])
            writer.writerows(line for line in lines if line not in there)
    except OSError as error:
        raise UserError(f"{quarantine} cannot be written: {error.strerror}") from error
    return quarantine


def show(outcome: Outcome, shown: screen.Screen) -> None:
    """What became of a file, for a person."""
    others = {"known already": outcome.duplicates, "taken back by the same person": outcome.replaced}
    known = [f"{number:,} {words}" for words, number in others.items() if number]
    said = "".join(f", {each}" for each in known)
    shown.print(screen.line("feedback", f"{outcome.accepted:,} new labels of {outcome.rows:,} rows{said}"))
    if outcome.span:
        shown.print(screen.line("span", f"{outcome.trained:,} rows in {screen.display(outcome.span)}"))
    if outcome.accepted > outcome.trained:
        shown.print(
            screen.line(
                "measured",
                f"{outcome.accepted - outcome.trained:,} labels only measure: no text is known. Give it in a column "
                "text, or set serve.log.texts: true",
                style="yellow",
            )
        )
    if outcome.refused:
        place = screen.display(outcome.quarantine)
        shown.print(screen.line("quarantine", f"{len(outcome.refused):,} rows, see {place}", style="yellow"))
    for each in outcome.refused[:3]:
        shown.print(f"    row {each.correction.row}: {each.reason}: {screen.on_one_line(each.detail)}", style="dim")
    if outcome.span:
        shown.print("next: `bertline run`; `bertline watch` does so by itself")
