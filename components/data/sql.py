"""A database's rows: a query's answer, streamed to a Parquet file that is then read as any other.

SQLAlchemy speaks to the database; it and PostgreSQL's driver come with the extra `sql`. Nothing is held in memory but
one batch, and the file appears once it is whole. An answer that is byte for byte the same leaves the old file alone.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pyarrow
import pyarrow.parquet

from bertline.components import variables
from bertline.components.data.columns import missing_column, named_columns, used_columns
from bertline.components.data.fields import as_cell
from bertline.components.data.reader import SourceFile
from bertline.components.options import DataOptions, Query
from bertline.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, CursorResult, Engine

BATCH_ROWS = 2000  # some megabytes, and a row group of the file
SECONDS_TO_CONNECT = 10
FOLDER = "queries"  # below the root of a task
UNFINISHED = ".unfinished"
# The driver that the extra brings; SQLAlchemy would look for an older one.
DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def fetched(options: DataOptions, base_folder: str, folder: Path) -> DataOptions:
    """Runs the queries of a task and writes their rows.

    Args:
        options: name the queries and the columns that are used; only these are written.
        base_folder: where the path of an SQLite file starts.
        folder: of the files, made where it is missing.

    Returns:
        The options, whose queries say where their rows are.

    Raises:
        UserError: as `fetch`.
    """
    return options.with_queries(
        lambda query: query.model_copy(update={"file": str(fetch(query, base_folder, folder, options))})
    )


def fetch(query: Query, base_folder: str, folder: Path, options: DataOptions | None = None) -> Path:
    """Runs a query and writes its rows to a Parquet file, whose columns are texts.

    Args:
        query: what to run.
        base_folder: where the path of an SQLite file starts.
        folder: of the file, made where it is missing.
        options: name the columns to write. None writes all that hold plain values or lists.

    Returns:
        The file's path, which is the same for the same query.

    Raises:
        UserError: the database cannot be reached, refuses the query or goes away; a column is missing, is there
            twice, or holds objects; a variable of the environment is not set; a package is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{query.url}\0{query.query}".encode()).hexdigest()[:16]
    path = folder / f"{name}.parquet"
    unfinished = path.with_suffix(UNFINISHED)
    try:
        with _answer(query, base_folder) as result:
            _write(result, unfinished, options)
        if not path.exists() or not filecmp.cmp(path, unfinished, shallow=False):
            os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"{unfinished} cannot be written: {error.strerror or error}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def changes(query: Query, base_folder: str) -> str:
    """The answer of `query.changes`, as a text to compare with an earlier one.

    Raises:
        UserError: there is no such query, or as `fetch`.
    """
    if not query.changes:
        raise UserError(
            f"data.source: {query}: watching needs `changes` beside the query, a cheap one whose answer changes with "
            "the rows, such as SELECT count(*), max(updated_at) FROM ..."
        )
    with _answer(query.model_copy(update={"query": query.changes}), base_folder) as result:
        return repr([tuple(row) for row in result])


def check(query: Query, base_folder: str) -> None:
    """Raises UserError where the database does not answer, or a package or a variable is missing."""
    with _answer(query.model_copy(update={"query": "SELECT 1"}), base_folder):
        pass


# === The database ===


@contextmanager
def _answer(query: Query, base_folder: str) -> Iterator[CursorResult]:
    """The answer, as it comes: the server keeps the rows, and nothing that the query did is kept by it.

    Raises:
        UserError: also when the database goes away within the block.
    """
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        raise UserError(
            "data.source: a query needs SQLAlchemy: `pip install 'bertline[sql]'` brings it, with PostgreSQL's driver."
        ) from None
    engine, secrets = connecting(query.url, "data.source", lambda url: _of_sqlite_file(url, query, base_folder))

    try:
        with engine.connect() as connection:
            _read_as_bytes(connection)
            # Without parameters a percent sign in the query is one, and a colon is no parameter.
            connection = connection.execution_options(
                stream_results=True, max_row_buffer=BATCH_ROWS, no_parameters=True
            )
            yield connection.exec_driver_sql(query.query.strip().rstrip(";"))
            connection.rollback()
    except SQLAlchemyError as error:
        raise UserError(
            f"data.source: the database does not answer the query {query}: {said(error, secrets)}"
        ) from None
    finally:
        engine.dispose()


