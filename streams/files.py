"""Files that grow: where each was read to, also after it was renamed, replaced or cut by whoever rotates logs."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bertline.streams import sources
from bertline.streams.sources import ENDINGS, Portion, Source
from bertline.streams.texts import Raw

CHUNK = 1 << 20  # bytes read at a time
LONGEST = 64 << 20  # of one record; longer ones are no texts
KNOWN_BY = 1024  # bytes at the file's beginning, and before the place read to
COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")

Present = dict[str, tuple[Path, os.stat_result]]  # inode -> the file that has it


@dataclass(frozen=True)
class Place:
    """Where a file was read to.

    Attributes:
        source: of the config.
        path: where the file was last; "" where another one has its name now.
        inode: device and inode.
        offset: bytes that are read.
        lines: that are read.
        digest: of what stands before the offset, by which the file is known again.
        format: of its records.
        columns: of its first line, for CSV.
        written: when it was written to last, as known when it was read, in nanoseconds.
    """

    source: str
    path: str
    inode: str
    offset: int = 0
    lines: int = 0
    digest: str = ""
    format: str = "auto"
    columns: list[str] | None = None
    written: int = 0


class Files(Source):
    """A file, or a folder of files.

    Args:
        name: as the config has it.
        path: of the file or the folder.
        said: the format, or auto.
        places: key -> JSON, as the database has it.
    """

    ends = ended = False

    def __init__(self, name: str, path: Path, said: str, places: dict[str, str]):
        self._name, self._path, self._said = name, path, said
        self._stored = dict(places)
        self._places = {key: Place(**json.loads(text)) for key, text in places.items()}
        self._looked: dict[str, tuple[int, int, str]] = {}  # path -> size, time and inode when nothing was left to read
        self._read: dict[str, Place] = {}  # what `read` came to, until it is stored
        self._looking: dict[str, tuple[int, int, str]] = {}
        self._told: set[str] = set()

    def read(self, most: int) -> Portion:
        """See Source."""
        portion, self._read, self._looking = Portion(), dict(self._places), {}
        own = self._own_paths()
        present = self._present(own)
        for path in [*self._renamed(own, present), *own]:
            if len(portion.records) >= most:
                break
            try:
                self._read_file(path, present, most, portion)
            except FileNotFoundError:  # renamed just now; the next look finds it
                continue
            except OSError as error:
                self._note(portion, f"{path} cannot be read: {error.strerror}; it is tried again")
        portion.more |= len(portion.records) >= most
        portion.moves = self._moves()
        return portion

    def stored(self, portion: Portion) -> None:
        """See Source."""
        self._places = dict(self._read)
        for key, after in portion.moves.items():
            if after is None:
                self._stored.pop(key, None)
            else:
                self._stored[key] = after
        self._looked |= self._looking

    def close(self) -> None:
        """See Source; nothing is open between two looks."""

    def unfinished(self) -> list[str]:
        """See Source: the files whose last line has no end."""
        return [
            f"{place.path}: the last line has no end yet; it is read once it has one"
            for place in self._places.values()
            if place.path and Path(place.path).is_file() and Path(place.path).stat().st_size > place.offset
        ]

    # === Which files ===

    def _own_paths(self) -> list[Path]:
        if not self._path.is_dir():
            return [self._path] if self._path.is_file() else []
        kept = ENDINGS if self._said == "auto" else None
        return sorted(
            path
            for path in self._path.rglob("*")
            if not path.name.startswith(".") and (kept is None or path.suffix.lower() in kept) and path.is_file()
        )

    def _present(self, own: list[Path]) -> Present:
        """The files of the folders in which files are, or were."""
        folders = {path.parent for path in own} | {
            Path(place.path).parent for place in self._read.values() if place.path
        }
        folders |= set() if self._path.is_dir() else {self._path.parent}
        present: Present = {}
        for path in (path for folder in folders if folder.is_dir() for path in folder.iterdir()):
            try:
                stat = path.stat()
            except OSError:  # gone just now, or not for us to see
                continue
            if path.is_file():
                present[_inode(stat)] = path, stat
        return present

    def _renamed(self, own: list[Path], present: Present) -> list[Path]:
        """Files that have other names now and may hold lines that were not read; the oldest first.

        Those are files that were read before; copies of them, from which the file itself was cut; and files that took
        the name, and lost it again, since the last look.
        """
        known = {place.inode for place in self._read.values() if place.offset}
        last = max((place.written for place in self._read.values()), default=None)
        found = []
        for inode, (path, stat) in present.items():
            if path in own or path.suffix in COMPRESSED or self._looked.get(str(path)) == _state(stat):
                continue
            takes_turns = path.name.startswith(self._path.name) and path.parent == self._path.parent
            if inode in known:
                fits = any(place.inode == inode and _continues(path, place) for place in self._read.values())
            elif takes_turns and last is not None:
                of = [place for place in self._read.values() if place.offset and _continues(path, place)]
                fits = any(_is_lost(place, present) for place in of) if of else stat.st_mtime_ns > last
            else:
                continue
            if fits:
                found.append((stat.st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def _key(self, path: Path, stat: os.stat_result, present: Present, portion: Portion) -> str:
        """The key of a file's place: a file is known by its inode and by what stands before the place."""
        inode = _inode(stat)
        own = next((key for key, place in self._read.items() if place.path == str(path)), None)
        ours = [key for key, place in self._read.items() if place.inode == inode and key != own]
        for key in [*([own] if own else []), *ours]:
            place = self._read[key]
            if place.inode == inode and _continues(path, place):
                self._read[key] = replace(place, path=str(path))
                return key
        for key, place in self._read.items():
            if (place.offset or key == own) and _is_lost(place, present) and _continues(path, place):
                self._read[key] = replace(place, path=str(path), inode=inode)  # a copy, or brought back from elsewhere
                return key
        if own:
            place = self._read[own]
            what = "was cut" if place.inode == inode else "is another file now"
            if place.offset:
                portion.notes.append(f"{path} {what}, after {place.lines:,} lines; it is read from its beginning")
            self._read[own] = replace(place, path="", inode="" if place.inode == inode else place.inode)
        key = f"file:{uuid.uuid4().hex}"
        self._read[key] = Place(self._name, str(path), inode)
        return key

    # === Their records ===

    def _read_file(self, path: Path, present: Present, most: int, portion: Portion) -> None:
        """Adds records to a portion, up to `most` of them."""
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            if self._looked.get(str(path)) == _state(stat):
                return
            key = self._key(path, stat, present, portion)
            place = self._read[key]
            file.seek(place.offset)
            size, content = CHUNK, file.read(CHUNK)
            if place.format == "auto" and content:
                place = replace(place, format=sources.format_of(str(path), content, self._said))
            format_ = sources.format_named(place.format, place.columns)
            while True:
                whole = list(_first(format_.records(content, len(content) >= LONGEST), most - len(portion.records)))
                more = b"" if whole or len(content) < size else file.read(size)
                if not more:
                    break
                content, size = content + more, size * 2
                format_ = sources.format_named(place.format, place.columns)
            # A full buffer: more may stand behind it, and behind the last record that was asked for.
            portion.more |= bool(whole) and len(content) >= size
            number = place.lines
            for record in whole:
                if record.values is not None or record.fault:
                    portion.records.append(Raw(str(path), number + 1, key, record.values, record.fault, record.content))
                number += record.lines
            offset = place.offset + sum(len(record.content) for record in whole)
            if offset != place.offset:
                written = stat.st_mtime_ns
                place = replace(place, offset=offset, lines=number, digest=_digest(file, offset), written=written)
        self._read[key] = replace(place, columns=format_.columns)
        if not whole:
            self._looking[str(path)] = _state(stat)

    def _moves(self) -> dict[str, str | None]:
        after = {key: json.dumps(asdict(place)) for key, place in self._read.items() if place.offset}
        return {key: after.get(key) for key in {**self._stored, **after} if self._stored.get(key) != after.get(key)}

    def _note(self, portion: Portion, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            portion.notes.append(words)


def _first(records: Iterable, most: int) -> Iterator:
    """Records until `most` of them are more than blank lines and names of columns."""
    for record in records:
        yield record
        most -= record.values is not None or record.fault is not None
        if not most:
            return


def _state(stat: os.stat_result) -> tuple[int, int, str]:
    """What differs once there is more to read."""
    return stat.st_size, stat.st_mtime_ns, _inode(stat)


def _is_lost(place: Place, present: Present) -> bool:
    """Whether the file of a place is gone, or does not hold any more what was read from it."""
    path, _ = present.get(place.inode, (None, None))
    return path is None or not _continues(path, place)


def _inode(stat: os.stat_result) -> str:
    return f"{stat.st_dev}:{stat.st_ino}"


def _continues(path: Path, place: Place) -> bool:
    """Whether a file begins with what was read up to a place."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size >= place.offset and _digest(file, place.offset) == place.digest


def _digest(file, offset: int) -> str:
    """Of the first bytes, and of those before the offset; "" at the beginning."""
    if not offset:
        return ""
    file.seek(0)
    known = file.read(min(KNOWN_BY, offset))
    file.seek(max(offset - KNOWN_BY, 0))
    known += file.read(min(KNOWN_BY, offset))
    return hashlib.sha256(known).hexdigest()
