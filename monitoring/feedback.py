"""Corrections of answers, such as those of agents: read, joined to the records, deduplicated, and kept.

What was accepted stands in a file of JSON lines in the order in which it came. The newest word on an answer counts.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertline.components import splitting
from bertline.components.data import spellings
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.serving import record_files

FILE = "feedback.jsonl"
COLUMNS = ("id", "text", "text_pair", "label", "who", "when")
# Why a correction goes to quarantine.
NOTHING, NO_LABEL, UNKNOWN, CONTRADICTION = "neither id nor text", "no label", "unknown label", "contradiction"
LEFT_OUT = "label that label_map leaves out"
NO_RECORD, SEVERAL_RECORDS, BROKEN = "no record of this id", "several records of this id", "broken line"
SEPARATOR = "|"  # between the labels of a multi-label row, unless the config names another


@dataclass(frozen=True)
class Correction:
    """What somebody says that the right label is.

    Attributes:
        row: its row in the file, from 1.
        id: of the answer's record; "" where the text names it.
        text: the text as it was sent, or masked, from the record; "" where none is known.
        text_pair: the second text of a pair; "" without.
        label: the right label; of a multi-label row its labels in one text, once decided on each once and sorted.
        who: said so.
        when: ISO 8601, as the file has it.
        columns: others of the file, by name.
    """

    row: int
    id: str
    text: str
    text_pair: str
    label: str
    who: str
    when: str
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Tells the answer: by its id, else by its text."""
        return self.id or splitting.text_key(self.text, self.text_pair or None).row_id


@dataclass(frozen=True)
class Refused:
    """A correction that cannot be used: why, and what a person can do."""

    correction: Correction
    reason: str
    detail: str


@dataclass
class Sorted:
    """Corrections by what becomes of them.

    Attributes:
        accepted: one per answer.
        refused: those for quarantine.
        duplicates: how many say what is known already.
        replaced: how many were taken back by the same person later.
    """

    accepted: list[Correction] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    duplicates: int = 0
    replaced: int = 0


