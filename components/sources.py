"""Streaming readers of the users' files: every row comes out as values or as a fault, and no row ends the file."""

from __future__ import annotations

import codecs
import csv
import difflib
import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow
import pyarrow.parquet
import xxhash

from bertline.components import spans
from bertline.components.options import DataOptions
from bertline.errors import UserError
from bertline.models import packages

# === What comes out ===

BROKEN_LINE = "broken line"
BAD_BYTES = "bytes not in the encoding"


class SourceFile(NamedTuple):
    """One file to read: its absolute path, its name for people (relative to the base folder), its format.

    Of a Parquet file it may be a part: some row groups, `rows` in all, with `first` rows before them.
    """

    path: str
    name: str
    format: str
    groups: range | None = None
    first: int = 0
    rows: int | None = None


class Fault(NamedTuple):
    """Why a row cannot be used: a reason to count by, the detail, and the start of what stood there."""

    reason: str
    detail: str
    excerpt: str


class Row(NamedTuple):
    """A row of a file.

    `number` counts the file's rows from 1; a header and blank lines are not rows. `values` are in the order of the
    columns asked for, None where the row has none; empty when there is a `fault`.
    """

    number: int
    values: tuple[str | None, ...]
    fault: Fault | None = None


# === Limits ===

EXCERPT_CHARACTERS = 200  # enough to recognise the row, short enough for a list of thousands
# A quote that is never closed would otherwise take the rest of a file into one field.
LONGEST_FIELD = 16 * 1024 * 1024
SNIFFED_BYTES = 64 * 1024
JSON_ROWS_LOOKED_AT = 100  # keys of JSON Lines may differ from row to row, so one row does not tell the columns
PARQUET_BATCH = 2048

# === Which files ===

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


def expand(
    sources: Sequence[str], base_folder: str, format: str = "auto", newest_spans: int | None = None
) -> list[SourceFile]:
    """The files that the sources name, in a stable order, each once.

    Args:
        sources: paths, globs, folders of data files, folders with a folder a class, or package://NAME/PATH.
        base_folder: where relative paths start.
        format: a format of DataOptions, or "auto" to go by the file's name.
        newest_spans: where a source has {SPAN}, how many spans to take; None for all.

    Raises:
        UserError: nothing is there, or a file's format is not known.
    """
    files: dict[str, SourceFile] = {}
    for source in spans.resolve(sources, base_folder, newest_spans):
        for path in _matches(source, Path(base_folder)):
            found = _in_folder(path, source, format) if path.is_dir() else [(path, _format_of(path, format))]
            for file, file_format in found:
                name = _name(file, path, source, Path(base_folder))
                files.setdefault(str(file), SourceFile(str(file), name, file_format))
    return list(files.values())


def of_options(options: DataOptions, base_folder: str) -> list[SourceFile]:
    """All files that a task reads: the given splits' too.

    Raises:
        UserError: as `expand`.
    """
    given = [options.source, options.validation_source or [], options.test_source or []]
    return [file for patterns in given for file in expand(patterns, base_folder, options.format, options.newest_spans)]


def paths_of_options(options: DataOptions) -> Callable[[str], list[str]]:
    """Finds the files that a task reads in a folder, by their names alone; for `object_store.local_copy`."""
    return lambda folder: [file.path for file in of_options(options, folder)]


def _matches(source: str, base: Path) -> list[Path]:
    if source.startswith(packages.SCHEME):
        try:
            return [packages.resolve(source)]
        except ValueError as error:
            raise UserError(f"data source {error}") from None
    path = base / Path(source).expanduser()
    if path.exists():
        return [path.absolute()]
    if glob.has_magic(source):
        found = sorted(glob.glob(str(path), recursive=True))
        if found:
            return [Path(match).absolute() for match in found]
        raise UserError(
            f"data source {source!r} matches no file (looked in {base}). Correct the pattern in the config."
        )
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    nearest = difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(f"data source {source!r} does not exist (looked for {path}).{hint} Correct the path in the config.")


def _in_folder(folder: Path, source: str, format: str) -> list[tuple[Path, str]]:
    """The files of a folder: those of its class folders where it has any, else the data files in it."""
    # Neither what editors and systems leave behind nor Python's caches in a package's folder are data.
    visible = sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))
    classes = [entry for entry in visible if entry.is_dir()]
    if format in ("auto", "folders") and classes:
        found = [(file, "folders") for label in classes for file in _files_of(label)]
    else:
        found = [(entry, _format_of(entry, format)) for entry in visible if entry.is_file() and _is_data(entry, format)]
    if not found:
        raise UserError(
            f"data source {source!r} is a folder without data: expected a folder a class with a text file a row, "
            f"or files ending in {', '.join(FORMATS)}."
        )
    return found


