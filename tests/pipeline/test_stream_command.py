"""`bertline stream` as a person calls it."""

import datetime
import io
import json
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from factories import pushed_after_a_look, save_mood_model, write_task
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.monitoring.alarms import Messages
from bertline.pipeline import cli, screen
from bertline.pipeline import config as configs
from bertline.pipeline.stream import Alarms, Tended, started
from bertline.serving.server import Server
from bertline.streams.store import Batch, Scored, Store
from bertline.streams.surges import Look
from bertline.streams.texts import Text

NAMES = "Acme|ACME Inc.\nC++\n"


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task with a pushed model and a stream, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path, [])
    save_mood_model(tmp_path / "runs/serving/7")
    (tmp_path / "names.txt").write_text(NAMES)
    (tmp_path / "plain.yaml").write_text((tmp_path / "task.yaml").read_text())
    configure(tmp_path, "source: posts.jsonl", "entities: names.txt")
    return tmp_path


def configure(folder, *lines):
    section = "\n".join(f"  {line}" for line in lines)
    (folder / "task.yaml").write_text(f"{(folder / 'plain.yaml').read_text()}stream:\n{section}\n")


def stream(*arguments, **more):
    """The exit code, and what the command printed, on one line."""
    result = CliRunner().invoke(cli.app, ["stream", "task.yaml", *arguments], **more)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def posts(first, last):
    return "".join(
        json.dumps({"text": f"{'good' if n % 3 else 'dull'} ACME inc. {n}", "time": f"2026-11-01T{n % 24:02d}:00"})
        + "\n"
        for n in range(first, last)
    )


def rows(folder, query):
    with closing(sqlite3.connect(folder / "runs/stream/stream.db")) as database:
        return database.execute(query).fetchall()


def test_a_file_is_read_to_its_end_and_the_rest_later(task):
    (task / "posts.jsonl").write_text(posts(0, 30) + "{broken\n" + '{"text": "half')
    code, shown = stream("--once")
    assert code == 4
    assert "stream task.yaml reviews version 7; 2 entities; sqlite:///" in shown
    assert "read 31 records: 30 texts, 1 quarantined (1 broken line); Acme 30" in shown
    assert "posts.jsonl: the last line has no end yet; it is read once it has one" in shown
    with (task / "posts.jsonl").open("a") as file:
        file.write(' of C++", "time": "2026-11-02"}\n')
    code, shown = stream("--once")
    assert code == 0 and "read 1 records: 1 texts; C++ 1" in shown
    code, shown = stream("--once")
    assert code == 0 and "nothing new" in shown
    labels = "select json_extract(answers, '$.reviews.label') as label, count(*) from stream_texts group by label"
    assert rows(task, labels) == [("negative", 11), ("positive", 20)]
    assert rows(task, "select count(*), sum(texts) from stream_counts where entity = 'Acme' and model = ''") == [
        (24, 30)
    ]


def test_two_models_one_of_them_at_an_address_and_stdin(task):
    save_mood_model(task / "other/9", abstains=True)
    server = Server.of(str(task / "other"), "topics", port=0)
    server.start()
    try:
        served = f"{{address: '{server.address}', name: topics}}"
        configure(task, "source: '-'", f"models: {{mood: {{folder: runs/serving/7}}, topic: {served}}}", "time: null")
        code, shown = stream(input=b'text,id\n"good, so",1\ndull,2')  # which ends with stdin
    finally:
        server.stop()
    assert code == 0 and "mood version 7, topic version 9; sqlite" in shown
    (first, _) = (
        json.loads(answers) for (answers,) in rows(task, "select answers from stream_texts order by text desc")
    )
    assert first["mood"]["label"] == first["topic"]["label"] == "positive"
    assert (first["mood"]["version"], first["topic"]["version"], first["topic"]["abstained"]) == ("7", "9", False)


