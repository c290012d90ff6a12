"""Files in local folders and, through TensorFlow's file system, in remote ones (gs://)."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO


def is_remote(folder: str | Path) -> bool:
    """Whether `folder` is an address such as gs://BUCKET/PATH rather than a local path."""
    return "://" in str(folder)


def open_file(path: str, mode: str) -> IO:
    """Opens a local or remote file; for writing, it makes the folder too."""
    remote = is_remote(path)
    if "w" in mode:
        make_folders = _gfile().makedirs if remote else partial(os.makedirs, exist_ok=True)
        make_folders(os.path.dirname(path))
    if remote:
        return _gfile().GFile(path, mode)
    return open(path, mode, encoding=None if "b" in mode else "utf-8")


def files(folder: str | Path) -> list[str]:
    """Paths of all files under a folder, relative to it, sorted."""
    walk = _gfile().walk if is_remote(folder) else os.walk
    return sorted(
        os.path.relpath(f"{top}/{name}", folder).removeprefix("./")
        for top, _, names in walk(str(folder))
        for name in names
    )


def strange_entries(folder: str | Path) -> list[str]:
    """What lies under a local folder and is no plain file or folder of its owner's, relative to it, sorted.

    These are links, also hard ones to files of another user, and pipes, sockets and devices. To copy one would copy
    what the folder only points at. A hard link to a file of the same user is a copy that saves space.
    """
    strange, owner = [], os.stat(folder).st_uid
    for path in Path(folder).rglob("*"):
        status = path.lstat()
        linked = stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and status.st_uid != owner
        if linked or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            strange.append(str(path.relative_to(folder)))
    return sorted(strange)


def copy_file(source: str, destination: str) -> None:
    """Copies one file; source and destination may each be local or remote."""
    if is_remote(source) or is_remote(destination):
        _gfile().makedirs(os.path.dirname(destination))
        _gfile().copy(source, destination, overwrite=True)
    else:
        shutil.copyfile(source, destination)


def link_or_copy(source: str, destination: str) -> None:
    """Copies one file; a local one as a hard link, which takes no space and outlives the source."""
    if not is_remote(destination):
        Path(destination).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:  # remote, another file system, or one without hard links
        copy_file(source, destination)


def sync(path: Path) -> None:
    """Waits until a local file's data, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing_whole(file: Path, mode: int = 0o666) -> Iterator[Path]:
    """A path to write to for the length of a block. Then the file is on the disk under its own name, whole.

    If the block fails, the file is as it was before.

    Args:
        file: a local one.
        mode: of a new file, less what the process masks.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode)
        yield unfinished
        sync(unfinished)
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _gfile():
    import tensorflow as tf  # seconds to import, so only where the folder is remote

    return tf.io.gfile


def join(folder: str | Path, name: str) -> str:
    """The path of a name in a folder."""
    return f"{str(folder).rstrip('/')}/{name}"


def names(folder: str | Path) -> list[str]:
    """The names of what is in a folder; none where there is no folder."""
    if is_remote(folder):
        return [name.rstrip("/") for name in _gfile().listdir(str(folder))] if _gfile().isdir(str(folder)) else []
    return os.listdir(folder) if os.path.isdir(folder) else []


def exists(path: str) -> bool:
    """Whether there is such a file, local or remote."""
    return _gfile().exists(path) if is_remote(path) else os.path.isfile(path)


def length(path: str) -> int:
    """Bytes of a file."""
    return _gfile().stat(path).length if is_remote(path) else os.path.getsize(path)


def size(folder: str | Path) -> int:
    """Bytes of all files under a folder. One that goes meanwhile, as a whole file takes its place, counts for none."""
    total = 0
    for name in files(folder):
        with suppress(FileNotFoundError):
            total += length(join(folder, name))
    return total


def read_text(path: str) -> str:
    """The contents of a text file."""
    with open_file(path, "r") as file:
        return file.read()
