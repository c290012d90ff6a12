"""A database's rows as a source: SQLite files, and a real PostgreSQL server."""

import datetime
import decimal
import re
import sqlite3
import subprocess
import sys
import threading
import time

import postgresql
import psycopg
import pyarrow.parquet
import pytest

from bertline.components.data import formats, sql, task_files
from bertline.components.ingestion import parse
from bertline.components.options import DataOptions, Query
from bertline.errors import UserError

PASSWORD = "s3cret/with@signs:and%"
ORDERED = "SELECT id, text, label FROM reviews ORDER BY id"


@pytest.fixture(scope="module")
def server():
    with postgresql.running(PASSWORD) as address:
        yield address


@pytest.fixture
def client(server):
    """A connection to a database without tables, in which each statement stands at once."""
    host, port = server.split(":")
    place = {"host": host, "port": port, "user": "keeper", "password": PASSWORD}
    with psycopg.connect(**place, dbname="postgres", autocommit=True) as first:
        first.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        first.execute("CREATE DATABASE shop")
    with psycopg.connect(**place, dbname="shop", autocommit=True) as connection:
        yield connection


@pytest.fixture
def address(server, monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    return f"postgresql://keeper:${{SHOP_PASSWORD}}@{server}/shop"


def sqlite_file(folder, rows, name="shop.db"):
    with sqlite3.connect(folder / name) as connection:
        connection.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text, label)")
        connection.executemany("INSERT INTO reviews (text, label) VALUES (?, ?)", rows)
    return f"sqlite:///{name}"


def options_of(url, query=ORDERED, **options):
    return DataOptions(source={"url": url, "query": query}, **options)


def fetched(folder, options):
    return sql.fetched(options, str(folder), folder / "queries")


def rows_of(folder, options):
    """(row, text, label or reason) of all rows as ingestion reads them."""
    options = fetched(folder, options)
    found = []
    for file in task_files.of_task(options, str(folder)):
        formats.check(file, options)
        for row in formats.read(file, options):
            parsed = parse(row, options)
            found.append((row.number, parsed.text, parsed.fault.reason if parsed.fault else parsed.labels[0]))
    return found


def refusal(folder, options):
    with pytest.raises(UserError) as stop:
        fetched(folder, options)
    assert not list((folder / "queries").glob("*"))
    assert PASSWORD not in str(stop.value)
    return str(stop.value)


# === The rows ===

ROWS = [("50% off: a :name", 1), ("naïve 😀\nlines", 0), (None, 1), ("a", None), ("b", True), ("c", 2.0)]


def test_rows_of_an_sqlite_file(tmp_path):
    url = sqlite_file(tmp_path, ROWS)
    assert rows_of(tmp_path, options_of(url, f"{ORDERED};  ")) == [
        (1, "50% off: a :name", "1"),
        (2, "naïve 😀\nlines", "0"),
        (3, "", "empty text"),
        (4, "a", "missing label"),
        (5, "b", "1"),
        (6, "c", "2"),
    ]


def test_text_of_an_sqlite_file_that_is_not_utf_8_goes_to_quarantine(tmp_path):
    url = sqlite_file(tmp_path, [("a", 1), ("b\0c", 1)])
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("INSERT INTO reviews (text, label) VALUES (CAST(x'636166e9' AS TEXT), 1)")
    assert [reason for _, _, reason in rows_of(tmp_path, options_of(url))] == [
        "1",
        "zero byte",
        "bytes not in the encoding",
    ]


