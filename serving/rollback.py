"""Takes releases out of service and puts them back, by renaming their folders. Servers follow the folder."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bertline.errors import UserError
from bertline.serving import releases, storage
from bertline.serving.releases import RELEASE_FILE, WITHDRAWN, Release

log = logging.getLogger("bertline.push")


def roll_back(folder: str | Path, to: int | None = None, reason: str = "") -> list[Release]:
    """Takes every version newer than a release out of service, so that servers go back to that release.

    The newest version is renamed last, and only that rename changes what is served. If the process is killed before it,
    the newest stays in service, and the same call completes the rest.

    Args:
        folder: the serving folder.
        to: the version to serve; None for the release before the newest.
        reason: for the release's record.

    Returns:
        The releases that were withdrawn, ascending by version.

    Raises:
        UserError: the folder is absent or remote, there is no such release, nothing newer is served, or nothing would
            be left.
    """
    folder = _local(folder)
    with releases.locked(folder):
        target = _target(folder, to)
        newer = [version for version in releases.versions(folder) if version > target]
        return _withdraw(folder, newer, target, reason)


def withdraw(folder: str | Path, version: int, to: int, reason: str) -> Release:
    """Takes one version out of service, as `roll_back` does, and leaves the others where they are.

    A call that fails half way, as on a full disk, is completed by the same call. A version that somebody else has
    withdrawn keeps that record.

    Args:
        folder: the serving folder.
        version: which one.
        to: the version that is served in its place, for the record.
        reason: for the record too.

    Returns:
        The release, withdrawn.

    Raises:
        UserError: the folder is absent or remote, the version is no release there, or the folder cannot be written. On
            a full disk the version is out of service all the same, and only its record lacks.
    """
    folder = _local(folder)
    with releases.locked(folder):
        note = _note(to, reason)
        if version in releases.versions(folder):
            release = _known(folder, [version])[version]
            try:
                _write_note(release, note)
            finally:  # a rename takes no room
                _rename(Path(folder), str(version), f"{WITHDRAWN}{version}")
        withdrawn = _withdrawn(folder, [version])
        if not withdrawn:
            raise UserError(f"{folder}: there is no release {version}")
        if not _has_open_note(withdrawn[0]):
            _write_note(withdrawn[0], note)
        return _withdrawn(folder, [version])[0]


def _withdraw(folder: str, versions: list[int], target: int, reason: str) -> list[Release]:
    known, note = _known(folder, versions), _note(target, reason)
    for version in versions:
        _write_note(known[version], note)
        _rename(Path(folder), str(version), f"{WITHDRAWN}{version}")
        log.info("version %d is withdrawn, in favour of %d", version, target)
    return _withdrawn(folder, versions)


def _known(folder: str, versions: list[int]) -> dict[int, Release]:
    """The releases in service, among which these versions must be."""
    known = {release.version: release for release in releases.read(folder)}
    for version in versions:
        if version not in known:
            path = f"{folder}/{releases.version_names(folder)[version][0]}"
            raise UserError(
                f"{path} was not pushed by bertline; take it out yourself: mv {path} {folder}/{WITHDRAWN}{version}"
            )
    return known


def _withdrawn(folder: str, versions: list[int]) -> list[Release]:
    return [release for release in releases.read_withdrawn(folder) if release.version in versions]


def undo(folder: str | Path) -> list[Release]:
    """Puts back what the last rollback took out of service, the newest version first.

    Args:
        folder: the serving folder.

    Returns:
        The releases that are in service again, ascending by version.

    Raises:
        UserError: the folder is absent or remote, or nothing in it is withdrawn.
    """
    folder = _local(folder)
    with releases.locked(folder):
        withdrawn = releases.read_withdrawn(folder)
        if not withdrawn:
            raise UserError(f"{folder}: no release is withdrawn; there is nothing to undo")
        last = max(release.withdrawal.at for release in withdrawn)
        restored = [release for release in withdrawn if release.withdrawal.at == last]
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for release in reversed(restored):
            *earlier, latest = release.record.get("withdrawals") or [{}]
            _write_record(release, [*earlier, {**latest, "restored_at": now}])
            _rename(Path(folder), f"{WITHDRAWN}{release.version}", str(release.version))
            log.info("version %d is in service again", release.version)
        versions = {release.version for release in restored}
        return [release for release in releases.read(folder) if release.version in versions]


def _local(folder: str | Path) -> str:
    if storage.is_remote(folder):
        raise UserError(
            f"{folder}: object stores rename no folders, so a rollback there could be seen half done; pin the version "
            "in the servers' model config file instead: model_version_policy { specific { versions: VERSION } }"
        )
    if not Path(folder).is_dir():  # taking the lock would make it
        raise UserError(f"{folder}: there is no such folder; the first push makes it")
    return str(folder).rstrip("/")


def _target(folder: str, to: int | None) -> int:
    """The version to go back to."""
    in_service = [release.version for release in releases.read(folder)]
    if not in_service:
        raise UserError(f"{folder}: no release is in service; there is nothing to roll back")
    newest = max(releases.versions(folder))
    older = [version for version in in_service if version < newest]
    if to is None:
        if not older:
            raise UserError(f"{folder}: {newest} is the only release; without it nothing would be left to serve")
        return older[-1]
    if to in older:
        return to
    if to == newest:
        raise UserError(f"{folder}: {to} is the version that is served")
    if to in releases.withdrawn_versions(folder):
        raise UserError(f"{folder}: {to} is itself withdrawn; `bertline rollback CONFIG --undo` puts it back")
    known = ", ".join(map(str, older)) or "none"
    raise UserError(f"{folder}: there is no release {to}; older releases in service: {known}")


def _note(to: int, reason: str) -> dict[str, Any]:
    return {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "reason": reason, "to": to}


def _has_open_note(release: Release) -> bool:
    """Whether the last withdrawal on record was not undone."""
    notes = release.record.get("withdrawals")
    return bool(notes) and "restored_at" not in notes[-1]


def _write_note(release: Release, note: dict[str, Any]) -> None:
    """Adds a withdrawal to a release's record, in place of one of the same words that was tried and failed."""
    notes = release.record.get("withdrawals") or []
    if _has_open_note(release) and all(notes[-1].get(name) == note[name] for name in ("reason", "to")):
        notes = notes[:-1]
    _write_record(release, [*notes, note])


def _write_record(release: Release, withdrawals: list[dict]) -> None:
    """Replaces release.json in one step."""
    file = Path(release.path) / RELEASE_FILE
    record = {**release.record, "withdrawals": withdrawals}
    with storage.writing_whole(file) as unfinished:
        unfinished.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)
    storage.sync(folder)