def test_newer_versions_take_over_and_one_that_does_not_load_is_told_once(task):
    (task / "posts.jsonl").write_text(posts(0, 3))
    shown, config = io.StringIO(), configs.load(task / "task.yaml")
    screen_ = screen.Screen(shown)
    with started(config, task / "task.yaml", screen_, task / "log") as (engine, _):
        engine.step()
        save_mood_model(task / "runs/serving/.8", "dull")
        (task / "runs/serving/.8").rename(task / "runs/serving/8")
        for _ in range(2):
            tended = Tended(engine, config, screen_)
            tended.look_soon()
            tended.tend()
            with (task / "posts.jsonl").open("a") as file:
                file.write(posts(3, 6))
            engine.step()
            (task / "runs/serving/9").mkdir(exist_ok=True)
            (task / "runs/serving/9/saved_model.pb").write_bytes(b"\xff")
        tended.look_soon()
        tended.tend()
    said = " ".join(shown.getvalue().split())
    assert said.count("model reviews: version 8 takes over from 7") == 1
    assert said.count("model reviews: version 8 stays: ") == 1 and "serving/9" in said
    counted = "select json_extract(answers, '$.reviews.version') as version, json_extract(answers, '$.reviews.label')"
    counted += " as label, count(*) from stream_texts group by version, label order by version, label"
    assert rows(task, counted) == [
        ("7", "negative", 1),
        ("7", "positive", 2),
        ("8", "negative", 4),
        ("8", "positive", 2),
    ]


def test_a_push_while_the_versions_are_looked_at_waits_for_the_next_look(task, monkeypatch):
    (task / "posts.jsonl").write_text(posts(0, 3))
    save_mood_model(task / "runs/serving/.8", "dull")
    pushed_after_a_look(task / "runs/serving", monkeypatch)
    code, shown = stream("--once")
    assert code == 0 and "reviews version 7" in shown and (task / "runs/serving/8").exists()


def test_a_model_in_a_bucket_scores(task):
    import tensorflow as tf

    copied = "ram://bucket/models/12"  # TensorFlow's own file system, as gs:// is
    for path in (task / "runs/serving/7").rglob("*"):
        if path.is_file():
            tf.io.gfile.makedirs(f"{copied}/{path.parent.relative_to(task / 'runs/serving/7')}")
            place = f"{copied}/{path.relative_to(task / 'runs/serving/7')}"
            tf.io.gfile.copy(str(path), place, overwrite=True)
    (task / "posts.jsonl").write_text(posts(0, 3))
    configure(task, "source: posts.jsonl", "models: {mood: {folder: 'ram://bucket/models/'}}")
    code, shown = stream("--once")
    assert code == 0 and "mood version 12; sqlite" in shown


