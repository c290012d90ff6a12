import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import factories
import psutil
import pytest
from typer.testing import CliRunner

from bertline.errors import UserError
from bertline.pipeline import cli
from bertline.pipeline.commands import BLOCKED
from bertline.pipeline.watch import Watch

BERTLINE = Path(sys.executable).with_name("bertline")


@pytest.fixture
def task(tmp_path):
    """A watched task whose data are spans, its runs, and what it said."""
    (tmp_path / "task.yaml").write_text("name: reviews\ndata: {source: 'data-{SPAN}.csv', newest_spans: 2}\n")
    runs, said = [], []
    watch = Watch(tmp_path / "task.yaml", lambda _: runs.append(len(runs)) or 0, said.append)
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
    watch = Watch(tmp_path / "task.yaml", lambda _: runs.append(1) or ending, print, retry=0)
    for _ in range(5):
        watch.look()
    assert runs == [1]


def test_a_run_that_fails_is_told_and_tried_again(tmp_path):
    (tmp_path / "task.yaml").write_text("name: reviews\ndata: {source: data.csv}\n")
    (tmp_path / "data.csv").write_text("text,label\n")
    now, runs, said, endings = [0.0], [], [], iter([1, -9, 1, 0])
    run = lambda _: runs.append(now[0]) or next(endings)  # noqa: E731
    watch = Watch(tmp_path / "task.yaml", run, said.append, retry=60, clock=lambda: now[0])
    for now[0] in (0, 1, 2, 60, 62, 63, 180, 182, 183):
        watch.look()
    assert runs == [1, 62, 182], "after a minute, then after two"
    said = [text for text in said if "failed" in text]
    assert "the run failed (exit code 1); it is tried again" in said[0] and "in 1 minutes" in said[0]
    assert "(ended by SIGKILL)" in said[1] and "in 2 minutes" in said[1]
    (tmp_path / "data.csv").write_text("text,label\na,x\n")
    for now[0] in (184, 185, 100_000):
        watch.look()
    assert runs[3:] == [185], "a change is run at once, and what then ended well is done"


# === Spans, alarms and schedules ===

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Retraining:
    """A task with two spans whose watch can be started anew at a time of one's own; its runs and what it said."""

    def __init__(self, folder, options="pause: 1h, every: 2d, most_a_week: 3"):
        self.folder, self.config, self.now = folder, folder / "task.yaml", NOON
        self.config.write_text(
            f"name: reviews\nroot: {folder}/runs\ndata: {{source: 'data-{{SPAN}}.csv'}}\nretrain: {{{options}}}\n"
        )
        self.span(1)
        self.runs, self.said, self.endings = [], [], []

    def span(self, number):
        (self.folder / f"data-{number}.csv").write_text(f"text,label\n{number},x\n")

    def alarm(self, version=7, key="labels against the windows before"):
        """What a pushed version and the monitor leave behind; without a key the alarm is over."""
        pushed = self.folder / f"runs/serving/{version}"
        pushed.mkdir(parents=True, exist_ok=True)
        for name in ("saved_model.pb", "release.json"):
            (pushed / name).write_text("{}")
        (self.folder / "runs/monitor").mkdir(exist_ok=True)
        report = {"version": version, "small": "", "open": {key: "2026-11-26T10:00:00+00:00"} if key else {}}
        with (self.folder / "runs/monitor/history.jsonl").open("a") as history:
            history.write("\n" + json.dumps(report))

    def started(self, *on):
        def run(arguments):
            self.runs.append((self.now, arguments))
            return self.endings.pop(0) if self.endings else 0

        return Watch(self.config, run, self.said.append, list(on), clock=self.now.timestamp, now=lambda: self.now)

    def looks(self, watch, after=timedelta(0)):
        """Two looks, the second of which sees that the files stand still; how many runs there are then."""
        self.now += after
        watch._clock = lambda: self.now.timestamp()
        watch.look()
        watch.look()
        return len(self.runs)


@pytest.fixture
def retraining(tmp_path):
    return Retraining(tmp_path)


