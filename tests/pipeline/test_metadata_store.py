import socket

import factories
import postgresql
import pytest
from ml_metadata.proto import metadata_store_pb2 as mlmd

from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import lineage, metadata_store

PASSWORD = "kept-to-ourselves"


def task(url, name="reviews"):
    return configs.Config(name=name, data={"source": "a.csv"}, metadata=url)


def location(url, name="reviews"):
    return task(url, name).metadata_location


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///runs.db", "not a database's address; expected postgresql://USER@HOST:PORT/DATABASE or mysql://"),
        ("postgresql://db.example.com/reviews", "not a database's address"),
        ("postgresql://keeper@db.example.com:5432", "names no database"),
        ("postgresql://keeper@db.example.com:99999/reviews", "Port out of range"),
        ("mysql://keeper:secret@db.example.com/reviews", "take that out and set BERTLINE_METADATA_PASSWORD"),
        (
            "mysql://keeper@db.example.com/reviews?sslmode=require",
            r"?sslmode: unknown; known for mysql are key, cert, ca",
        ),
        ("mysql://keeper@db.example.com/reviews?verify_server_cert=maybe", "verify_server_cert=maybe: neither true"),
    ],
)
def test_an_address_that_cannot_be_meant_is_told_when_the_config_is_read(tmp_path, url, expected):
    (tmp_path / "task.yaml").write_text(f"name: reviews\ndata: {{source: a.csv}}\nmetadata: {url}\n")
    with pytest.raises(UserError) as caught:
        configs.load(tmp_path / "task.yaml")
    assert "task.yaml: metadata: " in str(caught.value) and expected in str(caught.value)


def test_an_address_becomes_what_ml_metadata_connects_with(monkeypatch):
    monkeypatch.setenv(metadata_store.PASSWORD, "secret")
    postgresql = metadata_store.connection(location("postgresql://keeper@db:6000/x?sslmode=require")).postgresql
    assert (postgresql.host, postgresql.port, postgresql.user) == ("db", "6000", "keeper")
    assert (postgresql.password, postgresql.dbname) == ("secret", "x")
    assert postgresql.ssloption.sslmode == "require"
    mysql = metadata_store.connection(location("mysql://keeper@db/reviews?ca=ca.pem&verify_server_cert=true")).mysql
    assert (mysql.host, mysql.port, mysql.database) == ("db", 3306, "reviews")
    assert (mysql.ssl_options.ca, mysql.ssl_options.verify_server_cert) == ("ca.pem", True)


@pytest.mark.parametrize(
    ("spelling", "value"), [("True", True), ("yes", True), ("1", True), ("off", False), ("0", False)]
)
def test_a_boolean_is_read_in_each_usual_spelling(spelling, value):
    mysql = metadata_store.connection(location(f"mysql://keeper@db/x?verify_server_cert={spelling}")).mysql
    assert mysql.ssl_options.verify_server_cert is value


def test_percent_codes_are_decoded():
    mysql = metadata_store.connection(location("mysql://keeper%40corp@db/the%20reviews?ca=%2Fetc%2Fa%20b.pem")).mysql
    assert (mysql.user, mysql.database, mysql.ssl_options.ca) == ("keeper@corp", "the reviews", "/etc/a b.pem")


def test_the_database_does_not_key_a_model():
    assert task("mysql://keeper@db/reviews").digest() == task(None).digest()


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(UserError, match=f"127.0.0.1:{port} cannot be reached: Connection refused. Start the database"):
        metadata_store.connect(location(f"postgresql://keeper@127.0.0.1:{port}/reviews"))


# === A real PostgreSQL ===


@pytest.fixture(scope="module")
def database():
    """HOST:PORT of a server whose user `keeper` has the password PASSWORD."""
    with postgresql.running(PASSWORD) as address:
        yield address


def test_a_wrong_password_is_told_without_showing_it(database, monkeypatch):
    monkeypatch.setenv(metadata_store.PASSWORD, "guess")
    with pytest.raises(UserError) as caught:
        metadata_store.connect(location(f"postgresql://keeper@{database}/reviews"))
    assert "refuses user keeper or database reviews (the password, BERTLINE_METADATA_PASSWORD, is set)" in str(
        caught.value
    )
    assert "guess" not in str(caught.value)


def test_a_database_that_holds_another_tasks_runs_is_refused(database, monkeypatch):
    monkeypatch.setenv(metadata_store.PASSWORD, PASSWORD)
    store = metadata_store.connect(location(f"postgresql://keeper@{database}/news", "news"))
    kind = store.put_context_type(mlmd.ContextType(name="pipeline"))
    store.put_contexts([mlmd.Context(type_id=kind, name="news")])
    assert lineage.Store(task(f"postgresql://keeper@{database}/news", "news")).run_ids() == []
    with pytest.raises(UserError, match="holds the runs of news; give task reviews a database of its own"):
        metadata_store.connect(location(f"postgresql://keeper@{database}/news"))


def test_runs_are_kept_and_listed_and_the_password_is_nowhere(database, tmp_path, warm):
    """A run that ends at the data gate, which is soon."""
    config = factories.write_task(tmp_path, factories.reviews(60))
    text = config.read_text(encoding="utf-8").replace("max_length: 16", "max_length: 4")  # cuts most texts short
    config.write_text(f"{text}metadata: postgresql://keeper@{database}/gate\n", encoding="utf-8")
    secret = {metadata_store.PASSWORD: PASSWORD}
    run = warm.bertline("run", config, cwd=tmp_path, env=secret)
    assert run.returncode == 1, run.stdout + run.stderr
    listed = warm.bertline("runs", config, cwd=tmp_path, env=secret)
    assert "failed" in listed.stdout and "DataGate" in listed.stdout, listed.stdout + listed.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if path.suffix == ".sqlite"]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    assert any(path.suffix == ".log" for path in written)