def _files_of(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith("."))


def _is_data(path: Path, format: str) -> bool:
    return format not in ("auto", "folders") or _suffix(path) in FORMATS


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _format_of(path: Path, format: str) -> str:
    if format == "folders":
        raise UserError(f"{path}: the format is 'folders' but this is a file; name the folder that holds the classes.")
    if format != "auto":
        return format
    known = FORMATS.get(_suffix(path))
    if known is None:
        raise UserError(
            f"{path}: format not known from the name. Known endings are {', '.join(FORMATS)} "
            "(text ones also with .gz); or say it in the config: data.format: csv, tsv, jsonl, parquet or folders."
        )
    return known


def _name(file: Path, match: Path, source: str, base: Path) -> str:
    """The file as a person named it: inside its package, else relative to the base folder, else whole."""
    if source.startswith(packages.SCHEME):
        inside = file.relative_to(match)
        return source if inside == Path() else f"{source.rstrip('/')}/{inside.as_posix()}"
    base = base.absolute()
    return file.relative_to(base).as_posix() if file.is_relative_to(base) else file.as_posix()


def parts(file: SourceFile, most_bytes: int) -> list[tuple[SourceFile, int]]:
    """A file in parts that workers can read apart, and the bytes of each.

    Only Parquet says where a part may begin. In a CSV file a line end may stand inside quotes, and a broken row may
    have one quote too many: where a row begins is known once all before it is read.

    Args:
        file: as `expand` gives it.
        most_bytes: of a part, unless a single row group has more; a file that has no more is one part.

    Raises:
        UserError: as `columns`.
    """
    size = Path(file.path).stat().st_size
    if file.format != "parquet" or size <= most_bytes:
        return [(file, size)]
    with _damage_in_words(file), _parquet(file) as table:
        groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
    cut: list[tuple[SourceFile, int]] = []
    first = 0
    for number, group in enumerate(groups):
        if not cut or cut[-1][1] + group.total_byte_size > most_bytes:
            cut.append((file._replace(groups=range(number, number), first=first, rows=0), 0))
        part, size = cut[-1]
        part = part._replace(groups=range(part.groups.start, number + 1), rows=part.rows + group.num_rows)
        cut[-1] = part, size + group.total_byte_size
        first += group.num_rows
    return cut


