"""Puts a SavedModel into a serving folder as its newest version: whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from serving import releases
from serving.releases import Release

LOCK_FILE = ".push.lock"
LOCK_SECONDS = 300  # a push copies some hundred megabytes; longer than this, something hangs
UNFINISHED = ".unfinished-"  # servers pass over folders with a leading dot
CHUNK_BYTES = 1 << 20

log = logging.getLogger("bertline.push")


def publish(
    source: str | Path,
    folder: str | Path,
    record: dict[str, Any],
    *,
    keep_versions: int = 0,
    now: Callable[[], float] = time.time,
    copy_file: Callable[[str, str], object] | None = None,
) -> tuple[Release, bool]:
    """Makes the SavedModel in `source` the newest version in a serving folder.

    Killed at any point, it leaves no partial version; what it leaves has a leading dot, and the next push removes it.

    Args:
        source: folder of the SavedModel, local or remote (gs://).
        folder: the serving folder, local or remote; made if missing.
        record: for release.json; `version`, `pushed_at` and `digest` are added.
        keep_versions: older releases beyond so many are removed; 0 keeps all.
        now: the clock, seconds since 1970.
        copy_file: copies one file; None for the file system's own way.

    Returns:
        The release, and whether it is new: the newest one of the same inputs and the same files is not pushed twice.

    Raises:
        ValueError: the folder cannot be written, or another push holds it.
    """
    source, folder = str(source).rstrip("/"), str(folder).rstrip("/")
    copy_file = copy_file or releases.copy_file
    if releases.is_remote(folder):  # no locks there: one push at a time is the orchestrator's to keep
        return _push(source, folder, record, now, copy_file, _write_last)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}/{LOCK_FILE}", timeout=LOCK_SECONDS):
            _remove_unfinished(folder)
            release, new = _push(source, folder, record, now, copy_file, _write_aside)
            if new:
                _prune(folder, keep_versions)
            return release, new
    except Timeout as error:
        raise ValueError(f"{folder}: another push has held this folder for {LOCK_SECONDS} s; is it stuck?") from error
    except OSError as error:
        raise ValueError(f"{error.filename or folder}: pushing failed: {error.strerror}; free or unlock it") from error


def digest_of(saved_model: str | Path) -> str:
    """SHA-256 over the names, sizes and contents of all files of a SavedModel, 64 hex digits."""
    digest = hashlib.sha256()
    for name in releases.files(saved_model):
        contents = hashlib.sha256()
        with releases.open_file(f"{saved_model}/{name}", "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                contents.update(chunk)
        digest.update(name.encode() + b"\0" + contents.digest())
    return digest.hexdigest()


def _push(
    source: str,
    folder: str,
    record: dict[str, Any],
    now: Callable[[], float],
    copy_file: Callable[[str, str], object],
    write: Callable[..., None],
) -> tuple[Release, bool]:
    digest = digest_of(source)
    newest = _newest(folder)
    if newest and (newest.inputs, newest.digest) == (record.get("inputs"), digest):
        return newest, False
    seconds = now()
    # It grows even where the clock went back, or two pushes share a second.
    version = max([int(seconds), *(taken + 1 for taken in releases.versions(folder))])
    pushed_at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    record = {**record, "version": version, "pushed_at": pushed_at, "digest": digest}
    write(source, folder, version, json.dumps(record, indent=2, sort_keys=True) + "\n", copy_file)
    log.info("pushed version %d to %s", version, folder)
    return _newest(folder), True


def _newest(folder: str) -> Release | None:
    found = releases.read(folder)
    return found[-1] if found else None


def _write_aside(source: str, folder: str, version: int, record: str, copy_file: Callable[[str, str], object]) -> None:
    """Copies beside the versions, makes sure that it is on the disk, then renames: the one step that shows it."""
    unfinished = Path(folder) / f"{UNFINISHED}{version}"
    try:
        unfinished.mkdir()
        for name in releases.files(source):
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            copy_file(f"{source}/{name}", str(unfinished / name))
        (unfinished / releases.RELEASE_FILE).write_text(record, encoding="utf-8")
        for path in [*unfinished.rglob("*"), unfinished]:
            _sync(path)
    except BaseException:  # a full disk is full of this very copy
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(Path(folder) / str(version))
    _sync(Path(folder))


def _write_last(source: str, folder: str, version: int, record: str, copy_file: Callable[[str, str], object]) -> None:
    """Copies in place with saved_model.pb last: object stores rename no folders, and servers wait for that file."""
    target = f"{folder}/{version}"
    with releases.open_file(f"{target}/{releases.RELEASE_FILE}", "w") as file:
        file.write(record)
    for name in sorted(releases.files(source), key=lambda name: name == releases.SAVED_MODEL_FILE):
        copy_file(f"{source}/{name}", f"{target}/{name}")


def _remove_unfinished(folder: str) -> None:
    for leftover in Path(folder).glob(f"{UNFINISHED}*"):
        log.info("removing %s, left by a push or a removal that was killed", leftover)
        shutil.rmtree(leftover)


def _prune(folder: str, keep_versions: int) -> None:
    """Removes the oldest releases; each vanishes from the servers' sight by a rename before its files go."""
    outdated = releases.read(folder)[:-keep_versions] if keep_versions else []
    for release in outdated:
        hidden = Path(folder) / f"{UNFINISHED}{release.version}"
        Path(release.path).rename(hidden)
        shutil.rmtree(hidden)
        log.info("removed version %d: %d are kept", release.version, keep_versions)


def _sync(path: Path) -> None:
    """Waits until a file's data, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