def connecting(url: str, key: str, placed: Callable[[URL], URL]) -> tuple[Engine, list[str]]:
    """The way to a database.

    Args:
        url: as a config has it.
        key: of the config, for errors.
        placed: gives the address of an SQLite file its whole path.

    Returns:
        The way, and the values of variables that no message may show.

    Raises:
        UserError: the address is none, a variable is not set, or the database's driver is not installed.
    """
    import sqlalchemy

    address, secrets = _filled_address(url, key)
    try:
        parsed = sqlalchemy.make_url(address)
        if parsed.get_backend_name() == "sqlite":
            parsed = placed(parsed)
        arguments = {"connect_timeout": SECONDS_TO_CONNECT} if parsed.get_backend_name() == "postgresql" else {}
        return sqlalchemy.create_engine(parsed, poolclass=sqlalchemy.NullPool, connect_args=arguments), secrets
    except (sqlalchemy.exc.ArgumentError, ValueError):  # its words would show the address as it is filled in
        raise UserError(
            f"{key}: {url}: not an address that SQLAlchemy knows; expected one such as postgresql://USER@HOST/DATABASE."
        ) from None
    except ImportError as error:
        raise UserError(
            f"{key}: {url}: this database's driver is not installed ({error}). Install it beside bertline; "
            "`pip install 'bertline[sql]'` brings that of PostgreSQL."
        ) from None


def said(error: Exception, secrets: Sequence[str]) -> str:
    """What a database says of a fault, on one line and without the values that no message may show."""
    words = " ".join(str(getattr(error, "orig", None) or error).split())
    for secret in secrets:
        words = words.replace(secret, "***")
    return words


def _filled_address(url: str, key: str) -> tuple[str, list[str]]:
    """The address with the environment's values, and the driver that the extra brings; and what must stay unsaid."""
    where = f"{key}: {url}"
    values = variables.values(url, where).values()
    scheme, _, rest = url.partition("://")
    userinfo, at, place = rest.rpartition("@")
    userinfo, place = variables.filled(userinfo, where, quote_plus), variables.filled(place, where)
    secrets = [form for value in values for form in (value, quote_plus(value)) if value]
    return f"{DRIVERS.get(scheme, scheme)}://{userinfo}{at}{place}", secrets


def _of_sqlite_file(url: URL, query: Query, base_folder: str) -> URL:
    """The address of an SQLite file that is only read; SQLite would make a file that is missing."""
    path = Path(base_folder) / Path(url.database or "").expanduser()
    if not path.is_file():
        raise UserError(f"data.source: {query.url}: there is no file {path}. Correct the path.")
    return url.set(database=f"file:{quote(str(path.absolute()))}", query={"mode": "ro", "uri": "true"})


def _read_as_bytes(connection: Connection) -> None:
    """SQLite does not check that texts are UTF-8, so they are checked as those of files are."""
    if connection.dialect.name == "sqlite":
        connection.connection.driver_connection.text_factory = bytes


# === The file ===


def _write(result: CursorResult, path: Path, options: DataOptions | None) -> None:
    columns = list(result.keys())
    if options:
        _check_columns(columns, options)
    elif repeated := next((name for name in columns if columns.count(name) > 1), None):
        raise UserError(f"data.source: the query gives the column {repeated!r} twice; name one of them by AS.")
    names = used_columns(options) if options else columns
    places = [columns.index(name) for name in names]
    schema = pyarrow.schema([(name, pyarrow.string()) for name in names])
    rows = 0
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for batch in result.partitions(BATCH_ROWS):
            cells = [_cells([row[place] for row in batch], name) for name, place in zip(names, places, strict=True)]
            writer.write_table(pyarrow.table(cells, schema=schema))
            rows += len(batch)
    if not rows:
        raise UserError("data.source: the query gives no rows. Correct the query.")


def _check_columns(columns: list[str], options: DataOptions) -> None:
    answer = SourceFile("", "the query's answer", "parquet")
    for option, name in named_columns(options):
        if name not in columns:
            raise UserError(missing_column(answer, option, name, columns))
        if columns.count(name) > 1:
            raise UserError(f"data.source: the query gives the column {name!r} (data.{option}) twice; use AS.")


def _cells(values: Sequence[Any], name: str) -> pyarrow.Array:
    """A column as texts. Bytes stay as they are, so that those that are not UTF-8 go to quarantine by name."""
    if any(isinstance(value, dict) for value in values):
        raise UserError(
            f"data.source: the column {name!r} of the query holds objects, not texts; select what is in them, such as "
            f"{name} ->> 'body' AS body."
        )
    encoded = [
        bytes(value) if isinstance(value, bytes | memoryview | bytearray) else _encoded(value) for value in values
    ]
    return pyarrow.array(encoded, pyarrow.binary()).view(pyarrow.string())


def _encoded(value: Any) -> bytes | None:
    text = as_cell(value)
    return None if text is None else text.encode("utf-8", "surrogatepass")