def test_a_new_span_runs_warm_and_the_pause_and_what_was_seen_survive_a_restart(retraining):
    watch = retraining.started("span")
    assert retraining.looks(watch) == 1
    assert retraining.runs == [(NOON, ["--warm-start"])]
    assert "new span: data-1.csv" in retraining.said[0] and "from the weights of the last blessed" in retraining.said[0]
    retraining.config.write_text(retraining.config.read_text() + "train: {epochs: 1}\n")
    assert retraining.looks(watch) == 1, "a change of the config asks for nothing here"
    retraining.span(2)
    watch = retraining.started("span")
    assert retraining.looks(watch, HOUR / 2) == 1
    assert "new span: data-2.csv: waits until 2026-11-28 13:00 UTC (the pause" in retraining.said[-1]
    assert retraining.looks(watch, HOUR / 2) == 2
    assert retraining.looks(retraining.started("span"), DAY) == 2, "nothing new"


def test_a_limit_holds_back_what_would_be_one_run_too_many_in_seven_days(retraining):
    for day in range(3):
        retraining.span(10 + day)
        assert retraining.looks(retraining.started("span"), DAY) == day + 1
    retraining.span(20)
    watch = retraining.started("span")
    assert retraining.looks(watch, DAY) == 3
    assert "3 runs in the last 7 days, and 3 are allowed" in retraining.said[-1]
    assert retraining.looks(watch, 4 * DAY - HOUR) == 3
    assert retraining.looks(watch, HOUR) == 4


def test_an_alarm_runs_once_there_are_rows_that_the_last_run_has_not_seen(retraining):
    watch = retraining.started("drift")
    assert retraining.looks(watch) == 0
    assert "no window has been judged yet" in retraining.said[-1]
    retraining.alarm()
    assert retraining.looks(watch) == 1
    assert "drift: labels against the windows before since 2026-11-26 10:00 UTC" in retraining.said[-3]
    watch = retraining.started("drift")
    assert retraining.looks(watch, DAY) == 1
    assert "no row has come since the last run" in retraining.said[-1]
    retraining.span(2)
    assert retraining.looks(watch) == 2
    retraining.alarm(version=8, key=None)  # the new version has no alarm
    retraining.span(3)
    assert retraining.looks(watch, DAY) == 2


def test_a_schedule_counts_from_the_last_run_whatever_began_it(retraining):
    watch = retraining.started("schedule", "span")
    assert retraining.looks(watch) == 1
    assert "the schedule: its first run" in retraining.said[0]
    retraining.span(2)
    assert retraining.looks(watch, DAY) == 2
    assert retraining.looks(watch, DAY) == 2
    assert retraining.looks(watch, DAY) == 3
    assert "the schedule: every 48h, and the last run began at 2026-11-29 12:00 UTC" in retraining.said[-2]
    retraining.now -= 30 * DAY  # the clock was set back
    assert retraining.looks(watch) == 3
    assert retraining.looks(watch, 2 * DAY) == 3, "the runs of the week lie ahead"


def test_a_warm_run_that_fails_is_tried_from_the_pretrained_weights_and_a_blocked_one_is_done(retraining):
    retraining.endings = [1, 1, BLOCKED]
    watch = retraining.started("span")
    retraining.looks(watch)
    assert "then from the pretrained weights" in retraining.said[-1]
    retraining.looks(watch, HOUR)
    assert [arguments for _, arguments in retraining.runs] == [["--warm-start"], []]
    retraining.looks(watch, HOUR)
    assert [arguments for _, arguments in retraining.runs] == [["--warm-start"], [], []]
    assert retraining.looks(retraining.started("span"), DAY) == 3


def test_a_probe_has_no_weights_to_start_from(retraining):
    retraining.config.write_text(retraining.config.read_text() + "train: {method: probe}\n")
    retraining.looks(retraining.started("span"))
    assert retraining.runs == [(NOON, [])]


def test_what_a_watch_cannot_do_is_said(retraining):
    (retraining.folder / "runs/watch").mkdir(parents=True)
    (retraining.folder / "runs/watch/runs.json").write_text('{"runs": ')
    retraining.looks(retraining.started("span"))
    assert "runs.json cannot be read" in retraining.said[-1] and "Move it away" in retraining.said[-1]
    assert retraining.runs == []
    retraining.config.write_text("name: reviews\ndata: {source: 'a.csv'}\nretrain: {on: [span]}\n")
    for command, words in (
        (["watch", retraining.config], "no source has {SPAN} in it"),
        (
            ["watch", retraining.config, "--on", "drift,rain"],
            "--on 'rain': write some of change, span, drift, schedule",
        ),
    ):
        result = CliRunner().invoke(cli.app, list(map(str, command)))
        assert isinstance(result.exception, UserError) and words in str(result.exception)


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
