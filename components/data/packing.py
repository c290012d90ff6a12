"""Packed files: what packed them is told by their first bytes, and they are unpacked as they are read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow

from bertline.components.data.reader import SourceFile
from bertline.errors import UserError

MEMBER = "!"  # archive.zip!reviews.csv
LISTED_MEMBERS = 5  # in a message


def _by_arrow(codec: str) -> Callable[[str], BinaryIO]:
    """Arrow says of a stream that is cut short that it is; zstandard's own reader takes it for the end."""
    return lambda path: pyarrow.CompressedInputStream(pyarrow.OSFile(path), codec)


class Packing(NamedTuple):
    """How a packed file is named and known, and how it is opened."""

    name: str
    ending: str
    signature: re.Pattern[bytes]
    open: Callable[[str], BinaryIO]


PACKINGS = (
    Packing("gzip", ".gz", re.compile(rb"\x1f\x8b"), gzip.open),
    Packing("bzip2", ".bz2", re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), bz2.open),
    Packing("xz", ".xz", re.compile(rb"\xfd7zXZ\0"), lzma.open),
    Packing("zstd", ".zst", re.compile(rb"\x28\xb5\x2f\xfd"), _by_arrow("zstd")),
    Packing("lz4", ".lz4", re.compile(rb"\x04\x22\x4d\x18"), _by_arrow("lz4")),
)
ZIP_SIGNATURE = b"PK\x03\x04"
ZIP_ENDING = ".zip"
ENDINGS = (*(packing.ending for packing in PACKINGS), ZIP_ENDING)


def without_packing(name: str) -> str:
    """The file's name without the ending of its packing."""
    return name[: -len(ending)] if (ending := Path(name).suffix) and ending.lower() in ENDINGS else name


# === What a file is packed with ===


def packing_of(path: str) -> Packing | None:
    """What a file is packed with, by its first bytes; None where it is not, or is a zip archive."""
    with open(path, "rb") as stream:
        start = stream.read(10)
    return next((packing for packing in PACKINGS if packing.signature.match(start)), None)


def is_zip(path: str) -> bool:
    """Whether a file is a zip archive, by its first bytes; Excel workbooks are too."""
    with open(path, "rb") as stream:
        return stream.read(4) == ZIP_SIGNATURE


def remark(path: str) -> str:
    """What to tell a person where a file's name does not say what it is packed with; "" where it does.

    Args:
        path: of a file that is no zip archive.
    """
    ending = Path(path).suffix.lower()
    packing = packing_of(path)
    if packing and ending != packing.ending:
        return f"packed with {packing.name}, though its name does not end in {packing.ending}: it is unpacked"
    if ending in ENDINGS and not packing and Path(path).stat().st_size:
        return f"not packed, though its name ends in {ending}: it is read as it is"
    return ""


# === Zip archives ===


def only_member(path: str, name: str) -> str:
    """The name of the one file in a zip archive.

    Args:
        path: of the archive.
        name: for the message.

    Raises:
        UserError: it holds none or several, or is damaged.
    """
    members = members_of(path, name)
    if len(members) == 1:
        return members[0]
    if not members:
        raise UserError(f"{name}: the zip archive holds no file. Copy it again.")
    shown = ", ".join(members[:LISTED_MEMBERS]) + (", ..." if len(members) > LISTED_MEMBERS else "")
    raise UserError(
        f"{name}: the zip archive holds {len(members)} files: {shown}. Name the one that you mean, such as "
        f"{name}{MEMBER}{members[0]}, or unpack it."
    )


def members_of(path: str, name: str) -> list[str]:
    """The names of the files in a zip archive, but for what systems leave behind; arguments as `only_member`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UserError(f"{name}: not zip, damaged or cut short ({error}); copy the file again.") from error
    return [member for member in names if not member.startswith("__MACOSX/") and not Path(member).name.startswith(".")]


@contextmanager
def _opened_member(file: SourceFile) -> Iterator[BinaryIO]:
    with zipfile.ZipFile(file.path) as archive:
        try:
            stream = archive.open(file.member)
        except KeyError:
            held = ", ".join(members_of(file.path, file.name)[:LISTED_MEMBERS])
            raise UserError(f"{file.name}: the zip archive holds no such file. It holds {held}.") from None
        except RuntimeError as error:  # a password, or a method that Python does not know
            raise UserError(f"{file.name}: cannot be unpacked: {error}. Unpack it by hand.") from error
        with stream:
            yield stream


# === Reading ===


@contextmanager
def open_bytes(file: SourceFile) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked as they are read.

    Raises:
        UserError: the file is gone, not readable, or damaged. Also when that turns out within the block.
    """
    packing = None
    try:
        packing = packing_of(file.path)
        if file.member:
            with _opened_member(file) as stream:
                yield stream
        else:
            with packing.open(file.path) if packing else open(file.path, "rb") as stream:
                yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise UserError(_damaged(file, packing, error)) from error
    except OSError as error:
        if packing and error.errno is None:  # bz2 and Arrow have no exceptions of their own
            raise UserError(_damaged(file, packing, error)) from error
        raise UserError(
            f"{file.name}: cannot be read: {error.strerror or error}. Check the file and its permissions."
        ) from error


def _damaged(file: SourceFile, packing: Packing | None, error: Exception) -> str:
    kind = packing.name if packing else "zip"
    return f"{file.name}: not {kind}, damaged or cut short ({error}); copy the file again."