def fingerprint(files: Iterable[SourceFile]) -> str:
    """Hash of the files' names and whole contents, in order: one changed byte anywhere changes it. 32 hex digits."""
    digest = xxhash.xxh3_128()
    for file in files:
        # The parent's name is the label in a folder a class; names further up only say where the data lie.
        digest.update("/".join(Path(file.path).parts[-2:]).encode("utf-8", "surrogateescape") + b"\0")
        digest.update(file.format.encode() + b"\0")
        with open(file.path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        digest.update(b"\0")
    return digest.hexdigest()


# === Which columns ===


def used_columns(options: DataOptions) -> list[str]:
    """Columns that the options ask for: text, text_pair where given, label, then the kept ones."""
    named = [options.text, *([options.text_pair] if options.text_pair else []), options.label]
    return named + [name for name in options.keep if name not in named]


def columns(file: SourceFile, options: DataOptions) -> list[str]:
    """Names of the columns that hold plain values, not lists or objects; for a folder a class, the text and label.

    Raises:
        UserError: the file is empty, not text, not of its format, or not in the encoding's reach.
    """
    if file.format == "folders":
        return [options.text, options.label]
    with _damage_in_words(file):
        if not Path(file.path).stat().st_size:
            raise UserError(f"{file.name}: the file is empty (0 bytes).")
        if file.format == "parquet":
            return [field.name for field in _parquet(file).schema_arrow if not pyarrow.types.is_nested(field.type)]
        _refuse_binary(file, options)
        with _text(file, options) as stream:
            names = _json_keys(file, stream) if file.format == "jsonl" else _header(file, stream)
    if not names:
        raise UserError(f"{file.name}: the file has no rows.")
    return names


def check(file: SourceFile, options: DataOptions) -> None:
    """Looks at the start of a file before a run is spent on it.

    Raises:
        UserError: as `columns`, or a column that the options name is missing or appears twice.
    """
    found = columns(file, options)
    for option, name in _options_of_columns(options):
        if name not in found:
            raise UserError(_missing_column(file, option, name, found))
        if found.count(name) > 1:
            raise UserError(f"{file.name}: the column {name!r} appears {found.count(name)} times; rename all but one.")


def _options_of_columns(options: DataOptions) -> Iterator[tuple[str, str]]:
    yield "text", options.text
    if options.text_pair:
        yield "text_pair", options.text_pair
    yield "label", options.label
    for name in options.keep:
        yield "keep", name


def _missing_column(file: SourceFile, option: str, name: str, found: list[str]) -> str:
    if file.format == "folders":
        return (
            f"{file.name}: data.{option} names {name!r}, but a folder a class has a text and a label only; remove it."
        )
    nearest = difflib.get_close_matches(name.lower(), [column.lower() for column in found], n=1, cutoff=0.5)
    close = [column for column in found if nearest and column.lower() == nearest[0]]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    shown = ", ".join(repr(_printable(column[:60])) for column in found[:20]) + (", ..." if len(found) > 20 else "")
    # One column where several are expected usually means another separator, not another name.
    separator = next((mark for mark in (";", "\t", "|", ",") if len(found) == 1 and mark in found[0]), None)
    if separator:
        hint = f" The first line looks separated by {separator!r}: save the file with commas (.csv) or tabs (.tsv)."
    return (
        f"{file.name}: no column {name!r} (data.{option}). Columns found: {shown}.{hint} "
        f"Set data.{option} to one of them; where the file has no line of column names, add one."
    )


def _header(file: SourceFile, stream: io.TextIOBase) -> list[str]:
    for _, fields in _records(stream, _delimiter(file)):
        if isinstance(fields, Fault):
            raise UserError(f"{file.name}: the line of column names is broken: {fields.detail}")
        if fields:
            return [name.strip() for name in fields]
    return []


def _json_keys(file: SourceFile, stream: io.TextIOBase) -> list[str]:
    keys: dict[str, None] = {}
    rows = 0
    for line in islice((line for line in stream if line.strip()), JSON_ROWS_LOOKED_AT):
        if not rows and line.lstrip().startswith("["):
            raise UserError(
                f"{file.name}: this is a JSON array, not JSON Lines: write one object a line "
                "(`jq -c '.[]' FILE` does it)."
            )
        rows += 1
        value = _parsed(line)
        if isinstance(value, dict):
            keys.update({key: None for key, held in value.items() if not isinstance(held, dict | list)})
    if rows and not keys:
        raise UserError(f"{file.name}: the first {rows} lines hold no JSON object; expected one object a line.")
    return list(keys)


# === Bytes ===


@contextmanager
def _damage_in_words(file: SourceFile) -> Iterator[None]:
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file.name}: not gzip, damaged or cut short ({error}); copy the file again.") from error
    except pyarrow.ArrowException as error:
        raise UserError(f"{file.name}: not Parquet, or damaged ({error}); write the file again.") from error
    except OSError as error:
        raise UserError(f"{file.name}: cannot be read: {error.strerror or error}") from error


# Files that people mistake for text, by their first bytes.
SIGNATURES = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV UTF-8",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"PAR1": "a Parquet file; let its name end in .parquet, or set data.format: parquet",
    b"\x1f\x8b": "compressed with gzip; let its name end in .gz",
    b"SQLite format 3": "an SQLite database",
}
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _refuse_binary(file: SourceFile, options: DataOptions) -> None:
    with _bytes(file) as stream:
        start = stream.read(SNIFFED_BYTES)
    if not start:
        raise UserError(f"{file.name}: the file is empty.")
    for signature, kind in SIGNATURES.items():
        if start.startswith(signature):
            raise UserError(f"{file.name}: this is not text but {kind}.")
    if _codec(options).startswith(("utf-16", "utf-32")):
        return
    if start.startswith(UTF16_MARKS):
        raise UserError(f"{file.name}: this is UTF-16. Set data.encoding: utf-16, or save the file as UTF-8.")
    if b"\0" in start:
        at = start.index(b"\0")
        raise UserError(f"{file.name}: a binary file, not text (a zero byte at position {at}). Expected {file.format}.")


def _bytes(file: SourceFile) -> BinaryIO:
    return gzip.open(file.path, "rb") if file.path.lower().endswith(".gz") else open(file.path, "rb")


def _codec(options: DataOptions) -> str:
    try:
        name = codecs.lookup(options.encoding).name
    except LookupError:
        raise UserError(
            f"data.encoding: Python knows no encoding {options.encoding!r}; usual ones are utf-8, latin-1, cp1252, "
            "mac_roman, utf-16, gb18030, shift_jis."
        ) from None
    return "utf-8-sig" if name == "utf-8" else name  # a byte order mark is no part of the first column's name


