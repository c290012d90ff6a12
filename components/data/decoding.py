"""From a file's bytes to text: the encoding, and files that are no text."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager

from bertline.components.data.packing import open_bytes
from bertline.components.data.reader import SourceFile
from bertline.components.options import DataOptions
from bertline.errors import UserError

SNIFFED_BYTES = 64 * 1024
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

# === Encoding ===


@contextmanager
def open_text(file: SourceFile, options: DataOptions) -> Iterator[io.TextIOWrapper]:
    """The file as text. Line ends are kept, so that those inside quotes survive.

    Raises:
        UserError: as `open_bytes`, or the encoding is not known or needs a byte order mark that is missing.
    """
    with open_bytes(file) as stream:
        try:
            yield io.TextIOWrapper(stream, encoding=codec(options), errors=error_policy(options), newline="")
        except UnicodeError as error:
            wide = holds_zero_bytes(options)  # without a byte order mark
            names = f"{options.encoding}-le or {options.encoding}-be" if wide else "the file's own"
            raise UserError(
                f"{file.name}: cannot be read as {options.encoding}: {error}. Set data.encoding to {names}, or save "
                "the file as UTF-8."
            ) from error


USUAL_ENCODINGS = "utf-8, latin-1, cp1252, mac_roman, utf-16, gb18030, shift_jis"
# Python's codecs that turn bytes into bytes or text into text, those of domain names, and the one that always fails.
NOT_OF_FILES = {
    *("base64", "bz2", "hex", "quopri", "rot-13", "uu", "zlib"),
    *("idna", "punycode"),
    "undefined",
}


def codec(options: DataOptions) -> str:
    """Python's name of the encoding.

    Raises:
        UserError: Python has none of this name, or it is no encoding of text files.
    """
    try:
        name = codecs.lookup(options.encoding).name
    except LookupError:
        raise UserError(
            f"data.encoding: Python knows no encoding {options.encoding!r}; usual ones are {USUAL_ENCODINGS}."
        ) from None
    if name in NOT_OF_FILES:
        raise UserError(
            f"data.encoding: {options.encoding} is no encoding of text files; usual ones are {USUAL_ENCODINGS}."
        )
    return "utf-8-sig" if name == "utf-8" else name  # a byte order mark is no part of the first column's name


MARK_BAD_BYTES = "bertline.mark_bad_bytes"


def error_policy(options: DataOptions) -> str:
    """What decoding does with bytes that are not in the encoding, as Python's `errors` names it."""
    return "replace" if options.on_bad_bytes == "replace" else MARK_BAD_BYTES


def _mark_bad_bytes(error: UnicodeError) -> tuple[str, int]:
    """Decodes byte 0xNN that is not in the encoding to the lone surrogate U+DCNN, which no valid text holds.

    Python's surrogateescape does so only for bytes from 0x80 on, and so fails on UTF-16 and the East Asian encodings.
    """
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(MARK_BAD_BYTES, _mark_bad_bytes)

# === Files that are no text ===

# Files that people mistake for text, by their first bytes.
SIGNATURES = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; set data.format: auto, or save the table as a CSV file",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook, or one with a password; save it as .xlsx without a password",
    b"%PDF": "a PDF; copy its text into a CSV file",
    b"\x89PNG": "a picture; remove it from data.source",
    b"PAR1": "a Parquet file; set data.format: parquet",
    b"ARROW1": "an Arrow file; set data.format: arrow",
    b"\xff\xff\xff\xff": "an Arrow stream; set data.format: arrow",
    b"FEA1": "an old Feather file; write it again with a newer pandas or pyarrow",
    b"\x1f\x8b": "packed with gzip twice; unpack it once",
    b"BZh91AY&SY": "packed with bzip2 twice; unpack it once",
    b"\xfd7zXZ": "packed with xz twice; unpack it once",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it",
    b"Rar!": "a RAR archive; unpack it",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
}
TAR = (257, b"ustar")  # where a tar archive has its signature


def refuse_binary(file: SourceFile, options: DataOptions) -> None:
    """Raises UserError for a file that is empty or no text, by its first bytes."""
    with open_bytes(file) as stream:
        start = stream.read(SNIFFED_BYTES)
    if not start:
        raise UserError(f"{file.name}: the file is empty. Copy it again, or remove it from the data.")
    for signature, kind in SIGNATURES.items():
        if start.startswith(signature):
            raise UserError(f"{file.name}: this is not text but {kind}.")
    if start[TAR[0] :].startswith(TAR[1]):
        raise UserError(f"{file.name}: this is not text but a tar archive; unpack it.")
    if not holds_zero_bytes(options) and start.startswith(UTF16_MARKS):
        raise UserError(f"{file.name}: this is UTF-16. Set data.encoding: utf-16, or save the file as UTF-8.")


def holds_zero_bytes(options: DataOptions) -> bool:
    """Whether texts in the encoding hold zero bytes, which otherwise mark a file as binary."""
    return codec(options).startswith(("utf-16", "utf-32"))
