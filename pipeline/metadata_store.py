"""Where the lineage of a task's runs is kept: an SQLite file below its root, or a database of its own on a server.

The server is PostgreSQL or MySQL (MariaDB too), as ML Metadata speaks to them; tables are made on first use.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from yarl import URL

from bertline.errors import UserError
from bertline.pipeline import damage
from bertline.pipeline.damage import FILE

if TYPE_CHECKING:
    from ml_metadata.metadata_store import metadata_store
    from ml_metadata.proto import metadata_store_pb2 as mlmd

PASSWORD = "BERTLINE_METADATA_PASSWORD"  # environment variable: a password has no place in a config
PORTS = {"postgresql": 5432, "mysql": 3306}
# What may stand behind the question mark: ML Metadata's own names. All are text but for BOOLEANS.
TLS = {
    "postgresql": ("sslmode", "sslcert", "sslkey", "sslpassword", "sslrootcert"),
    "mysql": ("key", "cert", "ca", "capath", "cipher", "verify_server_cert"),
}
BOOLEANS = frozenset({"verify_server_cert"})
FORM = "postgresql://USER@HOST:PORT/DATABASE or mysql://USER@HOST:PORT/DATABASE"
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


def check_address(address: str) -> URL:
    """The parts of a database's address, such as postgresql://keeper@db.example.com:5432/sentiment?sslmode=require.

    Raises:
        ValueError: what is wrong with it.
    """
    try:
        url = URL(address)
    except ValueError as error:
        raise ValueError(f"{error}; expected {FORM}") from error
    if url.password is not None:
        raise ValueError(f"an address with a password in it; take that out and set {PASSWORD} in the environment")
    if url.scheme not in PORTS or not url.host or not url.user or url.explicit_port == 0:
        raise ValueError(f"not a database's address; expected {FORM}")
    if not _database(url) or "/" in _database(url):
        raise ValueError(f"names no database; expected {FORM}, a database of its own for each task")
    for name, value in url.query.items():
        if name not in TLS[url.scheme]:
            raise ValueError(f"?{name}: unknown; known for {url.scheme} are {', '.join(TLS[url.scheme])}")
        _tls_value(name, value)
    return url


def _database(url: URL) -> str:
    return url.path.strip("/")


def _port(url: URL) -> int:
    return url.explicit_port or PORTS[url.scheme]


def _tls_value(name: str, value: str) -> str | bool:
    """The value of an option behind the question mark, as ML Metadata takes it; ValueError where it is no boolean."""
    if name not in BOOLEANS:
        return value
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        raise ValueError(f"?{name}={value}: neither true nor false") from None


def connection(location: Location) -> mlmd.ConnectionConfig:
    """What TFX and ML Metadata connect with; it may hold the password, so it is not for logs."""
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    settings = mlmd.ConnectionConfig()
    if not location.address:
        settings.sqlite.filename_uri = str(location.folder / FILE)
        settings.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        return settings
    url = check_address(location.address)
    server = getattr(settings, url.scheme)
    server.host, server.user, server.password = url.host, url.user, os.environ.get(PASSWORD, "")
    if url.scheme == "postgresql":
        server.port, server.dbname, tls = str(_port(url)), _database(url), server.ssloption
    else:
        server.port, server.database, tls = _port(url), _database(url), server.ssl_options
    for name, value in url.query.items():
        setattr(tls, name, _tls_value(name, value))
    return settings


def exists(location: Location) -> bool:
    """Whether there can be runs on record; False for a task that has never run on this machine."""
    return bool(location.address) or (location.folder / FILE).exists()


def connect(location: Location) -> metadata_store.MetadataStore:
    """Opens the store.

    Raises:
        UserError: the file is damaged, the server cannot be reached or refuses, or the database holds another task's
            runs.
    """
    from ml_metadata.metadata_store import metadata_store

    if not location.address:
        if exists(location):
            damage.check_file(location.folder / FILE)
        return metadata_store.MetadataStore(connection(location))
    url = check_address(location.address)
    if fault := unreachable(location.address):
        raise UserError(
            f"metadata: {fault}. Start the database, correct the address, or leave `metadata` out: runs are then kept "
            "in a file below the task's root."
        )
    os.environ.setdefault("GLOG_minloglevel", "3")  # its C++ would write on the screen beside the error below
    try:
        store = metadata_store.MetadataStore(connection(location))
    except Exception as error:  # RuntimeError with next to nothing in it, or an error of ML Metadata's
        password = "set" if os.environ.get(PASSWORD) else "not set"
        raise UserError(
            f"metadata: {location.address}: the server answers, and refuses user {url.user} or database "
            f"{_database(url)} (the password, {PASSWORD}, is {password}). MySQL's accounts need the plugin "
            f"mysql_native_password. {error}".strip()
        ) from error
    _check_task(store, location)
    return store


def unreachable(address: str) -> str:
    """Why a database's server cannot be reached, "" where it can."""
    url = check_address(address)
    try:
        socket.create_connection((url.host, _port(url)), timeout=SECONDS).close()
    except OSError as error:
        return f"{url.host}:{_port(url)} cannot be reached: {error.strerror or error}"
    return ""


def _check_task(store: metadata_store.MetadataStore, location: Location) -> None:
    """Refuses a database of another task: run ids, releases and caches would mix."""
    if not any(kind.name == "pipeline" for kind in store.get_context_types()):
        return
    others = {context.name for context in store.get_contexts_by_type("pipeline")} - {location.task}
    if others:
        raise UserError(
            f"metadata: {location.address} holds the runs of {', '.join(sorted(others))}; give task {location.task} a "
            "database of its own."
        )
