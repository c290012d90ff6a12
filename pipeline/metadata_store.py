"""Where the lineage of a task's runs is kept: an SQLite file below its root, or a database of its own on a server.

The server is PostgreSQL or MySQL (MariaDB too), as ML Metadata speaks to them; tables are made on first use.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit

from bertline.errors import UserError

if TYPE_CHECKING:
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as mlmd

FILE = "metadata.sqlite"
PASSWORD = "BERTLINE_METADATA_PASSWORD"  # environment variable: a password has no place in a config
PORTS = {"postgresql": 5432, "mysql": 3306}
# What may stand behind the question mark: ML Metadata's own names. They are text, all but verify_server_cert.
TLS = {
    "postgresql": ("sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert"),
    "mysql": ("key", "cert", "ca", "capath", "cipher", "verify_server_cert"),
}
SECONDS = 10.0  # to reach the server


@dataclass(frozen=True)
class Location:
    """Where the lineage of a task is kept.

    Attributes:
      address: of a database on a server (see `check_address`); None where it is a file.
      folder: of that file, local; None where there is a server.
      task: the task's name.
    """

    address: str | None
    folder: Path | None
    task: str


def check_address(url: str) -> SplitResult:
    """The parts of a database's address, such as postgresql://keeper@db.example.com:5432/sentiment?sslmode=require.

    Raises:
      ValueError: what is wrong with it.
    """
    form = "postgresql://USER@HOST:PORT/DATABASE or mysql://USER@HOST:PORT/DATABASE"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{error}; expected {form}") from error
    if parts.password is not None:
        raise ValueError(f"an address with a password in it; take that out and set {PASSWORD} in the environment")
    if parts.scheme not in PORTS or not parts.hostname or not parts.username or port == 0:
        raise ValueError(f"not a database's address; expected {form}")
    if not parts.path.strip("/") or "/" in parts.path.strip("/"):
        raise ValueError(f"names no database; expected {form}, a database of its own for each task")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in TLS[parts.scheme]:
            raise ValueError(f"?{name}: unknown; known for {parts.scheme} are {', '.join(TLS[parts.scheme])}")
    return parts


def connection(location: Location) -> mlmd.ConnectionConfig:
    """What TFX and ML Metadata connect with; it may hold the password, so it is not for logs."""
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    found = mlmd.ConnectionConfig()
    if not location.address:
        found.sqlite.filename_uri = str(location.folder / FILE)
        found.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        return found
    parts = check_address(location.address)
    port = parts.port or PORTS[parts.scheme]
    server = getattr(found, parts.scheme)
    server.host, server.user, server.password = parts.hostname, parts.username, os.environ.get(PASSWORD, "")
    if parts.scheme == "postgresql":
        server.port, server.dbname, tls = str(port), parts.path.strip("/"), server.ssloption
    else:
        server.port, server.database, tls = port, parts.path.strip("/"), server.ssl_options
    for name, value in parse_qsl(parts.query):
        setattr(tls, name, value == "true" if name == "verify_server_cert" else value)
    return found


def exists(location: Location) -> bool:
    """Whether there can be runs on record; False for a task that has never run on this machine."""
    return bool(location.address) or (location.folder / FILE).exists()


def connect(location: Location) -> metadata_store.MetadataStore:
    """Opens the store.

    Raises:
      UserError: the server cannot be reached or refuses, or the database holds another task's runs.
    """
    from ml_metadata.metadata_store import metadata_store

    if not location.address:
        return metadata_store.MetadataStore(connection(location))
    parts = check_address(location.address)
    _check_reachable(parts)
    os.environ.setdefault("GLOG_minloglevel", "3")  # its C++ would write on the screen beside the error below
    try:
        store = metadata_store.MetadataStore(connection(location))
    except Exception as error:  # RuntimeError with next to nothing in it, or an error of ML Metadata's
        given = "given" if os.environ.get(PASSWORD) else "not set"
        raise UserError(
            f"metadata: {location.address}: the server answers, and refuses user {parts.username} or database "
            f"{parts.path.strip('/')} (the password, {PASSWORD}, is {given}). MySQL's accounts need the plugin "
            f"mysql_native_password. {error}".strip()
        ) from error
    _check_task(store, location)
    return store


def _check_reachable(parts: SplitResult) -> None:
    port = parts.port or PORTS[parts.scheme]
    try:
        socket.create_connection((parts.hostname, port), timeout=SECONDS).close()
    except OSError as error:
        raise UserError(
            f"metadata: {parts.hostname}:{port} cannot be reached: {error.strerror or error}. Start the database, mend "
            "the address, or leave `metadata` out: runs are then kept in a file below the task's root."
        ) from error


def _check_task(store: metadata_store.MetadataStore, location: Location) -> None:
    """One database, one task: run ids, releases and the cache of two would mix."""
    if not any(kind.name == "pipeline" for kind in store.get_context_types()):
        return
    others = {context.name for context in store.get_contexts_by_type("pipeline")} - {location.task}
    if others:
        raise UserError(
            f"metadata: {location.address} holds the runs of {', '.join(sorted(others))}; give task {location.task} a "
            "database of its own."
        )
