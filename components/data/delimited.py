"""CSV and TSV: RFC 4180 records below a line of column names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from bertline.components.data import decoding, quoting
from bertline.components.data.columns import places_of
from bertline.components.data.reader import Reader, SourceFile
from bertline.components.data.records import Record, plain_fields, plain_records, standard_records
from bertline.components.data.rows import BROKEN_LINE, Fault, Row, excerpt
from bertline.components.options import DataOptions
from bertline.errors import UserError

# What makes a row doubtful, as it is counted on the screen.
SPANS_LINES = "rows with a quoted field over lines that look like rows (see data.quoting)"
KEPT_QUOTES = "rows with a field in quotes, which were kept (see data.quoting)"


@dataclass(frozen=True)
class Delimited(Reader):
    """Reads a table of text whose first line names the columns.

    Attributes:
        delimiter: the character between two fields.
    """

    delimiter: str

    def columns(self, file: SourceFile, options: DataOptions) -> list[str]:
        """See Reader."""
        decoding.refuse_binary(file, options)
        with decoding.open_text(file, options) as stream:
            return _header(file, self._records(stream, self._early_quoting(file, options)))

    def settled(self, file: SourceFile, options: DataOptions) -> SourceFile:
        """See Reader; what is settled is how quotes are read."""
        if file.quoting:
            return file
        if options.quoting != "auto":
            return file._replace(quoting=options.quoting)
        with decoding.open_text(file, options) as stream:
            return file._replace(quoting=quoting.decide(stream, self.delimiter))

    def rows(self, file: SourceFile, options: DataOptions, names: Sequence[str]) -> Iterator[Row]:
        """See Reader."""
        file = self.settled(file, options)
        with decoding.open_text(file, options) as stream:
            records = self._records(stream, file.quoting)
            header = _header(file, records)
            places = places_of(file, names, header, options) if header else []
            filled = (record for record in records if record.fields)
            for number, record in enumerate(filled, start=1):
                fields = record.fields
                if isinstance(fields, Fault):
                    yield Row(number, (), fields)
                elif len(fields) != len(header):
                    detail = f"{len(fields)} fields where the first line names {len(header)} columns ({record.where})"
                    yield Row(number, (), Fault(BROKEN_LINE, detail, excerpt(self.delimiter.join(fields))))
                else:
                    yield Row(number, tuple(fields[place] for place in places), doubt=self._doubt(record, file))

    def _early_quoting(self, file: SourceFile, options: DataOptions) -> str:
        """How the line of column names is read: quotes in it say that the whole file is standard."""
        return file.quoting or ("none" if options.quoting == "none" else "standard")

    def _records(self, stream: Iterable[str], quotes: str | None) -> Iterator[Record]:
        return (plain_records if quotes == "none" else standard_records)(stream, self.delimiter)

    def _doubt(self, record: Record, file: SourceFile) -> str | None:
        """What is doubtful in a record that has the right number of fields."""
        if file.quoting == "none":
            wrapped = any(len(field) > 1 and field[0] == field[-1] == '"' for field in record.fields)
            return KEPT_QUOTES if wrapped else None
        lines = [line for line in record.lines if line.strip()]
        if len(lines) < 2:
            return None
        rows = all(len(plain_fields(line, self.delimiter)) == len(record.fields) for line in lines)
        return SPANS_LINES if rows else None


def _header(file: SourceFile, records: Iterator[Record]) -> list[str]:
    """Takes the names of the columns from the first line that is not blank; [] where there is none."""
    for record in records:
        fields = record.fields
        if isinstance(fields, Fault):
            raise UserError(
                f"{file.name}: the line of column names is broken: {fields.detail}. Correct that line in the file."
            )
        if fields:
            return [name.strip() for name in fields]
    return []