def test_texts_that_are_too_old_go_when_the_stream_runs_again(task):
    now = datetime.datetime.now(datetime.UTC)
    ages = [{"text": f"good {days}", "time": (now - datetime.timedelta(days=days)).isoformat()} for days in (30, 9, 1)]
    (task / "posts.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ages))
    configure(task, "source: posts.jsonl", "keep: 10d")
    assert stream("--once")[0] == stream("--once")[0] == 0
    assert rows(task, "select text from stream_texts order by text") == [("good 1",), ("good 9",)]
    assert rows(task, "select sum(texts) from stream_counts where entity = '' and model = ''") == [(3,)]


class Webhook(BaseHTTPRequestHandler):
    """Keeps what it is told."""

    def do_POST(self):
        self.server.told.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_surge_is_shown_and_told_once(task):
    start = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    with (task / "posts.jsonl").open("w") as file:
        for number in range(16 * 4 + 1):  # windows of six hours
            for each in range(30 if number in (61, 62) else 2):
                time = (start + datetime.timedelta(hours=6 * number, minutes=each)).isoformat()
                file.write(json.dumps({"text": f"good Acme {number}", "time": time}) + "\n")
    server = HTTPServer(("127.0.0.1", 0), Webhook)
    server.told = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"json://127.0.0.1:{server.server_port}"
    surge = f"surge: {{least_history: 10d, notify: ['{address}']}}"
    configure(task, "source: posts.jsonl", "entities: names.txt", "window: 6h", surge)
    code, shown = stream("--once", "--page", "page.html")
    again = stream("--once")
    server.shutdown()
    server.server_close()
    assert code == 5 and again[0] == 0
    assert "good Acme 61" in (task / "page.html").read_text()
    assert shown.count("SURGE Acme: 30 texts from 2026-11-16 06:00 to 12:00 UTC, ") == 1
    assert "positive 0.75 good Acme 61" in shown and "since 2026-11-16 06:00 UTC" in shown
    assert sorted(message["title"] for message in server.told) == [
        "bertline: reviews: surge of Acme", "bertline: reviews: surge of positive (reviews)",
    ]  # fmt: skip
    assert all("Acme 61" in message["message"] for message in server.told)


def test_an_address_that_does_not_answer_keeps_nobody_else_waiting(task, monkeypatch):
    """Each surge is told to those who can be reached, once; the others are tried again."""
    server = HTTPServer(("127.0.0.1", 0), Webhook)
    server.told = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    messages = Messages([f"json://127.0.0.1:{server.server_port}", "json://127.0.0.1:9"], "stream.surge.notify")
    time = datetime.datetime(2026, 11, 16, tzinfo=datetime.UTC)
    surge = {
        "start": time, "since": time, "kind": "count", "model": "", "label": "", "told": False, "texts": 9, "of": 9,
        "expected": 1.0, "upper": 4.0, "chance": 1e-6, "ids": [],
    }  # fmt: skip
    store = Store(None, task, task, datetime.timedelta(hours=1))
    store.add(Batch([Scored(Text("1", time, "posts", 1, "Acme"), [], {})]))
    store.add_surges([{**surge, "entity": "Acme"}, {**surge, "entity": "C++"}], time)
    watch = SimpleNamespace(look=Look)
    watched = Alarms(watch, store, "reviews", datetime.timedelta(hours=1), task / "log", messages)
    shown = io.StringIO()
    watched.look(screen.Screen(shown))
    watched.look(screen.Screen(shown))  # too soon
    assert shown.getvalue().count("not everybody of stream.surge.notify could be told") == 1
    monkeypatch.setattr(watched, "tell_at", 0.0)
    watched.look(screen.Screen(shown))
    server.shutdown()
    server.server_close()
    assert shown.getvalue().count("not everybody of stream.surge.notify could be told") == 2
    assert sorted(message["title"] for message in server.told) == [
        "bertline: reviews: surge of Acme", "bertline: reviews: surge of C++",
    ]  # fmt: skip
    assert len(store.surges(untold=True)) == 2
    store.close()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["source: gone/posts.jsonl"], "there is no such file, and no folder where it could appear"),
        (["source: []"], "names no stream"),
        (["source: posts.jsonl", "entities: gone.txt"], "gone.txt cannot be read"),
        (["source: posts.jsonl", "models: {a: {folder: gone}}"], "holds neither a SavedModel nor folders of versions"),
        (["source: posts.jsonl", "window: 7h"], "a day must be a whole number of windows"),
        (["source: posts.jsonl", "surge: {least_history: 90d}"], "least_history: longer than history itself"),
        (["source: posts.jsonl", "surge: {notify: ['no://way']}"], "apprise does not know such an address"),
        (["kafka: {topics: [a], servers: b, settings: {sasl.password: c}}"], "sasl.password: write ..NAME. here"),
        (["kafka: {topics: [a], servers: b, settings: {sasl.password: '${GONE}'}}"], "has no variable GONE"),
        (["source: posts.jsonl", "timezone: Mars"], "not a time zone"),
        (["source: posts.jsonl", "window: 6h", "keep: 1d"], "keep: at least 30h5m"),
        (["source: posts.jsonl", "database: postgresql://me:secret@host/db"], "an address with a password in it"),
        (["source: posts.jsonl", "database: postgresql://me@127.0.0.1:1/db"], "does not answer"),
        (["source: posts.jsonl", "database: mysql://me@host/db"], "driver is not installed|not one of those"),
        (["source: posts.jsonl", "models: {a: {folder: b, address: c}}"], "both say where the model is"),
    ],
)
def test_what_cannot_be_is_said(task, lines, said):
    configure(task, *lines)
    with pytest.raises(UserError, match=said):
        stream("--once")
