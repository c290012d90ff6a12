"""Puts a SavedModel into a serving folder as its newest version, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bertline.errors import UserError
from bertline.serving import releases, standing, storage
from bertline.serving.releases import Release

UNFINISHED = ".unfinished-"  # servers ignore folders with a leading dot
CHUNK_BYTES = 1 << 20

log = logging.getLogger("bertline.push")


class RolledBack(Exception):
    """This model was pushed before and rolled back; the message says when, why, and the way back."""

    def __init__(self, release: Release):
        withdrawal = release.withdrawal
        when = f" on {withdrawal.at}" if withdrawal.at else ""
        why = f" ({withdrawal.reason})" if withdrawal.reason else ""
        super().__init__(
            f"this model was rolled back{when}{why}: it is version {release.version}, and an unchanged run does not "
            "bring it back; change the data or the config, or undo it with `bertline rollback CONFIG --undo`"
        )


def publish(
    source: str | Path,
    folder: str | Path,
    record: dict[str, Any],
    *,
    extra: Mapping[str, str] | None = None,
    beside: Mapping[str, str] | None = None,
    keep_versions: int = 0,
    now: Callable[[], float] = time.time,
    copy_file: Callable[[str, str], object] | None = None,
) -> tuple[Release, bool]:
    """Makes the SavedModel in `source` the newest version in a serving folder.

    If it is killed, no partial version is left: what is left has a leading dot, and the next push removes it.

    Args:
        source: folder of the SavedModel, local or remote (gs://).
        folder: the serving folder, local or remote; it is made if missing.
        record: for release.json; `version`, `pushed_at` and `digest` are added.
        extra: further files of the version, path in the version -> file to copy.
        beside: further folders of the version, name in the version -> folder to copy.
        keep_versions: how many releases to keep; older ones are removed. 0 keeps all.
        now: the clock, seconds since 1970.
        copy_file: copies one file; None for the file system's own way.

    Returns:
        The release, and whether it is new: if the newest one has the same inputs and files, nothing is pushed.

    Raises:
        RolledBack: a release of the same inputs or the same files was taken out of service.
        UserError: a folder to copy holds a link, the serving folder cannot be written, or another push holds it.
    """
    source, folder = str(source).rstrip("/"), str(folder).rstrip("/")
    folders = {"": source} | {f"{name}/": place.rstrip("/") for name, place in (beside or {}).items()}
    for each in folders.values():
        _check_plain(each)
    copy_file = copy_file or storage.copy_file
    digest = digest_of(source)

    def push(write: Callable[..., None]) -> tuple[Release, bool]:
        present = _present(folder, record.get("inputs"), digest)
        if present:
            return present, False
        stamped = _stamped(folder, {**record, "digest": digest}, now())
        copies = {
            f"{inside}{name}": f"{place}/{name}" for inside, place in folders.items() for name in storage.files(place)
        } | dict(extra or {})
        write(copies, folder, stamped, copy_file)
        log.info("pushed version %d to %s", stamped["version"], folder)
        return releases.read(folder)[-1], True

    if storage.is_remote(folder):  # there are no locks: the orchestrator has to run one push at a time
        return push(_write_last)
    with releases.locked(folder):
        _remove_unfinished(folder)
        release, new = push(_write_aside)
        if new:
            _prune(folder, keep_versions)
        return release, new


def _check_plain(source: str) -> None:
    """Raises UserError where a local folder holds a link: the version would hold what it points at, or miss it."""
    strange = [] if storage.is_remote(source) else storage.strange_entries(source)
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise UserError(
            f"{source}/{strange[0]}{more}: a link, or no plain file. A pushed version holds only files of its own: put "
            "copies in their place"
        )


def digest_of(saved_model: str | Path) -> str:
    """SHA-256 over the names, sizes and contents of all files of a SavedModel, 64 hex digits."""
    digest = hashlib.sha256()
    for name in storage.files(saved_model):
        contents = hashlib.sha256()
        with storage.open_file(f"{saved_model}/{name}", "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                contents.update(chunk)
        digest.update(name.encode() + b"\0" + contents.digest())
    return digest.hexdigest()


def _present(folder: str, inputs: str | None, digest: str) -> Release | None:
    """The newest release, if it is this model and a push would change nothing."""
    in_service = releases.read(folder)
    if in_service and (in_service[-1].inputs, in_service[-1].digest) == (inputs, digest):
        return in_service[-1]
    for release in releases.read_withdrawn(folder):
        if release.digest == digest or (inputs and release.inputs == inputs):
            raise RolledBack(release)
    return None


def _stamped(folder: str, record: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The record with its version, which is the time in seconds, and the time of the push."""
    # Versions grow even if the clock goes back, two pushes share a second, or a newer version was rolled back.
    taken = releases.versions(folder) + releases.withdrawn_versions(folder)
    version = max([int(seconds), *(number + 1 for number in taken)])
    return {
        **record,
        "version": version,
        "pushed_at": datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds"),
    }


def _write_aside(
    copies: Mapping[str, str], folder: str, record: dict[str, Any], copy_file: Callable[[str, str], object]
) -> None:
    """Copies into a hidden folder, waits until it is on the disk, then renames it, so that it appears in one step."""
    unfinished = Path(folder) / f"{UNFINISHED}{record['version']}"
    try:
        unfinished.mkdir()
        for name, source in copies.items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            copy_file(source, str(unfinished / name))
        (unfinished / releases.RELEASE_FILE).write_text(_text(record), encoding="utf-8")
        for path in [*unfinished.rglob("*"), unfinished]:
            storage.sync(path)
    except BaseException:  # a full disk is full of this very copy
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(Path(folder) / str(record["version"]))
    storage.sync(Path(folder))


def _write_last(
    copies: Mapping[str, str], folder: str, record: dict[str, Any], copy_file: Callable[[str, str], object]
) -> None:
    """Copies in place, saved_model.pb last: object stores cannot rename a folder, and servers wait for that file."""
    target = f"{folder}/{record['version']}"
    with storage.open_file(f"{target}/{releases.RELEASE_FILE}", "w") as file:
        file.write(_text(record))
    for name in sorted(copies, key=lambda name: name == releases.SAVED_MODEL_FILE):
        copy_file(copies[name], f"{target}/{name}")


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=2, sort_keys=True) + "\n"


def _remove_unfinished(folder: str) -> None:
    for leftover in Path(folder).glob(f"{UNFINISHED}*"):
        log.info("removing %s, left by a push or a removal that was killed", leftover)
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _prune(folder: str, keep_versions: int) -> None:
    """Removes the oldest releases, and the withdrawn ones that are older than the oldest that stays.

    Each is renamed first, so that servers no longer see it when its files go.
    """
    if not keep_versions:
        return
    in_service = releases.read(folder)
    oldest = in_service[-keep_versions:][0].version
    answering = standing.of(folder).stable  # while newer versions are tried in traffic
    outdated = [
        release
        for release in in_service + releases.read_withdrawn(folder)
        if release.version < oldest and release.version != answering
    ]
    for release in outdated:
        hidden = Path(folder) / f"{UNFINISHED}{release.version}"
        Path(release.path).rename(hidden)
        shutil.rmtree(hidden)
        log.info("removed version %d: %d are kept", release.version, keep_versions)