def read(file: Path) -> tuple[list[Correction], list[Refused]]:
    """The corrections of a CSV file in UTF-8, and its broken lines.

    Raises:
        UserError: it cannot be read, or lacks a column `label` or both `id` and `text`.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            if "label" not in names or not {"id", "text"} & set(names):
                raise UserError(
                    f"{file}: its columns are {', '.join(names) or 'none'}; needed are label, and id or text (the "
                    "answer's id, or the text that was sent). who, when and kept columns may stand beside them."
                )
            rows = list(enumerate(reader, start=1))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file} cannot be read as CSV in UTF-8: {error}") from error
    good, broken = [], []
    for number, row in rows:
        fields = {name: row.get(name) or "" for name in names}
        correction = Correction(
            number,
            *(_field(fields, name) for name in COLUMNS),
            columns={name: value for name, value in fields.items() if name not in COLUMNS},
        )
        if None in row or None in row.values():
            broken.append(Refused(correction, BROKEN, f"row {number} has not as many fields as the first line"))
        else:
            good.append(correction)
    return good, broken


def _field(fields: dict[str, str], name: str) -> str:
    value = fields.get(name, "")
    if name == "label":
        return spellings.composed(value.strip())  # as ingestion has it
    return value if name.startswith("text") else value.strip()


def sort(
    corrections: Iterable[Correction],
    known: Sequence[Correction],
    classes: Sequence[str],
    options: DataOptions,
    way_out: str,
) -> Sorted:
    """Decides on corrections.

    Of what one person says of an answer, the newest word counts. Where two people say different things, all that is new
    goes to quarantine.

    Args:
        corrections: of a file.
        known: what was accepted before.
        classes: the labels that the model knows.
        options: how labels are written, and data.label_map, which renames these as it does those of the data.
        way_out: what to do about a label that the model does not know.
    """
    made = Sorted()
    by_answer: dict[str, list[Correction]] = {}
    for each in corrections:
        if fault := _fault(each, classes, options, way_out):
            made.refused.append(Refused(each, *fault))
        else:
            named = (separator(options) or "").join(_names(each.label, options))
            by_answer.setdefault(each.key, []).append(replace(each, label=named))
    before = {each.key: each for each in known}
    for key, said in by_answer.items():
        _decide(said, before.get(key), made)
    made.accepted.sort(key=lambda each: each.row)
    made.refused.sort(key=lambda each: each.correction.row)
    return made


def _fault(each: Correction, classes: Sequence[str], options: DataOptions, way_out: str) -> tuple[str, str] | None:
    if not each.id and not each.text.strip():
        return NOTHING, "give the answer's id, or the text that was sent"
    several = options.multi_label
    if not parts(each.label, separator(options)):
        if several is None:
            return NO_LABEL, "give the right label"
        if several.separator and several.empty == "quarantine":
            return NO_LABEL, "give the right labels; data.multi_label.empty: no_label takes an empty cell as none"
    names = _names(each.label, options)
    if several is None and not names:
        return LEFT_OUT, f"data.label_map leaves rows with {each.label!r} out"
    if unknown := [name for name in names if name not in classes]:
        return UNKNOWN, f"the model knows no label {unknown[0]!r}, only {', '.join(classes)}. {way_out}"
    return None


def _decide(said: list[Correction], before: Correction | None, made: Sorted) -> None:
    """Decides on all that a file says of one answer."""
    newest: dict[str, Correction] = {}
    for each in sorted(said, key=lambda each: (each.when, each.row)):
        if each.who in newest and newest[each.who].label != each.label:
            made.replaced += 1
        elif each.who in newest:
            made.duplicates += 1
        newest[each.who] = each
    labels = {each.label for each in newest.values()}
    others = {before.label} if before and before.who not in newest else set()
    if len(labels | others) > 1:
        told = [f"{each.who or 'somebody'} says {each.label!r}" for each in newest.values()]
        told += [f"{before.who or 'somebody'} said {label!r} before" for label in others]
        made.refused += [
            Refused(each, CONTRADICTION, f"{'; '.join(told)}. Agree on one label and give it again")
            for each in newest.values()
        ]
        return
    last = max(newest.values(), key=lambda each: (each.when, each.row))
    made.duplicates += len(newest) - 1
    if before and before.label == last.label:
        made.duplicates += 1
    else:
        made.accepted.append(last)


def separator(options: DataOptions) -> str | None:
    """What stands between the labels of a correction; None where each row has one label."""
    return None if options.multi_label is None else options.multi_label.separator or SEPARATOR


def parts(label: str, separator: str | None) -> list[str]:
    """The labels that a text stands for."""
    return [name.strip() for name in ([label] if separator is None else label.split(separator)) if name.strip()]


def _names(label: str, options: DataOptions) -> list[str]:
    """The labels of a correction by their names in data.label_map, without those that it leaves out."""
    names = {options.label_map.get(name, name) for name in parts(label, separator(options))}
    return sorted(names - {None})


def joined(corrections: Sequence[Correction], records: Path, model: str) -> tuple[list[Correction], list[Refused]]:
    """Corrections with the texts of their records, where these keep them and the file has none.

    Returns:
        The corrections, and those with an id that no record has, or several.
    """
    wanted = {each.id for each in corrections if each.id}
    found, unread = _texts(wanted, records, model) if wanted else ({}, [])
    lost = f", or in {len(unread)} files that cannot be read, such as {unread[0]}" if unread else ""
    good, refused = [], []
    for each in corrections:
        held = found.get(each.id, [])
        if not each.id or (each.text.strip() and not held):
            good.append(each)
        elif not held:
            why = f"it was not sampled (serve.log.rate), is older than serve.log.days, or is another model's{lost}"
            refused.append(Refused(each, NO_RECORD, f"{why}. Give the text in a column text"))
        elif len(set(held)) > 1:
            why = "callers gave this id to several requests"
            refused.append(Refused(each, SEVERAL_RECORDS, f"{why}. Give the text and leave the id empty"))
        elif each.text.strip():
            good.append(each)
        else:
            text, pair = held[0]
            good.append(replace(each, text=text or "", text_pair=pair or ""))
    return good, refused


def _texts(
    ids: set[str], records: Path, model: str
) -> tuple[dict[str, list[tuple[str | None, str | None]]], list[Path]]:
    """The texts of the answered records of each id, and the files that cannot be read."""
    found: dict[str, list[tuple[str | None, str | None]]] = {}
    unread = []
    wanted = pa.array(sorted(ids), pa.string())
    for _, part in record_files.parts(records):
        try:
            table = pq.ParquetFile(part).read(columns=["id", "model", "status", "text", "text_pair"])
        except FileNotFoundError:  # its days were over since it was listed
            continue
        except (pa.ArrowInvalid, OSError):
            unread.append(part)
            continue
        inside = pc.and_(pc.is_in(table["id"], wanted), pc.equal(table["model"], model))
        for row in table.filter(pc.and_(inside, pc.equal(table["status"], "OK"))).to_pylist():
            found.setdefault(row["id"], []).append((row["text"], row["text_pair"]))
    return found, unread


# === What was accepted ===


def known(folder: Path) -> list[Correction]:
    """What was accepted so far, in order.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / FILE
    if not file.exists():
        return []
    accepted = []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            accepted += [Correction(**json.loads(line))] if line.strip() else []
        except (json.JSONDecodeError, TypeError) as error:
            raise UserError(f"{file}, line {number}: {error}. Correct or remove that line.") from error
    return accepted


def labels(folder: Path) -> dict[str, str]:
    """The right label of each answer that has one, by the id of its record."""
    return {each.id: each.label for each in known(folder) if each.id}


def keep(folder: Path, corrections: Sequence[Correction]) -> None:
    """Adds accepted corrections.

    Raises:
        UserError: they cannot be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(each)) + "\n" for each in corrections)
    except OSError as error:
        raise UserError(f"{folder / FILE} cannot be written: {error.strerror}") from error
