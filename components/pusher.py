"""Pusher: puts a model that passed its gates and the canary into the serving folder, whole or not at all."""

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
from tfx import v1 as tfx
from tfx.dsl.io import fileio
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from components.errors import LineError
from serving import releases

InputArtifact = tfx.dsl.components.InputArtifact
OutputArtifact = tfx.dsl.components.OutputArtifact
Parameter = tfx.dsl.components.Parameter

METRICS_FILE = "metrics.json"
LOCK_FILE = ".push.lock"
LOCK_SECONDS = 300  # a push copies some hundred megabytes; longer than this, something hangs
UNFINISHED = ".unfinished-"  # servers pass over folders with a leading dot
CHUNK_BYTES = 1 << 20

log = logging.getLogger("bertline.pusher")


@tfx.dsl.components.component
def Pusher(
    model: InputArtifact[standard_artifacts.Model],
    model_blessing: InputArtifact[standard_artifacts.ModelBlessing],
    infra_blessing: InputArtifact[standard_artifacts.InfraBlessing],
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    pushed_model: OutputArtifact[standard_artifacts.PushedModel],
    serving_folder: Parameter[str],
    release: Parameter[str],
    vanished: Parameter[int],
    keep_versions: Parameter[int],
) -> None:
    """Pushes the exported model as a new version, if both blessings are positive.

    Args:
        model: the exported model.
        model_blessing: the gates' verdict.
        infra_blessing: the canary's verdict.
        evaluation: its metrics.json goes into release.json.
        pushed_model: int property `pushed`; string properties `pushed_version` and `pushed_destination`, and a copy of
            release.json in its folder.
        serving_folder: local, or remote (gs://).
        release: JSON for release.json: `inputs` (the run's fingerprint), `parent`, hashes, libraries, commit.
        vanished: how many recorded pushes are gone from the folder. Unused here: a new loss changes the cache's key, so
            that the model is pushed again.
        keep_versions: older releases beyond so many are removed; 0 keeps all.

    Raises:
        LineError: the folder cannot be written, or another push holds it.
    """
    del vanished
    pushed_model.set_int_custom_property("pushed", 0)
    pushed_model.set_string_custom_property("pushed_version", "")
    if model_blessing.get_int_custom_property("blessed") != 1:
        pushed_model.set_string_custom_property("summary", "not pushed: gates blocked")
        return
    if infra_blessing.get_int_custom_property("blessed") != 1:
        pushed_model.set_string_custom_property("summary", "not pushed: canary failed")
        return
    source = path_utils.serving_model_path(model.uri)
    record = {**json.loads(release), "metrics": _headline(f"{evaluation.uri}/{METRICS_FILE}")}
    pushed, new = publish(source, serving_folder, record, keep_versions=keep_versions)
    _write_json(f"{pushed_model.uri}/{releases.RELEASE_FILE}", pushed.record)
    pushed_model.set_int_custom_property("pushed", 1)
    pushed_model.set_string_custom_property("pushed_version", str(pushed.version))
    pushed_model.set_string_custom_property("pushed_destination", pushed.path)
    pushed_model.set_string_custom_property("summary", pushed.path if new else f"already serving {pushed.version}")


