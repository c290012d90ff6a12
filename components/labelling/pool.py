"""The rows that could be labelled: those of the files, without what is known already.

The files are read more than once, and of each row only its place and the hash of its text are kept, some 200 bytes. So
the memory does not grow with the texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bertline.components import ingestion
from bertline.components.data import formats, task_files
from bertline.components.data.columns import used_columns
from bertline.components.data.reader import FOLDERS, SourceFile
from bertline.components.data.rows import Fault
from bertline.components.options import DataOptions
from bertline.components.scoring.cut import Source, text_columns
from bertline.components.splitting import text_key
from bertline.errors import UserError

LABELLED, KNOWN, REPEATED = "with a label", "in the data of the config", "repeated"


class Place(NamedTuple):
    """Where a row stands: the index of its file, and its number there, from 1."""

    file: int
    row: int


class Candidate(NamedTuple):
    """A row to label: its place, its key (32 hex digits, as ingestion writes it), and its texts."""

    place: Place
    row_id: str
    text: str
    text_pair: str | None


class Refusal(NamedTuple):
    """A row that cannot be read."""

    file: str
    row: int
    fault: Fault


@dataclass
class Counts:
    """What became of the rows.

    Attributes:
        rows: of all files.
        left_out: why -> rows that need no label.
        refused: rows that cannot be read.
    """

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def candidates(self) -> int:
        """Distinct rows that could be labelled."""
        return self.rows - self.left_out.total() - len(self.refused)


def files_of(source: str, options: DataOptions, base_folder: str) -> list[SourceFile]:
    """The files of rows without labels that a source names; errors as task_files.expand.

    Args:
        source: as in DataOptions.
        options: of the task; its format is that of these files too, but for folders, which are labels.
        base_folder: where relative paths start.
    """
    return task_files.expand([source], base_folder, "auto" if options.format == FOLDERS else options.format)


def look(key: str, source: str, options: DataOptions, base_folder: str) -> list[Source]:
    """The files of rows without labels that a key of the config names, with a look at the start of each.

    Args:
        key: such as "train.unlabelled", for the errors.
        source: as in `files_of`, as are the others.
        options: see there.
        base_folder: see there.

    Raises:
        UserError: there is none, one cannot be read, or lacks a column of texts.
    """
    try:
        files = files_of(source, options, base_folder)
        columns = [formats.columns(file, options) for file in files]
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    for file, names in zip(files, columns, strict=True):
        if missing := [name for name in text_columns(options) if name not in names]:
            raise UserError(
                f"{key}: {file.name}: no column {missing[0]!r}. Its texts are read from the columns of "
                f"data.text, as those of the data; rename the column. Found: {', '.join(map(repr, names))}"
            )
    return [
        Source(formats.settled(file, options), list(dict.fromkeys(names)))
        for file, names in zip(files, columns, strict=True)
    ]


class Known(NamedTuple):
    """What the data of a config hold: the keys of their labelled texts, and their labels, sorted."""

    row_ids: frozenset[str] = frozenset()
    labels: tuple[str, ...] = ()


def known(files: Iterable[SourceFile], options: DataOptions) -> Known:
    """Reads the data of a config. A row without a usable label is not known yet.

    Args:
        files: of all splits.
        options: how to read them.

    Raises:
        UserError: a file cannot be read.
    """
    options = options.model_copy(update={"keep": []})
    row_ids, labels = set(), set()
    for file in files:
        formats.check(file, options)
        for row in formats.read(formats.settled(file, options), options, used_columns(options)):
            parsed = ingestion.parse(row, options)
            if not parsed.fault:
                row_ids.add(text_key(parsed.text, parsed.text_pair).row_id)
                labels.update(parsed.labels)
    return Known(frozenset(row_ids), tuple(sorted(labels)))


def candidates(
    sources: Sequence[Source],
    options: DataOptions,
    known_ids: frozenset[str],
    counts: Counts,
    progress: Callable[[int], None] = lambda rows: None,
) -> Iterator[Candidate]:
    """The distinct rows without a label, in the order of the files.

    Args:
        sources: the files.
        options: of the task.
        known_ids: rows to leave out, as in Known.
        counts: is filled in.
        progress: is told how many rows are read.

    Raises:
        UserError: a file turns out to be damaged.
    """
    seen: set[str] = set()
    for index, (file, columns) in enumerate(sources):
        names = text_columns(options)
        of_labels = [name for name in label_columns(options) if name in columns and name not in names]
        for row in formats.read(file, options, [*names, *of_labels]):
            counts.rows += 1
            progress(counts.rows)
            if row.fault:
                counts.refused.append(Refusal(file.name, row.number, row.fault))
                continue
            text, pair, fault = ingestion.texts(row.values[: len(names)], options)
            if fault:
                counts.refused.append(Refusal(file.name, row.number, fault))
            elif any((value or "").strip() for value in row.values[len(names) :]):
                counts.left_out[LABELLED] += 1
            elif (row_id := text_key(text, pair).row_id) in known_ids:
                counts.left_out[KNOWN] += 1
            elif row_id in seen:
                counts.left_out[REPEATED] += 1
            else:
                seen.add(row_id)
                yield Candidate(Place(index, row.number), row_id, text, pair)


def label_columns(options: DataOptions) -> list[str]:
    """The columns that a person fills in."""
    return options.label_columns or [options.label]


def values(sources: Sequence[Source], options: DataOptions, places: Iterable[Place]) -> dict[Place, dict[str, str]]:
    """All columns of some rows but those of labels; a missing value is "".

    Raises:
        UserError: as `candidates`.
    """
    wanted = set(places)
    found = {}
    for index, (file, columns) in enumerate(sources):
        numbers = {place.row for place in wanted if place.file == index}
        names = [name for name in columns if name not in label_columns(options)]
        if not numbers:
            continue
        for row in formats.read(file, options, names):
            if row.number in numbers:
                cells = ["" if value is None else value for value in row.values]
                found[Place(index, row.number)] = dict(zip(names, cells, strict=True))
    return found
