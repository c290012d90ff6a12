"""The releases in a serving folder: pushed versions, each with a release.json that says where it comes from.

A release that was rolled back stays in the folder as `withdrawn-VERSION`. That is no number, so TF Serving and the
embedded server ignore it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bertline.errors import UserError
from bertline.serving import storage

RELEASE_FILE = "release.json"
SAVED_MODEL_FILE = "saved_model.pb"
SAVED_MODEL_TEXT_FILE = "saved_model.pbtxt"  # TensorFlow reads this form too
SAVED_MODEL_FILES = (SAVED_MODEL_FILE, SAVED_MODEL_TEXT_FILE)
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"  # where TF Serving looks for them
CARD_FILE = "MODEL_CARD.md"  # servers ignore it, as they ignore release.json
CANARY_FILE = "canary.json"  # what became of the version in traffic; servers ignore it too
ONNX_FOLDER = "onnx"  # in a version: the same model for programs without TensorFlow; servers ignore it
_ADDED_BY_PUSH = frozenset({RELEASE_FILE, WARMUP_FILE, CARD_FILE, CANARY_FILE})
VERSION_NAME = re.compile(r"\d+", re.ASCII)
MAX_VERSION = 2**63 - 1  # TF Serving's versions are of type int64
WITHDRAWN = "withdrawn-"  # before the version in the name of a release that was rolled back
LOCK_FILE = ".push.lock"
LOCK_SECONDS = 300  # a push copies some hundred megabytes; longer than this, something hangs


@dataclass(frozen=True)
class Withdrawal:
    """Why a release is not served."""

    at: str  # UTC, ISO 8601; "" where a person renamed the folder
    reason: str
    to: int | None  # the version that was served instead


@dataclass(frozen=True)
class Release:
    """One pushed version and its record."""

    version: int  # Unix time of the push, in seconds
    path: str
    inputs: str = ""  # fingerprint of the config, data and code that made the model
    digest: str = ""  # of the SavedModel's files
    parent: int | None = None  # the version it was compared with
    metrics: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)  # release.json as it stands: hashes, libraries, commit, run
    withdrawal: Withdrawal | None = None  # None while it is in service


def is_of_saved_model(name: str) -> bool:
    """Whether a file of a version is the SavedModel's own, and not one that the push puts beside it."""
    return name not in _ADDED_BY_PUSH and not name.startswith(f"{ONNX_FOLDER}/")


def read(folder: str | Path) -> list[Release]:
    """The releases in service, ascending by version; none if there is no such folder.

    Only whole versions count: the name is a number, and saved_model.pb and release.json are inside. A version without
    release.json was not pushed by bertline: servers serve it, and no model is compared with it.

    Raises:
        UserError: the folder or a release.json cannot be read; the message names it.
    """
    return _read(folder, versions(folder), "")


def read_withdrawn(folder: str | Path) -> list[Release]:
    """The releases that were rolled back, ascending by version, each with its `withdrawal`.

    Raises:
        UserError: as `read`.
    """
    return _read(folder, withdrawn_versions(folder), WITHDRAWN)


def versions(folder: str | Path) -> list[int]:
    """All version numbers that servers see in a serving folder, whole or not, ascending.

    Raises:
        UserError: the folder cannot be read.
    """
    return sorted(version_names(folder))


def version_names(folder: str | Path) -> dict[int, list[str]]:
    """Version number -> the names of its folders, as TF Serving reads them: 00000123 is version 123.

    The name without zeros in front comes first, if a number has several.

    Raises:
        UserError: the folder cannot be read.
    """
    names: dict[int, list[str]] = {}
    for name in sorted(_names(folder), key=lambda name: (len(name), name)):
        if (number := _number(name)) is not None:
            names.setdefault(number, []).append(name)
    return names


