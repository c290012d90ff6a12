import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import factories
import psutil
import pytest

from bertline.pipeline.commands import BLOCKED
from bertline.pipeline.watch import Watch

BERTLINE = Path(sys.executable).with_name("bertline")


@pytest.fixture
def task(tmp_path):
    """A watched task whose data are spans, its runs, and what it said."""
    (tmp_path / "task.yaml").write_text("name: reviews\ndata: {source: 'data-{SPAN}.csv', newest_spans: 2}\n")
    runs, said = [], []
    watch = Watch(tmp_path / "task.yaml", lambda: runs.append(len(runs)) or 0, said.append)
    return tmp_path, watch, runs, said


def test_a_new_span_is_run_once_and_not_while_it_grows(task):
    folder, watch, runs, said = task
    watch.look()
    assert said[-1].startswith("waiting: ") and "no span is there yet" in said[-1]
    span = folder / "data-1.csv"
    span.write_text("text,label\n")
    watch.look()
    span.write_text("text,label\na,x\n")
    watch.look()
    assert runs == []
    watch.look()
    watch.look()
    assert runs == [0]
    (folder / "data-2.csv").write_text("text,label\nb,y\n")
    watch.look()
    watch.look()
    assert runs == [0, 1]


def test_a_span_that_leaves_the_window_and_files_beside_it_run_nothing(task):
    folder, watch, runs, _ = task
    for span in (1, 2, 3):
        (folder / f"data-{span}.csv").write_text("text,label\n")
    watch.look()
    watch.look()
    (folder / "data-1.csv").unlink()
    (folder / "notes.txt").write_text("")
    watch.look()
    watch.look()
    assert runs == [0]


def test_a_database_is_asked_by_its_cheap_query(task):
    folder, watch, runs, said = task
    query = "url: 'sqlite:///shop.db', query: SELECT * FROM reviews"
    (folder / "task.yaml").write_text(f"name: reviews\ndata: {{source: {{{query}}}}}\n")
    watch.look()
    assert "needs `changes` beside the query" in said[-1]
    changes = "changes: 'SELECT count(*), max(id) FROM reviews'"
    (folder / "task.yaml").write_text(f"name: reviews\ndata: {{source: {{{query}, {changes}}}}}\n")
    watch.look()
    assert "there is no file" in said[-1]
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text, label)")
    for _ in range(3):
        watch.look()
    assert runs == [0]
    with sqlite3.connect(folder / "shop.db") as shop:
        shop.execute("INSERT INTO reviews (text, label) VALUES ('a', 'b')")
    for _ in range(3):
        watch.look()
    assert runs == [0, 1]


def test_a_changed_config_runs_and_a_broken_one_waits(task):
    folder, watch, runs, said = task
    (folder / "data-1.csv").write_text("text,label\n")
    watch.look()
    watch.look()
    text = (folder / "task.yaml").read_text()
    (folder / "task.yaml").write_text(text + "train: {epoch: 1}\n")
    watch.look()
    watch.look()
    assert "train.epoch: unknown key" in said[-1]
    assert sum("train.epoch" in each for each in said) == 1
    (folder / "task.yaml").write_text(text + "train: {epochs: 1}\n")
    watch.look()
    watch.look()
    assert runs == [0, 1]


@pytest.mark.parametrize("ending", [0, BLOCKED])
def test_a_run_that_ends_well_or_is_blocked_is_not_repeated(tmp_path, ending):
    (tmp_path / "task.yaml").write_text("name: reviews\ndata: {source: data.csv}\n")
    (tmp_path / "data.csv").write_text("text,label\n")
    runs = []
    watch = Watch(tmp_path / "task.yaml", lambda: runs.append(1) or ending, print, retry=0)
    for _ in range(5):
        watch.look()
    assert runs == [1]


def test_a_run_that_fails_is_told_and_tried_again(tmp_path):
    (tmp_path / "task.yaml").write_text("name: reviews\ndata: {source: data.csv}\n")
    (tmp_path / "data.csv").write_text("text,label\n")
    now, runs, said, endings = [0.0], [], [], iter([1, -9, 1, 0])
    run = lambda: runs.append(now[0]) or next(endings)  # noqa: E731
    watch = Watch(tmp_path / "task.yaml", run, said.append, retry=60, clock=lambda: now[0])
    for now[0] in (0, 1, 2, 60, 62, 63, 180, 182, 183):
        watch.look()
    assert runs == [1, 62, 182], "after a minute, then after two"
    assert "the run failed (exit code 1); it is tried again" in said[0] and "in 1 minutes" in said[0]
    assert "(ended by SIGKILL)" in said[1] and "in 2 minutes" in said[1]
    (tmp_path / "data.csv").write_text("text,label\na,x\n")
    for now[0] in (184, 185, 100_000):
        watch.look()
    assert runs[3:] == [185], "a change is run at once, and what then ended well is done"


def test_the_command_runs_the_line_goes_on_after_a_failure_and_ends_with_its_run(tmp_path):
    config = factories.write_task(tmp_path, factories.reviews(60))
    config.write_text(config.read_text().replace("reviews.csv", "reviews-{SPAN}.csv"))
    (tmp_path / "reviews.csv").rename(tmp_path / "reviews-1.csv")
    broken = tmp_path / "reviews-2.csv"
    broken.write_text("words,label\na,positive\n")  # no column `text`
    # A background job of a shell starts with SIGINT ignored, and so would what it starts. (A preexec_fn would fork this
    # process, in which gRPC may have threads.)
    with subprocess.Popen(
        ["env", "--default-signal=INT", BERTLINE, "watch", config, "--every", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        deadline = threading.Timer(120, watching.kill)
        deadline.start()
        try:
            shown = ""
            for line in watching.stdout:
                shown += line
                if "the run failed (exit code 1)" in line:
                    break
            assert "reviews-2.csv: no column 'text'" in " ".join(shown.split())
            broken.unlink()
            while not (runs := psutil.Process(watching.pid).children()):
                time.sleep(0.1)
            watching.send_signal(signal.SIGTERM)
            assert watching.wait(30) == 128 + signal.SIGTERM
            assert not runs[0].is_running()
        finally:
            deadline.cancel()
            watching.kill()
