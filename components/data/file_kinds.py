"""What a file is: its format and its packing, by its name and by its first bytes."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import NamedTuple

from bertline.components.data import packing
from bertline.components.data.reader import FOLDERS
from bertline.errors import UserError

# The ending of a file's name, below that of a packing -> its format.
ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
}

# Endings of tables that are not read -> the way out.
FOREIGN = {
    **dict.fromkeys((".xls", ".xlsb"), "an Excel workbook of another kind: save it as .xlsx"),
    ".ods": "a LibreOffice spreadsheet: save it as .xlsx, or as CSV UTF-8",
    ".numbers": "a Numbers spreadsheet: export it as CSV",
    **dict.fromkeys((".tar", ".tgz", ".7z", ".rar"), "an archive: unpack it"),
    **dict.fromkeys((".sqlite", ".sqlite3", ".db"), "a database: export the table as CSV"),
    **dict.fromkeys((".sav", ".dta", ".sas7bdat", ".rds", ".rdata"), "a statistics program's: export it as CSV"),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz"), "Python's: write the table as Parquet or CSV"),
    **dict.fromkeys((".pdf", ".docx", ".doc", ".xml", ".html", ".htm"), "no table: write one as CSV"),
}

# Those that hold rows, as a rule: whoever reads the folder should know that they are left out.
TABLES = {*FOREIGN, packing.ZIP_ENDING} - {".pdf", ".docx", ".doc", ".xml", ".html", ".htm"}

# The first bytes of tables that are no text.
SIGNATURES = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow"}
WORKBOOK, SPREADSHEET = "xl/workbook.xml", b"application/vnd.oasis.opendocument.spreadsheet"


class UnknownFormat(UserError):
    """The name of a file does not tell its format; it may be text."""


def by_name(path: Path) -> str | None:
    """The format that a file's name tells; None where it tells none."""
    return ENDINGS.get(Path(packing.without_packing(path.name)).suffix.lower())


def is_foreign(path: Path) -> bool:
    """Whether a file is a table or an archive that a folder's reader passes over, by its name."""
    ending = Path(packing.without_packing(path.name)).suffix.lower()
    return path.is_file() and not path.name.startswith(".") and (ending in TABLES or path.suffix.lower() in TABLES)


EMPTY_FORMAT = "csv"  # of an empty file whose name tells none: its reader says that it is empty


class Kind(NamedTuple):
    """A file's format, its one member where it is a zip archive, and what to say of it."""

    format: str
    member: str | None = None
    notes: tuple[str, ...] = ()


def kind_of(path: Path, name: str, format: str = "auto", member: str | None = None) -> Kind:
    """What a file is. One that is empty, or that is not there yet, is known by its name only.

    Args:
        path: of the file.
        name: for the message.
        format: a format of DataOptions, or "auto".
        member: the file that was named in a zip archive.

    Raises:
        UserError: its format is not known, or it is an archive of several files.
    """
    if format == FOLDERS:
        raise UserError(f"{path}: the format is 'folders' but this is a file; name the folder that holds the classes.")
    if not _start(path):
        known = by_name(Path(member) if member else path) or EMPTY_FORMAT
        return Kind(known if format == "auto" else format, member)
    if packing.is_zip(str(path)):
        return _of_zip(path, name, format, member)
    if member:
        raise UserError(f"{name}: {path.name} is no zip archive, so that {member!r} cannot be in it.")
    if format == "auto" and (told := _told_by_bytes(path, name)):
        other = by_name(path) not in (None, told)
        return Kind(told, None, (f"{name}: read as {told}, which it is",) if other else ())
    remark = packing.remark(str(path))
    return Kind(_named(path, format), None, (f"{name}: {remark}",) if remark else ())


def _told_by_bytes(path: Path, name: str) -> str | None:
    """The format that the first bytes tell; None where they tell none that matters.

    Raises:
        UserError: it is text, and its name says that it is not.
    """
    start, named = _start(path), by_name(path)
    if told := next((known for signature, known in SIGNATURES.items() if start.startswith(signature)), None):
        return told
    if named in ("csv", "tsv") and re.match(rb'(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*"', start):
        return "json"
    ending = Path(packing.without_packing(path.name)).suffix.lower()
    says_binary = named in ("parquet", "arrow", "xlsx") or (named is None and ending in TABLES)
    if says_binary and packing.packing_of(str(path)) is None and _is_text(start):
        raise UserError(f"{name}: not {ending} but text. Set data.format to what it is, such as csv or tsv.")
    return None


def _is_text(start: bytes) -> bool:
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in start)


def _start(path: Path) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read(64)
    except OSError:  # whoever reads it says what is wrong
        return b""


def _named(path: Path, format: str) -> str:
    if format != "auto":
        return format
    known = by_name(path)
    if known is None:
        ending = Path(packing.without_packing(path.name)).suffix.lower()
        if ending in FOREIGN:
            raise UserError(f"{path}: {ending} is {FOREIGN[ending]}.")
        raise UnknownFormat(
            f"{path}: format not known from the name. Known endings are {', '.join(ENDINGS)} (of text files also with "
            f"{', '.join(packing.ENDINGS)}). Rename the file, or set data.format."
        )
    return known


def _of_zip(path: Path, name: str, format: str, member: str | None) -> Kind:
    """A workbook, or the one file of an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if "mimetype" in names and archive.read("mimetype").startswith(SPREADSHEET):
                raise UserError(f"{name}: {FOREIGN['.ods']}.")
    except zipfile.BadZipFile as error:
        raise UserError(f"{name}: not zip, damaged or cut short ({error}); copy the file again.") from error
    if WORKBOOK in names and not member:
        other = format == "auto" and by_name(path) != "xlsx"
        notes = (f"{name}: read as an Excel workbook, which it is",) if other else ()
        return Kind("xlsx" if format == "auto" else format, None, notes)
    if "xl/workbook.bin" in names:
        raise UserError(f"{name}: {FOREIGN['.xlsb']}.")
    member = member or packing.only_member(str(path), name)
    told = by_name(Path(member)) or by_name(path)
    if format == "auto" and told is None:
        raise UnknownFormat(f"{name}: the format of {member!r} in it is not known from the name; set data.format.")
    ending = path.suffix.lower()
    notes = () if ending == packing.ZIP_ENDING else (f"{name}: a zip archive, whatever its name: it is unpacked",)
    return Kind(told if format == "auto" else format, member, notes)
