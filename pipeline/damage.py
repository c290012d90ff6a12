"""What a run could not begin on: a damaged record of past runs, and results that are not the ones it knows.

All of it is found before anything is trained.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from bertline.errors import UserError
from bertline.serving import storage

if TYPE_CHECKING:
    from ml_metadata.proto import metadata_store_pb2 as mlmd

FILE = "metadata.sqlite"  # the record of past runs, below a task's root
ARTIFACTS = "artifacts"  # folder below a task's root: NODE/OUTPUT/EXECUTION
SIZE = "bytes"  # custom property of an artifact that goes into the model: its files' size when it was made
BUSY_SECONDS = 10.0  # to wait for a run that writes to the file


def check_file(file: Path) -> None:
    """Checks that an SQLite file is whole. One that a killed run left in the middle of a write is mended by that.

    Raises:
        UserError: it is damaged or no SQLite file; the message names it and the way out.
    """
    try:
        with closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
        ) as database:
            fault = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        fault = str(error)
    if fault != "ok":
        raise UserError(
            f"{file}: the record of past runs cannot be read: {fault}. Restore it from a copy; or {_anew(file.parent)}"
        )


def check_knows_results(root: Path, address: str | None, newest: int) -> None:
    """Checks that the record of past runs is no older than the results below a root.

    Args:
        root: the task's local folder.
        address: of the database with the record; None for the file below the root.
        newest: the highest id of an execution on record, 0 for none.

    Raises:
        UserError: there are results of later executions, which new ones would overwrite.
    """
    there = max((number for folder in (root / ARTIFACTS).glob("*/*/*") if (number := _number(folder.name))), default=0)
    if there > newest:
        raise UserError(
            f"{address or root / FILE}: this record of past runs ends with execution {newest or 'none'}, and "
            f"{root / ARTIFACTS} has results of execution {there}. The record was emptied, replaced, or restored from "
            f"an older copy. Restore the newest copy; or {_anew(root, address)}"
        )


def check_place(root: Path, artifacts: Iterable[mlmd.Artifact]) -> None:
    """Checks that past results lie below the root: else a run would take its cached results from another folder.

    Args:
        root: the task's local folder.
        artifacts: some of them, the newest.

    Raises:
        UserError: the folder was copied or moved; the message names the old place and the way out.
    """
    here = root / ARTIFACTS
    for artifact in artifacts:
        if storage.is_remote(artifact.uri) or Path(artifact.uri).resolve().is_relative_to(here.resolve()):
            continue
        old = Path(artifact.uri).parents[2]
        way_out = "go on there" if old.exists() else f"move it back to {old.parent}"
        raise UserError(
            f"{root / FILE}: past results are on record in {old}, so this folder was copied or moved from there. "
            f"To use them {way_out}; or {_anew(root)}"
        )


def check_size(node: str, artifact: mlmd.Artifact) -> None:
    """Checks that a cached result has the bytes that its stage left.

    Raises:
        UserError: it has not; the message names its folder and the way out.
    """
    if SIZE not in artifact.custom_properties:
        return  # made before sizes were kept, or in a run that was killed just then
    left, now = artifact.custom_properties[SIZE].int_value, storage.size(artifact.uri)
    if now != left:
        raise UserError(
            f"{artifact.uri}: its files have {now:,} bytes, and the stage {node} left {left:,}: one was cut off, "
            "changed or added. Remove that folder; the next run makes it again"
        )


def _anew(root: Path, address: str | None = None) -> str:
    what = f"move {root / ARTIFACTS} away" if address else f"move {root / ARTIFACTS} and {root / FILE} away"
    return f"{what}: the next run then trains anew. Pushed versions stay where they are"


def _number(name: str) -> int:
    return int(name) if name.isascii() and name.isdigit() else 0