def _text(file: SourceFile, options: DataOptions) -> io.TextIOWrapper:
    """The file as text; line ends are kept, so that those inside quotes survive."""
    errors = "replace" if options.on_bad_bytes == "replace" else MARK_BAD_BYTES
    return io.TextIOWrapper(_bytes(file), encoding=_codec(options), errors=errors, newline="")


MARK_BAD_BYTES = "bertline.mark_bad_bytes"


def _mark_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    """Decodes byte 0xNN that is not in the encoding to the lone surrogate U+DCNN, which no valid text holds.

    Python's surrogateescape does so only for bytes from 0x80 on, and so fails on UTF-16 and the East Asian encodings.
    """
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(MARK_BAD_BYTES, _mark_bad_bytes)


def _printable(text: str) -> str:
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _excerpt(text: str) -> str:
    return _printable(text[:EXCERPT_CHARACTERS])


# === Rows ===


def read(file: SourceFile, options: DataOptions, names: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a file, one at a time; memory does not grow with the file.

    Args:
        file: as `expand` gives it.
        options: encoding, policy for bad bytes, and the columns.
        names: columns to take, in this order; by default `used_columns(options)`.

    Yields:
        Row, its faults for what cannot be read.

    Raises:
        UserError: the file as a whole cannot be read: gone, cut short while compressed, not of its format.
    """
    names = list(used_columns(options) if names is None else names)
    readers: dict[str, Callable[..., Iterator[Row]]] = {
        "csv": _read_table,
        "tsv": _read_table,
        "jsonl": _read_json_lines,
        "parquet": _read_parquet,
        "folders": _read_class_file,
    }
    with _damage_in_words(file):
        for row in readers[file.format](file, options, names):
            yield row if row.fault else _without_bad_bytes(row, names, options)


def _without_bad_bytes(row: Row, names: list[str], options: DataOptions) -> Row:
    for name, value in zip(names, row.values, strict=True):
        if value is None or value.isascii():
            continue
        try:
            value.encode()
        except UnicodeEncodeError as error:
            if options.on_bad_bytes == "replace":
                return row._replace(values=tuple(value and _printable(value) for value in row.values))
            return Row(row.number, (), _bad_bytes(name, value, error.start, options))
    return row


def _bad_bytes(name: str, value: str, at: int, options: DataOptions) -> Fault:
    code = ord(value[at])
    # Other lone surrogates come from JSON escapes such as \ud83d without its second half.
    what = f"byte 0x{code - 0xDC00:02x}" if 0xDC00 <= code <= 0xDCFF else f"half a character, U+{code:04X},"
    detail = f"{what} is not {options.encoding}: column {name!r}, character {at + 1}"
    return Fault(BAD_BYTES, detail, _excerpt(value[max(0, at - EXCERPT_CHARACTERS // 2) :]))


# === CSV and TSV ===


def _delimiter(file: SourceFile) -> str:
    return "\t" if file.format == "tsv" else ","


class _Tape:
    """The lines of a stream, of which those of the current record can be given back."""

    def __init__(self, lines: Iterable[str]):
        self._lines = iter(lines)
        self._given_back: list[str] = []  # last first
        self.record: list[str] = []
        self.lines_before = 0

    def __iter__(self) -> _Tape:
        return self

    def __next__(self) -> str:
        line = self._given_back.pop() if self._given_back else next(self._lines)
        self.record.append(line)
        return line

    def start_record(self) -> None:
        self.lines_before += len(self.record)
        self.record = []

    def give_back_all_but_first(self) -> None:
        self._given_back.extend(reversed(self.record[1:]))
        del self.record[1:]


def _records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[str, list[str] | Fault]]:
    """RFC 4180 records: (the lines on which it stands, its fields or the fault of its first line).

    A quote that is not closed properly is a fault of the line on which its record starts; reading goes on with the
    next line, so that it does not swallow the rows after it.
    """
    csv.field_size_limit(LONGEST_FIELD)  # Python's own limit is 131,072 characters
    tape = _Tape(lines)
    reader = csv.reader(tape, delimiter=delimiter, strict=True)
    while True:
        tape.start_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            tape.give_back_all_but_first()
            reader = csv.reader(tape, delimiter=delimiter, strict=True)
            where = f"line {tape.lines_before + 1}"
            yield where, Fault(BROKEN_LINE, f"{_in_words(error)} ({where})", _excerpt(tape.record[0]))
            continue
        first, count = tape.lines_before + 1, len(tape.record)
        yield f"line {first}" if count == 1 else f"lines {first} to {first + count - 1}", fields


def _in_words(error: csv.Error) -> str:
    message = str(error)
    if "unexpected end of data" in message or "field larger" in message:
        return "a quote is opened and never closed"
    if "expected after" in message:
        return "a closing quote is followed by more text; quotes inside a quoted field are written twice"
    return message


def _read_table(file: SourceFile, options: DataOptions, names: list[str]) -> Iterator[Row]:
    with _text(file, options) as stream:
        records = _records(stream, _delimiter(file))
        header: list[str] = []
        positions: list[int] = []
        number = 0
        for where, fields in records:
            if not fields:  # a blank line
                continue
            if not header:
                header = [name.strip() for name in _fields_or_stop(file, fields)]
                positions = [_position(file, name, header) for name in names]
                continue
            number += 1
            if isinstance(fields, Fault):
                yield Row(number, (), fields)
            elif len(fields) != len(header):
                detail = f"{len(fields)} fields where the first line names {len(header)} columns ({where})"
                yield Row(number, (), Fault(BROKEN_LINE, detail, _excerpt(_delimiter(file).join(fields))))
            else:
                yield Row(number, tuple(fields[position] for position in positions))


def _fields_or_stop(file: SourceFile, fields: list[str] | Fault) -> list[str]:
    if isinstance(fields, Fault):
        raise UserError(f"{file.name}: the line of column names is broken: {fields.detail}")
    return fields


def _position(file: SourceFile, name: str, header: list[str]) -> int:
    if name not in header:
        raise UserError(_missing_column(file, "text, data.label or data.keep", name, header))
    return header.index(name)


# === JSON Lines ===


def _parsed(line: str) -> object:
    """The value of a line of JSON, or the ValueError that says why there is none."""
    try:
        return json.loads(line)
    except RecursionError:
        return ValueError("nested too deep")
    except ValueError as error:
        return error


def _read_json_lines(file: SourceFile, options: DataOptions, names: list[str]) -> Iterator[Row]:
    with _text(file, options) as stream:
        number = 0
        for line_number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            number += 1
            value = _parsed(line)
            if not isinstance(value, dict):
                why = (
                    f"not JSON: {value}"
                    if isinstance(value, ValueError)
                    else f"a {type(value).__name__}, not an object"
                )
                yield Row(number, (), Fault(BROKEN_LINE, f"{why} (line {line_number})", _excerpt(line)))
                continue
            nested = [name for name in names if isinstance(value.get(name), dict | list)]
            if nested:
                detail = f"{nested[0]!r} holds a {type(value[nested[0]]).__name__}, not a text (line {line_number})"
                yield Row(number, (), Fault(BROKEN_LINE, detail, _excerpt(line)))
                continue
            yield Row(number, tuple(_as_text(value.get(name)) for name in names))


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else str(value)


# === Parquet ===


def _parquet(file: SourceFile) -> pyarrow.parquet.ParquetFile:
    return pyarrow.parquet.ParquetFile(file.path)


def _read_parquet(file: SourceFile, options: DataOptions, names: list[str]) -> Iterator[Row]:
    with _parquet(file) as table:
        found = [field.name for field in table.schema_arrow if not pyarrow.types.is_nested(field.type)]
        for name in names:
            _position(file, name, found)
        number = file.first
        for batch in table.iter_batches(PARQUET_BATCH, row_groups=file.groups, columns=names):
            texts = [_texts(batch.column(batch.schema.get_field_index(name)), options) for name in names]
            for values in zip(*texts, strict=True):
                number += 1
                yield Row(number, values)


def _texts(column: pyarrow.Array, options: DataOptions) -> list[str | None]:
    kind = column.type
    if pyarrow.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
        # Parquet's writers do not all check that strings are UTF-8, so the policy for bad bytes holds here too.
        column = column.cast(pyarrow.large_binary() if pyarrow.types.is_large_string(kind) else pyarrow.binary())
    errors = "replace" if options.on_bad_bytes == "replace" else MARK_BAD_BYTES
    return [
        value.decode("utf-8", errors) if isinstance(value, bytes) else _as_text(value) for value in column.to_pylist()
    ]


# === A folder a class ===


def _read_class_file(file: SourceFile, options: DataOptions, names: list[str]) -> Iterator[Row]:
    """One row: the whole file is its text, the folder's name its label."""
    with _bytes(file) as stream:
        content = stream.read()
    codec = _codec(options)
    if b"\0" in content and not codec.startswith(("utf-16", "utf-32")):
        yield Row(1, (), Fault(BAD_BYTES, f"a binary file, not text (zero byte at position {content.index(0)})", ""))
        return
    errors = "replace" if options.on_bad_bytes == "replace" else MARK_BAD_BYTES
    row = {options.text: content.decode(codec, errors), options.label: Path(file.path).parent.name}
    yield Row(1, tuple(row.get(name) for name in names))
