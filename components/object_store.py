"""Data in an object store: brought to this machine for as long as they are read."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
from pyarrow import fs

from components.errors import LineError

# MinIO speaks S3's protocol; AWS_ENDPOINT_URL in the environment says where it is.
SCHEMES = {"gs://": "gs://", "s3://": "s3://", "minio://": "s3://"}


@contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """The folder itself where it is local; else a copy of all files below an address, for the length of a block.

    Credentials are found as Arrow finds them: in the store's usual environment variables, or by the machine's account.

    Args:
        folder: a path, or an address gs://, s3:// or minio://.

    Raises:
        LineError: the address is of another kind, cannot be reached, or nothing is there.
    """
    if "://" not in folder:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="bertline-data-") as scratch:
        # The folder keeps its name, which is part of the data's fingerprint.
        target = Path(scratch) / folder.rstrip("/").rpartition("/")[2]
        target.mkdir()
        _copy(folder, target)
        yield str(target)


def _copy(address: str, target: Path) -> None:
    scheme = address.partition("://")[0] + "://"
    if scheme not in SCHEMES:
        raise LineError(f"data folder {address}: expected a path, or an address that starts with {', '.join(SCHEMES)}")
    try:
        store, path = fs.FileSystem.from_uri(SCHEMES[scheme] + address.removeprefix(scheme).rstrip("/"))
        if store.get_file_info(path).type != fs.FileType.Directory:
            raise LineError(f"data folder {address}: there is no such folder")
        fs.copy_files(path, str(target), source_filesystem=store, destination_filesystem=fs.LocalFileSystem())
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise LineError(f"data folder {address} cannot be read: {error}") from error
