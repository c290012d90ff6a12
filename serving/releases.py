"""The releases in a serving folder: pushed versions, each with a release.json that tells where it comes from."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

RELEASE_FILE = "release.json"
SAVED_MODEL_FILE = "saved_model.pb"
VERSION_NAME = re.compile(r"0|[1-9]\d{0,18}", re.ASCII)  # a plain number that fits TF Serving's int64


@dataclass(frozen=True)
class Release:
    """One pushed version and its record."""

    version: int  # Unix time of the push, seconds
    path: str
    inputs: str = ""  # fingerprint of the config, data and code that made the model
    digest: str = ""  # of the SavedModel's files
    parent: int | None = None  # the version it was compared with
    metrics: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)  # release.json as it stands: hashes, libraries, commit, run


def read(folder: str | Path) -> list[Release]:
    """The releases in a serving folder, ascending by version; none where the folder is not there.

    Only whole versions count: a number for a name, saved_model.pb and release.json inside. A version without
    release.json was put there by other hands: it is served, and it is nobody's baseline.

    Raises:
        ValueError: a release.json cannot be read; the message names the file.
    """
    found = [(version, _join(folder, str(version))) for version in versions(folder)]
    return [
        _read_release(version, path)
        for version, path in found
        if _exists(_join(path, SAVED_MODEL_FILE)) and _exists(_join(path, RELEASE_FILE))
    ]


def versions(folder: str | Path) -> list[int]:
    """All version numbers that are taken in a serving folder, whole or not, ascending."""
    return sorted(int(name) for name in _names(folder) if VERSION_NAME.fullmatch(name))


def find_baseline(folder: str | Path, inputs: str) -> Release | None:
    """The release that a model made from `inputs` has to match: the newest one made from anything else.

    A model is no baseline for itself, so a second run of the same inputs meets the same bound as the first.

    Args:
        folder: the serving folder.
        inputs: fingerprint of the current run's config, data and code.

    Returns:
        The release, or None where there is none yet.

    Raises:
        ValueError: as `read`.
    """
    others = [release for release in read(folder) if release.inputs != inputs]
    return others[-1] if others else None


def _read_release(version: int, path: str) -> Release:
    file = _join(path, RELEASE_FILE)
    try:
        record = json.loads(_read_text(file))
        parent = record.get("parent")
        return Release(
            version=version,
            path=path,
            inputs=str(record.get("inputs", "")),
            digest=str(record.get("digest", "")),
            parent=int(parent) if parent else None,
            metrics=dict(record.get("metrics", {})),
            record=record,
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: not a release record ({error}); restore it or delete that version's folder"
        ) from error


# === Folders here and remote (gs://), which TensorFlow's file system reaches ===


def is_remote(folder: str | Path) -> bool:
    """Whether `folder` is an address such as gs://BUCKET/PATH rather than a local path."""
    return "://" in str(folder)


def open_file(path: str, mode: str) -> IO:
    """Opens a local or remote file; the folder of one to be written is made."""
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


def copy_file(source: str, destination: str) -> None:
    """Copies one file, from and to wherever."""
    if is_remote(source) or is_remote(destination):
        _gfile().makedirs(os.path.dirname(destination))
        _gfile().copy(source, destination, overwrite=True)
    else:
        shutil.copyfile(source, destination)


def _gfile():
    import tensorflow as tf  # seconds to import, so only where the folder is remote

    return tf.io.gfile


def _join(folder: str | Path, name: str) -> str:
    return f"{str(folder).rstrip('/')}/{name}"


def _names(folder: str | Path) -> list[str]:
    if is_remote(folder):
        return [name.rstrip("/") for name in _gfile().listdir(str(folder))] if _gfile().isdir(str(folder)) else []
    return os.listdir(folder) if os.path.isdir(folder) else []


def _exists(path: str) -> bool:
    return _gfile().exists(path) if is_remote(path) else os.path.isfile(path)


def _read_text(path: str) -> str:
    with open_file(path, "r") as file:
        return file.read()