def test_rows_of_postgresql_of_all_types(tmp_path, client, address):
    client.execute(
        "CREATE TABLE reviews (id serial, text text, label text, stars numeric, day date, tags text[], raw bytea)"
    )
    client.execute(
        "INSERT INTO reviews (text, label, stars, day, tags, raw) VALUES (%s, %s, %s, %s, %s, %s)",
        ("50% \U0001f600, :x", "pos", decimal.Decimal("4.50"), datetime.date(2026, 1, 2), ["a", "b"], b"caf\xc3\xa9"),
    )
    keep = ["stars", "day", "tags", "raw"]
    query = "SELECT *, text LIKE '%%' AS yes, to_char(day, ':MI') AS minute FROM reviews"
    options = fetched(tmp_path, options_of(address, query, keep=[*keep, "yes", "minute"]))
    [file] = task_files.of_task(options, str(tmp_path))
    assert next(iter(formats.read(file, options))).values == (
        *("50% \U0001f600, :x", "pos", "4.50", "2026-01-02", '["a", "b"]', "café", "true", ":00"),
    )
    assert pyarrow.parquet.read_schema(file.path).names == ["text", "label", *keep, "yes", "minute"]


def test_a_query_changes_nothing(tmp_path, client, address):
    client.execute("CREATE TABLE reviews (id serial, text text, label text)")
    client.execute("INSERT INTO reviews (text, label) VALUES ('a', 'b')")
    client.execute("CREATE FUNCTION eat() RETURNS text AS 'DELETE FROM reviews RETURNING text' LANGUAGE sql")
    assert rows_of(tmp_path, options_of(address, "SELECT eat() AS text, 'x' AS label")) == [(1, "a", "x")]
    assert client.execute("SELECT count(*) FROM reviews").fetchone() == (1,)


def test_the_same_answer_leaves_the_file_alone(tmp_path):
    url = sqlite_file(tmp_path, [(f"words {number}", number % 2) for number in range(25_000)])
    options = options_of(url)
    first = fetched(tmp_path, options)
    [file] = task_files.of_task(first, str(tmp_path))
    before = file, task_files.fingerprint([file]), (tmp_path / "queries").stat().st_mtime_ns
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("ALTER TABLE reviews ADD COLUMN unused DEFAULT 5")
    [same] = task_files.of_task(fetched(tmp_path, options), str(tmp_path))
    assert (same, task_files.fingerprint([same])) == before[:2]
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("UPDATE reviews SET label = 1 WHERE id = 24999")
    [changed] = task_files.of_task(fetched(tmp_path, options), str(tmp_path))
    assert changed == file and task_files.fingerprint([changed]) != before[1]
    assert len(list((tmp_path / "queries").iterdir())) == 1


