"""`bertline tune` on a whole line: killed within a trial and resumed, and the run of the config that it wrote."""

import contextlib
import json
import signal
import sqlite3
import threading
import time

import factories
import psutil
import pytest

TRIALS = 3


def kill_in_second_trial(warm, folder, arguments):
    """Runs the command, and kills it with SIGKILL once the second trial's training has a checkpoint."""
    ended = []
    thread = threading.Thread(target=lambda: ended.append(warm.bertline(*arguments, cwd=folder)))
    thread.start()
    tuning = folder / "runs" / "tuning"

    def in_second_trial():
        if not (tuning / "trials.db").exists() or not list(tuning.glob("checkpoints/*/checkpoint")):
            return False
        with contextlib.closing(sqlite3.connect(tuning / "trials.db")) as database:
            states = [state for (state,) in database.execute("SELECT state FROM trials ORDER BY number")]
        return states == ["COMPLETE", "RUNNING"]

    end = time.monotonic() + 300
    while not in_second_trial():
        assert thread.is_alive() and time.monotonic() < end, ended
        time.sleep(0.01)
    for process in psutil.Process(warm._process.pid).children():
        process.kill()
    thread.join()
    assert ended[0].returncode == -signal.SIGKILL


@pytest.mark.shipped
def test_killed_and_resumed_it_writes_a_config_that_gives_the_trials_figures_again(warm, tmp_path):
    config = factories.write_task(tmp_path, factories.reviews(400), epochs=3, checkpoint_steps=2)
    command = ("tune", config, "--trials", TRIALS)
    kill_in_second_trial(warm, tmp_path, command)
    # From here on a trial that opened the test rows would fail: the files have their size, and are no TFRecords.
    (test_rows,) = tmp_path.glob("runs/artifacts/Transform/transformed_examples/*/Split-test")
    contents = {file: file.read_bytes() for file in test_rows.iterdir()}
    for file, content in contents.items():
        file.write_bytes(b"x" * len(content))

    ran = warm.bertline(*command, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "(cached)" in ran.stdout and f"trial {TRIALS}/{TRIALS}" in ran.stdout
    with contextlib.closing(sqlite3.connect(tmp_path / "runs/tuning/trials.db")) as database:
        states = [state for (state,) in database.execute("SELECT state FROM trials ORDER BY number")]
        figures = [json.loads(json.loads(text)) for (text,) in database.execute(
            "SELECT value_json FROM trial_user_attributes WHERE key = 'figures'")]  # fmt: skip
    assert states[:2] == ["COMPLETE", "FAIL"] and len(states) == TRIALS + 1
    best = min((each for each in figures if each["state"] == "complete"), key=lambda each: each["loss"])
    assert (tmp_path / "runs/tuning/tuning.html").read_text(encoding="utf-8").count("<tr") > TRIALS
    assert warm.bertline("runs", config, cwd=tmp_path).stdout.count("tuned") == 2

    for file, content in contents.items():
        file.write_bytes(content)
    tuned = tmp_path / "task-tuned.yaml"
    assert f"loss {best['loss']:.6f}" in tuned.read_text(encoding="utf-8")
    warm.bertline("run", tuned, cwd=tmp_path)
    (history,) = tmp_path.glob("runs/artifacts/Trainer/model_run/*/training.json")
    history = json.loads(history.read_text(encoding="utf-8"))
    assert history["epochs"][history["best_epoch"] - 1]["validation_loss"] == best["loss"]
