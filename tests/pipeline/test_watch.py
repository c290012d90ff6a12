import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import factories
import pytest

from bertline.pipeline.watch import Watch

BERTLINE = Path(sys.executable).with_name("bertline")


@pytest.fixture
def task(tmp_path):
    """A watched task whose data are spans, the runs it asked for, and what it said."""
    (tmp_path / "task.yaml").write_text("name: reviews\ndata: {source: 'data-{SPAN}.csv', newest_spans: 2}\n")
    runs, said = [], []
    watch = Watch(tmp_path / "task.yaml", lambda: runs.append(len(runs)), said.append)
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


def test_the_command_runs_the_line_and_goes_on_after_a_run_that_fails(tmp_path):
    config = factories.write_task(tmp_path, factories.reviews(60))
    config.write_text(config.read_text().replace("reviews.csv", "reviews-{SPAN}.csv"))
    (tmp_path / "reviews.csv").rename(tmp_path / "reviews-1.csv")
    (tmp_path / "reviews-2.csv").write_text("words,label\na,positive\n")  # no column `text`
    # A background job of a shell starts with SIGINT ignored, and so would what it starts.
    with subprocess.Popen(
        [BERTLINE, "watch", config, "--every", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as watching:
        try:
            shown = ""
            deadline = time.monotonic() + 120
            while "watching for a change" not in shown and time.monotonic() < deadline:
                shown += watching.stdout.readline()
            assert "reviews-2.csv: no column 'text'" in " ".join(shown.split())
            assert watching.poll() is None
            watching.send_signal(signal.SIGINT)
            assert watching.wait(30) == 130
        finally:
            watching.kill()