def test_rows_are_streamed(tmp_path, client, address):
    """A process of its own, since memory that another test has freed would hide what this one takes."""
    query = "SELECT repeat(md5(n::text), 100) AS text, n % 2 AS label FROM generate_series(1, 100000) n"
    program = f"""
import resource
from pathlib import Path
from bertline.components.data import sql
from bertline.components.options import DataOptions
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
options = DataOptions(source={{"url": {address!r}, "query": {query!r}}})
sql.check(options.queries[0], ".")
before = peak()
print(sql.fetched(options, ".", Path("queries")).queries[0].file, peak() - before)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    file, taken = ran.stdout.split()
    assert pyarrow.parquet.read_metadata(tmp_path / file).num_rows == 100_000
    assert int(taken) < 120e6  # of 320 MB


# === What goes wrong ===


def test_a_database_that_goes_away_leaves_nothing_half_written(tmp_path, client, address):
    query = "SELECT repeat(md5(n::text), 10) AS text, n % 2 AS label FROM generate_series(1, 3000000) n"
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'FETCH FORWARD%'"
    killed = []

    def end_it():
        until = time.monotonic() + 60
        while not list((tmp_path / "queries").glob("*.unfinished")) and time.monotonic() < until:
            time.sleep(0.01)
        killed.extend(client.execute(kill).fetchall())

    thread = threading.Thread(target=end_it)
    thread.start()
    message = refusal(tmp_path, options_of(address, query))
    thread.join()
    assert killed
    assert "the database does not answer the query SELECT repeat" in message
    assert re.search("terminating connection|server closed the connection", message)


def test_an_earlier_file_outlives_a_failure(tmp_path):
    url = sqlite_file(tmp_path, ROWS)
    [query] = fetched(tmp_path, options_of(url)).queries
    (tmp_path / "shop.db").unlink()
    with pytest.raises(UserError, match="there is no file"):
        fetched(tmp_path, options_of(url))
    assert pyarrow.parquet.read_metadata(query.file).num_rows == len(ROWS)


def test_a_password_is_shown_nowhere(tmp_path, server, address, monkeypatch):
    message = refusal(tmp_path, options_of(address.replace("keeper", "nobody")))
    assert 'password authentication failed for user "nobody"' in message
    monkeypatch.setenv("SHOP_PASSWORD", "wrong")
    assert "password authentication failed" in refusal(tmp_path, options_of(address))
    monkeypatch.delenv("SHOP_PASSWORD")
    assert "the environment has no variable SHOP_PASSWORD" in refusal(tmp_path, options_of(address))
    # What the driver reads by itself.
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    sql.check(Query(url=f"postgresql://keeper@{server}/postgres", query="SELECT 1"), ".")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT * FROM nothing", 'relation "nothing" does not exist'),
        ("SELEC 1", "syntax error"),
        ("SELECT 'a' AS body, 1 AS label", "the query's answer: no column 'text' (data.text). Columns found: 'body'"),
        ("SELECT 'a' AS text, 1 AS label, 2 AS label", "gives the column 'label' (data.label) twice; use AS"),
        ("SELECT 'a' AS text, 1 AS label WHERE false", "the query gives no rows"),
        ("""SELECT '{"a": 1}'::json AS text, 1 AS label""", "the column 'text' of the query holds objects, not texts"),
        ("SELECT 'a' AS text, 1/(n - 5) AS label FROM generate_series(1, 9) n", "division by zero"),
    ],
)
def test_queries_that_give_no_rows(tmp_path, client, address, query, said):
    assert said in refusal(tmp_path, options_of(address, query))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("shop.db", "not a database's address"),
        ("postgresql://keeper:secret@host/shop", "an address with a password in it"),
        ("postgresql://host/shop?password=secret", "an address with a password in it"),
    ],
)
def test_addresses_that_are_refused_at_once(url, said):
    with pytest.raises(ValueError, match="source") as stop:
        options_of(url)
    assert said in str(stop.value)


def test_addresses_that_the_library_refuses(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    assert "not an address that SQLAlchemy knows" in refusal(tmp_path, options_of("magic://a:${SHOP_PASSWORD}@h/x"))
    assert "driver is not installed" in refusal(tmp_path, options_of("mysql://a:${SHOP_PASSWORD}@h/x"))
    assert "there is no file" in refusal(tmp_path, options_of("sqlite:///missing.db"))
    assert "there is no file" in refusal(tmp_path, options_of("sqlite://"))
    (tmp_path / "shop.db").write_bytes(b"no database " * 100)
    assert "not a database" in refusal(tmp_path, options_of("sqlite:///shop.db"))


def test_where_no_query_is_run_it_is_told(tmp_path):
    with pytest.raises(UserError, match=r"only `bertline run` asks a database"):
        task_files.of_task(options_of("sqlite:///shop.db"), str(tmp_path))


# === Watching ===


def test_what_changes_is_told_by_a_cheap_query(tmp_path):
    url = sqlite_file(tmp_path, ROWS)
    query = Query(url=url, query=ORDERED, changes="SELECT count(*), max(id) FROM reviews")
    before = sql.changes(query, str(tmp_path))
    assert sql.changes(query, str(tmp_path)) == before
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.execute("INSERT INTO reviews (text, label) VALUES ('new', 1)")
    assert sql.changes(query, str(tmp_path)) != before
    with pytest.raises(UserError, match="watching needs `changes` beside the query"):
        sql.changes(Query(url=url, query=ORDERED), str(tmp_path))