def _names(folder: str | Path) -> list[str]:
    try:
        return storage.names(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from error


def _number(name: str) -> int | None:
    """The version in a folder's name; None if it is no number, or none that fits."""
    if not VERSION_NAME.fullmatch(name) or len(digits := name.lstrip("0")) > len(str(MAX_VERSION)):
        return None
    return number if (number := int(digits or "0")) <= MAX_VERSION else None


def withdrawn_versions(folder: str | Path) -> list[int]:
    """The version numbers of what was rolled back, ascending.

    Raises:
        UserError: the folder cannot be read.
    """
    names = [name.removeprefix(WITHDRAWN) for name in _names(folder) if name.startswith(WITHDRAWN)]
    return sorted(number for name in names if (number := _number(name)) is not None)


def whole_versions(folder: str | Path) -> dict[int, list[str]]:
    """The versions that a server would serve, ascending: number -> paths of its folders with a SavedModel inside.

    The first folder of a number is the one to serve: 00000123 and 123 are the same number. Anything else is ignored:
    files, notes, a push in progress in a folder with a leading dot. A folder that does not exist has no versions.

    Raises:
        UserError: the folder cannot be read.
    """
    whole = {}
    for version, names in sorted(version_names(folder).items()):
        paths = [storage.join(folder, name) for name in names]
        whole[version] = [path for path in paths if holds_saved_model(path)]
    return {version: paths for version, paths in whole.items() if paths}


def holds_saved_model(folder: str) -> bool:
    """Whether a folder is a SavedModel's, in one of the two forms that TensorFlow reads."""
    return any(storage.exists(storage.join(folder, name)) for name in SAVED_MODEL_FILES)


def find_last_blessed(folder: str | Path, inputs: str) -> Release | None:
    """The release that a model made from `inputs` has to match: the newest in service made from anything else.

    A model is not compared with itself, so a second run of the same inputs meets the same bound as the first.

    Args:
        folder: the serving folder.
        inputs: fingerprint of the current run's config, data and code.

    Returns:
        The release, or None where there is none yet.

    Raises:
        UserError: as `read`.
    """
    others = [release for release in read(folder) if release.inputs != inputs]
    return others[-1] if others else None


def _read(folder: str | Path, numbers: list[int], prefix: str) -> list[Release]:
    paths = [(version, storage.join(folder, f"{prefix}{version}")) for version in numbers]
    present = []
    for version, path in paths:
        if storage.exists(storage.join(path, SAVED_MODEL_FILE)) and storage.exists(storage.join(path, RELEASE_FILE)):
            with suppress(FileNotFoundError):  # it has just been renamed, as by a rollback
                present.append(_read_release(version, path, withdrawn=bool(prefix)))
    return present


def _read_release(version: int, path: str, withdrawn: bool) -> Release:
    file = storage.join(path, RELEASE_FILE)
    try:
        record = json.loads(storage.read_text(file))
        parent = record.get("parent")
        return Release(
            version=version,
            path=path,
            inputs=str(record.get("inputs", "")),
            digest=str(record.get("digest", "")),
            parent=int(parent) if parent else None,
            metrics=dict(record.get("metrics", {})),
            record=record,
            withdrawal=_withdrawal(record) if withdrawn else None,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{file}: not a release record ({error}); restore it or delete that version's folder"
        ) from error


def was_withdrawn_since(release: Release, moment: datetime) -> bool:
    """Whether a release, which may be in service again, was withdrawn after a moment, UTC."""
    return _has_note_since(release, "at", moment)


def was_restored_since(release: Release, moment: datetime) -> bool:
    """Whether a withdrawal of a release was undone after a moment, UTC."""
    return _has_note_since(release, "restored_at", moment)


def _has_note_since(release: Release, name: str, moment: datetime) -> bool:
    moments = [note.get(name) for note in release.record.get("withdrawals") or []]
    return any(datetime.fromisoformat(at) > moment for at in moments if at)


def _withdrawal(record: dict[str, Any]) -> Withdrawal:
    last = {"at": "", "reason": "", "to": None, **(record.get("withdrawals") or [{}])[-1]}
    return Withdrawal(at=str(last["at"]), reason=str(last["reason"]), to=last["to"])


# === Changing a folder ===


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Locks a local serving folder for one change at a time; makes the folder if it is missing.

    Raises:
        UserError: another process has held the lock for too long, or the block could not write.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}/{LOCK_FILE}", timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise UserError(f"{folder}: another push has held this folder for {LOCK_SECONDS} s; is it stuck?") from error
    except OSError as error:
        raise UserError(f"{error.filename or folder}: writing failed: {error.strerror}; free or unlock it") from error
