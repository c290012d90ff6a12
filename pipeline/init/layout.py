"""How tables without a schema are laid out: the character between fields, and whether the first line is a row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from bertline.components.data import decoding
from bertline.components.data.columns import DELIMITERS
from bertline.components.data.delimited import Delimited
from bertline.components.data.formats import READERS
from bertline.components.data.reader import SourceFile
from bertline.components.data.records import Record, plain_records, standard_records
from bertline.components.data.rows import Fault, excerpt
from bertline.components.data.xlsx import Xlsx
from bertline.components.options import DataOptions
from bertline.errors import UserError

SAMPLED_LINES = 5000  # of each file
SAMPLED_FILES = 100
# Beside the usual ones, what databases write between fields; ^ and ~ are there for texts that hold all others.
MARKS = (*DELIMITERS, "^", "~", "\x01", "\x1f")

MOST_VALUES = 1000  # of a column whose values repeat; with more it is no label
MOST_RECORDS = 0.8  # share that has the same number of fields, for the first line to be of another kind
NUMBERS = 0.98  # share of a column's values that are numbers, for the first line to need one too
TEXT_WORDS = 3  # words of a column's values on average, from which they are texts
# Names that columns have, and rows hardly ever.
NAMES = {
    *("text", "label", "class", "category", "sentiment", "target", "title", "content", "body", "comment", "review"),
    *("id", "index", "date", "time", "timestamp", "user", "username", "url", "lang", "language", "split", "message"),
}


class Layout(NamedTuple):
    """What is to be written down of the files' layout.

    Attributes:
        delimiter: between fields; None where it is the format's own, or the files name theirs.
        header: names for the columns, where the first line is a row.
        why: what tells that it is one.
    """

    delimiter: str | None = None
    header: list[str] | None = None
    why: str = ""


USUAL = Layout()


def look(files: Sequence[SourceFile], options: DataOptions, header: list[str] | None = None) -> Layout:
    """Finds the delimiter of CSV and TSV files, and their and workbooks' header, from their first lines.

    Args:
        files: of a task.
        options: the encoding.
        header: names of the columns, where a person has given them; [] says that the first line names them.

    Raises:
        UserError: two files differ, or it is not clear whether the first line is a row.
    """
    samples = [_sampled(file, options) for file in _those(files, Delimited)]
    delimiter = _delimiter(samples)
    if header is not None:
        return Layout(delimiter, header or None, "as you said")
    judged = {sample.file.name: _judged_sample(sample, delimiter) for sample in samples}
    for file in _those(files, Xlsx):
        judged[file.name] = _judged(READERS[file.format].first_rows(file, options, SAMPLED_LINES))
    return _header(judged, delimiter)


def _those(files: Sequence[SourceFile], reader: type) -> list[SourceFile]:
    return [file for file in files if isinstance(READERS[file.format], reader)][:SAMPLED_FILES]


# === The delimiter ===


@dataclass
class _Sample:
    """The first lines of a file.

    Attributes:
        file: whose they are.
        lines: with their line ends; a blank one for a line that names the delimiter.
        usual: the character that the file itself names, else its format's.
        named: it names one itself.
    """

    file: SourceFile
    lines: list[str]
    usual: str
    named: bool

    def records(self, mark: str) -> list[Record]:
        """Those that are not blank, in the reading of quotes that fits better."""
        return max((self._read(read, mark) for read in (standard_records, plain_records)), key=_fit)

    def _read(self, read: Callable[[Iterable[str], str], Iterator[Record]], mark: str) -> list[Record]:
        records = [record for record in read(self.lines, mark) if record.fields]
        cut = len(self.lines) == SAMPLED_LINES  # the last one may go on
        return records[:-1] if cut and len(records) > 1 else records


def _sampled(file: SourceFile, options: DataOptions) -> _Sample:
    decoding.refuse_binary(file, options)
    with READERS[file.format].opened(file, options) as (lines, usual, named):
        return _Sample(file, list(islice(lines, SAMPLED_LINES)), usual, named)


def _fit(records: list[Record]) -> tuple[float, int]:
    """Share of the records that have as many fields as most have, and how many these are.

    It halves where the first record, which says how many columns there are, has another number.
    """
    counts = Counter(0 if isinstance(record.fields, Fault) else len(record.fields) for record in records)
    if not counts:
        return 0.0, 0
    (fields, times), *_ = counts.most_common(1)
    if fields < 2:
        return 0.0, fields
    first = records[0].fields
    agrees = not isinstance(first, Fault) and len(first) == fields
    return times / len(records) / (1 if agrees else 2), fields


def _delimiter(samples: list[_Sample]) -> str | None:
    """The delimiter of all files; None where each has its usual one."""
    found = {sample.file.name: _best_mark(sample) for sample in samples if not sample.named}
    unusual = {sample.file.name for sample in samples if found.get(sample.file.name, sample.usual) != sample.usual}
    if not unusual:
        return None
    if len(set(found.values())) > 1:
        (first, mark), (other, another) = next(
            (pair, differing)
            for pair in found.items()
            for differing in found.items()
            if pair[0] in unusual and differing[1] != pair[1]
        )
        raise UserError(
            f"{first} is separated by {mark!r} and {other} by {another!r}, but data.delimiter holds for all files. "
            "Bring them into one form, or give the ones with tabs names that end in .tsv."
        )
    return next(iter(found.values()))


def _best_mark(sample: _Sample) -> str:
    """The character by which rows agree most on their number of fields; the usual one where others are no better."""
    seen = [mark for mark in MARKS if any(mark in line for line in sample.lines[:100])]
    return max(dict.fromkeys([sample.usual, *seen]), key=lambda mark: _fit(sample.records(mark)))


# === The first line ===


@dataclass
class _Column:
    """A column below the first record."""

    values: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        return Counter(self.values)

    @property
    def repeats(self) -> bool:
        """Whether it could be a label: few values, each several times on average."""
        return bool(self.values) and len(self.counts) <= min(MOST_VALUES, len(self.values) / 2)

    @property
    def numeric(self) -> bool:
        return bool(self.values) and sum(map(_is_number, self.values)) >= NUMBERS * len(self.values)

    @property
    def words(self) -> float:
        return sum(len(value.split()) for value in self.values) / max(len(self.values), 1)

    @property
    def characters(self) -> float:
        return sum(map(len, self.values)) / max(len(self.values), 1)


def _is_number(value: str) -> bool:
    return bool(re.fullmatch(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?", value))


class _Verdict(NamedTuple):
    kind: Literal["names", "row", "unclear"]
    why: str
    columns: list[_Column]


def _judged_sample(sample: _Sample, delimiter: str | None) -> _Verdict:
    mark = sample.usual if sample.named else delimiter or sample.usual
    records = sample.records(mark)
    _refuse_lines_above(sample.file, records, mark)
    if not records or isinstance(records[0].fields, Fault):
        return _Verdict("names", "", [])
    return _judged([record.fields for record in records if not isinstance(record.fields, Fault)])


def _header(judged: dict[str, _Verdict], delimiter: str | None) -> Layout:
    kinds = {verdict.kind: name for name, verdict in reversed(judged.items())}  # the first file of each kind
    if "names" in kinds and "row" in kinds:
        raise UserError(
            f"The first line of {kinds['names']} names the columns, that of {kinds['row']} is a row "
            f"({judged[kinds['row']].why}). Bring the files into one form."
        )
    if "row" in kinds:
        verdict = judged[kinds["row"]]
        return Layout(delimiter, _proposed_names(verdict.columns), f"the first line is a row: {verdict.why}")
    if "unclear" in kinds and "names" not in kinds:
        raise UserError(
            f"{kinds['unclear']}: it is not clear whether the first line names the columns or is a row "
            f"({judged[kinds['unclear']].why}). Say so: `--header first`, or `--header NAME,NAME,...` with a name for "
            "each column."
        )
    return Layout(delimiter)


def _refuse_lines_above(file: SourceFile, records: list[Record], mark: str) -> None:
    """Raises UserError where remarks or a title stand above the line of column names."""
    first = records[0].fields if records else []
    share, fields = _fit(records)
    if isinstance(first, Fault) or not _is_title(first) or fields < 2 or 2 * share < MOST_RECORDS:
        return
    raise UserError(
        f"{file.name}: the first line is one field ({excerpt(first[0])!r}), and most others are {fields}, separated by "
        f"{mark!r}. Remove what stands above the line of column names."
    )


def _is_title(fields: Sequence[str]) -> bool:
    """Whether a line holds only its first field; Excel fills the others up with delimiters."""
    return len(fields) == 1 or (len(fields) > 2 and bool(fields[0].strip()) and not any(map(str.strip, fields[1:])))


def _judged(rows: list[list[str]]) -> _Verdict:
    """Whether the first row is one like the others, by what each of its cells says."""
    first, *rows = [[cell.strip() for cell in row] for row in rows]
    if len(first) < 2:  # no delimiter is known, and that is what is to be said
        return _Verdict("names", "", [])
    rows = [row for row in rows if len(row) == len(first)]
    columns = [_Column([row[place] for row in rows if row[place]]) for place in range(len(first))]
    if not rows or _are_counted(first):
        return _Verdict("names", "", columns)
    repeated = sum(row == first for row in rows)
    votes = [vote for cell, column in zip(first, columns, strict=True) if (vote := _vote(cell, column, repeated))]
    tally = Counter(vote.says for vote in votes)
    why = next((vote.why for kind in ("row", "perhaps a row") for vote in votes if vote.says == kind), "")
    return _Verdict(_weighed(tally), why, columns)


def _are_counted(names: list[str]) -> bool:
    """Whether these are the names that pandas gives: 0, 1, 2 ..., after an empty one for the row numbers."""
    names = names[1:] if not names[0] else names
    return names == [str(place) for place in range(len(names))]


def _weighed(tally: Counter[str]) -> Literal["names", "row", "unclear"]:
    row, names = tally["row"], tally["names"]
    if names > row or names > 1:
        return "names"
    if row and not names:
        return "row" if row > 1 or not tally["perhaps names"] else "unclear"
    if row or (tally["perhaps a row"] and not tally["perhaps names"]):
        return "unclear"
    return "names"


class _Vote(NamedTuple):
    says: Literal["row", "perhaps a row", "names", "perhaps names"]
    why: str = ""


def _vote(cell: str, column: _Column, repeated: int) -> _Vote | None:
    """What a field of the first line says; None where nothing.

    Args:
        cell: the field.
        column: what stands below it.
        repeated: how often the whole first line comes again, as names do in files that were put together.
    """
    if not column.values:
        return None
    if not cell:
        return _Vote("names") if column.numeric else None  # the column of row numbers has no name
    if column.repeats and column.counts[cell] > repeated:
        return _Vote("row", f"{cell[:40]!r} is one of the {len(column.counts)} values of its column")
    if cell.casefold() in NAMES:
        return _Vote("names")
    if column.numeric:
        return _Vote("row", f"{cell!r} is a number like those below it") if _is_number(cell) else _Vote("names")
    if column.words < TEXT_WORDS:
        return _Vote("perhaps names") if column.repeats else None
    if len(cell.split()) >= TEXT_WORDS:
        return _Vote("perhaps a row", f"{cell[:40]!r} looks like a text")
    return _Vote("perhaps names")


def _proposed_names(columns: list[_Column]) -> list[str]:
    """label, text, title where there are two texts, and column_N for the others."""
    names = [f"column_{place}" for place in range(1, len(columns) + 1)]
    places = range(len(columns))
    labels = [place for place in places if columns[place].repeats and len(columns[place].counts) > 1]
    texts = [place for place in places if columns[place].words >= TEXT_WORDS and not columns[place].repeats]
    texts = sorted(texts or set(places) - set(labels), key=lambda place: columns[place].characters)
    if labels:
        names[min(labels, key=lambda place: len(columns[place].counts))] = "label"
    if texts:
        names[texts[-1]] = "text"
    if len(texts) == 2 and columns[texts[0]].words >= TEXT_WORDS:
        names[texts[0]] = "title"
    return names
