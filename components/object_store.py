"""Folders in an object store: copied to this machine for as long as they are read."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pyarrow
from pyarrow import fs

from bertline.errors import UserError

SCHEMES = ("gs://", "s3://", "minio://")
RETRY = timedelta(minutes=1)  # Google's client would try for a quarter of an hour where there are no credentials
TRANSFERS = 16  # at a time: with small files most of the time is spent waiting
ADDRESS = "address"  # custom property of an artifact whose `uri` is a pod's copy: where it outlives the pod


@contextmanager
def local_copy(folder: str, wanted: Callable[[str], Iterable[str]] | None = None) -> Iterator[str]:
    """The folder itself where it is local; else a copy of the files below an address, for the length of a block.

    Arrow finds the credentials: in the store's usual environment variables, or by the machine's account.

    Args:
        folder: a path, or an address gs://, s3:// or minio://.
        wanted: takes the copy's path and gives the absolute paths of the files to bring. It goes by their names,
            because all of them are still empty when it is called. None brings all.

    Raises:
        UserError: the address is of another kind, cannot be reached, or nothing is there.
    """
    if "://" not in folder:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bertline-copy-") as scratch:
        # The folder keeps its name, which is part of the data's fingerprint.
        target = Path(scratch) / folder.rstrip("/").rpartition("/")[2]
        target.mkdir()
        _copy(folder, target, wanted)
        yield str(target)


@contextmanager
def fetched(path: str, folder: str, address: str) -> Iterator[str]:
    """A file of a local copy: as it is where this machine has it, else fetched for the length of a block.

    Args:
        path: absolute path of the file on the machine that started the job.
        folder: the local copy on that machine, or the folder itself.
        address: what `folder` is a copy of; the same as `folder` where it is no copy.

    Raises:
        UserError: this machine does not have the file, or cannot fetch it.
    """
    if Path(path).exists():
        yield path
        return
    if "://" not in address or not path.startswith(f"{folder}/"):
        raise UserError(
            f"{path}: a Beam worker on {platform.node()} does not see it. Workers on other machines need the data in a "
            "folder that they share at the same path, or in gs://, s3:// or minio:// (kubeflow.data_folder)."
        )
    with tempfile.TemporaryDirectory(prefix="bertline-copy-") as scratch:
        target = f"{scratch}/{Path(path).name}"
        source = address.rstrip("/") + path.removeprefix(folder)
        try:
            store, remote = _store(source)
            fs.copy_files(remote, target, source_filesystem=store, destination_filesystem=fs.LocalFileSystem())
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise _unreadable(source, error) from error
        yield target


def _unreadable(address: str, error: Exception) -> UserError:
    return UserError(
        f"{address} cannot be read: {error}. Check the address, and the credentials in the environment or of the "
        "machine's account."
    )


def _store(address: str) -> tuple[fs.FileSystem, str]:
    """An address's store, and the path in it."""
    scheme = address.partition("://")[0] + "://"
    if scheme not in SCHEMES:
        raise UserError(f"{address}: expected a path, or an address that starts with {', '.join(SCHEMES)}")
    path = address.removeprefix(scheme).rstrip("/")
    if scheme == "gs://":
        return fs.GcsFileSystem(retry_time_limit=RETRY), path
    # MinIO speaks S3's protocol; AWS_ENDPOINT_URL in the environment says where it is
    return fs.FileSystem.from_uri(f"s3://{path}")


def _copy(address: str, target: Path, wanted: Callable[[str], Iterable[str]] | None) -> None:
    try:
        store, path = _store(address)
        if store.get_file_info(path).type != fs.FileType.Directory:
            raise UserError(f"{address}: there is no such folder. Correct the address.")
        entries = [entry for entry in store.get_file_info(fs.FileSelector(path, recursive=True)) if entry.is_file]
        remote = {target / entry.path.removeprefix(f"{path}/"): entry.path for entry in entries}
        for local in remote:
            local.parent.mkdir(parents=True, exist_ok=True)
            local.touch()
        to_bring = set(remote) & set(map(Path, wanted(str(target)))) if wanted else set(remote)
        for local in set(remote) - to_bring:
            local.unlink()

        def bring(local: Path) -> None:
            here = fs.LocalFileSystem()
            fs.copy_files(remote[local], str(local), source_filesystem=store, destination_filesystem=here)

        with ThreadPool(TRANSFERS) as pool:
            pool.map(bring, to_bring)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise _unreadable(address, error) from error