def publish(
    source: str,
    folder: str,
    record: dict[str, Any],
    *,
    keep_versions: int = 0,
    now: Callable[[], float] = time.time,
    copy_file: Callable[[str, str], Any] = shutil.copyfile,
) -> tuple[releases.Release, bool]:
    """Makes the SavedModel in `source` the newest version in a serving folder.

    Killed at any point, it leaves no partial version; what it leaves has a leading dot, and the next push removes it.

    Args:
        source: folder of the SavedModel.
        folder: the serving folder; made if missing.
        record: for release.json; `version`, `pushed_at` and `digest` are added.
        keep_versions: older releases beyond so many are removed; 0 keeps all.
        now: the clock, seconds since 1970.
        copy_file: copies one local file.

    Returns:
        The release, and whether it is new: the newest one of the same inputs and the same files is not pushed twice.

    Raises:
        LineError: the folder cannot be written, or another push holds it.
    """
    digest = digest_of(source)
    if releases.is_remote(folder):
        return _publish_remote(source, folder, record, digest, now)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}/{LOCK_FILE}", timeout=LOCK_SECONDS):
            _remove_unfinished(folder)
            newest = _newest(folder)
            if newest and (newest.inputs, newest.digest) == (record.get("inputs"), digest):
                return newest, False
            _publish_local(source, folder, _completed(record, folder, digest, now), copy_file)
            _prune(folder, keep_versions)
            return _newest(folder), True
    except Timeout as error:
        raise LineError(f"{folder}: another push has held this folder for {LOCK_SECONDS} s; is it stuck?") from error
    except OSError as error:
        raise LineError(f"{error.filename or folder}: pushing failed: {error.strerror}; free or unlock it") from error


def digest_of(saved_model: str) -> str:
    """SHA-256 over the names and contents of all files of a SavedModel, 64 hex digits."""
    digest = hashlib.sha256()
    for path in _files(saved_model):
        digest.update(path.encode() + b"\0" + str(fileio.stat(f"{saved_model}/{path}").length).encode() + b"\0")
        with fileio.open(f"{saved_model}/{path}", "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _headline(metrics_file: str) -> dict[str, float]:
    """The overall figures of metrics.json, without tables."""
    with fileio.open(metrics_file) as file:
        metrics = json.loads(file.read())
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _newest(folder: str) -> releases.Release | None:
    found = releases.read(folder)
    return found[-1] if found else None


def _completed(record: dict[str, Any], folder: str, digest: str, now: Callable[[], float]) -> dict[str, Any]:
    """The record with its version, which grows even where the clock went back or two pushes share a second."""
    seconds = now()
    version = max([int(seconds), *(taken + 1 for taken in releases.versions(folder))])
    pushed_at = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return {**record, "version": version, "pushed_at": pushed_at, "digest": digest}


def _publish_local(source: str, folder: str, record: dict[str, Any], copy_file: Callable[[str, str], Any]) -> None:
    """Copies beside the versions, makes sure that it is on the disk, then renames: the one step that shows it."""
    unfinished = Path(folder) / f"{UNFINISHED}{record['version']}"
    shutil.copytree(source, unfinished, copy_function=copy_file)
    _write_json(str(unfinished / releases.RELEASE_FILE), record)
    for path in [*unfinished.rglob("*"), unfinished]:
        _sync(path)
    unfinished.rename(Path(folder) / str(record["version"]))
    _sync(Path(folder))
    log.info("pushed version %d to %s", record["version"], folder)


def _publish_remote(
    source: str, folder: str, record: dict[str, Any], digest: str, now: Callable[[], float]
) -> tuple[releases.Release, bool]:
    """Writes saved_model.pb last: object stores cannot rename a folder, and servers wait for that file."""
    newest = _newest(folder)
    if newest and (newest.inputs, newest.digest) == (record.get("inputs"), digest):
        return newest, False
    record = _completed(record, folder, digest, now)
    target = f"{folder.rstrip('/')}/{record['version']}"
    for path in sorted(_files(source), key=lambda path: path == releases.SAVED_MODEL_FILE):
        if path == releases.SAVED_MODEL_FILE:
            _write_json(f"{target}/{releases.RELEASE_FILE}", record)
        fileio.makedirs(os.path.dirname(f"{target}/{path}"))
        fileio.copy(f"{source}/{path}", f"{target}/{path}")
    return _newest(folder), True


def _files(folder: str) -> list[str]:
    """Paths of all files under a folder, relative to it, sorted."""
    return sorted(
        os.path.relpath(os.path.join(top, name), folder) for top, _, names in fileio.walk(folder) for name in names
    )


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


def _write_json(path: str, value: dict[str, Any]) -> None:
    fileio.makedirs(os.path.dirname(path))
    with fileio.open(path, "w") as file:
        file.write(json.dumps(value, indent=2, sort_keys=True) + "\n")
